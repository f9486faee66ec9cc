//! The schema: by hand, and by servers that start at once.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use tidings_tests::database::Engine;
use tidings_tests::eventually;
use tidings_tests::server::{Folder, Server};

/// `tidings migrate` goes down step by step and up at once, and says how far it is. What is taken back is made again.
#[tokio::test]
async fn down_and_up_by_hand() -> Result<()> {
    let mut server = Server::with_users(&["alice"]).await?;
    server.shut_down().await?;
    let all = server.run(&["migrate", "status"]).await?;
    let names: Vec<&str> = all.lines().collect();
    ensure!(names.len() > 3, "{all}");
    ensure!(
        names.iter().all(|line| line.starts_with("Applied ")),
        "{all}"
    );
    for left in (0..names.len()).rev() {
        let said = server.run(&["migrate", "down"]).await?;
        let applied = said.lines().filter(|line| line.starts_with("Applied "));
        assert_eq!(applied.count(), left, "{said}");
    }
    assert_eq!(server.run(&["migrate", "up"]).await?, all);
    assert_eq!(server.run(&["migrate", "up"]).await?, all, "nothing to do");

    server.restart().await?;
    server.add_user("alice").await?;
    server.finish().await
}

/// Several that bring an empty database up to date at once get by with each other: one does it, the others wait.
#[tokio::test]
async fn up_several_times_at_once() -> Result<()> {
    const TIMES: usize = 4;
    let folder = Folder::new()?.with_database().await?;
    let run = || folder.run(&["migrate", "up"]);
    let said = try_join_all((0..TIMES).map(|_| run())).await?;
    for said in &said {
        ensure!(
            said.lines().all(|line| line.starts_with("Applied ")),
            "{said}"
        );
    }
    let server = Server::start_in(folder, &["alice"]).await?;
    server.finish().await
}

/// The same for servers that share a database.
#[tokio::test]
async fn several_servers_start_at_once() -> Result<()> {
    // SQLite's file is one server's.
    if Engine::tested() == Engine::Sqlite {
        return Ok(());
    }
    const SERVERS: usize = 3;
    let owner = Folder::new()?.with_database().await?;
    let url = owner.database_url()?;
    let start = || async {
        let folder = Folder::new()?.setting("TIDINGS__DATABASE__URL", &url);
        Server::start_in(folder, &[]).await
    };
    let servers = try_join_all((0..SERVERS).map(|_| start())).await?;
    servers[0].add_user("alice").await?;
    for server in servers {
        eventually("every server knows her", async || {
            Ok(server.login("alice").await.is_ok())
        })
        .await?;
        server.finish().await?;
    }
    Server::start_in(owner, &["bob"]).await?.finish().await
}

/// A server does not start on a database that a newer one has changed, and leaves it as it is.
#[tokio::test]
async fn a_newer_schema_is_left_alone() -> Result<()> {
    let mut server = Server::with_users(&[]).await?;
    server.shut_down().await?;
    server
        .sql("INSERT INTO seaql_migrations VALUES ('m9999_from_the_future', 0)")
        .await?;
    let refused = server.run(&["serve"]).await;
    let refused = format!("{:#}", refused.expect_err("it has started"));
    ensure!(refused.contains("m9999_from_the_future"), "{refused}");
    server
        .sql("DELETE FROM seaql_migrations WHERE version LIKE 'm9999%'")
        .await?;
    server.restart().await?;
    server.finish().await
}
