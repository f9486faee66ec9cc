//! `bench catchup`: how fast devices that were away get what they have missed.
//!
//! A device is known from an earlier connection. While it is away, as many senders as it has conversations write to its
//! user; then it comes back, and is caught up when the server has its last acknowledgement. Coming back once more, it
//! must be sent nothing but what is written then.
//!
//! CPU times are known in steps of 10 ms: with more users at once there is more of it to divide.

use std::num::NonZeroU16;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use broker::codec::{Packet, Publish, Version};
use clap::Args;
use schema::v1::to::To;
use schema::{Format, Uid};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::WireFormat;
use super::accounts::Account;
use super::connection::{Broken, Connection, Entry, acknowledge, open_all};
use super::down::{self, Received};
use super::faults::{Checked, Faults};
use super::limits;
use super::missed::{Missed, share};
use super::process::Meter;
use super::progress::{Progress, Stage};
use super::results::{About, Figure, Run, Unit};
use super::runs::Output;
use super::server::{Place, Server, add_settings};
use super::stamp;
use super::tally::latencies;
use super::template::{Kind, Template};
use super::way::Way;
use crate::settings::Settings;

/// Publishes of a sender that may wait for their PUBACK.
const WINDOW: u32 = 16;
/// How long the server may say nothing while something is due.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Devices that come back after many messages.
#[derive(Args, Clone, Debug)]
pub struct CatchUpOptions {
    /// Users who come back at the same time, each with one device
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// Messages that each of them has missed
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// Conversations in which they are
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    conversations: u32,
    /// Bytes of a message's content
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(stamp::SIZE as i64..))]
    size: u32,
    /// How messages are written
    #[arg(long, value_enum, default_value = "protobuf")]
    format: WireFormat,
    #[command(flatten)]
    output: Output,
}

/// How it went for one user.
struct CaughtUp {
    connection: Connection,
    /// Of the subscription.
    format: Format,
    missed: Missed,
    /// From SUBSCRIBE to the first message; `None`: none came.
    first_in: Option<Duration>,
    /// From SUBSCRIBE until the server had the last acknowledgement.
    all_in: Duration,
}

