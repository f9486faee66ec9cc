//! Load of any scenario: the options they share, where the server is, and the recipe of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use broker::codec::Qos;
use clap::Args;
use parking_lot::Mutex;
use schema::Format;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::accounts::{self, Account};
use super::check::{Conversations, Promises, View};
use super::client::{Absence, Client, Seen, WayBack};
use super::connection::{Connection, Entry, open_all};
use super::process::Processes;
use super::progress::Progress;
use super::results::{About, Run};
use super::schedule::{self, Clock, Pace, Phases};
use super::server::{self, Extras, Place, Server, StoreOptions};
use super::stored::{self, Question};
use super::talk::{At, Seat, Shared, Talk, Totals};
use super::tally::Tally;
use super::template::Kind;
use super::way::Way;
use super::{WireFormat, figures, limits, process, stamp};

/// Between the last subscription and the first message.
const SETTLE: Duration = Duration::from_millis(200);

/// Which chat server to load.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerOptions {
    /// Where a server listens for MQTT. Left out, with --http: a server of its own for each run, with an empty data folder
    #[arg(long, value_name = "HOST:PORT", requires = "http")]
    mqtt: Option<String>,
    /// Where it listens for HTTP
    #[arg(long, value_name = "HOST:PORT", requires = "mqtt")]
    http: Option<String>,
    /// The process of that server, on this machine, whose CPU time and memory to measure
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    #[command(flatten)]
    stores: StoreOptions,
}

/// Which server to load, which need not be one for chats.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub(super) struct WhereOptions {
    #[command(flatten)]
    server: ServerOptions,
    /// Any MQTT broker that lets everyone in, instead: the same load as plain messages, which nobody stores
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["mqtt", "http", "database"])]
    broker: Option<String>,
}

/// How messages are sent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub(super) struct LoadOptions {
    /// Messages per second of all senders together, whatever the server does; 0: each sends the next when one is answered
    #[arg(long, default_value_t = 0)]
    pub rate: u32,
    /// Messages of a connection that may wait for their answer: the PUBACK, and in a chat the reply that says "stored"
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub window: u16,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 2)]
    pub warmup: u32,
    /// Bytes of a message's content
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(stamp::SIZE as i64..))]
    pub size: u32,
}

/// QoS 0 or 1, on the command line.
pub(super) fn parse_qos(text: &str) -> Result<Qos, &'static str> {
    match text {
        "0" => Ok(Qos::AtMostOnce),
        "1" => Ok(Qos::AtLeastOnce),
        _ => Err("not 0 or 1"),
    }
}

