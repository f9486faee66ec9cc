//! Contacts: both sides learn what they should, on all their devices, and no more.

use anyhow::{Context, Result, ensure};
use schema::v1::event::Event;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::v1::{self, Contact, ContactLabels, ContactRequest, ContactSet, GetContacts};
use serde_json::json;
use tidings_tests::server::Folder;
use tidings_tests::{Client, Server, ask, up};

/// The contact that an answer holds.
fn contact_of(ok: v1::Ok) -> Result<Contact> {
    match ok.answer {
        Some(Answer::Contact(contact)) => Ok(*contact),
        other => anyhow::bail!("no contact: {other:?}"),
    }
}

async fn change(client: &mut Client, command: Command) -> Result<Contact> {
    contact_of(client.tell(command).await?)
}

/// Waits for the event that tells of `uid`.
async fn hears_of(client: &mut Client, uid: &str) -> Result<Contact> {
    let of = |event: &Event| match event {
        Event::Contact(contact) if contact.uid == uid => Some(contact.clone()),
        _ => None,
    };
    client.event(&format!("the event about {uid}"), of).await
}

/// uid and state of all of the user's contacts.
async fn states(client: &mut Client) -> Result<Vec<(String, String)>> {
    let command = Command::GetContacts(GetContacts::default());
    let Some(Answer::Contacts(list)) = client.tell(command).await?.answer else {
        anyhow::bail!("no list of contacts");
    };
    let pairs = list.contacts.into_iter();
    Ok(pairs.map(|contact| (contact.uid, contact.state)).collect())
}

fn request(user: &str, text: &str) -> Command {
    Command::ContactRequest(ContactRequest {
        user: user.into(),
        text: text.into(),
    })
}

fn note(user: &str, remark: Option<&str>, groups: Option<&[&str]>) -> Command {
    let names = |groups: &[&str]| groups.iter().map(ToString::to_string).collect();
    Command::ContactSet(ContactSet {
        user: user.into(),
        remark: remark.map(str::to_owned),
        groups: groups.map(|groups| ContactLabels {
            names: names(groups),
        }),
    })
}

fn pair(uid: &str, state: &str) -> (String, String) {
    (uid.to_owned(), state.to_owned())
}

/// Asked, accepted, noted and ended: the answer, the other devices and the other side tell the same.
#[tokio::test]
async fn two_become_contacts_and_part() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let tablet = server.client("alice").device("tablet").json();
    let mut tablet = tablet.online().await?;
    let mut bob = server.client("bob").json().online().await?;

    let asked = change(&mut alice, request("bob", " it's me ")).await?;
    assert_eq!(
        (asked.uid.as_str(), asked.state.as_str()),
        ("bob", "requested")
    );
    assert_eq!(asked.user.context("the profile")?.uid, "bob");
    assert_eq!(hears_of(&mut tablet, "bob").await?.state, "requested");
    let heard = hears_of(&mut bob, "alice").await?;
    assert_eq!(
        (heard.state.as_str(), heard.text.as_str()),
        ("asked", "it's me")
    );
    // Again: nothing new, and nothing heard of it.
    let again = change(&mut alice, request("bob", "hello?")).await?;
    assert_eq!(
        (again.state.as_str(), again.text.as_str()),
        ("requested", "it's me")
    );

    assert_eq!(
        alice.tell_in_vain(ask::contact_accept("bob")).await?,
        "not_found"
    );
    let accepted = change(&mut bob, ask::contact_accept("alice")).await?;
    assert_eq!(accepted.state, "contact");
    for client in [&mut alice, &mut tablet] {
        assert_eq!(hears_of(client, "bob").await?.state, "contact");
    }

    let noting = note("bob", Some("Bobby"), Some(&["work", "chess", "work"]));
    let noted = change(&mut alice, noting).await?;
    assert_eq!((noted.remark.as_str(), noted.groups.len()), ("Bobby", 2));
    assert_eq!(
        hears_of(&mut tablet, "bob").await?.groups,
        ["work", "chess"]
    );
    let noted = change(&mut alice, note("bob", None, Some(&[]))).await?;
    assert_eq!((noted.remark.as_str(), noted.groups.len()), ("Bobby", 0));
    hears_of(&mut tablet, "bob").await?;

    assert_eq!(states(&mut alice).await?, [pair("bob", "contact")]);
    change(&mut bob, ask::contact_remove("alice")).await?;
    let ended = hears_of(&mut tablet, "bob").await?;
    assert_eq!((ended.state.as_str(), ended.remark.as_str()), ("none", ""));
    for client in [&mut alice, &mut bob] {
        assert_eq!(states(client).await?, []);
    }
    assert_eq!(
        alice.tell_in_vain(ask::contact_remove("bob")).await?,
        "not_found"
    );
    let noting = note("bob", Some("x"), None);
    assert_eq!(alice.tell_in_vain(noting).await?, "not_found");
    // What was noted of alice was private, as what alice has noted: bob has heard of one event per change of his.
    let heard = bob.events_so_far();
    ensure!(heard.is_empty(), "bob hears more than he should: {heard:?}");
    server.finish().await
}

