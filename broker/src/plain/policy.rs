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
        if !filter::is_well_formed(topics) {
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
        if !filter::is_well_formed(filter) {
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
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn uid(name: &str) -> Uid {
        if name == "$anonymous" {
            Uid::anonymous()
        } else {
            name.parse().unwrap()
        }
    }

    fn rule(effect: Effect, action: Action, who: Who, topics: &str) -> Rule {
        Rule {
            effect,
            action,
            who,
            topics: vec![topics.to_owned()],
        }
    }

    fn policy(rules: Vec<Rule>) -> Policy {
        Policy::new(Rules::compile(rules).unwrap())
    }

    fn client(uid: &Uid) -> Client<'_> {
        Client {
            uid,
            client_id: "phone",
            is_admin: false,
        }
    }

    #[test]
    fn rules_are_checked() {
        let compile = |topics: &str| {
            Rules::compile(vec![rule(
                Effect::Allow,
                Action::All,
                Who::Everyone,
                topics,
            )])
        };
        for good in [
            "news/#",
            "fleet/%u/+",
            "%c/x",
            "#",
            "+/im",
            "dev/bob/x",
            "100%",
            "imx",
        ] {
            assert!(compile(good).is_ok(), "{good}");
        }
        for bad in ["", "a+", "#/a", "a\0"] {
            let error = RuleError::Malformed(bad.to_owned());
            assert_eq!(compile(bad).unwrap_err(), error);
        }
        for bad in [
            "im",
            "im/#",
            "imj/a/up",
            "room/x",
            "roomj/#",
            "$SYS/#",
            "$share/g/a",
            "$",
        ] {
            let error = RuleError::Reserved(bad.to_owned());
            assert_eq!(compile(bad).unwrap_err(), error);
        }
        for bad in ["a/x%u", "%u%c", "%%u"] {
            let error = RuleError::PartialLevel(bad.to_owned());
            assert_eq!(compile(bad).unwrap_err(), error);
        }
    }

    #[test]
    fn everybody_owns_a_tree() {
        let policy = policy(Vec::new());
        let (alice, nobody) = (uid("alice"), Uid::anonymous());
        for own in ["dev/alice", "dev/alice/", "dev/alice/a/b"] {
            assert!(policy.may_publish(client(&alice), own), "{own}");
            assert!(policy.may_receive(client(&alice), own), "{own}");
        }
        for own in ["dev/alice/#", "dev/alice/+/x", "dev/alice"] {
            assert!(policy.may_subscribe(client(&alice), own), "{own}");
        }
        for other in [
            "dev",
            "dev/",
            "dev/alic",
            "dev/alice2/x",
            "dev/Alice/x",
            "x",
            "/dev/alice",
        ] {
            assert!(!policy.may_publish(client(&alice), other), "{other}");
            assert!(!policy.may_receive(client(&alice), other), "{other}");
        }
        for wide in ["#", "dev/#", "dev/+", "dev/+/x", "+/alice/x", "+/alice/#"] {
            assert!(!policy.may_subscribe(client(&alice), wide), "{wide}");
        }
        for topic in ["dev/$anonymous", "dev/$anonymous/x"] {
            assert!(!policy.may_publish(client(&nobody), topic), "{topic}");
            assert!(!policy.may_subscribe(client(&nobody), topic), "{topic}");
        }
    }

    #[test]
    fn statistics_are_for_administrators() {
        let policy = policy(vec![rule(Effect::Allow, Action::All, Who::Everyone, "#")]);
        let root = uid("root");
        let admin = Client {
            is_admin: true,
            ..client(&root)
        };
        for filter in ["$SYS/#", "$SYS/broker/+", "$SYS"] {
            assert!(policy.may_subscribe(admin, filter), "{filter}");
            assert!(!policy.may_subscribe(client(&root), filter), "{filter}");
        }
        assert!(
            policy.may_receive(admin, "$SYS/x") && !policy.may_receive(client(&root), "$SYS/x")
        );
        for topic in ["$SYS/x", "$SYSX", "$share/g/a", "im/root/up"] {
            assert!(!policy.may_publish(admin, topic), "{topic}");
        }
        assert!(!policy.may_subscribe(admin, "$SYSX/#"));
    }

    #[test]
    fn grants_come_and_go() {
        let policy = policy(Vec::new());
        let (alice, bob) = (uid("alice"), uid("bob"));
        policy.set_grant(&alice, &bob, "lamp/#", true, false);
        assert!(policy.may_subscribe(client(&bob), "dev/alice/lamp/+"));
        assert!(policy.may_receive(client(&bob), "dev/alice/lamp"));
        assert!(!policy.may_publish(client(&bob), "dev/alice/lamp/on"));
        assert!(!policy.may_subscribe(client(&bob), "dev/alice/#"));
        assert!(!policy.may_subscribe(client(&bob), "dev/+/lamp/#"));
        policy.set_grant(&alice, &bob, "lamp/#", false, true);
        assert!(policy.may_publish(client(&bob), "dev/alice/lamp/on"));
        assert!(!policy.may_receive(client(&bob), "dev/alice/lamp/on"));
        policy.set_grant(&alice, &bob, "#/lamp", true, true);
        assert!(!policy.may_receive(client(&bob), "dev/alice/x"));
        policy.set_grant(&alice, &bob, "lamp/#", false, false);
        assert!(!policy.may_publish(client(&bob), "dev/alice/lamp/on"));
        assert!(policy.grants.read().is_empty());
        policy.set_grant(&alice, &bob, "#", true, true);
        assert!(policy.may_receive(client(&bob), "dev/alice"));
    }

    #[test]
    fn a_deny_outweighs_and_an_overlap_is_left_out() {
        let policy = policy(vec![
            rule(
                Effect::Deny,
                Action::Subscribe,
                Who::Users,
                "dev/%u/secret/#",
            ),
            rule(Effect::Allow, Action::Subscribe, Who::Users, "news/#"),
            rule(Effect::Deny, Action::All, Who::Everyone, "news/%c"),
        ]);
        let alice = uid("alice");
        let alice = client(&alice);
        assert!(policy.may_subscribe(alice, "dev/alice/#"));
        assert!(policy.may_receive(alice, "dev/alice/x"));
        assert!(!policy.may_receive(alice, "dev/alice/secret/x"));
        assert!(!policy.may_subscribe(alice, "dev/alice/secret/+"));
        assert!(policy.may_publish(alice, "dev/alice/secret/x"));
        assert!(policy.may_subscribe(alice, "news/+"));
        assert!(!policy.may_receive(alice, "news/phone"));
    }

    #[test]
    fn a_name_is_never_a_wildcard() {
        let allow = |topics| rule(Effect::Allow, Action::All, Who::Everyone, topics);
        let policy = policy(vec![
            allow("c/%c/x"),
            allow("%c/#"),
            allow("u/%u"),
            allow("%u/#"),
        ]);
        let (alice, dev, nobody) = (uid("alice"), uid("dev"), Uid::anonymous());
        for client_id in ["+", "#", "a/x", "im", "$SYS", "dev"] {
            let client = Client {
                client_id,
                ..client(&alice)
            };
            for filter in [
                "c/+/x",
                "c/#",
                "c/a/x",
                "+/#",
                "#",
                "im/x",
                "$SYS/x",
                "dev/bob/x",
                "c/a/x/x",
            ] {
                assert!(
                    !policy.may_subscribe(client, filter),
                    "{client_id} {filter}"
                );
            }
        }
        assert!(policy.may_receive(client(&alice), "c/phone/x"));
        assert!(policy.may_receive(client(&alice), "alice/x"));
        assert!(!policy.may_receive(client(&dev), "dev/bob/x"));
        assert!(policy.may_receive(client(&alice), "u/alice"));
        assert!(!policy.may_receive(client(&nobody), "u/$anonymous"));
    }

    const NAMES: [&str; 4] = ["alice", "bob", "dev", "$anonymous"];

    fn levels(
        first: &[&'static str],
        further: &[&'static str],
    ) -> impl Strategy<Value = String> + use<> {
        let further = vec(select(further.to_vec()), 0..4);
        (select(first.to_vec()), further).prop_map(|(first, further)| {
            let levels: Vec<_> = std::iter::once(first).chain(further).collect();
            levels.join("/")
        })
    }

    fn topic() -> impl Strategy<Value = String> {
        let first = [
            "dev", "dev", "n", "im", "imj", "room", "roomj", "$SYS", "$x", "alice",
        ];
        levels(&first, &["alice", "bob", "dev", "a", "$anonymous", ""])
    }

    fn filter() -> impl Strategy<Value = String> {
        let first = ["dev", "dev", "n", "+", "im", "$SYS", "$share", "alice"];
        let further = ["alice", "bob", "dev", "a", "+", "$anonymous"];
        (levels(&first, &further), select(vec!["", "/#"])).prop_map(|(filter, end)| filter + end)
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let effect = select(vec![Effect::Allow, Effect::Deny]);
        let action = select(vec![Action::Publish, Action::Subscribe, Action::All]);
        let who = [
            Who::Users,
            Who::Anonymous,
            Who::Administrators,
            Who::Everyone,
        ];
        let topics = levels(
            &["dev", "n", "+", "%u", "%c"],
            &["alice", "a", "+", "%u", "%c"],
        );
        let topics = (topics, select(vec!["", "/#"])).prop_map(|(topics, end)| topics + end);
        let rule = (effect, action, select(who.to_vec()), topics);
        vec(
            rule.prop_map(|(effect, action, who, topics)| self::rule(effect, action, who, &topics)),
            0..5,
        )
    }

    type Granted = (&'static str, &'static str, String, bool, bool);

    fn grants() -> impl Strategy<Value = Vec<Granted>> {
        let below = levels(&["a", "+", "alice"], &["a", "+"]);
        let filter = prop_oneof![Just("#".to_owned()), below];
        let grant = (
            select(vec!["alice", "bob"]),
            select(vec!["alice", "bob", "dev"]),
            filter,
        );
        let grant = (grant, any::<bool>(), any::<bool>());
        vec(
            grant.prop_map(|((owner, user, filter), read, write)| {
                (owner, user, filter, read, write)
            }),
            0..4,
        )
    }

    fn any_client() -> impl Strategy<Value = (Uid, &'static str, bool)> {
        let client_ids = vec!["a", "+", "#", "a/a", "dev", "im", "bob", ""];
        (select(NAMES.to_vec()), select(client_ids), any::<bool>()).prop_map(
            |(name, client_id, is_admin)| (uid(name), client_id, is_admin && name != "$anonymous"),
        )
    }

    /// Whether a rule says something about the topic, by putting the names into its text.
    fn concerns(rule: &Rule, action: Action, client: Client<'_>, topic: &str) -> bool {
        let anonymous = client.uid.is_anonymous();
        let who = match rule.who {
            Who::Users => !anonymous,
            Who::Anonymous => anonymous,
            Who::Administrators => client.is_admin,
            Who::Everyone => true,
        };
        let text = &rule.topics[0];
        let is_odd = |name: &str| name.contains(['+', '#', '/']);
        let never_matches = (text.contains("%u") && anonymous)
            || (text.contains("%c") && is_odd(client.client_id))
            || (text.starts_with("%u") && client.uid.as_str() == "dev")
            || (text.starts_with("%c") && client.client_id == "dev");
        let text = text
            .replace("%u", client.uid.as_str())
            .replace("%c", client.client_id);
        let is_about = rule.action == action || rule.action == Action::All;
        who && is_about && !never_matches && filter::matches(&text, topic)
    }

    fn expected(
        rules: &[Rule],
        grants: &[Granted],
        action: Action,
        client: Client<'_>,
        topic: &str,
    ) -> bool {
        let first = topic.split('/').next().unwrap();
        if first == "$SYS" && action == Action::Subscribe {
            return client.is_admin;
        }
        if ["im", "imj", "room", "roomj"].contains(&first) || topic.starts_with('$') {
            return false;
        }
        let says = |effect| {
            let mut rules = rules.iter().filter(|rule| rule.effect == effect);
            rules.any(|rule| concerns(rule, action, client, topic))
        };
        let user = client.uid.as_str();
        let own = !client.uid.is_anonymous() && filter::matches(&format!("dev/{user}/#"), topic);
        // The last one of the same filter counts.
        let is_granted = |(index, (owner, to, filter, read, write)): (usize, &Granted)| {
            let later = &grants[index + 1..];
            let right = if action == Action::Publish {
                write
            } else {
                read
            };
            let is_replaced = later
                .iter()
                .any(|(o, t, f, ..)| (o, t, f) == (owner, to, filter));
            *right
                && !is_replaced
                && *to == user
                && filter::matches(&format!("dev/{owner}/{filter}"), topic)
        };
        (own || says(Effect::Allow) || grants.iter().enumerate().any(is_granted))
            && !says(Effect::Deny)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// In particular nobody receives from another user's devices, or anything of chat, unless it says so above.
        #[test]
        fn only_what_is_written_is_open(
            rules in rules(),
            grants in grants(),
            (uid, client_id, is_admin) in any_client(),
            topics in vec(topic(), 10),
            filter in filter(),
        ) {
            let policy = policy(rules.clone());
            for (owner, user, filter, read, write) in &grants {
                policy.set_grant(&self::uid(owner), &self::uid(user), filter, *read, *write);
            }
            let client = Client { uid: &uid, client_id, is_admin };
            let may_subscribe = policy.may_subscribe(client, &filter);
            for topic in &topics {
                let expected = |action| expected(&rules, &grants, action, client, topic);
                let may_receive = policy.may_receive(client, topic);
                prop_assert_eq!(may_receive, expected(Action::Subscribe), "receive {}", topic);
                prop_assert_eq!(policy.may_publish(client, topic), expected(Action::Publish), "publish {}", topic);

                // What a subscription may be made to can be received, but for what a rule denies.
                let is_denied = rules.iter().any(|rule| {
                    rule.effect == Effect::Deny && concerns(rule, Action::Subscribe, client, topic)
                });
                let is_chat = is_reserved(topic);
                if may_subscribe && filter::matches(&filter, topic) && !is_denied && !is_chat {
                    prop_assert!(may_receive, "{} by {}", topic, filter);
                }
            }
        }
    }
}
