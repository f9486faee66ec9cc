//! Wills: publishes that come when their client can no longer say anything.

use std::sync::Arc;

use schema::Topic;
use schema::link::FromEdge;
use tracing::debug;

use crate::codec::Will;
use crate::plain::exchange::{Exchange, client, now_ms};
use crate::plain::message::Message;
use crate::registry::{Handle, Newcomer};
use crate::session::{NO_ANSWER, uplink};

/// Whether a client may leave this will: where it may publish. Asked again when the will is published.
pub(crate) fn is_allowed(exchange: &Exchange, who: &Newcomer, topic: &str) -> bool {
    match Topic::parse(topic) {
        Topic::Up(_, uid) => uid == who.uid,
        Topic::Down(..) => false,
        Topic::Other => exchange.policy.may_publish(client(who), topic),
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
    if exchange
        .accept(&message, NO_ANSWER, handle, to_bridge)
        .is_err()
    {
        debug!(topic = &*will.topic, "a will could not be retained");
    }
}
