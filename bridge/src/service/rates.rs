//! How often a user may send, and ask for what is expensive. It is decided first of all, before a command is looked at:
//! what is refused here has cost next to nothing and has left no trace, so that also a message which was stored before
//! is refused when it comes again too early, and gets its first answer a little later.
//!
//! Invariant: no name is kept. What counts against a limit is found by a keyed hash, and forgotten when it would be
//! allowed everything again. Only where several nodes [share](Rates::share) the limits, names are, for as long.

mod shared;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use schema::v1::send::Content;
use schema::v1::up::Command;
use schema::{Uid, v1};

use tokio::time::Instant;

use super::refused::Refused;
use crate::redis::Redis;
use crate::settings::RatesOptions;
use shared::Shared;

/// Keys are looked through for those that can be forgotten after so many questions, or as many as there are keys.
const SWEEP_AFTER: usize = 4096;

/// What is limited per minute, each kind by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expensive {
    /// Looking for messages.
    Search,
    /// Making and changing groups.
    Groups,
    /// Asking for contact.
    Contacts,
    /// Looking for users.
    Users,
    /// Sending other messages on.
    Forwards,
    /// Everything that a user has, from the beginning.
    Changes,
    /// An export.
    Export,
    /// Doing something to a message in a file.
    Archived,
}

/// The limits, and how far users have used them. Cheap to clone.
#[derive(Clone)]
pub struct Rates(Arc<Inner>);

struct Inner {
    /// `None` in these: no limit.
    sends: Option<Pace>,
    sends_there: Option<Pace>,
    expensive: Option<Pace>,
    exempt: HashSet<String>,
    hasher: RandomState,
    /// Set where other nodes count, too.
    redis: OnceLock<Redis>,
}

/// One limit for many keys.
struct Pace {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>,
    shared: Shared,
    /// Questions since it was swept, and after how many it is the next time.
    asked: AtomicUsize,
    sweep_after: AtomicUsize,
    refused: AtomicU64,
}

impl Rates {
    /// As the settings have it.
    #[must_use]
    pub fn new(options: &RatesOptions) -> Self {
        let per_second = |rate, burst| {
            let quota = Quota::per_second(NonZeroU32::new(rate)?);
            Some(Pace::new(quota, burst))
        };
        let per_minute = |rate, burst| {
            let quota = Quota::per_minute(NonZeroU32::new(rate)?);
            Some(Pace::new(quota, burst))
        };
        Rates(Arc::new(Inner {
            sends: per_second(options.sends_per_user, options.sends_per_user_burst),
            sends_there: per_second(
                options.sends_per_conversation,
                options.sends_per_conversation_burst,
            ),
            expensive: per_minute(options.expensive_per_minute, options.expensive_burst),
            exempt: options.exempt.iter().cloned().collect(),
            hasher: RandomState::new(),
            redis: OnceLock::new(),
        }))
    }

    /// Counts together with other nodes, as long as it is polled.
    pub async fn share(self, redis: Redis) {
        let redis = self.0.redis.get_or_init(|| redis);
        let limits = [
            ("rate-send", &self.0.sends),
            ("rate-there", &self.0.sends_there),
            ("rate-expensive", &self.0.expensive),
        ];
        let limits = limits
            .into_iter()
            .filter_map(|(kind, pace)| Some((kind, &pace.as_ref()?.shared)));
        shared::run(limits.collect(), redis).await;
    }

    /// Counts a command, whatever comes of it.
    ///
    /// # Errors
    /// A refusal with the time to wait, where the user has come too often.
    pub fn check(&self, caller: &Uid, up: &v1::Up) -> Result<(), Refused> {
        let Some(command) = &up.command else {
            return Ok(());
        };
        if is_send(command) {
            let name = || caller.to_string();
            self.count(&self.0.sends, caller, |uid| self.key(uid), name)?;
        }
        match expensive(command) {
            Some(what) => self.check_expensive(caller, what),
            None => Ok(()),
        }
    }

    /// Counts a message to a conversation.
    ///
    /// # Errors
    /// As [`Rates::check`] has them.
    pub fn check_conversation(&self, caller: &Uid, name: &str) -> Result<(), Refused> {
        let both = || format!("{caller}:{name}");
        self.count(
            &self.0.sends_there,
            caller,
            |uid| self.key((uid, name)),
            both,
        )
    }

    /// Counts what is expensive.
    ///
    /// # Errors
    /// As [`Rates::check`] has them.
    pub fn check_expensive(&self, caller: &Uid, what: Expensive) -> Result<(), Refused> {
        let both = || format!("{caller}:{what:?}");
        self.count(&self.0.expensive, caller, |uid| self.key((uid, what)), both)
    }

    /// What each limit has refused.
    #[must_use]
    pub fn refused(&self) -> [(&'static str, u64); 3] {
        let refused = |pace: &Option<Pace>| {
            let refused = pace.as_ref().map(|pace| &pace.refused);
            refused.map_or(0, |refused| refused.load(Ordering::Relaxed))
        };
        [
            ("sends_per_user", refused(&self.0.sends)),
            ("sends_per_conversation", refused(&self.0.sends_there)),
            ("expensive", refused(&self.0.expensive)),
        ]
    }

    fn count(
        &self,
        pace: &Option<Pace>,
        caller: &Uid,
        key: impl FnOnce(&str) -> u64,
        name: impl FnOnce() -> String,
    ) -> Result<(), Refused> {
        let Some(pace) = pace else { return Ok(()) };
        if !self.0.exempt.is_empty() && self.0.exempt.contains(caller.as_str()) {
            return Ok(());
        }
        let key = key(caller.as_str());
        if self.0.redis.get().is_none() {
            return pace.count(key);
        }
        let (name, now) = (name(), Instant::now());
        if let Some(wait) = pace.shared.wait(&name, now) {
            pace.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::too_often(wait));
        }
        pace.count(key)?;
        pace.shared.note(&name, now);
        Ok(())
    }

