//! Coming into a group without being added.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::{Timestamp, Uid, v1};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GroupView, carry_out, parse_gid, whole};
use crate::code::Code;
use crate::http::bearer::Bearer;
use crate::http::problem::{Problem, ProblemBody};
use crate::http::{Api, private};

/// How long a link is to be valid.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct NewLink {
    /// From now; left out: without an end.
    #[serde(default, alias = "valid_secs")]
    valid_secs: u32,
}

/// What one says who wants to come in.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Knock {
    /// For those who let in, up to 256 characters.
    #[serde(default)]
    text: String,
}

/// The same with a link's token.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct LinkKnock {
    /// The token.
    link: String,
    /// For those who let in, up to 256 characters.
    #[serde(default)]
    text: String,
}

/// Whether one is let in.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Verdict {
    /// Whether the user comes in.
    accept: bool,
}

/// A link to join by.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = GroupLink)]
pub(in crate::http) struct LinkView {
    gid: String,
    /// It is shown only this once.
    token: String,
    /// Left out: without an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// What came of wanting to come in.
#[derive(Serialize, ToSchema)]
#[schema(as = Joined)]
pub(in crate::http) struct JoinedView {
    /// Whether the caller is in the group, or waits to be let in.
    joined: bool,
    /// Where the caller is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupView>,
}

/// Who waits to be let in, in the order in which they asked.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupRequests)]
pub(in crate::http) struct RequestsView {
    requests: Vec<RequestView>,
}

/// Somebody who waits to be let in.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupRequest)]
struct RequestView {
    uid: String,
    text: String,
    #[schema(value_type = String, format = DateTime)]
    at: Option<Timestamp>,
}

/// Makes a link to join a group by; an earlier one ends. Owner and admins may.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/link", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 201, description = "The link.", body = LinkView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn make_link(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
    Json(request): Json<NewLink>,
) -> Result<(StatusCode, Response), Problem> {
    let command = Command::GroupLink(v1::GroupLink {
        gid: parse_gid(&gid)?.to_string(),
        valid_secs: request.valid_secs,
        revoke: false,
    });
    let ok = carry_out(&api, caller.uid, String::new(), command).await?;
    let Some(Answer::Link(link)) = ok.answer else {
        return Err(Problem::new(Code::Internal, "the answer holds no link"));
    };
    let view = LinkView {
        gid: link.gid,
        token: link.token,
        expires_at: link.expires_at,
    };
    Ok((StatusCode::CREATED, private(view)))
}

/// Ends the link to join a group by. Owner and admins may.
#[utoipa::path(
    delete, path = "/v1/groups/{gid}/link", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 204, description = "There is none."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn end_link(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
) -> Result<StatusCode, Problem> {
    let command = Command::GroupLink(v1::GroupLink {
        gid: parse_gid(&gid)?.to_string(),
        valid_secs: 0,
        revoke: true,
    });
    carry_out(&api, caller.uid, String::new(), command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Joins a group that is open, or asks to be let in.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/join", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "Joined, or noted.", body = JoinedView),
        (status = 404, description = "No such group, or it lets nobody in this way.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn join(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
    Json(request): Json<Knock>,
) -> Result<Response, Problem> {
    let join = v1::GroupJoin {
        gid: parse_gid(&gid)?.to_string(),
        text: request.text,
        ..Default::default()
    };
    come_in(&api, caller.uid, join).await
}

/// Joins the group of a link, or asks to be let in.
#[utoipa::path(
    post, path = "/v1/join", tag = "groups", security(("bearer" = [])),
    responses(
        (status = 200, description = "Joined, or noted.", body = JoinedView),
        (status = 404, description = "No such link, or it is no longer valid.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn join_by_link(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(request): Json<LinkKnock>,
) -> Result<Response, Problem> {
    let join = v1::GroupJoin {
        link: request.link,
        text: request.text,
        ..Default::default()
    };
    come_in(&api, caller.uid, join).await
}

async fn come_in(api: &Api, uid: Uid, join: v1::GroupJoin) -> Result<Response, Problem> {
    let command = Command::GroupJoin(join);
    let ok = carry_out(api, uid.clone(), String::new(), command).await?;
    let group = match ok.group {
        Some(group) => Some(whole(api, &uid, *group).await?),
        None => None,
    };
    Ok(private(JoinedView {
        joined: group.is_some(),
        group,
    }))
}

/// Who waits to be let into a group. Those who may let them in may ask.
#[utoipa::path(
    get, path = "/v1/groups/{gid}/requests", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "The requests.", body = RequestsView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn requests(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
) -> Result<Response, Problem> {
    let gid = parse_gid(&gid)?.to_string();
    let command = Command::GetGroupRequests(v1::GetGroupRequests { gid });
    let ok = carry_out(&api, caller.uid, String::new(), command).await?;
    let requests = match ok.answer {
        Some(Answer::GroupRequests(list)) => list.requests,
        _ => Vec::new(),
    };
    let view = |request: v1::GroupRequest| RequestView {
        uid: request.uid,
        text: request.text,
        at: request.at,
    };
    Ok(private(RequestsView {
        requests: requests.into_iter().map(view).collect(),
    }))
}

/// Lets a user in who has asked, or not.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/requests/{uid}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path), ("uid" = String, Path)),
    responses(
        (status = 204, description = "The user waits no longer."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn answer(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path((gid, user)): Path<(String, String)>,
    Json(request): Json<Verdict>,
) -> Result<StatusCode, Problem> {
    let command = Command::GroupAnswer(v1::GroupAnswer {
        gid: parse_gid(&gid)?.to_string(),
        user,
        accept: request.accept,
    });
    carry_out(&api, caller.uid, String::new(), command).await?;
    Ok(StatusCode::NO_CONTENT)
}
