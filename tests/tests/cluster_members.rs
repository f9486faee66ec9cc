//! Who is connected where, on several nodes: presence, takeover, kicks and rights.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use schema::v1::event::Event;
use schema::v1::ok::Answer;
use serde_json::json;
use tidings_tests::cluster::{Cluster, Plan};
use tidings_tests::device::End;
use tidings_tests::server::password_of;
use tidings_tests::{Api, Client, eventually, up};

use crate::support::{ensure_complete, introduce, say_many};

const SESSION_TAKEN_OVER: u8 = 0x8e;
const REFUSED: u8 = 0x80;

/// Listens until a user appears like this.
async fn until(client: &mut Client, uid: &str, state: &str) -> Result<()> {
    let what = format!("{uid} {state}");
    let is_it = |event: &Event| match event {
        Event::Presence(found) => (found.uid == uid && found.state == state).then_some(()),
        _ => None,
    };
    client.event(&what, is_it).await
}

/// Nodes on which changes of presence are told soon.
async fn quick(nodes: usize, uids: &[&str]) -> Result<Cluster> {
    let plan = Plan::of(nodes)
        .setting("TIDINGS__PRESENCE__INTERVAL", "50ms")
        .setting("TIDINGS__PRESENCE__GRACE", "500ms");
    plan.start(uids).await
}

/// How one appears to oneself, and how many devices are connected.
async fn oneself(client: &mut Client, uid: &str) -> Result<(String, usize)> {
    let answer = client.tell(up::get_presence(&[uid])).await?.answer;
    let Some(Answer::Presences(list)) = answer else {
        bail!("no presences: {answer:?}");
    };
    let own = list.presences.into_iter().next();
    let own = own.context("no presence of one's own")?;
    let is_here = |state: &str| state != "offline";
    let here = own.devices.iter().filter(|found| is_here(&found.state));
    Ok((own.state, here.count()))
}

/// Who moves from one node to another within the grace has not gone; who leaves the last one has.
#[tokio::test]
async fn contacts_see_each_other_across_nodes() -> Result<()> {
    let cluster = quick(2, &["alice", "bob"]).await?;
    cluster.befriend("alice", "bob").await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let bob = cluster.node(1).client("bob").online().await?;
    until(&mut alice, "bob", "online").await?;
    bob.disconnect().await?;
    let mut bob = cluster.node(0).client("bob").online().await?;
    // Longer than the grace, in which nothing may happen.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = alice.events_so_far();
    let is_presence = |event: &Event| matches!(event, Event::Presence(_));
    ensure!(
        !told.iter().any(is_presence),
        "nothing has happened: {told:?}"
    );

    // One is seen as long as any device is there, wherever.
    let laptop = cluster.node(1).client("bob").device("laptop");
    let mut laptop = laptop.online().await?;
    eventually("both nodes know both devices", async || {
        let (here, there) = (
            oneself(&mut bob, "bob").await?,
            oneself(&mut laptop, "bob").await?,
        );
        Ok([here.1, there.1] == [2, 2])
    })
    .await?;
    bob.tell(up::appear("away")).await?;
    laptop.tell(up::appear("away")).await?;
    until(&mut alice, "bob", "away").await?;
    bob.tell(up::appear("online")).await?;
    until(&mut alice, "bob", "online").await?;
    bob.disconnect().await?;
    until(&mut alice, "bob", "away").await?;
    laptop.disconnect().await?;
    until(&mut alice, "bob", "offline").await?;
    cluster.finish().await
}

/// A node's users are gone some seconds after it was killed, and are told to be so once.
#[tokio::test]
async fn the_users_of_a_node_that_was_killed_go_offline() -> Result<()> {
    let mut cluster = quick(3, &["alice", "bob", "carol"]).await?;
    for uid in ["bob", "carol"] {
        cluster.befriend("alice", uid).await?;
    }
    let mut alice = cluster.node(1).client("alice").online().await?;
    let _bob = cluster.node(0).client("bob").online().await?;
    let _carol = cluster.node(0).client("carol").online().await?;
    let carol = cluster.node(2).client("carol").device("laptop");
    let mut carol = carol.online().await?;
    until(&mut alice, "bob", "online").await?;
    eventually("two devices are known", async || {
        Ok(oneself(&mut carol, "carol").await?.1 == 2)
    })
    .await?;
    let killed_at = Instant::now();
    cluster.kill(0).await?;
    until(&mut alice, "bob", "offline").await?;
    eventually("the dead node's device is forgotten", async || {
        Ok(oneself(&mut carol, "carol").await? == ("online".to_owned(), 1))
    })
    .await?;
    ensure!(
        killed_at.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed_at.elapsed()
    );
    let bob = cluster.node(2).login("bob").await?;
    eventually("it is noted why the device has gone", async || {
        let devices = bob.get("/v1/devices").await?.expect(200)?;
        Ok(devices["devices"][0]["lastReason"] == "node_lost")
    })
    .await?;
    // What a dead node had is in nobody's way.
    let mut bob = cluster.node(2).client("bob").online().await?;
    until(&mut alice, "bob", "online").await?;
    alice.say(up::user("bob"), "welcome back").await?;
    bob.message().await?;
    cluster.restart(0).await?;
    cluster.stop().await
}

