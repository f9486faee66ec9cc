//! What happens to messages that are there: recall, edit, reactions, receipts; and those that are to be sent later.

use utoipa_axum::router::OpenApiRouter;

use super::Api;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
}
