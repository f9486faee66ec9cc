//! Bursts, kills and quiet points: the reference and the server side by side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{join_all, try_join_all};
use schema::v1::up::Command;
use schema::v1::{Message, Up, send, to};

use super::chat::{Bounds, Chat, Member, direct, is_same_text};
use super::handset::Handset;
use super::lane::{self, Done, Heard, Step, Trace};
use super::membership::{self, Change};
use super::operations::{self, Changed};
use super::plan::{Actor, Burst, Feature, Planner};
use crate::server::Folder;
use crate::{Api, Server, up};

/// What a run is.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub steps: usize,
    /// Whether the server is killed now and then.
    pub kills: bool,
    pub features: Vec<Feature>,
}

/// The server and the reference.
pub struct World {
    pub server: Server,
    pub chat: Chat,
    pub apis: BTreeMap<String, Api>,
    pub planner: Planner,
    handsets: Vec<Handset>,
    burst: u32,
    trace: Trace,
    /// Messages whose text has changed in the last burst: as they are now, and who did it on which device.
    changed: Vec<(Message, (String, String))>,
}

const UIDS: [&str; 5] = ["ada", "ben", "cleo", "dov", "eve"];
/// Who rings the bell: a message to everybody, after which all is said.
const RINGER: &str = "zed";
pub const BELL: &str = "g:bell";
/// Each user's devices at the beginning.
const DEVICES: usize = 2;
/// Bursts from one kill to the next, more or less.
const KILL_EVERY: usize = 6;
/// Steps that a failing run shows.
const TAIL: usize = 40;

/// Plays so many random steps; a failure tells the seed, the last steps and the difference.
pub async fn run(options: &Options) -> Result<()> {
    let mut world = World::new(options).await?;
    let played = world.play(options).await;
    let tail = world.trace.tail(TAIL);
    let told = format!("{options:?}, in burst {}, after:\n{tail}\n", world.burst);
    played.context(told)?;
    world.server.finish().await
}

impl World {
    async fn new(options: &Options) -> Result<Self> {
        let mut folder = Folder::new()?;
        if options.features.contains(&Feature::Operations) {
            // However long the run takes.
            folder = folder
                .setting("TIDINGS__MESSAGES__RECALL_WITHIN", "1d")
                .setting("TIDINGS__MESSAGES__EDIT_WITHIN", "1d");
        }
        let server = Server::start_in(folder, &[&UIDS[..], &[RINGER]].concat()).await?;
        let uids = UIDS.map(str::to_owned);
        let mut world = World {
            server,
            chat: Chat::default(),
            apis: BTreeMap::new(),
            planner: Planner::new(options.seed, &uids, &options.features),
            handsets: Vec::new(),
            burst: 0,
            trace: Trace::default(),
            changed: Vec::new(),
        };
        for uid in UIDS.iter().chain([&RINGER]) {
            let api = world.server.login(uid).await?;
            world.apis.insert((*uid).to_owned(), api);
        }
        world.make_group("bell", RINGER, &UIDS).await?;
        world.make_group("all", "ada", &UIDS[1..]).await?;
        world.make_group("three", "ben", &["cleo", "dov"]).await?;
        world.make_group("two", "cleo", &["eve"]).await?;
        for uid in UIDS {
            for _ in 0..DEVICES {
                world.add_handset(uid)?;
            }
        }
        Ok(world)
    }

    async fn make_group(&mut self, gid: &str, owner: &str, others: &[&str]) -> Result<()> {
        let create = up::new(up::group_create(gid, others));
        let name = self.apis[owner].up(&create).await?.conversation;
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        self.chat.make_group(&name, owner, &others);
        Ok(())
    }

    fn add_handset(&mut self, uid: &str) -> Result<()> {
        let number = self.handsets.iter().filter(|handset| handset.uid == uid);
        let name = format!("{uid}-{}", number.count() + 1);
        let habits = self.planner.habits();
        let token = &self.apis[uid].tokens()?.access;
        self.trace.note(format!("{name}: {habits:?}"));
        let handset = Handset::new((uid, &name), habits, self.server.mqtt(), token);
        self.handsets.push(handset);
        Ok(())
    }

