//! The pipeline on a real database and a real link.

use std::future::Future;
use std::pin::Pin;
use std::time::SystemTime;

use broker::{Authenticate, Broker, Credentials, Identity, Refusal};
use schema::Uid;
use schema::link::{
    Connected, Disconnected, FromEdge, PlainMessage, Retain, Subscribed, from_edge, to_edge,
};
use schema::v1::{reply, up};

use super::announcer::Announcement;
use super::job::Outcome;
use super::pipeline::{Others, Round};
use super::*;
use crate::clock;
use crate::cluster::node::Node;
use crate::serve::{broker_options, limits};
use crate::settings::Settings;
use crate::store::grants::{self, Grant};
use crate::store::users::{self, Role, User};
use crate::store::{devices, retained, sql};

struct Nobody;

impl Authenticate for Nobody {
    fn authenticate<'a>(
        &'a self,
        _: Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send + 'a>> {
        Box::pin(async { Err(Refusal::BadCredentials) })
    }

    fn is_revoked(&self, _: &Identity) -> bool {
        true
    }
}

struct Fixture {
    store: Store,
    settings: Settings,
    _folder: tempfile::TempDir,
}

impl Fixture {
    /// The users alice and bob, who may give two grants each.
    async fn new() -> Self {
        let (store, folder) = Store::fresh().await;
        for name in ["alice", "bob"] {
            let user = User {
                uid: uid(name),
                kind: "person".to_owned(),
                role: Role::User,
                password_hash: String::new(),
                created_at: SystemTime::UNIX_EPOCH,
                password_changed_at: None,
            };
            users::add(store.writer(), &user).await.unwrap();
        }
        let mut settings = Settings::defaults();
        settings.topics.grants_per_user_max = 2;
        settings.mqtt.topic_length_max = 80;
        settings.mqtt.topic_levels_max = 4;
        Fixture {
            store,
            settings,
            _folder: folder,
        }
    }

    fn broker(&self) -> (Broker, broker::link::BridgeLink) {
        Broker::start(
            broker_options(&self.settings),
            broker::Rules::default(),
            Arc::new(Nobody),
        )
        .unwrap()
    }

    /// A pipeline whose rounds the test makes.
    fn pipeline(&self) -> (Pipeline, mpsc::Receiver<Announcement>) {
        let limits = limits(&self.settings);
        let executor = Executor::new(
            self.store.clone(),
            Node::sole(),
            Catalog::new(1000),
            0,
            limits,
        );
        let (presence, is_stalled) = (Presence::default(), Arc::default());
        let (announcements, rounds) = mpsc::channel(16);
        let (_, events) = mpsc::channel(1);
        let (moves, _) = mpsc::channel(1);
        let peers = Peers::none();
        let others = Others::of_nobody(peers.hearing);
        let crossing = Crossing::new(peers.bus.clone(), peers.decisions, peers.granted);
        let pipeline = Pipeline::new(
            executor,
            announcements,
            presence,
            events,
            moves,
            is_stalled,
            (peers.bus, others, crossing),
        );
        (pipeline, rounds)
    }

    fn round(&self, pipeline: &mut Pipeline, number: u64, items: Vec<FromEdge>) -> Round {
        let mut round = Round::default();
        let intake = intake::take(number, items, &limits(&self.settings));
        pipeline.take_frame(intake, &mut round);
        round
    }

    async fn retained(&self) -> Vec<(String, String)> {
        let page = retained::page(self.store.reader(), "", 1000, 1).await;
        let pair = |message: PlainMessage| {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            (message.topic, payload)
        };
        let mut pairs: Vec<_> = page.unwrap().messages.into_iter().map(pair).collect();
        pairs.sort_unstable();
        pairs
    }
}

fn uid(name: &str) -> Uid {
    name.parse().unwrap()
}

fn grant(client_msg_id: &str, user: &str, filter: &str, rights: (bool, bool)) -> v1::Up {
    v1::Up {
        client_msg_id: client_msg_id.to_owned(),
        command: Some(up::Command::Grant(v1::Grant {
            user: user.to_owned(),
            filter: filter.to_owned(),
            read: rights.0,
            write: rights.1,
        })),
    }
}

fn retain(token: u32, topic: &str, payload: &'static str) -> FromEdge {
    FromEdge {
        item: Some(from_edge::Item::Retain(Retain {
            session: 1,
            token,
            message: Some(PlainMessage {
                topic: topic.to_owned(),
                payload: payload.into(),
                ..Default::default()
            }),
        })),
    }
}

