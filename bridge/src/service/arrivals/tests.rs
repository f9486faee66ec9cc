use proptest::prelude::*;

use super::*;

const CONVERSATIONS: usize = 3;

/// What leaves the gate in these tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Message(i64, u32),
    /// About that message.
    Event(i64, u32),
}

use What::{Event, Message};

struct Clock {
    start: Moment,
    at: Duration,
}

impl Clock {
    fn new() -> Self {
        Clock {
            start: Moment {
                at: Instant::now(),
                time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000),
            },
            at: Duration::ZERO,
        }
    }

    fn now(&self) -> Moment {
        Moment {
            at: self.start.at + self.at,
            time: self.start.time + self.at,
        }
    }

    fn id(&self) -> u64 {
        MsgId::at(self.now().time).0
    }
}

/// A gate to which messages come that are `previous` milliseconds younger than those before them.
struct Rig {
    clock: Clock,
    gate: Gate<What>,
}

impl Rig {
    fn new() -> Self {
        let clock = Clock::new();
        Rig {
            gate: Gate::new(clock.now().at),
            clock,
        }
    }

    fn wait(&mut self, time: Duration) {
        self.clock.at += time;
    }

    fn arrive(&mut self, conversation: i64, seq: u32, age_of_previous: Duration) -> Vec<What> {
        let place = Place {
            conversation,
            seq,
            previous: MsgId::at(self.clock.now().time - age_of_previous).0,
        };
        let mut out = Vec::new();
        let what = Message(conversation, seq);
        self.gate.arrive(place, what, 1, self.clock.now(), &mut out);
        out
    }

    fn overdue(&mut self) -> Vec<(i64, u32)> {
        self.gate.overdue(self.clock.now().at, usize::MAX)
    }

    fn go_on(&mut self, conversation: i64, seq: u32) -> Vec<What> {
        let mut out = Vec::new();
        let now = self.clock.now().at;
        self.gate.go_on(conversation, seq, now, &mut out);
        out
    }
}

const LONG_AGO: Duration = Duration::from_secs(3600);
const JUST_NOW: Duration = Duration::from_millis(20);

#[test]
fn what_is_ahead_waits_for_what_comes_before_it() {
    let mut rig = Rig::new();
    assert_eq!(rig.arrive(1, 7, LONG_AGO), [Message(1, 7)]);
    assert!(rig.arrive(1, 9, JUST_NOW).is_empty());
    assert!(rig.arrive(1, 10, JUST_NOW).is_empty());
    // Others don't wait for it.
    assert_eq!(rig.arrive(2, 1, LONG_AGO), [Message(2, 1)]);
    let all = [Message(1, 8), Message(1, 9), Message(1, 10)];
    assert_eq!(rig.arrive(1, 8, JUST_NOW), all);
    assert!(rig.gate.is_idle());
    assert_eq!(rig.gate.next_due(), None);
    // Twice, or late.
    for seq in 7..=10 {
        assert!(rig.arrive(1, seq, LONG_AGO).is_empty());
    }
}

#[test]
fn readers_are_behind_when_it_does_not_come() {
    let mut rig = Rig::new();
    rig.arrive(1, 7, LONG_AGO);
    rig.arrive(1, 9, JUST_NOW);
    assert!(rig.overdue().is_empty());
    rig.wait(HOLD);
    assert_eq!(rig.overdue(), [(1, 9)]);
    assert!(rig.overdue().is_empty());
    // Who reads these is looked up later.
    rig.arrive(1, 10, JUST_NOW);
    rig.arrive(1, 12, JUST_NOW);
    rig.wait(HOLD);
    assert!(rig.overdue().is_empty());
    assert_eq!(rig.go_on(1, 9), [Message(1, 9), Message(1, 10)]);
    assert!(rig.go_on(1, 9).is_empty());
    assert!(rig.overdue().is_empty());
    rig.wait(HOLD);
    assert_eq!(rig.overdue(), [(1, 12)]);
    // It was only late.
    assert_eq!(
        rig.arrive(1, 11, JUST_NOW),
        [Message(1, 11), Message(1, 12)]
    );
    assert!(!rig.gate.is_awaited(1, 12));
    assert!(rig.gate.is_idle());
}

