//! What administrators do. All of it stands in the audit log, also where they read what is personal.

mod accounts;
mod log;
mod nodes;

use std::time::SystemTime;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use schema::Uid;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::bearer::Bearer;
use super::problem::Problem;
use crate::auth::Identity;
use crate::code::Code;
use crate::store;
use crate::store::audit::{self, Act};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(accounts::list))
        .routes(routes!(accounts::show, accounts::delete))
        .routes(routes!(accounts::kick))
        .routes(routes!(accounts::set_password))
        .routes(routes!(log::flags))
        .routes(routes!(log::settle_flag))
        .routes(routes!(log::audit))
        .routes(routes!(log::reload_words))
        .routes(routes!(nodes::list))
}

/// Rows of a page where the client doesn't say, and the most that it may ask for.
const LIMIT: (u32, u32) = (100, 500);

/// An administrator; a handler that takes it can't be reached by others.
pub(super) struct Admin(Identity);

impl Admin {
    pub(super) fn uid(&self) -> &Uid {
        &self.0.uid
    }
}

impl TryFrom<Identity> for Admin {
    type Error = Problem;

    fn try_from(identity: Identity) -> Result<Self, Problem> {
        if identity.admin {
            return Ok(Admin(identity));
        }
        let detail = "this is for administrators";
        Err(Problem::new(Code::PermissionDenied, detail))
    }
}

impl FromRequestParts<Api> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let Bearer(identity) = Bearer::from_request_parts(parts, api).await?;
        Admin::try_from(identity)
    }
}

impl Api {
    /// Adds to the audit log what needs no transaction of its own.
    pub(super) async fn note(&self, act: Act<'_>) -> Result<(), Problem> {
        let note = || async {
            let tx = self.store.begin().await?;
            audit::add(&tx, act, SystemTime::now()).await?;
            tx.commit().await.map_err(store::Error::from)
        };
        Ok(store::repeat(note).await?)
    }
}

fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    let (default, max) = LIMIT;
    match asked {
        None | Some(0) => Ok(default),
        Some(limit) if limit <= max => Ok(limit),
        Some(_) => {
            let detail = format!("limit is at most {max}");
            Err(Problem::new(Code::InvalidArgument, detail))
        }
    }
}
