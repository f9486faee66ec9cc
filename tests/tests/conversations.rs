//! Conversations as their users see them: the list, what each user makes of it, and exact counts on all devices.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use schema::v1::event::Event;
use schema::v1::ok::Answer;
use schema::v1::{
    ConversationList, ConversationSet, ConversationState, GetConversations, up::Command,
};
use serde_json::{Value, json};
use tidings_tests::http::number;
use tidings_tests::{Api, Client, Server, ask, up};

use crate::support::{ensure_silence, say_many};

const DIRECT: &str = "u:alice:bob";

/// Where the caller stands, as a command's answer has it.
async fn change(client: &mut Client, command: Command) -> Result<ConversationState> {
    match client.tell(command).await?.answer {
        Some(Answer::State(state)) => Ok(*state),
        other => bail!("{other:?}"),
    }
}

/// The next event about the user's own conversations.
async fn state_event(client: &mut Client) -> Result<ConversationState> {
    let wanted = |event: &Event| match event {
        Event::Conversation(state) => Some(state.clone()),
        _ => None,
    };
    client.event("where the user stands", wanted).await
}

fn has_state(events: &[Event]) -> bool {
    let is_state = |event: &Event| matches!(event, Event::Conversation(_));
    events.iter().any(is_state)
}

async fn list(client: &mut Client, asked: GetConversations) -> Result<ConversationList> {
    let command = Command::GetConversations(asked);
    match client.tell(command).await?.answer {
        Some(Answer::Conversations(list)) => Ok(list),
        other => bail!("{other:?}"),
    }
}

fn names(list: &ConversationList) -> Vec<&str> {
    let states = list.conversations.iter().flat_map(|c| &c.state);
    states.map(|state| state.conversation.as_str()).collect()
}

/// The conversation as HTTP lists it.
async fn listed(api: &Api, conversation: &str) -> Result<Option<Value>> {
    let list = api.conversations().await?;
    Ok(list
        .into_iter()
        .find(|found| found["conversation"] == conversation))
}

/// Everything that a user sets reaches the user's other device and the list, once; nobody else hears of it.
#[tokio::test]
async fn what_is_set_reaches_the_other_device() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut phone = server.client("bob").device("phone").online().await?;
    let mut tablet = server
        .client("bob")
        .device("tablet")
        .json()
        .online()
        .await?;
    say_many(&mut alice, &up::user("bob"), 3).await?;
    let api = server.login("bob").await?;

    let view = || ask::view(DIRECT);
    type Look = fn(&ConversationState) -> bool;
    let steps: Vec<(ConversationSet, Look)> = vec![
        (
            ConversationSet {
                pinned: Some(true),
                ..view()
            },
            |state| state.pinned_at.is_some(),
        ),
        (
            ConversationSet {
                mute_secs: Some(u32::MAX),
                ..view()
            },
            |state| {
                state
                    .muted_until
                    .is_some_and(|until| until.seconds > 200_000_000_000)
            },
        ),
        (
            ConversationSet {
                draft: Some("dear…".into()),
                ..view()
            },
            |state| state.draft == "dear…",
        ),
        (
            ConversationSet {
                archived: Some(true),
                ..view()
            },
            |state| state.archived,
        ),
        (
            ConversationSet {
                marked_unread: Some(true),
                ..view()
            },
            |state| state.marked_unread && state.unread == 3 && state.pinned_at.is_some(),
        ),
        (
            ConversationSet {
                pinned: Some(false),
                draft: Some(String::new()),
                ..view()
            },
            |state| state.pinned_at.is_none() && state.draft.is_empty() && state.archived,
        ),
    ];
    for (set, is_as_asked) in steps {
        let state = change(&mut phone, Command::ConversationSet(set.clone())).await?;
        ensure!(is_as_asked(&state), "{state:?}");
        assert_eq!(state_event(&mut tablet).await?, state);
        // Once more changes nothing, and nobody hears of it.
        let again = change(&mut tablet, Command::ConversationSet(set)).await?;
        assert_eq!(again, state);
    }
    // The phone has the answers.
    for device in [&mut phone, &mut tablet, &mut alice] {
        ensure!(!has_state(&device.events_so_far()), "{device}");
    }

    // New messages leave it where it is.
    alice.say(up::user("bob"), "one more").await?;
    let found = listed(&api, DIRECT).await?.context("it is listed")?;
    assert_eq!(
        (&found["archived"], &found["markedUnread"]),
        (&json!(true), &json!(true))
    );
    let read = change(&mut phone, up::read(DIRECT, 2)).await?;
    ensure!(!read.marked_unread && read.unread == 2);
    assert_eq!(state_event(&mut tablet).await?, read);

    // Over HTTP, where both devices hear of it.
    let path = format!("/v1/conversations/{DIRECT}");
    let put = api
        .put(&path, &json!({ "archived": false, "muteSecs": 0 }))
        .await?
        .expect(200)?;
    assert_eq!(
        (&put["archived"], &put["mutedUntil"]),
        (&Value::Null, &Value::Null)
    );
    let patched = api
        .patch(&path, &json!({ "draft": "d" }))
        .await?
        .expect(200)?;
    assert_eq!(patched["draft"], "d");
    let read = api
        .post(&format!("{path}/read"), &json!({ "seq": 4 }))
        .await?
        .expect(200)?;
    assert_eq!(number(&read, "unread"), 0);
    for device in [&mut phone, &mut tablet] {
        state_event(device).await?;
        assert_eq!(state_event(device).await?.draft, "d");
        assert_eq!(serde_json::to_value(state_event(device).await?)?, read);
    }
    server.finish().await
}

