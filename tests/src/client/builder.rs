//! What a device is, before it connects.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use schema::Format;

use super::Client;
use super::mail::Mail;
use crate::link::{Acks, Dial, Link, Opened, Session, Version, Will};
use crate::server::password_of;
use crate::tunnel::Tunnel;

/// A device that is still to connect.
#[derive(Clone, Debug)]
pub struct Builder {
    uid: String,
    format: Format,
    dial: Dial,
}

impl Builder {
    pub(crate) fn new(address: SocketAddr, uid: &str) -> Self {
        Builder {
            uid: uid.into(),
            format: Format::Protobuf,
            dial: Dial {
                address,
                version: Version::V4,
                client_id: format!("{uid}-phone"),
                login: Some((uid.into(), password_of(uid))),
                session: Session::Clean,
                acks: Acks::Automatic,
                will: None,
            },
        }
    }

    /// The device's name, which is its MQTT client id.
    pub fn device(mut self, client_id: &str) -> Self {
        self.dial.client_id = client_id.into();
        self
    }

    /// Not to the server itself, but into a tunnel that leads there.
    pub fn through(mut self, tunnel: &Tunnel) -> Self {
        self.dial.address = tunnel.address();
        self
    }

    /// MQTT 5 instead of 3.1.1.
    pub fn v5(self) -> Self {
        self.version(Version::V5)
    }

    pub fn version(mut self, version: Version) -> Self {
        self.dial.version = version;
        self
    }

    /// JSON instead of protobuf.
    pub fn json(self) -> Self {
        self.format(Format::Json)
    }

    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Another password, or a token.
    pub fn password(mut self, password: &str) -> Self {
        self.dial.login = Some((self.uid.clone(), password.into()));
        self
    }

    /// Neither username nor password.
    pub fn anonymous(mut self) -> Self {
        self.dial.login = None;
        self
    }

    /// A session that outlives the connection.
    pub fn kept_session(mut self) -> Self {
        self.dial.session = Session::Kept;
        self
    }

    /// PUBACKs only by [`Client::acknowledge`].
    pub fn manual_acks(mut self) -> Self {
        self.dial.acks = Acks::ByTest;
        self
    }

    /// A last will.
    pub fn will(mut self, topic: &str, payload: &str) -> Self {
        self.dial.will = Some(Will {
            topic: topic.into(),
            payload: payload.into(),
        });
        self
    }

    /// Connects.
    pub async fn connect(self) -> Result<Client> {
        let opened = Link::open(&self.dial)
            .await
            .with_context(|| format!("connecting {self}"))?;
        match opened {
            Opened::Accepted(link, accepted) => Ok(Client {
                uid: self.uid,
                device: self.dial.client_id,
                format: self.format,
                accepted,
                link,
                mail: Mail::default(),
            }),
            Opened::Refused(code) => bail!("{self} was refused: CONNACK {code:#04x}"),
        }
    }

    /// Connects and subscribes to the user's down topic: what every chat client does.
    pub async fn online(self) -> Result<Client> {
        let mut client = self.connect().await?;
        client.subscribe_down().await?;
        Ok(client)
    }

    /// Expects to be refused; returns the code in the CONNACK.
    pub async fn refused(self) -> Result<u8> {
        let opened = Link::open(&self.dial)
            .await
            .with_context(|| format!("connecting {self}"))?;
        match opened {
            Opened::Refused(code) => Ok(code),
            Opened::Accepted(..) => bail!("{self} was let in"),
        }
    }
}

impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uid, device, version) = (&self.uid, &self.dial.client_id, self.dial.version);
        write!(f, "{uid}'s {device} ({version:?}, {:?})", self.format)
    }
}