#[test]
fn an_event_comes_after_its_message() {
    let mut rig = Rig::new();
    let speak = |rig: &mut Rig, seq: u32, msg_id: u64| {
        let mut out = Vec::new();
        let (conversation, event) = (1, Event(1, seq));
        let about = Position {
            conversation,
            seq,
            msg_id,
        };
        rig.gate
            .speak_of(&about, event, 1, rig.clock.now(), &mut out);
        out
    };
    let long_ago = MsgId::at(rig.clock.now().time - LONG_AGO).0;
    let now = rig.clock.id();
    assert_eq!(speak(&mut rig, 3, long_ago), [Event(1, 3)]);
    assert!(speak(&mut rig, 5, now).is_empty());
    let both = [Message(1, 5), Event(1, 5)];
    assert_eq!(rig.arrive(1, 5, LONG_AGO), both);
    assert_eq!(speak(&mut rig, 5, now), [Event(1, 5)]);
    assert!(speak(&mut rig, 6, now).is_empty());
    // A message may be told after the database has said that it exists.
    rig.gate.exists(1, 6, rig.clock.now().at);
    rig.wait(HOLD);
    assert_eq!(rig.overdue(), [(1, 6)]);
    assert_eq!(rig.go_on(1, 6), [Event(1, 6)]);
}

#[test]
fn what_is_not_known_is_judged_by_what_came_before() {
    let mut rig = Rig::new();
    rig.gate.is_sure(rig.clock.now().at);
    assert!(rig.arrive(1, 5, JUST_NOW).is_empty());
    assert_eq!(rig.arrive(2, 5, MEMORY * 2), [Message(2, 5)]);
    // The one before has come, and is known to follow what is long gone.
    let both = [Message(1, 4), Message(1, 5)];
    assert_eq!(rig.arrive(1, 4, LONG_AGO), both);

    rig.gate.begin_after(3, 8, rig.clock.now().at);
    assert!(rig.arrive(3, 8, JUST_NOW).is_empty());
    assert_eq!(rig.arrive(3, 9, JUST_NOW), [Message(3, 9)]);

    // Others may not have been heard for long.
    rig.gate.doubt(rig.clock.now().at);
    assert_eq!(rig.arrive(4, 5, LONG_AGO), [Message(4, 5)]);
    rig.wait(DOUBT * 2);
    assert!(rig.arrive(5, 5, LONG_AGO).is_empty());
    rig.gate.is_sure(rig.clock.now().at);
    assert_eq!(rig.arrive(6, 5, LONG_AGO), [Message(6, 5)]);

    rig.wait(FORGET * 2);
    assert_eq!(rig.arrive(7, 1, LONG_AGO), [Message(7, 1)]);
    assert_eq!(rig.gate.passed.len(), 1);
}

#[test]
fn what_is_too_much_is_known_to_exist() {
    let mut rig = Rig::new();
    let now = rig.clock.now();
    rig.arrive(1, 1, LONG_AGO);
    for seq in [3, 4, 4] {
        let place = Place {
            conversation: 1,
            seq,
            previous: rig.clock.id(),
        };
        let (what, weight) = (Message(1, seq), HELD_BYTES_MAX / 2 + 1);
        rig.gate.arrive(place, what, weight, now, &mut Vec::new());
    }
    rig.wait(HOLD);
    assert_eq!(rig.overdue(), [(1, 4)]);
    assert_eq!(rig.go_on(1, 4), [Message(1, 3)]);
    assert_eq!(rig.gate.held_bytes, 0);
    assert_eq!(rig.arrive(1, 5, JUST_NOW), [Message(1, 5)]);
}

#[test]
fn what_only_exists_takes_no_room() {
    let mut rig = Rig::new();
    rig.arrive(1, 1, LONG_AGO);
    let now = rig.clock.now();
    let mut arrive = |seq: u32, weight: usize| {
        let place = Place {
            conversation: 1,
            seq,
            previous: rig.clock.id(),
        };
        let mut out = Vec::new();
        rig.gate
            .arrive(place, Message(1, seq), weight, now, &mut out);
        out
    };
    arrive(3, HELD_BYTES_MAX - ENTRY_BYTES);
    for seq in 4..=100 {
        arrive(seq, 1);
        arrive(seq, 1);
    }
    assert!(arrive(50, 1).is_empty());
    let known: Vec<u32> = rig.gate.waiting[&1].ahead.keys().copied().collect();
    assert_eq!(known, [3, 100]);
    rig.wait(HOLD);
    assert_eq!(rig.overdue(), [(1, 100)]);
    assert_eq!(rig.go_on(1, 100), [Message(1, 3)]);
    assert_eq!(rig.gate.held_bytes, 0);
    assert!(rig.gate.is_idle());
}