/// A device that connects to another node ends what it had at the first one, in both directions.
#[tokio::test]
async fn a_device_is_at_one_node_at_a_time() -> Result<()> {
    let cluster = Cluster::with_users(2, &["alice"]).await?;
    for (from, to) in [(0, 1), (1, 0)] {
        let device = |node: usize| cluster.node(node).device("alice").id("phone").v5();
        let mut earlier = device(from).connect().await?;
        let mut later = device(to).connect().await?;
        assert_eq!(earlier.closed().await?, End::Disconnect(SESSION_TAKEN_OVER));
        later.ping().await?;
        later.disconnect().await?;
    }
    // One that is kept ends, too: it would only be in the way.
    let kept = cluster.node(0).device("alice").id("lamp").v5().kept();
    kept.connect().await?.vanish();
    let parked = Api::anonymous(cluster.node(0).http());
    let is_parked = async |count: f64| -> Result<bool> {
        let sample = r#"tidings_sessions{state="parked"}"#;
        Ok(parked.metric(sample).await? == count)
    };
    eventually("the session is kept", async || is_parked(1.0).await).await?;
    let lamp = cluster.node(1).device("alice").id("lamp").v5();
    let _lamp = lamp.connect().await?;
    eventually("the kept session has ended", async || is_parked(0.0).await).await?;
    cluster.finish().await
}

/// Chat messages that were on their way to a device at one node, or waited for it there, come when it is at the other.
#[tokio::test]
async fn nothing_is_lost_by_a_takeover() -> Result<()> {
    let cluster = Cluster::with_users(2, &["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let phone = |node: usize| cluster.node(node).client("bob").device("phone");
    introduce(phone(0)).await?;
    let mut earlier = phone(0).manual_acks().v5().online().await?;
    // More than the window: some are with the client, the others wait in its session.
    say_many(&mut alice, &up::user("bob"), 60).await?;
    earlier.message().await?;
    let mut later = phone(1).v5().online().await?;
    ensure_complete(&later.messages(60).await?, 60)?;
    let closed = earlier.closed().await?;
    assert_eq!(closed.reason, Some(SESSION_TAKEN_OVER), "{closed:?}");
    later.disconnect().await?;

    // A kept session at the first node, which nobody reads.
    let kept = phone(0).kept_session().online().await?;
    kept.drop_connection().await;
    say_many(&mut alice, &up::user("bob"), 20).await?;
    let mut later = phone(1).kept_session().online().await?;
    let missed = later.messages(20).await?;
    let seqs: Vec<u32> = missed.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (61..=80).collect::<Vec<_>>());
    cluster.finish().await
}

/// What ends sessions, done at one node to one who is connected to another.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Logout,
    Kick,
    NewPassword,
    PasswordByAdmin,
    Deletion,
    ForgottenDevice,
}

const ENDINGS: [Ending; 6] = [
    Ending::Logout,
    Ending::Kick,
    Ending::NewPassword,
    Ending::PasswordByAdmin,
    Ending::Deletion,
    Ending::ForgottenDevice,
];

impl Ending {
    async fn happens(self, uid: &str, user: &Api, admin: &Api) -> Result<()> {
        let new = json!({ "password": "something else" });
        let of_user = format!("/v1/admin/users/{uid}");
        let answer = match self {
            Ending::Logout => {
                let refresh = json!({ "refreshToken": user.tokens()?.refresh });
                user.post("/v1/auth/logout", &refresh).await?
            }
            Ending::Kick => admin.post(&format!("{of_user}/kick"), &json!({})).await?,
            Ending::NewPassword => {
                let change =
                    json!({ "oldPassword": password_of(uid), "newPassword": "something else" });
                user.post("/v1/auth/password", &change).await?
            }
            Ending::PasswordByAdmin => admin.post(&format!("{of_user}/password"), &new).await?,
            Ending::Deletion => admin.delete(&of_user).await?,
            Ending::ForgottenDevice => {
                // It is made known some time after its SUBACK.
                return eventually("the device is known", async || {
                    Ok(user.delete("/v1/devices/phone").await?.status != 404)
                })
                .await;
            }
        };
        answer.success().map(drop)
    }

