//! What messages are found by: each database's own full-text index, over tokens that the server makes.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0004_search"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = match manager.get_database_backend() {
            DbBackend::Sqlite => SQLITE,
            DbBackend::Postgres => POSTGRES,
            DbBackend::MySql => MYSQL,
            other => unreachable!("no driver for {other:?} is compiled in"),
        };
        ddl(manager, index).await?;
        ddl(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ddl(manager, DOWN).await
    }
}

// One row for each message that has a text. `tokens`: words of 0-9 and a-z, each once, with spaces between them; they
// stand for pairs of letters and for the conversation. All that is asked is which messages have all of some tokens, so
// that no database has to know where in a text they are, nor any language. Nothing of them can be read back on SQLite.

/// The rowid is the `msg_id`.
const SQLITE: &str = "
    CREATE VIRTUAL TABLE search_index USING fts5
        (tokens, tokenize = 'ascii', content = '', contentless_delete = 1, detail = none);
";

const POSTGRES: &str = "
    CREATE TABLE search_index (
        msg_id {id}     NOT NULL PRIMARY KEY,
        tokens TSVECTOR NOT NULL
    );
    CREATE INDEX search_index_by_token ON search_index USING gin (tokens);
";

const MYSQL: &str = "
    CREATE TABLE search_index (
        msg_id {id} NOT NULL PRIMARY KEY,
        tokens MEDIUMTEXT CHARACTER SET ascii NOT NULL,
        FULLTEXT KEY search_index_by_token (tokens)
    );
";

const UP: &str = "
    -- Messages of the index whose text is no longer what it was.
    CREATE TABLE search_marks (
        msg_id {id} NOT NULL PRIMARY KEY
    );
";

const DOWN: &str = "
    DROP TABLE search_marks;
    DROP TABLE search_index;
    -- All messages are indexed anew when the tables come back.
    DELETE FROM progress WHERE task = 'search';
";
