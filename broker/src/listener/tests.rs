//! Through real sockets, to the CONNACK.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::BytesMut;
use schema::Uid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;
use crate::broker::Broker;
use crate::codec::{ConnAck, Connect, Packet, Version, decode};
use crate::identity::{Authenticate, Credentials, Identity, Refusal};
use crate::link::BridgeLink;
use crate::net::tests_tls::Authority;
use crate::options::NetworkOptions;
use crate::plain::policy::Rules;

const PATIENCE: Duration = Duration::from_secs(20);

/// Lets everybody in: as who the certificate says, or else as bob.
struct Anybody;

impl Authenticate for Anybody {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send + 'a>> {
        let bob = || "bob".parse().unwrap();
        let identity = Identity {
            uid: credentials.certified.cloned().unwrap_or_else(bob),
            login: None,
            password_set_at: None,
            expires_at: None,
            is_admin: false,
            as_of: 0,
        };
        Box::pin(std::future::ready(Ok(identity)))
    }

    fn is_revoked(&self, _: &Identity) -> bool {
        false
    }
}

fn start(options: Options) -> (Broker, BridgeLink) {
    Broker::start(options, Rules::default(), Arc::new(Anybody)).unwrap()
}

async fn listen(broker: &Broker, tls: Option<Tls>) -> SocketAddr {
    let any = "127.0.0.1:0".parse().unwrap();
    broker.listen(any, tls).await.unwrap()
}

fn connect_packet(version: Version) -> BytesMut {
    let connect = Connect {
        version,
        // One of its own for each, or they would take each other over.
        client_id: "".into(),
        keep_alive: 0,
        clean_start: true,
        username: Some("alice".into()),
        password: None,
        will: None,
        properties: None,
    };
    let mut bytes = BytesMut::new();
    Packet::Connect(Box::new(connect)).encode(version, &mut bytes);
    bytes
}

/// What the server answers; `None` when it closes without a word.
async fn connack<S>(socket: &mut S, version: Version) -> Option<ConnAck>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        let packet = connect_packet(version);
        socket.write_all(&packet).await.ok()?;
        let mut bytes = BytesMut::new();
        loop {
            if let Some(packet) = decode(version, &mut bytes, 1000).unwrap() {
                break Some(packet);
            }
            if !matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {
                break None;
            }
        }
    };
    match timeout(PATIENCE, exchange).await.expect("no answer") {
        Some(Packet::ConnAck(connack)) => Some(*connack),
        None => None,
        Some(other) => panic!("{other:?}"),
    }
}

async fn reason(socket: &mut TcpStream, version: Version) -> Option<ReasonCode> {
    connack(socket, version).await.map(|connack| connack.reason)
}

#[tokio::test]
async fn a_full_house_says_so() {
    let (broker, _link) = start(Options {
        max_connections: 1,
        ..Options::for_tests()
    });
    let address = listen(&broker, None).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let success = Some(ReasonCode::Success);
    assert_eq!(reason(&mut first, Version::V5).await, success);

    let mut second = TcpStream::connect(address).await.unwrap();
    let refused = Some(ReasonCode::QuotaExceeded);
    assert_eq!(reason(&mut second, Version::V5).await, refused);
    let mut third = TcpStream::connect(address).await.unwrap();
    let refused = Some(ReasonCode::ServerUnavailable);
    assert_eq!(reason(&mut third, Version::V4).await, refused);
    // And closes.
    assert_eq!(third.read(&mut [0; 9]).await.unwrap(), 0);

    drop(first);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut next = TcpStream::connect(address).await.unwrap();
        if reason(&mut next, Version::V5).await == success {
            break;
        }
        assert!(Instant::now() < deadline, "the slot was not given back");
    }
}

