//! Messages that are pinned in a group.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use schema::v1;
use schema::v1::up::Command;

use super::{carry_out, parse_gid};
use crate::http::Api;
use crate::http::bearer::Bearer;
use crate::http::problem::{Problem, ProblemBody};

/// Pins a message for everybody. Who may follows from the group's `pin`.
#[utoipa::path(
    put, path = "/v1/groups/{gid}/pins/{msg_id}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path), ("msg_id" = String, Path)),
    responses(
        (status = 204, description = "It is pinned."),
        (status = 413, description = "Too many are.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn pin(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path((gid, msg_id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    carry_out(
        &api,
        caller.uid,
        String::new(),
        command(&gid, &msg_id, false)?,
    )
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pins a message no longer.
#[utoipa::path(
    delete, path = "/v1/groups/{gid}/pins/{msg_id}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path), ("msg_id" = String, Path)),
    responses(
        (status = 204, description = "It is not pinned."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn unpin(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path((gid, msg_id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    carry_out(
        &api,
        caller.uid,
        String::new(),
        command(&gid, &msg_id, true)?,
    )
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn command(gid: &str, msg_id: &str, unpin: bool) -> Result<Command, Problem> {
    Ok(Command::GroupPin(v1::GroupPin {
        gid: parse_gid(gid)?.to_string(),
        msg_id: msg_id.parse().map_err(|_| Problem::not_found("message"))?,
        unpin,
    }))
}
