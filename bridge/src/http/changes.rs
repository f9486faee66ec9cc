//! What has changed for the caller since a version.

use axum::extract::{Query, State};
use axum::response::Response;
use schema::v1;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::{ask, unexpected};
use super::problem::{Problem, ProblemBody};
use super::{Api, private};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(changes))
}

/// Since when, and how much.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangesQuery {
    /// `version` of an earlier answer; left out or 0: everything.
    since: Option<u64>,
    /// 1–500 items; left out or 0: 100.
    limit: Option<u32>,
}

/// What has changed, as it is now. Lists that are empty are left out.
#[derive(Serialize, ToSchema)]
#[schema(as = Changes)]
struct ChangesDoc {
    /// To ask with the next time.
    version: String,
    /// There is more: ask again with `version`.
    more: Option<bool>,
    /// Each with its `state`, where `removed` says that it is gone.
    #[schema(value_type = Vec<Object>)]
    conversations: Vec<()>,
    #[schema(value_type = Vec<Object>)]
    contacts: Vec<()>,
    /// Groups that are new or changed, without members.
    #[schema(value_type = Vec<Object>)]
    groups: Vec<()>,
    /// If it has changed.
    #[schema(value_type = Option<Object>)]
    profile: Option<()>,
}

/// What has changed for the caller since a version.
#[utoipa::path(
    get, path = "/v1/changes", tag = "messages", security(("bearer" = [])),
    params(ChangesQuery),
    responses(
        (status = 200, description = "The changes.", body = ChangesDoc),
        (status = 400, description = "There has been no such version: ask for everything, since 0.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn changes(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Query(query): Query<ChangesQuery>,
) -> Result<Response, Problem> {
    let asked = Command::GetChanges(v1::GetChanges {
        since: query.since.unwrap_or_default(),
        limit: query.limit.unwrap_or_default(),
        zstd: false,
    });
    match ask(&api, caller.uid, asked).await?.answer {
        Some(Answer::Changes(changes)) => Ok(private(changes)),
        _ => Err(unexpected()),
    }
}