/// Clearing hides what there was, deleting also hides the conversation, until there is something new; only for the user.
#[tokio::test]
async fn what_is_cleared_or_deleted_is_gone_for_the_user() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut phone = server.client("bob").device("phone").online().await?;
    let mut tablet = server
        .client("bob")
        .device("tablet")
        .json()
        .online()
        .await?;
    let away = server.client("bob").device("watch").online().await?;
    away.disconnect().await?;
    say_many(&mut alice, &up::user("bob"), 5).await?;
    phone.say(up::user("alice"), "my own").await?;
    let api = server.login("bob").await?;

    let state = change(&mut phone, ask::conversation_clear(DIRECT)).await?;
    assert_eq!(
        (state.unread, state.last_read_seq, state.visible_seq),
        (0, 6, 6)
    );
    assert_eq!(state_event(&mut tablet).await?, state);
    assert_eq!(
        change(&mut tablet, ask::conversation_clear(DIRECT)).await?,
        state
    );
    ensure!(api.history(DIRECT).await?.is_empty());
    let found = listed(&api, DIRECT).await?.context("it is listed")?;
    ensure!(found["lastMessage"].is_null());
    let page = phone
        .tell(up::sync(DIRECT, 0, 100))
        .await?
        .batch
        .context("a page")?;
    ensure!(page.messages.is_empty());
    assert_eq!(server.login("alice").await?.history(DIRECT).await?.len(), 6);

    phone
        .tell(Command::ConversationSet(ConversationSet {
            pinned: Some(true),
            mute_secs: Some(u32::MAX),
            ..ask::view(DIRECT)
        }))
        .await?;
    state_event(&mut tablet).await?;
    let state = change(&mut phone, ask::conversation_delete(DIRECT)).await?;
    ensure!(state.removed && state.pinned_at.is_none() && state.muted_until.is_some());
    assert_eq!(state_event(&mut tablet).await?, state);
    ensure!(listed(&api, DIRECT).await?.is_none());
    ensure!(
        list(&mut tablet, GetConversations::default())
            .await?
            .conversations
            .is_empty()
    );

    let sent = alice.say(up::user("bob"), "still there?").await?;
    let found = listed(&api, DIRECT).await?.context("it is back")?;
    assert_eq!(
        (number(&found, "unread"), number(&found, "lastSeq")),
        (1, 7)
    );
    assert_eq!(api.history(DIRECT).await?.len(), 1);
    // A device that was away is not sent what the user has cleared.
    let mut watch = server.client("bob").device("watch").online().await?;
    assert_eq!(watch.message().await?.msg_id, sent.msg_id);
    ensure_silence(&mut watch, "bob", &mut alice).await?;

    let deleted = api
        .delete(&format!("/v1/conversations/{DIRECT}"))
        .await?
        .expect(200)?;
    assert_eq!(deleted["removed"], true);
    ensure!(listed(&api, DIRECT).await?.is_none());
    let path = format!("/v1/conversations/{DIRECT}/clear");
    assert_eq!(
        api.post(&path, &json!({})).await?.expect(200)?,
        deleted,
        "nothing is left"
    );
    server.finish().await
}

