//! Behind a load balancer: connections begin with a PROXY header, version 2, that tells the client's address.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use tidings_tests::Server;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::raw::Raw;
use tidings_tests::server::Folder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// A header of the command PROXY for TCP over IPv4.
fn header(client: Ipv4Addr) -> Vec<u8> {
    let server = Ipv4Addr::new(198, 51, 100, 1);
    let ports = [0x9C, 0x40, 0x07, 0x5B];
    let addresses = [&client.octets()[..], &server.octets(), &ports].concat();
    [
        SIGNATURE,
        &[0x21, 0x11, 0, addresses.len() as u8],
        &addresses,
    ]
    .concat()
}

/// A server that everything on this machine is a load balancer for.
async fn server(limit: &str) -> Result<Server> {
    let folder = Folder::new()?
        .setting("TIDINGS__NETWORK__PROXY_FROM", "127.0.0.0/8")
        .setting("TIDINGS__NETWORK__TRUSTED", "")
        .setting("TIDINGS__NETWORK__CONNECTIONS_PER_ADDRESS", limit);
    let server = Server::start_in(folder, &[]).await?;
    server.add_user_by_program("alice").await?;
    Ok(server)
}

/// Limits per address count the addresses in the headers, not the balancer's.
#[tokio::test]
async fn limits_see_the_client() -> Result<()> {
    let server = server("2").await?;
    // Each from an address of its own: a place is free again some time after its connection.
    for (version, client) in [(V4, CLIENT), (V5, Ipv4Addr::new(203, 0, 113, 200))] {
        let device = |id: &str, client| {
            let device = server.device("alice").version(version).id(id);
            device.preamble(&header(client))
        };
        let _one = device("one", client).connect().await?;
        let _two = device("two", client).connect().await?;
        device("three", client).refused().await?;
        for last in 8..20 {
            let other = Ipv4Addr::new(203, 0, 113, last);
            let other = device("other", other).connect().await;
            other.context("another address")?.disconnect().await?;
        }
    }
    server.finish().await
}

/// From a balancer the header is required, on each port.
#[tokio::test]
async fn without_header_there_is_no_connection() -> Result<()> {
    let server = server("0").await?;
    for device in [server.device("alice"), server.device("alice").v5()] {
        assert!(device.ask().await.is_err(), "let in without a header");
    }
    let mut half = Raw::open(server.mqtt()).await?;
    half.send_to_the_deaf(&[SIGNATURE, &[0x31, 0x11, 0, 12], &[0; 12]].concat())
        .await;
    half.closed().await?;

    let ask = async |before: &[u8]| {
        let mut socket = TcpStream::connect(server.http()).await?;
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let _ = socket.write_all(&[before, request].concat()).await;
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = socket.read_to_end(&mut answer).await;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask(&[]).await?;
    assert!(!answer.contains("200"), "{answer}");
    let answer = ask(&header(CLIENT)).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A health check of the balancer itself: the command LOCAL.
    let local = [SIGNATURE, &[0x20, 0x00, 0, 0]].concat();
    let answer = ask(&local).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.finish().await
}

/// Who is no balancer can't pretend to be somewhere else.
#[tokio::test]
async fn from_others_the_header_is_not_understood() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let device = server.device("alice").preamble(&header(CLIENT));
    assert!(device.ask().await.is_err());
    server.finish().await
}