    /// Whether the tokens that the user had are good for nothing any more.
    fn ends_logins(self) -> bool {
        !matches!(self, Ending::ForgottenDevice)
    }
}

/// Whatever ends sessions ends them at all nodes: at once where there is Redis, and within a second or two without it.
#[tokio::test]
async fn what_ends_sessions_counts_everywhere() -> Result<()> {
    let names = ["with", "without"].map(|redis| {
        let name = |ending| format!("{ending:?}-{redis}").to_lowercase();
        ENDINGS.map(name)
    });
    let uids: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
    let mut cluster = Cluster::with_users(2, &uids).await?;
    cluster.node(0).add_admin("root").await?;
    let admin = cluster.node(0).login("root").await?;
    for (has_redis, uids) in [true, false].into_iter().zip(&names) {
        if !has_redis {
            cluster.redis.stop().await?;
        }
        for (ending, uid) in ENDINGS.into_iter().zip(uids) {
            let user = cluster.node(0).login(uid).await?;
            let there = cluster.api_at(1, &user);
            there.get("/v1/devices").await?.expect(200)?;
            let token = user.tokens()?.access.clone();
            let phone = cluster.node(1).client(uid).device("phone").v5();
            let mut phone = phone.password(&token).online().await?;
            let ended_at = Instant::now();
            ending.happens(uid, &user, &admin).await?;
            phone.closed().await.with_context(|| uid.clone())?;
            let took = ended_at.elapsed();
            ensure!(took < Duration::from_secs(8), "{uid} took {took:?}");
            if ending.ends_logins() {
                eventually("the token is refused at the other node", async || {
                    Ok(there.get("/v1/devices").await?.status == 401)
                })
                .await?;
            }
        }
    }
    cluster.stop().await
}

/// A right that is given or taken back at one node counts at the other, with Redis and without it.
#[tokio::test]
async fn rights_count_everywhere() -> Result<()> {
    let mut cluster = Cluster::with_users(2, &["alice", "bob"]).await?;
    let owner = cluster.node(0).login("alice").await?;
    let mut lamp = cluster.node(1).device("alice").id("lamp").connect().await?;
    let grant = async |read: bool| {
        let grant = json!({ "user": "bob", "filter": "lamp", "read": read, "write": false });
        owner.put("/v1/grants", &grant).await?.success().map(drop)
    };
    let mut probes = 0;
    for has_redis in [true, false] {
        if !has_redis {
            cluster.redis.stop().await?;
        }
        grant(true).await?;
        let viewer = cluster.node(1).device("bob").id("viewer");
        let mut viewer = viewer.connect().await?;
        eventually("the right counts at the other node", async || {
            Ok(viewer.subscribe("dev/alice/lamp", 1).await? < REFUSED)
        })
        .await?;
        lamp.publish("dev/alice/lamp", "on", 1).await?;
        assert_eq!(viewer.next_on("dev/alice/lamp").await?, "on");
        viewer.subscribe("dev/bob/own", 1).await?;
        grant(false).await?;
        // Not even those that were there before get anything.
        let mut own = cluster.node(1).device("bob").id("own").connect().await?;
        eventually("nothing comes any more", async || {
            probes += 1;
            lamp.publish("dev/alice/lamp", "off", 1).await?;
            let sentinel = format!("probe {probes}");
            own.publish("dev/bob/own", &sentinel, 1).await?;
            Ok(viewer.until(&sentinel).await?.is_empty())
        })
        .await?;
        assert!(viewer.subscribe("dev/alice/lamp", 1).await? >= REFUSED);
    }
    cluster.stop().await
}

/// What is read on one node is told to the writer's devices on the others.
#[tokio::test]
async fn receipts_and_typing_reach_all_nodes() -> Result<()> {
    let cluster = Cluster::with_users(3, &["alice", "bob"]).await?;
    let device = async |node: usize, name: &str| {
        let device = cluster.node(node).client("alice").device(name);
        device.online().await
    };
    let mut phone = device(0, "phone").await?;
    let mut laptop = device(2, "laptop").await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    phone.say(up::user("bob"), "hi").await?;
    bob.message().await?;
    bob.tell(up::read("u:alice:bob", 1)).await?;
    bob.tell(up::typing(up::user("alice"), false)).await?;
    for alice in [&mut phone, &mut laptop] {
        let has_read = |event: &Event| match event {
            Event::Receipts(told) => told
                .members
                .iter()
                .any(|one| one.read_seq == 1)
                .then_some(()),
            _ => None,
        };
        alice.event("bob has read it", has_read).await?;
        let writes = |event: &Event| matches!(event, Event::Typing(_)).then_some(());
        alice.event("bob writes", writes).await?;
    }
    cluster.finish().await
}
