//! Messages for later: sent once, at their time, whatever happens to the server in between.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use schema::v1::event::Event;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::v1::{GetScheduled, Ok as Done, ScheduleCancel, Scheduled, Send, To, send};
use schema::{MsgId, Timestamp};
use tidings_tests::client::ok_of;
use tidings_tests::{Client, Server, eventually, up};

use crate::support::text_of;

fn from_now(after: Duration) -> Timestamp {
    // A message's id holds a time.
    MsgId::at(SystemTime::now() + after).timestamp()
}

fn later(to: To, text: &str, after: Duration) -> Command {
    Command::Send(Send {
        send_at: Some(from_now(after)),
        ..up::send(to, send::Content::Text(text.into()))
    })
}

fn one(ok: Done) -> Result<Scheduled> {
    match ok.answer {
        Some(Answer::Scheduled(mut list)) if list.scheduled.len() == 1 => {
            Ok(list.scheduled.remove(0))
        }
        other => bail!("not one scheduled message: {other:?}"),
    }
}

async fn waiting(client: &mut Client) -> Result<Vec<Scheduled>> {
    let asked = Command::GetScheduled(GetScheduled {});
    match client.tell(asked).await?.answer {
        Some(Answer::Scheduled(list)) => Ok(list.scheduled),
        other => bail!("no list: {other:?}"),
    }
}

async fn told(client: &mut Client) -> Result<Scheduled> {
    let take = |event: &Event| match event {
        Event::Scheduled(scheduled) => Some(scheduled.clone()),
        _ => None,
    };
    client.event("a scheduled message", take).await
}

#[tokio::test]
async fn a_message_is_sent_at_its_time() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut tablet = server.client("alice").device("tablet").online().await?;
    let mut bob = server.client("bob").online().await?;
    let hour = Duration::from_secs(3600);
    let much_later = one(alice
        .tell(later(up::user("bob"), "much later", hour))
        .await?)?;
    let second = Duration::from_secs(1);
    let ask = up::with_id("s1", later(up::user("bob"), "later", second));
    let scheduled = one(ok_of(alice.ask(&ask).await?)?)?;
    assert_eq!(scheduled.state, "waiting");
    assert_eq!(scheduled.conversation, "u:alice:bob");
    assert_eq!(told(&mut tablet).await?, much_later);
    assert_eq!(told(&mut tablet).await?, scheduled);
    // Asked again, it is the same one.
    let again = one(ok_of(alice.ask(&ask).await?)?)?;
    assert_eq!(again.id, scheduled.id);
    let bobs = server.login("bob").await?.conversations().await?;
    ensure!(bobs.is_empty(), "nothing was said yet: {bobs:?}");

    let heard = bob.message().await?;
    assert_eq!(text_of(&heard), "later");
    let millis = |at: Option<Timestamp>| at.map(|at| (at.seconds, at.nanos));
    ensure!(
        millis(heard.sent_at) >= millis(scheduled.send_at),
        "too early"
    );
    // All of the sender's devices get it.
    for device in [&mut alice, &mut tablet] {
        assert_eq!(device.message().await?, heard);
        let sent = told(device).await?;
        assert_eq!((sent.id, sent.state.as_str()), (scheduled.id, "sent"));
    }
    let again = one(ok_of(alice.ask(&ask).await?)?)?;
    assert_eq!(again.id, scheduled.id, "also when it was sent");
    assert_eq!(waiting(&mut tablet).await?, [much_later]);
    assert_eq!(
        server.login("bob").await?.history("u:alice:bob").await?,
        [heard]
    );
    server.finish().await
}

