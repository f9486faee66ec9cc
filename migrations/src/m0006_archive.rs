//! Messages that were moved to files.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::Statement;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0006_archive"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ddl(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        let in_files = Statement::from_string(
            manager.get_database_backend(),
            "SELECT 1 FROM archives LIMIT 1",
        );
        if db.query_one_raw(in_files).await?.is_some() {
            let reason = "messages are in files, and would be lost: they are not brought back";
            return Err(DbErr::Migration(reason.to_owned()));
        }
        ddl(manager, DOWN).await
    }
}

/// All times are milliseconds since 1970.
const UP: &str = "
    -- One row for each file; a message is either a row of `messages` or in a file.
    CREATE TABLE archives (
        conversation_id {id}       NOT NULL,
        -- the last message of the file
        last_seq        INTEGER    NOT NULL,
        -- the first one that still is: earlier ones were deleted for good, though the object may hold them for a while
        first_seq       INTEGER    NOT NULL,
        -- of those that are
        min_id          {id}       NOT NULL,
        max_id          {id}       NOT NULL,
        -- the object's name in the store; objects never change, a new one takes the place of an old one
        object          {key(160)} NOT NULL,
        -- its size
        bytes           INTEGER    NOT NULL,
        -- protobuf `tidings.archive.v1.Directory`: outweighs the object
        directory       {blob}     NOT NULL,
        -- null: the object says what the directory says; otherwise from when on it is to be written anew
        rewrite_at      {id},
        PRIMARY KEY (conversation_id, last_seq)
    );
    CREATE INDEX archives_by_msg_id ON archives (conversation_id, max_id, min_id);
    CREATE INDEX archives_by_rewrite ON archives (rewrite_at);

    -- Who has written or reacted in which file. Rows of deleted accounts go when the file is free of them.
    CREATE TABLE archive_people (
        uid             {key(64)} NOT NULL,
        conversation_id {id}      NOT NULL,
        last_seq        INTEGER   NOT NULL,
        PRIMARY KEY (uid, conversation_id, last_seq)
    ) {clustered};

    -- Objects that no row of `archives` names: not yet, or not any more. They are deleted when their time has come.
    CREATE TABLE archive_strays (
        object  {key(160)} NOT NULL PRIMARY KEY,
        due_at  {id}       NOT NULL,
        -- somebody deletes it: no row may name it any more
        claimed BOOLEAN    NOT NULL
    );
    CREATE INDEX archive_strays_by_time ON archive_strays (due_at);

    -- All messages up to this one are in files, or deleted for good; 0: none.
    ALTER TABLE conversations ADD COLUMN archived_seq INTEGER NOT NULL DEFAULT 0;

    -- Where a message is that is in a file; null: it is a row of `messages`.
    ALTER TABLE flags ADD COLUMN conversation_id {id};
    ALTER TABLE flags ADD COLUMN seq INTEGER;
";

const DOWN: &str = "
    ALTER TABLE flags DROP COLUMN seq;
    ALTER TABLE flags DROP COLUMN conversation_id;
    ALTER TABLE conversations DROP COLUMN archived_seq;
    DROP TABLE archive_strays;
    DROP TABLE archive_people;
    DROP TABLE archives;
";
