//! One user's stream: opened, logged in, and asked.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::stanza::{Element, Scanner};

/// How long an answer may take: the five-hundredth who enters a room is told of all who are there.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is read at once.
const READ_SIZE: usize = 16 * 1024;

/// Where the users are, and what lets them in.
#[derive(Clone, Debug)]
pub struct Place {
    /// `HOST:PORT`
    pub address: String,
    pub domain: String,
    pub password: String,
}

/// The direction from the server.
#[derive(Debug)]
pub struct Incoming {
    socket: OwnedReadHalf,
    scanner: Scanner,
}

/// A user who is logged in.
#[derive(Debug)]
pub struct Session {
    pub incoming: Incoming,
    pub outgoing: OwnedWriteHalf,
}

impl Incoming {
    /// The next element that has come already.
    pub fn next(&mut self) -> Option<Element> {
        self.scanner.next()
    }

    /// Waits for more. Nothing is lost if it is dropped.
    pub async fn read(&mut self) -> Result<()> {
        self.scanner.buffer.reserve(READ_SIZE);
        let count = self.socket.read_buf(&mut self.scanner.buffer).await?;
        ensure!(count > 0, "the server has closed the stream");
        Ok(())
    }
}

impl Session {
    /// Logs in and binds a resource. The user gets no messages yet.
    pub async fn open(place: &Place, user: &str) -> Result<Session> {
        let socket = TcpStream::connect(&place.address)
            .await
            .context(place.address.clone())?;
        socket.set_nodelay(true)?;
        let (socket, outgoing) = socket.into_split();
        let incoming = Incoming {
            socket,
            scanner: Scanner::default(),
        };
        let mut session = Session { incoming, outgoing };
        session.start_stream(&place.domain).await?;
        let secret = BASE64_STANDARD.encode(format!("\0{user}\0{}", place.password));
        let auth = format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>"
        );
        session.send(&auth).await?;
        session
            .wait_for("being let in", |element| element.name() == "success")
            .await?;
        session.incoming.scanner = Scanner::default();
        session.start_stream(&place.domain).await?;
        session
            .ask(
                "a resource",
                "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
            )
            .await?;
        Ok(session)
    }

    /// Is there for messages from now on.
    pub async fn appear(&mut self) -> Result<()> {
        self.send("<presence/>").await?;
        // The server tells the user, too.
        self.wait_for("the own presence", |element| element.name() == "presence")
            .await?;
        Ok(())
    }

    /// Enters a room, without what was said in it before.
    pub async fn enter(&mut self, room: &str, nick: &str) -> Result<()> {
        let presence = format!(
            "<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>"
        );
        self.send(&presence).await?;
        // XEP-0045, 7.2.15: the subject is the last thing that one who enters is sent.
        self.wait_for("the room's subject", |element| {
            element.as_str().contains("<subject")
        })
        .await?;
        Ok(())
    }

    /// How many messages the archive holds, of the room or else of the user.
    pub async fn archived(&mut self, room: Option<&str>) -> Result<u64> {
        let to = room.map(|room| format!(" to='{room}'")).unwrap_or_default();
        // XEP-0059, 2.6: asking for none of them gets their number.
        let query = format!(
            "<iq type='set' id='count'{to}><query xmlns='urn:xmpp:mam:2'>\
             <set xmlns='http://jabber.org/protocol/rsm'><max>0</max></set></query></iq>"
        );
        let answer = self.ask("the archive", &query).await?;
        let count = answer
            .text("count")
            .with_context(|| format!("no count in {}", answer.as_str()))?;
        count.parse().context("the archive's count")
    }

    async fn start_stream(&mut self, domain: &str) -> Result<()> {
        let header = format!(
            "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='{domain}'>"
        );
        self.send(&header).await?;
        self.wait_for("the stream's features", |element| {
            element.name() == "stream:features"
        })
        .await?;
        Ok(())
    }

    async fn ask(&mut self, what: &str, iq: &str) -> Result<Element> {
        self.send(iq).await?;
        self.wait_for(what, |element| element.name() == "iq").await
    }

    async fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.outgoing.write_all(text.as_bytes()).await?)
    }

    /// The next element that is wanted; others are passed over, unless they are errors.
    async fn wait_for(
        &mut self,
        what: &str,
        is_wanted: impl Fn(&Element) -> bool,
    ) -> Result<Element> {
        let find = async {
            loop {
                while let Some(element) = self.incoming.next() {
                    let is_failure = matches!(element.name(), "failure" | "stream:error");
                    if is_failure || element.attribute("type") == Some("error") {
                        bail!("{}", element.as_str());
                    }
                    if is_wanted(&element) {
                        return Ok(element);
                    }
                }
                self.incoming.read().await?;
            }
        };
        timeout(PATIENCE, find)
            .await
            .context("it takes too long")
            .flatten()
            .with_context(|| format!("waiting for {what}"))
    }
}
