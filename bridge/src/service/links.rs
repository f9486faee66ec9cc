//! The links to edges: one for as long as the process runs, or one after the other.
//!
//! With each new one the edge's sessions are new ones to the service, whatever it knew before; what it still says of earlier
//! ones the edge ignores. Beside what the pipeline announces there is what concerns no conversation ([`Asides`]): who clients
//! are, and who is to leave.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use broker::link::BridgeLink;
use broker::{Authenticate, Credentials, Identity};
use parking_lot::Mutex;
use schema::Uid;
use schema::link::{self, Connected, Kick, ToEdge, authenticated, kick, to_edge};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::clock;
use crate::store;

/// How long ago a kick may have been said that a link has not brought to its end: longer than a link is silent before it ends.
const UNHEARD_MAX: Duration = Duration::from_secs(10);
/// Kicks that are kept for the next link.
const KICKS_MAX: usize = 16 * 1024;
/// Sessions that were handed over and are looked up at once.
const RECHECKED_AT_ONCE: usize = 500;
/// How long to wait where the database can't answer.
const RECHECK_PAUSE: Duration = Duration::from_secs(1);

/// Where links come from.
pub struct Links {
    pub(super) next: mpsc::Receiver<BridgeLink>,
    /// Without it the service can't go on.
    pub(super) is_only: bool,
    pub(super) asides: Asides,
    /// Who knows clients, for an edge that asks.
    pub(super) accounts: Option<Arc<dyn Doorkeeper>>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Links");
        shown
            .field("is_only", &self.is_only)
            .finish_non_exhaustive()
    }
}

/// The only one.
impl From<BridgeLink> for Links {
    fn from(link: BridgeLink) -> Self {
        let (links, next) = mpsc::channel(1);
        // There is room for one.
        let _ = links.try_send(link);
        Links {
            next,
            is_only: true,
            asides: Asides::default(),
            accounts: None,
        }
    }
}

impl Links {
    /// One after the other, to an edge that asks who clients are.
    #[must_use]
    pub fn several(
        next: mpsc::Receiver<BridgeLink>,
        asides: Asides,
        accounts: Arc<dyn Doorkeeper>,
    ) -> Self {
        Links {
            next,
            is_only: false,
            asides,
            accounts: Some(accounts),
        }
    }
}

/// Who knows clients, for an edge that asks.
pub trait Doorkeeper: Authenticate {
    /// Which of these may no longer be where they are, as the database says: whose account was deleted, or who have another
    /// password than the one that has let them in.
    fn ended<'a>(&'a self, identities: &'a [Identity]) -> Ended<'a>;
}

/// What comes of [`Doorkeeper::ended`], in the order of the identities.
pub type Ended<'a> = Pin<Box<dyn Future<Output = Result<Vec<bool>, store::Error>> + Send + 'a>>;

/// What the edge is told beside announcements: by the link that there is, and else by nobody. Only kicks are kept for the next
/// one: those that are said while there is none, and those that the last one may have taken along. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Asides(Arc<State>);

#[derive(Debug, Default)]
struct State {
    said: Mutex<Said>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Said {
    /// The number of the link that there is; 0: none.
    link: u64,
    /// For that link.
    items: Vec<ToEdge>,
    /// What the next one is told again.
    kicks: VecDeque<Kept>,
}

#[derive(Debug)]
struct Kept {
    kick: Kick,
    decided_at: Instant,
    said_at: Instant,
}

impl Asides {
    /// Ends sessions of a user: all, or those of a login or a device.
    pub fn kick(&self, uid: &Uid, which: Option<kick::Which>) {
        self.keep_kick(Kick {
            uid: uid.to_string(),
            which,
            age_ms: 0,
        });
    }

    fn keep_kick(&self, kick: Kick) {
        let now = Instant::now();
        let age = Duration::from_millis(kick.age_ms);
        let mut said = self.0.said.lock();
        said.kicks.push_back(Kept {
            kick: kick.clone(),
            decided_at: now.checked_sub(age).unwrap_or(now),
            said_at: now,
        });
        said.forget_kicks();
        drop(said);
        self.say(to_edge::Item::Kick(kick));
    }

