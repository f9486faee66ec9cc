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
    let (mut appearances, start) = (Appearances::new(PACE, 0), Instant::now());
    let mut told = Vec::new();
    for millis in 0..30_000 {
        let at = start + Duration::from_millis(millis);
        if millis < 10_000 && millis % 500 == 0 {
            let is_there = millis % 1000 == 0;
            appearances.set(
                &bob(),
                if is_there { Online } else { Offline },
                Place::Here,
                at,
            );
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
    let (mut appearances, start) = (Appearances::new(PACE, 0), Instant::now());
    let mut told = Vec::new();
    for millis in 0..12_000 {
        let at = start + Duration::from_millis(millis);
        if millis <= 7_000 && millis % 1000 == 0 {
            let is_away = millis % 2000 != 0;
            appearances.set(&bob(), if is_away { Away } else { Online }, Place::Here, at);
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
    let (mut appearances, start) = (Appearances::new(PACE, 0), Instant::now());
    let at = |secs: u64| start + Duration::from_secs(secs);
    assert_eq!(appearances.ask(&bob(), at(0)), Offline);
    appearances.set(&bob(), Online, Place::Here, at(0));
    assert_eq!(appearances.ask(&bob(), at(0)), Online);
    assert_eq!(appearances.take(at(0)), Some(change(Online, None)));
    appearances.set(&bob(), Offline, Place::Here, at(10));
    assert_eq!(appearances.ask(&bob(), at(14)), Online, "it may come back");
    appearances.set(&bob(), Online, Place::Here, at(14));
    assert_eq!(appearances.take(at(20)), None);
    appearances.set(&bob(), Away, Place::Here, at(20));
    assert_eq!(appearances.take(at(20)), Some(change(Away, Some(Online))));
    appearances.set(&bob(), Online, Place::Here, at(21));
    assert_eq!(appearances.ask(&bob(), at(21)), Online);
    appearances.set(&bob(), Away, Place::Here, at(22));
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
    let (mut appearances, start) = (Appearances::new(PACE, 0), Instant::now());
    let at = |secs: u64| start + Duration::from_secs(secs);
    let restyled = |now, before| Change {
        is_restyled: true,
        ..change(now, before)
    };
    appearances.set(&bob(), Online, Place::Here, at(0));
    assert!(appearances.take(at(0)).is_some());
    appearances.restyle(&bob(), Place::Here, at(5));
    let expected = restyled(Online, Some(Online));
    assert_eq!(appearances.take(at(5)), Some(expected));
    appearances.hide(&bob(), at(5));
    assert_eq!(appearances.take(at(50)), None);
    appearances.set(&bob(), Away, Place::Here, at(50));
    assert_eq!(appearances.take(at(50)), Some(change(Away, Some(Offline))));
    appearances.hide(&bob(), at(50));
    appearances.restyle(&bob(), Place::Here, at(60));
    let expected = restyled(Away, Some(Offline));
    assert_eq!(appearances.take(at(60)), Some(expected));
    appearances.set(&bob(), Offline, Place::Here, at(70));
    assert!(appearances.take(at(74)).is_none());
    assert!(appearances.take(at(75)).is_some());
    assert!(appearances.take(at(78)).is_none());
    assert!(appearances.entries.is_empty());
    // What one who is away says is told, and leaves nothing behind.
    appearances.restyle(&bob(), Place::Here, at(100));
    let expected = restyled(Offline, Some(Offline));
    assert_eq!(appearances.take(at(100)), Some(expected));
    assert_eq!(appearances.take(at(103)), None);
    assert!(appearances.entries.is_empty() && appearances.due.is_empty());
}

/// Nodes that hear what each other does, and tell.
struct Cluster {
    start: Instant,
    nodes: Vec<Option<Appearances>>,
    /// By which node, and when.
    told: Vec<(usize, u64, Appearance)>,
}

impl Cluster {
    fn of(count: u32) -> Self {
        let node = |own: u32| {
            let mut appearances = Appearances::new(PACE, own);
            for other in (0..count).filter(|other| *other != own) {
                appearances.meet(other);
            }
            Some(appearances)
        };
        Cluster {
            start: Instant::now(),
            nodes: (0..count).map(node).collect(),
            told: Vec::new(),
        }
    }

    /// Bob's sessions at `node` change how he appears, as all or only some of them hear.
    fn set(&mut self, node: u32, secs: u64, appearance: Appearance, hear: &[usize]) {
        let at = self.start + Duration::from_secs(secs);
        for (number, appearances) in self.nodes.iter_mut().enumerate() {
            let is_here = number == node as usize;
            let place = if is_here {
                Place::Here
            } else {
                Place::Node(node)
            };
            if let Some(appearances) = appearances
                && (is_here || hear.contains(&number))
            {
                appearances.set(&bob(), appearance, place, at);
            }
        }
    }

    /// Each tells what is due by then, in steps of a second.
    fn pass(&mut self, from: u64, to: u64) {
        for secs in from..=to {
            let at = self.start + Duration::from_secs(secs);
            for teller in 0..self.nodes.len() {
                let mut taken = Vec::new();
                if let Some(appearances) = &mut self.nodes[teller] {
                    taken.extend(std::iter::from_fn(|| appearances.take(at)));
                }
                for change in taken {
                    self.told.push((teller, secs, change.now));
                    let others = self.nodes.iter_mut().enumerate();
                    for (number, appearances) in others {
                        if let Some(appearances) = appearances
                            && number != teller
                        {
                            appearances.told(&change.uid, change.now, false, at);
                        }
                    }
                }
            }
        }
    }

    fn kill(&mut self, node: u32, secs: u64) {
        self.nodes[node as usize] = None;
        let at = self.start + Duration::from_secs(secs);
        for appearances in self.nodes.iter_mut().flatten() {
            appearances.set(&bob(), Appearance::Offline, Place::Node(node), at);
            appearances.part(node);
        }
    }

    fn is_at_rest(&self) -> bool {
        let mut nodes = self.nodes.iter().flatten();
        nodes.all(|node| node.due.is_empty())
    }
}

/// One node tells of each change, and none of a move from one to another.
#[test]
fn one_of_several_nodes_tells() {
    use Appearance::{Away, Offline, Online};
    const ALL: [usize; 3] = [0, 1, 2];
    let mut cluster = Cluster::of(3);
    cluster.set(1, 0, Online, &ALL);
    cluster.pass(0, 9);
    cluster.set(1, 10, Offline, &ALL);
    cluster.pass(10, 13);
    cluster.set(2, 14, Online, &ALL);
    cluster.pass(14, 29);
    assert_eq!(cluster.told, [(1, 0, Online)]);
    cluster.set(2, 30, Away, &ALL);
    cluster.pass(30, 39);
    cluster.set(2, 40, Offline, &ALL);
    cluster.pass(40, 60);
    assert_eq!(cluster.told[1..], [(2, 30, Away), (2, 45, Offline)]);
    assert!(
        cluster
            .nodes
            .iter()
            .flatten()
            .all(|node| node.entries.is_empty())
    );
}

/// Of what a node leaves untold that is gone, the one with the lowest number tells, and at once.
#[test]
fn the_first_node_tells_for_one_that_is_gone() {
    use Appearance::{Offline, Online};
    let mut cluster = Cluster::of(3);
    cluster.set(0, 0, Online, &[1, 2]);
    cluster.pass(0, 9);
    cluster.kill(0, 10);
    cluster.pass(10, 40);
    assert_eq!(cluster.told, [(0, 0, Online), (1, 15, Offline)]);
    assert!(cluster.is_at_rest());
}

/// What the node where it happened does not tell, because it has missed something, is told later by another one. What is
/// heard late, when it was told otherwise, is told again by the node where it happened.
#[test]
fn nothing_stays_untold() {
    use Appearance::{Offline, Online};
    let mut cluster = Cluster::of(3);
    cluster.set(0, 0, Online, &[1, 2]);
    cluster.pass(0, 9);
    // Two devices leave two nodes at the same time, each of which hears of the other's last.
    cluster.set(0, 10, Offline, &[1]);
    let at = cluster.start + Duration::from_secs(10);
    for (node, there) in [(0, 1), (2, 0)] {
        let appearances = cluster.nodes[node].as_mut().unwrap();
        appearances.set(&bob(), Online, Place::Node(there), at);
        appearances.set(&bob(), Offline, Place::Node(there), at);
    }
    cluster.pass(10, 40);
    assert_eq!(cluster.told[1..], [(0, 18, Offline)]);

    cluster.told.clear();
    cluster.set(1, 50, Online, &[0, 2]);
    cluster.pass(50, 59);
    cluster.set(1, 60, Offline, &[0, 2]);
    cluster.pass(60, 64);
    cluster.set(2, 65, Online, &[]);
    cluster.pass(65, 66);
    cluster.set(2, 67, Online, &[0, 1]);
    for node in [0, 1] {
        let at = cluster.start + Duration::from_secs(67);
        let appearances = cluster.nodes[node].as_mut().unwrap();
        appearances.set(&bob(), Online, Place::Node(2), at);
    }
    cluster.pass(67, 90);
    let expected = [(1, 50, Online), (1, 65, Offline), (2, 68, Online)];
    assert_eq!(cluster.told, expected);
    assert!(cluster.is_at_rest());
}
