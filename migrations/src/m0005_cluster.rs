//! Several nodes on one database: what keeps them from deciding by what is no longer so, their numbers, and who does what
//! only one of them may do at a time.

use sea_orm_migration::prelude::*;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0005_cluster"
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

/// All times are milliseconds since 1970 by the clock of the database, so that it does not matter what the nodes' clocks say.
const UP: &str = "
    -- Grows with every change of who is in the conversation and who may send to it, in the transaction of the change: who has
    -- these in memory sees by it that they are no longer so.
    ALTER TABLE conversations ADD COLUMN revision {id} NOT NULL DEFAULT 0;
    -- The newest message; 0: none yet. Messages of a conversation have larger ids than those before them, whichever nodes
    -- have given them.
    ALTER TABLE conversations ADD COLUMN last_msg_id {id} NOT NULL DEFAULT 0;
    UPDATE conversations SET last_msg_id = COALESCE((SELECT x.msg_id FROM messages x
        WHERE x.conversation_id = conversations.id AND x.seq = conversations.last_seq), 0);

    -- Nodes that are there, or were. A number is taken over when its time has run out.
    CREATE TABLE nodes (
        -- 0-1023: part of the ids of messages, and no other node's at the same time
        number    INTEGER      NOT NULL PRIMARY KEY,
        -- tells a node from one that had the number before it, and from itself before it was started anew
        boot      {key(32)}    NOT NULL,
        -- for people
        name      VARCHAR(255) NOT NULL,
        since     {id}         NOT NULL,
        -- the node gives no ids from then on, unless it has put it off
        until     {id}         NOT NULL,
        -- nothing that it is about to store has an id below this one
        floor     {id}         NOT NULL
    );

    -- Who looks after something that one node alone does at a time.
    CREATE TABLE leases (
        name   {key(32)} NOT NULL PRIMARY KEY,
        -- the node's `boot`
        holder {key(32)} NOT NULL,
        -- somebody else may from then on
        until  {id}      NOT NULL
    );
";

const DOWN: &str = "
    DROP TABLE leases;
    DROP TABLE nodes;
    ALTER TABLE conversations DROP COLUMN last_msg_id;
    ALTER TABLE conversations DROP COLUMN revision;
";
