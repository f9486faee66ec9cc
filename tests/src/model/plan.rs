//! What is to happen next: bursts of things that several actors do at once, chosen by a seed.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use fastrand::Rng;
use schema::Format;
use schema::v1::up::Command;
use schema::v1::{self, Send, To, Up, send, to};

use self::claims::Claims;
use super::chat::{Chat, direct};
use super::handset::{Habits, Handset};
use super::lane::Step;
use crate::link::Version;
use crate::up;

mod claims;
mod features;

/// What is not played by everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Texts that mention users, and everybody.
    Mentions,
    /// Recalls, edits and reactions.
    Operations,
    /// Deleting messages for oneself.
    Deleting,
    /// Pinning, archiving, drafts, marks.
    Views,
    /// Clearing and deleting conversations.
    Clearing,
}

/// Chooses.
pub struct Planner {
    rng: Rng,
    features: Vec<Feature>,
    uids: Vec<String>,
    said: u32,
    groups: u32,
    /// Commands that were answered well, to be given again.
    pub answered: Vec<(String, Up, v1::Ok)>,
}

/// What several actors do at once.
pub struct Burst {
    pub lanes: Vec<(Actor, VecDeque<Step>)>,
    /// After so many answers the server is killed.
    pub kill_after: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// By its place.
    Handset(usize),
    Api(String),
}

/// Groups beside the bell at most, and devices of a user.
const GROUPS_MAX: u32 = 6;
pub const DEVICES_MAX: usize = 6;
/// Answers that are kept to be asked for again.
const ANSWERED_MAX: usize = 200;

impl Burst {
    pub fn steps(&self) -> usize {
        self.lanes.iter().map(|(_, steps)| steps.len()).sum()
    }
}

impl Planner {
    pub fn new(seed: u64, uids: &[String], features: &[Feature]) -> Self {
        Planner {
            rng: Rng::with_seed(seed),
            features: features.to_vec(),
            uids: uids.to_vec(),
            said: 0,
            groups: 0,
            answered: Vec::new(),
        }
    }

    // --- people and devices ---

    pub fn habits(&mut self) -> Habits {
        let rng = &mut self.rng;
        Habits {
            version: *rng
                .choice(&[Version::V4, Version::V5])
                .unwrap_or(&Version::V5),
            format: match rng.bool() {
                true => Format::Protobuf,
                false => Format::Json,
            },
            qos: u8::from(rng.u8(0..5) > 0),
            late: if rng.u8(0..4) == 0 { 8 } else { 0 },
            has_kept_session: rng.u8(0..4) == 0,
        }
    }

    /// Somebody who gets a new device now.
    pub fn newcomer(&mut self, handsets: &[Handset]) -> Option<String> {
        if self.rng.u8(0..8) > 0 {
            return None;
        }
        let uid = self.rng.choice(&self.uids)?.clone();
        let devices = handsets.iter().filter(|handset| handset.uid == uid);
        (devices.count() < DEVICES_MAX).then_some(uid)
    }

    pub fn remember(&mut self, uid: &str, up: &Up, ok: &v1::Ok) {
        let is_again_the_same = matches!(
            up.command,
            Some(Command::Send(_) | Command::GroupAdd(_) | Command::GroupRemove(_))
        );
        if is_again_the_same && !up.client_msg_id.is_empty() {
            self.answered.push((uid.to_owned(), up.clone(), ok.clone()));
        }
        if self.answered.len() > ANSWERED_MAX {
            let forgotten = self.rng.usize(..self.answered.len());
            self.answered.swap_remove(forgotten);
        }
    }

    /// Any of `0..count`.
    pub fn any(&mut self, count: usize) -> usize {
        self.rng.usize(..count.max(1))
    }

    // --- bursts ---

    /// The next burst; in one with a kill the commands have to be such that they can be given again.
    pub fn burst(&mut self, chat: &Chat, handsets: &[Handset], has_kill: bool) -> Burst {
        let mut claims = Claims::default();
        let mut lanes: BTreeMap<Actor, VecDeque<Step>> = BTreeMap::new();
        for _ in 0..self.rng.usize(2..=6) {
            let (actor, steps) = if self.rng.u8(0..6) == 0 {
                let uid = self.somebody();
                let steps = self.api_steps(chat, &uid, &mut claims);
                (Actor::Api(uid), steps)
            } else {
                let place = self.rng.usize(..handsets.len());
                let steps = self.handset_steps(chat, &handsets[place], &mut claims);
                (Actor::Handset(place), steps)
            };
            lanes.entry(actor).or_insert(steps);
        }
        let mut burst = Burst {
            lanes: lanes.into_iter().collect(),
            kill_after: None,
        };
        if has_kill {
            burst.kill_after = Some(self.rng.usize(..=burst.steps()));
        }
        burst
    }

