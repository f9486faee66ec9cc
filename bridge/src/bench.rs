//! `tidings bench`: load on a server, and a check that the server kept its promises under it.
//!
//! Users talk with each other. Every message carries its number and the time when it was due, so that the receiver
//! measures what a user would feel. A run whose messages are not all stored, answered and received exactly once, in order
//! and without a hole in `seq`, has failed, however fast it was.
//!
//! Reading order: `chat`, `group`, `rooms` and `mixed` (scenarios) → `load` (their recipe), `server`, `accounts` and `http`
//! (what must be there first), `talk` (who talks with whom), `way`, `connection`, `incoming` → `client` (one user), `stamp`,
//! `template` and `down` (what the messages hold), `schedule` (when they are sent), `check`, `stored` and `faults` (whether
//! all is well), `tally`, `process` and `figures` (what is made of it). `connect`, `idle`, `catchup` with `missed`, and
//! `users` measure other things with the same parts; `limits` is what the operating system allows them. `runs` repeats a
//! measurement, shows its `progress`, and writes its `results` with the `machine` they are of, as `text` and as a `page` with
//! `plot`s; `compare` holds two of them against each other.
//!
//! The generator often shares its cores with the server, so it spends as little as it can: a PUBLISH is a copy of a
//! prepared packet, and packets are read and written as many at a time as there are. Its own CPU time is in the report.

mod accounts;
mod catchup;
mod chat;
mod check;
mod client;
mod compare;
mod connect;
mod connection;
mod down;
mod faults;
mod figures;
mod group;
mod http;
mod idle;
mod incoming;
mod limits;
mod load;
mod machine;
mod missed;
mod mixed;
mod page;
mod plot;
mod process;
mod progress;
mod results;
mod rooms;
mod runs;
mod schedule;
mod server;
mod stamp;
mod stored;
mod talk;
mod tally;
mod template;
mod text;
mod users;
mod way;

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use schema::Format;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use self::catchup::CatchUpOptions;
use self::chat::ChatOptions;
use self::compare::CompareOptions;
use self::connect::ConnectOptions;
use self::group::GroupOptions;
use self::idle::IdleOptions;
use self::mixed::MixedOptions;
use self::rooms::RoomsOptions;
use self::users::UsersOptions;
use self::way::Way;

/// What load to make.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pairs of users who send each other messages
    Chat(ChatOptions),
    /// One group of many members, of whom some send
    Group(GroupOptions),
    /// Plain topics, on each of which one user publishes to many; nothing is stored
    Rooms(RoomsOptions),
    /// A day in small: most only read, some write in pairs and groups, some go away and come back
    Mixed(MixedOptions),
    /// How many clients a second are let in, and what that costs
    Connect(ConnectOptions),
    /// The memory of connections that do nothing
    Idle(IdleOptions),
    /// How fast devices that were away get what they have missed
    Catchup(CatchUpOptions),
    /// Whether a message costs more when many users are connected
    Users(UsersOptions),
    /// What has become better or worse between two files of results
    Compare(CompareOptions),
}

/// [`Format`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WireFormat {
    /// `im/…`
    Protobuf,
    /// `imj/…`
    Json,
}

impl From<WireFormat> for Format {
    fn from(format: WireFormat) -> Self {
        match format {
            WireFormat::Protobuf => Format::Protobuf,
            WireFormat::Json => Format::Json,
        }
    }
}

impl WireFormat {
    fn name(self) -> &'static str {
        match self {
            WireFormat::Protobuf => "protobuf",
            WireFormat::Json => "json",
        }
    }

    /// By its name, as results keep it.
    fn as_value(self) -> (String, Value) {
        ("format".to_owned(), json!(self.name()))
    }
}

impl Command {
    /// Makes the load and prints what came of it. `config` is the settings' file for a server of its own.
    ///
    /// # Errors
    /// What kept it from measuring, or that the server broke a promise.
    pub async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let run = async {
            match self {
                Command::Chat(options) => options.run(config).await,
                Command::Group(options) => options.run(config).await,
                Command::Rooms(options) => options.run(config).await,
                Command::Mixed(options) => options.run(config).await,
                Command::Connect(options) => options.run(config).await,
                Command::Idle(options) => options.run(config).await,
                Command::Catchup(options) => options.run(config).await,
                Command::Users(options) => options.run(config).await,
                Command::Compare(options) => options.run(),
            }
        };
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
        tokio::select! {
            outcome = run => outcome,
            // Returning ends the server and removes its folder.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    }
}

/// Where the server is.
#[derive(Clone)]
struct Target {
    mqtt: Way,
    http: String,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn nonsense_is_refused_before_the_run() {
        let parse = |line: &str| Line::try_parse_from(line.split(' '));
        for measure in [
            "chat",
            "group",
            "rooms --qos 0",
            "mixed --users 100 --absent 0",
            "connect",
            "idle",
            "users",
            "users --in-process",
            "chat --mqtt 127.0.0.1:1 --http 127.0.0.1:2 --server-pid 3 --rate 5 --json -",
            "group --broker 127.0.0.1:1 --qos 0 --members 20 --senders 2 --runs 3",
            "catchup",
            "chat --database postgres://localhost/x --database-pid 3",
            "group --database mysql://localhost/x --redis redis://localhost --redis-pid 4 --nodes 3",
        ] {
            assert!(parse(&format!("bench {measure}")).is_ok(), "{measure}");
        }
        for line in [
            "bench",
            "bench chat --mqtt 127.0.0.1:1",
            "bench chat --http 127.0.0.1:1",
            "bench chat --mqtt 127.0.0.1:1 --http 127.0.0.1:2 --broker 127.0.0.1:3",
            "bench chat --qos 0",
            "bench mixed --broker 127.0.0.1:1",
            "bench chat --broker 127.0.0.1:1 --qos 2",
            "bench chat --size 31",
            "bench group --members 1",
            "bench group --senders 0",
            "bench chat --window 0",
            "bench chat --users 0",
            "bench chat --format xml",
            "bench connect --in-flight 0",
            "bench idle --connections 0",
            "bench users --few 1",
            "bench catchup --users 0",
            "bench connect --runs 0",
            "bench chat --database-pid 3",
            "bench chat --database postgres://localhost/x --nodes 2",
            "bench chat --database postgres://localhost/x --redis redis://localhost --nodes 0",
            "bench chat --database postgres://localhost/x --broker 127.0.0.1:3",
            "bench chat --database postgres://localhost/x --mqtt 127.0.0.1:1 --http 127.0.0.1:2",
            "bench compare old.json",
            "bench compare old.json new.json --fail-if-worse -1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