/// Who is turned down goes on waiting; asking again reaches nobody, and the other side's wish makes them contacts.
#[tokio::test]
async fn who_is_turned_down_is_not_told() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    change(&mut alice, ask::contact_request("bob")).await?;
    hears_of(&mut bob, "alice").await?;
    let refused = change(&mut bob, ask::contact_refuse("alice")).await?;
    assert_eq!(refused.state, "none");
    assert_eq!(
        bob.tell_in_vain(ask::contact_accept("alice")).await?,
        "not_found"
    );
    assert_eq!(
        bob.tell_in_vain(ask::contact_refuse("alice")).await?,
        "not_found"
    );
    change(&mut alice, ask::contact_request("bob")).await?;
    assert_eq!(states(&mut bob).await?, []);
    assert_eq!(states(&mut alice).await?, [pair("bob", "requested")]);
    let heard = (alice.events_so_far(), bob.events_so_far());
    ensure!(heard.0.is_empty() && heard.1.is_empty(), "{heard:?}");

    // Taken back and asked anew, bob hears of it again; and he may ask instead of accepting.
    change(&mut alice, ask::contact_remove("bob")).await?;
    change(&mut alice, ask::contact_request("bob")).await?;
    assert_eq!(hears_of(&mut bob, "alice").await?.state, "asked");
    let both = change(&mut bob, ask::contact_request("alice")).await?;
    assert_eq!(both.state, "contact");
    assert_eq!(hears_of(&mut alice, "bob").await?.state, "contact");
    server.finish().await
}

/// A request that is taken back disappears from the other side.
#[tokio::test]
async fn a_request_can_be_taken_back() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    change(&mut alice, request("bob", "oops")).await?;
    hears_of(&mut bob, "alice").await?;
    change(&mut alice, ask::contact_remove("bob")).await?;
    let heard = hears_of(&mut bob, "alice").await?;
    assert_eq!((heard.state.as_str(), heard.text.as_str()), ("none", ""));
    assert_eq!(
        bob.tell_in_vain(ask::contact_accept("alice")).await?,
        "not_found"
    );
    server.finish().await
}

/// What can't be asked is refused in the same words over both doors.
#[tokio::test]
async fn bad_commands_are_refused() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let api = server.login("alice").await?;
    let many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "x".repeat(257);
    for (command, code) in [
        (ask::contact_request("nobody"), "not_found"),
        (ask::contact_request("alice"), "invalid_argument"),
        (request("a b", ""), "invalid_argument"),
        (request("", ""), "invalid_argument"),
        (request("bob", &long), "invalid_argument"),
        (request("bob", "a\nb"), "invalid_argument"),
        (ask::contact_accept("bob"), "not_found"),
        (ask::contact_remove("nobody"), "not_found"),
        (note("bob", Some("x"), None), "not_found"),
        (note("bob", None, Some(&["", "a"])), "invalid_argument"),
        (note("bob", None, Some(&many)), "too_large"),
        (note("bob", Some(&long), None), "invalid_argument"),
        (ask::block("nobody", false), "not_found"),
        (ask::block("alice", true), "invalid_argument"),
        (ask::unblock("nobody"), "not_found"),
        (
            Command::GetContacts(GetContacts {
                limit: 501,
                ..Default::default()
            }),
            "invalid_argument",
        ),
        (
            Command::GetContacts(GetContacts {
                page: "%".into(),
                ..Default::default()
            }),
            "invalid_argument",
        ),
    ] {
        let what = format!("{command:?}");
        let up = serde_json::to_value(up::new(command.clone()))?;
        let answer = api.post("/v1/up", &up).await?;
        assert_eq!(answer.body["code"], code, "{what}");
        assert_eq!(alice.tell_in_vain(command).await.context(what)?, code);
    }
    assert_eq!(states(&mut alice).await?, []);
    server.finish().await
}

