//! For whoever watches the process.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;

/// How long the database may take to begin a write.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Whether the process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "health",
    responses((status = 200, description = "It is.", body = Health))
)]
pub(super) async fn alive() -> Json<Health> {
    Json(Health {
        status: "ok",
        reason: None,
    })
}

/// Whether commands can be carried out now.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "They can.", body = Health),
        (status = 503, description = "They can't; `reason` says why.", body = Health),
    )
)]
pub(super) async fn ready(State(api): State<Api>) -> (StatusCode, Json<Health>) {
    let (code, status, reason) = match obstacle(&api).await {
        None => (StatusCode::OK, "ready", None),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", Some(reason)),
    };
    (code, Json(Health { status, reason }))
}

async fn obstacle(api: &Api) -> Option<&'static str> {
    if api.service.is_stalled() {
        return Some("commands are not being carried out");
    }
    match tokio::time::timeout(DATABASE_TIMEOUT, api.store.check_writable()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            Some("the database can't be written")
        }
        Err(_) => Some("the database does not answer"),
    }
}
