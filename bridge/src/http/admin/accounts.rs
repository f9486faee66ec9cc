//! The accounts of all users.

use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::{Timestamp, Uid};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::accounts::to_its_end;
use super::super::problem::{Problem, ProblemBody};
use super::super::{Api, private};
use super::{Admin, limit};
use crate::auth::AuthError;
use crate::clock;
use crate::store::users::{self, Listed};

/// Which users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsersQuery {
    /// What their uids begin with.
    q: Option<String>,
    /// Only uids after this one: the last of the page before.
    after: Option<String>,
    /// 1–500 users; left out or 0: 100.
    limit: Option<u32>,
}

/// Users by uid.
#[derive(Serialize, ToSchema)]
#[schema(as = AdminUsers)]
pub(crate) struct UsersView {
    users: Vec<UserView>,
}

/// An account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminUser)]
pub(crate) struct UserView {
    uid: String,
    /// `person`, `bot` or `device`
    kind: String,
    /// `user` or `admin`
    role: String,
    name: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Set where the account is deleted; the uid stays taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
    /// Devices that are connected.
    connections: usize,
}

/// The new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    password: String,
}

/// All users, by uid.
#[utoipa::path(
    get, path = "/v1/admin/users", tag = "admin", security(("bearer" = [])), params(UsersQuery),
    responses(
        (status = 200, description = "The users.", body = UsersView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(api): State<Api>,
    _: Admin,
    Query(query): Query<UsersQuery>,
) -> Result<Response, Problem> {
    let (prefix, after) = (query.q.unwrap_or_default(), query.after.unwrap_or_default());
    let limit = limit(query.limit)?;
    let users = users::page(api.store.reader(), &prefix, &after, limit).await?;
    let users = users.into_iter().map(|user| view(&api, user)).collect();
    Ok(private(UsersView { users }))
}

/// One user, also a deleted one.
#[utoipa::path(
    get, path = "/v1/admin/users/{uid}", tag = "admin", security(("bearer" = [])),
    params(("uid" = String, Path, description = "Who.")),
    responses(
        (status = 200, description = "The account.", body = UserView),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(api): State<Api>,
    _: Admin,
    Path(uid): Path<String>,
) -> Result<Response, Problem> {
    let uid = parse(&uid)?;
    let user = users::listed(api.store.reader(), &uid).await?;
    let user = user.ok_or_else(|| Problem::not_found("user"))?;
    Ok(private(view(&api, user)))
}

/// Deletes an account: nobody can log in, and all that belongs to it is erased, some of it within seconds.
#[utoipa::path(
    delete, path = "/v1/admin/users/{uid}", tag = "admin", security(("bearer" = [])),
    params(("uid" = String, Path, description = "Whose.")),
    responses(
        (status = 204, description = "Deleted."),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    admin: Admin,
    Path(uid): Path<String>,
) -> Result<StatusCode, Problem> {
    let uid = parse(&uid)?;
    let delete = async move {
        let deleted = api.auth.delete_user(&uid, admin.uid().as_str()).await;
        api.service.erase_deleted();
        deleted
    };
    no_content(to_its_end(delete).await?)
}

/// Ends all logins and connections of a user, who can come back with the password.
#[utoipa::path(
    post, path = "/v1/admin/users/{uid}/kick", tag = "admin", security(("bearer" = [])),
    params(("uid" = String, Path, description = "Whose.")),
    responses(
        (status = 204, description = "Ended."),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn kick(
    State(api): State<Api>,
    admin: Admin,
    Path(uid): Path<String>,
) -> Result<StatusCode, Problem> {
    let uid = parse(&uid)?;
    let kick = async move { api.auth.kick_user(&uid, admin.uid().as_str()).await };
    no_content(to_its_end(kick).await?)
}

/// Replaces a user's password, and ends all the user's logins and connections.
#[utoipa::path(
    post, path = "/v1/admin/users/{uid}/password", tag = "admin", security(("bearer" = [])),
    params(("uid" = String, Path, description = "Whose.")),
    responses(
        (status = 204, description = "Replaced."),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_password(
    State(api): State<Api>,
    admin: Admin,
    Path(uid): Path<String>,
    Json(request): Json<NewPassword>,
) -> Result<StatusCode, Problem> {
    let uid = parse(&uid)?;
    let set = async move {
        let by = admin.uid().as_str();
        api.auth.set_password(&uid, &request.password, by).await
    };
    no_content(to_its_end(set).await?)
}

fn parse(uid: &str) -> Result<Uid, Problem> {
    uid.parse().map_err(|_| Problem::not_found("user"))
}

/// An administrator's own token is fine, so what is refused is the user.
fn no_content(done: Result<(), AuthError>) -> Result<StatusCode, Problem> {
    match done {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(AuthError::Refused) => Err(Problem::not_found("user")),
        Err(error) => Err(error.into()),
    }
}

fn view(api: &Api, user: Listed) -> UserView {
    let timestamp = |time: SystemTime| Timestamp::from_millis(clock::millis(time));
    UserView {
        connections: api.service.presence().of(&user.uid).connections.len(),
        uid: user.uid.to_string(),
        kind: user.kind,
        role: user.role.as_str().to_owned(),
        name: user.name,
        created_at: timestamp(user.created_at),
        deleted_at: user.deleted_at.map(timestamp),
    }
}
