//! How users appear to others, and when others have to be told.
//!
//! A change is told at once, and further ones of the same user some time after that; that a user has gone only when
//! nobody comes back for a while. So a phone that loses its connection again and again is not news each time, and none
//! where it is back to what was told last. Who asks gets an answer that what is told later continues: either it is what
//! was told last, or something is told in any case.
//!
//! Each node of a cluster follows all users, and tells of those whom its own sessions have changed. The others wait to hear
//! that it was told, for so long that they do it themselves only where that node is gone, or knows less than they do.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use schema::Uid;
use tokio::time::Instant;

/// What a device wants to pass for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Somebody is there.
    #[default]
    Online,
    /// It is connected, and nobody looks.
    Away,
    /// Others are not to know of it.
    Invisible,
}

impl Status {
    /// As the wire has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Online => "online",
            Status::Away => "away",
            Status::Invisible => "invisible",
        }
    }

    /// What the wire means; `None`: nothing that we know.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Status::Online, Status::Away, Status::Invisible];
        all.into_iter().find(|status| status.as_str() == name)
    }
}

/// What others see of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appearance {
    /// With one device at least.
    Online,
    /// Connected, but not online with any device.
    Away,
    /// Not connected, or not visibly so.
    Offline,
}

impl Appearance {
    /// Of a user with these devices.
    #[must_use]
    pub fn of(devices: impl IntoIterator<Item = Status>) -> Self {
        let mut appearance = Appearance::Offline;
        for status in devices {
            match status {
                Status::Online => return Appearance::Online,
                Status::Away => appearance = Appearance::Away,
                Status::Invisible => {}
            }
        }
        appearance
    }

    /// As the wire has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Appearance::Online => "online",
            Appearance::Away => "away",
            Appearance::Offline => "offline",
        }
    }

    /// What the wire means; `None`: nothing that we know.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Appearance::Online, Appearance::Away, Appearance::Offline];
        all.into_iter().find(|found| found.as_str() == name)
    }
}

/// Something that others have to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) uid: Uid,
    pub(super) now: Appearance,
    /// What others know; `None`: it may be anything.
    pub(super) before: Option<Appearance>,
    /// There is more to tell than how the user appears.
    pub(super) is_restyled: bool,
}

/// At which node something is, or has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this one.
    Here,
    /// At another one, of that number.
    Node(u32),
}

/// How much later than the node whose turn it is the next one tells: longer than it takes to hear that it was told.
const TURN: Duration = Duration::from_secs(3);

/// The nodes that there are.
#[derive(Debug, Default)]
struct Nodes {
    own: u32,
    others: BTreeSet<u32>,
}

impl Nodes {
    /// How many nodes are to tell before this one of what has happened there: that node, then the one with the lowest number.
    fn before_us(&self, there: Place) -> u32 {
        let Place::Node(there) = there else { return 0 };
        let lower = self.others.range(..self.own);
        let lower = lower.filter(|other| **other != there).count();
        let count = lower + usize::from(self.others.contains(&there));
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// How long others have to wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Between two changes of a user.
    pub(super) interval: Duration,
    /// Until somebody who has left counts as gone.
    pub(super) grace: Duration,
}

/// See the module's documentation. There is one entry for each user who does not appear offline, and for those who have
/// changed a short while ago.
#[derive(Debug, Default)]
pub(super) struct Appearances {
    pace: Pace,
    nodes: Nodes,
    entries: HashMap<Uid, Entry>,
    /// When to look at which entry again.
    due: BTreeSet<(Instant, Uid)>,
}

#[derive(Debug)]
struct Entry {
    now: Appearance,
    since: Instant,
    /// Where the last change has happened.
    cause: Place,
    told: Option<Appearance>,
    told_at: Option<Instant>,
    is_restyled: bool,
    /// Others are not to see the user, which was told.
    is_hidden: bool,
    due: Option<Instant>,
}

impl Appearances {
    /// Of the node with that number, if it is one of several.
    pub(super) fn new(pace: Pace, node: u32) -> Self {
        Appearances {
            pace,
            nodes: Nodes {
                own: node,
                others: BTreeSet::new(),
            },
            ..Self::default()
        }
    }

    /// The number of this node, which may be another one after it had none for a while.
    pub(super) fn set_number(&mut self, node: u32) {
        self.nodes.own = node;
    }

    /// The user appears like this now, since something has happened there.
    pub(super) fn set(&mut self, uid: &Uid, appearance: Appearance, there: Place, at: Instant) {
        self.change(uid, at, |entry| {
            if entry.now != appearance {
                entry.now = appearance;
                entry.since = at;
                entry.cause = there;
                entry.is_hidden = false;
            }
        });
    }

    /// Others see something else of the user than how it appears, or are not to see it any longer.
    pub(super) fn restyle(&mut self, uid: &Uid, there: Place, at: Instant) {
        self.change(uid, at, |entry| {
            entry.is_restyled = true;
            entry.is_hidden = false;
            entry.cause = there;
        });
    }

