//! Where a request comes from.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

/// What the server knows of the client when a connection begins; an extension of each of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The client's address; behind a load balancer the one that its PROXY header tells.
    pub address: IpAddr,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
}

impl<S: Sync> FromRequestParts<S> for Remote {
    type Rejection = Infallible;

    /// Where nobody has said it, the client is nowhere, and not trusted.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let remote = parts.extensions.get().copied();
        Ok(remote.unwrap_or(Remote {
            address: Ipv4Addr::UNSPECIFIED.into(),
            is_tls: false,
        }))
    }
}
