//! Wills: publishes that come when their client can no longer say anything.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use schema::Topic;
use schema::link::FromEdge;
use tracing::debug;

use crate::codec::{ReasonCode, Will, WillProperties};
use crate::plain::exchange::{Exchange, now_ms};
use crate::plain::filter::check_topic;
use crate::plain::message::Message;
use crate::plain::routing::Publication;
use crate::registry::{Handle, Newcomer};
use crate::session::{NO_ANSWER, uplink};

/// Whether a client may leave this will.
///
/// # Errors
/// The reason of the refusal.
pub(crate) fn check(exchange: &Exchange, who: &Newcomer, topic: &str) -> Result<(), ReasonCode> {
    check_topic(topic, exchange.limits).map_err(|_| ReasonCode::TopicNameInvalid)?;
    match is_allowed(exchange, who, topic) {
        true => Ok(()),
        false => Err(ReasonCode::NotAuthorized),
    }
}

/// A will may go where its client may publish. Asked again when it is published.
fn is_allowed(exchange: &Exchange, who: &Newcomer, topic: &str) -> bool {
    match Topic::parse(topic) {
        Topic::Up(_, uid) => uid == who.uid,
        Topic::Down(..) => false,
        Topic::Other => exchange.policy.may_publish(who.client(), topic),
    }
}

/// A will that does not keep the CONNECT in memory that it came with.
pub(crate) fn detached(will: Will) -> Will {
    let text = |text: ByteString| ByteString::from(String::from(&*text));
    let bytes = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
    Will {
        topic: text(will.topic),
        payload: bytes(will.payload),
        properties: will.properties.map(|set| {
            let user_properties = set.user_properties.into_iter();
            Box::new(WillProperties {
                content_type: set.content_type.map(text),
                response_topic: set.response_topic.map(text),
                correlation_data: set.correlation_data.map(bytes),
                user_properties: user_properties
                    .map(|(name, value)| (text(name), text(value)))
                    .collect(),
                ..*set
            })
        }),
        ..will
    }
}

/// Publishes a will.
pub(crate) fn publish(
    exchange: &Exchange,
    handle: &Handle,
    will: Will,
    to_bridge: &mut Vec<FromEdge>,
) {
    // [MQTT-3.1.2-10], but rights may have changed since.
    if !is_allowed(exchange, handle, &will.topic) {
        debug!(topic = &*will.topic, "a will is no longer allowed");
        return;
    }
    if let Topic::Up(format, _) = Topic::parse(&will.topic) {
        to_bridge.push(uplink(handle, NO_ANSWER, format, will.payload));
        return;
    }
    let message = Arc::new(Message::from_will(&will, now_ms()));
    let publication = Publication {
        publisher: handle,
        token: NO_ANSWER,
        is_for_others: exchange.has_others(),
    };
    if exchange.accept(&message, publication).is_err() {
        debug!(topic = &*will.topic, "a will could not be retained");
    }
}
