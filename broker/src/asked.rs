//! What bridges are asked by an edge without accounts: who clients are. And what they say of that later: who may no longer be
//! there.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use schema::link::{self, FromEdge, Kick, authenticated, from_edge, kick};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::bridges::{ABSENCE_MAX, Bridges};
use crate::identity::{Authenticate, Credentials, Identity, Refusal};

/// How long a bridge may take to answer before another one is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long a client waits for all of them: what it is told then is "server unavailable".
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a kick is remembered, which outlasts any CONNECT under way; and how many are. What was asked before one that is
/// forgotten counts as kicked.
const KICKS_KEPT: Duration = Duration::from_secs(60);
const KICKS_MAX: usize = 16 * 1024;

type Outcome = Result<Identity, Refusal>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The last question's number. An earlier edge's can't be among them: a late answer to one must let nobody in.
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, Question>>,
    kicks: Mutex<Kicks>,
}

#[derive(Debug)]
struct Question {
    answer: oneshot::Sender<Outcome>,
    /// The last kick before it. Later ones may be about what the bridge has found good.
    as_of: u64,
}

/// Kicks of late, numbered.
#[derive(Debug, Default)]
struct Kicks {
    last: u64,
    kept: VecDeque<(Instant, u64, Kick)>,
    /// The last one that is no longer kept.
    forgotten: u64,
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            last: AtomicU64::new(RandomState::new().build_hasher().finish()),
            waiting: Mutex::default(),
            kicks: Mutex::default(),
        }
    }
}

impl Asked {
    /// Takes a bridge's answer.
    pub(crate) fn answer(&self, authenticated: link::Authenticated) {
        let Some(question) = self.waiting.lock().remove(&authenticated.request) else {
            // The client is gone, or another bridge was faster.
            return;
        };
        let outcome = match authenticated.outcome {
            Some(authenticated::Outcome::Identity(found)) => identity(found, question.as_of),
            Some(authenticated::Outcome::Refusal(refusal)) => Err(refused(refusal)),
            None => Err(Refusal::Unavailable),
        };
        drop(question.answer.send(outcome));
    }

    /// A new question: its number, and where its answer comes.
    fn begin(&self) -> (u64, oneshot::Receiver<Outcome>) {
        let request = self.last.fetch_add(1, Ordering::Relaxed);
        let (answer, is_answered) = oneshot::channel();
        let as_of = self.kicks.lock().last;
        let question = Question { answer, as_of };
        self.waiting.lock().insert(request, question);
        (request, is_answered)
    }

    /// Remembers who is to end, for those who are on their way in.
    pub(crate) fn kick(&self, kick: &Kick) {
        let now = Instant::now();
        let mut kicks = self.kicks.lock();
        kicks.last += 1;
        let number = kicks.last;
        kicks.kept.push_back((now, number, kick.clone()));
        while let Some((at, oldest, _)) = kicks.kept.front()
            && (kicks.kept.len() > KICKS_MAX || now.duration_since(*at) > KICKS_KEPT)
        {
            kicks.forgotten = *oldest;
            kicks.kept.pop_front();
        }
    }

    fn was_kicked(&self, identity: &Identity) -> bool {
        if identity.uid.is_anonymous() {
            // Nobody was asked.
            return false;
        }
        let kicks = self.kicks.lock();
        if identity.as_of < kicks.forgotten {
            return true;
        }
        let since = kicks.kept.iter().rev();
        let mut since = since.take_while(|(_, number, _)| *number > identity.as_of);
        since.any(|(_, _, kick)| {
            kick.uid == *identity.uid.as_str()
                && match &kick.which {
                    None => true,
                    Some(kick::Which::Login(login)) => identity.login.as_ref() == Some(login),
                    // It may come back.
                    Some(kick::Which::Device(_)) => false,
                }
        })
    }
}

