//! Looking for messages.

use axum::extract::{Query, State};
use axum::response::Response;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::{Timestamp, v1};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::schema_docs::MessageDoc;
use super::{Api, private};
use crate::code::Code;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(search))
}

/// What to look for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchQuery {
    /// 1–128 characters that the text contains; case, width and accents do not matter. Several words: all of them.
    q: String,
    /// Only in this conversation, `u:{a}:{b}` or `g:{gid}`.
    #[serde(default)]
    conversation: String,
    /// Only messages of this user.
    #[serde(default)]
    sender: String,
    /// Only messages sent at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    after: Option<Timestamp>,
    /// Only messages sent earlier.
    #[param(value_type = Option<String>, format = DateTime)]
    before: Option<Timestamp>,
    /// 1–100 messages; left out or 0: 20.
    #[serde(default)]
    limit: u32,
    /// `next` of the page before.
    #[serde(default)]
    page: u64,
}

/// Messages, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = SearchPage)]
pub(super) struct SearchView {
    #[schema(value_type = Vec<MessageDoc>)]
    messages: Vec<v1::Message>,
    /// For the next page, which may have more even if this one is not full; `"0"`: this was the last.
    next: String,
}

/// Messages of the caller's conversations that contain some words, newest first.
#[utoipa::path(
    get, path = "/v1/search", tag = "messages", security(("bearer" = [])),
    params(SearchQuery),
    responses(
        (status = 200, description = "What was found.", body = SearchView),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn search(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Query(query): Query<SearchQuery>,
) -> Result<Response, Problem> {
    let command = Command::Search(v1::Search {
        query: query.q,
        conversation: query.conversation,
        sender: query.sender,
        after: query.after,
        before: query.before,
        limit: query.limit,
        page: query.page,
    });
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(command),
    };
    match execute(&api, caller.uid, up).await?.answer {
        Some(Answer::Found(page)) => Ok(private(SearchView {
            messages: page.messages,
            next: page.next.to_string(),
        })),
        _ => Err(Problem::new(Code::Internal, "the answer is another one's")),
    }
}
