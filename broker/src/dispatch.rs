//! From the bridge to the sessions: frames are applied in their order, without ever waiting for a client.

use std::convert::Infallible;
use std::sync::Arc;

use schema::link::{CatchUp, Deliver, DownFrame, Elsewhere, ToEdge, to_edge};

use tokio_util::sync::CancellationToken;

use crate::closed::Closed;
use crate::codec::ReasonCode;
use crate::edge::Edge;
use crate::link::{Flow, FrameReceiver, LinkClosed};
use crate::outbox::{Answer, Delivery};
use crate::payload::Payload;
use crate::registry::{Handle, Sessions};
use crate::stats::{Dropped, Stats};

/// Applies frames until the link ends.
pub(crate) async fn run(
    edge: Arc<Edge>,
    flow: Arc<Flow>,
    mut receiver: FrameReceiver<DownFrame>,
    ready: CancellationToken,
) -> Result<Infallible, LinkClosed> {
    loop {
        let (number, items) = receiver.recv().await?;
        let sessions = edge.registry.read();
        for ToEdge { item } in items {
            match item {
                Some(to_edge::Item::Answer(answer)) => on_answer(&sessions, answer),
                Some(to_edge::Item::Deliver(deliver)) => {
                    on_deliver(&sessions, deliver, &edge.stats)
                }
                Some(to_edge::Item::Behind(behind)) => {
                    let handles = behind.uids.iter().flat_map(|uid| sessions.of_user(uid));
                    handles.for_each(|handle| handle.outbox.fall_behind());
                }
                Some(to_edge::Item::CatchUp(page)) => on_catch_up(&sessions, page),
                Some(to_edge::Item::Live(live)) => {
                    if let Some(handle) = sessions.by_id(live.session) {
                        handle.outbox.go_live(live.epoch, live.sent);
                    }
                }
                Some(to_edge::Item::End(end)) => {
                    if let Some(handle) = sessions.by_id(end.session) {
                        handle.outbox.close(Closed::Unserved);
                    }
                }
                Some(to_edge::Item::Grant(grant)) => edge.exchange.grant(&grant),
                Some(to_edge::Item::Retained(message)) => edge.exchange.restore(message),
                Some(to_edge::Item::Briefing(briefing)) => edge.exchange.begin_briefing(&briefing),
                Some(to_edge::Item::Ready(_)) => {
                    edge.exchange.end_briefing();
                    ready.cancel();
                }
                Some(to_edge::Item::Published(published)) => {
                    edge.exchange.publish_from_elsewhere(*published);
                }
                Some(to_edge::Item::Shared(shared)) => edge.exchange.set_shared(&shared),
                Some(to_edge::Item::Elsewhere(elsewhere)) => {
                    on_elsewhere(&edge, &sessions, &elsewhere);
                }
                None => {}
            }
        }
        drop(sessions);
        flow.done(number);
    }
}

fn on_answer(sessions: &Sessions, answer: schema::link::Answer) {
    let Some(handle) = sessions.by_id(answer.session) else {
        return;
    };
    let reason = u8::try_from(answer.reason)
        .ok()
        .and_then(|code| ReasonCode::try_from(code).ok());
    handle.outbox.answer(Answer {
        token: answer.token,
        reason: reason.unwrap_or(ReasonCode::UnspecifiedError),
        reply: Arc::new(Payload::new(&answer.reply)),
    });
}

fn on_deliver(sessions: &Sessions, deliver: Deliver, stats: &Stats) {
    let mut delivery = None;
    for uid in &deliver.to {
        for handle in sessions.of_user(uid) {
            if handle.id == deliver.except_session {
                continue;
            }
            let delivery = delivery.get_or_insert_with(|| {
                let payload = Arc::new(Payload::new(&deliver.payload));
                match deliver.position {
                    Some(position) => Delivery::Message(payload, position),
                    None => Delivery::Event(payload),
                }
            });
            if handle.outbox.deliver_live(delivery) {
                stats.dropped(Dropped::Chat, 1);
            }
        }
    }
}

/// A device has connected elsewhere: its session here ends as if it had been taken over, unless it is the newer one.
fn on_elsewhere(edge: &Edge, sessions: &Sessions, elsewhere: &Elsewhere) {
    let (uid, device) = (&*elsewhere.uid, &*elsewhere.device);
    let is_older = |handle: &Handle| {
        let is_itself = handle.id == elsewhere.session && handle.since == elsewhere.at;
        let is_tie = handle.since == elsewhere.at && elsewhere.wins_ties && !is_itself;
        handle.since < elsewhere.at || is_tie
    };
    let connected = sessions.of_user(uid).iter();
    let connected = connected.filter(|handle| handle.device == device && is_older(handle));
    for handle in connected {
        handle.outbox.close(Closed::TakenElsewhere {
            is_clean: elsewhere.clean,
        });
    }
    edge.leave_to_others(uid, device, elsewhere.clean, is_older);
}

fn on_catch_up(sessions: &Sessions, page: CatchUp) {
    let Some(handle) = sessions.by_id(page.session) else {
        return;
    };
    let deliveries = page.messages.into_iter().map(|missed| {
        let payload = Arc::new(Payload::new(&missed.payload));
        match missed.position {
            Some(position) => Delivery::Message(payload, position),
            None => Delivery::Event(payload),
        }
    });
    handle.outbox.catch_up(page.epoch, deliveries);
}
