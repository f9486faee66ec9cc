//! Groups: what they are, and their end; `members` and `joining` have the rest.

mod joining;
mod members;
mod pins;

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
        .routes(routes!(show, set, dissolve))
        .routes(routes!(members::list, members::add))
        .routes(routes!(members::set, members::remove))
        .routes(routes!(members::set_owner))
        .routes(routes!(joining::make_link, joining::end_link))
        .routes(routes!(joining::join))
        .routes(routes!(joining::join_by_link))
        .routes(routes!(joining::requests))
        .routes(routes!(joining::answer))
        .routes(routes!(pins::pin, pins::unpin))
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

/// What a group is to be; what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GroupChange {
    /// 1–128 characters. Owner and admins may change it, like the next three.
    name: Option<String>,
    /// A reference to a picture, up to 2,048 characters; empty: none.
    avatar: Option<String>,
    /// Up to 4,096 characters; empty: none.
    announcement: Option<String>,
    /// Whether only owner and admins may send for now.
    muted: Option<bool>,
    /// Who comes in without being added: `closed` (nobody), `link`, `request` or `open`. The owner may change it, like
    /// the following.
    join: Option<String>,
    /// Who may add members: `member`, `admin` or `owner`.
    invite: Option<String>,
    /// Who may send.
    post: Option<String>,
    /// Who may pin messages.
    pin: Option<String>,
    /// Whether who comes in from now on sees earlier messages.
    #[serde(alias = "history_visible")]
    history_visible: Option<bool>,
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
    /// Empty: none.
    avatar: String,
    /// Empty: none.
    announcement: String,
    /// `closed`, `link`, `request` or `open`.
    join: String,
    /// `member`, `admin` or `owner`, like the next two.
    invite: String,
    post: String,
    pin: String,
    history_visible: bool,
    muted: bool,
    member_count: u32,
    /// Ids of pinned messages, latest pin first.
    pinned: Vec<String>,
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
    /// Empty: none.
    nickname: String,
    /// May not send until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Timestamp>,
}

impl From<v1::Group> for GroupView {
    fn from(group: v1::Group) -> Self {
        GroupView {
            gid: group.gid,
            name: group.name,
            conversation: group.conversation,
            created_at: group.created_at,
            members: group.members.into_iter().map(MemberView::from).collect(),
            avatar: group.avatar,
            announcement: group.announcement,
            join: group.join,
            invite: group.invite,
            post: group.post,
            pin: group.pin,
            history_visible: group.history_visible,
            muted: group.muted,
            member_count: group.member_count,
            pinned: group.pinned.iter().map(u64::to_string).collect(),
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
            nickname: member.nickname,
            muted_until: member.muted_until,
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

/// Changes what a group is and allows.
#[utoipa::path(
    patch, path = "/v1/groups/{gid}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 200, description = "The group as it stands now.", body = GroupView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
    Json(request): Json<GroupChange>,
) -> Result<Json<GroupView>, Problem> {
    let command = Command::GroupSet(v1::GroupSet {
        gid: parse_gid(&gid)?.to_string(),
        name: request.name,
        avatar: request.avatar,
        announcement: request.announcement,
        join: request.join,
        invite: request.invite,
        post: request.post,
        pin: request.pin,
        history_visible: request.history_visible,
        muted: request.muted,
    });
    let group = change(&api, caller.uid, request.client_msg_id, command).await?;
    Ok(Json(group))
}

/// Ends a group for everybody. The owner may.
#[utoipa::path(
    delete, path = "/v1/groups/{gid}", tag = "groups", security(("bearer" = [])),
    params(("gid" = String, Path)),
    responses(
        (status = 204, description = "The group is no more."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dissolve(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(gid): Path<String>,
) -> Result<StatusCode, Problem> {
    let gid = parse_gid(&gid)?.to_string();
    let command = Command::GroupDissolve(v1::GroupDissolve { gid });
    carry_out(&api, caller.uid, String::new(), command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Carries out a command that is answered with the group, and shows all of it.
async fn change(
    api: &Api,
    uid: Uid,
    client_msg_id: String,
    command: Command,
) -> Result<GroupView, Problem> {
    match carry_out(api, uid.clone(), client_msg_id, command)
        .await?
        .group
    {
        Some(group) => whole(api, &uid, *group).await,
        None => Err(Problem::new(
            Code::Conflict,
            "the clientMsgId belongs to another command",
        )),
    }
}

/// A group from an answer, which leaves out members of a large one.
async fn whole(api: &Api, uid: &Uid, group: v1::Group) -> Result<GroupView, Problem> {
    if group.partial && !group.dissolved {
        return Ok(lookup(api, uid, &group.gid).await?.into());
    }
    Ok(group.into())
}

async fn carry_out(
    api: &Api,
    uid: Uid,
    client_msg_id: String,
    command: Command,
) -> Result<v1::Ok, Problem> {
    let up = v1::Up {
        client_msg_id,
        command: Some(command),
    };
    execute(api, uid, up).await
}

/// The group, if the caller is in it.
async fn lookup(api: &Api, uid: &Uid, gid: &str) -> Result<v1::Group, Problem> {
    let group = views::group_of(api.store.reader(), uid, &parse_gid(gid)?).await?;
    group.ok_or_else(|| Problem::not_found("group"))
}

fn parse_gid(gid: &str) -> Result<Gid, Problem> {
    gid.parse().map_err(|_| Problem::not_found("group"))
}
