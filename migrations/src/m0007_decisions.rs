//! What was decided about who may be here and who may use what, for the nodes that have to hear of it.

use sea_orm_migration::prelude::*;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0007_decisions"
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

const UP: &str = "
    -- Written by a node of a cluster in the transaction that decides, read by all others within a second or two, and dropped
    -- some time later.
    CREATE TABLE decisions (
        -- by chance: nodes give them without asking each other
        id       {id}   NOT NULL PRIMARY KEY,
        -- when it was written, in milliseconds since 1970 by the clock of the database
        at       {id}   NOT NULL,
        -- a protobuf `tidings.bus.v1.Decision`
        decision {blob} NOT NULL
    );
    CREATE INDEX decisions_by_time ON decisions (at);
";

const DOWN: &str = "
    DROP TABLE decisions;
";
