//! A database that hangs, is cut off in the middle, takes no writes, or wants TLS.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tidings_tests::client::ok_of;
use tidings_tests::cluster::Plan;
use tidings_tests::mariadb::{self, MariaDb};
use tidings_tests::postgres;
use tidings_tests::server::{Folder, password_of};
use tidings_tests::tls::Authority;
use tidings_tests::{Api, Client, Server, up};
use tokio::time::{Instant, sleep};

use crate::support::{ensure_complete, text_of};

/// So that a test need not wait for long.
const IMPATIENT: [(&str, &str); 3] = [
    ("TIDINGS__DATABASE__STATEMENT_TIMEOUT", "2s"),
    ("TIDINGS__DATABASE__LOCK_TIMEOUT", "1s"),
    ("TIDINGS__DATABASE__ACQUIRE_TIMEOUT", "1s"),
];
/// What a request may take then: a connection, a statement, and 2 s more; and what a busy machine adds.
const LIMIT: Duration = Duration::from_secs(8);

fn impatient(plan: Plan) -> Plan {
    let set = |plan: Plan, (name, value): (&str, &str)| plan.setting(name, value);
    IMPATIENT.into_iter().fold(plan, set)
}

/// While the database hangs, requests end in time with a code that says so, and the node says that it is not ready; what
/// was begun is done when the database is back, once.
async fn hang(
    alice: &mut Client,
    bob: &Api,
    hang: impl FnOnce() -> Result<()>,
    go_on: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    alice.say(up::user("bob"), "before").await?;
    bob.get("/v1/conversations").await?.expect(200)?;
    hang()?;
    let waiting = up::new(up::text(up::user("bob"), "meanwhile"));
    let ticket = alice.publish(&waiting).await?;

    let said = up::new(up::text(up::user("alice"), "by HTTP"));
    let login = json!({ "uid": "bob", "password": password_of("bob") });
    let timed = async |request: &str| {
        let started = Instant::now();
        let answer = match request {
            "command" => bob.post("/v1/up", &serde_json::to_value(&said)?).await?,
            "question" => bob.get("/v1/conversations").await?,
            "login" => bob.post("/v1/auth/login", &login).await?,
            _ => bob.delete("/v1/devices/phone").await?,
        };
        answer.problem(503, "unavailable")?;
        ensure!(
            started.elapsed() < LIMIT,
            "{request}: {:?}",
            started.elapsed()
        );
        anyhow::Ok(())
    };
    tokio::try_join!(
        timed("command"),
        timed("question"),
        timed("login"),
        timed("device")
    )?;
    bob.until_ready(503).await?;
    bob.get("/healthz").await?.expect(200)?;
    ensure!(!alice.is_puback_here(ticket), "nothing is stored yet");

    go_on().await?;
    bob.until_ready(200).await?;
    ok_of(alice.reply_to(&waiting.client_msg_id).await?)?;
    alice.puback(ticket).await?;
    // It was not answered, and carried out all the same; sent again, it is the same message.
    bob.up(&said).await?;
    let history = bob.history("u:alice:bob").await?;
    ensure_complete(&history, 3)?;
    let mut texts: Vec<&str> = history.iter().map(text_of).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["before", "by HTTP", "meanwhile"]);
    Ok(())
}

/// A network that swallows all packets, and tells nobody.
#[tokio::test]
async fn postgresql_does_not_answer() -> Result<()> {
    let cluster = impatient(Plan::alone()).start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let bob = cluster.node(0).login("bob").await?;
    let stall = || {
        cluster.to_postgres(0).stall();
        Ok(())
    };
    let heal = async || {
        cluster.to_postgres(0).heal();
        Ok(())
    };
    hang(&mut alice, &bob, stall, heal).await?;
    cluster.finish().await
}

/// The network comes back to another address: what was open stays silent for ever.
#[tokio::test]
async fn connections_that_never_answer_again() -> Result<()> {
    let cluster = impatient(Plan::alone()).start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let bob = cluster.node(0).login("bob").await?;
    let stall = || {
        cluster.to_postgres(0).stall();
        Ok(())
    };
    let heal = async || {
        let target = ([127, 0, 0, 1], cluster.postgres.port()).into();
        cluster.to_postgres(0).lead_to(target);
        cluster.to_postgres(0).heal();
        Ok(())
    };
    hang(&mut alice, &bob, stall, heal).await?;
    cluster.finish().await
}

/// A server whose processes have all stopped.
#[tokio::test]
async fn mariadb_hangs() -> Result<()> {
    let mariadb = MariaDb::start(mariadb::Options::default()).await?;
    mariadb
        .sql("mysql", "CREATE DATABASE chat CHARACTER SET utf8mb4")
        .await?;
    let set = |folder: Folder, (name, value): (&str, &str)| folder.setting(name, value);
    let folder = Folder::new()?.setting("TIDINGS__DATABASE__URL", &mariadb.url("chat"));
    let folder = IMPATIENT.into_iter().fold(folder, set);
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let bob = server.login("bob").await?;
    let pause = || mariadb.freeze();
    hang(&mut alice, &bob, pause, async || mariadb.thaw()).await?;

    // One that takes no writes is not ready; it can be read.
    mariadb.sql("mysql", "SET GLOBAL read_only = 1").await?;
    bob.until_ready(503).await?;
    bob.get("/v1/conversations").await?.expect(200)?;
    mariadb.sql("mysql", "SET GLOBAL read_only = 0").await?;
    bob.until_ready(200).await?;
    server.finish().await
}

