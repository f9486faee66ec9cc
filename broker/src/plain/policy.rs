//! Who may do what on plain topics.
//!
//! | namespace | who |
//! |---|---|
//! | `im`, `imj`, `room`, `roomj`, and all that begins with `$` | nobody: they are not plain |
//! | `$SYS/…` | administrators receive |
//! | `dev/{uid}/…` | that user; whom the user has granted it |
//! | all | whom a rule of the operator allows it |
//!
//! A rule that denies outweighs all that allow. A subscription is allowed if one pattern that allows covers its whole
//! filter. One that denies refuses it if it covers the filter; where the two only overlap the subscription stands, and
//! the denied topics are left out at delivery. That is also what ends the effect of a grant that is taken back.
//!
//! A topic is a filter that matches only itself, so one decision serves publishing, subscribing and receiving.

use std::collections::HashMap;

use parking_lot::RwLock;
use schema::Uid;
use schema::topic::is_filter;
use tracing::error;

use super::filter::{self, Level};

/// The first level of every user's own topics.
const DEV: &str = "dev";
/// First levels that belong to chat.
const CHAT: [&str; 4] = ["im", "imj", "room", "roomj"];
/// The first level of the broker's statistics.
const SYS: &str = "$SYS";

/// Stands for the uid in a rule, and for the client id.
const UID: &str = "%u";
const CLIENT_ID: &str = "%c";

/// What an operator opens or closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it opens or closes.
    pub effect: Effect,
    /// What may be done, or not.
    pub action: Action,
    /// Whom it concerns.
    pub who: Who,
    /// Topic filters. A level may be `%u`, the client's uid, or `%c`, its client id.
    pub topics: Vec<String>,
}

/// Whether a rule opens or closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It opens.
    Allow,
    /// It closes, whatever opens.
    Deny,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sending.
    Publish,
    /// Subscribing, and receiving by a wider subscription.
    Subscribe,
    /// Both.
    All,
}

/// Whom a rule concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Clients with a user name, administrators among them.
    Users,
    /// Clients without.
    Anonymous,
    /// Users who are administrators.
    Administrators,
    /// All clients.
    Everyone,
}

/// Why a rule can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not a topic filter.
    #[error("{0:?} is not a topic filter")]
    Malformed(String),
    /// `%u` or `%c` within a level.
    #[error("{0:?} has %u or %c beside other characters in a level")]
    PartialLevel(String),
    /// The namespace is not for rules.
    #[error("{0:?}: im, imj, room, roomj and what begins with $ can't be opened or closed")]
    Reserved(String),
}

/// The operator's rules, in the form in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    publish: Patterns,
    subscribe: Patterns,
}

/// The patterns of all rules about one action.
#[derive(Clone, Debug, Default)]
struct Patterns {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
}

/// A filter of a rule.
#[derive(Clone, Debug)]
struct Pattern {
    who: Who,
    levels: Vec<PatternLevel>,
}

#[derive(Clone, Debug)]
enum PatternLevel {
    Literal(Box<str>),
    One,
    Rest,
    Uid,
    ClientId,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    pub(crate) uid: &'a Uid,
    pub(crate) client_id: &'a str,
    pub(crate) is_admin: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Policy {
    rules: Rules,
    /// By owner, then by user. A pattern begins with `dev/{owner}`, so only those of a topic's owner can concern it:
    /// what others grant to a user costs its traffic nothing.
    grants: RwLock<HashMap<Uid, HashMap<Uid, Vec<Grant>>>>,
}

#[derive(Debug)]
struct Grant {
    /// `dev/{owner}/{filter}`.
    pattern: Box<str>,
    read: bool,
    write: bool,
    /// It was there before a briefing that has not come to it yet.
    is_doubtful: bool,
}

// === impl Rules ===

impl Rules {
    /// Checks the rules.
    ///
    /// # Errors
    /// The first filter that is malformed or about topics that rules can't be about.
    pub fn compile(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let mut compiled = Rules::default();
        for rule in rules {
            for topics in &rule.topics {
                let pattern = Pattern::compile(rule.who, topics)?;
                compiled.add(rule.effect, rule.action, pattern);
            }
        }
        Ok(compiled)
    }