    fn handset_steps(
        &mut self,
        chat: &Chat,
        handset: &Handset,
        claims: &mut Claims,
    ) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        let mut is_online = handset.is_online();
        for _ in 0..self.rng.usize(1..=5) {
            if !is_online {
                steps.push_back(Step::Connect);
                is_online = true;
                continue;
            }
            match self.rng.u8(0..100) {
                0..5 => {
                    steps.push_back(Step::Disconnect);
                    is_online = false;
                }
                5..10 => {
                    steps.push_back(Step::Drop);
                    is_online = false;
                }
                10..12 => steps.push_back(Step::Connect),
                12..22 => steps.extend(self.acknowledge(chat, handset, claims)),
                _ => steps.extend(self.ask(chat, &handset.uid, claims)),
            }
        }
        steps
    }

    fn api_steps(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> VecDeque<Step> {
        let count = self.rng.usize(1..=3);
        (0..count)
            .filter_map(|_| self.ask(chat, uid, claims))
            .collect()
    }

    fn ask(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> Option<Step> {
        if !self.features.is_empty() && self.rng.u8(0..4) == 0 {
            return self.use_feature(chat, uid, claims);
        }
        match self.rng.u8(0..100) {
            0..50 => {
                let command = self.send(chat, uid);
                Some(self.say([command]))
            }
            50..60 => {
                // To one conversation, so that the order shows.
                let (to, count) = (self.receiver(chat, uid), self.rng.usize(2..=8));
                let commands: Vec<Command> = (0..count).map(|_| self.send_to(to.clone())).collect();
                Some(self.say(commands))
            }
            60..66 => self.again(uid),
            66..86 => self.read(chat, uid, claims),
            _ => self.change_group(chat, uid, claims),
        }
    }

    fn say(&mut self, commands: impl IntoIterator<Item = Command>) -> Step {
        Step::Say(commands.into_iter().map(up::new).collect())
    }

    fn again(&mut self, uid: &str) -> Option<Step> {
        let mine: Vec<_> = self.answered.iter().filter(|(by, ..)| by == uid).collect();
        let (_, up, ok) = self.rng.choice(&mine)?;
        Some(Step::Again(Box::new((up.clone(), ok.clone()))))
    }

    // --- sending ---

    fn send(&mut self, chat: &Chat, uid: &str) -> Command {
        let to = self.receiver(chat, uid);
        self.send_to(to)
    }

    /// Mostly somebody to whom the user may write.
    fn receiver(&mut self, chat: &Chat, uid: &str) -> To {
        let groups = chat.conversations.iter();
        let groups = groups.filter(|(_, conversation)| conversation.owner.is_some());
        let is_stranger = self.rng.u8(0..12) == 0;
        let groups: Vec<&String> = groups
            .filter(|(_, group)| is_stranger || group.has(uid))
            .map(|(name, _)| name)
            .collect();
        let to = match self.rng.choice(&groups) {
            Some(name) if self.rng.u8(0..10) < 6 => match name.strip_prefix("g:") {
                Some(gid) if self.rng.bool() => to::To::Group(gid.to_owned()),
                _ => to::To::Conversation((*name).clone()),
            },
            _ => {
                let other = self.somebody();
                match self.rng.bool() {
                    true => to::To::Conversation(direct(uid, &other)),
                    false => to::To::User(other),
                }
            }
        };
        To { to: Some(to) }
    }

    fn send_to(&mut self, to: To) -> Command {
        self.said += 1;
        let text = format!("number {}", self.said);
        let content = match self.rng.u8(0..10) {
            0 => send::Content::Body(Bytes::from(text)),
            1 => send::Content::Text(text.repeat(self.rng.usize(1..60))),
            _ => send::Content::Text(text),
        };
        Command::Send(Send {
            mentions: self.mentions(&to),
            to: Some(to),
            content: Some(content),
            client_seq: if self.rng.bool() { self.said.into() } else { 0 },
            ..Default::default()
        })
    }

    fn somebody(&mut self) -> String {
        let place = self.rng.usize(..self.uids.len());
        self.uids[place].clone()
    }

    // --- positions ---

    fn read(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> Option<Step> {
        let conversations: Vec<_> = chat.of(uid).collect();
        let (name, conversation) = self.rng.choice(&conversations)?;
        let last_seq = conversation.last_seq();
        let seq = match self.rng.u8(0..10) {
            0 => last_seq + 10_000,
            1..5 => last_seq,
            _ => self.rng.u32(0..=last_seq),
        };
        if !claims.position(name, uid) || seq == 0 {
            return None;
        }
        Some(self.say([up::read(name, seq)]))
    }

    fn acknowledge(&mut self, chat: &Chat, handset: &Handset, claims: &mut Claims) -> Option<Step> {
        let conversations: Vec<_> = chat.of(&handset.uid).collect();
        let (name, conversation) = self.rng.choice(&conversations)?;
        let start = conversation.members.get(&handset.uid)?.start;
        let seq = handset.some_heard(name, start, self.rng.usize(..1000))?;
        if !claims.position(name, &handset.uid) {
            return None;
        }
        Some(self.say([up::ack(name, seq)]))
    }

    // --- groups ---

    fn change_group(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> Option<Step> {
        if self.groups < GROUPS_MAX && self.rng.u8(0..20) == 0 {
            self.groups += 1;
            let members: Vec<String> = (0..3).map(|_| self.somebody()).collect();
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            let gid = format!("later-{}", self.groups);
            return Some(self.say([up::group_create(&gid, &members)]));
        }
        let groups = chat.conversations.iter();
        let groups: Vec<_> = groups
            .filter_map(|(name, group)| Some((name, group.owner.as_deref()?)))
            .filter(|(_, owner)| self.uids.iter().any(|uid| uid == owner))
            .collect();
        let (name, owner) = *self.rng.choice(&groups)?;
        let gid = name.strip_prefix("g:")?;
        if owner != uid && self.rng.u8(0..4) > 0 {
            return claims
                .membership(name, uid)
                .then(|| self.say([up::group_leave(gid)]));
        }
        let other = self.somebody();
        if other == owner || !claims.membership(name, &other) {
            return None;
        }
        let is_in = chat.conversations[name].has(&other);
        let is_mistaken = self.rng.u8(0..10) == 0;
        Some(match is_in != is_mistaken {
            true => self.say([up::group_remove(gid, &[&other])]),
            false => self.say([up::group_add(gid, &[&other])]),
        })
    }
}