    /// Another node has told it.
    pub(super) fn told(&mut self, uid: &Uid, appearance: Appearance, is_hidden: bool, at: Instant) {
        if appearance == Appearance::Offline && !self.entries.contains_key(uid) {
            return;
        }
        self.change(uid, at, |entry| {
            entry.told = Some(appearance);
            entry.told_at = Some(at);
            entry.is_restyled = false;
            entry.is_hidden = is_hidden;
        });
    }

    /// Like [`Appearances::set`], of what others know already.
    pub(super) fn learn(&mut self, uid: &Uid, appearance: Appearance, there: Place, at: Instant) {
        self.set(uid, appearance, there, at);
        self.change(uid, at, |entry| entry.told = Some(appearance));
    }

    /// There is another node.
    pub(super) fn meet(&mut self, node: u32) {
        self.nodes.others.insert(node);
    }

    /// It is no longer there: others are to tell what it has not told.
    pub(super) fn part(&mut self, node: u32) {
        if !self.nodes.others.remove(&node) {
            return;
        }
        let untold = self.entries.iter().filter(|(_, entry)| entry.has_news());
        let untold: Vec<Uid> = untold.map(|(uid, _)| uid.clone()).collect();
        for uid in untold {
            self.schedule(&uid);
        }
    }

    /// Whether no node that is there has a lower number.
    pub(super) fn is_first(&self) -> bool {
        self.nodes.others.range(..self.nodes.own).next().is_none()
    }

    /// What was told of the user now is that it is offline, which it may not be.
    pub(super) fn hide(&mut self, uid: &Uid, at: Instant) {
        self.change(uid, at, |entry| {
            entry.is_hidden = true;
            entry.told = Some(Appearance::Offline);
        });
    }

    /// What was to be told now could not be.
    pub(super) fn fail(&mut self, change: &Change, at: Instant) {
        self.change(&change.uid, at, |entry| {
            entry.told = None;
            entry.is_restyled |= change.is_restyled;
        });
    }

    /// What somebody who asks is answered.
    pub(super) fn ask(&mut self, uid: &Uid, at: Instant) -> Appearance {
        let Some(entry) = self.entries.get_mut(uid) else {
            return Appearance::Offline;
        };
        let is_gone = entry.now == Appearance::Offline;
        match entry.told {
            Some(told) if is_gone && at < entry.since + self.pace.grace => told,
            Some(told) if told == entry.now || entry.is_hidden => entry.now,
            // Should the user go back to what was told, the one who asks now would never learn of it.
            _ => {
                entry.told = None;
                entry.now
            }
        }
    }

    /// When there is something to do next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next change that has to be told by now. It counts as told then.
    pub(super) fn take(&mut self, at: Instant) -> Option<Change> {
        while self.next_due().is_some_and(|due| due <= at) {
            let (_, uid) = self.due.pop_first()?;
            let entry = self.entries.get_mut(&uid)?;
            entry.due = None;
            if !entry.has_news() {
                if entry.now == Appearance::Offline {
                    self.entries.remove(&uid);
                }
                continue;
            }
            let change = Change {
                uid,
                now: entry.now,
                before: entry.told,
                is_restyled: entry.is_restyled,
            };
            entry.told = Some(entry.now);
            entry.told_at = Some(at);
            entry.is_restyled = false;
            self.schedule(&change.uid);
            return Some(change);
        }
        None
    }

    fn change(&mut self, uid: &Uid, at: Instant, change: impl FnOnce(&mut Entry)) {
        let entry = self.entries.entry(uid.clone()).or_insert_with(|| Entry {
            now: Appearance::Offline,
            since: at,
            cause: Place::Here,
            told: Some(Appearance::Offline),
            told_at: None,
            is_restyled: false,
            is_hidden: false,
            due: None,
        });
        change(entry);
        self.schedule(uid);
    }

    fn schedule(&mut self, uid: &Uid) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let later = TURN * self.nodes.before_us(entry.cause);
        let due = entry.due_at(self.pace).map(|due| due + later);
        if due == entry.due {
            return;
        }
        if let Some(due) = entry.due {
            self.due.remove(&(due, uid.clone()));
        }
        if let Some(due) = due {
            self.due.insert((due, uid.clone()));
        }
        entry.due = due;
    }
}

impl Entry {
    fn has_news(&self) -> bool {
        self.is_restyled || (self.told != Some(self.now) && !self.is_hidden)
    }

    /// When it has to be told, or can be forgotten.
    fn due_at(&self, pace: Pace) -> Option<Instant> {
        let is_offline = self.now == Appearance::Offline;
        if !self.has_news() && !is_offline {
            return None;
        }
        let has_left = is_offline && self.told != Some(Appearance::Offline);
        let grace = if has_left { pace.grace } else { Duration::ZERO };
        let allowed = self.told_at.map(|at| at + pace.interval);
        Some(allowed.unwrap_or(self.since).max(self.since + grace))
    }
}

#[cfg(test)]
mod tests;
