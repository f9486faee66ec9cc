//! Load on an XMPP server, for `tests/compare`: users who chat in pairs, or one who speaks to a room. A message is done
//! when all who are to get it have it, since XMPP has no PUBACK; and it must be in the archive then.
//!
//! Reading order: `Options` and `measure` (the recipe), `session` over `stanza` (one user's stream), `crowd` (everyone) over
//! `load` (what is sent and when, and what comes of it), `process` (what it costs), `report`. The figures have the names of
//! `tidings bench`.

mod crowd;
mod load;
mod process;
mod report;
mod session;
mod stanza;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use tokio::task::JoinSet;

use self::crowd::{Crowd, Finished, User};
use self::load::{Channel, Pace, STAMP_SIZE, Tally, Template, Timing};
use self::process::Processes;
use self::report::{Faults, Outcome, Spent};
use self::session::{Place, Session};

/// Users who log in at the same time.
const OPENING_MAX: usize = 32;
/// Between the last one who is there and the first message.
const SETTLE: Duration = Duration::from_millis(500);

/// Load on an XMPP server whose users u0, u1 … are there and have empty archives
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Pairs of users who send each other messages
    Chat {
        /// How many users, an even number
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
        users: u32,
        #[command(flatten)]
        load: Load,
    },
    /// A room where one speaks and all others listen
    Group {
        /// How many are in it
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..))]
        members: u32,
        #[command(flatten)]
        load: Load,
    },
}

#[derive(Args, Clone, Debug)]
struct Load {
    /// Where the server listens, without TLS
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// Everyone's
    #[arg(long)]
    password: String,
    /// The server's process
    #[arg(long, value_name = "PID")]
    server_pid: u32,
    /// The first process of its PostgreSQL
    #[arg(long, value_name = "PID")]
    database_pid: u32,
    /// Messages of one sender that may be under way
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Messages a second of all together; 0: as the window allows
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Bytes of a body
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(STAMP_SIZE as i64..))]
    size: u32,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Where the results go
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

