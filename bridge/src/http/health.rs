//! For whoever watches the process.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use broker::BrokerHandle;
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::Api;
use crate::store::{Store, chain};

/// How long the database may take to begin a write. Whoever asks has the answer within 2 s.
const DATABASE_TIMEOUT: Duration = Duration::from_millis(1800);
/// How long a probe's outcome holds. Anybody may ask, and each probe takes a turn of the only connection that writes.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Why a server that is about to stop is not ready.
pub(super) const MOVING_OFF: &str = "sessions are moved to other servers";

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What is done without.
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<&'static str>,
}

/// Whether the process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "health",
    responses(
        (status = 200, description = "It is.", body = Health),
        (status = 503, description = "A part of it is not, for the moment; `reason` says which.", body = Health),
    )
)]
pub(super) async fn alive(State(api): State<Api>) -> (StatusCode, Json<Health>) {
    report("ok", api.edge.here().and_then(BrokerHandle::ailment), None)
}

/// Whether commands can be carried out now.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "They can; perhaps `degraded`.", body = Health),
        (status = 503, description = "They can't; `reason` says why.", body = Health),
    )
)]
pub(super) async fn ready(State(api): State<Api>) -> (StatusCode, Json<Health>) {
    report("ready", obstacle(&api).await, degraded(&api))
}

pub(super) fn report(
    fine: &'static str,
    obstacle: Option<&'static str>,
    degraded: Option<&'static str>,
) -> (StatusCode, Json<Health>) {
    let (code, status) = match obstacle {
        None => (StatusCode::OK, fine),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let health = Health {
        status,
        reason: obstacle,
        degraded,
    };
    (code, Json(health))
}

fn degraded(api: &Api) -> Option<&'static str> {
    if api.service.redis().is_some_and(|redis| !redis.is_there()) {
        return Some("Redis is away");
    }
    let figures = api.service.bus().figures();
    let is_deaf = figures.is_some_and(|figures| !figures.is_up);
    is_deaf.then_some("other nodes are not heard")
}

async fn obstacle(api: &Api) -> Option<&'static str> {
    if api.edge.here().is_some_and(BrokerHandle::is_moving_off) {
        return Some(MOVING_OFF);
    }
    if api.edge.is_joined() == Some(false) {
        return Some("no broker is joined");
    }
    if api.service.is_stalled() {
        return Some("commands are not being carried out");
    }
    let store = api.store.clone();
    api.probe
        .outcome(async move || try_writing(store).await)
        .await
}

async fn try_writing(store: Store) -> Option<&'static str> {
    match tokio::time::timeout(DATABASE_TIMEOUT, store.check_writable()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), "not ready");
            Some("the database can't be written")
        }
        Err(_) => Some("the database does not answer"),
    }
}

/// One probe at a time; all who ask meanwhile, or shortly after, share its outcome. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Probe {
    last: Arc<Mutex<Option<Outcome>>>,
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    at: Instant,
    obstacle: Option<&'static str>,
}

impl Probe {
    /// What stands in the way, by `probe` or the last one.
    async fn outcome<F>(&self, probe: impl FnOnce() -> F) -> Option<&'static str>
    where
        F: Future<Output = Option<&'static str>> + Send + 'static,
    {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some(outcome) = *last
            && outcome.at.elapsed() < PROBE_INTERVAL
        {
            return outcome.obstacle;
        }
        let probe = probe();
        // In a task of its own: those who come after need not begin again when the one who asked leaves.
        let probing = tokio::spawn(async move {
            let obstacle = probe.await;
            let at = Instant::now();
            *last = Some(Outcome { at, obstacle });
            obstacle
        });
        probing.await.unwrap_or(Some("the check failed"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_obstacle_is_told_with_its_status() {
        for (obstacle, degraded, status, text) in [
            (None, None, 200, serde_json::json!({"status": "ok"})),
            (
                None,
                Some("a shoe is missing"),
                200,
                serde_json::json!({"status": "ok", "degraded": "a shoe is missing"}),
            ),
            (
                Some("wet paint"),
                None,
                503,
                serde_json::json!({"status": "unavailable", "reason": "wet paint"}),
            ),
        ] {
            let (code, Json(health)) = report("ok", obstacle, degraded);
            assert_eq!(code.as_u16(), status);
            assert_eq!(serde_json::to_value(health).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn many_who_ask_share_a_probe() {
        let (probe, begun) = (Probe::default(), Arc::new(AtomicUsize::new(0)));
        let ask = {
            let (probe, begun) = (probe.clone(), begun.clone());
            move || {
                let (probe, begun) = (probe.clone(), begun.clone());
                async move {
                    let slow = async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Some("wet paint")
                    };
                    let counted = || {
                        begun.fetch_add(1, Ordering::Relaxed);
                        slow
                    };
                    probe.outcome(counted).await
                }
            }
        };
        // One who leaves at once takes nobody's answer along.
        let impatient = tokio::time::timeout(Duration::from_millis(1), ask()).await;
        assert!(impatient.is_err());
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..100 {
            asking.spawn(ask());
        }
        for outcome in asking.join_all().await {
            assert_eq!(outcome, Some("wet paint"));
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1);

        tokio::time::sleep(PROBE_INTERVAL).await;
        ask().await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_database_that_someone_else_writes_is_noticed_in_time() {
        let (store, folder) = Store::fresh().await;
        let url = Store::sqlite_url(folder.path());
        assert_eq!(try_writing(store.clone()).await, None);

        // The lock of another process, and our own connection in use.
        for holder in [Store::connect(&url).await.unwrap(), store.clone()] {
            let held = holder.begin().await.unwrap();
            let asked_at = Instant::now();
            assert!(try_writing(store.clone()).await.is_some());
            assert!(asked_at.elapsed() < Duration::from_secs(2));
            held.rollback().await.unwrap();
        }
        assert_eq!(try_writing(store).await, None);
    }
}
