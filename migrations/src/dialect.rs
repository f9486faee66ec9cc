//! Where the three databases need another word for the same thing.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{DbBackend, Statement};

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
    let sql = translate(Dialect::of(connection).await?, &code.join("\n"));
    let statements = sql
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    for statement in statements {
        connection.execute_unprepared(statement).await?;
    }
    Ok(())
}

/// What MySQL and MariaDB call the same.
const MYSQL: [&str; 4] = ["BIGINT", "LONGBLOB", "LONGTEXT", ""];

#[derive(Clone, Copy)]
enum Dialect {
    Sqlite,
    Postgres,
    MySql,
    MariaDb,
}

impl Dialect {
    async fn of(connection: &SchemaManagerConnection<'_>) -> Result<Self, DbErr> {
        Ok(match connection.get_database_backend() {
            DbBackend::Sqlite => Dialect::Sqlite,
            DbBackend::Postgres => Dialect::Postgres,
            DbBackend::MySql => {
                let ask = Statement::from_string(DbBackend::MySql, "SELECT VERSION() AS version");
                let row = connection.query_one_raw(ask).await?;
                let version: Option<String> =
                    row.map(|row| row.try_get("", "version")).transpose()?;
                match version.is_some_and(|version| version.contains("MariaDB")) {
                    true => Dialect::MariaDb,
                    false => Dialect::MySql,
                }
            }
            other => unreachable!("no driver for {other:?} is compiled in"),
        })
    }
}

fn translate(dialect: Dialect, sql: &str) -> String {
    // utf8mb4_bin would take a name for the same with spaces behind it.
    let (key_suffix, rest) = match dialect {
        Dialect::Sqlite => ("", ["INTEGER", "BLOB", "TEXT", "WITHOUT ROWID"]),
        Dialect::Postgres => (" COLLATE \"C\"", ["BIGINT", "BYTEA", "TEXT", ""]),
        Dialect::MySql => (" COLLATE utf8mb4_0900_bin", MYSQL),
        Dialect::MariaDb => (" COLLATE utf8mb4_nopad_bin", MYSQL),
    };
    let [id, blob, text, clustered] = rest;
    sql.replace("{id}", id)
        .replace("{key(", "VARCHAR(")
        .replace(")}", &format!("){key_suffix}"))
        .replace("{blob}", blob)
        .replace("{text}", text)
        .replace("{clustered}", clustered)
}