    async fn play(&mut self, options: &Options) -> Result<()> {
        let mut steps = 0;
        while steps < options.steps {
            self.burst += 1;
            if let Some(uid) = self.planner.newcomer(&self.handsets) {
                self.add_handset(&uid)?;
            }
            let has_kill = options.kills && self.planner.any(KILL_EVERY) == 0;
            let burst = self.planner.burst(&self.chat, &self.handsets, has_kill);
            steps += burst.steps();
            self.trace.note(format!("--- burst {}", self.burst));
            self.chat.begin_burst();
            let lanes = self.run_burst(burst).await?;
            self.learn(&lanes).await.context("the answers")?;
            self.be_quiet(&lanes).await?;
        }
        self.compare_everything().await
    }

    // --- a burst ---

    /// Runs the lanes, and again what a kill has left undone; returns what was answered in each.
    async fn run_burst(&mut self, burst: Burst) -> Result<Vec<Vec<Heard>>> {
        let Some(kill_after) = burst.kill_after else {
            let done = self.run_lanes(burst.lanes).await;
            return done.into_iter().map(unbroken).collect();
        };
        let actors: Vec<Actor> = burst.lanes.iter().map(|(actor, _)| actor.clone()).collect();
        let done = self.run_into_kill(burst.lanes, kill_after).await?;
        self.server.restart().await?;
        // Who was about to come or to leave does so in what is left of the lane.
        for handset in &mut self.handsets {
            if handset.is_online() {
                handset.drop_connection().await;
                handset.connect(self.burst).await?;
            }
        }
        let (mut heard, rest): (Vec<_>, Vec<_>) =
            done.into_iter().map(|done| (done.heard, done.rest)).unzip();
        let rest = actors.into_iter().zip(rest).collect();
        for (heard, done) in heard.iter_mut().zip(self.run_lanes(rest).await) {
            heard.extend(unbroken(done)?);
        }
        Ok(heard)
    }

    /// Runs the lanes until the server is killed under them, after so many answers.
    async fn run_into_kill(
        &mut self,
        lanes: Vec<(Actor, VecDeque<Step>)>,
        kill_after: usize,
    ) -> Result<Vec<Done>> {
        let (handsets, apis, trace) = (&mut self.handsets, &self.apis, &self.trace);
        let answers = trace.answers(kill_after);
        let lanes = run_lanes(handsets, apis, lanes, self.burst, trace);
        let mut lanes = std::pin::pin!(lanes);
        let ended = tokio::select! {
            done = &mut lanes => Some(done),
            () = answers => None,
        };
        trace.note("--- kill -9".into());
        self.server.kill().await?;
        Ok(match ended {
            Some(done) => done,
            None => lanes.await,
        })
    }

    async fn run_lanes(&mut self, lanes: Vec<(Actor, VecDeque<Step>)>) -> Vec<Done> {
        let (handsets, apis) = (&mut self.handsets, &self.apis);
        run_lanes(handsets, apis, lanes, self.burst, &self.trace).await
    }

    // --- learning ---

    /// Brings the reference to where the answers say that the server is.
    async fn learn(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        let ring = up::new(up::text(up::group("bell"), "quiet, please"));
        let rung = self.apis[RINGER].up(&ring).await?;
        let ring = Heard {
            uid: RINGER.into(),
            device: String::new(),
            up: ring,
            answer: Ok(rung),
        };
        let all = || lanes.iter().flatten().chain([&ring]);
        self.learn_groups(lanes).await?;
        for heard in all() {
            if let (Some(Command::Send(_)), Ok(ok)) = (&heard.up.command, &heard.answer)
                && ok.conversation.starts_with("u:")
            {
                self.chat.make_direct(&ok.conversation);
            }
            if let Ok(ok) = &heard.answer {
                self.planner.remember(&heard.uid, &heard.up, ok);
            }
        }
        self.learn_messages(all()).await?;
        for heard in all() {
            self.learn_position(heard)
                .with_context(|| heard.to_string())?;
        }
        self.learn_changes(lanes).await?;
        ensure_order_of_senders(lanes)
    }

