//! MQTT over WebSocket at `/mqtt` (chapter 6 of both standards), on the port of the HTTP API.

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::raw::{PINGREQ_PACKET, subscribe};
use tidings_tests::server::Folder;
use tidings_tests::tunnel::Through;
use tidings_tests::websocket::{self, SUBPROTOCOL, Socket};
use tidings_tests::{PATIENCE, Server, up};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::connect_packet;

const VERSIONS: [Version; 2] = [V4, V5];

/// Chat, over WebSocket and over WebSocket within TLS, with clients who use neither.
#[tokio::test]
async fn chat_over_websocket() -> Result<()> {
    let server = Server::start_in(Folder::with_tls()?, &["alice", "bob"]).await?;
    let mut bob = server.client("bob").online().await?;
    for through in [Through::Ws, Through::Wss] {
        let tunnel = server.tunnel(through).await?;
        for version in VERSIONS {
            let alice = server.client("alice").version(version).through(&tunnel);
            let mut alice = alice.online().await?;
            // More than fits into one frame of most clients.
            let long = "x".repeat(60_000);
            let sent = alice.say(up::user("bob"), &long).await?;
            assert_eq!(bob.message().await?.msg_id, sent.msg_id);
            let sent = bob.say(up::user("alice"), &long).await?;
            assert_eq!(alice.message().await?.msg_id, sent.msg_id);
            alice.disconnect().await?;
        }
    }
    server.finish().await
}

/// [MQTT-6.0.0-2] A frame may hold a part of a packet, or several packets.
#[tokio::test]
async fn packets_and_frames_are_not_the_same() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let mut socket = open(&server).await?;
        for byte in connect_packet(version, "browser") {
            socket.send(Message::binary(vec![byte])).await?;
        }
        let connack = bytes(&mut socket, 4).await?;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
        // In MQTT 5 there is more of it; let it pass.
        while !matches!(ping(&mut socket).await?[..], [.., 0xD0, 0]) {}

        let subscribe = subscribe(version, "dev/alice/x", 0);
        let both = [&subscribe, PINGREQ_PACKET].concat();
        let (one, other) = both.split_at(both.len() - 1);
        socket.send(Message::binary(one.to_vec())).await?;
        // An empty frame holds no part of a packet, and a ping of WebSocket is none of MQTT's business.
        socket.send(Message::binary(vec![])).await?;
        socket.send(Message::Ping("?".into())).await?;
        socket.send(Message::binary(other.to_vec())).await?;
        let answers = bytes(&mut socket, 5 + 2).await?;
        assert_eq!(answers[0], 0x90, "{answers:02x?}");
    }
    server.finish().await
}

/// [MQTT-6.0.0-1] A frame that is not binary ends the connection; so does one that is larger than any packet may be.
#[tokio::test]
async fn other_frames_close() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let huge = vec![0; 4 * 1024 * 1024];
        for (name, frame) in [
            ("text", Message::text("hello")),
            ("huge", Message::binary(huge)),
        ] {
            let mut socket = open(&server).await?;
            socket
                .send(Message::binary(connect_packet(version, "browser")))
                .await?;
            bytes(&mut socket, 4).await?;
            // The server may close before all of it is written.
            let _ = socket.send(frame).await;
            closed(&mut socket).await.context(name)?;
        }
    }
    server.finish().await
}

/// [MQTT-6.0.0-3] A client offers the subprotocol `mqtt`; one that does not is refused, like one that wants no WebSocket.
#[tokio::test]
async fn the_subprotocol_is_needed() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for (path, offered) in [
        ("/mqtt", &[][..]),
        ("/mqtt", &["wamp", "mqtt2"]),
        ("/elsewhere", &[SUBPROTOCOL]),
    ] {
        let below = TcpStream::connect(server.http()).await?;
        match websocket::ask(Box::new(below), server.http(), path, offered).await? {
            Err(status) => ensure!((400..500).contains(&status), "{path}: {status}"),
            Ok(_) => bail!("{path} was opened for {offered:?}"),
        }
    }
    let no_websocket = server.api().get("/mqtt").await?;
    ensure!(
        (400..500).contains(&no_websocket.status),
        "{no_websocket:?}"
    );

    // Among others it is found.
    let below = TcpStream::connect(server.http()).await?;
    let offered = ["wamp", SUBPROTOCOL];
    let asked = websocket::ask(Box::new(below), server.http(), "/mqtt", &offered).await?;
    ensure!(asked.is_ok(), "refused");
    server.finish().await
}

async fn open(server: &Server) -> Result<Socket> {
    let below = TcpStream::connect(server.http()).await?;
    websocket::open(Box::new(below), server.http()).await
}

/// What has come when there are at least this many bytes.
async fn bytes(socket: &mut Socket, count: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reading = async {
        while bytes.len() < count {
            match socket.next().await.context("it was closed")?? {
                Message::Binary(more) => bytes.extend(more),
                Message::Pong(_) | Message::Ping(_) => {}
                other => bail!("{other:?} instead of bytes"),
            }
        }
        Ok(bytes)
    };
    timeout(PATIENCE, reading).await?
}

async fn ping(socket: &mut Socket) -> Result<Vec<u8>> {
    socket.send(Message::binary(PINGREQ_PACKET)).await?;
    bytes(socket, 2).await
}

async fn closed(socket: &mut Socket) -> Result<()> {
    let ending = async {
        while let Some(Ok(message)) = socket.next().await {
            // MQTT 5 may say why.
            ensure!(
                message.is_close() || message.is_binary(),
                "{message:?} instead of the end"
            );
        }
        Ok(())
    };
    timeout(PATIENCE, ending).await?
}
