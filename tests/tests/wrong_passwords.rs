//! Guessing passwords gets slower and slower: who was wrong too often has to wait.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidings_tests::http::Answer;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::server::password_of;
use tidings_tests::{Server, eventually};

use crate::support::strict;

/// Where the tests' devices are; the harness itself is at 127.0.0.1.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));
/// What is said to a wrong password, and to who has to wait; 3.1.1 knows no better word than "unavailable".
const V4_CODES: ([u8; 2], u8) = ([4, 5], 3);
const V5_CODES: ([u8; 2], u8) = ([0x86, 0x87], 0x97);

/// Tries to log in over HTTP.
async fn login(server: &Server, uid: &str, password: &str) -> Result<Answer> {
    let login = json!({ "uid": uid, "password": password });
    server.api().post("/v1/auth/login", &login).await
}

/// After some wrong passwords an address has to wait before it may try that user again, over MQTT and HTTP alike. The
/// user elsewhere, other users there, and access tokens don't.
#[tokio::test]
async fn wrong_passwords_have_to_wait() -> Result<()> {
    let server = strict(&[
        ("TIDINGS__AUTH__LOGIN_FAILURES", "3"),
        ("TIDINGS__AUTH__LOGIN_BACKOFF", "1m"),
    ])
    .await?;
    server.add_user("bob").await?;
    let token = server.login("alice").await?.tokens()?.access.clone();
    for (version, (wrong, too_often), from) in [(V4, V4_CODES, HERE), (V5, V5_CODES, ELSEWHERE)] {
        let device = |uid: &str| server.device(uid).version(version).from(from);
        for _ in 0..3 {
            let code = device("alice").password("wrong").refused().await?;
            ensure!(wrong.contains(&code), "CONNACK {code:#04x}");
        }
        // The right one isn't even looked at.
        assert_eq!(device("alice").refused().await?, too_often);
        device("bob").connect().await?.disconnect().await?;
        let with_token = device("alice").password(&token);
        with_token.connect().await?.disconnect().await?;
    }

    let login = async |password: &str| login(&server, "alice", password).await;
    login(&password_of("alice")).await?.expect(200)?;
    for _ in 0..3 {
        login("wrong").await?.problem(401, "unauthenticated")?;
    }
    let refused = login(&password_of("alice")).await?;
    let wait = refused.retry_after.context("no Retry-After")?;
    ensure!((1..=60).contains(&wait), "Retry-After: {wait}");
    refused.problem(429, "rate_limited")?;
    server.finish().await
}

/// The wait ends, and with the right password all is forgotten; a wrong one makes the next wait twice as long.
#[tokio::test]
async fn the_wait_ends() -> Result<()> {
    const WAIT: Duration = Duration::from_secs(3);
    let server = strict(&[
        ("TIDINGS__AUTH__LOGIN_FAILURES", "2"),
        ("TIDINGS__AUTH__LOGIN_BACKOFF", "3s"),
    ])
    .await?;
    for (version, (wrong, too_often), from) in [(V4, V4_CODES, HERE), (V5, V5_CODES, ELSEWHERE)] {
        let alice = || server.device("alice").version(version).from(from);
        let guess = async || {
            let code = alice().password("wrong").refused().await?;
            ensure!(wrong.contains(&code), "CONNACK {code:#04x}");
            Ok(())
        };
        guess().await?;
        let started = Instant::now();
        guess().await?;
        assert_eq!(alice().refused().await?, too_often);
        eventually("alice is let in again", async || {
            Ok(alice().ask().await?.connack.reason == 0)
        })
        .await?;
        let waited = started.elapsed();
        assert!(waited >= WAIT, "{waited:?}");
        guess().await?;
        alice().connect().await?.disconnect().await?;
    }

    for _ in 0..2 {
        login(&server, "alice", "wrong").await?.expect(401)?;
    }
    let first = wait_of(&server).await?;
    ensure!((1..=3).contains(&first), "{first} s");
    eventually("the next guess is looked at", async || {
        Ok(login(&server, "alice", "wrong").await?.status == 401)
    })
    .await?;
    let second = wait_of(&server).await?;
    ensure!((4..=6).contains(&second), "{second} s after {first} s");
    server.finish().await
}

/// What an HTTP login is told to wait, in seconds.
async fn wait_of(server: &Server) -> Result<u64> {
    let refused = login(server, "alice", &password_of("alice")).await?;
    let wait = refused.retry_after.context("no Retry-After");
    refused.problem(429, "rate_limited")?;
    wait
}

/// Who tries many users is slowed down as well, after ten times as many wrong passwords: then the address has to wait,
/// whomever it tries. Tokens are taken from there, and passwords from elsewhere.
#[tokio::test]
async fn an_address_that_tries_many_users_has_to_wait() -> Result<()> {
    let server = strict(&[
        ("TIDINGS__AUTH__LOGIN_FAILURES", "1"),
        ("TIDINGS__AUTH__LOGIN_BACKOFF", "1m"),
    ])
    .await?;
    let token = server.login("alice").await?.tokens()?.access.clone();
    for (version, (wrong, too_often), from) in [(V4, V4_CODES, HERE), (V5, V5_CODES, ELSEWHERE)] {
        let device = |uid: &str, from| server.device(uid).version(version).from(from);
        for number in 0..10 {
            device("alice", from).connect().await?.disconnect().await?;
            // Whether there is such a user must not be seen.
            let victim = format!("user-{number}");
            let code = device(&victim, from).refused().await?;
            ensure!(wrong.contains(&code), "{victim}: CONNACK {code:#04x}");
        }
        for uid in ["alice", "user-0", "user-10"] {
            assert_eq!(device(uid, from).refused().await?, too_often, "{uid}");
        }
        let with_token = device("alice", from).password(&token);
        with_token.connect().await?.disconnect().await?;
        device("alice", SOMEWHERE)
            .connect()
            .await?
            .disconnect()
            .await?;
    }
    server.finish().await
}
