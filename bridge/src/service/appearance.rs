//! How users appear to others, and when others have to be told.
//!
//! A change is told at once, and further ones of the same user some time after that; that a user has gone only when
//! nobody comes back for a while. So a phone that loses its connection again and again is not news each time, and none
//! where it is back to what was told last. Who asks gets an answer that what is told later continues: either it is what
//! was told last, or something is told in any case.

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
    entries: HashMap<Uid, Entry>,
    /// When to look at which entry again.
    due: BTreeSet<(Instant, Uid)>,
}

#[derive(Debug)]
struct Entry {
    now: Appearance,
    since: Instant,
    told: Option<Appearance>,
    told_at: Option<Instant>,
    is_restyled: bool,
    /// Others are not to see the user, which was told.
    is_hidden: bool,
    due: Option<Instant>,
}

impl Appearances {
    pub(super) fn new(pace: Pace) -> Self {
        Appearances {
            pace,
            ..Self::default()
        }
    }

    /// The user appears like this now.
    pub(super) fn set(&mut self, uid: &Uid, appearance: Appearance, at: Instant) {
        self.change(uid, at, |entry| {
            if entry.now != appearance {
                entry.now = appearance;
                entry.since = at;
                entry.is_hidden = false;
            }
        });
    }

    /// Others see something else of the user than how it appears, or are not to see it any longer.
    pub(super) fn restyle(&mut self, uid: &Uid, at: Instant) {
        self.change(uid, at, |entry| {
            entry.is_restyled = true;
            entry.is_hidden = false;
        });
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
        let due = entry.due_at(self.pace);
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
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        interval: Duration::from_secs(3),
        grace: Duration::from_secs(5),
    };

    fn bob() -> Uid {
        "bob".parse().unwrap()
    }

    fn change(now: Appearance, before: Option<Appearance>) -> Change {
        Change {
            uid: bob(),
            now,
            before,
            is_restyled: false,
        }
    }

    /// A phone that comes and goes ten times in ten seconds is told once, and that it has gone once.
    #[test]
    fn a_flapping_phone_is_hardly_news() {
        use Appearance::{Offline, Online};
        let (mut appearances, start) = (Appearances::new(PACE), Instant::now());
        let mut told = Vec::new();
        for millis in 0..30_000 {
            let at = start + Duration::from_millis(millis);
            if millis < 10_000 && millis % 500 == 0 {
                let is_there = millis % 1000 == 0;
                appearances.set(&bob(), if is_there { Online } else { Offline }, at);
            }
            while let Some(change) = appearances.take(at) {
                told.push((millis, change));
            }
        }
        let expected = [
            (0, change(Online, Some(Offline))),
            (14_500, change(Offline, Some(Online))),
        ];
        assert_eq!(told, expected);
        assert!(appearances.entries.is_empty() && appearances.due.is_empty());
    }

    /// However often a user changes, others hear of it once in three seconds, and last of what it is in the end.
    #[test]
    fn changes_are_told_at_a_pace() {
        use Appearance::{Away, Offline, Online};
        let (mut appearances, start) = (Appearances::new(PACE), Instant::now());
        let mut told = Vec::new();
        for millis in 0..12_000 {
            let at = start + Duration::from_millis(millis);
            if millis <= 7_000 && millis % 1000 == 0 {
                let is_away = millis % 2000 != 0;
                appearances.set(&bob(), if is_away { Away } else { Online }, at);
            }
            while let Some(change) = appearances.take(at) {
                told.push((millis, change));
            }
        }
        let expected = [
            (0, change(Online, Some(Offline))),
            (3_000, change(Away, Some(Online))),
            (6_000, change(Online, Some(Away))),
            (9_000, change(Away, Some(Online))),
        ];
        assert_eq!(told, expected);
    }

    /// Who asks is told what follows: during the grace nothing has happened yet, and what was answered is corrected.
    #[test]
    fn answers_and_events_make_one_story() {
        use Appearance::{Away, Offline, Online};
        let (mut appearances, start) = (Appearances::new(PACE), Instant::now());
        let at = |secs: u64| start + Duration::from_secs(secs);
        assert_eq!(appearances.ask(&bob(), at(0)), Offline);
        appearances.set(&bob(), Online, at(0));
        assert_eq!(appearances.ask(&bob(), at(0)), Online);
        assert_eq!(appearances.take(at(0)), Some(change(Online, None)));
        appearances.set(&bob(), Offline, at(10));
        assert_eq!(appearances.ask(&bob(), at(14)), Online, "it may come back");
        appearances.set(&bob(), Online, at(14));
        assert_eq!(appearances.take(at(20)), None);
        appearances.set(&bob(), Away, at(20));
        assert_eq!(appearances.take(at(20)), Some(change(Away, Some(Online))));
        appearances.set(&bob(), Online, at(21));
        assert_eq!(appearances.ask(&bob(), at(21)), Online);
        appearances.set(&bob(), Away, at(22));
        assert_eq!(appearances.take(at(22)), None);
        let again = appearances.take(at(23));
        assert_eq!(
            again,
            Some(change(Away, None)),
            "somebody believes it is online"
        );
        appearances.fail(&again.unwrap(), at(23));
        assert_eq!(appearances.take(at(25)), None);
        assert_eq!(appearances.take(at(26)), Some(change(Away, None)));
        assert_eq!(appearances.take(at(99)), None);
    }

    /// One who is hidden is told once to have gone, and nothing more until it shows itself again.
    #[test]
    fn a_hidden_user_is_quiet() {
        use Appearance::{Away, Offline, Online};
        let (mut appearances, start) = (Appearances::new(PACE), Instant::now());
        let at = |secs: u64| start + Duration::from_secs(secs);
        let restyled = |now, before| Change {
            is_restyled: true,
            ..change(now, before)
        };
        appearances.set(&bob(), Online, at(0));
        assert!(appearances.take(at(0)).is_some());
        appearances.restyle(&bob(), at(5));
        let expected = restyled(Online, Some(Online));
        assert_eq!(appearances.take(at(5)), Some(expected));
        appearances.hide(&bob(), at(5));
        assert_eq!(appearances.take(at(50)), None);
        appearances.set(&bob(), Away, at(50));
        assert_eq!(appearances.take(at(50)), Some(change(Away, Some(Offline))));
        appearances.hide(&bob(), at(50));
        appearances.restyle(&bob(), at(60));
        let expected = restyled(Away, Some(Offline));
        assert_eq!(appearances.take(at(60)), Some(expected));
        appearances.set(&bob(), Offline, at(70));
        assert!(appearances.take(at(74)).is_none());
        assert!(appearances.take(at(75)).is_some());
        assert!(appearances.take(at(78)).is_none());
        assert!(appearances.entries.is_empty());
        // What one who is away says is told, and leaves nothing behind.
        appearances.restyle(&bob(), at(100));
        let expected = restyled(Offline, Some(Offline));
        assert_eq!(appearances.take(at(100)), Some(expected));
        assert_eq!(appearances.take(at(103)), None);
        assert!(appearances.entries.is_empty() && appearances.due.is_empty());
    }
}
