//! What the caller sees in a list of chats, and in one of them.

use axum::extract::{Path, Query, State};
use axum::response::Response;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::{ConversationId, Timestamp, v1};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::{ask, unexpected};
use super::problem::{Problem, ProblemBody};
use super::schema_docs::MessageDoc;
use super::{Api, private};
use crate::code::Code;
use crate::service::conversations::LIST_MAX;
use crate::service::dates;
use crate::store::views::{self, Range};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(messages))
}

/// Messages of a page where the client doesn't say, and the most that it may ask for.
const LIMIT: (u32, u32) = (100, 500);

/// A page ends when its contents reach this many bytes, so that a page of large messages stays readable.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The caller's conversations: pinned ones first, then by latest activity.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversations)]
pub(super) struct ConversationsView {
    conversations: Vec<ConversationView>,
    /// The sum of `unread` of all conversations, not only of this page.
    total_unread: u64,
    /// To ask for the next page with; left out: this was the last.
    #[serde(skip_serializing_if = "String::is_empty")]
    next: String,
}

/// A conversation as the caller sees it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversation)]
pub(super) struct ConversationView {
    /// `u:{a}:{b}` or `g:{gid}`
    #[schema(example = "u:alice:bob")]
    conversation: String,
    last_seq: u32,
    last_read_seq: u32,
    /// Messages of others that the caller has not read.
    unread: u32,
    /// Those of them that mention the caller.
    mentions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pinned_at: Option<Timestamp>,
    /// No notifications until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Timestamp>,
    archived: bool,
    /// It is to look unread, whatever the count says.
    marked_unread: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    draft: String,
    /// Counts what has happened to earlier messages and to the group.
    changes: u32,
    /// Only messages with a greater seq are the caller's to see.
    visible_seq: u32,
    /// Of a group: its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    /// Of a group: its avatar.
    #[serde(skip_serializing_if = "String::is_empty")]
    avatar: String,
    /// The newest message that the caller may see, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MessageDoc>)]
    last_message: Option<v1::Message>,
}

impl From<v1::Conversation> for ConversationView {
    fn from(conversation: v1::Conversation) -> Self {
        let state = conversation.state.unwrap_or_default();
        ConversationView {
            conversation: state.conversation,
            last_seq: state.last_seq,
            last_read_seq: state.last_read_seq,
            unread: state.unread,
            mentions: state.mentions,
            pinned_at: state.pinned_at,
            muted_until: state.muted_until,
            archived: state.archived,
            marked_unread: state.marked_unread,
            draft: state.draft,
            changes: state.changes,
            visible_seq: state.visible_seq,
            name: conversation.name,
            avatar: conversation.avatar,
            last_message: conversation.last_message,
        }
    }
}

/// Which conversations.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// 1–500 conversations; left out or 0: 500.
    limit: Option<u32>,
    /// `next` of the page before; left out: the first page.
    page: Option<String>,
    /// Only archived ones, or only others. Left out: all.
    archived: Option<bool>,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Messages with a greater seq, oldest first. Left out: the newest page.
    #[serde(alias = "afterSeq")]
    after_seq: Option<u32>,
    /// Messages with a smaller seq.
    #[serde(alias = "beforeSeq")]
    before_seq: Option<u32>,
    /// The page begins with the first message sent at that time or later. Not with the other bounds.
    #[serde(alias = "fromTime")]
    #[param(value_type = Option<String>, format = DateTime)]
    from_time: Option<Timestamp>,
    /// 1–500 messages; left out or 0: 100.
    limit: Option<u32>,
}

/// Part of a conversation, ordered by seq.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Page)]
pub(super) struct PageView {
    #[schema(value_type = Vec<MessageDoc>)]
    messages: Vec<v1::Message>,
    /// The conversation's newest seq.
    last_seq: u32,
    /// Whether the range that was asked for holds more than this page.
    more: bool,
}

/// The caller's conversations with what is unread: pinned ones first, then by latest activity.
#[utoipa::path(
    get, path = "/v1/conversations", tag = "messages", security(("bearer" = [])),
    params(ListQuery),
    responses(
        (status = 200, description = "The conversations.", body = ConversationsView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit.filter(|limit| *limit > 0);
    let asked = Command::GetConversations(v1::GetConversations {
        limit: limit.unwrap_or(LIST_MAX),
        page: query.page.unwrap_or_default(),
        archived: query.archived,
        ..Default::default()
    });
    let list = match ask(&api, caller.uid, asked).await?.answer {
        Some(Answer::Conversations(list)) => list,
        _ => return Err(unexpected()),
    };
    let conversations = list.conversations.into_iter();
    Ok(private(ConversationsView {
        conversations: conversations.map(ConversationView::from).collect(),
        total_unread: list.total_unread,
        next: list.next,
    }))
}

/// One page of a conversation that the caller is in.
#[utoipa::path(
    get, path = "/v1/conversations/{id}/messages", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path, description = "`u:{a}:{b}` or `g:{gid}`"), PageQuery),
    responses(
        (status = 200, description = "The page.", body = PageView),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn messages(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let no_such = || Problem::not_found("conversation");
    let mut range = range(&query)?;
    let first_id = first_id(&query)?;
    let name = id
        .parse::<ConversationId>()
        .map_err(|_| no_such())?
        .to_string();
    let reader = views::reader(&api.store, &caller.uid, &name).await?;
    let reader = reader.ok_or_else(no_such)?;
    let member = &reader.membership;
    if let Some(first_id) = first_id {
        range.after_seq = Some(dates::seq_before(&api.store, member, first_id).await?);
    }
    let page = views::page(&api.store, &caller.uid, &reader, range).await?;
    // Something may have been written between the two reads.
    let newest = page.messages.last().map_or(0, |message| message.seq);
    Ok(private(PageView {
        messages: page.messages,
        last_seq: member.last_seq.max(newest),
        more: page.more,
    }))
}

/// The smallest id that the page may begin with, where it is to begin at a time.
fn first_id(query: &PageQuery) -> Result<Option<u64>, Problem> {
    let Some(time) = &query.from_time else {
        return Ok(None);
    };
    if query.after_seq.is_some() || query.before_seq.is_some() {
        let detail = "from_time goes without other bounds";
        return Err(Problem::new(Code::InvalidArgument, detail));
    }
    let first_id = dates::first_id(time).map_err(|refused| refused.to_wire())?;
    Ok(Some(first_id))
}

fn range(query: &PageQuery) -> Result<Range, Problem> {
    let (default, max) = LIMIT;
    let limit = match query.limit {
        None | Some(0) => default,
        Some(limit) if limit <= max => limit,
        Some(_) => {
            let detail = format!("limit is at most {max}");
            return Err(Problem::new(Code::InvalidArgument, detail));
        }
    };
    Ok(Range {
        after_seq: query.after_seq,
        before_seq: query.before_seq,
        limit,
        bytes_max: PAGE_BYTES,
    })
}
