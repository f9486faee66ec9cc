//! The servers of others that tests use: they come, go and come back.

use anyhow::Result;
use tidings_tests::mariadb::{self, MariaDb};
use tidings_tests::postgres::{self, Postgres};
use tidings_tests::redis::Redis;

/// A PostgreSQL keeps what was committed through kill -9, and its standby can take over.
#[tokio::test]
async fn postgres() -> Result<()> {
    let options = postgres::Options {
        durable: true,
        ..Default::default()
    };
    let mut primary = Postgres::start(options.clone()).await?;
    primary
        .sql("postgres", "CREATE TABLE t (x INTEGER)")
        .await?;
    primary.sql("postgres", "INSERT INTO t VALUES (1)").await?;
    primary.kill().await?;
    primary.restart().await?;

    let standby = primary.standby(options).await?;
    primary.stop().await?;
    standby.promote().await?;
    standby.sql("postgres", "INSERT INTO t VALUES (2)").await?;
    let rows = standby
        .sql("postgres", "SELECT x FROM t ORDER BY x")
        .await?;
    assert_eq!(rows, "1\n2\n");
    Ok(())
}

/// The same for MariaDB.
#[tokio::test]
async fn mariadb() -> Result<()> {
    let options = mariadb::Options {
        durable: true,
        ..Default::default()
    };
    let mut mariadb = MariaDb::start(options).await?;
    mariadb.sql("mysql", "CREATE DATABASE d").await?;
    mariadb.sql("d", "CREATE TABLE t (x INTEGER)").await?;
    mariadb.sql("d", "INSERT INTO t VALUES (1)").await?;
    mariadb.kill().await?;
    mariadb.restart().await?;
    assert_eq!(mariadb.sql("d", "SELECT x FROM t").await?, "1\n");
    mariadb.stop().await
}

/// Redis comes back empty.
#[tokio::test]
async fn redis() -> Result<()> {
    let mut redis = Redis::start().await?;
    redis.command(&["SET", "key", "value"]).await?;
    redis.freeze()?;
    redis.thaw()?;
    assert_eq!(redis.command(&["GET", "key"]).await?, "value\n");
    redis.kill().await?;
    redis.restart().await?;
    assert_eq!(redis.command(&["DBSIZE"]).await?, "0\n");
    redis.stop().await
}