    fn key(&self, of: impl std::hash::Hash) -> u64 {
        self.0.hasher.hash_one(of)
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rates").finish_non_exhaustive()
    }
}

impl Pace {
    fn new(quota: Quota, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        Pace {
            limiter: RateLimiter::dashmap(quota.allow_burst(burst)),
            shared: Shared::new(quota.replenish_interval(), burst.get()),
            asked: AtomicUsize::new(0),
            sweep_after: AtomicUsize::new(SWEEP_AFTER),
            refused: AtomicU64::new(0),
        }
    }

    fn count(&self, key: u64) -> Result<(), Refused> {
        if self.asked.fetch_add(1, Ordering::Relaxed) >= self.sweep_after.load(Ordering::Relaxed) {
            self.sweep();
        }
        self.limiter.check_key(&key).map_err(|not_until| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Refused::too_often(not_until.wait_time_from(self.limiter.clock().now()))
        })
    }

    /// Looks at each key once for each that came, so that sweeping never costs more than counting.
    fn sweep(&self) {
        self.asked.store(0, Ordering::Relaxed);
        self.limiter.retain_recent();
        let next = self.limiter.len().max(SWEEP_AFTER);
        self.sweep_after.store(next, Ordering::Relaxed);
    }
}

/// Whether others hear of it at once.
fn is_send(command: &Command) -> bool {
    matches!(
        command,
        Command::Send(_) | Command::Edit(_) | Command::Recall(_) | Command::React(_)
    )
}

fn expensive(command: &Command) -> Option<Expensive> {
    match command {
        Command::Search(_) => Some(Expensive::Search),
        Command::GroupCreate(_)
        | Command::GroupAdd(_)
        | Command::GroupRemove(_)
        | Command::GroupLeave(_)
        | Command::GroupSet(_)
        | Command::GroupRole(_)
        | Command::GroupTransfer(_)
        | Command::GroupMute(_)
        | Command::GroupNickname(_)
        | Command::GroupLink(_)
        | Command::GroupJoin(_)
        | Command::GroupAnswer(_)
        | Command::GroupPin(_)
        | Command::GroupDissolve(_) => Some(Expensive::Groups),
        Command::ContactRequest(_) => Some(Expensive::Contacts),
        Command::GetUsers(asked) if !asked.query.is_empty() => Some(Expensive::Users),
        Command::GetChanges(_) => Some(Expensive::Changes),
        Command::Send(send) if matches!(send.content, Some(Content::Forward(_))) => {
            Some(Expensive::Forwards)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;
    use crate::settings::Settings;

    fn uid(name: &str) -> Uid {
        name.parse().unwrap()
    }

    fn up(command: Command) -> v1::Up {
        v1::Up {
            client_msg_id: String::new(),
            command: Some(command),
        }
    }

    fn options() -> RatesOptions {
        RatesOptions {
            sends_per_user: 1,
            sends_per_user_burst: 3,
            sends_per_conversation: 1,
            sends_per_conversation_burst: 2,
            expensive_per_minute: 1,
            expensive_burst: 1,
            exempt: vec!["robot".to_owned()],
        }
    }

    #[test]
    fn each_user_has_a_limit_of_each_kind() {
        let rates = Rates::new(&options());
        let send = up(Command::Send(v1::Send::default()));
        let search = up(Command::Search(v1::Search::default()));
        let create = up(Command::GroupCreate(v1::GroupCreate::default()));
        let read = up(Command::Read(v1::Read::default()));
        for name in ["alice", "bob"] {
            for (up, allowed) in [(&send, 3), (&search, 1), (&create, 1)] {
                for _ in 0..allowed {
                    rates.check(&uid(name), up).unwrap();
                }
                let refused = rates.check(&uid(name), up).unwrap_err();
                assert_eq!(refused.code, Code::RateLimited);
                let wait = refused.to_wire().retry_after_ms;
                assert!((1..=60_000).contains(&wait), "{wait}");
            }
            for _ in 0..99 {
                rates.check(&uid(name), &read).unwrap();
                rates.check(&uid("robot"), &send).unwrap();
            }
        }
        assert_eq!(
            rates.refused(),
            [
                ("sends_per_user", 2),
                ("sends_per_conversation", 0),
                ("expensive", 4)
            ]
        );
    }

    #[test]
    fn conversations_count_by_themselves() {
        let rates = Rates::new(&options());
        let there = |name: &str| rates.check_conversation(&uid("alice"), name);
        for name in ["g:one", "g:two"] {
            there(name).unwrap();
            there(name).unwrap();
            there(name).unwrap_err();
        }
        rates.check_conversation(&uid("bob"), "g:one").unwrap();
    }

    #[test]
    fn zero_is_no_limit() {
        let mut options = Settings::defaults().rates;
        options.sends_per_user = 0;
        options.sends_per_conversation = 0;
        options.expensive_per_minute = 0;
        let rates = Rates::new(&options);
        for _ in 0..10_000 {
            let send = up(Command::Send(v1::Send::default()));
            rates.check(&uid("alice"), &send).unwrap();
            rates.check_conversation(&uid("alice"), "g:x").unwrap();
        }
    }

    #[test]
    fn keys_do_not_gather() {
        let pace = Pace::new(Quota::per_second(NonZeroU32::MAX), 1);
        for key in 0..SWEEP_AFTER as u64 * 3 {
            pace.count(key).unwrap();
        }
        assert!(
            pace.limiter.len() <= 2 * SWEEP_AFTER + 1,
            "{}",
            pace.limiter.len()
        );
    }
}
