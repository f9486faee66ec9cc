//! SQL text that runs on all three dialects: placeholders, lists of values, upserts.
//!
//! Texts are written with `?` and a few markers; a batch of rows becomes statements of 256, 128, … 1 rows, so that
//! each connection meets few different texts and keeps them prepared.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value};

/// The largest statement of a batch, in rows. With ten columns it is far below SQLite's 32,766 parameters.
const ROWS_MAX: usize = 256;

/// Runs a statement and tells how many rows it touched.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn execute<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<u64, DbErr> {
    let statement = statement(connection.get_database_backend(), text, values);
    Ok(connection.execute_raw(statement).await?.rows_affected())
}

/// Runs a query and returns its rows.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn query<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<QueryResult>, DbErr> {
    let statement = statement(connection.get_database_backend(), text, values);
    connection.query_all_raw(statement).await
}

/// Runs a query and returns its first row.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn query_one<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Option<QueryResult>, DbErr> {
    Ok(query(connection, text, values).await?.into_iter().next())
}

fn statement(backend: DbBackend, text: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(backend, placeholders(backend, text), values)
}

/// `?` becomes `$1`, `$2` … on PostgreSQL. No text of ours has a `?` that isn't a placeholder.
fn placeholders(backend: DbBackend, text: &str) -> String {
    if backend != DbBackend::Postgres {
        return text.to_owned();
    }
    let mut numbered = String::with_capacity(text.len() + 16);
    let mut parts = text.split('?');
    numbered.push_str(parts.next().unwrap_or_default());
    for (index, part) in parts.enumerate() {
        numbered.push_str(&format!("${}{part}", index + 1));
    }
    numbered
}

/// A list of rows to be written or matched, as one flat list of values.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    columns: usize,
    values: Vec<Value>,
}

impl Rows {
    /// An empty list of rows of `columns` values.
    #[must_use]
    pub fn new(columns: usize) -> Self {
        Rows {
            columns,
            values: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn push<const N: usize>(&mut self, row: [Value; N]) {
        debug_assert_eq!(N, self.columns, "a row has as many values as the statement");
        self.values.extend(row);
    }

    /// `(?,?),(?,?)…` with the values for it, in chunks whose sizes are powers of two.
    fn chunks(self) -> impl Iterator<Item = (String, Vec<Value>)> {
        let Rows { columns, values } = self;
        let mut values = values.into_iter();
        std::iter::from_fn(move || {
            let left = values.len() / columns.max(1);
            if left == 0 {
                return None;
            }
            let rows = (1 << left.ilog2()).min(ROWS_MAX);
            let row = format!("({})", vec!["?"; columns].join(","));
            let list = vec![row.as_str(); rows].join(",");
            Some((list, values.by_ref().take(rows * columns).collect()))
        })
    }
}

/// Runs `text` for all rows; `{rows}` in it becomes the list `(?,?),(?,?)…`.
///
/// # Errors
/// [`DbErr`] as the database has it; earlier chunks have been written then, so call it in a transaction.
pub async fn execute_rows<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    rows: Rows,
) -> Result<(), DbErr> {
    for (list, values) in rows.chunks() {
        execute(connection, &text.replace("{rows}", &list), values).await?;
    }
    Ok(())
}

/// The same for a statement that returns rows.
///
/// # Errors
/// [`DbErr`] as the database has it; earlier chunks have been written then, so call it in a transaction.
pub async fn query_each<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    rows: Rows,
) -> Result<Vec<QueryResult>, DbErr> {
    let mut found = Vec::new();
    for (list, values) in rows.chunks() {
        found.extend(query(connection, &text.replace("{rows}", &list), values).await?);
    }
    Ok(found)
}

/// Runs the query `text` for all rows and returns what it found; `{in}` in it becomes the right side of `IN`.
/// A row of one column matches a plain column, a longer one a tuple: `(a, b) {in}`.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn query_rows<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    rows: Rows,
) -> Result<Vec<QueryResult>, DbErr> {
    let backend = connection.get_database_backend();
    let mut found = Vec::new();
    for (list, values) in rows.chunks() {
        found.extend(query(connection, &text_in(backend, text, &list), values).await?);
    }
    Ok(found)
}

/// Runs `text`, which has `{in}` like that of [`query_rows`], for all rows.
///
/// # Errors
/// [`DbErr`] as the database has it; earlier chunks have been written then, so call it in a transaction.
pub async fn execute_in<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    rows: Rows,
) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    for (list, values) in rows.chunks() {
        execute(connection, &text_in(backend, text, &list), values).await?;
    }
    Ok(())
}

/// SQLite takes a list of tuples only as VALUES; for plain values all dialects take (?),(?).
fn text_in(backend: DbBackend, text: &str, list: &str) -> String {
    let list = match backend {
        DbBackend::Sqlite => format!("IN (VALUES {list})"),
        _ => format!("IN ({list})"),
    };
    text.replace("{in}", &list)
}

/// Updates many rows of `table` at once, each with values of its own. `columns` names the values of a row; `set` and
/// `on` speak of them as `v.name`. What `set` assigns to must not be among them: MySQL could not tell which is meant.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn update_rows<C: ConnectionTrait>(
    connection: &C,
    table: &str,
    columns: &[&str],
    set: &str,
    on: &str,
    rows: Rows,
) -> Result<(), DbErr> {
    let mut assigned = set.split(", ").filter_map(|part| part.split_once(" = "));
    debug_assert!(
        !assigned.any(|(column, _)| columns.contains(&column.trim())),
        "MySQL can't tell a value from the column that is set: {set}"
    );
    let is_mysql = connection.get_database_backend() == DbBackend::MySql;
    for (list, values) in rows.chunks() {
        let text = if is_mysql {
            let rows = derived_table(columns, values.len());
            format!("UPDATE {table} JOIN {rows} ON {on} SET {set}")
        } else {
            update_text(table, columns, set, on, &list)
        };
        execute(connection, &text, values).await?;
    }
    Ok(())
}