#[test]
fn what_finds_no_room_to_be_asked_for_is_due_later() {
    let mut rig = Rig::new();
    for conversation in 1..=3 {
        rig.arrive(conversation, 5, JUST_NOW);
    }
    rig.wait(HOLD);
    let now = rig.clock.now().at;
    assert!(rig.gate.overdue(now, 0).is_empty());
    assert_eq!(rig.gate.next_due(), Some(now + LATER));
    rig.wait(LATER);
    assert_eq!(rig.gate.overdue(rig.clock.now().at, 2), [(1, 5), (2, 5)]);
    assert!(!rig.gate.is_awaited(3, 5));
    // It comes after all.
    assert_eq!(rig.arrive(3, 4, LONG_AGO), [Message(3, 4), Message(3, 5)]);
    for conversation in 1..=2 {
        assert_eq!(rig.go_on(conversation, 5), [Message(conversation, 5)]);
    }
    assert!(rig.gate.is_idle());
    assert_eq!(rig.gate.next_due(), None);
}

/// What may happen in a cluster, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// A message is stored, and its notice is on its way; or an event about the newest is.
    Store(usize),
    Speak(usize),
    /// The notices on their way come in any order, twice, or not at all.
    Come(usize),
    ComeTwice(usize),
    Lose(usize),
    Wait(u64),
    /// Nothing happens for so many seconds, in which everybody does what is due.
    Rest(u64),
    /// The readers of an overdue conversation are put behind.
    PutBehind(usize),
    /// A session that is behind has caught up.
    GoLive(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..CONVERSATIONS).prop_map(Step::Store),
        1 => (0..CONVERSATIONS).prop_map(Step::Speak),
        8 => any::<usize>().prop_map(Step::Come),
        1 => any::<usize>().prop_map(Step::ComeTwice),
        1 => any::<usize>().prop_map(Step::Lose),
        2 => (1_u64..150).prop_map(Step::Wait),
        1 => (1_u64..100).prop_map(Step::Rest),
        2 => any::<usize>().prop_map(Step::PutBehind),
        2 => (0_usize..2).prop_map(Step::GoLive),
    ]
}

/// A session of a member of all conversations.
#[derive(Clone, Debug)]
enum Session {
    Behind,
    /// What it has got; and what it had when it went live, of which nothing is sent again.
    Live([u32; CONVERSATIONS], [u32; CONVERSATIONS]),
}

struct World {
    clock: Clock,
    gate: Gate<What>,
    /// The ids of each conversation's messages.
    stored: [Vec<u64>; CONVERSATIONS],
    under_way: Vec<What>,
    is_missing: bool,
    asked: Vec<(i64, u32)>,
    sessions: [Session; 2],
}

impl World {
    fn new() -> Self {
        let clock = Clock::new();
        World {
            gate: Gate::new(clock.now().at),
            clock,
            stored: Default::default(),
            under_way: Vec::new(),
            is_missing: false,
            asked: Vec::new(),
            sessions: [Session::Behind, Session::Behind],
        }
    }

