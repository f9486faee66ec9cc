//! Registering, logging in and out.

use std::future::Future;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::Uid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bearer::Bearer;
use super::problem::{Problem, ProblemBody};
use super::remote::Remote;
use super::{Api, private};
use crate::auth::{AuthError, Tokens};
use crate::code::Code;

/// A user name and its password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    /// 1–64 of `A-Z a-z 0-9 . _ -`.
    #[schema(example = "alice")]
    uid: String,
    password: String,
}

/// A new account.
#[derive(Serialize, ToSchema)]
pub(super) struct Account {
    #[schema(example = "alice")]
    uid: String,
}

/// A login's tokens.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tokens)]
pub(super) struct TokensView {
    /// For `Authorization: Bearer`, and as the password of an MQTT CONNECT.
    access_token: String,
    /// For `/v1/auth/refresh`, once. Using it twice ends the login.
    refresh_token: String,
    /// How long the access token is valid, in seconds.
    expires_in: u64,
}

impl From<Tokens> for TokensView {
    fn from(tokens: Tokens) -> Self {
        TokensView {
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires_in: tokens.expires_in.as_secs(),
        }
    }
}

/// A refresh token.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RefreshRequest {
    #[serde(alias = "refresh_token")]
    refresh_token: String,
}

/// A password and its successor.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PasswordChange {
    #[serde(alias = "old_password")]
    old_password: String,
    #[serde(alias = "new_password")]
    new_password: String,
}

/// Registers a user.
#[utoipa::path(
    post, path = "/v1/users", tag = "accounts",
    responses(
        (status = 201, description = "The account exists now.", body = Account),
        (status = 409, description = "The uid is taken.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn register(
    State(api): State<Api>,
    Json(request): Json<Credentials>,
) -> Result<(StatusCode, Json<Account>), Problem> {
    let uid: Uid = request
        .uid
        .parse()
        .map_err(|error| Problem::new(Code::InvalidArgument, format!("uid: {error}")))?;
    api.auth.register(uid, &request.password).await?;
    let account = Account { uid: request.uid };
    Ok((StatusCode::CREATED, Json(account)))
}

/// Opens a login by password.
#[utoipa::path(
    post, path = "/v1/auth/login", tag = "accounts",
    responses(
        (status = 200, description = "Logged in.", body = TokensView),
        (status = 401, description = "Unknown user or wrong password.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Too many wrong passwords; this one was not looked at.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn login(
    State(api): State<Api>,
    remote: Remote,
    Json(request): Json<Credentials>,
) -> Result<Response, Problem> {
    let uid: Uid = request.uid.parse().map_err(|_| AuthError::Refused)?;
    let password = &request.password;
    let tokens = api.auth.login(&uid, password, remote.address).await?;
    Ok(private(TokensView::from(tokens)))
}

/// Exchanges a refresh token for new tokens.
#[utoipa::path(
    post, path = "/v1/auth/refresh", tag = "accounts",
    responses(
        (status = 200, description = "New tokens; the old refresh token is used up.", body = TokensView),
        (status = 401, description = "Not the login's current refresh token.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn refresh(
    State(api): State<Api>,
    Json(request): Json<RefreshRequest>,
) -> Result<Response, Problem> {
    let refresh = async move { api.auth.refresh(&request.refresh_token).await };
    let tokens = to_its_end(refresh).await??;
    Ok(private(TokensView::from(tokens)))
}

/// Ends a login, and the MQTT sessions that it opened: the one that the access token belongs to, or without an access
/// token (it may have expired) the one that the refresh token in the body belongs to.
#[utoipa::path(
    post, path = "/v1/auth/logout", tag = "accounts", security(("bearer" = []), ()),
    request_body = Option<RefreshRequest>,
    responses(
        (status = 204, description = "Logged out; its tokens are refused from now on."),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn logout(
    State(api): State<Api>,
    caller: Result<Bearer, Problem>,
    request: Result<Json<RefreshRequest>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let logout = async move {
        match (caller, request) {
            (Ok(Bearer(caller)), _) => {
                if let Some(login) = caller.login {
                    api.auth.logout(&caller.uid, &login).await?;
                }
            }
            (Err(_), Ok(Json(request))) => {
                let token = &request.refresh_token;
                api.auth.logout_by_refresh_token(token).await?;
            }
            (Err(problem), Err(_)) => return Err(problem),
        }
        Ok(())
    };
    to_its_end(logout).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the caller's password, and ends all the caller's logins and MQTT sessions, this one too.
#[utoipa::path(
    post, path = "/v1/auth/password", tag = "accounts", security(("bearer" = [])),
    responses(
        (status = 204, description = "Changed; log in with the new password."),
        (status = 403, description = "The old password is wrong.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "It was wrong too often, and was not looked at.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn change_password(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    remote: Remote,
    Json(request): Json<PasswordChange>,
) -> Result<StatusCode, Problem> {
    let change = async move {
        let (old, new) = (&request.old_password, &request.new_password);
        api.auth
            .change_password(&caller.uid, old, new, remote.address)
            .await
    };
    match to_its_end(change).await? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        // The token is fine, so a client must not take this for a reason to fetch another.
        Err(AuthError::Refused) => Err(Problem::new(
            Code::PermissionDenied,
            "the old password is wrong",
        )),
        Err(error) => Err(error.into()),
    }
}

/// The caller's password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    password: String,
}

/// Deletes the caller's account: logins and connections end, nobody can log in any more, and all that belongs to it is
/// erased, some of it within seconds. The uid stays taken.
#[utoipa::path(
    delete, path = "/v1/users/{uid}", tag = "accounts", security(("bearer" = [])),
    params(("uid" = String, Path, description = "The caller.")),
    responses(
        (status = 204, description = "Deleted."),
        (status = 403, description = "The password is wrong, or it is another user's account.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "It was wrong too often, and was not looked at.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    remote: Remote,
    Path(uid): Path<String>,
    Json(request): Json<Deletion>,
) -> Result<StatusCode, Problem> {
    if caller.uid.as_str() != uid {
        let detail = "only administrators delete accounts of others, by /v1/admin/users";
        return Err(Problem::new(Code::PermissionDenied, detail));
    }
    let delete = async move {
        let password = &request.password;
        let deleted = (api.auth.delete_own(&caller.uid, password, remote.address)).await;
        api.service.erase_deleted();
        deleted
    };
    match to_its_end(delete).await? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        // As for a change of the password: the token is fine.
        Err(AuthError::Refused) => Err(Problem::new(
            Code::PermissionDenied,
            "the password is wrong",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Does all of it even if the client leaves, which ends the handler: sessions must not survive what is committed.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work)
        .await
        .map_err(|error| Problem::internal(&error))
}