/// The same over HTTP, page by page.
#[tokio::test]
async fn contacts_over_http() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let api = server.login("alice").await?;
    let mut tablet = server.client("alice").json().online().await?;
    for uid in ["bob", "carol", "dave"] {
        let request = json!({ "user": uid, "text": "hi", "clientMsgId": format!("to-{uid}") });
        let contact = api.post("/v1/contacts", &request).await?.expect(200)?;
        assert_eq!(contact["state"], "requested");
        // Repeated, it gets the first answer.
        assert_eq!(
            api.post("/v1/contacts", &request).await?.expect(200)?,
            contact
        );
        assert_eq!(hears_of(&mut tablet, uid).await?.state, "requested");
    }
    let bob = server.login("bob").await?;
    let nothing = json!({});
    let accepted = bob
        .post("/v1/contacts/alice/accept", &nothing)
        .await?
        .expect(200)?;
    assert_eq!(accepted["state"], "contact");
    let carol = server.login("carol").await?;
    carol
        .post("/v1/contacts/alice/refuse", &nothing)
        .await?
        .expect(200)?;
    let answer = carol.post("/v1/contacts/alice/accept", &nothing).await?;
    answer.problem(404, "not_found")?;
    api.delete("/v1/contacts/dave").await?.expect(204)?;
    api.delete("/v1/contacts/dave")
        .await?
        .problem(404, "not_found")?;
    let notes = json!({ "remark": "Bobby", "groups": ["chess"] });
    let noted = api.patch("/v1/contacts/bob", &notes).await?.expect(200)?;
    assert_eq!(
        (&noted["remark"], &noted["groups"][0]),
        (&json!("Bobby"), &json!("chess"))
    );

    let first = api.get("/v1/contacts?limit=1").await?.expect(200)?;
    assert_eq!(first["contacts"][0]["uid"], "bob");
    assert_eq!(first["contacts"][0]["user"]["uid"], "bob");
    let next = first["next"].as_str().context("there is more")?;
    let path = format!("/v1/contacts?limit=1&page={next}");
    let second = api.get(&path).await?.expect(200)?;
    assert_eq!(second["contacts"][0]["uid"], "carol");
    assert!(second.get("next").is_none(), "{second}");
    let stranger = server.api().get("/v1/contacts").await?;
    stranger.problem(401, "unauthenticated")?;
    server.finish().await
}

/// Contacts and requests are bounded, whoever begins them, and what is given up makes room.
#[tokio::test]
async fn contacts_are_bounded() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__CONTACTS__PER_USER_MAX", "3")
        .setting("TIDINGS__CONTACTS__REQUESTS_MAX", "2");
    let server = Server::start_in(folder, &["alice", "bob", "carol", "dave", "erin"]).await?;
    let mut alice = server.client("alice").online().await?;
    for uid in ["bob", "carol"] {
        change(&mut alice, ask::contact_request(uid)).await?;
    }
    let third = || ask::contact_request("dave");
    assert_eq!(alice.tell_in_vain(third()).await?, "too_large");
    change(&mut alice, ask::block("dave", false)).await?;
    assert_eq!(
        alice.tell_in_vain(ask::block("erin", false)).await?,
        "too_large"
    );
    change(&mut alice, ask::unblock("dave")).await?;

    // Two wait for bob now, and a third one can't: not even one whom he has blocked, who is told the same.
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").online().await?;
    change(&mut carol, ask::contact_request("bob")).await?;
    change(&mut bob, ask::block("dave", true)).await?;
    for uid in ["dave", "erin"] {
        let mut other = server.client(uid).online().await?;
        let refused = other.tell_in_vain(ask::contact_request("bob")).await?;
        assert_eq!(refused, "rate_limited", "{uid}");
    }
    change(&mut bob, ask::contact_accept("carol")).await?;
    change(&mut bob, ask::contact_accept("alice")).await?;
    // Bob has three now, dave's block included.
    change(&mut alice, ask::contact_remove("carol")).await?;
    let mut erin = server.client("erin").online().await?;
    change(&mut erin, ask::contact_request("bob")).await?;
    assert_eq!(
        bob.tell_in_vain(ask::contact_accept("erin")).await?,
        "too_large"
    );
    change(&mut bob, ask::unblock("dave")).await?;
    change(&mut bob, ask::contact_accept("erin")).await?;
    server.finish().await
}

/// Both ask at the same moment: they are contacts, and nothing waits.
#[tokio::test]
async fn who_ask_each_other_are_contacts() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let (one, other) = tokio::join!(
        change(&mut alice, ask::contact_request("bob")),
        change(&mut bob, ask::contact_request("alice"))
    );
    let states_told = [one?.state, other?.state];
    ensure!(
        states_told.contains(&"contact".to_owned()),
        "{states_told:?}"
    );
    assert_eq!(states(&mut alice).await?, [pair("bob", "contact")]);
    assert_eq!(states(&mut bob).await?, [pair("alice", "contact")]);
    server.finish().await
}
