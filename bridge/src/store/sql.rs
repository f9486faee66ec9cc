//! SQL text that runs on all three dialects: placeholders, lists of values, upserts.
//!
//! Texts are written with `?` and a few markers; a batch of rows becomes statements of 256, 128, … 1 rows, so that
//! each connection meets few different texts and keeps them prepared. PostgreSQL takes the columns as arrays, so that
//! one text is for all sizes.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value};

mod arrays;

/// The largest statement of a batch, in rows. With ten columns it is far below SQLite's 32,766 parameters.
const ROWS_MAX: usize = 256;
/// The same where rows come as arrays: about as many as a round has.
const ARRAY_MAX: usize = 2048;

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

/// What a range of a conversation's rows is asked for by: parameters are its id, the seq before, its id again, and the
/// seq after, where an index has both columns and the rows are wanted in its order.
///
/// PostgreSQL plans once for all values, and takes two bounds of one column for a range of few rows: it would read and sort
/// all of them, which may be a million, for the first fifty. Two bounds of both columns it takes for many.
pub fn between(backend: DbBackend, conversation_id: &str, seq: &str) -> String {
    match backend {
        DbBackend::Postgres => {
            format!("({conversation_id}, {seq}) > (?, ?) AND ({conversation_id}, {seq}) < (?, ?)")
        }
        _ => format!("{conversation_id} = ? AND {seq} > ? AND {conversation_id} = ? AND {seq} < ?"),
    }
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

    /// Parts as large as a statement of the dialect may be: on PostgreSQL few, elsewhere powers of two.
    fn chunks(self, backend: DbBackend) -> impl Iterator<Item = Chunk> {
        let Rows { columns, values } = self;
        let mut values = values.into_iter();
        std::iter::from_fn(move || {
            let left = values.len() / columns.max(1);
            if left == 0 {
                return None;
            }
            let rows = match backend {
                DbBackend::Postgres => left.min(ARRAY_MAX),
                _ => (1 << left.ilog2()).min(ROWS_MAX),
            };
            let values = values.by_ref().take(rows * columns).collect();
            Some(Chunk::new(backend, columns, values))
        })
    }
}

/// Rows of a statement.
struct Chunk {
    /// `VALUES (?,?),(?,?)…`, or a SELECT from arrays.
    table: String,
    /// The right side of a comparison with any of the rows, where it does not follow from that.
    any: Option<String>,
    values: Vec<Value>,
}

impl Chunk {
    fn new(backend: DbBackend, columns: usize, mut values: Vec<Value>) -> Self {
        let rows = values.len() / columns;
        // A single row is planned as what it is.
        if backend == DbBackend::Postgres && rows > 1 {
            match arrays::transpose(columns, values) {
                Ok(chunk) => return chunk,
                Err(same) => values = same,
            }
        }
        let row = format!("({})", vec!["?"; columns].join(","));
        Chunk {
            table: format!("VALUES {}", vec![row.as_str(); rows].join(",")),
            any: None,
            values,
        }
    }

    /// `text` with the rows to compare with in place of `{in}`.
    fn text_in(&self, backend: DbBackend, text: &str) -> String {
        let table = &self.table;
        let list = match (&self.any, backend) {
            (Some(any), _) => any.clone(),
            // SQLite takes a list of tuples only as VALUES; for plain values all dialects take (?),(?).
            (None, DbBackend::Sqlite) => format!("IN ({table})"),
            (None, _) => format!("IN ({})", table.trim_start_matches("VALUES ")),
        };
        text.replace("{in}", &list)
    }
}

