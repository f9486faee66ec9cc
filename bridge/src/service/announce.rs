//! What goes out: answers through the door that a command came in by, and items for the edge.

use bytes::Bytes;
use schema::link::{self, Position, ToEdge, to_edge};
use schema::v1;
use schema::wire::encode_down;
use tracing::debug;

use super::catch_up::Target;
use super::job::Door;
use super::refused::Refused;

/// A command's door and `client_msg_id`, and what it came to.
pub(super) type Answered = (Door, String, Result<v1::Ok, Refused>);

/// The answer as the wire has it.
pub(super) fn reply(client_msg_id: String, result: Result<v1::Ok, Refused>) -> v1::Reply {
    let result = match result {
        Ok(ok) => v1::reply::Result::Ok(ok),
        Err(refused) => v1::reply::Result::Error(refused.to_wire()),
    };
    v1::Reply {
        client_msg_id,
        result: Some(result),
    }
}

/// Sends an answer through the door that the command came in by.
pub(super) fn answer((door, client_msg_id, result): Answered, items: &mut Vec<ToEdge>) {
    let reason = match &result {
        Ok(_) => 0,
        Err(refused) => refused.code.mqtt_reason(),
    };
    let reply = reply(client_msg_id, result);
    match door {
        Door::Edge { session, token } => items.push(ToEdge {
            item: Some(to_edge::Item::Answer(link::Answer {
                session,
                token,
                reason: reason.into(),
                reply: encode_down(v1::down::Content::Reply(reply)),
            })),
        }),
        Door::Http(door) => {
            if door.send(reply).is_err() {
                debug!("an HTTP client did not wait for its answer");
            }
        }
    }
}

/// The answer to a publish on a plain topic, which has no reply.
pub(super) fn plain_answer(session: u64, token: u32, reason: u8) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::Answer(link::Answer {
            session,
            token,
            reason: reason.into(),
            reply: Bytes::new(),
        })),
    }
}

pub(super) fn catch_up_item(target: &Target, messages: Vec<link::Missed>) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::CatchUp(link::CatchUp {
            session: target.session,
            epoch: target.epoch,
            messages,
        })),
    }
}

pub(super) fn live_item(target: &Target, sent: Vec<Position>) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::Live(link::Live {
            session: target.session,
            epoch: target.epoch,
            sent,
        })),
    }
}

/// Ends a session that can't be served.
pub(super) fn end_item(target: &Target) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::End(link::End {
            session: target.session,
        })),
    }
}
