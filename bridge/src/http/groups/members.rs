//! Who is in a group, and as what.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::v1;
use schema::v1::up::Command;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GroupView, MemberView, carry_out, change, lookup, parse_gid};
use crate::code::Code;
use crate::http::bearer::Bearer;
use crate::http::problem::{Problem, ProblemBody};
use crate::http::{Api, private};

/// Users to be added.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct NewMembers {
    /// Their uids.
    members: Vec<String>,
    /// Makes it safe to ask twice: the same id gets the first answer.
    #[serde(default, alias = "client_msg_id")]
    client_msg_id: String,
}

/// What is to be changed about a member: one of these.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct MemberChange {
    /// `admin` or `member`. The owner may change it.
    role: Option<String>,
    /// Up to 64 characters; empty: none. Members may change their own, owner and admins everybody's.
    nickname: Option<String>,
    /// Seconds from now in which the member may not send; 0: may again. Owner and admins may, against those below them.
    #[serde(alias = "mute_secs")]
    mute_secs: Option<u32>,
}

/// The next owner.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct NewOwner {
    /// uid of a member.
    user: String,
}

/// The members of a group.
#[derive(Serialize, ToSchema)]
#[schema(as = Members)]
pub(in crate::http) struct MembersView {
    members: Vec<MemberView>,
}

/// The members of a group that the caller is in.
#[utoipa::path(
    get, path = "/v1/groups/{gid}/members", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "The members.", body = MembersView),
        (status = 404, description = "No such group, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn list(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
) -> Result<Response, Problem> {
    let group = GroupView::from(lookup(&api, &caller.uid, &gid).await?);
    Ok(private(MembersView {
        members: group.members,
    }))
}

/// Adds members. Who may follows from the group's `invite`.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/members", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "The group as it stands now.", body = GroupView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn add(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
    Json(request): Json<NewMembers>,
) -> Result<Json<GroupView>, Problem> {
    let command = Command::GroupAdd(v1::GroupAdd {
        gid: parse_gid(&gid)?.to_string(),
        members: request.members,
    });
    let group = change(&api, caller.uid, request.client_msg_id, command).await?;
    Ok(Json(group))
}

/// Removes a member (owner and admins may), or leaves (the owner only as the last member, which dissolves the group).
#[utoipa::path(
    delete, path = "/v1/groups/{gid}/members/{uid}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path), ("uid" = String, Path)),
    responses(
        (status = 204, description = "Not a member any longer."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn remove(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path((gid, uid)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let gid = parse_gid(&gid)?.to_string();
    let command = if uid == caller.uid.as_str() {
        Command::GroupLeave(v1::GroupLeave { gid })
    } else {
        Command::GroupRemove(v1::GroupRemove {
            gid,
            members: vec![uid],
        })
    };
    carry_out(&api, caller.uid, String::new(), command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes a member's role or nickname, or keeps the member from sending.
#[utoipa::path(
    patch, path = "/v1/groups/{gid}/members/{uid}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path), ("uid" = String, Path)),
    responses(
        (status = 200, description = "The group as it stands now.", body = GroupView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn set(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path((gid, user)): Path<(String, String)>,
    Json(request): Json<MemberChange>,
) -> Result<Json<GroupView>, Problem> {
    let gid = parse_gid(&gid)?.to_string();
    let command = match (request.role, request.nickname, request.mute_secs) {
        (Some(role), None, None) => Command::GroupRole(v1::GroupRole { gid, user, role }),
        (None, Some(nickname), None) => Command::GroupNickname(v1::GroupNickname {
            gid,
            nickname,
            user,
        }),
        (None, None, Some(secs)) => Command::GroupMute(v1::GroupMute { gid, user, secs }),
        // Several would be several commands, of which one could be refused.
        _ => {
            let detail = "say one of role, nickname and muteSecs";
            return Err(Problem::new(Code::InvalidArgument, detail));
        }
    };
    let group = change(&api, caller.uid, String::new(), command).await?;
    Ok(Json(group))
}

/// Makes another member the owner; the old one becomes an admin.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/owner", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "The group as it stands now.", body = GroupView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn set_owner(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
    Json(request): Json<NewOwner>,
) -> Result<Json<GroupView>, Problem> {
    let command = Command::GroupTransfer(v1::GroupTransfer {
        gid: parse_gid(&gid)?.to_string(),
        user: request.user,
    });
    let group = change(&api, caller.uid, String::new(), command).await?;
    Ok(Json(group))
}