#[tokio::test]
async fn a_canceled_message_is_not_sent() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut tablet = server
        .client("alice")
        .device("tablet")
        .json()
        .online()
        .await?;
    let mut bob = server.client("bob").online().await?;
    let second = Duration::from_secs(1);
    let first = one(alice.tell(later(up::user("bob"), "no", second)).await?)?;
    let cancel = |id: u64| Command::ScheduleCancel(ScheduleCancel { id });
    assert_eq!(bob.tell_in_vain(cancel(first.id)).await?, "not_found");
    let canceled = one(tablet.tell(cancel(first.id)).await?)?;
    assert_eq!(
        (canceled.id, canceled.state.as_str()),
        (first.id, "canceled")
    );
    assert_eq!(told(&mut alice).await?, canceled);
    assert_eq!(alice.tell_in_vain(cancel(first.id)).await?, "not_found");

    // By HTTP too; and what comes after both comes alone.
    alice.tell(later(up::user("bob"), "no", second)).await?;
    let api = server.login("alice").await?;
    let list = api.get("/v1/scheduled").await?.expect(200)?;
    let id = list["scheduled"][0]["id"].as_str().context("an id")?;
    let deleted = api.delete(&format!("/v1/scheduled/{id}")).await?;
    assert_eq!(deleted.status, 204);
    alice.tell(later(up::user("bob"), "yes", second)).await?;
    assert_eq!(text_of(&bob.message().await?), "yes");
    server.finish().await
}

/// What can't be sent now is refused now, and what can't be sent any more is told then.
#[tokio::test]
async fn a_message_is_checked_twice() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    carol_group(&server).await?;
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let too_late = Duration::from_secs(367 * 24 * 3600);
    for (to, after, code) in [
        (up::user("nobody"), hour, "not_found"),
        (up::group("nothing"), hour, "not_found"),
        (up::group("hers"), hour, "permission_denied"),
        (up::user("bob"), too_late, "invalid_argument"),
    ] {
        let command = later(to, "hi", after);
        assert_eq!(alice.tell_in_vain(command).await?, code);
    }
    let past = up::send(up::user("bob"), send::Content::Text("at once".into()));
    let past = Send {
        send_at: Some(Timestamp::from_millis(1)),
        ..past
    };
    assert_eq!(alice.tell(Command::Send(past)).await?.seq, 1);

    bob.tell(later(up::group("team"), "too late", second))
        .await?;
    bob.tell(up::group_leave("team")).await?;
    let failed = told(&mut bob).await?;
    assert_eq!(failed.state, "failed");
    let error = failed.error.context("why")?;
    assert_eq!(error.code, "permission_denied");
    assert_eq!(waiting(&mut bob).await?, []);

    for number in 1..=100 {
        let command = later(up::user("bob"), &format!("{number}"), hour);
        alice.tell(command).await?;
    }
    let one_more = later(up::user("bob"), "one more", hour);
    assert_eq!(alice.tell_in_vain(one_more).await?, "too_large");
    assert_eq!(waiting(&mut alice).await?.len(), 100);
    server.finish().await
}

async fn carol_group(server: &Server) -> Result<()> {
    let create = up::new(up::group_create("hers", &[]));
    server.login("carol").await?.up(&create).await?;
    Ok(())
}

/// kill -9 before the time and around it: each message is sent, once.
#[tokio::test]
async fn a_killed_server_sends_it_once() -> Result<()> {
    const MESSAGES: usize = 60;
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for number in 0..MESSAGES {
        // From now on, one after the other, for some seconds.
        let after = Duration::from_millis(500 + 50 * number as u64);
        let command = later(up::user("bob"), &number.to_string(), after);
        one(alice.tell(command).await?)?;
    }
    let sent = async |server: &Server| -> Result<usize> {
        let api = server.login("bob").await?;
        Ok(match api.conversations().await?.is_empty() {
            true => 0,
            false => api.history("u:alice:bob").await?.len(),
        })
    };
    server.kill().await?;
    server.restart().await?;
    for part in [MESSAGES / 4, MESSAGES / 2] {
        eventually("some are sent", async || Ok(sent(&server).await? >= part)).await?;
        server.kill().await?;
        server.restart().await?;
    }
    let mut alice = server.client("alice").online().await?;
    eventually(
        "all are sent",
        async || Ok(sent(&server).await? >= MESSAGES),
    )
    .await?;
    assert_eq!(waiting(&mut alice).await?, []);
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    let mut numbers: Vec<usize> = Vec::new();
    for message in &history {
        numbers.push(text_of(message).parse()?);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
    server.finish().await
}