/// Pinned ones first, then by latest activity; pages go on where the last one ended, over both doors.
#[tokio::test]
async fn the_list_is_in_order() -> Result<()> {
    let others = ["a", "b", "c", "d", "e"];
    let server = Server::with_users(&["zoe", "a", "b", "c", "d", "e"]).await?;
    let mut zoe = server.client("zoe").online().await?;
    for other in others {
        zoe.say(up::user(other), &format!("to {other}")).await?;
    }
    zoe.say(up::user("b"), "again").await?;
    for (other, archived) in [("a", None), ("d", None), ("c", Some(true))] {
        zoe.tell(Command::ConversationSet(ConversationSet {
            pinned: archived.is_none().then_some(true),
            archived,
            ..ask::view(&format!("u:{other}:zoe"))
        }))
        .await?;
    }
    let order = ["d", "a", "b", "e", "c"].map(|other| format!("u:{other}:zoe"));
    let api = server.login("zoe").await?;
    for limit in [1, 2, 5, 100] {
        let (mut page, mut found, mut over_http) = (String::new(), Vec::new(), Vec::new());
        loop {
            let asked = GetConversations {
                limit,
                page: page.clone(),
                ..Default::default()
            };
            let list = list(&mut zoe, asked).await?;
            let path = format!("/v1/conversations?limit={limit}&page={page}");
            let view = api.get(&path).await?.expect(200)?;
            let rows = view["conversations"].as_array().context("a list")?;
            over_http.extend(rows.iter().map(|row| row["conversation"].clone()));
            found.extend(names(&list).into_iter().map(str::to_owned));
            assert_eq!(view["next"].as_str().unwrap_or_default(), list.next);
            if list.next.is_empty() {
                break;
            }
            page = list.next;
        }
        assert_eq!(found, order);
        assert_eq!(over_http, order);
    }
    let archived = GetConversations {
        archived: Some(true),
        ..Default::default()
    };
    assert_eq!(names(&list(&mut zoe, archived).await?), ["u:c:zoe"]);
    let view = api
        .get("/v1/conversations?archived=false")
        .await?
        .expect(200)?;
    assert_eq!(view["conversations"].as_array().context("a list")?.len(), 4);
    let some = ["u:e:zoe", "u:a:zoe", "u:a:b", "g:none"].map(String::from);
    let some = GetConversations {
        conversations: some.into(),
        ..Default::default()
    };
    assert_eq!(names(&list(&mut zoe, some).await?), ["u:a:zoe", "u:e:zoe"]);
    server.finish().await
}

/// What is wrong is refused with a code that tells a stranger nothing, and changes nothing.
#[tokio::test]
async fn bad_commands_are_refused() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "eve"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("bob"), "between us").await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    let mut eve = server.client("eve").online().await?;
    for name in [DIRECT, "g:team", "u:no:one", "g:none"] {
        for command in [
            Command::ConversationSet(ConversationSet {
                pinned: Some(true),
                ..ask::view(name)
            }),
            ask::conversation_clear(name),
            ask::conversation_delete(name),
            up::read(name, 1),
        ] {
            let code = eve.tell_in_vain(command).await?;
            assert_eq!(code, "not_found", "{name}");
        }
    }
    let draft = |draft: String| {
        Command::ConversationSet(ConversationSet {
            draft: Some(draft),
            ..ask::view(DIRECT)
        })
    };
    let page = |page: &str| {
        Command::GetConversations(GetConversations {
            page: page.into(),
            ..Default::default()
        })
    };
    for (command, code) in [
        (draft("x".repeat(64 * 1024 + 1)), "too_large"),
        (draft("\0".into()), "invalid_argument"),
        (ask::conversation_clear("nonsense"), "invalid_argument"),
        (up::read(DIRECT, 2), "invalid_argument"),
        (page("nonsense"), "invalid_argument"),
        (page("-1-2"), "invalid_argument"),
        (ask::conversations(501), "invalid_argument"),
    ] {
        assert_eq!(alice.tell_in_vain(command).await?, code);
    }
    let api = server.login("eve").await?;
    let settings = json!({ "pinned": true });
    for name in [DIRECT, "g:none", "nonsense"] {
        let path = format!("/v1/conversations/{name}");
        api.put(&path, &settings).await?.problem(404, "not_found")?;
        api.delete(&path).await?.problem(404, "not_found")?;
    }
    let unknown = json!({ "pinnned": true });
    let answer = api
        .put(&format!("/v1/conversations/{DIRECT}"), &unknown)
        .await?;
    answer.problem(400, "invalid_argument")?;
    server.finish().await
}

