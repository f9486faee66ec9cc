//! What a broker without a service has to say over HTTP: how it is, and MQTT over WebSocket.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::{from_fn, map_response};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use broker::BrokerHandle;
use ipnet::IpNet;

use super::health::{Health, MOVING_OFF, report};
use super::problem::{self, Problem};
use super::remote::Remote;
use super::{metrics, server, websocket};
use crate::code::Code;

#[derive(Clone)]
struct Shared {
    broker: BrokerHandle,
    /// Who may read the metrics.
    metrics_from: Arc<[IpNet]>,
}

/// All routes.
pub fn router(broker: BrokerHandle, metrics_from: &[IpNet]) -> Router {
    let shared = Shared {
        broker: broker.clone(),
        metrics_from: metrics_from.into(),
    };
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(show))
        .fallback(async || {
            let detail = "there is nothing at this address: bridges have the HTTP API";
            Problem::new(Code::NotFound, detail)
        })
        .with_state(shared)
        .merge(websocket::router(broker))
        .layer(from_fn(server::limit_time))
        .layer(map_response(problem::from_response))
}

async fn alive(State(shared): State<Shared>) -> (StatusCode, Json<Health>) {
    report("ok", shared.broker.ailment(), None)
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, Json<Health>) {
    let obstacle = if shared.broker.is_moving_off() {
        Some(MOVING_OFF)
    } else if shared.broker.is_served() {
        None
    } else {
        Some("no bridge has joined")
    };
    report("ready", obstacle, None)
}

async fn show(
    State(shared): State<Shared>,
    remote: Option<Extension<Remote>>,
) -> Result<Response, Problem> {
    let address = remote.map(|Extension(remote)| remote.address);
    metrics::show_broker(&shared.broker, &shared.metrics_from, address)
}
