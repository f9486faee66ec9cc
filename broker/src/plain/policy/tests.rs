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
    assert!(policy.may_receive(admin, "$SYS/x") && !policy.may_receive(client(&root), "$SYS/x"));
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

/// What a briefing does not name is taken back, and what comes by itself meanwhile is not.
#[test]
fn grants_are_told_anew() {
    let policy = policy(Vec::new());
    let (alice, bob) = (uid("alice"), uid("bob"));
    for filter in ["a", "b", "c"] {
        policy.set_grant(&alice, &bob, filter, true, false);
    }
    policy.begin_briefing();
    policy.set_grant(&alice, &bob, "b", true, true);
    policy.set_grant(&alice, &bob, "d", true, true);
    policy.set_grant(&alice, &bob, "c", false, false);
    assert!(policy.may_receive(client(&bob), "dev/alice/a"));
    policy.end_briefing();
    let may = |filter| policy.may_receive(client(&bob), &format!("dev/alice/{filter}"));
    assert_eq!(["a", "b", "c", "d"].map(may), [false, true, false, true]);
    policy.end_briefing();
    assert!(policy.may_publish(client(&bob), "dev/alice/b"));
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
        grant.prop_map(|((owner, user, filter), read, write)| (owner, user, filter, read, write)),
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
    (own || says(Effect::Allow) || grants.iter().enumerate().any(is_granted)) && !says(Effect::Deny)
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
