//! Bursts, kills and quiet points: the reference and the server side by side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result};
use futures_util::future::{join_all, try_join_all};
use schema::v1::Message;
use schema::v1::up::Command;

use super::chat::{Bounds, Chat, Member};
use super::handset::Handset;
use super::lane::{self, Done, Heard, Step, Trace};
use super::plan::{Actor, Burst, Feature, Planner};
use crate::server::Folder;
use crate::{Api, Server, up};

mod learn;

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
            handset.may_be_unknown();
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

    // --- quiet ---

    /// Waits until all is as it should be, and compares.
    async fn be_quiet(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        let chat = &mut self.chat;
        for handset in self.handsets.iter_mut().filter(|device| device.is_online()) {
            handset.take_what_is_here().await?;
        }
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
