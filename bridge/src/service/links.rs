//! The links to edges: one for as long as the process runs, or one after the other.
//!
//! With each new one the edge's sessions are new ones to the service, whatever it knew before; what it still says of earlier
//! ones the edge ignores. Beside what the pipeline announces there is what concerns no conversation ([`Asides`]): who clients
//! are, and who is to leave.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use broker::link::BridgeLink;
use broker::{Authenticate, Credentials, Identity};
use parking_lot::Mutex;
use schema::Uid;
use schema::link::{self, Connected, Kick, ToEdge, authenticated, kick, to_edge};
use tokio::sync::{Notify, mpsc};

use crate::clock;

/// Where links come from.
pub struct Links {
    pub(super) next: mpsc::Receiver<BridgeLink>,
    /// Without it the service can't go on.
    pub(super) is_only: bool,
    pub(super) asides: Asides,
    /// Who knows clients, for an edge that asks.
    pub(super) accounts: Option<Arc<dyn Authenticate>>,
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
        accounts: Arc<dyn Authenticate>,
    ) -> Self {
        Links {
            next,
            is_only: false,
            asides,
            accounts: Some(accounts),
        }
    }
}

/// What the edge is told beside announcements. What is said while there is no link is heard by nobody. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Asides(Arc<State>);

#[derive(Debug, Default)]
struct State {
    items: Mutex<Vec<ToEdge>>,
    filled: Notify,
}

impl Asides {
    /// Ends sessions of a user: all, or those of a login or a device.
    pub fn kick(&self, uid: &Uid, which: Option<kick::Which>) {
        self.say(to_edge::Item::Kick(Kick {
            uid: uid.to_string(),
            which,
        }));
    }

    /// Asks the edge to give all sessions to other bridges.
    pub fn leave(&self) {
        self.say(to_edge::Item::Leave(link::Leave {}));
    }

    fn say(&self, item: to_edge::Item) {
        self.0.items.lock().push(ToEdge { item: Some(item) });
        self.0.filled.notify_one();
    }

    /// Returns when something was said since the last call.
    pub(super) async fn filled(&self) {
        self.0.filled.notified().await;
    }

    pub(super) fn take(&self) -> Vec<ToEdge> {
        std::mem::take(&mut *self.0.items.lock())
    }
}

/// Answers an edge that asks who a client is, in a task of its own.
pub(super) fn authenticate(
    asked: link::Authenticate,
    accounts: Arc<dyn Authenticate>,
    asides: Asides,
) {
    tokio::spawn(async move {
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
    });
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

/// Ends a session that was handed over, if what has let it in was ended while nobody could tell the edge.
pub(super) fn recheck(connected: &Connected, accounts: &dyn Authenticate, asides: &Asides) {
    let Ok(uid) = connected.uid.parse::<Uid>() else {
        return;
    };
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
    if accounts.is_revoked(&identity) {
        let device = kick::Which::Device(connected.device.clone());
        asides.kick(&identity.uid, Some(device));
    }
}
