//! Over loopback, with requests written by hand.

use axum::extract::Extension;
use axum::routing::get;
use broker::NetworkOptions;
use broker::net::TlsSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

async fn start(connections_max: u32) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        "hello"
    };
    let router = Router::new().route("/", get(slow));
    start_with(router, NetworkOptions::default(), connections_max, None).await
}

async fn start_with(
    router: Router,
    network: NetworkOptions,
    connections_max: u32,
    tls: Option<&Tls>,
) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let any = "127.0.0.1:0".parse().unwrap();
    let ports = bind(&[any], tls).await.unwrap();
    let address = ports[0].local_addr().unwrap();
    let stop = CancellationToken::new();
    let entrance = Entrance::new(&network);
    let serving = serve(ports, router, entrance, connections_max, stop.clone());
    let serving = tokio::spawn(async { serving.await.unwrap() });
    (address, stop, serving)
}

/// Everything until the server closes.
async fn rest(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is as good an end as any.
    let _ = socket.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let (address, _stop, _serving) = start(1).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(REQUEST).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut second).await, "");
    let mut answer = [0; 15];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    drop(first);
    for _ in 0..100 {
        let mut third = TcpStream::connect(address).await.unwrap();
        let _ = third.write_all(b"nonsense\r\n\r\n").await;
        if rest(&mut third).await.starts_with("HTTP/1.1 400") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place was not given back");
}

#[tokio::test]
async fn without_addresses_it_waits_to_be_stopped() {
    let stop = CancellationToken::new();
    let entrance = Entrance::new(&NetworkOptions::default());
    let serving = serve(Vec::new(), Router::new(), entrance, 1, stop.clone());
    let mut serving = pin!(serving);
    let early = tokio::time::timeout(Duration::from_millis(50), serving.as_mut()).await;
    assert!(early.is_err());
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn stopping_waits_for_answers_and_for_nothing_else() {
    let (address, stop, serving) = start(10).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut halting = TcpStream::connect(address).await.unwrap();
    halting.write_all(&REQUEST[..9]).await.unwrap();
    let mut asking = TcpStream::connect(address).await.unwrap();
    asking.write_all(REQUEST).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.cancel();
    assert!(rest(&mut asking).await.ends_with("hello"));
    assert_eq!(rest(&mut silent).await, "");
    assert_eq!(rest(&mut halting).await, "");
    let stopped = tokio::time::timeout(Duration::from_secs(5), serving).await;
    stopped.unwrap().unwrap();
}

/// Says where the request comes from.
fn mirror() -> Router {
    let tell = async |Extension(remote): Extension<Remote>| {
        format!("{} {}", remote.address, remote.is_tls)
    };
    Router::new().route("/", get(tell))
}

const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn ask(address: SocketAddr, bytes: &[&[u8]]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The server may close before it has heard all of it.
    let _ = socket.write_all(&bytes.concat()).await;
    rest(&mut socket).await
}

#[tokio::test]
async fn a_load_balancer_tells_who_asks() {
    let network = NetworkOptions {
        proxy_from: vec!["127.0.0.1/32".parse().unwrap()],
        connects_per_second: 1,
        connects_burst: 2,
        ..NetworkOptions::default()
    };
    let (address, _stop, _serving) = start_with(mirror(), network, 10, None).await;
    // PROXY, TCP over IPv4, 12 bytes: from 192.0.2.n:1 to 192.0.2.1:80.
    let header = |n: u8| {
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        let addresses = [192, 0, 2, n, 192, 0, 2, 1, 0, 1, 0, 80];
        [&signature[..], &[0x21, 0x11, 0, 12], &addresses].concat()
    };
    for n in [7, 7] {
        let answer = ask(address, &[&header(n), LAST_REQUEST]).await;
        assert!(answer.ends_with("192.0.2.7 false"), "{answer}");
    }
    // The limit is the client's.
    assert_eq!(ask(address, &[&header(7), LAST_REQUEST]).await, "");
    let answer = ask(address, &[&header(8), LAST_REQUEST]).await;
    assert!(answer.ends_with("192.0.2.8 false"), "{answer}");
    assert_eq!(ask(address, &[LAST_REQUEST]).await, "");
}

/// A certificate for `localhost`, and a client that knows it.
pub(in crate::http) fn certificate() -> (Tls, TlsConnector) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let tls = Tls::load(TlsSettings {
        cert,
        key,
        client_ca: None,
        client_cert_required: false,
        protocol: "http/1.1",
    });
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec!["http/1.1".into()];
    (tls.unwrap(), TlsConnector::from(Arc::new(config)))
}

#[tokio::test]
async fn https_is_http_over_tls() {
    let (tls, connector) = certificate();
    let network = NetworkOptions::default();
    let (address, stop, serving) = start_with(mirror(), network, 10, Some(&tls)).await;
    // Silence is no reason for the others to wait, nor for the stop.
    let _silent = TcpStream::connect(address).await.unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let localhost = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(localhost, socket).await.unwrap();
    stream.write_all(LAST_REQUEST).await.unwrap();
    let mut answer = String::new();
    // It says that it closes: a cut connection would be an error.
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("127.0.0.1 true"), "{answer}");
    stop.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(5), serving).await;
    stopped.unwrap().unwrap();
}
