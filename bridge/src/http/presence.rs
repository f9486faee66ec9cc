//! How users appear, and what the caller says of itself.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::v1;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::{Api, private};
use crate::code::Code;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show, set))
}

/// Whose presence.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsersQuery {
    /// Up to 500 uids, separated by commas; left out: all contacts. The caller's own shows every device.
    uids: Option<String>,
}

/// What the caller wants to pass for.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewPresence {
    /// A connected device's, and so not for HTTP: refused unless empty.
    #[serde(default)]
    state: String,
    /// For people, up to 128 characters; left out: as it was.
    text: Option<String>,
}

/// Users who let the caller see them.
#[derive(Serialize, ToSchema)]
#[schema(as = PresenceList)]
struct PresencesDoc {
    presences: Vec<PresenceDoc>,
}

/// How a user appears.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Presence)]
struct PresenceDoc {
    uid: String,
    /// `online`, `away` or `offline`.
    state: String,
    /// When the user was last connected, where that is known and the user is offline.
    last_seen_at: Option<String>,
    text: Option<String>,
    /// Of the caller only.
    devices: Option<Vec<DevicePresenceDoc>>,
}

/// How one of the caller's devices appears.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DevicePresence)]
struct DevicePresenceDoc {
    device: String,
    /// `online`, `away`, `invisible` or `offline`.
    state: String,
    last_seen_at: Option<String>,
}

/// How users appear. Those who don't let the caller see it are left out, as are those who don't exist.
#[utoipa::path(
    get, path = "/v1/presence", tag = "users", security(("bearer" = [])),
    params(UsersQuery),
    responses(
        (status = 200, description = "Those whom the caller may see.", body = PresencesDoc),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Query(query): Query<UsersQuery>,
) -> Result<Response, Problem> {
    let uids = query.uids.as_deref().filter(|uids| !uids.is_empty());
    let uids = uids.into_iter().flat_map(|uids| uids.split(','));
    let asked = v1::GetPresence {
        uids: uids.map(str::to_owned).collect(),
    };
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(Command::GetPresence(asked)),
    };
    match execute(&api, caller.uid, up).await?.answer {
        Some(Answer::Presences(presences)) => Ok(private(presences)),
        _ => Err(Problem::new(Code::Internal, "the answer holds no presence")),
    }
}

/// Sets the text that contacts see.
#[utoipa::path(
    put, path = "/v1/presence", tag = "users", security(("bearer" = [])),
    responses(
        (status = 204, description = "It is seen from now on."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(request): Json<NewPresence>,
) -> Result<StatusCode, Problem> {
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(Command::Presence(v1::PresenceSet {
            state: request.state,
            text: request.text,
        })),
    };
    execute(&api, caller.uid, up).await?;
    Ok(StatusCode::NO_CONTENT)
}