/// Where the archive of a conversation is.
struct Archive {
    user: u32,
    /// The room's rather than the user's.
    room: Option<String>,
    /// Those whose messages it has.
    channels: Vec<Arc<Channel>>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    tokio::select! {
        outcome = options.scenario.run() => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

impl Scenario {
    async fn run(self) -> Result<()> {
        let (load, users, archives) = match &self {
            Scenario::Chat { users, load } => {
                ensure!(
                    users.is_multiple_of(2),
                    "--users must be even: they chat in pairs"
                );
                let (users, archives) = load.pairs(*users).await?;
                (load, users, archives)
            }
            Scenario::Group { members, load } => {
                let (users, archives) = load.room(*members).await?;
                (load, users, archives)
            }
        };
        let outcome = load.measure(users, archives).await?;
        report::write(&self, &outcome)
    }
}

impl Load {
    /// User 2k and user 2k + 1 chat with each other.
    async fn pairs(&self, count: u32) -> Result<(Vec<User>, Vec<Archive>)> {
        let pace = self.pace(count);
        let address = |index: u32| format!("u{index}@{}", self.domain);
        let channels: Vec<Arc<Channel>> = (0..count)
            .map(|index| Arc::new(Channel::new(index, format!("{}/", address(index)), 1, pace)))
            .collect();
        let channel = |index: u32| channels[index as usize].clone();
        let sessions = self.open_all(count, None).await?;
        let users = (0..).zip(sessions).map(|(index, session)| User {
            session,
            sends: Some((
                channel(index),
                Template::new(&address(index ^ 1), "chat", self.size as usize),
            )),
            gets: channel(index ^ 1),
        });
        let archives = (0..count).map(|user| Archive {
            user,
            room: None,
            channels: vec![channel(user), channel(user ^ 1)],
        });
        Ok((users.collect(), archives.collect()))
    }

    /// User 0 speaks to all.
    async fn room(&self, count: u32) -> Result<(Vec<User>, Vec<Archive>)> {
        let room = format!("room@conference.{}", self.domain);
        let pace = self.pace(1);
        let channel = Arc::new(Channel::new(0, format!("{room}/u0"), count, pace));
        let sessions = self.open_all(count, Some(&room)).await?;
        let template = Template::new(&room, "groupchat", self.size as usize);
        let users = (0..).zip(sessions).map(|(index, session)| User {
            session,
            sends: (index == 0).then(|| (channel.clone(), template.clone())),
            // A room tells its speaker, too: one more delivery.
            gets: channel.clone(),
        });
        let users = users.collect();
        let archive = Archive {
            user: 0,
            room: Some(room),
            channels: vec![channel],
        };
        Ok((users, vec![archive]))
    }

    fn pace(&self, senders: u32) -> Pace {
        Pace {
            window: self.window,
            rate: self.rate,
            senders,
        }
    }

    fn place(&self) -> Place {
        Place {
            address: self.server.clone(),
            domain: self.domain.clone(),
            password: self.password.clone(),
        }
    }

    /// Logs everyone in, in the order of their numbers.
    async fn open_all(&self, count: u32, room: Option<&str>) -> Result<Vec<Session>> {
        eprintln!("logging {count} users in");
        let mut opening = JoinSet::new();
        let mut opened = Vec::new();
        for index in 0..count {
            if opening.len() == OPENING_MAX {
                opened.extend(opening.join_next().await.transpose()?);
            }
            let (place, room) = (self.place(), room.map(str::to_owned));
            opening.spawn(async move {
                let name = format!("u{index}");
                let session = open(&place, &name, room.as_deref()).await;
                (index, session.with_context(|| format!("logging {name} in")))
            });
        }
        opened.extend(opening.join_all().await);
        opened.sort_unstable_by_key(|(index, _)| *index);
        opened.into_iter().map(|(_, session)| session).collect()
    }

    async fn measure(&self, users: Vec<User>, archives: Vec<Archive>) -> Result<Outcome> {
        let senders = users.iter().filter(|user| user.sends.is_some()).count();
        let pace = self.pace(u32::try_from(senders)?);
        let timing = Timing::starting_in(SETTLE, self.warmup, self.seconds);
        eprintln!("measuring");
        let spent = tokio::spawn(Spent::sample(self.servers(), timing));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let crowd = Crowd::start(users, timing, pace, &tally);
        let Finished {
            messages,
            mut faults,
            open: _open,
        } = crowd.finish().await?;
        for archive in archives {
            self.check_archive(&archive, &mut faults).await;
        }
        let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
        if tally.delivered == 0 {
            faults.note("nothing measured", "no message came in time".to_owned());
        }
        Ok(Outcome {
            messages,
            tally,
            spent: spent.await.context("sampling")??,
            faults,
        })
    }

    async fn check_archive(&self, archive: &Archive, faults: &mut Faults) {
        let sent: u64 = archive
            .channels
            .iter()
            .map(|channel| u64::from(channel.sent()))
            .sum();
        let name = format!("u{}", archive.user);
        let count = async {
            let mut session = Session::open(&self.place(), &name).await?;
            session.archived(archive.room.as_deref()).await
        };
        match count.await {
            Ok(count) if count == sent => {}
            Ok(count) => faults.note("archived", format!("{count} of {sent} for {name}")),
            Err(error) => faults.note("archived", format!("unknown for {name}: {error:#}")),
        }
    }

    fn servers(&self) -> [Processes; 2] {
        [
            Processes::Alone(self.server_pid),
            Processes::WithChildren(self.database_pid),
        ]
    }
}

async fn open(place: &Place, name: &str, room: Option<&str>) -> Result<Session> {
    let mut session = Session::open(place, name).await?;
    session.appear().await?;
    if let Some(room) = room {
        session.enter(room, name).await?;
    }
    Ok(session)
}