    fn newest(&self) -> [u32; CONVERSATIONS] {
        std::array::from_fn(|index| self.stored[index].len() as u32)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Store(index) => {
                self.stored[index].push(self.clock.id());
                let seq = self.stored[index].len() as u32;
                self.under_way.push(Message(index as i64, seq));
            }
            Step::Speak(index) => {
                if let Some(seq) = Some(self.stored[index].len() as u32).filter(|seq| *seq > 0) {
                    self.under_way.push(Event(index as i64, seq));
                }
            }
            Step::Come(pick) => {
                if let Some(index) = pick.checked_rem(self.under_way.len()) {
                    let what = self.under_way.remove(index);
                    self.come(what);
                }
            }
            Step::ComeTwice(pick) => {
                if let Some(index) = pick.checked_rem(self.under_way.len()) {
                    self.come(self.under_way[index]);
                }
            }
            Step::Lose(pick) => {
                if let Some(index) = pick.checked_rem(self.under_way.len()) {
                    self.under_way.remove(index);
                    self.miss();
                }
            }
            Step::Wait(millis) => {
                self.clock.at += Duration::from_millis(millis);
                let overdue = self.gate.overdue(self.clock.now().at, usize::MAX);
                self.asked.extend(overdue);
            }
            Step::Rest(seconds) => {
                self.settle();
                self.clock.at += Duration::from_secs(seconds);
            }
            Step::PutBehind(pick) => {
                if let Some(index) = pick.checked_rem(self.asked.len()) {
                    let (conversation, seq) = self.asked.remove(index);
                    self.put_behind(conversation, seq);
                }
            }
            Step::GoLive(session) => {
                if matches!(self.sessions[session], Session::Behind) {
                    self.sessions[session] = Session::Live(self.newest(), self.newest());
                }
            }
        }
    }

    fn miss(&mut self) {
        self.is_missing = true;
        self.gate.doubt(self.clock.now().at);
    }

    /// What is told comes soon or never, and what is missed is looked for.
    fn settle(&mut self) {
        if !self.under_way.is_empty() {
            self.under_way.clear();
            self.miss();
        }
        self.clock.at += HOLD;
        if std::mem::take(&mut self.is_missing) {
            let now = self.clock.now();
            for (index, seq) in self.newest().into_iter().enumerate() {
                let newest = self.stored[index].last();
                if newest.is_some_and(|id| !now.is_past(*id)) {
                    self.gate.exists(index as i64, seq, now.at);
                }
            }
            self.gate.is_sure(now.at);
        }
        while !self.gate.is_idle() {
            self.clock.at += HOLD;
            let overdue = self.gate.overdue(self.clock.now().at, usize::MAX);
            self.asked.extend(overdue);
            for (conversation, seq) in std::mem::take(&mut self.asked) {
                self.put_behind(conversation, seq);
            }
        }
    }

    fn come(&mut self, what: What) {
        let (now, mut out) = (self.clock.now(), Vec::new());
        match what {
            Message(conversation, seq) => {
                let ids = &self.stored[conversation as usize];
                let place = Place {
                    conversation,
                    seq,
                    previous: *(seq as usize)
                        .checked_sub(2)
                        .and_then(|index| ids.get(index))
                        .unwrap_or(&0),
                };
                self.gate.arrive(place, what, 1, now, &mut out);
            }
            Event(conversation, seq) => {
                let msg_id = self.stored[conversation as usize][seq as usize - 1];
                let about = Position {
                    conversation: conversation.cast_unsigned(),
                    seq,
                    msg_id,
                };
                self.gate.speak_of(&about, what, 1, now, &mut out);
            }
        }
        self.deliver(&out);
    }

    fn put_behind(&mut self, conversation: i64, seq: u32) {
        if self.gate.is_awaited(conversation, seq) {
            self.sessions = [Session::Behind, Session::Behind];
            let (now, mut out) = (self.clock.now().at, Vec::new());
            self.gate.go_on(conversation, seq, now, &mut out);
            self.deliver(&out);
        }
    }

    fn deliver(&mut self, out: &[What]) {
        for what in out {
            for session in &mut self.sessions {
                let Session::Live(got, floor) = session else {
                    continue;
                };
                match *what {
                    Message(conversation, seq) if seq <= floor[conversation as usize] => {}
                    Message(conversation, seq) => {
                        let got = &mut got[conversation as usize];
                        assert_eq!(seq, *got + 1, "of {conversation}");
                        *got = seq;
                    }
                    Event(conversation, seq) => assert!(got[conversation as usize] >= seq),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, a session that is live gets each message once, in order, without a gap; and all in the end.
    #[test]
    fn no_message_is_missed_or_comes_twice(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.settle();
        let newest = world.newest();
        for session in &world.sessions {
            if let Session::Live(got, _) = session {
                prop_assert_eq!(*got, newest);
            }
        }
        prop_assert_eq!(world.gate.held_bytes, 0);
        prop_assert_eq!(world.gate.next_due(), None);
    }
}
