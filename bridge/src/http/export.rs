//! Everything that is stored about a user, and everything that the user may read, as one stream of lines.
//!
//! It is read page by page as the client takes it, so that it needs the memory of a page however long it is. Messages
//! are asked for as any device asks, so that an export never holds what its user may not see.

mod writer;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use schema::Uid;
use tokio::sync::mpsc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::writer::{Stopped, Writer};
use super::Api;
use super::admin::Admin;
use super::bearer::Bearer;
use super::problem::{Problem, ProblemBody};
use crate::service::rates::Expensive;
use crate::store::audit::Act;
use crate::store::export;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(own))
        .routes(routes!(of_user))
}

/// Newline-delimited JSON.
const NDJSON: &str = "application/x-ndjson";
/// Chunks that wait for the client; no more is read until it takes them.
const CHUNKS: usize = 2;

/// Everything that is stored about the caller, and every message that the caller may read, as lines of JSON.
#[utoipa::path(
    get, path = "/v1/users/{uid}/export", tag = "accounts", security(("bearer" = [])),
    params(("uid" = String, Path, description = "The caller; for administrators also another user.")),
    responses(
        (status = 200, description = "Lines of JSON, each with a `type`: `account`, `device`, `contact`, `grant`, `conversation`, `scheduled`, `message`, and `end` where it is complete.", body = String, content_type = NDJSON),
        (status = 403, description = "Another user's.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn own(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
) -> Result<Response, Problem> {
    if caller.uid.as_str() != uid {
        return of_user(State(api), Admin::try_from(caller)?, Path(uid)).await;
    }
    start(api, &caller.uid, caller.uid.clone()).await
}

/// The same of any user, for administrators. The audit log tells of it.
#[utoipa::path(
    get, path = "/v1/admin/users/{uid}/export", tag = "admin", security(("bearer" = [])),
    params(("uid" = String, Path, description = "Whose.")),
    responses(
        (status = 200, description = "As `GET /v1/users/{uid}/export` has it.", body = String, content_type = NDJSON),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_user(
    State(api): State<Api>,
    admin: Admin,
    Path(uid): Path<String>,
) -> Result<Response, Problem> {
    let uid: Uid = uid.parse().map_err(|_| Problem::not_found("user"))?;
    let response = start(api.clone(), admin.uid(), uid.clone()).await?;
    let act = Act {
        by: admin.uid().as_str(),
        action: "user.export",
        target: uid.as_str(),
        detail: "",
    };
    api.note(act).await?;
    Ok(response)
}

/// Begins to read, and answers with what is read.
async fn start(api: Api, caller: &Uid, uid: Uid) -> Result<Response, Problem> {
    let rates = api.service.rates();
    rates
        .check_expensive(caller, Expensive::Export)
        .map_err(|refused| Problem::from(refused.to_wire()))?;
    let account = export::account(api.store.reader(), &uid).await?;
    let account = account.ok_or_else(|| Problem::not_found("user"))?;
    let (chunks, taken) = mpsc::channel(CHUNKS);
    let mut writer = Writer::new(chunks);
    tokio::spawn(async move {
        // The client learns that it is not complete; who has gone needs not to be told.
        match writer.write(&api, &uid, &account).await {
            Ok(()) | Err(Stopped::Gone) => {}
            Err(Stopped::Failed(problem)) => {
                tracing::warn!(user.id = %uid, ?problem, "an export could not be finished");
                writer.break_off().await;
            }
        }
    });
    let body = stream::unfold(taken, async |mut taken| {
        taken.recv().await.map(|chunk| (chunk, taken))
    });
    let headers = [(CONTENT_TYPE, NDJSON), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(body)).into_response())
}
