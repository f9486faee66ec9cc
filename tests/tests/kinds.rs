//! Every kind of content arrives as it was sent, in both formats, live and from history.

use anyhow::Result;
use schema::v1::message::Content;
use schema::v1::up::Command;
use schema::v1::{Location, Media, Send, send};
use tidings_tests::{Server, up};

#[tokio::test]
async fn every_kind_arrives_as_it_was_sent() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut phone = server.client("bob").online().await?;
    let mut laptop = server
        .client("bob")
        .device("laptop")
        .json()
        .online()
        .await?;
    let media = Media {
        url: "https://example.org/cat.png".into(),
        name: "cat.png".into(),
        mime: "image/png".into(),
        size: 1 << 40,
        width: 640,
        height: 480,
        duration_ms: 1,
        thumbnail: vec![0, 255, 1].into(),
        caption: "A cat — 猫".into(),
    };
    let place = Location {
        latitude: 52.525,
        longitude: 13.369,
        name: "Central Station".into(),
        address: "Europaplatz 1".into(),
    };
    let body = bytes::Bytes::from_static(b"\x00\xff");
    for (kind, content, expected_kind, expected) in [
        (
            "",
            send::Content::Text("hi".into()),
            "text",
            Content::Text("hi".into()),
        ),
        (
            "",
            send::Content::Body(body.clone()),
            "custom",
            Content::Body(body.clone()),
        ),
        (
            "image",
            send::Content::Body(body.clone()),
            "image",
            Content::Body(body.clone()),
        ),
        (
            "",
            send::Content::Media(media.clone()),
            "image",
            Content::Media(Box::new(media.clone())),
        ),
        (
            "file",
            send::Content::Media(media.clone()),
            "file",
            Content::Media(Box::new(media.clone())),
        ),
        (
            "",
            send::Content::Location(place.clone()),
            "location",
            Content::Location(Box::new(place.clone())),
        ),
    ] {
        let send = Send {
            kind: kind.into(),
            ..up::send(up::user("bob"), content)
        };
        alice.tell(Command::Send(send)).await?;
        let heard = phone.message().await?;
        assert_eq!(heard.kind, expected_kind);
        assert_eq!(heard.content, Some(expected));
        assert_eq!(laptop.message().await?, heard);
        let history = server.login("bob").await?.history("u:alice:bob").await?;
        assert_eq!(history.last(), Some(&heard));
    }
    server.finish().await
}

/// What only the server says, nobody else does.
#[tokio::test]
async fn nobody_speaks_for_the_server() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for kind in ["system", "merged"] {
        let send = Send {
            kind: kind.into(),
            ..up::send(up::user("bob"), send::Content::Text("hi".into()))
        };
        let code = alice.tell_in_vain(Command::Send(send)).await?;
        assert_eq!(code, "invalid_argument", "{kind}");
    }
    server.finish().await
}
