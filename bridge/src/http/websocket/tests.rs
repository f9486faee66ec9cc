//! A client that writes its frames by hand, against a real server.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::map_response;
use broker::codec::{Connect, Packet, ReasonCode, Version, decode};
use broker::net::Entrance;
use broker::{Authenticate, Broker, Credentials, Identity, Refusal};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;

use broker::net::Tls;

use super::*;
use crate::http::problem;
use crate::http::server::tests::certificate;
use crate::http::{bind, serve};
use crate::serve::broker_options;
use crate::settings::Settings;

const PATIENCE: Duration = Duration::from_secs(20);

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Set in the last frame of a message.
const FIN: u8 = 0x80;

/// Lets everybody in.
struct Anybody;

impl Authenticate for Anybody {
    fn authenticate<'a>(
        &'a self,
        _: Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send + 'a>> {
        Box::pin(std::future::ready(Ok(Identity {
            uid: "alice".parse().unwrap(),
            login: None,
            password_set_at: None,
            expires_at: None,
            is_admin: false,
            as_of: 0,
        })))
    }

    fn is_revoked(&self, _: &Identity) -> bool {
        false
    }
}

/// A broker behind HTTP, which has a single connection to give.
struct Server {
    broker: Broker,
    _link: broker::link::BridgeLink,
    address: SocketAddr,
}

async fn start(tls: Option<&Tls>) -> Server {
    let options = broker_options(&Settings::defaults());
    let (broker, link) =
        Broker::start(options, broker::Rules::default(), Arc::new(Anybody)).unwrap();
    let entrance = broker.handle().entrance();
    let router = router(broker.handle())
        .route("/", get(async || "hello"))
        .layer(map_response(problem::from_response));
    Server {
        broker,
        _link: link,
        address: run(router, entrance, tls).await,
    }
}

async fn run(router: Router, entrance: Entrance, tls: Option<&Tls>) -> SocketAddr {
    let ports = bind(&["127.0.0.1:0".parse().unwrap()], tls).await.unwrap();
    let address = ports[0].local_addr().unwrap();
    let serving = serve(ports, router, entrance, 1, CancellationToken::new());
    tokio::spawn(async { serving.await.unwrap() });
    address
}

/// What is told to `handle`, which gets the bytes of one WebSocket.
async fn start_with<F>(
    handle: impl Fn(ByteStream) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let connect = async move |upgrade: WebSocketUpgrade| {
        let upgrade = limited(upgrade, 100_000).protocols([SUBPROTOCOL]);
        upgrade.on_upgrade(move |socket| handle(ByteStream::new(socket)))
    };
    let router = Router::new().route("/mqtt", get(connect));
    run(router, Entrance::new(&Default::default()), None).await
}

