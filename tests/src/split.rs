//! A broker and its bridges, as processes of their own.

use anyhow::{Result, ensure};

use crate::client::Builder;
use crate::device;
use crate::http::Api;
use crate::proxy::Proxy;
use crate::server::{Folder, Program, Server, password_of};
use crate::wait::eventually;

/// What broker and bridges know.
pub const SECRET: &str = "what only brokers and bridges know";
/// What all bridges sign and check access tokens with.
const JWT_KEY: &str = "one key for all bridges of the broker";

/// A running broker with its bridges. A test ends with [`Split::finish`] or [`Split::stop`].
pub struct Split {
    /// What clients connect to.
    pub broker: Server,
    /// All that have been started.
    pub bridges: Vec<Server>,
}

/// A folder for a broker.
pub fn broker_folder() -> Result<Folder> {
    let folder = Folder::new()?.running(Program::Broker).with_own_ports()?;
    Ok(folder
        .setting("TIDINGS__LINK__SECRET", SECRET)
        // Not for its clients.
        .setting("TIDINGS__TOPICS__SYS_INTERVAL", "0"))
}

/// A folder for a bridge of the broker at that address.
pub fn bridge_folder(broker: &str) -> Result<Folder> {
    let folder = Folder::new()?.running(Program::Bridge).with_own_ports()?;
    Ok(folder
        .setting("TIDINGS__LINK__BROKER", broker)
        .setting("TIDINGS__LINK__SECRET", SECRET)
        .setting("TIDINGS__AUTH__JWT_KEY", JWT_KEY))
}

impl Split {
    /// A broker without bridges.
    pub async fn without_bridges() -> Result<Self> {
        Ok(Split {
            broker: Server::start_in(broker_folder()?, &[]).await?,
            bridges: Vec::new(),
        })
    }

    /// A broker and one bridge on a database of its own.
    pub async fn with_users(uids: &[&str]) -> Result<Self> {
        let mut split = Self::without_bridges().await?;
        let folder = bridge_folder(&split.address())?;
        split.add(folder, uids).await?;
        Ok(split)
    }

    /// The same, with a hand on the wire between the two.
    pub async fn with_proxy(uids: &[&str]) -> Result<(Self, Proxy)> {
        let mut split = Self::without_bridges().await?;
        let proxy = Proxy::to(split.broker.link()).await?;
        let folder = bridge_folder(&format!("mqtt://{}", proxy.address()))?;
        split.add(folder, uids).await?;
        Ok((split, proxy))
    }

    /// What `link.broker` of a bridge is.
    pub fn address(&self) -> String {
        format!("mqtt://{}", self.broker.link())
    }

    /// Starts one more bridge, and waits until it has joined.
    pub async fn add(&mut self, folder: Folder, uids: &[&str]) -> Result<()> {
        self.bridges.push(Server::start_in(folder, uids).await?);
        self.until_joined(self.bridges.len() - 1, true).await
    }

    /// How many of the broker's sessions a bridge has.
    pub async fn sessions_of(&self, bridge: usize) -> Result<usize> {
        let api = self.bridges[bridge].api();
        Ok(api.metric("tidings_sessions_served").await? as usize)
    }

    /// Waits until a bridge is joined, or is not.
    pub async fn until_joined(&self, bridge: usize, is_joined: bool) -> Result<()> {
        let status = if is_joined { 200 } else { 503 };
        self.bridges[bridge].api().until_ready(status).await
    }

    /// Waits until the broker has so many bridges.
    pub async fn until_bridges(&self, count: u32) -> Result<()> {
        let api = self.broker.api();
        eventually("the broker has its bridges", async || {
            Ok(api.metric("tidings_bridges").await? == f64::from(count))
        })
        .await
    }

    /// A device of `uid`, to be described and then connected.
    pub fn client(&self, uid: &str) -> Builder {
        self.broker.client(uid)
    }

    /// The same for plain topics.
    pub fn device(&self, uid: &str) -> device::Builder {
        self.broker.device(uid)
    }

    /// A user's access to the HTTP API of the first bridge.
    pub async fn login(&self, uid: &str) -> Result<Api> {
        self.bridges[0].api().login(uid, &password_of(uid)).await
    }

    /// Ends a test in which nothing should have gone wrong.
    pub async fn finish(self) -> Result<()> {
        for bridge in self.bridges {
            let log = bridge.log();
            bridge.finish().await?;
            ensure!(!log.contains("did not let this bridge go"), "{log}");
        }
        self.broker.finish().await
    }

    /// Ends a test, whatever stands in the logs.
    pub async fn stop(self) -> Result<()> {
        for bridge in self.bridges {
            bridge.stop().await?;
        }
        self.broker.stop().await
    }
}

/// What `/readyz` says.
pub async fn ready(api: &Api) -> Result<u16> {
    let answer = api.get("/readyz").await?;
    Ok(answer.status)
}