    fn add(&mut self, effect: Effect, action: Action, pattern: Pattern) {
        let concerned = match action {
            Action::Publish => vec![&mut self.publish],
            Action::Subscribe => vec![&mut self.subscribe],
            Action::All => vec![&mut self.publish, &mut self.subscribe],
        };
        for patterns in concerned {
            match effect {
                Effect::Allow => patterns.allow.push(pattern.clone()),
                Effect::Deny => patterns.deny.push(pattern.clone()),
            }
        }
    }
}

impl Pattern {
    fn compile(who: Who, topics: &str) -> Result<Self, RuleError> {
        if is_reserved(topics) {
            return Err(RuleError::Reserved(topics.to_owned()));
        }
        if !is_filter(topics) {
            return Err(RuleError::Malformed(topics.to_owned()));
        }
        let levels = topics.split('/').map(PatternLevel::compile);
        let levels = levels.collect::<Option<_>>();
        let levels = levels.ok_or_else(|| RuleError::PartialLevel(topics.to_owned()))?;
        Ok(Pattern { who, levels })
    }

    fn covers(&self, client: Client<'_>, filter: &str) -> bool {
        let levels = self.levels.iter().enumerate();
        let levels = levels.map(|(index, level)| level.of(client, index));
        self.who.includes(client) && filter::levels_cover(levels, filter)
    }
}

impl PatternLevel {
    fn compile(level: &str) -> Option<Self> {
        match level {
            UID => return Some(PatternLevel::Uid),
            CLIENT_ID => return Some(PatternLevel::ClientId),
            _ if level.contains(UID) || level.contains(CLIENT_ID) => return None,
            _ => {}
        }
        Some(match Level::of(level) {
            Level::One => PatternLevel::One,
            Level::Rest => PatternLevel::Rest,
            Level::Literal(_) | Level::Nothing => PatternLevel::Literal(level.into()),
        })
    }

    /// What the level stands for, for this client. A name that the client chose is compared as it is: one that looks
    /// like a wildcard, or like several levels, equals no level.
    fn of<'a>(&'a self, client: Client<'a>, index: usize) -> Level<'a> {
        let name = match self {
            PatternLevel::Literal(text) => return Level::Literal(text),
            PatternLevel::One => return Level::One,
            PatternLevel::Rest => return Level::Rest,
            // Nobody's name: it would be the same for all who have none.
            PatternLevel::Uid if client.uid.is_anonymous() => return Level::Nothing,
            PatternLevel::Uid => client.uid.as_str(),
            PatternLevel::ClientId => client.client_id,
        };
        // Else `%c/#` would open everybody's devices to a client that calls itself "dev".
        if index == 0 && name == DEV {
            return Level::Nothing;
        }
        Level::Literal(name)
    }
}

impl Who {
    fn includes(self, client: Client<'_>) -> bool {
        match self {
            Who::Users => !client.uid.is_anonymous(),
            Who::Anonymous => client.uid.is_anonymous(),
            Who::Administrators => client.is_admin,
            Who::Everyone => true,
        }
    }
}

// === impl Policy ===

impl Policy {
    pub(crate) fn new(rules: Rules) -> Self {
        Policy {
            rules,
            grants: RwLock::default(),
        }
    }

    /// Whether the client may publish to the topic, which has no wildcards.
    pub(crate) fn may_publish(&self, client: Client<'_>, topic: &str) -> bool {
        let is_granted = |grant: &Grant| grant.write;
        !is_reserved(topic) && self.is_open(client, topic, &self.rules.publish, is_granted)
    }

    /// Whether the client may subscribe to the filter, which is without a share's prefix.
    pub(crate) fn may_subscribe(&self, client: Client<'_>, filter: &str) -> bool {
        let is_granted = |grant: &Grant| grant.read;
        if first_level(filter) == SYS {
            return client.is_admin;
        }
        !is_reserved(filter) && self.is_open(client, filter, &self.rules.subscribe, is_granted)
    }

