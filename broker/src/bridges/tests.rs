//! Sessions and bridges without links: who is told what while bridges come and go.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use schema::link::Uplink;

use super::*;
use crate::outbox::Outbox;
use crate::peer::Door;
use crate::registry::{Newcomer, Registry};

/// What the edge has.
struct Edge {
    bridges: Arc<Bridges>,
    registry: Registry,
}

impl Edge {
    fn new() -> Self {
        let bridges = Arc::new(Bridges::new());
        Edge {
            registry: Registry::new(bridges.clone(), 0),
            bridges,
        }
    }

    /// One more bridge, which has briefed the edge if it is the first.
    fn join(&self) -> Arc<Uplinks> {
        let bridge = self.bridges.one_more(Arc::default());
        self.bridges.come(bridge.clone(), &self.registry);
        self.bridges.briefed(&self.registry);
        bridge
    }

    fn enter(&self, uid: &str) -> Arc<Handle> {
        let who = Newcomer {
            uid: uid.parse().unwrap(),
            device: "phone".into(),
            is_nameless: false,
            is_clean: false,
            login: None,
            password_set_at: None,
            is_admin: false,
            address: Ipv4Addr::LOCALHOST.into(),
            door: Door::Mqtt,
        };
        self.registry.add(who, Outbox::new(1000, false)).0
    }

    fn say(&self, handle: &Handle, token: u32) {
        let uplink = from_edge::Item::Uplink(Uplink {
            session: handle.id,
            token,
            uid: handle.uid.to_string(),
            ..Uplink::default()
        });
        let mut items = vec![FromEdge { item: Some(uplink) }];
        self.bridges.tell(handle, &mut items);
    }
}

/// Tokens of the publishes that wait for a bridge.
fn publishes(bridge: &Uplinks) -> Vec<u32> {
    let items = bridge.take().into_iter().filter_map(|item| item.item);
    let tokens = items.filter_map(|item| match item {
        from_edge::Item::Uplink(uplink) => Some(uplink.token),
        _ => None,
    });
    tokens.collect()
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_the_last_one_that_leaves() {
    for (is_answered, comes_first) in [(true, true), (false, true), (false, false)] {
        let edge = Edge::new();
        let old = edge.join();
        let alice = edge.enter("alice");
        edge.say(&alice, 1);
        edge.bridges.leaves(&old, &edge.registry);
        edge.say(&alice, 2);
        let mut new = None;
        if comes_first {
            let new = new.insert(edge.join());
            // What the old one has may be executed still.
            assert!(publishes(new).is_empty() && alice.bridge.is_moving());
            let mut misplaced = edge.bridges.misplaced(&edge.registry.read());
            assert_eq!(misplaced.len(), 1);
            edge.bridges.move_some(&edge.registry, &mut misplaced).await;
            assert!(publishes(new).is_empty() && misplaced.len() == 1);
            if is_answered {
                alice.bridge.answered_by(&old);
                edge.bridges.move_some(&edge.registry, &mut misplaced).await;
                assert_eq!(publishes(new), [2]);
                // It is done.
                assert_eq!(publishes(&old), [1]);
                assert!(edge.bridges.has_left(&old, &edge.registry));
            }
        }
        edge.bridges.gone(&old, &edge.registry);
        let new = new.unwrap_or_else(|| edge.join());
        let rest: &[u32] = if is_answered { &[] } else { &[1, 2] };
        assert_eq!(publishes(&new), rest);
        assert!(alice.bridge.is_of(&new));
        assert_eq!(edge.bridges.waiting.lock().bytes(), 0);
        edge.say(&alice, 3);
        assert_eq!(publishes(&new), [3]);
    }
}

#[test]
fn who_comes_while_the_last_one_leaves_waits_for_the_next() {
    let edge = Edge::new();
    let old = edge.join();
    edge.bridges.leaves(&old, &edge.registry);
    let alice = edge.enter("alice");
    edge.say(&alice, 1);
    assert!(publishes(&old).is_empty() && alice.bridge.is_free());
    assert!(edge.bridges.has_left(&old, &edge.registry));
    // Who she is it can still tell.
    let asked = edge.bridges.choose_other("alice", &[]);
    assert_eq!(asked.map(|bridge| bridge.number), Some(old.number));
    let new = edge.join();
    assert_eq!(publishes(&new), [1]);
    let asked = edge.bridges.choose_other("alice", &[]);
    assert_eq!(asked.map(|bridge| bridge.number), Some(new.number));
}

#[test]
fn a_session_that_moves_is_nobody_elses() {
    let edge = Edge::new();
    let old = edge.join();
    let handles: Vec<_> = (0..32).map(|n| edge.enter(&format!("u{n}"))).collect();
    edge.join();
    let mut misplaced = edge.bridges.misplaced(&edge.registry.read());
    let moving = edge
        .bridges
        .release_some(&edge.registry.write(), &mut misplaced);
    assert!(!moving.is_empty() && misplaced.is_empty());
    // One more comes, and serves all that it may have.
    let third = edge.join();
    assert!(!handles.iter().any(|handle| handle.bridge.is_of(&third)));
    let away = handles.iter().filter(|handle| handle.bridge.is_moving());
    assert_eq!(away.count(), moving.len());
    // The old one is gone before it has heard of it.
    edge.bridges.gone(&old, &edge.registry);
    assert!(handles.iter().all(|handle| handle.bridge.get().is_some()));
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_a_session_that_moves_moves_too() {
    let edge = Edge::new();
    let old = edge.join();
    let alice = edge.enter("alice");
    edge.say(&alice, 1);
    edge.bridges.leaves(&old, &edge.registry);
    let new = edge.join();
    let again = edge.enter("alice");
    edge.say(&again, 2);
    // Others move.
    let mut nobody = VecDeque::new();
    edge.bridges.move_some(&edge.registry, &mut nobody).await;
    assert!(again.bridge.is_moving_from(&old) && publishes(&new).is_empty());
    edge.bridges.gone(&old, &edge.registry);
    assert_eq!(publishes(&new), [2]);
}