impl LoadOptions {
    /// By their names, as results keep them.
    pub(super) fn as_values(&self) -> BTreeMap<String, Value> {
        let LoadOptions {
            rate,
            window,
            seconds,
            warmup,
            size,
        } = *self;
        [
            ("rate", json!(rate)),
            ("window", json!(window)),
            ("seconds", json!(seconds)),
            ("warmup", json!(warmup)),
            ("size", json!(size)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// In a part of a line, for people.
    pub(super) fn title(&self) -> String {
        let LoadOptions {
            rate,
            window,
            seconds,
            warmup,
            size,
        } = self;
        let pace = match rate {
            0 => format!("window {window}"),
            rate => format!("{rate}/s (window {window})"),
        };
        format!("{size} bytes, {pace}, {seconds} s after {warmup} s of warm-up")
    }
}

/// Where the load goes, and who makes it.
pub(super) struct Site {
    server: Option<Server>,
    way: Way,
    /// None: a broker that has no HTTP.
    http: Option<String>,
    /// Whose CPU time counts.
    processes: Processes,
    pub accounts: Vec<Account>,
}

impl WhereOptions {
    /// Whether the server knows nothing of chats.
    pub(super) fn is_broker(&self) -> bool {
        self.broker.is_some()
    }

    /// As results keep it.
    pub(super) fn as_value(&self) -> (String, Value) {
        match self.is_broker() {
            true => ("server".to_owned(), json!("broker")),
            false => self.server.as_value(),
        }
    }

    /// Adds what is known of its settings.
    pub(super) fn add_settings(
        &self,
        about: About,
        config: Option<&Path>,
    ) -> anyhow::Result<About> {
        match self.is_broker() {
            true => Ok(about),
            false => self.server.add_settings(about, config),
        }
    }

    /// Starts the server, unless it runs, and makes `users` accounts.
    pub(super) async fn open(
        &self,
        config: Option<&Path>,
        users: u32,
        extras: &Extras,
        progress: &Progress,
    ) -> anyhow::Result<Site> {
        let Some(broker) = &self.broker else {
            return self.server.open(config, users, extras, progress).await;
        };
        make_room(users)?;
        Ok(Site {
            server: None,
            way: Way::Tcp(vec![broker.clone()]),
            http: None,
            processes: Processes::of(self.server.server_pid),
            accounts: accounts::strangers(users)?,
        })
    }
}

impl ServerOptions {
    /// As results keep it: which server it is, not where.
    pub(super) fn as_value(&self) -> (String, Value) {
        let server = match self.mqtt {
            Some(_) => "running",
            None => "own",
        };
        ("server".to_owned(), json!(server))
    }

    /// Adds what is known of its settings.
    pub(super) fn add_settings(
        &self,
        about: About,
        config: Option<&Path>,
    ) -> anyhow::Result<About> {
        match self.mqtt {
            Some(_) => Ok(about),
            None => Ok(self.stores.add_to(server::add_settings(about, config)?)),
        }
    }

    /// Starts the server, unless it runs, and makes `users` accounts.
    pub(super) async fn open(
        &self,
        config: Option<&Path>,
        users: u32,
        extras: &Extras,
        progress: &Progress,
    ) -> anyhow::Result<Site> {
        make_room(users)?;
        let _stage = progress.count("making accounts", users.into());
        if let (Some(mqtt), Some(http)) = (&self.mqtt, &self.http) {
            return Ok(Site {
                server: None,
                way: Way::Tcp(vec![mqtt.clone()]),
                http: Some(http.clone()),
                processes: Processes::of(self.server_pid),
                accounts: accounts::make(http, users).await?,
            });
        }
        let (stores, place) = (&self.stores, Place::Apart);
        let (server, accounts) = Server::start_on(stores, config, users, place, extras).await?;
        Ok(Site::of(server, accounts))
    }
}

fn make_room(users: u32) -> anyhow::Result<()> {
    limits::raise_open_files()?;
    if limits::connections_that_fit(users) < users {
        bail!("{users} connections do not fit");
    }
    Ok(())
}

impl Site {
    /// A server of our own.
    pub(super) fn of(server: Server, accounts: Vec<Account>) -> Site {
        let target = server.target().clone();
        Site {
            way: target.mqtt,
            http: Some(target.http),
            processes: server.processes(),
            server: Some(server),
            accounts,
        }
    }

    /// Where it takes HTTP requests.
    pub(super) fn http(&self) -> anyhow::Result<&str> {
        self.http.as_deref().context("a broker has no HTTP")
    }

    /// Ends the server, if it is our own.
    pub(super) async fn close(self) {
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

/// A load on its way to a server.
pub(super) struct Load<'a> {
    pub options: &'a LoadOptions,
    pub site: &'a Site,
    /// Its clients, of the site's accounts.
    pub accounts: &'a [Account],
    pub talks: Vec<Talk>,
    pub promises: Promises,
    pub format: WireFormat,
    /// At which plain topics are subscribed.
    pub qos: Qos,
    /// Clients that go away for a while; they only listen.
    pub absences: BTreeMap<u32, Absence>,
}

impl Load<'_> {
    /// Connects everyone, lets them talk, and checks what they have seen.
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<Run> {
        let entries = self.entries();
        let connections = open_all(&self.site.way, &entries, progress).await?;
        let clock = Clock::starting_in(SETTLE);
        let phases = Phases::new(self.options.warmup, self.options.seconds);
        let senders = self.senders();
        let shared = Arc::new(Shared {
            promises: self.promises,
            format: self.format.into(),
            clock,
            phases,
            window: usize::from(self.options.window),
            size: self.options.size as usize,
            tally: Mutex::new(Tally::new(phases)),
            totals: Totals::new(self.talks.len(), senders.len()),
        });
        let usage = tokio::spawn(process::sample(clock, phases, self.site.processes.clone()));
        let seen = tokio::select! {
            seen = self.talk(&shared, connections, entries, &senders) => seen?,
            () = tell(progress, &shared) => bail!("telling does not end"),
        };
        let usage = usage.await.context("sampling")?;

        let checked = self.check(&seen, progress).await;
        let tally = shared.tally.lock();
        let rate = self.options.rate;
        Ok(figures::run(self.promises, rate, &tally, &usage, checked))
    }

    /// Clients that send, each once.
    fn senders(&self) -> Vec<u32> {
        let senders = self.talks.iter();
        let senders = senders.flat_map(|talk| &talk.members[..talk.senders as usize]);
        let mut senders: Vec<u32> = senders.copied().collect();
        senders.sort_unstable();
        senders.dedup();
        senders
    }

    /// Lets everyone talk until the end; the result has the order of the accounts.
    async fn talk(
        &self,
        shared: &Arc<Shared>,
        connections: Vec<Connection>,
        entries: Vec<Entry>,
        senders: &[u32],
    ) -> anyhow::Result<Vec<Seen>> {
        let rate = self.options.rate;
        // In the order of the timetable.
        let wakes: Vec<Arc<Notify>> = senders.iter().map(|_| Arc::default()).collect();
        let mut seats = self.seats();
        let mut tasks = Vec::with_capacity(connections.len());
        for ((index, connection), entry) in (0..).zip(connections).zip(entries) {
            let way_back = WayBack {
                way: self.site.way.clone(),
                index,
                entry,
            };
            let absence = self.absences.get(&index).copied();
            let sender = senders.binary_search(&index).ok();
            let place = sender.map(|sender| schedule::place(sender, senders.len()));
            let pace = place.map(|place| Pace::new(rate, senders.len() as u32, place as u32));
            let client = Client {
                shared: shared.clone(),
                connection,
                seats: std::mem::take(&mut seats[index as usize]),
                pace,
                wake: place.map_or_else(Arc::default, |place| wakes[place].clone()),
                absence: absence.map(|absence| (absence, way_back)),
            };
            tasks.push(tokio::spawn(client.run()));
        }
        if rate > 0 {
            schedule::start_pacer(rate, wakes, shared.clock, shared.phases);
        }
        let mut seen = Vec::with_capacity(tasks.len());
        for task in tasks {
            seen.push(task.await.context("a client")?);
        }
        Ok(seen)
    }

    /// Everyone's places in the conversations, by conversation.
    fn seats(&self) -> Vec<Vec<Seat>> {
        let mut seats: Vec<Vec<Seat>> = self.accounts.iter().map(|_| Vec::new()).collect();
        for (index, talk) in (0..).zip(&self.talks) {
            let name = talk.name(self.accounts);
            let named = talk.named_senders(self.accounts);
            for (member, client) in (0..).zip(&talk.members) {
                let sender = Some(member).filter(|member| *member < talk.senders);
                let template = sender.map(|sender| {
                    let kind = Kind {
                        talk: index,
                        sender,
                        size: self.options.size as usize,
                    };
                    talk.template(self.accounts, self.format.into(), kind)
                });
                seats[*client as usize].push(Seat {
                    talk: index,
                    name: name.as_str().into(),
                    senders: named.clone(),
                    template,
                    view: View::new(self.promises, sender, talk.senders),
                });
            }
        }
        seats
    }

    /// Holds what everyone has seen, and what the server has stored, against what was sent.
    async fn check(&self, seen: &[Seen], progress: &Progress) -> Conversations {
        let mut views: Vec<Vec<&View>> = self.talks.iter().map(|_| Vec::new()).collect();
        let mut checked = Conversations::default();
        for (client, account) in seen.iter().zip(self.accounts) {
            let mut faults = client.faults.clone();
            faults.name_place(&account.uid);
            checked.faults.add(&faults);
            for seat in &client.seats {
                views[seat.talk as usize].push(&seat.view);
            }
        }
        let mut questions = Vec::with_capacity(self.talks.len());
        for ((index, talk), views) in (0..).zip(&self.talks).zip(&views) {
            let name = talk.name(self.accounts);
            let sent = checked.add(&name, views);
            // Asked in turn as one and as another of the members.
            let asked = talk.members[index as usize % talk.members.len()];
            questions.push(Question {
                name,
                talk: index,
                account: self.accounts[asked as usize].clone(),
                senders: talk.named_senders(self.accounts),
                size: self.options.size as usize,
                sent,
            });
        }
        if let Some(http) = &self.site.http
            && self.promises == Promises::Chat
        {
            stored::confirm(http, questions, &mut checked, progress).await;
        }
        checked
    }

    fn entries(&self) -> Vec<Entry> {
        let format = Format::from(self.format);
        if self.promises == Promises::Chat {
            return Entry::of_chats(self.accounts, format);
        }
        let mut topics: Vec<Vec<(String, Qos)>> = self.accounts.iter().map(|_| vec![]).collect();
        for talk in &self.talks {
            let At::Topic(topic) = &talk.at else { continue };
            for listener in &talk.members[talk.senders as usize..] {
                topics[*listener as usize].push((topic.clone(), self.qos));
            }
        }
        let entries = self.accounts.iter().zip(topics);
        let entry = |(account, topics): (&Account, _)| match account.token.as_str() {
            "" => Entry::of_stranger(account.uid.to_string(), topics),
            _ => Entry::of_user(account, topics),
        };
        entries.map(entry).collect()
    }
}

/// Tells how much is delivered, for as long as it is polled.
async fn tell(progress: &Progress, shared: &Shared) {
    let lasts = SETTLE + Duration::from_nanos(shared.phases.end);
    let stage = progress.time("talking", lasts);
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let so_far = shared.tally.lock().so_far();
        stage.tell(&format!("{} deliveries/s", so_far - before));
        before = so_far;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: LoadOptions = LoadOptions {
        rate: 0,
        window: 4,
        seconds: 1,
        warmup: 0,
        size: 64,
    };

    async fn site(users: u32, extras: &Extras) -> Site {
        let server = Server::start(None, users, Place::Here, extras).await;
        let (server, accounts) = server.unwrap();
        Site::of(server, accounts)
    }

    /// So many messages a second; 0: with a window.
    async fn run(site: Site, talks: Vec<Talk>, promises: Promises, rate: u32) -> Run {
        let load = Load {
            options: &LoadOptions { rate, ..OPTIONS },
            site: &site,
            accounts: &site.accounts,
            talks,
            promises,
            format: WireFormat::Json,
            qos: Qos::AtLeastOnce,
            absences: BTreeMap::new(),
        };
        let progress = Default::default();
        let run = load.run(&progress).await.unwrap();
        site.close().await;
        assert!(run.check.is_ok(), "{}", run.check);
        run
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn groups_and_pairs_are_delivered_to_all_others() {
        let site = site(5, &Extras::default()).await;
        let (owner, others) = site.accounts.split_first().unwrap();
        let others: Vec<&Account> = others.iter().take(3).collect();
        let http = site.http().unwrap();
        let made = accounts::make_group(http, owner, "friends", &others).await;
        made.unwrap();
        let group = Talk {
            at: At::Group("friends".to_owned()),
            members: vec![3, 1, 0, 2],
            senders: 2,
        };
        let talks = vec![Talk::pair(0, 4), group, Talk::pair(1, 2)];
        let run = run(site, talks, Promises::Chat, 100).await;
        // Five send 20 each; 1 is in two conversations and sends to them in turn.
        let what = "100 messages in 3 conversations, each stored and answered once, 160 deliveries";
        assert!(run.check.what.starts_with(what), "{}", run.check);
        let stored = "lastSeq right in all 3; 100 messages in 3 of them read back";
        assert!(run.check.what.ends_with(stored), "{}", run.check);
        assert_eq!(run.series.len(), 1);
        assert!(
            run.value("delivered p50")
                .is_some_and(|micros| micros > 0.0)
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_window_is_kept_full() {
        let site = site(2, &Extras::default()).await;
        let run = run(site, vec![Talk::pair(0, 1)], Promises::Chat, 0).await;
        assert!(run.value("stored").is_some_and(|stored| stored > 8.0));
        assert_eq!(run.value("stored p50"), None);
        assert!(run.value("stored in the window p50").is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn strangers_talk_through_any_broker() {
        let extras = Extras {
            settings: vec![("TIDINGS__MQTT__ANONYMOUS", "true".to_owned())],
            rules: r#"
[[topics.rules]]
effect = "allow"
action = "all"
who = "anonymous"
topics = ["bench/#"]
"#,
        };
        let site = Site {
            accounts: accounts::strangers(4).unwrap(),
            http: None,
            ..site(0, &extras).await
        };
        let one_way = |members: [u32; 2]| Talk {
            at: At::Topic(format!("bench/{}", members[1])),
            members: members.into(),
            senders: 1,
        };
        let group = Talk {
            at: At::Topic("bench/group".to_owned()),
            members: vec![0, 1, 2, 3],
            senders: 2,
        };
        let talks = vec![one_way([0, 1]), one_way([1, 0]), group];
        let run = run(site, talks, Promises::Plain, 100).await;
        let what = "100 messages in 3 conversations, each acknowledged, 150 deliveries";
        assert!(run.check.what.starts_with(what), "{}", run.check);
        assert_eq!(run.value("lost"), Some(0.0));
    }
}
