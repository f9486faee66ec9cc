//! Others who keep rows locked that the server needs.

use std::time::Duration;

use anyhow::{Result, ensure};
use schema::v1::SettingsSet;
use tidings_tests::client::ok_of;
use tidings_tests::database::Engine;
use tidings_tests::server::Folder;
use tidings_tests::session::Session;
use tidings_tests::{Server, ask, eventually, up};

use crate::support::ensure_complete;

/// Tells whether somebody waits for a lock in this database.
fn waiting() -> &'static str {
    match Engine::tested() {
        Engine::Postgres => {
            "SELECT COUNT(*) > 0 FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
        _ => {
            "SELECT IF(COUNT(*) > 0, 't', 'f') FROM information_schema.innodb_trx t
            JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
            WHERE p.db = DATABASE() AND t.trx_state = 'LOCK WAIT'"
        }
    }
}

async fn until_it_waits(server: &Server) -> Result<()> {
    eventually("the server waits for a lock", async || {
        Ok(server.sql(waiting()).await?.trim() == "t")
    })
    .await
}

async fn lock(session: &mut Session, conversation: &str) -> Result<()> {
    let text = format!("SELECT id FROM conversations WHERE name = '{conversation}' FOR UPDATE");
    session.execute(&text).await
}

/// Makes a session the one that a deadlock spares.
async fn insist(session: &mut Session) -> Result<()> {
    match Engine::tested() {
        Engine::Postgres => session.execute("SET deadlock_timeout = '60s'; BEGIN").await,
        // InnoDB ends the transaction that has changed less.
        _ => {
            session
                .execute(
                    "CREATE TABLE ballast (x INT PRIMARY KEY); BEGIN;
                    INSERT INTO ballast SELECT seq FROM seq_1_to_1000",
                )
                .await
        }
    }
}

/// Where the server is in a deadlock with somebody else, the database ends one of the two; the server does again what it
/// was about, and nobody notices.
#[tokio::test]
async fn a_deadlock_is_nobodys_business() -> Result<()> {
    if Engine::tested() == Engine::Sqlite {
        return Ok(());
    }
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("bob"), "hi").await?;
    alice.say(up::user("carol"), "hi").await?;

    let mut other = server.database_session().await?;
    insist(&mut other).await?;
    lock(&mut other, "u:alice:carol").await?;
    // It changes what both may write to her, and locks the older conversation first.
    let set = up::new(ask::settings(SettingsSet {
        strangers: Some(false),
        ..Default::default()
    }));
    alice.publish(&set).await?;
    until_it_waits(&server).await?;
    lock(&mut other, "u:alice:bob").await?;
    other.execute("COMMIT").await?;

    ok_of(alice.reply_to(&set.client_msg_id).await?)?;
    let mut bob = server.client("bob").online().await?;
    let refused = bob.tell_in_vain(up::text(up::user("alice"), "hi")).await?;
    assert_eq!(refused, "permission_denied");
    server.finish().await
}

/// What somebody else has locked is not waited for longer than the limit, and what is waited for is done in the end.
#[tokio::test]
async fn a_lock_is_waited_for() -> Result<()> {
    if Engine::tested() == Engine::Sqlite {
        return Ok(());
    }
    let folder = Folder::new()?.setting("TIDINGS__DATABASE__LOCK_TIMEOUT", "1s");
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("bob"), "one").await?;

    let mut other = server.database_session().await?;
    other.execute("BEGIN").await?;
    lock(&mut other, "u:alice:bob").await?;
    let said = up::new(up::text(up::user("bob"), "two"));
    let ticket = alice.publish(&said).await?;
    let api = server.api();
    api.until_ready(503).await?;
    tokio::time::timeout(Duration::from_secs(5), api.get("/healthz"))
        .await??
        .expect(200)?;
    ensure!(!alice.is_puback_here(ticket), "nothing is stored yet");
    other.execute("ROLLBACK").await?;

    ok_of(alice.reply_to(&said.client_msg_id).await?)?;
    alice.puback(ticket).await?;
    api.until_ready(200).await?;
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    ensure_complete(&history, 2)?;
    server.finish().await
}
