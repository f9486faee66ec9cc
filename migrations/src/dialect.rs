//! Where the three databases need another word for the same thing.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// Runs the statements of `sql`, which end with `;`, without the `--` lines and with the dialect's words filled in:
///
/// - `{id}`: a 64-bit integer. On SQLite `INTEGER`, so that a primary key is the rowid itself.
/// - `{key(n)}`: text of up to n characters, compared byte by byte (uids are case-sensitive).
/// - `{blob}`: bytes of any length.
/// - `{text}`: text of any length.
/// - `{clustered}`: rows live in the primary key. SQLite only; MySQL always does it, PostgreSQL never.
pub(crate) async fn ddl(manager: &SchemaManager<'_>, sql: &str) -> Result<(), DbErr> {
    let connection = manager.get_connection();
    let code: Vec<&str> = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    let sql = translate(manager.get_database_backend(), &code.join("\n"));
    let statements = sql
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    for statement in statements {
        connection.execute_unprepared(statement).await?;
    }
    Ok(())
}

fn translate(backend: DbBackend, sql: &str) -> String {
    let (id, key_suffix, blob, text, clustered) = match backend {
        DbBackend::Sqlite => ("INTEGER", "", "BLOB", "TEXT", "WITHOUT ROWID"),
        DbBackend::Postgres => ("BIGINT", " COLLATE \"C\"", "BYTEA", "TEXT", ""),
        DbBackend::MySql => ("BIGINT", " COLLATE utf8mb4_bin", "LONGBLOB", "LONGTEXT", ""),
        other => unreachable!("no driver for {other:?} is compiled in"),
    };
    sql.replace("{id}", id)
        .replace("{key(", "VARCHAR(")
        .replace(")}", &format!("){key_suffix}"))
        .replace("{blob}", blob)
        .replace("{text}", text)
        .replace("{clustered}", clustered)
}
