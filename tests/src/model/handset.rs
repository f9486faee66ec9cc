//! A device that takes down what it hears, acknowledges as it is its habit, and can tell whether it heard what it should.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use schema::Format;
use schema::v1::event::Event;
use schema::v1::up::Command;
use schema::v1::{ConversationState, Message};

use super::chat::{Bounds, Conversation};
use crate::Client;
use crate::client::{Arrival, Builder};
use crate::link::Version;

mod heard;

/// Whom a device belongs to, and how it behaves.
pub struct Handset {
    pub uid: String,
    pub name: String,
    habits: Habits,
    address: SocketAddr,
    token: String,
    line: Option<Line>,
    /// Whether it has been online, and so is known to the server; and whether it is known here where it began.
    has_come: bool,
    is_placed: bool,
    /// The server was killed after the device had come and gone, before it was seen whether the server knew it.
    may_be_known: bool,
    /// Where the server has the device in each conversation.
    cursors: BTreeMap<String, Bounds>,
    /// The newest message that it has sent a PUBACK for.
    pubacked: BTreeMap<String, u32>,
}

/// How a device behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub version: Version,
    pub format: Format,
    pub qos: u8,
    /// Messages that it leaves unacknowledged for a while.
    pub late: usize,
    pub has_kept_session: bool,
}

/// A connection.
struct Line {
    client: Client,
    /// In which burst it was opened.
    since: u32,
    /// Whether it has been quiet since.
    is_settled: bool,
    /// Where the device was when it came; a new one starts where its user is, which shows at the next quiet point.
    base: Option<BTreeMap<String, Bounds>>,
    heard: BTreeMap<String, Vec<u32>>,
    /// What was heard since the last quiet point.
    fresh: Vec<Message>,
    unacknowledged: VecDeque<Arrival>,
    states: Vec<ConversationState>,
    /// What has become of messages, as it was last told.
    changed: BTreeMap<u64, Message>,
    /// How far the user has read, as this device knows.
    read: BTreeMap<String, u32>,
}

// === impl Handset ===

impl Handset {
    pub fn new(
        (uid, name): (&str, &str),
        habits: Habits,
        address: SocketAddr,
        token: &str,
    ) -> Self {
        Handset {
            uid: uid.into(),
            name: name.into(),
            habits,
            address,
            token: token.into(),
            line: None,
            has_come: false,
            is_placed: false,
            may_be_known: false,
            cursors: BTreeMap::new(),
            pubacked: BTreeMap::new(),
        }
    }

    pub fn is_online(&self) -> bool {
        self.line.is_some()
    }

    /// Comes online, and takes over from itself where it is already.
    pub async fn connect(&mut self, burst: u32) -> Result<()> {
        let Habits {
            version, format, ..
        } = self.habits;
        let builder = Builder::new(self.address, &self.uid)
            .device(&self.name)
            .version(version)
            .format(format)
            .password(&self.token)
            .manual_acks();
        let builder = match self.habits.has_kept_session {
            true => builder.kept_session(),
            false => builder,
        };
        let mut client = builder.connect().await?;
        if let Some(mut before) = self.line.take() {
            before.client.closed().await?;
        }
        if !client.accepted.session_present {
            let topic = client.down_topic();
            let codes = client.subscribe_at(&topic, self.habits.qos).await?;
            ensure!(codes == [self.habits.qos], "SUBACK {codes:?}");
        }
        let base = self.is_placed.then(|| self.cursors.clone());
        self.has_come = true;
        self.line = Some(Line {
            client,
            since: burst,
            is_settled: false,
            base,
            heard: BTreeMap::new(),
            fresh: Vec::new(),
            unacknowledged: VecDeque::new(),
            states: Vec::new(),
            changed: BTreeMap::new(),
            read: BTreeMap::new(),
        });
        Ok(())
    }

    pub async fn disconnect(&mut self) -> Result<()> {
        match self.line.take() {
            Some(line) => line.client.disconnect().await,
            None => Ok(()),
        }
    }

    /// Loses its connection without a word.
    pub async fn drop_connection(&mut self) {
        if let Some(line) = self.line.take() {
            line.client.drop_connection().await;
        }
    }

    pub fn client(&mut self) -> Result<&mut Client> {
        let line = self.line.as_mut();
        Ok(&mut line.context("the device is offline")?.client)
    }

