//! Users: finding them, the caller's own profile, settings and presence.

use utoipa_axum::router::OpenApiRouter;

use super::Api;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
}