/// An old primary that only reads is not ready; what changes nothing it answers, and commands wait.
#[tokio::test]
async fn postgresql_takes_no_writes() -> Result<()> {
    let cluster = Plan::alone().start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let bob = cluster.node(0).login("bob").await?;
    let read_only = async |how: &str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {how}");
        cluster.sql(&set).await?;
        cluster.sql("SELECT pg_reload_conf()").await
    };
    read_only("on").await?;
    bob.until_ready(503).await?;
    bob.get("/v1/conversations").await?.expect(200)?;
    let waiting = up::new(up::text(up::user("bob"), "wait"));
    let ticket = alice.publish(&waiting).await?;
    bob.up(&up::new(up::text(up::user("alice"), "hi")))
        .await
        .unwrap_err();
    ensure!(!alice.is_puback_here(ticket), "nothing is stored yet");

    read_only("off").await?;
    bob.until_ready(200).await?;
    ok_of(alice.reply_to(&waiting.client_msg_id).await?)?;
    ensure_complete(&bob.history("u:alice:bob").await?, 2)?;
    cluster.finish().await
}

/// Connections that end at any moment, in the middle of a COMMIT as well: what is sent once is stored once.
#[tokio::test]
async fn connections_are_cut_again_and_again() -> Result<()> {
    const CUTS: usize = 40;
    const MESSAGES: u32 = 600;
    let cluster = Plan::alone().start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(0).client("bob").online().await?;
    let cut = async {
        for _ in 0..CUTS {
            cluster.to_postgres(0).reset();
            sleep(Duration::from_millis(fastrand::u64(5..60))).await;
        }
        anyhow::Ok(())
    };
    let talk = async {
        for number in 1..=MESSAGES {
            let said = up::new(up::text(up::user("bob"), &number.to_string()));
            alice.publish(&said).await?;
            ok_of(alice.reply_to(&said.client_msg_id).await?)?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(cut, talk)?;
    let heard = bob.messages(MESSAGES as usize).await?;
    ensure_complete(&heard, MESSAGES)?;
    let numbers: Vec<u32> = heard
        .iter()
        .filter_map(|it| text_of(it).parse().ok())
        .collect();
    ensure!(
        numbers.is_sorted() && numbers.len() == heard.len(),
        "{numbers:?}"
    );
    let history = cluster.node(0).login("bob").await?;
    let history = history.history("u:alice:bob").await?;
    ensure_complete(&history, MESSAGES)?;
    cluster.finish().await
}

/// A COMMIT that is carried out, and whose answer never comes: the message is stored, answered and delivered, once.
#[tokio::test]
async fn a_commit_without_an_answer() -> Result<()> {
    let cluster = Plan::alone().start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(0).client("bob").online().await?;
    alice.say(up::user("bob"), "before").await?;
    cluster.to_postgres(0).swallow_commit_of("in doubt");
    let said = up::new(up::text(up::user("bob"), "in doubt"));
    let ticket = alice.publish(&said).await?;
    let answer = ok_of(alice.reply_to(&said.client_msg_id).await?)?;
    alice.puback(ticket).await?;
    ensure!(cluster.to_postgres(0).commits_swallowed() == 1);
    ensure!(answer.seq == 2, "{answer:?}");
    let heard = bob.messages(2).await?;
    let texts: Vec<&str> = heard.iter().map(text_of).collect();
    assert_eq!(texts, ["before", "in doubt"]);
    // Nothing comes twice, and it goes on.
    alice.say(up::user("bob"), "after").await?;
    let heard = bob.messages(1).await?;
    assert_eq!(text_of(&heard[0]), "after");
    let history = cluster.node(0).login("bob").await?;
    let history = history.history("u:alice:bob").await?;
    ensure_complete(&history, 3)?;
    cluster.finish().await
}

/// All that is said to PostgreSQL is encrypted where the URL asks for it, and the server's certificate is checked.
#[tokio::test]
async fn postgresql_over_tls() -> Result<()> {
    let authority = Authority::new()?;
    let server = authority.server()?;
    let options = postgres::Options {
        certificate: Some((server.cert_pem(), server.key_pem())),
        ..Default::default()
    };
    let plan = Plan::alone().without_proxies().postgres(options);
    let folder = tempfile::tempdir()?;
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, authority.cert_pem())?;
    let query = format!("sslmode=verify-full&sslrootcert={}", trusted.display());
    let cluster = plan.database_query(&query).start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    alice.say(up::user("bob"), "psst").await?;
    let encrypted = "SELECT bool_and(s.ssl), COUNT(*) > 1 FROM pg_stat_ssl s
        JOIN pg_stat_activity a ON a.pid = s.pid WHERE a.application_name = 'tidings'";
    assert_eq!(cluster.sql(encrypted).await?, "t\tt\n");
    cluster.finish().await
}