    /// Whether an operator's rule forbids the filter, rather than nothing allowing it.
    pub(crate) fn is_denied(&self, client: Client<'_>, filter: &str) -> bool {
        let deny = &self.rules.subscribe.deny;
        deny.iter().any(|pattern| pattern.covers(client, filter))
    }

    /// Whether the client may have a message of the topic, whatever it has subscribed to.
    pub(crate) fn may_receive(&self, client: Client<'_>, topic: &str) -> bool {
        self.may_subscribe(client, topic)
    }

    fn is_open(
        &self,
        client: Client<'_>,
        filter: &str,
        patterns: &Patterns,
        is_granted: impl Fn(&Grant) -> bool,
    ) -> bool {
        let includes = |pattern: &Pattern| pattern.covers(client, filter);
        let is_allowed = is_own(client.uid, filter)
            || patterns.allow.iter().any(includes)
            || self.has_grant(client.uid, filter, is_granted);
        is_allowed && !patterns.deny.iter().any(includes)
    }

    fn has_grant(&self, user: &Uid, filter: &str, is_granted: impl Fn(&Grant) -> bool) -> bool {
        let Some(owner) = owner(filter) else {
            return false;
        };
        let grants = self.grants.read();
        let to_user = grants.get(owner).and_then(|users| users.get(user));
        to_user.is_some_and(|grants| {
            let covers = |grant: &Grant| filter::covers(&grant.pattern, filter);
            grants
                .iter()
                .any(|grant| is_granted(grant) && covers(grant))
        })
    }

    /// Sets what `user` may do with `dev/{owner}/{filter}` from now on.
    pub(crate) fn set_grant(&self, owner: &Uid, user: &Uid, filter: &str, read: bool, write: bool) {
        if !is_filter(filter) {
            error!(%owner, "the bridge sent a grant of something that is not a topic filter");
            return;
        }
        let pattern = format!("{DEV}/{owner}/{filter}").into_boxed_str();
        let mut grants = self.grants.write();
        let users = grants.entry(owner.clone()).or_default();
        let to_user = users.entry(user.clone()).or_default();
        to_user.retain(|grant| grant.pattern != pattern);
        if read || write {
            to_user.push(Grant {
                pattern,
                read,
                write,
                is_doubtful: false,
            });
        }
        if to_user.is_empty() {
            users.remove(user);
        }
        if users.is_empty() {
            grants.remove(owner);
        }
    }
}

impl Policy {
    /// All grants come anew, until [`Policy::end_briefing`].
    pub(crate) fn begin_briefing(&self) {
        let mut grants = self.grants.write();
        let all = grants.values_mut().flat_map(HashMap::values_mut).flatten();
        for grant in all {
            grant.is_doubtful = true;
        }
    }

    /// What has not come is no longer granted.
    pub(crate) fn end_briefing(&self) {
        self.grants.write().retain(|_, users| {
            users.retain(|_, to_user| {
                to_user.retain(|grant| !grant.is_doubtful);
                !to_user.is_empty()
            });
            !users.is_empty()
        });
    }
}

fn first_level(filter: &str) -> &str {
    filter.split_once('/').map_or(filter, |(first, _)| first)
}

/// Whether the topics are not plain. What begins with a wildcard matches plain topics only.
fn is_reserved(filter: &str) -> bool {
    filter.starts_with('$') || CHAT.contains(&first_level(filter))
}

/// Whose topics the filter is about: the uid in `dev/{uid}` or `dev/{uid}/…`; `+` and `#` are nobody.
pub(crate) fn owner(topic: &str) -> Option<&str> {
    let below = topic.strip_prefix(DEV)?.strip_prefix('/')?;
    Some(first_level(below))
}

/// Whether all that the filter matches is the user's own.
fn is_own(user: &Uid, filter: &str) -> bool {
    !user.is_anonymous() && owner(filter) == Some(user.as_str())
}

#[cfg(test)]
mod tests;
