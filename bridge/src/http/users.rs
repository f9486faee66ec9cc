//! Users: finding them, the caller's own profile, settings and presence.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::{Uid, v1};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::schema_docs::{ProfileDoc, UserDoc, UserListDoc};
use super::{Api, private};
use crate::code::Code;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(find))
        .routes(routes!(show))
        .routes(routes!(profile, set_profile))
        .routes(routes!(settings, set_settings))
}

/// Which users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FindQuery {
    /// The beginning of a uid, or of a word of a name: 1–64 characters.
    q: String,
    /// 1–100 users; left out or 0: 20.
    #[serde(default)]
    limit: u32,
}

/// What others see of the caller; what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProfileChange {
    /// Up to 128 characters.
    name: Option<String>,
    /// A reference to a picture, up to 2,048 characters.
    avatar: Option<String>,
    /// Up to 512 characters.
    about: Option<String>,
}

/// What the caller lets others do; what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SettingsChange {
    /// Whether others learn how far the caller has read.
    #[serde(alias = "read_receipts")]
    read_receipts: Option<bool>,
    /// Whether users who are no contacts may write to the caller.
    strangers: Option<bool>,
    /// Who sees the caller's presence: `contacts` or `nobody`.
    presence: Option<String>,
}

/// What the caller lets others do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Settings)]
pub(super) struct SettingsView {
    /// Whether others learn how far the caller has read.
    read_receipts: bool,
    /// Whether users who are no contacts may write to the caller.
    strangers: bool,
    /// Who sees the caller's presence: `contacts` or `nobody`.
    presence: String,
}

impl From<v1::Profile> for SettingsView {
    fn from(profile: v1::Profile) -> Self {
        SettingsView {
            read_receipts: profile.read_receipts,
            strangers: profile.strangers,
            presence: profile.presence,
        }
    }
}

/// The users whose uid, or a word of whose name, begins so; the closest first.
#[utoipa::path(
    get, path = "/v1/users", tag = "users", security(("bearer" = [])), params(FindQuery),
    responses(
        (status = 200, description = "The users.", body = UserListDoc),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn find(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Query(query): Query<FindQuery>,
) -> Result<Response, Problem> {
    let command = Command::GetUsers(v1::GetUsers {
        query: query.q,
        limit: query.limit,
        ..Default::default()
    });
    users(&api, caller.uid, command).await.map(private)
}

/// A user as everybody may see it.
#[utoipa::path(
    get, path = "/v1/users/{uid}", tag = "users", security(("bearer" = [])),
    params(("uid" = String, Path)),
    responses(
        (status = 200, description = "The user, or that the account is deleted.", body = UserDoc),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
) -> Result<Response, Problem> {
    let no_such = || Problem::not_found("user");
    let uid: Uid = uid.parse().map_err(|_| no_such())?;
    let command = Command::GetUsers(v1::GetUsers {
        uids: vec![uid.to_string()],
        ..Default::default()
    });
    let found = users(&api, caller.uid, command).await?.users;
    found.into_iter().next().map(private).ok_or_else(no_such)
}

/// The caller's own profile and settings.
#[utoipa::path(
    get, path = "/v1/profile", tag = "users", security(("bearer" = [])),
    responses(
        (status = 200, description = "The profile.", body = ProfileDoc),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn profile(
    State(api): State<Api>,
    Bearer(caller): Bearer,
) -> Result<Response, Problem> {
    let command = Command::GetProfile(v1::GetProfile {});
    own(&api, caller.uid, command).await.map(private)
}

/// Changes what others see of the caller.
#[utoipa::path(
    patch, path = "/v1/profile", tag = "users", security(("bearer" = [])),
    responses(
        (status = 200, description = "The profile as it is now.", body = ProfileDoc),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set_profile(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(change): Json<ProfileChange>,
) -> Result<Response, Problem> {
    let command = Command::ProfileSet(v1::ProfileSet {
        name: change.name,
        avatar: change.avatar,
        about: change.about,
    });
    own(&api, caller.uid, command).await.map(private)
}

/// The caller's settings.
#[utoipa::path(
    get, path = "/v1/settings", tag = "users", security(("bearer" = [])),
    responses(
        (status = 200, description = "The settings.", body = SettingsView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn settings(
    State(api): State<Api>,
    Bearer(caller): Bearer,
) -> Result<Response, Problem> {
    let command = Command::GetProfile(v1::GetProfile {});
    let profile = own(&api, caller.uid, command).await?;
    Ok(private(SettingsView::from(profile)))
}

/// Changes the caller's settings.
#[utoipa::path(
    patch, path = "/v1/settings", tag = "users", security(("bearer" = [])),
    responses(
        (status = 200, description = "The settings as they are now.", body = SettingsView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set_settings(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(change): Json<SettingsChange>,
) -> Result<Response, Problem> {
    let command = Command::SettingsSet(v1::SettingsSet {
        read_receipts: change.read_receipts,
        strangers: change.strangers,
        presence: change.presence,
    });
    let profile = own(&api, caller.uid, command).await?;
    Ok(private(SettingsView::from(profile)))
}

/// Carries out a command that is answered with the caller's own profile.
async fn own(api: &Api, uid: Uid, command: Command) -> Result<v1::Profile, Problem> {
    match execute(api, uid, unnamed(command)).await?.answer {
        Some(Answer::Profile(profile)) => Ok(*profile),
        _ => Err(Problem::new(Code::Internal, "the reply has no profile")),
    }
}

async fn users(api: &Api, uid: Uid, command: Command) -> Result<v1::UserList, Problem> {
    match execute(api, uid, unnamed(command)).await?.answer {
        Some(Answer::Users(users)) => Ok(users),
        _ => Err(Problem::new(Code::Internal, "the reply has no users")),
    }
}

fn unnamed(command: Command) -> v1::Up {
    v1::Up {
        client_msg_id: String::new(),
        command: Some(command),
    }
}