#[tokio::test]
async fn a_crowd_that_says_nothing_is_soon_gone() {
    let (broker, _link) = start(Options {
        max_connections: 1,
        connect_timeout: Duration::from_secs(60),
        ..Options::for_tests()
    });
    let address = listen(&broker, None).await;
    let mut crowd = Vec::new();
    // One takes the slot, some are waited for, the others are closed at once.
    for _ in 0..REFUSALS_PER_SECOND.get() + 100 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    for socket in crowd.iter_mut().skip(1).rev() {
        let closed = timeout(REFUSAL_TIMEOUT * 10, socket.read(&mut [0; 1])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
}

#[tokio::test]
async fn an_address_is_told_which_limit_it_met() {
    for (network, refused) in [
        (
            NetworkOptions {
                connections_per_address: 2,
                ..NetworkOptions::default()
            },
            ReasonCode::QuotaExceeded,
        ),
        (
            NetworkOptions {
                connects_per_second: 1,
                connects_burst: 2,
                ..NetworkOptions::default()
            },
            ReasonCode::ConnectionRateExceeded,
        ),
    ] {
        let (broker, _link) = start(Options {
            network,
            ..Options::for_tests()
        });
        // One limit for all ports.
        let ports = [listen(&broker, None).await, listen(&broker, None).await];
        let mut sockets = Vec::new();
        for port in ports {
            let mut socket = TcpStream::connect(port).await.unwrap();
            let success = Some(ReasonCode::Success);
            assert_eq!(reason(&mut socket, Version::V5).await, success);
            sockets.push(socket);
        }
        let mut socket = TcpStream::connect(ports[0]).await.unwrap();
        assert_eq!(reason(&mut socket, Version::V5).await, Some(refused));
    }
}

#[tokio::test]
async fn a_certificate_is_shown_to_the_authenticator() {
    let (broker, _link) = start(Options::for_tests());
    let authority = Authority::new();
    let tls = Tls::load(authority.settings_with_clients(false)).unwrap();
    let address = listen(&broker, Some(tls)).await;
    let alice: Uid = "alice".parse().unwrap();
    let nobody = || async {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = authority.connect(socket, Some("not a uid")).await.unwrap();
        connack(&mut stream, Version::V5).await.unwrap().reason
    };
    assert_eq!(nobody().await, ReasonCode::NotAuthorized);

    let socket = TcpStream::connect(address).await.unwrap();
    let mut stream = authority.connect(socket, Some("alice")).await.unwrap();
    let connack = connack(&mut stream, Version::V5).await.unwrap();
    assert_eq!(connack.reason, ReasonCode::Success);
    broker.handle().kick(&alice, None);
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "it was not alice's session");
}

#[tokio::test]
async fn silence_does_not_delay_others() {
    const SILENT: usize = 500;
    let (broker, _link) = start(Options {
        max_connections: 3 * SILENT,
        connect_timeout: Duration::from_secs(60),
        ..Options::for_tests()
    });
    let authority = Authority::new();
    let tls = Tls::load(authority.settings()).unwrap();
    let plain = listen(&broker, None).await;
    let secure = listen(&broker, Some(tls)).await;
    let mut silent = Vec::new();
    for address in [plain, secure] {
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
    }

    let started = Instant::now();
    let mut socket = TcpStream::connect(plain).await.unwrap();
    let success = Some(ReasonCode::Success);
    assert_eq!(reason(&mut socket, Version::V5).await, success);
    let socket = TcpStream::connect(secure).await.unwrap();
    let mut stream = authority.connect(socket, None).await.unwrap();
    assert!(connack(&mut stream, Version::V4).await.is_some());
    // Not by waiting for any of them.
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(silent);
    broker.stop(PATIENCE).await;
}

#[tokio::test]
async fn stop_does_not_wait_for_a_handshake() {
    let (broker, _link) = start(Options {
        connect_timeout: Duration::from_secs(60),
        ..Options::for_tests()
    });
    let tls = Tls::load(Authority::new().settings()).unwrap();
    let address = listen(&broker, Some(tls)).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let stopping = timeout(PATIENCE, broker.stop(Duration::from_secs(60)));
    assert!(stopping.await.is_ok());
    assert!(!matches!(socket.read(&mut [0; 1]).await, Ok(1..)));
}

#[tokio::test]
async fn another_door_has_the_same_limits() {
    let (broker, _link) = start(Options {
        max_connections: 1,
        ..Options::for_tests()
    });
    let handle = broker.handle();
    let open = || async {
        let (near, far) = tokio::io::duplex(1000);
        let (entrance, mut nothing) = (handle.entrance(), &b""[..]);
        let visitor = entrance.admit(&mut nothing, [127, 0, 0, 1].into());
        let visitor = visitor.await.unwrap();
        let peer = Peer {
            address: visitor.address,
            door: Door::Ws,
            certified: None,
            refusal: None,
        };
        let handle = handle.clone();
        let pass = visitor.pass.unwrap();
        tokio::spawn(async move { handle.serve(far, peer, pass).await });
        near
    };
    let mut first = open().await;
    let answer = connack(&mut first, Version::V5).await.unwrap();
    assert_eq!(answer.reason, ReasonCode::Success);
    let mut second = open().await;
    let answer = connack(&mut second, Version::V5).await.unwrap();
    assert_eq!(answer.reason, ReasonCode::QuotaExceeded);

    // It is told, and waited for.
    let mut rest = Vec::new();
    let (read, ()) = tokio::join!(first.read_to_end(&mut rest), broker.stop(PATIENCE));
    read.unwrap();
    assert_eq!(rest, [0xE0, 2, ReasonCode::ServerShuttingDown as u8, 0]);
}
