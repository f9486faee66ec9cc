//! `tidings bench`: load on a running server, and a check that the server kept its promises under it.
//!
//! Users are paired; the two of a pair chat with each other, both at once. Every message carries its number and the
//! time when it was due, so that the receiver measures what a user would feel. A run whose messages are not all stored,
//! answered and received exactly once, in order and without a hole in `seq`, has failed, however fast it was.
//!
//! Reading order: `ChatOptions::run` (the recipe), `server` and `accounts` (what must be there first), `way`, `connection`
//! → `client` (one user), `stamp`, `template` and `down` (what the messages hold), `schedule` (when they are sent),
//! `check` and `report` (what is made of it). `connect`, `idle`, `catchup` and `users` measure other things with the same
//! parts; `limits` is what the operating system allows them. `runs` repeats a measurement and writes its `results`, as
//! `text` and as a `page`; `compare` holds two of them against each other.
//!
//! The generator often shares its cores with the server, so it spends as little as it can: a PUBLISH is a copy of a
//! prepared packet, and packets are read and written as many at a time as there are. Its own CPU time is in the report.

mod accounts;
mod catchup;
mod check;
mod client;
mod compare;
mod connect;
mod connection;
mod down;
mod faults;
mod http;
mod idle;
mod limits;
mod machine;
mod missed;
mod page;
mod plot;
mod process;
mod progress;
mod report;
mod results;
mod runs;
mod schedule;
mod server;
mod stamp;
mod template;
mod text;
mod users;
mod way;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use parking_lot::Mutex;
use schema::Format;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use self::accounts::Account;
use self::catchup::CatchUpOptions;
use self::check::{Conversations, View};
use self::client::Client;
use self::compare::CompareOptions;
use self::connect::ConnectOptions;
use self::connection::Connection;
use self::idle::IdleOptions;
use self::report::{Report, Tally};
use self::schedule::{Clock, Pace, Phases};
use self::server::Server;
use self::template::Template;
use self::users::UsersOptions;
use self::way::Way;

/// Connections that are opened at the same time.
const CONNECTING_MAX: usize = 32;
/// Conversations whose `lastSeq` is looked up after the run.
const CONFIRMED_MAX: usize = 16;
/// Between the last subscription and the first message.
const SETTLE: Duration = Duration::from_millis(200);

/// What load to make.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pairs of users who send each other messages
    Chat(ChatOptions),
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

/// Pairs of users who send each other messages.
#[derive(Args, Clone, Debug)]
pub struct ChatOptions {
    /// Where the server listens for MQTT. Left out, with --http: a server of its own, with an empty data folder
    #[arg(long, value_name = "HOST:PORT", requires = "http")]
    mqtt: Option<String>,
    /// Where the server listens for HTTP
    #[arg(long, value_name = "HOST:PORT", requires = "mqtt")]
    http: Option<String>,
    /// How many users, an even number; user 2k and user 2k+1 chat with each other
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    users: u32,
    /// Publishes of a connection that may wait for their PUBACK
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Bytes of a message's content
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(stamp::SIZE as i64..))]
    size: u32,
    /// How commands and messages are written
    #[arg(long, value_enum, default_value = "protobuf")]
    format: WireFormat,
    /// Messages per second of all users together; 0: each sends the next when a PUBACK comes
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Also write the report as JSON; to the standard output for -, and the text to the standard error then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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

impl Command {
    /// Makes the load and prints what came of it. `config` is the settings' file for a server of its own.
    ///
    /// # Errors
    /// What kept it from measuring, or that the server broke a promise.
    pub async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let run = async {
            match self {
                Command::Chat(options) => options.run(config).await,
                Command::Connect(options) => options.run(config).await,
                Command::Idle(options) => options.run(config).await,
                Command::Catchup(options) => options.run(config).await,
                Command::Users(options) => options.run(config).await,
                Command::Compare(options) => options.run(),
            }
        };
        tokio::select! {
            outcome = run => outcome,
            // Returning ends the server and removes its folder.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    }
}

/// Where the server is.
#[derive(Clone)]
struct Target {
    mqtt: Way,
    http: String,
}

impl ChatOptions {
    async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        if !self.users.is_multiple_of(2) {
            bail!("--users must be even: they chat in pairs");
        }
        let (server, target) = self.find_server(config).await?;
        eprintln!("making {} accounts", self.users);
        let accounts = accounts::make(&target.http, self.users).await?;
        let pid = server.as_ref().map(Server::pid);
        let report = self.measure_at(&target, pid, &accounts).await?;
        report::write(&report, self.json.as_deref())?;
        if let Some(server) = server {
            server.stop().await;
        }
        if !report.is_ok() {
            bail!(
                "FAILED: not every message was stored, answered and received once; see the check"
            );
        }
        Ok(())
    }

    /// Lets `accounts`, who have not chatted before, chat on a server of our own.
    async fn measure(&self, server: &Server, accounts: &[Account]) -> anyhow::Result<Report> {
        self.measure_at(server.target(), Some(server.pid()), accounts)
            .await
    }

