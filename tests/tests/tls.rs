//! MQTT and HTTP over TLS: who is on the other side is proved by certificates.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::tls::Authority;
use tidings_tests::tunnel::Through;
use tidings_tests::{Server, eventually, up};

/// Chat works over TLS as it does over TCP, and between the two.
#[tokio::test]
async fn chat_over_tls() -> Result<()> {
    let server = Server::start_in(Folder::with_tls()?, &["alice", "bob"]).await?;
    let tunnel = server.tunnel(Through::Tls(None)).await?;
    let mut bob = server.client("bob").online().await?;
    for version in [V4, V5] {
        let alice = server.client("alice").version(version).through(&tunnel);
        let mut alice = alice.online().await?;
        let sent = alice.say(up::user("bob"), "nobody else reads this").await?;
        assert_eq!(bob.message().await?.msg_id, sent.msg_id);
        let sent = bob.say(up::user("alice"), "indeed").await?;
        assert_eq!(alice.message().await?.msg_id, sent.msg_id);
        alice.disconnect().await?;
    }

    let secure = server.tunnel(Through::Https).await?;
    let health = server.api().through(&secure).get("/healthz").await?;
    health.success()?;
    server.finish().await
}

/// A client that does not trust the server's authority does not get through; plain MQTT and HTTP on a TLS port don't
/// either, and none of them is in the way of others.
#[tokio::test]
async fn tls_is_not_optional_on_its_port() -> Result<()> {
    let server = Server::start_in(Folder::with_tls()?, &["alice"]).await?;
    let stranger = Authority::new()?.trust();
    assert!(stranger.connect(server.mqtts(), None).await.is_err());
    let mut raw = tidings_tests::raw::Raw::open(server.mqtts()).await?;
    raw.send_to_the_deaf(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04name")
        .await;
    raw.closed().await?;

    let tunnel = server.tunnel(Through::Tls(None)).await?;
    let alice = server.client("alice").through(&tunnel);
    alice.online().await?.disconnect().await?;
    server.finish().await
}

/// A certificate that is replaced on disk is shown to the next clients without a restart, and nobody is disconnected.
#[tokio::test]
async fn a_new_certificate_is_taken() -> Result<()> {
    let server = Server::start_in(Folder::with_tls()?, &["alice", "bob"]).await?;
    let tunnel = server.tunnel(Through::Tls(None)).await?;
    let mut alice = server.client("alice").through(&tunnel).online().await?;

    let other = Authority::new()?;
    assert!(other.trust().connect(server.mqtts(), None).await.is_err());
    server.folder().write_certificate(&other)?;
    for address in [server.mqtts(), server.https()] {
        eventually("the new certificate is shown", async || {
            Ok(other.trust().connect(address, None).await.is_ok())
        })
        .await?;
    }
    let first = server.authority().trust();
    assert!(first.connect(server.mqtts(), None).await.is_err());
    alice.say(up::user("bob"), "still connected").await?;
    server.stop().await
}

/// SIGHUP has it taken without waiting for the next look at the files. What can't be used is not taken: the old one stays.
#[tokio::test]
async fn certificates_are_read_again_on_sighup() -> Result<()> {
    let server = Server::start_in(Folder::with_tls()?, &["alice", "bob"]).await?;
    let tunnel = server.tunnel(Through::Tls(None)).await?;
    let mut alice = server.client("alice").through(&tunnel).online().await?;
    let (first, second) = (server.authority(), Authority::new()?);
    let shows = async |authority: &Authority| {
        let trust = authority.trust();
        let mqtts = trust.connect(server.mqtts(), None).await.is_ok();
        let https = trust.connect(server.https(), None).await.is_ok();
        mqtts && https
    };
    let lines = |text: &str| server.log().matches(text).count();

    let (one, other) = (first.server()?, second.server()?);
    for (name, cert, key) in [
        ("no PEM", "nonsense".to_owned(), one.key_pem()),
        ("nothing", String::new(), String::new()),
        ("a key of another", other.cert_pem(), one.key_pem()),
    ] {
        let before = lines("ERROR");
        server.folder().write_certificate_files(&cert, &key)?;
        server.signal("HUP").await?;
        eventually("the server says that it can't be used", async || {
            Ok(lines("ERROR") >= before + 2)
        })
        .await
        .context(name)?;
        assert!(shows(first).await, "{name}");
    }

    let before = lines("the certificate was read again");
    server.folder().write_certificate(&second)?;
    server.signal("HUP").await?;
    eventually("both ports have read it again", async || {
        Ok(lines("the certificate was read again") >= before + 2)
    })
    .await?;
    assert!(shows(&second).await);
    assert!(!shows(first).await);
    alice.say(up::user("bob"), "still connected").await?;
    server.stop().await
}

/// The common name of a client certificate is the uid: no password, and no user name, is needed. A user name that is
/// given has to be the same, and the user has to exist.
#[tokio::test]
async fn a_certificate_names_a_user() -> Result<()> {
    let folder = Folder::with_tls()?.client_certificates("optional")?;
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let identity = |name: &str| server.authority().client(name).map(Arc::new);
    let alices = server
        .tunnel(Through::Tls(Some(identity("alice")?)))
        .await?;
    let nobodys = server
        .tunnel(Through::Tls(Some(identity("nobody")?)))
        .await?;
    let without = server.tunnel(Through::Tls(None)).await?;

    for (version, refusals) in [(V4, [4, 5]), (V5, [0x86, 0x87])] {
        for device in [server.device("alice").no_password(), server.stranger()] {
            let device = device.version(version).through(&alices);
            let mut device = device.connect().await?;
            assert_eq!(device.subscribe("dev/alice/#", 1).await?, 1);
            assert!(device.subscribe("dev/bob/#", 1).await? >= 0x80);
            device.disconnect().await?;
        }
        for (name, device, tunnel) in [
            ("another's name", server.device("bob"), &alices),
            ("no such user", server.stranger(), &nobodys),
            ("no certificate", server.stranger(), &without),
            (
                "no certificate, no password",
                server.device("alice").no_password(),
                &without,
            ),
        ] {
            let code = device.version(version).through(tunnel).refused().await;
            let code = code.context(name)?;
            ensure!(refusals.contains(&code), "{name}: CONNACK {code:#04x}");
        }
        // Without a certificate a password is as good as ever.
        let device = server.device("bob").version(version).through(&without);
        device.connect().await?.disconnect().await?;
    }
    server.finish().await
}

/// Where certificates are required, or one is signed by somebody else, there is no connection at all.
#[tokio::test]
async fn certificates_can_be_required() -> Result<()> {
    let folder = Folder::with_tls()?.client_certificates("required")?;
    let server = Server::start_in(folder, &["alice"]).await?;
    let foreign = Arc::new(Authority::new()?.client("alice")?);
    for identity in [None, Some(foreign)] {
        let tunnel = server.tunnel(Through::Tls(identity)).await?;
        let device = server.device("alice").through(&tunnel);
        assert!(device.ask().await.is_err());
    }
    let own = Arc::new(server.authority().client("alice")?);
    let tunnel = server.tunnel(Through::Tls(Some(own))).await?;
    let device = server.device("alice").no_password().through(&tunnel);
    device.connect().await?.disconnect().await?;
    server.finish().await
}
