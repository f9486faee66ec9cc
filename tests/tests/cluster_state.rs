//! Nodes that change the same conversations at the same time, and remember them as they were.

use anyhow::{Result, ensure};
use schema::v1::SettingsSet;
use schema::v1::up::Command;
use tidings_tests::client::{error_of, ok_of};
use tidings_tests::cluster::Plan;
use tidings_tests::{Client, Cluster, ask, up};
use tokio::task::JoinSet;

/// Commands of each device.
const COMMANDS: usize = 100;

/// Two nodes that tell each other nothing: all that keeps them together is the database.
async fn deaf_nodes(uids: &[&str]) -> Result<Cluster> {
    let cluster = Plan::of(2).start(uids).await?;
    cluster.to_redis(0).cut();
    cluster.to_redis(1).cut();
    Ok(cluster)
}

/// Who is let in at one node is heard at the other at once, and who is out is not, whatever that one remembers.
#[tokio::test]
async fn members_come_and_go_elsewhere() -> Result<()> {
    const ROUNDS: usize = 6;
    let cluster = deaf_nodes(&["alice", "bob", "carol"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    let team = || up::text(up::group("team"), "hi");
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    bob.tell(team()).await?;
    for round in 0..ROUNDS {
        alice.tell(up::group_remove("team", &["bob"])).await?;
        let said = up::new(team());
        let refused = [bob.ask(&said).await?, bob.ask(&said).await?];
        for refused in refused {
            assert_eq!(error_of(refused)?, "permission_denied", "round {round}");
        }
        alice.tell(up::group_add("team", &["bob"])).await?;
        let own = bob.tell(team()).await?.msg_id;
        // One that was refused is no message, and may become one.
        ok_of(bob.ask(&said).await?)?;

        let edit = up::edit(own, &format!("round {round}"));
        let mut commands = [team(), edit, schedule(team())];
        // Each is once the first that finds out.
        commands.rotate_left(round % 3);
        alice.tell(up::group_mute("team", "bob", 60)).await?;
        for command in commands.clone() {
            assert_eq!(bob.tell_in_vain(command).await?, "permission_denied");
        }
        alice.tell(up::group_mute("team", "bob", 0)).await?;
        for command in commands {
            bob.tell(command).await?;
        }
    }
    alice.tell(up::group_dissolve("team")).await?;
    assert_eq!(bob.tell_in_vain(team()).await?, "not_found");
    cluster.finish().await
}

/// The command that sends it in an hour.
fn schedule(command: Command) -> Command {
    let Command::Send(mut send) = command else {
        unreachable!("only messages are sent later")
    };
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default();
    let later = i64::try_from(now.as_millis()).unwrap_or_default() + 3_600_000;
    send.send_at = Some(schema::Timestamp::from_millis(later));
    Command::Send(send)
}

/// The same for what two users have to do with each other.
#[tokio::test]
async fn blocks_and_strangers_elsewhere() -> Result<()> {
    let cluster = deaf_nodes(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    let hi = || up::text(up::user("alice"), "hi");
    let first = bob.tell(hi()).await?.msg_id;
    let strangers = |allowed: bool| {
        ask::settings(SettingsSet {
            strangers: Some(allowed),
            ..Default::default()
        })
    };
    for round in 0..10 {
        let (shut, open) = match round % 2 {
            0 => (ask::block("bob", false), ask::unblock("bob")),
            _ => (strangers(false), strangers(true)),
        };
        alice.tell(shut).await?;
        let emoji = format!("{round}");
        for command in [
            hi(),
            up::react(first, &emoji, false),
            up::edit(first, "hey"),
        ] {
            assert_eq!(bob.tell_in_vain(command).await?, "permission_denied");
        }
        alice.tell(open).await?;
        bob.tell(hi()).await?;
        bob.tell(up::react(first, "x", round % 2 == 1)).await?;
    }
    cluster.finish().await
}

/// What differs between the counters and what is in the tables.
const WRONG: &str = "
    SELECT 'unread', c.name, m.uid, m.sent - m.sent_read, m.last_read_seq
    FROM members m JOIN conversations c ON c.id = m.conversation_id
    WHERE m.sent - m.sent_read <> (SELECT COUNT(*) FROM messages x
            WHERE x.conversation_id = m.conversation_id AND x.seq > m.last_read_seq
            AND (x.sender = m.uid OR x.hidden_from = m.uid
                OR EXISTS (SELECT 1 FROM hidden_messages h
                    WHERE h.uid = m.uid AND h.conversation_id = x.conversation_id AND h.seq = x.seq)))
    UNION ALL
    SELECT 'beyond the newest', c.name, m.uid, m.last_read_seq, m.last_ack_seq
    FROM members m JOIN conversations c ON c.id = m.conversation_id
    WHERE m.last_read_seq > c.last_seq OR m.last_ack_seq > c.last_seq
        OR m.visible_seq > c.last_seq OR m.deleted_seq > c.last_seq
    UNION ALL
    SELECT 'places', c.name, '', c.last_seq, COUNT(*)
    FROM conversations c LEFT JOIN messages x ON x.conversation_id = c.id
    GROUP BY c.id HAVING c.last_seq <> COUNT(*) OR c.last_seq <> COALESCE(MAX(x.seq), 0)
        OR c.last_msg_id <> COALESCE(MAX(x.msg_id), 0)
    UNION ALL
    SELECT 'changes', c.name, '', c.changes, MAX(k.change_number)
    FROM conversations c JOIN changed_messages k ON k.conversation_id = c.id
    GROUP BY c.id HAVING c.changes < MAX(k.change_number)
    UNION ALL
    SELECT 'changed twice', c.name, '', k.change_number, COUNT(*)
    FROM conversations c JOIN changed_messages k ON k.conversation_id = c.id
    GROUP BY c.id, k.change_number HAVING COUNT(*) > 1";

/// Something that a device of these people may do.
fn anything(said: &[u64]) -> Command {
    let conversation = ["g:team", "u:alice:bob"][fastrand::usize(..2)];
    let to = match conversation {
        "g:team" => up::group("team"),
        _ => up::user(["alice", "bob"][fastrand::usize(..2)]),
    };
    let message = match said {
        [] => 1,
        _ => said[fastrand::usize(..said.len())],
    };
    let seq = fastrand::u32(1..=said.len() as u32 + 1);
    match fastrand::u32(..20) {
        0..=5 => up::text(to, "text"),
        6..=9 => up::read(conversation, seq),
        10 | 11 => up::delete(&[message]),
        12 => ask::conversation_clear(conversation),
        13 => ask::conversation_delete(conversation),
        14 => Command::ConversationSet(schema::v1::ConversationSet {
            marked_unread: Some(fastrand::bool()),
            pinned: Some(fastrand::bool()),
            ..ask::view(conversation)
        }),
        15 => up::react(message, ["a", "b"][fastrand::usize(..2)], fastrand::bool()),
        16 => up::edit(message, &fastrand::u32(..).to_string()),
        17 => up::recall(message),
        18 => up::group_nickname("team", "", &fastrand::u32(..).to_string()),
        _ => match fastrand::bool() {
            true => up::group_add("team", &["carol"]),
            false => up::group_remove("team", &["carol"]),
        },
    }
}

/// Does many things, and is refused for no other reason than that others were faster.
async fn bustle(mut client: Client) -> Result<Client> {
    const FINE: [&str; 5] = [
        "not_found",
        "invalid_argument",
        "permission_denied",
        "conflict",
        "too_large",
    ];
    let mut said = Vec::new();
    for _ in 0..COMMANDS {
        let command = anything(&said);
        let asked = up::new(command);
        let reply = client.ask(&asked).await?;
        match ok_of(reply.clone()) {
            Ok(ok) => said.extend((ok.msg_id > 0).then_some(ok.msg_id)),
            Err(_) => {
                let code = error_of(reply)?;
                ensure!(FINE.contains(&code.as_str()), "{code}: {asked:?}");
            }
        }
        said.extend(client.arrivals_so_far().into_iter().flat_map(|arrival| {
            let ids = arrival.messages.into_iter().map(|message| message.msg_id);
            ids.collect::<Vec<_>>()
        }));
    }
    Ok(client)
}

/// However two nodes get in each other's way, what is counted is what is there.
#[tokio::test]
async fn counters_are_what_is_in_the_tables() -> Result<()> {
    let cluster = Cluster::with_users(2, &["alice", "bob", "carol"]).await?;
    let owner = cluster.login("alice").await?;
    owner
        .up(&up::new(up::group_create("team", &["bob"])))
        .await?;
    owner.up(&up::new(up::text(up::user("bob"), "hi"))).await?;

    let mut devices = JoinSet::new();
    for uid in ["alice", "bob"] {
        for (node, name) in [(0, "phone"), (1, "tablet"), (0, "desk"), (1, "car")] {
            let client = cluster.node(node).client(uid).device(name);
            devices.spawn(bustle(client.online().await?));
        }
    }
    let mut clients = Vec::new();
    while let Some(client) = devices.join_next().await {
        clients.push(client??);
    }
    for client in clients {
        client.disconnect().await?;
    }
    assert_eq!(cluster.sql(WRONG).await?, "");
    for conversation in ["g:team", "u:alice:bob"] {
        let count = "SELECT last_seq FROM conversations WHERE name =";
        let count = cluster.sql(&format!("{count} '{conversation}'")).await?;
        ensure!(count.trim().parse::<u32>()? > 20, "{conversation}: {count}");
    }
    cluster.finish().await
}

/// Limits hold where two nodes are asked at the same time.
#[tokio::test]
async fn limits_hold_across_nodes() -> Result<()> {
    const MAX: usize = 5;
    let plan = Plan::of(2).setting("TIDINGS__TOPICS__GRANTS_PER_USER_MAX", &MAX.to_string());
    let cluster = plan.start(&["alice", "bob"]).await?;
    let alice = cluster.login("alice").await?;
    let mut asked = JoinSet::new();
    for number in 0..6 * MAX {
        let api = cluster.api_at(number % 2, &alice);
        asked.spawn(async move {
            let filter = format!("room{number}/#");
            let up = up::new(up::grant("bob", &filter, true, false));
            api.ask(&up).await
        });
    }
    let mut given = 0;
    while let Some(answer) = asked.join_next().await {
        match answer?? {
            Ok(_) => given += 1,
            Err(code) => assert_eq!(code, "too_large"),
        }
    }
    assert_eq!(given, MAX);
    let count = cluster.sql("SELECT COUNT(*) FROM grants").await?;
    assert_eq!(count.trim(), MAX.to_string());
    cluster.finish().await
}
