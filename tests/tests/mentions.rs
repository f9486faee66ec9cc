//! Mentions: named once, everybody only in groups, and changed with the text.

use anyhow::Result;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::v1::{Edit, Send, To, send};
use tidings_tests::{Server, up};

fn mentioning(to: To, mentions: &[&str]) -> Command {
    Command::Send(Send {
        mentions: mentions.iter().map(ToString::to_string).collect(),
        ..up::send(to, send::Content::Text("look".into()))
    })
}

#[tokio::test]
async fn mentions_are_handed_on_once() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;

    // Who is not in the group is named in the text all the same.
    let mentions = ["bob", "@all", "carol", "bob", "alice"];
    let sent = alice.tell(mentioning(up::group("team"), &mentions)).await?;
    let heard = bob.message().await?;
    assert_eq!(heard.mentions, ["bob", "@all", "carol", "alice"]);
    let edit = Edit {
        msg_id: sent.msg_id,
        text: "look again".into(),
        mentions: vec!["@all".into()],
    };
    let answer = alice.tell(Command::Edit(edit)).await?.answer;
    let Some(Answer::Message(edited)) = answer else {
        anyhow::bail!("no message: {answer:?}");
    };
    assert_eq!(edited.mentions, ["@all"]);
    // Recalled, and said again by a member.
    alice.tell(up::recall(sent.msg_id)).await?;
    bob.tell(mentioning(up::group("team"), &["@all"])).await?;

    for (to, mentions) in [
        (up::user("bob"), ["@all"]),
        (up::group("team"), ["@here"]),
        (up::group("team"), [""]),
    ] {
        let code = alice.tell_in_vain(mentioning(to, &mentions)).await?;
        assert_eq!(code, "invalid_argument", "{mentions:?}");
    }
    server.finish().await
}
