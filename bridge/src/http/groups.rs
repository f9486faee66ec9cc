//! Groups and their members.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::v1::up::Command;
use schema::{Gid, Timestamp, Uid, v1};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::{Api, private};
use crate::code::Code;
use crate::store::views;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(show))
        .routes(routes!(members, add_members))
        .routes(routes!(remove_member))
}

/// A group to be made; the caller becomes its owner.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewGroup {
    /// 1–128 characters for people to read.
    #[schema(example = "Friends")]
    name: String,
    /// uids of the other members.
    #[serde(default)]
    members: Vec<String>,
    /// 1–64 of `A-Z a-z 0-9 . _ -`; left out: the server chooses one.
    #[serde(default)]
    gid: String,
    /// Makes it safe to ask twice: the same id gets the first answer.
    #[serde(default, alias = "client_msg_id")]
    client_msg_id: String,
}

/// Users to be added.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewMembers {
    /// Their uids.
    members: Vec<String>,
    /// Makes it safe to ask twice: the same id gets the first answer.
    #[serde(default, alias = "client_msg_id")]
    client_msg_id: String,
}

/// A group and its members.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Group)]
pub(super) struct GroupView {
    gid: String,
    name: String,
    /// `g:{gid}`
    conversation: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Option<Timestamp>,
    members: Vec<MemberView>,
}

/// The members of a group.
#[derive(Serialize, ToSchema)]
#[schema(as = Members)]
pub(super) struct MembersView {
    members: Vec<MemberView>,
}

/// A member, and how far the member is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Member)]
pub(super) struct MemberView {
    uid: String,
    /// `owner`, `admin` or `member`.
    role: String,
    /// The newest message that any of the member's devices has acknowledged; `"0"`: none.
    last_ack_msgid: String,
    last_ack_seq: u32,
    last_read_seq: u32,
}

impl From<v1::Group> for GroupView {
    fn from(group: v1::Group) -> Self {
        GroupView {
            gid: group.gid,
            name: group.name,
            conversation: group.conversation,
            created_at: group.created_at,
            members: group.members.into_iter().map(MemberView::from).collect(),
        }
    }
}

impl From<v1::GroupMember> for MemberView {
    fn from(member: v1::GroupMember) -> Self {
        MemberView {
            uid: member.uid,
            role: member.role,
            last_ack_msgid: member.last_ack_msgid.to_string(),
            last_ack_seq: member.last_ack_seq,
            last_read_seq: member.last_read_seq,
        }
    }
}

/// Makes a group.
#[utoipa::path(
    post, path = "/v1/groups", tag = "groups", security(("bearer" = [])),
    responses(
        (status = 201, description = "The group.", body = GroupView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(request): Json<NewGroup>,
) -> Result<(StatusCode, Json<GroupView>), Problem> {
    let command = Command::GroupCreate(v1::GroupCreate {
        name: request.name,
        members: request.members,
        gid: request.gid,
    });
    let group = change(&api, caller.uid, request.client_msg_id, command).await?;
    Ok((StatusCode::CREATED, Json(group)))
}

/// A group that the caller is in.
#[utoipa::path(
    get, path = "/v1/groups/{gid}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "The group.", body = GroupView),
        (status = 404, description = "No such group, or the caller is not in it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
) -> Result<Response, Problem> {
    Ok(private(GroupView::from(
        lookup(&api, &caller.uid, &gid).await?,
    )))
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
pub(super) async fn members(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
) -> Result<Response, Problem> {
    let group = GroupView::from(lookup(&api, &caller.uid, &gid).await?);
    Ok(private(MembersView {
        members: group.members,
    }))
}

/// Adds members. Owner and admins may.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/members", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "The group as it stands now.", body = GroupView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn add_members(
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

/// Removes a member (owner and admins may), or leaves (everybody but the owner may).
#[utoipa::path(
    delete, path = "/v1/groups/{gid}/members/{uid}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path), ("uid" = String, Path)),
    responses(
        (status = 204, description = "Not a member any longer."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove_member(
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
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(command),
    };
    execute(&api, caller.uid, up).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Carries out a command that is answered with the group.
async fn change(
    api: &Api,
    uid: Uid,
    client_msg_id: String,
    command: Command,
) -> Result<GroupView, Problem> {
    let up = v1::Up {
        client_msg_id,
        command: Some(command),
    };
    match execute(api, uid, up).await?.group {
        Some(group) => Ok((*group).into()),
        None => Err(Problem::new(
            Code::Conflict,
            "the clientMsgId belongs to another command",
        )),
    }
}

/// The group, if the caller is in it.
async fn lookup(api: &Api, uid: &Uid, gid: &str) -> Result<v1::Group, Problem> {
    let group = views::group_of(api.store.reader(), uid, &parse_gid(gid)?).await?;
    group.ok_or_else(|| Problem::not_found("group"))
}

fn parse_gid(gid: &str) -> Result<Gid, Problem> {
    gid.parse().map_err(|_| Problem::not_found("group"))
}