    async fn measure_at(
        &self,
        target: &Target,
        pid: Option<u32>,
        accounts: &[Account],
    ) -> anyhow::Result<Report> {
        let connections = open_all(&target.mqtt, accounts, self.format.into()).await?;
        let clock = Clock::starting_in(SETTLE);
        let phases = Phases::new(self.warmup, self.seconds);
        eprintln!("chatting");
        let usage = tokio::spawn(process::sample(clock, phases, pid));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let views = self
            .chat(connections, accounts, clock, phases, &tally)
            .await?;
        let usage = usage.await.context("sampling")?;

        let mut checked = check::conversations(&views);
        confirm(target, accounts, &views, &mut checked).await;
        let tally = std::mem::take(&mut *tally.lock());
        Ok(Report::new(self, &tally, usage, checked))
    }

    async fn find_server(&self, config: Option<&Path>) -> anyhow::Result<(Option<Server>, Target)> {
        if let (Some(mqtt), Some(http)) = (self.mqtt.clone(), self.http.clone()) {
            let mqtt = Way::Tcp(mqtt);
            return Ok((None, Target { mqtt, http }));
        }
        let server = Server::start(config).await.context("starting a server")?;
        eprintln!("server started: pid {}", server.pid());
        let target = server.target().clone();
        Ok((Some(server), target))
    }

    /// Lets everyone chat until the end; the result has the order of `accounts`.
    async fn chat(
        &self,
        connections: Vec<Connection>,
        accounts: &[Account],
        clock: Clock,
        phases: Phases,
        tally: &Arc<Mutex<Tally>>,
    ) -> anyhow::Result<Vec<View>> {
        let wakes: Vec<Arc<Notify>> = accounts.iter().map(|_| Arc::default()).collect();
        // Everyone tells the peer how many messages there were.
        let (totals, peer_totals): (Vec<_>, Vec<_>) =
            accounts.iter().map(|_| oneshot::channel()).unzip();
        let mut totals: Vec<_> = totals.into_iter().map(Some).collect();
        let ends = connections.into_iter().zip(peer_totals);
        let mut tasks = Vec::with_capacity(accounts.len());
        for (index, (connection, peer_total)) in ends.enumerate() {
            let peer = index ^ 1;
            let place = schedule::place(index, accounts.len());
            let (uid, peer_uid) = (&accounts[index].uid, &accounts[peer].uid);
            let client = Client {
                connection,
                template: Template::new(self.format.into(), uid, peer_uid, self.size as usize),
                pace: Pace::new(self.rate, self.users, place as u32),
                window: usize::from(self.window),
                clock,
                phases,
                wake: wakes[place].clone(),
                tally: tally.clone(),
                total: totals[peer].take(),
                peer_total,
            };
            tasks.push(tokio::spawn(client.run()));
        }
        if self.rate > 0 {
            schedule::start_pacer(self.rate, wakes, clock, phases);
        }
        let mut views = Vec::with_capacity(tasks.len());
        for task in tasks {
            views.push(task.await.context("a client")?);
        }
        Ok(views)
    }
}

/// Connects and subscribes everyone; the result has the order of `accounts`.
async fn open_all(
    way: &Way,
    accounts: &[Account],
    format: Format,
) -> anyhow::Result<Vec<Connection>> {
    let mut opening = JoinSet::new();
    let mut opened = Vec::with_capacity(accounts.len());
    for (index, account) in (0..).zip(accounts.iter().cloned()) {
        if opening.len() == CONNECTING_MAX {
            opened.extend(opening.join_next().await.transpose()?);
        }
        let way = way.clone();
        opening.spawn(async move {
            let connection = Connection::open(&way, index, &account, format).await;
            (
                index,
                connection.with_context(|| format!("connecting {}", account.uid)),
            )
        });
    }
    opened.extend(opening.join_all().await);
    opened.sort_unstable_by_key(|(index, _)| *index);
    opened
        .into_iter()
        .map(|(_, connection)| connection)
        .collect()
}

/// Asks the server what it has stored of some conversations.
async fn confirm(
    target: &Target,
    accounts: &[Account],
    views: &[View],
    checked: &mut Conversations,
) {
    let pairs = accounts.len() / 2;
    let step = pairs.div_ceil(CONFIRMED_MAX);
    for pair in (0..pairs).step_by(step) {
        let (a, b) = (2 * pair, 2 * pair + 1);
        let sent = views[a].published() + views[b].published();
        // Asked in turn as the one and as the other of the two.
        let account = &accounts[if (pair / step).is_multiple_of(2) {
            a
        } else {
            b
        }];
        let stored = accounts::last_seq(&target.http, account).await;
        checked.confirm(&account.uid, sent, stored);
    }
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
            "connect",
            "idle",
            "catchup",
            "users",
            "users --in-process",
        ] {
            assert!(parse(&format!("bench {measure}")).is_ok(), "{measure}");
        }
        assert!(
            parse("bench chat --mqtt 127.0.0.1:1 --http 127.0.0.1:2 --rate 5 --json -").is_ok()
        );
        for line in [
            "bench",
            "bench chat --mqtt 127.0.0.1:1",
            "bench chat --http 127.0.0.1:1",
            "bench chat --size 23",
            "bench chat --window 0",
            "bench chat --users 0",
            "bench chat --format xml",
            "bench connect --in-flight 0",
            "bench idle --connections 0",
            "bench users --few 1",
            "bench catchup --users 0",
            "bench connect --runs 0",
            "bench compare old.json",
            "bench compare old.json new.json --fail-if-worse -1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