/// Each is answered, over a link on which nothing else happens, when the edge has applied it.
#[tokio::test]
async fn grants_are_checked_stored_and_taken_back() {
    const NOTHING: (bool, bool) = (false, false);
    const READ: (bool, bool) = (true, false);
    let fixture = Fixture::new().await;
    let (broker, link) = fixture.broker();
    let limits = limits(&fixture.settings);
    let (service, running) = Service::start(fixture.store.clone(), link, limits, Peers::none())
        .await
        .unwrap();
    let longest = "x".repeat(70);
    let too_long = format!("{longest}x");
    for (id, user, filter, rights, code, given) in [
        ("", "nobody", "#", READ, "not_found", 0),
        ("", "nobody", "#", NOTHING, "not_found", 0),
        ("", "no body", "#", READ, "invalid_argument", 0),
        ("", "alice", "#", READ, "invalid_argument", 0),
        ("", "bob", "a/#/b", READ, "invalid_argument", 0),
        ("", "bob", "$share/a/b", READ, "invalid_argument", 0),
        ("", "bob", "a/b/c", READ, "too_large", 0),
        ("", "bob", &too_long, READ, "too_large", 0),
        ("m1", "bob", "", READ, "", 1),
        ("", "bob", "#", NOTHING, "", 0),
        // Repeated: the first answer, and no second grant.
        ("m1", "bob", "", READ, "", 0),
        ("", "bob", "#", NOTHING, "", 0),
        ("", "bob", &longest, (false, true), "", 1),
        ("", "bob", "a/+", READ, "", 2),
        ("", "bob", "a/+", (true, true), "", 2),
        ("", "bob", "b", READ, "too_large", 2),
        ("", "bob", "b", NOTHING, "", 2),
    ] {
        let caller = Caller {
            uid: uid("alice"),
            device: String::new(),
        };
        let reply = service
            .execute(caller, grant(id, user, filter, rights))
            .await;
        let found = match reply.result.unwrap() {
            reply::Result::Ok(_) => String::new(),
            reply::Result::Error(error) => error.code,
        };
        let stored = grants::given(fixture.store.reader(), &uid("alice")).await;
        assert_eq!(
            (found.as_str(), stored.unwrap().len()),
            (code, given),
            "{user} {filter}"
        );
    }
    let received = grants::received(fixture.store.reader(), &uid("bob"), 10).await;
    let changed = Grant {
        owner: uid("alice"),
        user: uid("bob"),
        filter: "a/+".to_owned(),
        read: true,
        write: true,
    };
    assert!(received.unwrap().contains(&changed));
    broker.stop(std::time::Duration::from_secs(1)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_round_keeps_the_newest_message_of_a_topic() {
    let fixture = Fixture::new().await;
    let (mut pipeline, _rounds) = fixture.pipeline();
    for (number, items, expected) in [
        (
            1,
            vec![
                retain(1, "a", "1"),
                retain(2, "b", "1"),
                retain(0, "a", "2"),
            ],
            vec![("a", "2"), ("b", "1")],
        ),
        (
            2,
            vec![retain(3, "b", ""), retain(4, "c", "1"), retain(5, "c", "")],
            vec![("a", "2")],
        ),
        (
            3,
            vec![retain(6, "a", ""), retain(7, "a", "3")],
            vec![("a", "3")],
        ),
    ] {
        let round = fixture.round(&mut pipeline, number, items);
        pipeline.execute_round(round).await.unwrap();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(topic, payload)| (topic.to_owned(), payload.to_owned()))
            .collect();
        assert_eq!(fixture.retained().await, expected);
    }
}

/// Whatever is wrong with one of them, the others and the commands of the same round are executed.
#[tokio::test]
async fn a_retained_message_that_can_not_be_stored_breaks_nothing_else() {
    let fixture = Fixture::new().await;
    let (mut pipeline, mut rounds) = fixture.pipeline();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON retained
        WHEN instr(NEW.message, 'bad') BEGIN SELECT RAISE(FAIL, 'refused'); END";
    sql::execute(fixture.store.writer(), refuse, [])
        .await
        .unwrap();
    let items = vec![
        retain(1, "good", "1"),
        retain(2, "bad", "1"),
        retain(3, "fine", "1"),
    ];
    let mut round = fixture.round(&mut pipeline, 1, items);
    let caller = Caller {
        uid: uid("alice"),
        device: String::new(),
    };
    let (door, _answer) = oneshot::channel();
    let send = v1::Send {
        to: Some(v1::To {
            to: Some(v1::to::To::User("bob".into())),
        }),
        content: Some(v1::send::Content::Text("hi".into())),
        ..Default::default()
    };
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(up::Command::Send(send)),
    };
    let job = Job {
        command: command::check(&caller.uid, up, &limits(&fixture.settings)).unwrap(),
        caller,
        door: Door::Http(door),
        client_msg_id: String::new(),
        flagged: None,
    };
    pipeline.take_job(job, &mut round);
    pipeline.execute_round(round).await.unwrap();
    let announcement = rounds.recv().await.unwrap();
    assert!(matches!(
        announcement.executed[..],
        [(_, Outcome::Stored(_))]
    ));
    let reasons = announcement.first.into_iter().map(|item| match item.item {
        Some(to_edge::Item::Answer(answer)) => (answer.token, answer.reason),
        other => panic!("not an answer: {other:?}"),
    });
    assert_eq!(reasons.collect::<Vec<_>>(), [(1, 0), (2, 0x80), (3, 0)]);
    let kept = [("fine", "1"), ("good", "1")];
    let kept = kept.map(|(topic, payload)| (topic.to_owned(), payload.to_owned()));
    assert_eq!(fixture.retained().await, kept);
}

