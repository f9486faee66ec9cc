//! The database schema, one change per module, named for what it does.
//!
//! The same migrations run on SQLite, PostgreSQL and MySQL; where the dialects differ, `dialect::ddl`
//! fills in the word. See `README.md` beside this crate for when they run and how to write one.

use sea_orm_migration::prelude::*;
pub use sea_orm_migration::prelude::{IntoSchemaManagerConnection, MigratorTrait};
pub use sea_orm_migration::{Migration, MigrationStatus};

mod dialect;
mod m0001_chat;
mod m0002_plain_topics;
mod m0003_chat_semantics;
mod m0004_search;
mod m0005_cluster;
mod m0006_archive;
mod m0007_decisions;
mod m0008_postgres_pages;

/// All migrations, oldest first.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_chat::Migration),
            Box::new(m0002_plain_topics::Migration),
            Box::new(m0003_chat_semantics::Migration),
            Box::new(m0004_search::Migration),
            Box::new(m0005_cluster::Migration),
            Box::new(m0006_archive::Migration),
            Box::new(m0007_decisions::Migration),
            Box::new(m0008_postgres_pages::Migration),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sea_orm_migration::sea_orm::Database;

    #[tokio::test]
    async fn up_down_and_up_again() {
        let db = Database::connect("sqlite::memory:").await.unwrap();
        Migrator::up(&db, None).await.unwrap();
        Migrator::down(&db, None).await.unwrap();
        Migrator::up(&db, None).await.unwrap();
    }
}