    /// Ends a device's session that was there so long ago already.
    fn kick_old(&self, uid: &Uid, device: String, since: Instant) {
        self.keep_kick(Kick {
            uid: uid.to_string(),
            which: Some(kick::Which::Device(device)),
            age_ms: age_ms(since.elapsed()),
        });
    }

    /// Asks the edge to give all sessions to other bridges.
    pub fn leave(&self) {
        self.say(to_edge::Item::Leave(link::Leave {}));
    }

    fn say(&self, item: to_edge::Item) {
        let mut said = self.0.said.lock();
        if said.link != 0 {
            said.items.push(ToEdge { item: Some(item) });
            self.0.filled.notify_one();
        }
    }

    /// There is another link, of that number.
    pub(super) fn begin(&self, link: u64) {
        let mut said = self.0.said.lock();
        said.link = link;
        let now = Instant::now();
        let mut items = Vec::new();
        for kept in &mut said.kicks {
            // Not heard before this link hears it.
            kept.said_at = now;
            items.push(ToEdge {
                item: Some(to_edge::Item::Kick(Kick {
                    age_ms: age_ms(kept.decided_at.elapsed()),
                    ..kept.kick.clone()
                })),
            });
        }
        said.items = items;
        self.0.filled.notify_one();
    }

    /// The link has ended.
    pub(super) fn end(&self) {
        let mut said = self.0.said.lock();
        said.forget_kicks();
        said.link = 0;
        said.items = Vec::new();
    }

    /// Returns when something was said since the last call.
    pub(super) async fn filled(&self) {
        self.0.filled.notified().await;
    }

    /// What is for that link.
    pub(super) fn take(&self, link: u64) -> Vec<ToEdge> {
        let mut said = self.0.said.lock();
        match said.link == link {
            true => std::mem::take(&mut said.items),
            false => Vec::new(),
        }
    }
}

impl Said {
    /// Forgets what has been heard for sure, and the oldest ones where they are too many.
    fn forget_kicks(&mut self) {
        let (is_linked, now) = (self.link != 0, Instant::now());
        while let Some(Kept { said_at, .. }) = self.kicks.front()
            && (is_linked && now.duration_since(*said_at) > UNHEARD_MAX
                || self.kicks.len() > KICKS_MAX)
        {
            self.kicks.pop_front();
        }
    }
}

/// Of what was decided before: never 0, which says that it was decided now.
fn age_ms(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Answers an edge that asks who a client is.
pub(super) async fn authenticate(
    asked: link::Authenticate,
    accounts: Arc<dyn Doorkeeper>,
    asides: Asides,
) {
    let certified: Option<Result<Uid, _>> = asked.certified.as_deref().map(str::parse);
    let outcome = match certified.transpose() {
        Ok(certified) => {
            let credentials = Credentials {
                username: asked.username.as_deref(),
                password: asked.password.as_deref(),
                certified: certified.as_ref(),
                address: asked.address.parse().unwrap_or(UNKNOWN),
            };
            accounts.authenticate(credentials).await
        }
        Err(_) => Err(broker::Refusal::BadCredentials),
    };
    let outcome = match outcome {
        // A password takes a while to be checked. What is ended from now on the edge hears after this.
        Ok(identity) if accounts.is_revoked(&identity) => Err(broker::Refusal::BadCredentials),
        outcome => outcome,
    };
    let outcome = match outcome {
        Ok(identity) => authenticated::Outcome::Identity(known(&identity)),
        Err(refusal) => authenticated::Outcome::Refusal(refused(refusal).into()),
    };
    asides.say(to_edge::Item::Authenticated(link::Authenticated {
        request: asked.request,
        outcome: Some(outcome),
    }));
}

/// All clients whose address the edge does not know have the same.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn known(identity: &Identity) -> link::Identity {
    link::Identity {
        uid: identity.uid.to_string(),
        login: identity.login.clone().unwrap_or_default(),
        password_set_at: identity.password_set_at.map_or(0, millis),
        expires_at: identity.expires_at.map_or(0, millis),
        admin: identity.is_admin,
    }
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(clock::millis(time)).unwrap_or_default()
}

fn refused(refusal: broker::Refusal) -> link::Refusal {
    match refusal {
        broker::Refusal::BadCredentials => link::Refusal::BadCredentials,
        broker::Refusal::TooManyFailures => link::Refusal::TooManyFailures,
        broker::Refusal::Unavailable => link::Refusal::Unavailable,
    }
}

/// What has let in a session that was handed over, and its device. `None`: it is nobody's in particular.
pub(super) fn handed_over(connected: &Connected) -> Option<(Identity, String)> {
    let uid = connected.uid.parse::<Uid>().ok()?;
    if uid.is_anonymous() {
        return None;
    }
    let set_at = connected.password_set_at;
    let identity = Identity {
        uid,
        login: Some(connected.login.clone()).filter(|login| !login.is_empty()),
        password_set_at: (set_at > 0)
            .then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(set_at)),
        expires_at: None,
        is_admin: false,
        as_of: 0,
    };
    Some((identity, connected.device.clone()))
}

