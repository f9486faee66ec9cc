//! What users let each other do with their devices' topics.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schema::v1;
use schema::v1::up::Command;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::{Api, private};
use crate::store::grants::{self, Grant};

/// How many received grants are shown: others decide how many there are.
const RECEIVED_MAX: u32 = 1000;

/// What another user may do with topics of the caller's devices. It replaces what was granted to that user for the same
/// filter before.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewGrant {
    /// uid of the user who may.
    #[schema(example = "bob")]
    user: String,
    /// A topic filter below `dev/{caller}/`; left out: `#`, all of them.
    #[serde(default)]
    #[schema(example = "kitchen/+")]
    filter: String,
    /// Whether the user may subscribe.
    #[serde(default)]
    read: bool,
    /// Whether the user may publish. Neither: the grant is taken back.
    #[serde(default)]
    write: bool,
    /// Makes it safe to ask twice: the same id gets the first answer.
    #[serde(default, alias = "client_msg_id")]
    client_msg_id: String,
}

/// The caller's grants.
#[derive(Serialize, ToSchema)]
#[schema(as = Grants)]
pub(super) struct GrantsView {
    given: Vec<GivenView>,
    /// The first 1000, by owner.
    received: Vec<ReceivedView>,
}

/// What the caller lets another user do with `dev/{caller}/{filter}`.
#[derive(Serialize, ToSchema)]
#[schema(as = GivenGrant)]
struct GivenView {
    user: String,
    filter: String,
    read: bool,
    write: bool,
}

/// What another user lets the caller do with `dev/{owner}/{filter}`.
#[derive(Serialize, ToSchema)]
#[schema(as = ReceivedGrant)]
struct ReceivedView {
    owner: String,
    filter: String,
    read: bool,
    write: bool,
}

impl From<Grant> for GivenView {
    fn from(grant: Grant) -> Self {
        GivenView {
            user: grant.user.to_string(),
            filter: grant.filter,
            read: grant.read,
            write: grant.write,
        }
    }
}

impl From<Grant> for ReceivedView {
    fn from(grant: Grant) -> Self {
        ReceivedView {
            owner: grant.owner.to_string(),
            filter: grant.filter,
            read: grant.read,
            write: grant.write,
        }
    }
}

/// Lets another user use topics of the caller's devices, or no longer.
#[utoipa::path(
    put, path = "/v1/grants", tag = "devices", security(("bearer" = [])),
    responses(
        (status = 204, description = "It holds from now on."),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too many grants, or too long a filter.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(request): Json<NewGrant>,
) -> Result<StatusCode, Problem> {
    let up = v1::Up {
        client_msg_id: request.client_msg_id,
        command: Some(Command::Grant(v1::Grant {
            user: request.user,
            filter: request.filter,
            read: request.read,
            write: request.write,
        })),
    };
    execute(&api, caller.uid, up).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the caller has granted to others, and others to the caller.
#[utoipa::path(
    get, path = "/v1/grants", tag = "devices", security(("bearer" = [])),
    responses(
        (status = 200, description = "The grants.", body = GrantsView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Bearer(caller): Bearer,
) -> Result<Response, Problem> {
    let db = api.store.reader();
    let given = grants::given(db, &caller.uid).await?;
    let received = grants::received(db, &caller.uid, RECEIVED_MAX).await?;
    Ok(private(GrantsView {
        given: given.into_iter().map(GivenView::from).collect(),
        received: received.into_iter().map(ReceivedView::from).collect(),
    }))
}