    /// What has become of messages is read again.
    async fn learn_changes(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        let mut changed = Changed::new();
        for heard in lanes.iter().flatten() {
            operations::apply(&mut self.chat, heard, &mut changed)
                .with_context(|| heard.to_string())?;
        }
        self.changed.clear();
        for ((name, seq), change) in changed {
            let api = &self.apis[&change.by.0];
            let query = format!("after_seq={}&limit=1", seq - 1);
            let mut page = api.page(&name, &query).await?.messages;
            let now = page.pop().context("it is seen no more")?;
            let conversation = self.chat.conversations.get_mut(&name);
            let conversation = conversation.context("it was there")?;
            let before = conversation.at(seq).context("it was there")?;
            operations::ensure_as_expected(&now, before, &change.expected)?;
            if !is_same_text(before, &now) {
                self.changed.push((now.clone(), change.by));
            }
            conversation.replace(now);
        }
        Ok(())
    }

    async fn learn_groups(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        for heard in lanes.iter().flatten() {
            if let (Some(Command::GroupCreate(create)), Ok(ok)) = (&heard.up.command, &heard.answer)
            {
                self.chat
                    .make_group(&ok.conversation, &heard.uid, &create.members);
            }
        }
        let touched: BTreeSet<String> = lanes.iter().flatten().filter_map(group_of).collect();
        for name in touched {
            let Some(group) = self.chat.conversations.get_mut(&name) else {
                bail!("a change of {name}, which is no group");
            };
            let owner = group.owner.clone().unwrap_or_default();
            let rows = self.apis[&owner].members(&name[2..]).await?;
            let uid = |row: &serde_json::Value| row["uid"].as_str().unwrap_or_default().to_owned();
            let now: BTreeSet<String> = rows.iter().map(uid).collect();
            let changes: Vec<Vec<&Heard>> = lanes
                .iter()
                .map(|lane| {
                    lane.iter()
                        .filter(|heard| group_of(heard).as_ref() == Some(&name))
                })
                .map(Iterator::collect)
                .collect();
            let before: BTreeSet<String> = group.members.keys().cloned().collect();
            for change in membership::explain(&owner, &before, &changes, &now)? {
                match change {
                    Change::Left { uid } => group.leave(&uid),
                    Change::Entered { uid, start } => {
                        group.enter(&uid, start);
                        let devices = self.handsets.iter_mut();
                        for device in devices.filter(|device| device.uid == uid) {
                            device.begin(&name, start);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what is new, and finds each message that was answered in its place, and no other but the server's own.
    async fn learn_messages(&mut self, all: impl Iterator<Item = &Heard> + Clone) -> Result<()> {
        let mut sent: BTreeMap<(&str, u32), &Heard> = BTreeMap::new();
        for heard in all {
            if let (Some(Command::Send(_)), Ok(ok)) = (&heard.up.command, &heard.answer) {
                let twice = sent.insert((&ok.conversation, ok.seq), heard);
                ensure!(twice.is_none(), "one place for {heard:?} and {twice:?}");
            }
        }
        for (name, conversation) in &mut self.chat.conversations {
            let witness = conversation.witness();
            let witness = &self.apis[witness.context("a conversation without members")?];
            for message in history_after(witness, name, conversation.last_seq()).await? {
                match sent.remove(&(name, message.seq)) {
                    Some(heard) => ensure_as_sent(&message, heard)?,
                    None => ensure!(message.kind == "system", "nobody has sent {message:?}"),
                }
                conversation.push(message)?;
            }
            conversation.narrow_departures();
        }
        let lost = sent.into_values().next();
        ensure!(lost.is_none(), "not in the history: {lost:?}");
        Ok(())
    }

    fn learn_position(&mut self, heard: &Heard) -> Result<()> {
        match &heard.up.command {
            Some(Command::Send(send)) => self.check_right_to_send(heard, send),
            Some(Command::Read(read)) => self.learn_read(heard, &read.conversation, read.seq),
            Some(Command::Ack(ack)) => {
                let ok = heard.answer.as_ref();
                let ok = ok.map_err(|code| anyhow::anyhow!("an ack was refused: {code}"))?;
                let conversation = &self.chat.conversations[&ack.conversation];
                let mut devices = self.handsets.iter();
                let device = devices.find(|device| device.name == heard.device);
                let device = device.context("it was a device")?;
                device.check_position((&ack.conversation, conversation), ok.seq)
            }
            _ => Ok(()),
        }
    }

    fn check_right_to_send(&self, heard: &Heard, send: &schema::v1::Send) -> Result<()> {
        let name = name_of(&heard.uid, send);
        let Some(conversation) = self.chat.conversations.get(&name) else {
            bail!("{name} does not exist, after an answer");
        };
        match &heard.answer {
            Ok(ok) => ensure!(
                conversation.was_for(&heard.uid, ok.seq),
                "who is not a member may write"
            ),
            Err(code) => {
                let is_member = conversation.has(&heard.uid);
                let is_surely_member = is_member && !conversation.is_unsettled(&heard.uid);
                ensure!(!is_surely_member, "a member may not write: {code}");
                let codes = ["permission_denied", "not_found"];
                ensure!(codes.contains(&code.as_str()), "another code expected");
            }
        }
        Ok(())
    }

    fn learn_read(&mut self, heard: &Heard, name: &str, seq: u32) -> Result<()> {
        let conversation = self.chat.conversations.get_mut(name);
        let conversation = conversation.context("a foreign conversation was read")?;
        let last_seq = conversation.last_seq();
        let member = conversation.members.get_mut(&heard.uid);
        let member = member.context("a foreign conversation was read")?;
        match &heard.answer {
            Ok(ok) => {
                ensure!(seq <= ok.seq && ok.seq <= last_seq, "read up to {ok:?}");
                member.read = member.read.max(seq);
                member.view.marked_unread = false;
            }
            Err(code) => {
                ensure!(seq > last_seq, "what is there can't be read: {code}");
                return Ok(());
            }
        }
        let mut devices = self.handsets.iter_mut();
        if let Some(device) = devices.find(|device| device.name == heard.device) {
            device.has_read(name, seq);
        }
        Ok(())
    }

    // --- quiet ---

    /// Waits until all is as it should be, and compares.
    async fn be_quiet(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        let chat = &mut self.chat;
        // What devices have acknowledged in this burst may count by now, whenever that was; surely it counts later.
        note_positions(chat, &self.handsets, Member::may_reach);
        for handset in &mut self.handsets {
            handset.learn_base(chat);
        }
        let online = self.handsets.iter_mut().filter(|device| device.is_online());
        try_join_all(online.map(|handset| handset.settle(chat))).await?;
        for handset in &mut self.handsets {
            handset.until_written_down(chat, BELL).await?;
        }
        for handset in &mut self.handsets {
            handset.check(chat, self.burst)?;
        }
        note_positions(chat, &self.handsets, Member::reaches);
        self.check_notices(lanes).await?;
        self.check_changes_told().await?;
        self.compare_some().await
    }

    /// Who reads on one device, learns of it on the others.
    async fn check_notices(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        let mut read: BTreeSet<(&str, &str)> = BTreeSet::new();
        for heard in lanes.iter().flatten() {
            if let (Some(Command::Read(asked)), Ok(_)) = (&heard.up.command, &heard.answer) {
                read.insert((&heard.uid, &asked.conversation));
            }
        }
        for (uid, name) in read {
            let member = &self.chat.conversations[name].members[uid];
            // A read that changes nothing is told to nobody.
            if member.read == member.quiet_read {
                continue;
            }
            for device in self.handsets.iter_mut().filter(|device| device.uid == uid) {
                if device.was_throughout(self.burst) {
                    device.until_told_of_reading(name, member.read).await?;
                }
            }
        }
        Ok(())
    }
}

impl World {
    /// Whoever is online and sees a message is told of what becomes of it, but for the device that did it.
    async fn check_changes_told(&mut self) -> Result<()> {
        for (message, by) in &self.changed {
            let conversation = &self.chat.conversations[&message.conversation];
            let devices = self.handsets.iter_mut().filter(|device| {
                let is_new = device.uid == by.0 && device.name == by.1;
                let member = conversation.members.get(&device.uid);
                let is_quiet = member.is_some_and(|member| !member.has_tidied)
                    && !conversation.is_unsettled(&device.uid);
                !is_new
                    && is_quiet
                    && conversation.sees(&device.uid, message.seq)
                    && device.was_throughout(self.burst)
            });
            for device in devices {
                device.until_told_of_change(message).await?;
            }
        }
        Ok(())
    }
}

/// Members are where their furthest device is.
fn note_positions(chat: &mut Chat, handsets: &[Handset], note: fn(&mut Member, Bounds)) {
    for (name, conversation) in &mut chat.conversations {
        for device in handsets {
            let position = device.position(name, conversation);
            if let Some(member) = conversation.members.get_mut(&device.uid) {
                note(member, position);
            }
        }
    }
}

async fn run_lanes(
    handsets: &mut [Handset],
    apis: &BTreeMap<String, Api>,
    lanes: Vec<(Actor, VecDeque<Step>)>,
    burst: u32,
    trace: &Trace,
) -> Vec<Done> {
    let mut handsets: Vec<Option<&mut Handset>> = handsets.iter_mut().map(Some).collect();
    let mut running: Vec<std::pin::Pin<Box<dyn Future<Output = Done> + '_>>> = Vec::new();
    for (actor, steps) in lanes {
        match actor {
            Actor::Handset(place) => {
                let handset = handsets[place].take().expect("one lane for each device");
                running.push(Box::pin(lane::run_handset(handset, steps, burst, trace)));
            }
            Actor::Api(uid) => running.push(Box::pin(async move {
                lane::run_api(&uid, &apis[&uid], steps, trace).await
            })),
        }
    }
    join_all(running).await
}

fn unbroken(done: Done) -> Result<Vec<Heard>> {
    match done.failure {
        Some(failure) => Err(failure),
        None => Ok(done.heard),
    }
}

/// The group whose members the command is about.
fn group_of(heard: &Heard) -> Option<String> {
    let gid = match heard.up.command.as_ref()? {
        Command::GroupAdd(add) => &add.gid,
        Command::GroupRemove(remove) => &remove.gid,
        Command::GroupLeave(leave) => &leave.gid,
        _ => return None,
    };
    Some(format!("g:{gid}"))
}

/// The conversation that a user sends to.
fn name_of(uid: &str, send: &schema::v1::Send) -> String {
    match send.to.as_ref().and_then(|to| to.to.as_ref()) {
        Some(to::To::User(other)) => direct(uid, other),
        Some(to::To::Group(gid)) => format!("g:{gid}"),
        Some(to::To::Conversation(name)) => name.clone(),
        None => String::new(),
    }
}

async fn history_after(api: &Api, name: &str, after: u32) -> Result<Vec<Message>> {
    let mut all: Vec<Message> = Vec::new();
    loop {
        let after = all.last().map_or(after, |message| message.seq);
        let page = api
            .page(name, &format!("after_seq={after}&limit=500"))
            .await?;
        let is_empty = page.messages.is_empty();
        all.extend(page.messages);
        if !page.more || is_empty {
            return Ok(all);
        }
    }
}

/// The message is what was sent and answered.
fn ensure_as_sent(message: &Message, heard: &Heard) -> Result<()> {
    use schema::v1::message::Content;
    let Heard {
        uid,
        device,
        up: Up {
            client_msg_id,
            command,
        },
        answer,
    } = heard;
    let (Some(Command::Send(send)), Ok(ok)) = (command, answer) else {
        bail!("{heard:?} is no message");
    };
    let (kind, content) = match &send.content {
        Some(send::Content::Text(text)) => ("text", Content::Text(text.clone())),
        Some(send::Content::Body(body)) => ("custom", Content::Body(body.clone())),
        other => bail!("no content of the model's: {other:?}"),
    };
    let expected = Message {
        msg_id: ok.msg_id,
        conversation: name_of(uid, send),
        seq: ok.seq,
        sender: uid.clone(),
        sender_device: device.clone(),
        client_msg_id: client_msg_id.clone(),
        client_seq: send.client_seq,
        kind: kind.into(),
        content: Some(content),
        reply_to: send.reply_to,
        mentions: send.mentions.clone(),
        sent_at: ok.sent_at,
        ..Default::default()
    };
    ensure!(*message == expected, "{message:?} was sent as {expected:?}");
    Ok(())
}

/// What one device says in a conversation keeps its order.
fn ensure_order_of_senders(lanes: &[Vec<Heard>]) -> Result<()> {
    for lane in lanes {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for heard in lane {
            if let (Some(Command::Send(_)), Ok(ok)) = (&heard.up.command, &heard.answer) {
                let before = last.insert(&ok.conversation, ok.seq);
                ensure!(before < Some(ok.seq), "out of order: {heard}");
            }
        }
    }
    Ok(())
}
