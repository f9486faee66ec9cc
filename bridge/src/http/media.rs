//! Pictures, films, sounds and files of a conversation.

use axum::extract::{Path, Query, State};
use axum::response::Response;
use schema::v1;
use schema::v1::up::Command;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::schema_docs::MessageDoc;
use super::{Api, private};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which media.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct MediaQuery {
    /// `image`, `video`, `audio`, `file`, with commas between them; left out: all.
    #[serde(default)]
    kinds: String,
    /// Messages with a smaller seq; left out or 0: the newest.
    #[serde(default, alias = "beforeSeq")]
    before_seq: u32,
    /// 1–500 messages; left out or 0: 100.
    #[serde(default)]
    limit: u32,
}

/// Media of a conversation, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MediaPage)]
pub(super) struct MediaView {
    #[schema(value_type = Vec<MessageDoc>)]
    messages: Vec<v1::Message>,
    /// The conversation's newest seq.
    last_seq: u32,
    /// Whether there are older ones.
    more: bool,
}

/// Pictures, films, sounds and files of a conversation that the caller is in, newest first.
#[utoipa::path(
    get, path = "/v1/conversations/{id}/media", tag = "messages", security(("bearer" = [])),
    params(("id" = String, Path, description = "`u:{a}:{b}` or `g:{gid}`"), MediaQuery),
    responses(
        (status = 200, description = "The page.", body = MediaView),
        (status = 404, description = "No such conversation, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(id): Path<String>,
    Query(query): Query<MediaQuery>,
) -> Result<Response, Problem> {
    if id.parse::<schema::ConversationId>().is_err() {
        return Err(Problem::not_found("conversation"));
    }
    let kinds = query.kinds.split(',').map(str::trim);
    let kinds = kinds.filter(|kind| !kind.is_empty()).map(str::to_owned);
    let command = Command::GetMedia(v1::GetMedia {
        conversation: id,
        kinds: kinds.collect(),
        before_seq: query.before_seq,
        limit: query.limit,
    });
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(command),
    };
    let ok = execute(&api, caller.uid, up).await?;
    let batch = ok.batch.unwrap_or_default();
    Ok(private(MediaView {
        messages: batch.messages,
        last_seq: batch.last_seq,
        more: batch.more,
    }))
}