/// A hundred devices send to a reader who reads on two devices meanwhile: at the end, the counts are right on all three
/// devices and over HTTP, and so they were in the last event of each.
#[tokio::test]
async fn unread_counts_are_exact_under_load() -> Result<()> {
    const USERS: [&str; 10] = ["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9"];
    const DEVICES: usize = 10;
    const EACH: u32 = 2;
    const LEFT_UNREAD: u32 = 2;
    let everybody: Vec<&str> = USERS.iter().copied().chain(["reader"]).collect();
    let server = Server::with_users(&everybody).await?;
    let mut senders = Vec::new();
    for uid in USERS {
        let token = server.login(uid).await?.tokens()?.access.clone();
        let devices = (0..DEVICES).map(|number| {
            let device = server.client(uid).device(&format!("{uid}-{number}"));
            device.password(&token).connect()
        });
        senders.extend(try_join_all(devices).await?);
    }
    let api = server.login("u0").await?;
    api.up(&up::new(up::group_create("team", &everybody)))
        .await?;
    let mut phone = server.client("reader").device("phone").online().await?;
    let mut tablet = server
        .client("reader")
        .device("tablet")
        .json()
        .online()
        .await?;
    let mut laptop = server
        .client("reader")
        .device("laptop")
        .v5()
        .online()
        .await?;

    let sending = async {
        let sending = senders.iter_mut().map(async |sender| {
            say_unheard(sender, &up::user("reader"), EACH).await?;
            say_unheard(sender, &up::group("team"), EACH).await
        });
        try_join_all(sending).await
    };
    // Directly, and in the group.
    let count = 2 * USERS.len() * DEVICES * EACH as usize;
    let (_, (), ()) = tokio::try_join!(
        sending,
        read_while_it_comes(&mut phone, count, 3),
        read_while_it_comes(&mut tablet, count, 7),
    )?;
    // So that each has something to read that was not read yet, and something that stays unread.
    for (index, _) in USERS.iter().enumerate() {
        let sender = &mut senders[index * DEVICES];
        say_unheard(sender, &up::user("reader"), LEFT_UNREAD + 1).await?;
    }
    say_unheard(&mut senders[0], &up::group("team"), LEFT_UNREAD + 1).await?;

    let api = server.login("reader").await?;
    let mut expected = BTreeMap::new();
    for conversation in api.conversations().await? {
        let name = conversation["conversation"].as_str().context("a name")?;
        let last_seq = number(&conversation, "lastSeq") as u32;
        let state = change(&mut phone, up::read(name, last_seq - LEFT_UNREAD)).await?;
        let history = api.history(name).await?;
        let is_unread = |message: &&schema::v1::Message| {
            message.seq > state.last_read_seq && message.sender != "reader"
        };
        let unread = history.iter().filter(is_unread).count();
        assert_eq!(state.unread as usize, unread, "{name}");
        assert_eq!(state.unread, LEFT_UNREAD, "{name}");
        expected.insert(name.to_owned(), state);
    }
    assert_eq!(expected.len(), USERS.len() + 1);
    for device in [&mut tablet, &mut laptop] {
        let mut last = BTreeMap::new();
        while last != expected {
            let state = state_event(device).await?;
            let before = last.insert(state.conversation.clone(), state.clone());
            let is_forward = before.is_none_or(|before| before.last_read_seq < state.last_read_seq);
            ensure!(is_forward, "{state:?}");
        }
        ensure!(!has_state(&device.events_so_far()), "more after the last");
    }
    for device in [&mut phone, &mut tablet, &mut laptop] {
        let list = list(device, GetConversations::default()).await?;
        assert_eq!(
            list.total_unread,
            expected.len() as u64 * u64::from(LEFT_UNREAD)
        );
        for conversation in list.conversations {
            let state = conversation.state.context("a state")?;
            assert_eq!(Some(&state), expected.get(&state.conversation));
        }
    }
    let view = api.get("/v1/conversations").await?.expect(200)?;
    assert_eq!(
        number(&view, "totalUnread"),
        expected.len() as u64 * u64::from(LEFT_UNREAD)
    );
    for row in api.conversations().await? {
        assert_eq!(number(&row, "unread"), u64::from(LEFT_UNREAD), "{row}");
    }
    server.finish().await
}

/// Sends without listening: only the PUBACKs tell that it is stored.
async fn say_unheard(sender: &mut Client, to: &schema::v1::To, count: u32) -> Result<()> {
    let mut tickets = Vec::new();
    for number in 1..=count {
        let text = up::text(to.clone(), &format!("number {number}"));
        tickets.push(sender.publish(&up::new(text)).await?);
    }
    for ticket in tickets {
        ensure!(sender.puback(ticket).await? == 0, "{sender} was refused");
    }
    Ok(())
}

/// Takes what comes, and reads up to every `step`th message.
async fn read_while_it_comes(device: &mut Client, count: usize, step: u32) -> Result<()> {
    let mut others = 0;
    while others < count {
        let message = device.message().await?;
        // What is said of the group itself comes beside.
        others += usize::from(message.kind == "text");
        if message.seq % step == 0 {
            device
                .publish(&up::new(up::read(&message.conversation, message.seq)))
                .await?;
        }
    }
    Ok(())
}
