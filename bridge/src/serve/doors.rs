//! Where a process listens.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use broker::Broker;
use broker::net::Entrance;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::certificates::Certificates;
use crate::http;
use crate::settings::{Secret, Settings};

/// The addresses, by kind of port, with the ports that the system chose.
#[derive(Default)]
pub(super) struct Addresses {
    pub(super) mqtt: Vec<SocketAddr>,
    mqtts: Vec<SocketAddr>,
    pub(super) http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    link: Vec<SocketAddr>,
}

impl Addresses {
    /// Tells whoever has started the process that it is ready, and where.
    pub(super) fn announce(&self) {
        for (door, addresses) in [
            ("mqtt", &self.mqtt),
            ("mqtts", &self.mqtts),
            ("http", &self.http),
            ("https", &self.https),
            ("link", &self.link),
        ] {
            for address in addresses {
                println!("listening {door} {address}");
            }
        }
        println!("ready");
    }

    /// Has the edge listen for MQTT.
    pub(super) async fn open_mqtt(
        &mut self,
        broker: &Broker,
        settings: &Settings,
        certificates: &Certificates,
    ) -> Result<(), broker::Error> {
        for address in &settings.mqtt.listen {
            self.mqtt.push(broker.listen(*address, None).await?);
        }
        for address in &settings.mqtts.listen {
            let tls = certificates.mqtts.clone();
            self.mqtts.push(broker.listen(*address, tls).await?);
        }
        Ok(())
    }

    /// Has the edge wait for bridges.
    pub(super) async fn open_link(
        &mut self,
        broker: &Broker,
        settings: &Settings,
        certificates: &Certificates,
        secret: &Secret,
    ) -> Result<(), broker::Error> {
        for address in &settings.link.listen {
            let tls = certificates.link.clone();
            let opened = broker.listen_for_bridges(*address, tls, secret.expose());
            self.link.push(opened.await?);
        }
        Ok(())
    }

    /// Takes the addresses of HTTP; who comes has to wait until it is [served](HttpServer::start).
    pub(super) async fn bind_http(
        &mut self,
        settings: &Settings,
        certificates: &Certificates,
    ) -> anyhow::Result<Vec<http::Port>> {
        let mut ports = http::bind(&settings.http.listen, None).await?;
        let secure = http::bind(&settings.https.listen, certificates.https.as_ref()).await?;
        self.http = local_addresses(&ports)?;
        self.https = local_addresses(&secure)?;
        ports.extend(secure);
        Ok(ports)
    }
}

fn local_addresses(ports: &[http::Port]) -> io::Result<Vec<SocketAddr>> {
    ports.iter().map(http::Port::local_addr).collect()
}

/// HTTP's task.
pub(super) struct HttpServer {
    task: JoinHandle<io::Result<()>>,
    stop: CancellationToken,
}

impl HttpServer {
    pub(super) fn start(
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

    /// Returns when it can't go on.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        let ended = (&mut self.task).await;
        anyhow::anyhow!("the HTTP server ended: {ended:?}")
    }

    /// Takes no more requests.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }

    /// Waits until the requests under way are answered.
    pub(super) async fn stop(self) {
        self.close();
        if self.task.is_finished() {
            return;
        }
        match self.task.await {
            Ok(Ok(())) => {}
            ended => warn!(?ended, "the HTTP server did not end well"),
        }
    }
}
