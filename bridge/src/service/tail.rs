//! What other nodes have stored and this one may not have heard of: found in the database.
//!
//! Two tasks, whose answers go to the pipeline, so that they take effect between its rounds. [`Tail`] looks for messages of the
//! last while where something may have been missed, and each second while Redis is away, or a node that has a lease is not
//! heard. [`Lookup`] finds who of those connected here reads a conversation of which something has not come in time.

use std::time::{Duration, SystemTime};

use schema::{MsgId, Uid, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::job::Delivery;
use super::outlet::{Found, Overdue, Readers, Recent};
use super::presence::Presence;
use crate::cluster::Bus;
use crate::store::{self, Store, conversations, messages, nodes};

/// How long ago a message may have been given its id, and be told only now: what a transaction may take, and what clocks
/// differ by.
const WINDOW: Duration = Duration::from_secs(45);
/// While not all can be heard: how often it is looked, and how far back from the last time.
const INTERVAL: Duration = Duration::from_secs(1);
const OVERLAP: Duration = Duration::from_secs(15);
/// Between two looks, however often something may have been missed, and before a question that failed is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often clients are told at most that events may have been lost, since each then asks; and how often while not all can
/// be heard.
const OUTDATED_MISSED: Duration = Duration::from_secs(10);
const OUTDATED_DEAF: Duration = Duration::from_secs(30);
/// Users of one such event.
const TOLD_AT_ONCE: usize = 1000;
/// Conversations looked up at once.
const LOOKUPS: usize = 256;

/// See the module's documentation.
pub(super) struct Tail {
    pub(super) store: Store,
    pub(super) bus: Bus,
    pub(super) presence: Presence,
    /// Something may have been missed.
    pub(super) missed: std::sync::Arc<tokio::sync::Notify>,
    pub(super) found: mpsc::Sender<Found>,
}

/// Why the database is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Missed,
    /// Nobody is heard.
    Deaf,
    /// It has only to be asked where somebody is not heard.
    Routine,
}

impl Tail {
    /// What was stored within [`WINDOW`].
    pub(super) async fn begin(store: &Store) -> Result<Recent, store::Error> {
        recent(store, WINDOW).await
    }

    /// Looks until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.look_on()).await;
    }

    async fn look_on(self) {
        let Some(mut is_up) = self.bus.is_up() else {
            return;
        };
        let mut looked_at = Instant::now();
        let mut outdated = Outdated::default();
        loop {
            let was_up = *is_up.borrow_and_update();
            let pause = if outdated.is_telling() {
                PAUSE
            } else {
                INTERVAL
            };
            let reason = tokio::select! {
                () = self.missed.notified() => Reason::Missed,
                changed = is_up.changed() => match changed {
                    Ok(()) if *is_up.borrow() => Reason::Missed,
                    Ok(()) => Reason::Deaf,
                    Err(_) => return,
                },
                () = sleep(pause) => if was_up { Reason::Routine } else { Reason::Deaf },
            };
            let span = match reason {
                Reason::Missed => WINDOW,
                Reason::Deaf | Reason::Routine => (looked_at.elapsed() + OVERLAP).min(WINDOW),
            };
            let recent = self.look(reason, span).await.unwrap_or_else(|error| {
                // The pipeline warns of it, once for everybody.
                debug!(error = %store::chain(&error), "what others have stored can't be read");
                // Else it is looked within a second anyway.
                if reason == Reason::Missed {
                    self.missed.notify_one();
                }
                None
            });
            let mut found = Vec::new();
            if let Some(recent) = recent {
                debug!(
                    ?span,
                    conversations = recent.newest.len(),
                    "looked for what was not heard"
                );
                looked_at = recent.asked_at;
                outdated.note(reason);
                found.push(Found::Recent(recent));
            }
            found.extend(outdated.tell(&self.presence).map(Found::Event));
            for found in found {
                if self.found.send(found).await.is_err() {
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// `None`: there was no need.
    async fn look(&self, reason: Reason, span: Duration) -> Result<Option<Recent>, store::Error> {
        if reason == Reason::Routine && !self.is_somebody_unheard().await? {
            return Ok(None);
        }
        recent(&self.store, span).await.map(Some)
    }

    /// Whether a node may store messages and can't tell.
    async fn is_somebody_unheard(&self) -> Result<bool, store::Error> {
        let own = self.bus.node();
        let nodes = nodes::list(self.store.reader()).await?;
        let is_unheard = |node: &nodes::Listed| {
            node.is_alive && node.number != own && !self.bus.hears(node.number)
        };
        Ok(nodes.iter().any(is_unheard))
    }
}

async fn recent(store: &Store, span: Duration) -> Result<Recent, store::Error> {
    let asked_at = Instant::now();
    let since = SystemTime::now().checked_sub(span);
    let since = since.map_or(MsgId(0), MsgId::at);
    let newest = messages::newest_since(store.reader(), since).await?;
    Ok(Recent { newest, asked_at })
}

/// Tells those who are connected here that events may have been lost: now and then, and not all at once, since each of them
/// asks then.
#[derive(Default)]
struct Outdated {
    due_at: Option<Instant>,
    told_at: Option<Instant>,
    rest: Vec<Uid>,
}

impl Outdated {
    /// Events may have been lost.
    fn note(&mut self, reason: Reason) {
        let now = Instant::now();
        let due_at = match reason {
            // What was lost is lost by now.
            Reason::Missed => self.told_at.map_or(now, |at| now.max(at + OUTDATED_MISSED)),
            Reason::Deaf | Reason::Routine => now + OUTDATED_DEAF,
        };
        self.due_at = Some(self.due_at.map_or(due_at, |at| at.min(due_at)));
    }

    fn is_telling(&self) -> bool {
        !self.rest.is_empty()
    }

    /// What some of them are told now.
    fn tell(&mut self, presence: &Presence) -> Option<Delivery> {
        let now = Instant::now();
        if self.rest.is_empty() && self.due_at.take_if(|at| *at <= now).is_some() {
            self.told_at = Some(now);
            self.rest = presence.users_here();
        }
        let rest = self.rest.len().saturating_sub(TOLD_AT_ONCE);
        let told = self.rest.split_off(rest);
        let event = v1::event::Event::Outdated(v1::Outdated {});
        (!told.is_empty()).then(|| Delivery::event(event, &told, 0))
    }
}

/// See the module's documentation.
pub(super) struct Lookup {
    pub(super) store: Store,
    pub(super) presence: Presence,
    pub(super) overdue: mpsc::Receiver<Overdue>,
    pub(super) found: mpsc::Sender<Found>,
}

impl Lookup {
    /// Looks up until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.look_up()).await;
    }

    async fn look_up(mut self) {
        let mut asked = Vec::new();
        while self.overdue.recv_many(&mut asked, LOOKUPS).await > 0 {
            let ids: Vec<i64> = asked.iter().map(|overdue| overdue.conversation).collect();
            let members = loop {
                match conversations::members(self.store.reader(), &ids).await {
                    Ok(members) => break members,
                    Err(error) => {
                        debug!(error = %store::chain(&error), "who is behind can't be looked up");
                        sleep(PAUSE).await;
                    }
                }
            };
            for overdue in asked.drain(..) {
                // A conversation may be asked for twice, when its gap has closed and another one has opened.
                let uids = members.get(&overdue.conversation).cloned();
                let mut uids = uids.unwrap_or_default();
                self.presence.retain_here(&mut uids);
                debug!(?overdue, users = uids.len(), "users are behind");
                let readers = Found::Readers(Readers { overdue, uids });
                if self.found.send(readers).await.is_err() {
                    return;
                }
            }
        }
    }
}
