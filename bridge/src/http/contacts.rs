//! Contacts, requests and blocks.

use utoipa_axum::router::OpenApiRouter;

use super::Api;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
}
