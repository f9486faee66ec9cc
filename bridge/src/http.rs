//! The HTTP door: JSON with a bearer token, for scripts, servers and the web client.
//!
//! Reading order: [`router`] (all routes), [`problem`] (how errors look), `bearer` (who is calling), then one module
//! per noun. Handlers translate; deciding is [`Service`]'s, and what people look at is [`crate::store::views`]'.

mod accounts;
mod admin;
mod apart;
mod bearer;
mod changes;
mod command;
mod contacts;
mod conversations;
mod devices;
mod export;
mod grants;
mod groups;
mod health;
mod media;
mod messages;
mod metrics;
mod presence;
pub mod problem;
mod receipts;
mod remote;
mod schema_docs;
mod search;
mod server;
mod standing;
mod users;
mod websocket;
mod write_limit;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use broker::BrokerHandle;
use ipnet::IpNet;
use tokio::sync::watch;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::problem::Problem;
use crate::auth::Auth;
use crate::code::Code;
use crate::service::Service;
use crate::store::Store;

pub use apart::router as broker_router;
pub use remote::Remote;
pub use server::{BindError, Port, bind, serve};

/// The largest body of a request, in bytes: a large group's list of members fits.
const BODY_MAX: usize = 1024 * 1024;
/// The same where anybody may ask: the longest password fits, even if JSON escapes each of its bytes.
const STRANGERS_BODY_MAX: usize = 16 * 1024;

/// Who has the sessions. Cheap to clone.
#[derive(Clone)]
pub enum Edge {
    /// This process.
    Here(BrokerHandle),
    /// A broker in a process of its own; whether this one is joined to it now.
    Apart(watch::Receiver<bool>),
}

impl Edge {
    fn here(&self) -> Option<&BrokerHandle> {
        match self {
            Edge::Here(broker) => Some(broker),
            Edge::Apart(_) => None,
        }
    }

    fn is_joined(&self) -> Option<bool> {
        match self {
            Edge::Here(_) => None,
            Edge::Apart(joined) => Some(*joined.borrow()),
        }
    }
}

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// For reading, and to ask whether it could be written to.
    store: Store,
    /// Accounts and tokens.
    auth: Auth,
    /// Takes all commands.
    service: Service,
    /// Takes WebSockets, and tells how it is.
    edge: Edge,
    started_at: Instant,
    /// Who may read the metrics without being an administrator.
    metrics_from: Arc<[IpNet]>,
    /// Tells whether the database can be written.
    probe: health::Probe,
}

impl Api {
    /// Everything together.
    #[must_use]
    pub fn new(
        store: Store,
        auth: Auth,
        service: Service,
        edge: Edge,
        metrics_from: &[IpNet],
    ) -> Self {
        Api {
            store,
            auth,
            service,
            edge,
            started_at: Instant::now(),
            metrics_from: metrics_from.into(),
            probe: health::Probe::default(),
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidings",
        description = "Instant messaging over MQTT; this is its HTTP side. Errors are RFC 9457 problem details."
    ),
    modifiers(&BearerScheme)
)]
struct Documentation;

struct BearerScheme;

impl Modify for BearerScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// All routes, with errors as problem details wherever they come from.
pub fn router(api: Api) -> Router {
    let for_strangers = OpenApiRouter::new()
        .routes(routes!(accounts::register))
        .routes(routes!(accounts::login))
        .routes(routes!(accounts::refresh))
        .layer(DefaultBodyLimit::max(STRANGERS_BODY_MAX));
    let (routes, document) = OpenApiRouter::with_openapi(Documentation::openapi())
        .merge(for_strangers)
        .routes(routes!(accounts::logout))
        .routes(routes!(accounts::change_password))
        .routes(routes!(command::up))
        .merge(users::routes())
        .merge(contacts::routes())
        .merge(groups::routes())
        .merge(conversations::routes())
        .merge(standing::routes())
        .merge(changes::routes())
        .merge(messages::routes())
        .merge(media::routes())
        .merge(receipts::routes())
        .merge(presence::routes())
        .merge(search::routes())
        .merge(admin::routes())
        .merge(export::routes())
        .routes(routes!(accounts::delete))
        .routes(routes!(grants::list, grants::set))
        .routes(routes!(devices::list))
        .routes(routes!(devices::forget))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::show))
        .split_for_parts();
    let document = schema_docs::complete(&document).expect("names and texts make JSON");
    let document = axum::Json(document);
    let websocket = api.edge.here().cloned().map(websocket::router);
    routes
        .merge(websocket.unwrap_or_default())
        .route("/openapi.json", get(async move || document.clone()))
        .fallback(async || Problem::new(Code::NotFound, "there is nothing at this address"))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn(server::limit_time))
        .layer(map_response(problem::from_response))
        .with_state(api)
}

/// A JSON answer that no cache may keep.
fn private(body: impl serde::Serialize) -> Response {
    let no_store = (axum::http::header::CACHE_CONTROL, "no-store");
    ([no_store], axum::Json(body)).into_response()
}
