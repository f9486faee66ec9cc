//! Where the caller stands in a conversation: read, pinned, muted, archived, with a draft, cleared, deleted.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::{ConversationId, Uid, v1};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::{ask, unexpected};
use super::problem::{Problem, ProblemBody};
use super::{Api, private};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(set, delete))
        .routes(routes!(patch))
        .routes(routes!(clear))
        .routes(routes!(read))
}

/// What is to be changed; fields that are left out stay as they are.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConversationSettings)]
pub(super) struct Settings {
    pinned: Option<bool>,
    /// Seconds from now without notifications; 0: none; 4294967295: for ever.
    #[serde(alias = "mute_secs")]
    mute_secs: Option<u32>,
    archived: Option<bool>,
    /// What the caller has begun to write; empty: nothing.
    draft: Option<String>,
    /// Marks it as unread, whatever the count says; reading ends it.
    #[serde(alias = "marked_unread")]
    marked_unread: Option<bool>,
}

/// How far the caller has read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReadPosition)]
pub(super) struct Position {
    /// Everything up to here.
    seq: u32,
}

/// Where the caller stands. What is empty, 0 or false is left out.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConversationState)]
struct StateDoc {
    conversation: String,
    last_seq: Option<u32>,
    last_read_seq: Option<u32>,
    unread: Option<u32>,
    #[schema(format = DateTime)]
    pinned_at: Option<String>,
    /// No notifications until then; the year 9999: for ever.
    #[schema(format = DateTime)]
    muted_until: Option<String>,
    archived: Option<bool>,
    marked_unread: Option<bool>,
    draft: Option<String>,
    /// Unread messages that mention the caller.
    mentions: Option<u32>,
    /// Counts what has happened to earlier messages and to the group.
    changes: Option<u32>,
    /// Only messages with a greater seq are the caller's to see.
    visible_seq: Option<u32>,
    /// The caller has deleted it.
    removed: Option<bool>,
}

/// Changes how the caller sees a conversation, on all devices.
#[utoipa::path(
    put, path = "/v1/conversations/{id}", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path, description = "`u:{a}:{b}` or `g:{gid}`")),
    responses(
        (status = 200, description = "Where the caller stands now.", body = StateDoc),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
    Json(settings): Json<Settings>,
) -> Result<Response, Problem> {
    change_settings(&api, caller.uid, &id, settings).await
}

/// The same as PUT.
#[utoipa::path(
    patch, path = "/v1/conversations/{id}", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path, description = "`u:{a}:{b}` or `g:{gid}`")),
    responses(
        (status = 200, description = "Where the caller stands now.", body = StateDoc),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn patch(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
    Json(settings): Json<Settings>,
) -> Result<Response, Problem> {
    change_settings(&api, caller.uid, &id, settings).await
}

/// Hides a conversation from the caller, with all its messages so far, until there is a new one.
#[utoipa::path(
    delete, path = "/v1/conversations/{id}", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path, description = "`u:{a}:{b}` or `g:{gid}`")),
    responses(
        (status = 200, description = "Where the caller stands now.", body = StateDoc),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let conversation = conversation(&id)?;
    let command = Command::ConversationDelete(v1::ConversationDelete { conversation });
    change(&api, caller.uid, command).await
}

/// Hides all messages so far from the caller.
#[utoipa::path(
    post, path = "/v1/conversations/{id}/clear", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path, description = "`u:{a}:{b}` or `g:{gid}`")),
    responses(
        (status = 200, description = "Where the caller stands now.", body = StateDoc),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn clear(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let conversation = conversation(&id)?;
    let command = Command::ConversationClear(v1::ConversationClear { conversation });
    change(&api, caller.uid, command).await
}

/// The caller has read everything up to a message.
#[utoipa::path(
    post, path = "/v1/conversations/{id}/read", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path, description = "`u:{a}:{b}` or `g:{gid}`")),
    responses(
        (status = 200, description = "Where the caller stands now.", body = StateDoc),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
    Json(position): Json<Position>,
) -> Result<Response, Problem> {
    let command = Command::Read(v1::Read {
        conversation: conversation(&id)?,
        seq: position.seq,
    });
    change(&api, caller.uid, command).await
}

async fn change_settings(
    api: &Api,
    caller: Uid,
    id: &str,
    settings: Settings,
) -> Result<Response, Problem> {
    let command = Command::ConversationSet(v1::ConversationSet {
        conversation: conversation(id)?,
        pinned: settings.pinned,
        mute_secs: settings.mute_secs,
        archived: settings.archived,
        draft: settings.draft,
        marked_unread: settings.marked_unread,
    });
    change(api, caller, command).await
}

async fn change(api: &Api, caller: Uid, command: Command) -> Result<Response, Problem> {
    match ask(api, caller, command).await?.answer {
        Some(Answer::State(state)) => Ok(private(state)),
        _ => Err(unexpected()),
    }
}

/// What can't be a conversation is none.
fn conversation(id: &str) -> Result<String, Problem> {
    let parsed = id.parse::<ConversationId>();
    let parsed = parsed.map_err(|_| Problem::not_found("conversation"))?;
    Ok(parsed.to_string())
}