/// Runs `text`, an INSERT, for all rows; `VALUES {rows}` in it stands for them.
///
/// # Errors
/// [`DbErr`] as the database has it; earlier chunks have been written then, so call it in a transaction.
pub async fn execute_rows<C: ConnectionTrait>(
    connection: &C,
    text: &str,
    rows: Rows,
) -> Result<(), DbErr> {
    for chunk in rows.chunks(connection.get_database_backend()) {
        let text = text.replace("VALUES {rows}", &chunk.table);
        execute(connection, &text, chunk.values).await?;
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
    for chunk in rows.chunks(connection.get_database_backend()) {
        let text = text.replace("VALUES {rows}", &chunk.table);
        found.extend(query(connection, &text, chunk.values).await?);
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
    for chunk in rows.chunks(backend) {
        found.extend(query(connection, &chunk.text_in(backend, text), chunk.values).await?);
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
    for chunk in rows.chunks(backend) {
        execute(connection, &chunk.text_in(backend, text), chunk.values).await?;
    }
    Ok(())
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
    let backend = connection.get_database_backend();
    for chunk in rows.chunks(backend) {
        let text = if backend == DbBackend::MySql {
            let rows = derived_table(columns, chunk.values.len());
            format!("UPDATE {table} JOIN {rows} ON {on} SET {set}")
        } else {
            update_text(table, columns, set, on, &chunk.table)
        };
        execute(connection, &text, chunk.values).await?;
    }
    Ok(())
}

/// The same for rows that several nodes update at once: on PostgreSQL, which would take them in any order, they are locked
/// in the order that is named beside the table. Elsewhere they are taken in the order of `rows`.
///
/// # Errors
/// [`DbErr`] as the database has it.
pub async fn update_rows_in_order<C: ConnectionTrait>(
    connection: &C,
    (table, order): (&str, &str),
    columns: &[&str],
    set: &str,
    on: &str,
    rows: Rows,
) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    if backend != DbBackend::Postgres {
        return update_rows(connection, table, columns, set, on, rows).await;
    }
    let names = columns.join(", ");
    for chunk in rows.chunks(backend) {
        let rows = &chunk.table;
        let text = format!(
            "WITH v AS (SELECT v.* FROM ({rows}) AS v({names}) JOIN {table} ON {on}
                ORDER BY {order} FOR UPDATE OF {table})
            UPDATE {table} SET {set} FROM v WHERE {on}"
        );
        execute(connection, &text, chunk.values).await?;
    }
    Ok(())
}

/// The same as [`update_rows`], and returns what the `RETURNING` clause asks for of each row: not on MySQL, which has none.
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
    for chunk in rows.chunks(connection.get_database_backend()) {
        let text = update_text(table, columns, set, on, &chunk.table);
        returned.extend(query(connection, &format!("{text} {returning}"), chunk.values).await?);
    }
    Ok(returned)
}

fn update_text(table: &str, columns: &[&str], set: &str, on: &str, rows: &str) -> String {
    let names = columns.join(", ");
    format!("WITH v({names}) AS ({rows}) UPDATE {table} SET {set} FROM v WHERE {on}")
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
    let backend = connection.get_database_backend();
    let names = columns.join(", ");
    for chunk in rows.chunks(backend) {
        let text = if backend == DbBackend::MySql {
            let rows = derived_table(columns, chunk.values.len());
            let select = select.replacen("FROM v", &format!("FROM {rows}"), 1);
            format!("INSERT INTO {table} ({names}) {select} {conflict}")
        } else {
            let rows = &chunk.table;
            format!("WITH v({names}) AS ({rows}) INSERT INTO {table} ({names}) {select} {conflict}")
        };
        execute(connection, &text, chunk.values).await?;
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
    let backend = connection.get_database_backend();
    let names = columns.join(", ");
    let mut found = Vec::new();
    for chunk in rows.chunks(backend) {
        let text = if backend == DbBackend::MySql {
            let rows = derived_table(columns, chunk.values.len());
            select.replacen("FROM v", &format!("FROM {rows}"), 1)
        } else {
            format!("WITH v({names}) AS ({}) {select}", chunk.table)
        };
        found.extend(query(connection, &text, chunk.values).await?);
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

/// The sum of whole numbers as a whole number of 64 bits, whatever the dialect makes of it.
#[must_use]
pub fn sum(backend: DbBackend, of: &str) -> String {
    match backend {
        DbBackend::MySql => format!("CAST(SUM({of}) AS SIGNED)"),
        _ => format!("CAST(SUM({of}) AS BIGINT)"),
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
    fn batches_come_in_powers_of_two_or_as_arrays() {
        let rows = |count: i64| {
            let mut rows = Rows::new(2);
            for n in 0..count {
                rows.push([n.into(), "x".into()]);
            }
            rows
        };
        let chunks = rows(292).chunks(DbBackend::Sqlite);
        let sizes: Vec<usize> = chunks.map(|chunk| chunk.values.len() / 2).collect();
        assert_eq!(sizes, [256, 32, 4]);
        let on_postgres = |count| -> Vec<_> {
            let chunks = rows(count).chunks(DbBackend::Postgres);
            chunks.map(|chunk| chunk.table).collect()
        };
        let arrays = "SELECT * FROM unnest(?::bigint[],?::text[])";
        assert_eq!(on_postgres(2048), [arrays]);
        assert_eq!(on_postgres(2049), [arrays, "VALUES (?,?)"]);
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