/// Sends back what it gets.
async fn echo(stream: ByteStream) {
    let (mut from, mut to) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

struct Client<S> {
    socket: S,
}

/// The head of the answer to a request with these headers, and the connection.
async fn request<S>(mut socket: S, headers: &str) -> (String, Client<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!("GET /mqtt HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, socket.read_u8()).await.unwrap();
        head.push(byte.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    (head, Client { socket })
}

fn upgrade_headers(subprotocols: &str) -> String {
    format!(
        "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://elsewhere.example\r\n{subprotocols}"
    )
}

async fn open(address: SocketAddr) -> Client<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    let offer = "sec-websocket-protocol: mqttv3.1, mqtt\r\n";
    let (head, client) = request(socket, &upgrade_headers(offer)).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    // [MQTT-6.0.0-4]
    assert!(head.contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
    client
}

fn connect_packet() -> BytesMut {
    let connect = Connect {
        version: Version::V5,
        client_id: "browser".into(),
        keep_alive: 0,
        clean_start: true,
        username: Some("alice".into()),
        password: None,
        will: None,
        properties: None,
    };
    let mut bytes = BytesMut::new();
    Packet::Connect(Box::new(connect)).encode(Version::V5, &mut bytes);
    bytes
}

/// A frame of a client, which has to be masked: with zeros, so that the payload stays readable.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![head];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        long @ ..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
        longest => {
            frame.push(0x80 | 127);
            frame.extend((longest as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, head: u8, payload: &[u8]) {
        self.socket.write_all(&frame(head, payload)).await.unwrap();
    }

    /// The next frame; `None` when the server has closed.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let head = self.socket.read_u8().await?;
            let length = match self.socket.read_u8().await? {
                126 => self.socket.read_u16().await?.into(),
                127 => self.socket.read_u64().await?,
                length => length.into(),
            };
            let mut payload = vec![0; length as usize];
            self.socket.read_exact(&mut payload).await?;
            assert_eq!(head & FIN, FIN);
            Ok::<_, io::Error>((head & !FIN, payload))
        };
        timeout(PATIENCE, read).await.expect("no frame").ok()
    }

    /// The bytes of as many binary frames as `length` takes.
    async fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let (opcode, payload) = self.next().await.expect("the server closed");
            assert_eq!(opcode, BINARY);
            assert!(payload.len() <= FRAME_MAX);
            bytes.extend(payload);
        }
        bytes
    }

    async fn packet(&mut self) -> Packet {
        let mut bytes = BytesMut::new();
        loop {
            if let Some(packet) = decode(Version::V5, &mut bytes, 10_000).unwrap() {
                assert!(bytes.is_empty());
                return packet;
            }
            bytes.extend_from_slice(&self.bytes(1).await);
        }
    }

    /// The code of the next frame, which closes, and then the end.
    async fn closed(&mut self) -> u16 {
        let (opcode, payload) = self.next().await.expect("a close frame");
        assert_eq!(opcode, CLOSE);
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

#[tokio::test]
async fn a_packet_may_come_in_frames_and_a_frame_with_packets() {
    let server = start(None).await;
    let mut client = open(server.address).await;
    let connect = connect_packet();
    client.send(BINARY, &connect[..1]).await;
    client.send(CONTINUATION, &[]).await;
    client.send(CONTINUATION | FIN, &connect[1..5]).await;
    client.send(BINARY | FIN, &[]).await;
    client.send(PING | FIN, b"alive?").await;
    assert_eq!(client.next().await.unwrap(), (PONG, b"alive?".to_vec()));
    // The rest of CONNECT, and a PINGREQ of which the end is missing.
    let packed = [&connect[5..], &[0xC0]].concat();
    client.send(BINARY | FIN, &packed).await;
    let Packet::ConnAck(connack) = client.packet().await else {
        panic!("no CONNACK");
    };
    assert_eq!(connack.reason, ReasonCode::Success);
    client.send(BINARY | FIN, &[0, 0xC0, 0, 0xC0, 0]).await;
    assert_eq!(client.bytes(6).await, [0xD0, 0, 0xD0, 0, 0xD0, 0]);
}

#[tokio::test]
async fn text_ends_the_connection() {
    let server = start(None).await;
    for sent_before in [BytesMut::new(), connect_packet()] {
        let mut client = open(server.address).await;
        if !sent_before.is_empty() {
            client.send(BINARY | FIN, &sent_before).await;
            client.packet().await;
        }
        client.send(TEXT | FIN, b"hello").await;
        // [MQTT-6.0.0-1]
        assert_eq!(client.closed().await, close_code::UNSUPPORTED);
        client.send(CLOSE | FIN, &[]).await;
        assert_eq!(client.next().await, None);
    }
}

#[tokio::test]
async fn stopping_says_goodbye() {
    let server = start(None).await;
    let mut client = open(server.address).await;
    client.send(BINARY | FIN, &connect_packet()).await;
    client.packet().await;
    let leaving = async {
        let goodbye = client.packet().await;
        assert!(matches!(goodbye, Packet::Disconnect(_)));
        assert_eq!(client.closed().await, close_code::NORMAL);
        client.send(CLOSE | FIN, &[]).await;
        assert_eq!(client.next().await, None);
    };
    tokio::join!(server.broker.stop(PATIENCE), leaving);
}

#[tokio::test]
async fn a_websocket_leaves_http_its_place() {
    let server = start(None).await;
    let mut first = open(server.address).await;
    let mut second = open(server.address).await;
    for client in [&mut first, &mut second] {
        client.send(PING | FIN, b"").await;
        assert_eq!(client.next().await.unwrap().0, PONG);
    }
    // It closes when the client does.
    first.send(CLOSE | FIN, &1000_u16.to_be_bytes()).await;
    assert_eq!(first.closed().await, close_code::NORMAL);
    assert_eq!(first.next().await, None);
}

#[tokio::test]
async fn what_is_no_websocket_of_mqtt_is_told_so() {
    let server = start(None).await;
    let none = upgrade_headers("");
    let other = upgrade_headers("sec-websocket-protocol: mqttv3.1, MQTT\r\n");
    let old = upgrade_headers("").replace("version: 13", "version: 8");
    for (headers, status) in [("", "426"), (&old, "426"), (&none, "400"), (&other, "400")] {
        let last = format!("{headers}x: y\r\n").replace("keep-alive", "close");
        let socket = TcpStream::connect(server.address).await.unwrap();
        let (head, client) = request(socket, &last).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert!(head.contains("content-type: application/problem+json"));
        assert_eq!(head.contains("\r\nupgrade: websocket"), status == "426");
        drop(client);
    }
}

#[tokio::test]
async fn over_tls_it_is_the_same() {
    let (tls, connector) = certificate();
    let server = start(Some(&tls)).await;
    let socket = TcpStream::connect(server.address).await.unwrap();
    let localhost = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(localhost, socket).await.unwrap();
    let offer = upgrade_headers("sec-websocket-protocol: mqtt\r\n");
    let (head, mut client) = request(stream, &offer).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    client.send(BINARY | FIN, &connect_packet()).await;
    assert!(matches!(client.packet().await, Packet::ConnAck(_)));
}

#[tokio::test]
async fn large_messages_come_through_up_to_the_limit() {
    let address = start_with(echo).await;
    let mut client = open(address).await;
    let payload: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    client.send(BINARY | FIN, &payload).await;
    assert!(client.bytes(payload.len()).await == payload);
    let (first, second) = payload.split_at(60_000);
    client.send(BINARY, first).await;
    client.send(CONTINUATION | FIN, second).await;
    assert!(client.bytes(payload.len()).await == payload);

    // Refused by what it announces.
    client.send(BINARY, first).await;
    let too_long = frame(CONTINUATION | FIN, &payload);
    client.socket.write_all(&too_long).await.unwrap();
    assert_eq!(client.closed().await, close_code::PROTOCOL);
    client.send(CLOSE | FIN, &[]).await;
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_written_for() {
    let (told, mut written) = mpsc::unbounded_channel();
    let fill = move |mut stream: ByteStream| {
        let told = told.clone();
        async move {
            let mut sent = 0;
            let block = [7; 64 * 1024];
            // Until the way is blocked; the socket's own buffers take some megabytes.
            let full = poll_fn(|context| {
                while sent < 256 * 1024 * 1024 {
                    match Pin::new(&mut stream).poll_write(context, &block) {
                        Poll::Ready(taken) => sent += taken.unwrap(),
                        Poll::Pending => return Poll::Ready(true),
                    }
                }
                Poll::Ready(false)
            });
            assert!(full.await, "it took everything");
            told.send(sent).unwrap();
            stream.shutdown().await.unwrap();
        }
    };
    let mut client = open(start_with(fill).await).await;
    let sent = timeout(PATIENCE, written.recv()).await.unwrap().unwrap();
    // All that was taken arrives, and nothing else.
    assert_eq!(client.bytes(sent).await.len(), sent);
    assert_eq!(client.closed().await, close_code::NORMAL);
}
