//! What happens to messages that are there: recall, edit, reactions, receipts; and those that are to be sent later.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::{Uid, v1};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::schema_docs::{DeleteMessagesDoc, MessageDoc, RevisionListDoc, ScheduledListDoc};
use super::{Api, private};
use crate::code::Code;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(recall, edit))
        .routes(routes!(revisions))
        .routes(routes!(react, take_reaction_back))
        .routes(routes!(delete))
        .routes(routes!(scheduled))
        .routes(routes!(cancel))
}

/// Another text for a message.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewText {
    /// The text, or a medium's caption.
    text: String,
    /// uids that it mentions, instead of those before; `@all`: everybody in the group.
    #[serde(default)]
    mentions: Vec<String>,
}

/// Takes a message back, for everybody: its sender may for some time, a group's owner and admins at any time.
#[utoipa::path(
    delete, path = "/v1/messages/{msg_id}", tag = "messages", security(("bearer" = [])),
    params(("msg_id" = String, Path)),
    responses(
        (status = 200, description = "What is left of the message.", body = MessageDoc),
        (status = 404, description = "No such message, or the caller can't see it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn recall(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(msg_id): Path<String>,
) -> Result<Response, Problem> {
    let msg_id = message_id(&msg_id)?;
    change(&api, caller.uid, Command::Recall(v1::Recall { msg_id })).await
}

/// Replaces the text or the caption of one of the caller's messages, for some time after it was sent.
#[utoipa::path(
    patch, path = "/v1/messages/{msg_id}", tag = "messages", security(("bearer" = [])),
    params(("msg_id" = String, Path)),
    responses(
        (status = 200, description = "The message as it is now.", body = MessageDoc),
        (status = 404, description = "No such message, or the caller can't see it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn edit(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(msg_id): Path<String>,
    Json(new): Json<NewText>,
) -> Result<Response, Problem> {
    let edit = v1::Edit {
        msg_id: message_id(&msg_id)?,
        text: new.text,
        mentions: new.mentions,
    };
    change(&api, caller.uid, Command::Edit(edit)).await
}

/// What a message said before it was edited.
#[utoipa::path(
    get, path = "/v1/messages/{msg_id}/revisions", tag = "messages", security(("bearer" = [])),
    params(("msg_id" = String, Path)),
    responses(
        (status = 200, description = "Oldest first; none where the message is gone.", body = RevisionListDoc),
        (status = 404, description = "No such message, or the caller can't see it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn revisions(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(msg_id): Path<String>,
) -> Result<Response, Problem> {
    let msg_id = message_id(&msg_id)?;
    let asked = Command::GetRevisions(v1::GetRevisions { msg_id });
    match answer(&api, caller.uid, asked).await? {
        Some(Answer::Revisions(list)) => Ok(private(list)),
        _ => Err(unexpected()),
    }
}

/// Reacts to a message.
#[utoipa::path(
    put, path = "/v1/messages/{msg_id}/reactions/{emoji}", tag = "messages", security(("bearer" = [])),
    params(("msg_id" = String, Path), ("emoji" = String, Path, description = "One emoji or a short name, up to 32 bytes.")),
    responses(
        (status = 200, description = "The message as it is now.", body = MessageDoc),
        (status = 404, description = "No such message, or the caller can't see it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn react(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path((msg_id, emoji)): Path<(String, String)>,
) -> Result<Response, Problem> {
    set_reaction(&api, caller.uid, &msg_id, emoji, false).await
}

/// Takes a reaction back.
#[utoipa::path(
    delete, path = "/v1/messages/{msg_id}/reactions/{emoji}", tag = "messages", security(("bearer" = [])),
    params(("msg_id" = String, Path), ("emoji" = String, Path)),
    responses(
        (status = 200, description = "The message as it is now.", body = MessageDoc),
        (status = 404, description = "No such message, or the caller can't see it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn take_reaction_back(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path((msg_id, emoji)): Path<(String, String)>,
) -> Result<Response, Problem> {
    set_reaction(&api, caller.uid, &msg_id, emoji, true).await
}

async fn set_reaction(
    api: &Api,
    uid: Uid,
    msg_id: &str,
    emoji: String,
    remove: bool,
) -> Result<Response, Problem> {
    let react = v1::React {
        msg_id: message_id(msg_id)?,
        emoji,
        remove,
    };
    change(api, uid, Command::React(react)).await
}

/// Deletes messages for the caller only, on all devices.
#[utoipa::path(
    post, path = "/v1/messages/delete", tag = "messages", security(("bearer" = [])),
    request_body = DeleteMessagesDoc,
    responses(
        (status = 204, description = "Deleted."),
        (status = 404, description = "One of them does not exist, or the caller can't see it; none was deleted.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(delete): Json<v1::DeleteMessages>,
) -> Result<StatusCode, Problem> {
    answer(&api, caller.uid, Command::DeleteMessages(delete)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's messages that are still to be sent.
#[utoipa::path(
    get, path = "/v1/scheduled", tag = "messages", security(("bearer" = [])),
    responses(
        (status = 200, description = "The next one first.", body = ScheduledListDoc),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn scheduled(
    State(api): State<Api>,
    Bearer(caller): Bearer,
) -> Result<Response, Problem> {
    let asked = Command::GetScheduled(v1::GetScheduled {});
    match answer(&api, caller.uid, asked).await? {
        Some(Answer::Scheduled(list)) => Ok(private(list)),
        _ => Err(unexpected()),
    }
}

/// Gives up a message that has not been sent yet.
#[utoipa::path(
    delete, path = "/v1/scheduled/{id}", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "It will not be sent."),
        (status = 404, description = "No such message, or it was sent.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = message_id(&id)?;
    let cancel = Command::ScheduleCancel(v1::ScheduleCancel { id });
    answer(&api, caller.uid, cancel).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Anything but a number names no message.
fn message_id(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::not_found("message"))
}

/// Changes a message, and answers with it as it is now.
async fn change(api: &Api, uid: Uid, command: Command) -> Result<Response, Problem> {
    match answer(api, uid, command).await? {
        Some(Answer::Message(message)) => Ok(private(message)),
        _ => Err(unexpected()),
    }
}

async fn answer(api: &Api, uid: Uid, command: Command) -> Result<Option<Answer>, Problem> {
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(command),
    };
    Ok(execute(api, uid, up).await?.answer)
}

fn unexpected() -> Problem {
    Problem::new(Code::Internal, "the answer is another one")
}
