//! How PostgreSQL fills and cleans the pages of what is written most. Measured by tests/plan-1e9.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0008_postgres_pages"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => ddl(manager, UP).await,
            _ => Ok(()),
        }
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        match manager.get_database_backend() {
            DbBackend::Postgres => ddl(manager, DOWN).await,
            _ => Ok(()),
        }
    }
}

/// Pages that are there stay as they are. Neither reading nor writing waits for this.
const UP: &str = "
    -- With each message a row of each is written anew. Where its page has room for that, no index hears of it.
    ALTER TABLE conversations SET (fillfactor = 90);
    ALTER TABLE members SET (fillfactor = 80);
    ALTER TABLE cursors SET (fillfactor = 80);
    -- Not only when a fifth of a table that is never rewritten has come in or gone: what is done at once then, with
    -- thousands of millions of rows, takes hours.
    ALTER TABLE messages SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
        autovacuum_analyze_scale_factor = 0.02);
    ALTER TABLE search_index SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
        autovacuum_analyze_scale_factor = 0.02);
";

const DOWN: &str = "
    ALTER TABLE search_index RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,
        autovacuum_analyze_scale_factor);
    ALTER TABLE messages RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,
        autovacuum_analyze_scale_factor);
    ALTER TABLE cursors RESET (fillfactor);
    ALTER TABLE members RESET (fillfactor);
    ALTER TABLE conversations RESET (fillfactor);
";
