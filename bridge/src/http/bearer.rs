//! Who is calling, by the `Authorization` header.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::Api;
use super::problem::Problem;
use crate::auth::Identity;
use crate::code::Code;

/// The caller's identity; a handler that takes it can't be reached without a valid access token.
pub(super) struct Bearer(pub Identity);

impl FromRequestParts<Api> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let token = token(parts).ok_or_else(|| {
            Problem::new(
                Code::Unauthenticated,
                "an Authorization header with a bearer token is needed",
            )
        })?;
        let identity = api.auth.verify_access(token).map_err(|_| {
            Problem::new(
                Code::Unauthenticated,
                "the access token is not (any longer) valid",
            )
        })?;
        Ok(Bearer(identity))
    }
}

fn token(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
