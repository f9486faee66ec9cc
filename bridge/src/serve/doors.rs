//! Where a process listens.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use broker::Broker;
use broker::net::Entrance;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::certificates::Certificates;
use crate::http;
use crate::settings::{Secret, Settings};

/// The addresses that a process has taken. Over HTTP nobody is served yet: who comes has to wait.
pub(super) struct Bound {
    addresses: Addresses,
    certificates: Certificates,
    http: Vec<http::Port>,
}

/// Where a process listens, with its certificates and HTTP's task.
pub(super) struct Ports {
    addresses: Addresses,
    certificates: Certificates,
    http: HttpServer,
    /// Look whether certificates were replaced; they end with this.
    _watchers: JoinSet<()>,
}

/// The addresses, by kind of port, with the ports that the system chose.
#[derive(Default)]
struct Addresses {
    mqtt: Vec<SocketAddr>,
    mqtts: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    link: Vec<SocketAddr>,
}

/// HTTP's task.
struct HttpServer {
    task: JoinHandle<io::Result<()>>,
    stop: CancellationToken,
}

// === impl Bound ===

impl Bound {
    /// Takes the addresses of HTTP.
    pub(super) async fn new(
        settings: &Settings,
        certificates: Certificates,
    ) -> anyhow::Result<Self> {
        let mut http = http::bind(&settings.http.listen, None).await?;
        let secure = http::bind(&settings.https.listen, certificates.https.as_ref()).await?;
        let addresses = Addresses {
            http: local_addresses(&http)?,
            https: local_addresses(&secure)?,
            ..Addresses::default()
        };
        http.extend(secure);
        Ok(Bound {
            addresses,
            certificates,
            http,
        })
    }

    /// Has the edge listen for MQTT.
    pub(super) async fn open_mqtt(
        &mut self,
        broker: &Broker,
        settings: &Settings,
    ) -> Result<(), broker::Error> {
        for address in &settings.mqtt.listen {
            let opened = broker.listen(*address, None).await?;
            self.addresses.mqtt.push(opened);
        }
        for address in &settings.mqtts.listen {
            let tls = self.certificates.mqtts.clone();
            let opened = broker.listen(*address, tls).await?;
            self.addresses.mqtts.push(opened);
        }
        Ok(())
    }

    /// Has the edge wait for bridges.
    pub(super) async fn open_link(
        &mut self,
        broker: &Broker,
        settings: &Settings,
        secret: &Secret,
    ) -> Result<(), broker::Error> {
        for address in &settings.link.listen {
            let tls = self.certificates.link.clone();
            let opened = broker.listen_for_bridges(*address, tls, secret.expose());
            self.addresses.link.push(opened.await?);
        }
        Ok(())
    }

    /// Serves over HTTP.
    pub(super) fn serve(self, router: Router, entrance: Entrance, settings: &Settings) -> Ports {
        let mut watchers = JoinSet::new();
        self.certificates.follow(&mut watchers);
        Ports {
            addresses: self.addresses,
            certificates: self.certificates,
            http: HttpServer::start(self.http, router, entrance, settings),
            _watchers: watchers,
        }
    }
}

fn local_addresses(ports: &[http::Port]) -> io::Result<Vec<SocketAddr>> {
    ports.iter().map(http::Port::local_addr).collect()
}

// === impl Ports ===

impl Ports {
    /// Tells whoever has started the process that it is ready, and where.
    pub(super) fn announce(&self) {
        let addresses = &self.addresses;
        for (door, addresses) in [
            ("mqtt", &addresses.mqtt),
            ("mqtts", &addresses.mqtts),
            ("http", &addresses.http),
            ("https", &addresses.https),
            ("link", &addresses.link),
        ] {
            for address in addresses {
                println!("listening {door} {address}");
            }
        }
        println!("ready");
    }

    /// Where MQTT is.
    pub(super) fn mqtt(&self) -> &[SocketAddr] {
        &self.addresses.mqtt
    }

    /// Where HTTP is.
    pub(super) fn http(&self) -> &[SocketAddr] {
        &self.addresses.http
    }

    /// Returns when it can't go on.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        let ended = (&mut self.http.task).await;
        anyhow::anyhow!("the HTTP server ended: {ended:?}")
    }

    /// Reads the certificates again.
    pub(super) fn reload(&self) {
        self.certificates.reload();
    }

    /// Takes no more requests over HTTP.
    pub(super) fn close(&self) {
        self.http.stop.cancel();
    }

    /// Waits until the requests under way are answered.
    pub(super) async fn stop(self) {
        self.close();
        if self.http.task.is_finished() {
            return;
        }
        match self.http.task.await {
            Ok(Ok(())) => {}
            ended => warn!(?ended, "the HTTP server did not end well"),
        }
    }
}

// === impl HttpServer ===

impl HttpServer {
    fn start(
        ports: Vec<http::Port>,
        router: Router,
        entrance: Entrance,
        settings: &Settings,
    ) -> Self {
        let stop = CancellationToken::new();
        let connections_max = settings.http.max_connections;
        let serving = http::serve(ports, router, entrance, connections_max, stop.clone());
        HttpServer {
            task: tokio::spawn(serving),
            stop,
        }
    }
}