    /// Takes down what is here, without waiting, and acknowledges.
    pub async fn take_what_is_here(&mut self) -> Result<()> {
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        let arrivals = line.client.arrivals_so_far();
        for arrival in arrivals {
            self.take(arrival).await?;
        }
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        for event in line.client.events_so_far() {
            match event {
                Event::Conversation(state) => {
                    let read = line.read.entry(state.conversation.clone()).or_default();
                    *read = state.last_read_seq.max(*read);
                    line.states.push(state);
                }
                Event::Changed(message) => {
                    line.changed.insert(message.msg_id, *message);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn take(&mut self, arrival: Arrival) -> Result<()> {
        let line = self.line.as_mut().context("the device is offline")?;
        for message in &arrival.messages {
            let heard = line.heard.entry(message.conversation.clone()).or_default();
            heard.push(message.seq);
        }
        line.fresh.extend(arrival.messages.iter().cloned());
        ensure!(
            arrival.publish.qos == self.habits.qos,
            "QoS {} instead of {}",
            arrival.publish.qos,
            self.habits.qos
        );
        if self.habits.qos == 0 {
            return Ok(());
        }
        line.unacknowledged.push_back(arrival);
        while line.unacknowledged.len() > self.habits.late {
            let Some(arrival) = line.unacknowledged.pop_front() else {
                break;
            };
            for message in &arrival.messages {
                let (conversation, seq) = (message.conversation.clone(), message.seq);
                let cursor = self.cursors.entry(conversation.clone()).or_default();
                cursor.may_reach(seq);
                self.pubacked.insert(conversation, seq);
            }
            line.client.acknowledge(&arrival).await?;
        }
        Ok(())
    }

    /// A seq that it has heard in the conversation's present membership.
    pub fn some_heard(&self, conversation: &str, after: u32, nth: usize) -> Option<u32> {
        let heard = self.line.as_ref()?.heard.get(conversation)?;
        let heard: Vec<u32> = heard.iter().copied().filter(|seq| *seq > after).collect();
        (!heard.is_empty()).then(|| heard[nth % heard.len()])
    }

    /// The answer to its `read` tells it, as an event tells the user's other devices.
    pub fn has_read(&mut self, conversation: &str, seq: u32) {
        if let Some(line) = &mut self.line {
            let read = line.read.entry(conversation.to_owned()).or_default();
            *read = seq.max(*read);
        }
    }

    /// It gives this command now.
    pub fn gives(&mut self, command: Option<&Command>) {
        if let Some(Command::Ack(ack)) = command {
            let cursor = self.cursors.entry(ack.conversation.clone()).or_default();
            cursor.may_reach(ack.seq);
            // While it may be catching up, that may spare it some.
            if let Some(line) = self.line.as_mut().filter(|line| !line.is_settled)
                && let Some(base) = &mut line.base
            {
                let base = base.entry(ack.conversation.clone()).or_default();
                base.may_reach(ack.seq);
            }
        }
    }

    /// The command was answered well.
    pub fn has_given(&mut self, command: Option<&Command>, ok: &schema::v1::Ok) -> Result<()> {
        if let Some(Command::Ack(ack)) = command {
            let cursor = self.cursors.entry(ack.conversation.clone()).or_default();
            cursor.reaches(ack.seq);
            ensure!(ok.seq >= cursor.lo, "{ok:?}, but it was at {cursor:?}");
        }
        Ok(())
    }

    /// The answer to an `ack` told where the device was.
    pub fn check_position(
        &self,
        (name, conversation): (&str, &Conversation),
        told: u32,
    ) -> Result<()> {
        let position = self.position(name, conversation);
        ensure!(
            told <= position.hi,
            "{self}: in {name} the server had it at {told}, not {position:?}"
        );
        Ok(())
    }

    /// A membership begins.
    pub fn begin(&mut self, conversation: &str, start: u32) {
        let cursor = self.cursors.entry(conversation.to_owned()).or_default();
        cursor.begin_at(start);
        if let Some(base) = self.line.as_mut().and_then(|line| line.base.as_mut()) {
            base.entry(conversation.to_owned())
                .or_default()
                .begin_at(start);
        }
    }
}

impl fmt::Display for Handset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.uid, self.name)
    }
}
