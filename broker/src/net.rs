//! What every port has between the socket and the first byte that means something.
//!
//! [`Entrance`] finds out who has come (`proxy`) and whether there is room for one more of them ([`Guests`]); [`Tls`]
//! makes the handshake. All ports share one entrance, HTTP's too, so that an address has one limit and not one for
//! each. All of this happens in the connection's own task and within its time limit, never in an accept loop.

mod guests;
mod proxy;
mod tls;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::options::NetworkOptions;

pub(crate) use guests::Origin;
pub use guests::{Guests, Pass, Turned};
pub use proxy::ProxyError;
pub use tls::{Nameless, Tls, TlsError, TlsSettings, certified};

/// How often a crowd is told of.
const CROWD_INTERVAL: Duration = Duration::from_secs(10);

/// Tells who has come, and whether they may come in. Cheap to clone.
#[derive(Clone)]
pub struct Entrance(Arc<Inner>);

struct Inner {
    proxy_from: Vec<IpNet>,
    guests: Guests,
    turned: Crowd,
    headless: Crowd,
}

/// Somebody with an address.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The client's own; never IPv4 written as IPv6.
    pub address: IpAddr,
    /// Held for as long as the connection lasts.
    pub pass: Result<Pass, Turned>,
}

impl Entrance {
    /// An entrance with nobody inside.
    #[must_use]
    pub fn new(options: &NetworkOptions) -> Self {
        Entrance(Arc::new(Inner {
            proxy_from: options.proxy_from.clone(),
            guests: Guests::new(options),
            turned: Crowd::default(),
            headless: Crowd::default(),
        }))
    }

    /// Admits a connection from `address`. If that is a load balancer's, its header is taken from the front of the
    /// socket, and the client that it names is admitted. Takes as long as the header takes: set a limit.
    ///
    /// # Errors
    /// [`ProxyError`] when the balancer sends no header.
    pub async fn admit<S: AsyncRead + Unpin>(
        &self,
        socket: &mut S,
        address: IpAddr,
    ) -> Result<Visitor, ProxyError> {
        let address = address.to_canonical();
        if !is_within(&self.0.proxy_from, address) {
            return Ok(self.visitor(address));
        }
        match proxy::read(socket).await {
            Ok(Some(client)) => Ok(self.visitor(client.to_canonical())),
            // It speaks for itself, to see whether we are alive.
            Ok(None) => Ok(Visitor {
                address,
                pass: Ok(Pass::unlimited()),
            }),
            Err(error) => {
                self.blame(address, &error);
                Err(error)
            }
        }
    }

    /// A balancer without headers is an operator's mistake, and nobody comes in; one that only opens connections looks
    /// whether we are alive.
    fn blame(&self, balancer: IpAddr, error: &ProxyError) {
        if !matches!(error, ProxyError::Lost(_))
            && let Some(count) = self.0.headless.tell()
        {
            warn!(%balancer, %error, count, "a load balancer's connections are refused");
        }
    }

    fn visitor(&self, address: IpAddr) -> Visitor {
        let pass = self.0.guests.admit(address);
        if let Err(turned) = &pass
            && let Some(count) = self.0.turned.tell()
        {
            warn!(%address, reason = %turned, count, "connections are refused");
        }
        Visitor { address, pass }
    }
}

fn is_within(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// What comes of `opening` a connection before `deadline` and `stop`; `None`: nothing.
pub async fn in_time<T, E: std::error::Error>(
    opening: impl Future<Output = Result<T, E>>,
    deadline: tokio::time::Instant,
    stop: &CancellationToken,
) -> Option<T> {
    let outcome = tokio::select! {
        () = stop.cancelled() => return None,
        outcome = tokio::time::timeout_at(deadline, opening) => outcome,
    };
    match outcome {
        Ok(Ok(opened)) => Some(opened),
        Ok(Err(error)) => {
            debug!(%error, "a connection was not opened");
            None
        }
        Err(_) => None,
    }
}

/// Counts what comes in crowds, so that the log does not grow with them.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<(Option<Instant>, u64)>);

impl Crowd {
    /// Counts one more. `Some` when it is time to tell, with the number of those that have not been told of.
    pub fn tell(&self) -> Option<u64> {
        let (told, count) = &mut *self.0.lock();
        *count += 1;
        if told.is_some_and(|told| told.elapsed() < CROWD_INTERVAL) {
            return None;
        }
        *told = Some(Instant::now());
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
pub(crate) use tls::tests as tests_tls;

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCER: &str = "10.0.0.9";

    async fn admit(entrance: &Entrance, address: &str, mut bytes: &[u8]) -> (IpAddr, bool, usize) {
        let address = address.parse().unwrap();
        let visitor = entrance.admit(&mut bytes, address).await.unwrap();
        (visitor.address, visitor.pass.is_ok(), bytes.len())
    }

    #[tokio::test]
    async fn only_a_balancer_tells_who_has_come() {
        let entrance = Entrance::new(&NetworkOptions {
            proxy_from: vec!["10.0.0.0/24".parse().unwrap()],
            connects_per_second: 1,
            connects_burst: 1,
            ..NetworkOptions::default()
        });
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let header = proxy::tests::header("192.0.2.7:4711");
        let local = proxy::tests::local();

        // Its own address counts for nothing, whoever it speaks for.
        for _ in 0..3 {
            let balancer = BALANCER.parse().unwrap();
            assert_eq!(
                admit(&entrance, BALANCER, &local).await,
                (balancer, true, 0)
            );
        }
        let mapped = format!("::ffff:{BALANCER}");
        assert_eq!(admit(&entrance, &mapped, &header).await, (client, true, 0));
        assert_eq!(
            admit(&entrance, BALANCER, &header).await,
            (client, false, 0)
        );

        let stranger: IpAddr = "10.0.1.9".parse().unwrap();
        let untouched = (stranger, true, header.len());
        assert_eq!(admit(&entrance, "10.0.1.9", &header).await, untouched);
        let mut connect = &b"\x10\x0c\0\x04MQTT"[..];
        let outcome = entrance.admit(&mut connect, BALANCER.parse().unwrap());
        assert!(outcome.await.is_err());
    }

    #[test]
    fn a_crowd_is_told_of_once() {
        let crowd = Crowd::default();
        assert_eq!(crowd.tell(), Some(1));
        assert_eq!((crowd.tell(), crowd.tell()), (None, None));
        crowd.0.lock().0 = Instant::now().checked_sub(CROWD_INTERVAL);
        assert_eq!(crowd.tell(), Some(3));
        assert_eq!(crowd.tell(), None);
    }
}
