//! Plain topics: retained messages, grants; and how a device's last connection ended.

use sea_orm_migration::prelude::*;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0002_plain_topics"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ddl(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ddl(manager, DOWN).await
    }
}

/// All times are milliseconds since 1970.
const UP: &str = "
    -- The retained message of each topic that has one.
    CREATE TABLE retained (
        -- SHA-256 of the topic in hexadecimal: a topic can be longer than a key
        topic_hash {key(64)} NOT NULL PRIMARY KEY,
        -- a protobuf `tidings.link.v1.PlainMessage`, which holds the topic
        message    {blob}    NOT NULL,
        -- null: never
        expires_at {id}
    );
    CREATE INDEX retained_by_expiry ON retained (expires_at);

    -- What users may do with topics of other users' devices. No row: nothing. (`user` is a reserved word in PostgreSQL.)
    CREATE TABLE grants (
        -- whose topics, `dev/{owner}/…`
        owner        {key(64)} NOT NULL,
        -- who may use them
        grantee      {key(64)} NOT NULL,
        -- SHA-256 of the filter in hexadecimal: a filter can be longer than a key
        filter_hash  {key(64)} NOT NULL,
        -- below `dev/{owner}/`
        topic_filter TEXT      NOT NULL,
        can_read     BOOLEAN   NOT NULL,
        can_write    BOOLEAN   NOT NULL,
        PRIMARY KEY (owner, grantee, filter_hash)
    ) {clustered};
    CREATE INDEX grants_by_grantee ON grants (grantee, owner);

    -- Why its last connection ended, in a word; null: it has not since this column is here.
    ALTER TABLE devices ADD COLUMN last_reason {key(64)};
";

const DOWN: &str = "
    ALTER TABLE devices DROP COLUMN last_reason;
    DROP TABLE grants;
    DROP TABLE retained;
";
