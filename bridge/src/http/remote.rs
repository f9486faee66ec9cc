//! Where a request comes from.

use std::net::IpAddr;

/// The client's end of the connection; an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    /// The client's address; behind a load balancer the one that its PROXY header tells.
    pub address: IpAddr,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
}
