//! Why a statement failed, told by what the three databases say.

use std::future::Future;
use std::time::Duration;

use sea_orm::sqlx::mysql::MySqlDatabaseError;
use sea_orm::{DbErr, RuntimeErr, SqlErr, sqlx};

use crate::archive;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is locked, full, unwritable, restarting or out of reach: the same call may succeed later.
    #[error("the database is unavailable")]
    Unavailable(#[source] DbErr),
    /// Another transaction was in the way, such as by a deadlock, and this one is rolled back: the same call may succeed at
    /// once.
    #[error("another transaction was in the way")]
    Conflict(#[source] DbErr),
    /// A unique key exists already.
    #[error("the row exists already")]
    Exists(#[source] DbErr),
    /// What was known of a row beforehand is no longer so: the same call may succeed with what is so now.
    #[error("what was known of a row is no longer so")]
    Stale,
    /// A defect of ours or of the database.
    #[error("the database refused a statement")]
    Internal(#[source] DbErr),
    /// Messages in files can't be read now.
    #[error("the archive is unavailable")]
    Archive(#[from] archive::Error),
}

impl Error {
    /// The node may give no ids for now.
    pub(crate) fn no_number() -> Self {
        let reason = "the node has no number until it reaches the database in time";
        Error::Unavailable(DbErr::Custom(reason.to_owned()))
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match Cause::of(&error) {
            Cause::Connection | Cause::Server => Error::Unavailable(error),
            Cause::Conflict => Error::Conflict(error),
            Cause::Statement => match error.sql_err() {
                Some(SqlErr::UniqueConstraintViolation(_)) => Error::Exists(error),
                _ => Error::Internal(error),
            },
        }
    }
}

/// An error with everything behind it, for the log.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// An error that may say that another transaction was in the way.
pub trait InTheWay {
    /// Whether that is all it says.
    fn is_in_the_way(&self) -> bool;
}

impl InTheWay for Error {
    fn is_in_the_way(&self) -> bool {
        matches!(self, Error::Conflict(_))
    }
}

/// How often a call is made again.
const REPEATED_MAX: u32 = 8;

/// Makes a call, which is a transaction by itself, and again as long as others are in its way.
///
/// # Errors
/// The call's own.
pub async fn repeat<T, E, F>(mut call: impl FnMut() -> F) -> Result<T, E>
where
    E: InTheWay,
    F: Future<Output = Result<T, E>>,
{
    for pause in 0..REPEATED_MAX {
        match call().await {
            Err(error) if error.is_in_the_way() => {
                tokio::time::sleep(Duration::from_millis(pause.into())).await;
            }
            outcome => return outcome,
        }
    }
    call().await
}

/// What an error speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The way to the server, which may be at an end, or the server's end, or one that takes no writes any more: whoever
    /// has another connection may fare as badly.
    Connection,
    /// Locks, space, time: what the server has too little of.
    Server,
    /// Another transaction.
    Conflict,
    /// The statement itself, or its values.
    Statement,
}

impl Cause {
    pub(super) fn of(error: &DbErr) -> Self {
        let source = match error {
            DbErr::Exec(source) | DbErr::Query(source) => source,
            DbErr::Conn(_) => return Cause::Connection,
            DbErr::ConnectionAcquire(_) => return Cause::Server,
            _ => return Cause::Statement,
        };
        let RuntimeErr::SqlxError(error) = source else {
            return Cause::Statement;
        };
        match error.as_ref() {
            sqlx::Error::Database(database) => {
                match database.try_downcast_ref::<MySqlDatabaseError>() {
                    Some(mysql) => Self::of_mysql(mysql.number(), mysql.code().unwrap_or_default()),
                    None => Self::of_code(database.code().as_deref().unwrap_or_default()),
                }
            }
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) => Cause::Connection,
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Cause::Server
            }
            _ => Cause::Statement,
        }
    }

    /// SQLite's extended result codes (decimal; the primary code is the low byte), and PostgreSQL's SQLSTATE.
    fn of_code(code: &str) -> Self {
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
        const SQLITE: [u32; 9] = [5, 6, 7, 8, 9, 10, 13, 14, 15];
        match code.parse::<u32>() {
            Ok(number) if code.len() < 5 => match SQLITE.contains(&(number & 0xff)) {
                true => Cause::Server,
                false => Cause::Statement,
            },
            _ => Self::of_sqlstate(code),
        }
    }

    fn of_sqlstate(code: &str) -> Self {
        match code {
            // A standby, or one that has become one; a transaction that was idle for too long, with its session.
            "25006" | "25P03" => Cause::Connection,
            // query_canceled: statement_timeout. lock_not_available: lock_timeout.
            "57014" | "55P03" => Cause::Server,
            _ => match code.get(..2) {
                // connection, operator intervention
                Some("08" | "57") => Cause::Connection,
                // resources, system
                Some("53" | "58") => Cause::Server,
                // transaction rollback: serialization, deadlock
                Some("40") => Cause::Conflict,
                _ => Cause::Statement,
            },
        }
    }

    /// Many of MySQL's errors have no SQLSTATE but HY000.
    fn of_mysql(number: u16, sqlstate: &str) -> Self {
        match number {
            // --read-only and its like; shutdown, a killed connection, one that was idle for too long.
            1290 | 1792 | 1836 | 1053 | 1927 | 4031 => Cause::Connection,
            // The disk, or a table, is full; too many connections or locks; a lock was waited for too long; a time limit.
            1021 | 1114 | 1040 | 1203 | 1205 | 1206 | 1317 | 1969 | 3024 => Cause::Server,
            // A row has changed since the transaction has begun to read.
            1020 => Cause::Conflict,
            _ => Self::of_sqlstate(sqlstate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_is_repeated_while_others_are_in_its_way() {
        let in_the_way = || Error::Conflict(DbErr::Custom("deadlock".into()));
        for (conflicts, is_done) in [(0, true), (1, true), (8, true), (9, false)] {
            let mut calls = 0;
            let outcome = repeat(|| {
                calls += 1;
                std::future::ready(if calls > conflicts {
                    Ok(())
                } else {
                    Err(in_the_way())
                })
            });
            assert_eq!(outcome.await.is_ok(), is_done, "{conflicts}");
        }
        let mut calls = 0;
        let outcome: Result<(), _> = repeat(|| {
            calls += 1;
            std::future::ready(Err(Error::Stale))
        })
        .await;
        assert!(outcome.is_err() && calls == 1, "not for anything else");
    }

    #[test]
    fn codes_tell_what_helps() {
        for (code, cause) in [
            // SQLite: BUSY, BUSY_SNAPSHOT, FULL, CONSTRAINT_UNIQUE
            ("5", Cause::Server),
            ("517", Cause::Server),
            ("13", Cause::Server),
            ("2067", Cause::Statement),
            // PostgreSQL
            ("40001", Cause::Conflict),
            ("40P01", Cause::Conflict),
            ("57P01", Cause::Connection),
            ("57014", Cause::Server),
            ("25006", Cause::Connection),
            ("53100", Cause::Server),
            ("23505", Cause::Statement),
            ("42601", Cause::Statement),
        ] {
            assert_eq!(Cause::of_code(code), cause, "{code}");
        }
        for (number, sqlstate, cause) in [
            (1213, "40001", Cause::Conflict),
            (1205, "HY000", Cause::Server),
            (1114, "HY000", Cause::Server),
            (1062, "23000", Cause::Statement),
            (1290, "HY000", Cause::Connection),
            (1969, "70100", Cause::Server),
        ] {
            assert_eq!(Cause::of_mysql(number, sqlstate), cause, "{number}");
        }
    }
}