fn identity(found: link::Identity, as_of: u64) -> Outcome {
    let Ok(uid) = found.uid.parse() else {
        tracing::error!("a bridge lets in a user who can't exist");
        return Err(Refusal::Unavailable);
    };
    let time =
        |millis| (millis > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
    Ok(Identity {
        uid,
        login: Some(found.login).filter(|login| !login.is_empty()),
        password_set_at: time(found.password_set_at),
        expires_at: time(found.expires_at),
        is_admin: found.admin,
        as_of,
    })
}

fn refused(refusal: i32) -> Refusal {
    match link::Refusal::try_from(refusal) {
        Ok(link::Refusal::BadCredentials) => Refusal::BadCredentials,
        Ok(link::Refusal::TooManyFailures) => Refusal::TooManyFailures,
        Ok(link::Refusal::Unavailable | link::Refusal::Unspecified) | Err(_) => {
            Refusal::Unavailable
        }
    }
}

/// Asks bridges who clients are.
pub(crate) struct Asking {
    pub(crate) bridges: Arc<Bridges>,
    pub(crate) asked: Arc<Asked>,
}

impl Asking {
    async fn ask(&self, credentials: Credentials<'_>) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        // The one that counts this user's wrong passwords.
        let name = credentials.certified.map(|uid| uid.as_str());
        let name = name.or(credentials.username).unwrap_or_default();
        let mut tried = Vec::new();
        loop {
            let mut changes = self.bridges.changes();
            let Some(bridge) = self.bridges.choose_other(name, &tried) else {
                match timeout(ABSENCE_MAX, changes.changed()).await {
                    Ok(_) => continue,
                    Err(_) => return Err(Refusal::Unavailable),
                }
            };
            tried.push(bridge.number);
            let (request, is_answered) = self.asked.begin();
            let _forgotten = Forgotten(&self.asked, request);
            bridge.push(&mut vec![question(request, credentials)]);
            let is_last = self.bridges.count() <= tried.len();
            let patience = match is_last {
                true => deadline,
                false => deadline.min(Instant::now() + ANSWER_WITHIN),
            };
            let answered = async {
                tokio::select! {
                    outcome = is_answered => outcome.ok(),
                    () = bridge.gone() => None,
                }
            };
            match timeout_at(patience, answered).await {
                Ok(Some(Err(Refusal::Unavailable))) if !is_last => {}
                Ok(Some(outcome)) => return outcome,
                _ if Instant::now() >= deadline => return Err(Refusal::Unavailable),
                _ => {}
            }
        }
    }
}

/// A question that nobody waits for any more when it is dropped.
struct Forgotten<'a>(&'a Asked, u64);

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}

fn question(request: u64, credentials: Credentials<'_>) -> FromEdge {
    FromEdge {
        item: Some(from_edge::Item::Authenticate(link::Authenticate {
            request,
            username: credentials.username.map(str::to_owned),
            password: credentials.password.map(Bytes::copy_from_slice),
            certified: credentials.certified.map(ToString::to_string),
            address: credentials.address.to_string(),
        })),
    }
}

impl Authenticate for Asking {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(self.ask(credentials))
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        self.asked.was_kicked(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kick(uid: &str) -> Kick {
        Kick {
            uid: uid.to_owned(),
            ..Kick::default()
        }
    }

    /// Lets alice in.
    fn answered(
        asked: &Asked,
        (request, mut answer): (u64, oneshot::Receiver<Outcome>),
    ) -> Identity {
        asked.answer(link::Authenticated {
            request,
            outcome: Some(authenticated::Outcome::Identity(link::Identity {
                uid: "alice".to_owned(),
                ..link::Identity::default()
            })),
        });
        answer.try_recv().unwrap().unwrap()
    }

    #[test]
    fn who_is_kicked_while_the_bridge_thinks_does_not_come_in() {
        let asked = Asked::default();
        asked.kick(&kick("alice"));
        let question = asked.begin();
        asked.kick(&kick("bob"));
        let before = answered(&asked, question);
        assert!(!asked.was_kicked(&before));
        let question = asked.begin();
        // The bridge has found the password good, and then it was replaced.
        asked.kick(&kick("alice"));
        let identity = answered(&asked, question);
        assert!(asked.was_kicked(&identity));
        assert!(asked.was_kicked(&before));
        let question = asked.begin();
        let identity = answered(&asked, question);
        assert!(!asked.was_kicked(&identity));
        // More than are remembered: nobody can tell.
        for _ in 0..=KICKS_MAX {
            asked.kick(&kick("bob"));
        }
        assert!(asked.was_kicked(&identity));
        assert_eq!(asked.kicks.lock().kept.len(), KICKS_MAX);
    }
}
