//! Packets, payloads, topics and rules: always the same ones.

use std::num::NonZeroU16;

use broker::codec::{
    Ack, Connect, ConnectProperties, Packet, Publish, PublishProperties, Qos, ReasonCode, Version,
};
use broker::internals::{Filters, Rights};
use broker::{Action, Effect, Rule, RuleError, Rules, Who};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use schema::link::Grant;
use schema::v1::{self, send, to, up};
use schema::{Format, MsgId, Uid};

/// A user with this number.
///
/// # Panics
/// Never: it is a uid whatever the number.
#[must_use]
pub fn uid(number: usize) -> Uid {
    let name = format!("user{number:05}");
    name.parse().expect("letters and digits are a uid")
}

/// A packet as it is on the wire.
#[must_use]
pub fn encoded(version: Version, packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.encode(version, &mut bytes);
    bytes
}

/// A publish at QoS 1. In MQTT 5 it has a property, as an application's publishes usually do.
#[must_use]
pub fn publish(version: Version, topic: &str, packet_id: NonZeroU16, payload: Bytes) -> Packet {
    let properties = (version == Version::V5).then(|| {
        Box::new(PublishProperties {
            content_type: Some("text/plain".into()),
            ..Default::default()
        })
    });
    Packet::Publish(Publish {
        qos: Qos::AtLeastOnce,
        topic: topic.into(),
        packet_id: Some(packet_id),
        payload,
        properties,
        ..Default::default()
    })
}

/// A PUBACK that says that all is well.
#[must_use]
pub fn puback(packet_id: NonZeroU16) -> Packet {
    Packet::PubAck(Ack {
        packet_id,
        reason: ReasonCode::Success,
        properties: None,
    })
}

/// A CONNECT with user name and password.
#[must_use]
pub fn connect(version: Version, user: &Uid) -> Packet {
    let properties = (version == Version::V5).then(|| {
        Box::new(ConnectProperties {
            session_expiry_interval: Some(3600),
            receive_maximum: NonZeroU16::new(100),
            ..Default::default()
        })
    });
    Packet::Connect(Box::new(Connect {
        version,
        client_id: "phone".into(),
        keep_alive: 60,
        clean_start: true,
        username: Some(user.as_str().into()),
        password: Some(Bytes::from_static(b"correct horse battery staple")),
        will: None,
        properties,
    }))
}

/// A command that sends a text of `length` bytes to `to`.
#[must_use]
pub fn send(to: &Uid, client_msg_id: String, length: usize) -> v1::Up {
    let send = v1::Send {
        to: Some(v1::To {
            to: Some(to::To::User(to.to_string())),
        }),
        content: Some(send::Content::Text("x".repeat(length))),
        ..Default::default()
    };
    v1::Up {
        client_msg_id,
        command: Some(up::Command::Send(send)),
    }
}

/// A command as a client writes it.
///
/// # Panics
/// Never: a command has a JSON form.
#[must_use]
pub fn written(format: Format, up: &v1::Up) -> Bytes {
    match format {
        Format::Protobuf => up.encode_to_vec().into(),
        Format::Json => serde_json::to_vec(up).expect("text and names").into(),
    }
}

/// A stored message as the bridge delivers it, with a text of `length` bytes.
#[must_use]
pub fn message(seq: u32, length: usize) -> v1::Message {
    let msg_id = MsgId(7_000_000_000_000_000 + u64::from(seq));
    v1::Message {
        msg_id: msg_id.0,
        conversation: "g:demo".to_owned(),
        seq,
        sender: uid(0).to_string(),
        sender_device: "phone".to_owned(),
        client_msg_id: format!("message-{seq}"),
        content: Some(v1::message::Content::Text("x".repeat(length))),
        sent_at: Some(msg_id.timestamp()),
        ..Default::default()
    }
}

/// Rules of every kind: for all and for some, that open and that close, with the client's own names in them.
///
/// # Errors
/// None of them is refused, unless what rules can be about has changed.
pub fn rules() -> Result<Rules, RuleError> {
    let rule = |effect, action, who, topics: &str| Rule {
        effect,
        action,
        who,
        topics: vec![topics.to_owned()],
    };
    Rules::compile(vec![
        rule(Effect::Allow, Action::Subscribe, Who::Everyone, "news/#"),
        rule(Effect::Allow, Action::All, Who::Users, "by/%u/%c/#"),
        rule(Effect::Allow, Action::All, Who::Users, "site/+/floor/#"),
        rule(Effect::Allow, Action::All, Who::Administrators, "#"),
        rule(Effect::Deny, Action::All, Who::Users, "site/+/secret/#"),
    ])
}

/// User 1 lets `user` use some of the own topics, [`LAMP`] among them.
#[must_use]
pub fn grants(user: &Uid) -> Vec<Grant> {
    let grant = |filter: &str, write| Grant {
        owner: uid(1).to_string(),
        user: user.to_string(),
        filter: filter.to_owned(),
        read: true,
        write,
    };
    vec![grant("door/+/state", false), grant("lamp/#", true)]
}

/// A topic of user 1.
pub const LAMP: &str = "dev/user00001/lamp/state";

/// Rights by [`rules`], and user 0's by [`grants`].
///
/// # Errors
/// As [`rules`].
pub fn rights() -> Result<Rights, RuleError> {
    let rights = Rights::new(rules()?);
    for grant in grants(&uid(0)) {
        rights.grant(&uid(1), &uid(0), &grant);
    }
    Ok(rights)
}

/// All lamps of a room with this number, in one of a hundred buildings. [`rules`] open it to all users.
#[must_use]
pub fn room(number: usize) -> String {
    format!("site/{}/floor/{number}/+", number % 100)
}

/// A filter with this number: of a user's devices, or of a room. The first one matches [`LAMP`].
#[must_use]
pub fn filter(number: usize) -> String {
    match number % 3 {
        0 => format!("dev/{}/#", uid(number + 1)),
        1 => format!("dev/{}/lamp/state", uid(number)),
        _ => room(number),
    }
}

/// So many filters.
#[must_use]
pub fn filters(count: usize) -> Filters {
    let mut filters = Filters::default();
    for number in 0..count {
        filters.add(&filter(number));
    }
    filters
}
