//! From a bridge to the sessions: frames are applied in their order, without ever waiting for a client.

use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use schema::link::{Behind, CatchUp, Deliver, DownFrame, Elsewhere, Kick, to_edge};

use crate::closed::Closed;
use crate::codec::ReasonCode;
use crate::edge::Edge;
use crate::link::{Flow, FrameReceiver, LinkClosed};
use crate::outbox::{Answer, Delivery};
use crate::payload::Payload;
use crate::plain::exchange::Exchange;
use crate::registry::{Handle, Sessions};
use crate::stats::Dropped;
use crate::uplinks::Uplinks;

/// Applies a bridge's frames until the link ends.
pub(crate) async fn run(
    edge: Arc<Edge>,
    bridge: Arc<Uplinks>,
    flow: Arc<Flow>,
    mut receiver: FrameReceiver<DownFrame>,
) -> Result<Infallible, LinkClosed> {
    let mut is_briefing = false;
    loop {
        let (number, items) = receiver.recv().await?;
        let mut afterwards = Vec::new();
        let applying = Applying {
            sessions: edge.registry.read(),
            bridge: &bridge,
            edge: &edge,
        };
        for item in items.into_iter().filter_map(|item| item.item) {
            match item {
                to_edge::Item::Answer(answer) => applying.on_answer(answer),
                to_edge::Item::Deliver(deliver) => applying.on_deliver(deliver),
                to_edge::Item::Behind(behind) => applying.on_behind(&behind),
                to_edge::Item::CatchUp(page) => applying.on_catch_up(page),
                to_edge::Item::Live(live) => {
                    if let Some(handle) = applying.own(live.session) {
                        handle.outbox.go_live(live.epoch, live.sent);
                    }
                }
                to_edge::Item::End(end) => {
                    if let Some(handle) = applying.own(end.session) {
                        handle.outbox.close(Closed::Unserved);
                    }
                }
                to_edge::Item::Passes(passes) => {
                    if let Some(handle) = applying.own(passes.session) {
                        *handle.status.lock() = passes.status;
                    }
                }
                to_edge::Item::Grant(grant) => {
                    // What another than the voice has read may be older than what is known.
                    if !is_briefing || edge.bridges.is_voice(&bridge) {
                        edge.exchange.grant(&grant);
                    }
                }
                to_edge::Item::Briefing(briefing) => {
                    is_briefing = true;
                    if let Some(exchange) = applying.exchange() {
                        exchange.begin_briefing(&briefing);
                    }
                }
                to_edge::Item::Ready(_) => {
                    is_briefing = false;
                    afterwards.push(Afterwards::Briefed);
                }
                to_edge::Item::Authenticated(authenticated) => edge.asked.answer(authenticated),
                to_edge::Item::Kick(kick) => {
                    // Of one that is said again, whoever is on the way in was asked for after it.
                    if kick.age_ms == 0 {
                        edge.asked.kick(&kick);
                    }
                    afterwards.push(Afterwards::Kick(kick));
                }
                to_edge::Item::Leave(_) => afterwards.push(Afterwards::Leave),
                to_edge::Item::Retained(message) => {
                    if let Some(exchange) = applying.exchange() {
                        exchange.restore(message);
                    }
                }
                to_edge::Item::Published(published) => {
                    if let Some(exchange) = applying.exchange() {
                        exchange.publish_from_elsewhere(*published);
                    }
                }
                to_edge::Item::Shared(shared) => {
                    if let Some(exchange) = applying.exchange() {
                        exchange.set_shared(&shared);
                    }
                }
                to_edge::Item::Elsewhere(elsewhere) => applying.on_elsewhere(&elsewhere),
            }
        }
        drop(applying);
        for action in afterwards {
            match action {
                Afterwards::Briefed => edge.is_briefed_by(&bridge),
                Afterwards::Kick(kick) => edge.kick(&kick),
                Afterwards::Leave => edge.bridges.leaves(&bridge, &edge.registry),
            }
        }
        flow.done(number);
    }
}

/// What changes who is there, so that it has to wait until nobody looks.
enum Afterwards {
    Briefed,
    Kick(Kick),
    Leave,
}

/// A frame being applied: where it comes from, and whom it meets. It concerns only the bridge's own sessions: what it still says of others was
/// said before they went to another bridge, which has the rest from the database.
struct Applying<'a> {
    sessions: RwLockReadGuard<'a, Sessions>,
    bridge: &'a Uplinks,
    edge: &'a Edge,
}

impl Applying<'_> {
    fn own(&self, session: u64) -> Option<&Arc<Handle>> {
        let handle = self.sessions.by_id(session)?;
        handle.bridge.is_of(self.bridge).then_some(handle)
    }

    /// Of any session: it says what is committed.
    fn on_answer(&self, answer: schema::link::Answer) {
        let was_awaited = self.bridge.answered(answer.session, answer.token);
        let Some(handle) = self.sessions.by_id(answer.session) else {
            return;
        };
        if was_awaited {
            handle.bridge.answered_by(self.bridge);
        }
        let reason = u8::try_from(answer.reason)
            .ok()
            .and_then(|code| ReasonCode::try_from(code).ok());
        handle.outbox.answer(Answer {
            token: answer.token,
            reason: reason.unwrap_or(ReasonCode::UnspecifiedError),
            reply: Arc::new(Payload::new(&answer.reply)),
        });
    }

    fn on_deliver(&self, deliver: Deliver) {
        let mut delivery = None;
        for uid in &deliver.to {
            for handle in self.sessions.of_user(uid) {
                if handle.id == deliver.except_session || !handle.bridge.is_of(self.bridge) {
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
                    self.edge.stats.dropped(Dropped::Chat, 1);
                }
            }
        }
    }

    fn on_behind(&self, behind: &Behind) {
        let handles = behind
            .uids
            .iter()
            .flat_map(|uid| self.sessions.of_user(uid));
        let own = handles.filter(|handle| handle.bridge.is_of(self.bridge));
        own.for_each(|handle| handle.outbox.fall_behind());
    }

    fn on_catch_up(&self, page: CatchUp) {
        let Some(handle) = self.own(page.session) else {
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

    /// For what the voice says of plain topics, and of other nodes: other bridges say the same.
    fn exchange(&self) -> Option<&Exchange> {
        let is_voice = self.edge.bridges.is_voice(self.bridge);
        is_voice.then(|| &*self.edge.exchange)
    }

    /// A device has connected elsewhere: its session here ends as if it had been taken over, unless it is the newer one.
    fn on_elsewhere(&self, elsewhere: &Elsewhere) {
        if !self.edge.bridges.is_voice(self.bridge) {
            return;
        }
        let (uid, device) = (&*elsewhere.uid, &*elsewhere.device);
        let is_older = |handle: &Handle| {
            let is_itself = handle.id == elsewhere.session && handle.since == elsewhere.at;
            let is_tie = handle.since == elsewhere.at && elsewhere.wins_ties && !is_itself;
            handle.since < elsewhere.at || is_tie
        };
        let connected = self.sessions.of_user(uid).iter();
        let connected = connected.filter(|handle| handle.device == device && is_older(handle));
        for handle in connected {
            handle.outbox.close(Closed::TakenElsewhere {
                is_clean: elsewhere.clean,
            });
        }
        let is_clean = elsewhere.clean;
        self.edge.leave_to_others(uid, device, is_clean, is_older);
    }
}