impl CatchUpOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        self.check_limits(config)?;
        let measure =
            async |progress: &Progress| self.measure(config, Place::Apart, progress).await;
        let about = add_settings(self.about(), config)?;
        self.output.repeat(about, measure).await
    }

    fn check_limits(&self, config: Option<&Path>) -> anyhow::Result<()> {
        limits::raise_open_files()?;
        let wanted = self.users.saturating_add(self.conversations);
        let fit = limits::connections_that_fit(wanted);
        ensure!(fit == wanted, "too many connections at the same time");
        // And one more in the end.
        let all = self.users.checked_mul(self.messages.saturating_add(1));
        ensure!(all.is_some(), "too many messages for all users together");
        ensure!(
            self.conversations <= self.messages,
            "--conversations must not be more than --messages"
        );
        let longest = share(self.messages, self.conversations, 0);
        let max = Settings::load(config)?.messages.catch_up_max;
        ensure!(
            longest <= max,
            "{longest} messages in a conversation are more than messages.catch_up_max, {max}"
        );
        Ok(())
    }

    fn about(&self) -> About {
        let CatchUpOptions {
            users,
            messages,
            conversations,
            size,
            ..
        } = *self;
        let format = self.format.name();
        let title = format!(
            "{users} users come back to {messages} messages in {conversations} conversations, {size} bytes as {format}"
        );
        let load = [
            ("users", users.into()),
            ("messages", messages.into()),
            ("conversations", conversations.into()),
            ("size", size.into()),
            ("format", format.into()),
        ];
        About::new("catchup", title, load)
    }

    async fn measure(
        &self,
        config: Option<&Path>,
        place: Place,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        let accounts = self.users.saturating_add(self.conversations);
        let (server, accounts) = Server::start_with_users(config, accounts, place).await?;
        let (users, senders) = accounts.split_at(self.users as usize);
        let (way, format) = (&server.target().mqtt, self.format.into());
        let entries = Entry::of_chats(users, format);
        for connection in open_all(way, &entries, progress).await? {
            connection.close().await;
        }
        self.send_all(way, users, senders, progress).await?;

        let logins = users.iter().map(|user| Entry::of_user(user, Vec::new()));
        let logins: Vec<Entry> = logins.collect();
        let connections = open_all(way, &logins, progress).await?;
        let missed = self.missed(senders);
        let meter = Meter::start(server.processes());
        let started = Instant::now();
        let catching_up = self.catch_up_all(connections, entries.clone(), missed, progress);
        let caught_up = catching_up.await?;
        let (took, spent) = (started.elapsed(), meter.spent());

        let mut figures = self.figures(&caught_up, took);
        figures.extend(spent.per("message", self.all_messages()));
        let missed = close_all(caught_up).await;
        let again = open_all(way, &entries, progress).await?;
        let faults = self.listen_again_all(way, again, missed, users, senders, progress);
        let faults = faults.await?;
        server.stop().await;
        Ok(Run {
            figures,
            series: Vec::new(),
            check: Checked {
                what: format!(
                    "{} messages to each of {} users in {} conversations, each received once, in order, seq without \
                     holes, and not sent again",
                    self.messages, self.users, self.conversations
                ),
                faults,
            },
        })
    }

    /// Lets everybody write what the users, who are away, will have missed; all of it is stored then.
    async fn send_all(
        &self,
        way: &Way,
        users: &[Account],
        senders: &[Account],
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let total = u64::from(self.users) * u64::from(self.messages);
        let format = self.format.into();
        let entries = Entry::of_chats(senders, format);
        let connections = open_all(way, &entries, progress).await?;
        let stage = Arc::new(progress.count("sending what will be missed", total));
        stage.tell(&format!("by {} senders", senders.len()));
        let mut sending = JoinSet::new();
        for ((index, connection), sender) in (0..).zip(connections).zip(senders) {
            let templates = self.templates(index, sender, users);
            let messages = 0..self.sent_by(index);
            let send = send(connection, templates, messages, format, stage.clone());
            let context = format!("sending as {}", sender.uid);
            sending.spawn(async move { send.await.context(context) });
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        Ok(())
    }

    /// What the `index`th sender writes, to each of the users.
    fn templates(&self, index: u32, sender: &Account, users: &[Account]) -> Vec<Template> {
        let template = |(talk, user): (u32, &Account)| {
            let to = To::User(user.uid.to_string());
            let kind = Kind {
                talk,
                sender: index,
                size: self.size as usize,
            };
            Template::of_command(self.format.into(), &sender.uid, to, kind)
        };
        (0..).zip(users).map(template).collect()
    }

    /// How many messages the `index`th sender writes while the users are away.
    fn sent_by(&self, index: u32) -> u32 {
        self.users * share(self.messages, self.conversations, index)
    }

    /// What each of the users has missed.
    fn missed(&self, senders: &[Account]) -> Vec<Missed> {
        let senders: Arc<[Uid]> = senders.iter().map(|sender| sender.uid.clone()).collect();
        let (users, messages, size) = (self.users, self.messages, self.size as usize);
        let missed = |user| Missed::new(user, users, messages, senders.clone(), size);
        (0..users).map(missed).collect()
    }

    /// The result has the order of the connections.
    async fn catch_up_all(
        &self,
        connections: Vec<Connection>,
        entries: Vec<Entry>,
        missed: Vec<Missed>,
        progress: &Progress,
    ) -> anyhow::Result<Vec<CaughtUp>> {
        let total = u64::from(self.users) * u64::from(self.messages);
        let stage = Arc::new(progress.count("catching up", total));
        let mut tasks = Vec::with_capacity(connections.len());
        for ((connection, entry), missed) in connections.into_iter().zip(entries).zip(missed) {
            let (format, stage) = (self.format.into(), stage.clone());
            tasks.push(tokio::spawn(async move {
                catch_up(connection, &entry, format, missed, &stage).await
            }));
        }
        let mut caught_up = Vec::with_capacity(tasks.len());
        for task in tasks {
            caught_up.push(task.await.context("a client")?);
        }
        Ok(caught_up)
    }

    /// Lets everybody, who has come back once more, listen, writes a message to each, and returns all faults.
    async fn listen_again_all(
        &self,
        way: &Way,
        connections: Vec<Connection>,
        missed: Vec<Missed>,
        users: &[Account],
        senders: &[Account],
        progress: &Progress,
    ) -> anyhow::Result<Faults> {
        let format = self.format.into();
        let mut listening = JoinSet::new();
        for (connection, mut missed) in connections.into_iter().zip(missed) {
            missed.expect_one_more();
            listening.spawn(listen(connection, format, missed));
        }
        let sender = &senders[0];
        let sending = Connection::open(way, 0, &Entry::of_chat(sender, format)).await?;
        let templates = self.templates(0, sender, users);
        let sent = self.sent_by(0);
        let stage = progress.count("sending one more to each", self.users.into());
        let messages = sent..sent + self.users;
        send(sending, templates, messages, format, Arc::new(stage)).await?;
        let mut faults = Faults::default();
        while let Some(missed) = listening.join_next().await {
            faults.add(&missed.context("a client")?.into_faults());
        }
        Ok(faults)
    }

    fn figures(&self, caught_up: &[CaughtUp], took: Duration) -> Vec<Figure> {
        let median = |name, each: &dyn Fn(&CaughtUp) -> Option<Duration>| {
            let mut micros = latencies(3);
            for took in caught_up.iter().filter_map(each) {
                micros.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            let median = micros.value_at_quantile(0.5) as f64;
            (!micros.is_empty()).then(|| Figure::less(name, median, Unit::Micros))
        };
        let rate = self.all_messages() / took.as_secs_f64();
        let mut figures = vec![
            Figure::more("caught up", rate, Unit::PerSecond),
            Figure::less("time of all", took.as_secs_f64(), Unit::Seconds),
        ];
        if self.users > 1 {
            figures.extend(median("time of a user p50", &|one| Some(one.all_in)));
        }
        figures.extend(median("first message p50", &|one| one.first_in));
        figures
    }

    fn all_messages(&self) -> f64 {
        f64::from(self.users) * f64::from(self.messages)
    }
}

/// Closes everyone's connection: only behind its DISCONNECT is it certain that all acknowledgements are before the next
/// SUBSCRIBE.
async fn close_all(caught_up: Vec<CaughtUp>) -> Vec<Missed> {
    let mut views = Vec::with_capacity(caught_up.len());
    for CaughtUp {
        connection, missed, ..
    } in caught_up
    {
        connection.close().await;
        views.push(missed);
    }
    views
}

/// Writes these messages, counted from 0, to the users in turn, and waits until all are stored.
async fn send(
    mut connection: Connection,
    templates: Vec<Template>,
    messages: Range<u32>,
    format: Format,
    stage: Arc<Stage>,
) -> anyhow::Result<()> {
    let Range { start, end } = messages;
    let (mut sent, mut acked, mut stored) = (start, start, start);
    while acked < end || stored < end {
        while sent < end && sent - acked < WINDOW {
            // More than the window, so that none is in use twice.
            let packet_id = NonZeroU16::MIN.saturating_add((sent % u32::from(u16::MAX)) as u16);
            let template = &templates[sent as usize % templates.len()];
            sent += 1;
            // Nobody measures how long this one took.
            template.write(&mut connection.out, packet_id, sent, 0);
        }
        connection.flush()?;
        let exchanged = timeout(STALL_MAX, connection.exchange()).await;
        exchanged.context("the server has stopped answering")??;
        let stored_before = stored;
        while let Some(packet) = connection.next()? {
            match packet {
                Packet::PubAck(_) => acked += 1,
                Packet::Publish(publish) => {
                    if let Some(packet_id) = publish.packet_id {
                        acknowledge(&mut connection.out, packet_id);
                    }
                    stored += read_replies(format, &publish)?;
                }
                other => bail!("unexpected {:?}", other.packet_type()),
            }
        }
        stage.advance((stored - stored_before).into());
    }
    connection.close().await;
    Ok(())
}

/// How many messages were stored.
fn read_replies(format: Format, publish: &Publish) -> anyhow::Result<u32> {
    let (mut stored, mut refused) = (0, None);
    down::read(format, &publish.payload, |received| match received {
        Received::Stored { .. } => stored += 1,
        Received::Refused { reason, .. } => refused = Some(reason),
        Received::Message(_) => {}
    })?;
    match refused {
        Some(reason) => bail!("a message was refused: {reason}"),
        None => Ok(stored),
    }
}

/// Subscribes and takes what was missed; what goes wrong is among the faults.
async fn catch_up(
    connection: Connection,
    entry: &Entry,
    format: Format,
    missed: Missed,
    stage: &Stage,
) -> CaughtUp {
    let started = Instant::now();
    let mut caught_up = CaughtUp {
        connection,
        format,
        missed,
        first_in: None,
        all_in: Duration::ZERO,
    };
    let taken = take_all(&mut caught_up, entry, started, stage).await;
    caught_up.all_in = started.elapsed();
    if let Err(error) = taken {
        let left = caught_up.missed.left();
        let example = || format!("{error:#}; {left} messages were still to come");
        caught_up.missed.faults.note("not caught up", example);
    }
    caught_up
}

async fn take_all(
    caught_up: &mut CaughtUp,
    entry: &Entry,
    started: Instant,
    stage: &Stage,
) -> anyhow::Result<()> {
    let (connection, missed) = (&mut caught_up.connection, &mut caught_up.missed);
    let format = caught_up.format;
    let subscribed = timeout(STALL_MAX, connection.subscribe(entry)).await;
    subscribed.context("no SUBACK")??;
    let mut is_asked = false;
    loop {
        let left = missed.left();
        let is_answered = take_packets(connection, format, missed)?;
        if missed.left() < left {
            caught_up.first_in.get_or_insert_with(|| started.elapsed());
            stage.advance(left - missed.left());
        }
        if is_answered {
            return Ok(());
        }
        if missed.left() == 0 && !is_asked {
            is_asked = true;
            // Answered when the server has read the acknowledgements before it.
            Packet::PingReq.encode(Version::V4, &mut connection.out);
        }
        connection.flush()?;
        let exchanged = timeout(STALL_MAX, connection.exchange()).await;
        exchanged.context("the server has stopped sending")??;
    }
}

/// Takes and acknowledges what has been read; tells whether a PINGRESP was there.
fn take_packets(
    connection: &mut Connection,
    format: Format,
    missed: &mut Missed,
) -> Result<bool, Broken> {
    let mut is_answered = false;
    while let Some(packet) = connection.next()? {
        match packet {
            Packet::Publish(publish) => {
                if let Some(packet_id) = publish.packet_id {
                    acknowledge(&mut connection.out, packet_id);
                }
                take_messages(format, &publish, missed);
            }
            Packet::PingResp => is_answered = true,
            Packet::Disconnect(_) => return Err(Broken::Closed),
            other => {
                let packet_type = other.packet_type();
                let faults = &mut missed.faults;
                faults.note("unexpected packet", || format!("{packet_type:?}"));
            }
        }
    }
    Ok(is_answered)
}

fn take_messages(format: Format, publish: &Publish, missed: &mut Missed) {
    let read = down::read(format, &publish.payload, |received| match received {
        Received::Message(message) => {
            if publish.packet_id.is_none() {
                let example = || format!("message {}", message.stamp.number);
                missed.faults.note("delivered at QoS 0", example);
            }
            missed.receive(&message);
        }
        Received::Stored { mark, .. } | Received::Refused { mark, .. } => missed
            .faults
            .note("unexpected reply", || format!("message {}", mark.number)),
    });
    if let Err(error) = read {
        missed
            .faults
            .note("unexpected publish", || error.to_string());
    }
}

/// Takes what comes until the message that was sent last is there. What has been acknowledged and comes again does so
/// before that.
async fn listen(mut connection: Connection, format: Format, mut missed: Missed) -> Missed {
    let listened = timeout(STALL_MAX, async {
        loop {
            take_packets(&mut connection, format, &mut missed)?;
            connection.flush()?;
            if missed.left() == 0 {
                return Ok::<_, Broken>(());
            }
            connection.exchange().await?;
        }
    });
    // What has not come in time is told as lost.
    if let Ok(Err(broken)) = listened.await {
        missed
            .faults
            .note("broken connection", || broken.to_string());
    }
    missed
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: CatchUpOptions,
    }

    fn options(line: &str) -> CatchUpOptions {
        Line::parse_from(line.split(' ')).options
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_missed_arrives_once() {
        for format in ["protobuf", "json"] {
            let line = format!("_ --users 2 --messages 201 --conversations 4 --format {format}");
            let options = options(&line);
            let progress = Progress::default();
            let run = options.measure(None, Place::Here, &progress).await.unwrap();
            assert!(run.check.is_ok(), "{}", run.check);
            for name in [
                "caught up",
                "time of all",
                "time of a user p50",
                "first message p50",
            ] {
                assert!(run.value(name).is_some_and(|value| value > 0.0), "{name}");
            }
        }
    }

    #[test]
    fn what_the_server_would_not_push_is_refused() {
        options("_").check_limits(None).unwrap();
        for (line, expected) in [
            ("_ --messages 50001", "messages.catch_up_max"),
            ("_ --messages 49", "--conversations"),
            ("_ --users 9000 --messages 4000000000", "too many"),
        ] {
            let error = options(line).check_limits(None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