/// Ends those of the sessions that were handed over whose right to be there was ended while nobody could tell the edge. What
/// is known here takes effect at once, and what only the database knows as soon as it can be read.
pub(super) async fn recheck(
    mut handed_over: Vec<(Identity, String)>,
    accounts: Arc<dyn Doorkeeper>,
    asides: Asides,
    turns: Arc<Semaphore>,
) {
    // Whoever has come since then was asked for.
    let since = Instant::now();
    let end = |(identity, device): &(Identity, String)| {
        asides.kick_old(&identity.uid, device.clone(), since);
    };
    handed_over.retain(|session| {
        let is_revoked = accounts.is_revoked(&session.0);
        if is_revoked {
            end(session);
        }
        !is_revoked
    });
    // It is never closed.
    let _turn = turns.acquire().await;
    for some in handed_over.chunks(RECHECKED_AT_ONCE) {
        let identities: Vec<Identity> = some.iter().map(|(identity, _)| identity.clone()).collect();
        let ended = loop {
            match accounts.ended(&identities).await {
                Ok(ended) => break ended,
                Err(error) => {
                    debug!(error = %store::chain(&error), "who was handed over can't be looked up");
                    sleep(RECHECK_PAUSE).await;
                }
            }
        };
        let ended = some.iter().zip(ended).filter(|(_, is_ended)| *is_ended);
        ended.for_each(|(session, _)| end(session));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(asides: &Asides, link: u64) -> Vec<String> {
        let items = asides.take(link).into_iter().filter_map(|item| item.item);
        let names = items.map(|item| match item {
            to_edge::Item::Kick(kick) => kick.uid,
            to_edge::Item::Leave(_) => "leave".to_owned(),
            other => panic!("{other:?}"),
        });
        names.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn kicks_are_kept_for_the_next_link() {
        let (asides, alice, bob) = (Asides::default(), "alice", "bob");
        let kick = |uid: &str| asides.kick(&uid.parse().unwrap(), None);
        kick(alice);
        asides.leave();
        tokio::time::advance(2 * UNHEARD_MAX).await;
        asides.begin(1);
        let again = asides.take(1).pop().and_then(|item| item.item);
        // Who has come since then stays.
        let age_ms = age_ms(2 * UNHEARD_MAX);
        let uid = alice.to_owned();
        let which = None;
        let old = to_edge::Item::Kick(Kick { uid, which, age_ms });
        assert_eq!(again, Some(old));
        asides.leave();
        kick(bob);
        // What was for one link is not said on another.
        assert!(said(&asides, 2).is_empty());
        asides.end();
        asides.begin(2);
        assert_eq!(said(&asides, 2), [alice, bob]);
        asides.leave();
        assert_eq!(said(&asides, 2), ["leave"]);
        // Heard for sure.
        tokio::time::advance(2 * UNHEARD_MAX).await;
        asides.end();
        kick(alice);
        asides.begin(3);
        assert_eq!(said(&asides, 3), [alice]);
        for _ in 0..=KICKS_MAX {
            kick(bob);
        }
        asides.end();
        asides.begin(4);
        assert_eq!(said(&asides, 4).len(), KICKS_MAX);
    }
}