/// A new device that subscribes, loses its connection and goes on with its session before the pipeline has looked is
/// known; one that only goes on is not.
#[tokio::test]
async fn who_comes_back_within_a_round_is_known() {
    let fixture = Fixture::new().await;
    let (mut pipeline, mut rounds) = fixture.pipeline();
    let subscribe = |session: u64, device: &str, resumed: bool| FromEdge {
        item: Some(from_edge::Item::Subscribed(Subscribed {
            session,
            epoch: 1,
            uid: "bob".to_owned(),
            device: device.to_owned(),
            nameless: false,
            resumed,
            ..Default::default()
        })),
    };
    let frame = vec![
        subscribe(1, "phone", false),
        subscribe(2, "phone", true),
        subscribe(3, "laptop", true),
    ];
    let round = fixture.round(&mut pipeline, 1, frame);
    pipeline.execute_round(round).await.unwrap();
    let mut ended = Vec::new();
    while let Ok(announcement) = rounds.try_recv() {
        let items = announcement.last.into_iter();
        ended.extend(items.filter_map(|item| match item.item {
            Some(to_edge::Item::End(end)) => Some(end.session),
            _ => None,
        }));
    }
    assert_eq!(ended, [3]);
    let known = devices::list(fixture.store.reader(), &uid("bob")).await;
    let known: Vec<String> = known
        .unwrap()
        .into_iter()
        .map(|known| known.device)
        .collect();
    assert_eq!(known, ["phone"]);
}

/// A departure is written before a newcomer makes the one that was not seen for the longest time go.
#[tokio::test]
async fn who_has_left_last_stays_known() {
    let mut fixture = Fixture::new().await;
    fixture.settings.devices.per_user_max = 2;
    let (mut pipeline, _rounds) = fixture.pipeline();
    let item = |item| FromEdge { item: Some(item) };
    let subscribe = |session: u64, device: &str| {
        item(from_edge::Item::Subscribed(Subscribed {
            session,
            epoch: 1,
            uid: "bob".to_owned(),
            device: device.to_owned(),
            nameless: false,
            resumed: false,
            ..Default::default()
        }))
    };
    let connect = |session: u64, device: &str| {
        item(from_edge::Item::Connected(Connected {
            session,
            uid: "bob".to_owned(),
            device: device.to_owned(),
            ..Default::default()
        }))
    };
    let leave = |session: u64, device: &str| {
        [
            item(from_edge::Item::Gone(schema::link::Gone { session })),
            item(from_edge::Item::Disconnected(Disconnected {
                session,
                uid: "bob".to_owned(),
                device: device.to_owned(),
                nameless: false,
                reason: "lost".to_owned(),
                handed_over: false,
            })),
        ]
    };
    // Times are told apart by milliseconds.
    let tick = || {
        let now = || clock::millis(SystemTime::now());
        let before = now();
        while now() == before {
            std::thread::yield_now();
        }
    };
    let frames = [
        vec![connect(1, "phone"), subscribe(1, "phone")],
        vec![connect(2, "laptop"), subscribe(2, "laptop")],
        leave(2, "laptop").to_vec(),
        leave(1, "phone").to_vec(),
        vec![connect(3, "tablet"), subscribe(3, "tablet")],
    ];
    for (number, frame) in (1..).zip(frames) {
        tick();
        let round = fixture.round(&mut pipeline, number, frame);
        pipeline.execute_round(round).await.unwrap();
    }
    let known = devices::list(fixture.store.reader(), &uid("bob")).await;
    let known: Vec<(String, Option<String>)> = known
        .unwrap()
        .into_iter()
        .map(|known| (known.device, known.last_reason))
        .collect();
    let expected = [
        ("phone".to_owned(), Some("lost".to_owned())),
        ("tablet".to_owned(), None),
    ];
    assert_eq!(known, expected);
}