/// The same, and returns what the `RETURNING` clause asks for of each row: not on MySQL, which has none.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn update_rows_returning<C: ConnectionTrait>(
    connection: &C,
    table: &str,
    columns: &[&str],
    set: &str,
    on: &str,
    returning: &str,
    rows: Rows,
) -> Result<Vec<QueryResult>, DbErr> {
    let mut returned = Vec::new();
    for (list, values) in rows.chunks() {
        let text = update_text(table, columns, set, on, &list);
        returned.extend(query(connection, &format!("{text} {returning}"), values).await?);
    }
    Ok(returned)
}

fn update_text(table: &str, columns: &[&str], set: &str, on: &str, list: &str) -> String {
    let names = columns.join(", ");
    format!("WITH v({names}) AS (VALUES {list}) UPDATE {table} SET {set} FROM v WHERE {on}")
}

/// Inserts into `table` what `select` makes of the rows, which it calls `v`, with a `conflict` clause.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn insert_from_rows<C: ConnectionTrait>(
    connection: &C,
    table: &str,
    columns: &[&str],
    select: &str,
    conflict: &str,
    rows: Rows,
) -> Result<(), DbErr> {
    let is_mysql = connection.get_database_backend() == DbBackend::MySql;
    let names = columns.join(", ");
    for (list, values) in rows.chunks() {
        let text = if is_mysql {
            let rows = derived_table(columns, values.len());
            let select = select.replacen("FROM v", &format!("FROM {rows}"), 1);
            format!("INSERT INTO {table} ({names}) {select} {conflict}")
        } else {
            format!(
                "WITH v({names}) AS (VALUES {list}) INSERT INTO {table} ({names}) {select} {conflict}"
            )
        };
        execute(connection, &text, values).await?;
    }
    Ok(())
}

/// Runs the query `select` for all rows, which it calls `v`: `… FROM v JOIN …`. Each row is looked up by itself; a list
/// of tuples to be matched makes SQLite read all of a table whose key is not its only index.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn select_from_rows<C: ConnectionTrait>(
    connection: &C,
    columns: &[&str],
    select: &str,
    rows: Rows,
) -> Result<Vec<QueryResult>, DbErr> {
    let is_mysql = connection.get_database_backend() == DbBackend::MySql;
    let names = columns.join(", ");
    let mut found = Vec::new();
    for (list, values) in rows.chunks() {
        let text = if is_mysql {
            let rows = derived_table(columns, values.len());
            select.replacen("FROM v", &format!("FROM {rows}"), 1)
        } else {
            format!("WITH v({names}) AS (VALUES {list}) {select}")
        };
        found.extend(query(connection, &text, values).await?);
    }
    Ok(found)
}

/// Rows as MySQL and MariaDB both take them: `(SELECT ? AS a, ? AS b UNION ALL …) v`.
fn derived_table(columns: &[&str], values: usize) -> String {
    let named: Vec<String> = columns.iter().map(|name| format!("? AS {name}")).collect();
    let row = format!("SELECT {}", named.join(", "));
    let rows = vec![row; values / columns.len()].join(" UNION ALL ");
    format!("({rows}) v")
}

/// ` ON CONFLICT (key) DO UPDATE SET ` in the dialect; follow it with assignments that use [`excluded`].
#[must_use]
pub fn on_conflict(backend: DbBackend, key: &str) -> String {
    match backend {
        DbBackend::MySql => " ON DUPLICATE KEY UPDATE ".to_owned(),
        _ => format!(" ON CONFLICT ({key}) DO UPDATE SET "),
    }
}

/// The value that the row in conflict would have had.
#[must_use]
pub fn excluded(backend: DbBackend, column: &str) -> String {
    match backend {
        DbBackend::MySql => format!("VALUES({column})"),
        _ => format!("excluded.{column}"),
    }
}

/// The database's clock, in milliseconds since 1970, at the moment when it is read: nodes that compare times with it agree,
/// whatever their own clocks say.
#[must_use]
pub fn now(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        DbBackend::MySql => "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
        _ => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    }
}

/// ` FOR UPDATE`, where rows can be locked one by one; SQLite's write transaction has locked them all.
#[must_use]
pub fn for_update(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "",
        _ => " FOR UPDATE",
    }
}

/// Ends a query that is to see what was committed until now: on MySQL a transaction otherwise sees what was there when
/// it began to read, though it has waited for a lock since.
#[must_use]
pub fn as_of_now(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::MySql => " LOCK IN SHARE MODE",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_in_powers_of_two() {
        let mut rows = Rows::new(2);
        for n in 0..292_i64 {
            rows.push([n.into(), n.into()]);
        }
        let sizes: Vec<usize> = rows.chunks().map(|(_, values)| values.len() / 2).collect();
        assert_eq!(sizes, [256, 32, 4]);
    }

    #[test]
    fn postgres_counts_its_placeholders() {
        assert_eq!(
            placeholders(DbBackend::Postgres, "a = ? AND b IN ((?),(?))"),
            "a = $1 AND b IN (($1),($2))".replace("($1),($2)", "($2),($3)")
        );
        assert_eq!(placeholders(DbBackend::MySql, "a = ?"), "a = ?");
    }
}
