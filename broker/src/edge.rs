//! What all connections share, and what has to be done for those that are away.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::codec::Will;
use crate::identity::Authenticate;
use crate::link::{LinkClosed, RouterHealth};
use crate::listener::Slots;
use crate::moving::Moving;
use crate::net::Entrance;
use crate::options::Options;
use crate::parking::{Parked, Parking};
use crate::plain::exchange::Exchange;
use crate::registry::{Handle, Registry};
use crate::session::Lasting;
use crate::stats::{Snapshot, Stats};
use crate::sys::sys_messages;
use crate::uplinks::Uplinks;
use crate::will;

/// How often expired messages, and sessions that have been lost, are looked for.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// What all connections share.
pub(crate) struct Edge {
    pub(crate) options: Options,
    pub(crate) authenticate: Arc<dyn Authenticate>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) uplinks: Arc<Uplinks>,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) parking: Parking,
    pub(crate) stats: Arc<Stats>,
    pub(crate) router_health: RouterHealth,
    /// Limits per address.
    pub(crate) entrance: Entrance,
    /// Limit of all connections together.
    pub(crate) slots: Slots,
    pub(crate) moving: Moving,
}

impl Edge {
    /// What an earlier session of the client has left, unless the client wants to begin anew.
    pub(crate) fn take_up(&self, handle: &Arc<Handle>, is_clean: bool) -> Option<Lasting> {
        let parked = self.parking.take(&handle.uid, &handle.device)?;
        if is_clean || !parked.lasting.connect(handle) {
            self.end(parked);
            return None;
        }
        // [MQTT-3.1.3-9] A will that waits for the client's return is not published.
        Some(parked.lasting)
    }

    /// Keeps a session for its client's return.
    pub(crate) fn park(&self, parked: Parked) {
        // What comes while nobody is connected may have been too much before it could be found here.
        if parked.lasting.is_lost() {
            return self.end(parked);
        }
        for evicted in self.parking.park(parked) {
            self.end(evicted);
        }
    }

    /// Ends a session that has no connection. Its will is due then, if it was not before (MQTT 5, 3.1.3.2.2).
    fn end(&self, parked: Parked) {
        if let Some((will, _)) = parked.will {
            self.publish_will(&parked.handle, will);
        }
        parked.lasting.end(&self.exchange);
    }

    /// Ends what a device has left here, if `is_meant`: it has connected to another node, and begins anew there or not.
    pub(crate) fn leave_to_others(
        &self,
        uid: &str,
        device: &str,
        is_clean: bool,
        is_meant: impl Fn(&Handle) -> bool,
    ) {
        // [MQTT-3.1.3-9] As for a client that comes back here: a will that waits is not published.
        match self.parking.take_if(uid, device, is_meant) {
            Some(parked) if is_clean => self.end(parked),
            Some(parked) => parked.lasting.end(&self.exchange),
            None => {}
        }
    }

    /// Ends a session whose user is shown the door, who leaves no will.
    pub(crate) fn throw_out(&self, parked: Parked) {
        parked.lasting.end(&self.exchange);
    }

    /// The server stops.
    pub(crate) fn end_all_parked(&self) {
        for parked in self.parking.take_all() {
            self.end(parked);
        }
    }

    fn publish_will(&self, handle: &Handle, will: Will) {
        let mut items = Vec::new();
        will::publish(&self.exchange, handle, will, &mut items);
        self.uplinks.push(&mut items);
    }

    /// Does what is due for sessions without a connection and for retained messages.
    pub(crate) async fn keep_house(self: Arc<Self>) -> Result<Infallible, LinkClosed> {
        loop {
            let round = Instant::now() + HOUSEKEEPING_INTERVAL;
            let next = self.parking.next_due().map_or(round, |due| due.min(round));
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.parking.changed() => {}
            }
            let (wills, ended) = self.parking.take_due(Instant::now());
            for (handle, will) in wills {
                self.publish_will(&handle, will);
            }
            let lost = self.exchange.take_lost();
            for parked in ended.into_iter().chain(self.parking.take_lost(&lost)) {
                self.end(parked);
                // Many may end at once, and others want to get on.
                yield_now().await;
            }
            self.exchange.purge();
        }
    }

    /// Publishes `$SYS/#`.
    pub(crate) async fn announce(
        self: Arc<Self>,
        interval: Duration,
    ) -> Result<Infallible, LinkClosed> {
        loop {
            for (topic, value) in sys_messages(&self.snapshot()) {
                self.exchange.announce(topic, value);
            }
            sleep(interval).await;
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let (retained_messages, retained_bytes) = self.exchange.retained_size();
        Snapshot {
            sessions_connected: self.registry.read().count() as u64,
            sessions_parked: self.parking.count() as u64,
            subscriptions: self.exchange.subscription_count() as u64,
            retained_messages: retained_messages as u64,
            retained_bytes: retained_bytes as u64,
            uplink_queue_bytes: self.uplinks.queued_bytes() as u64,
            frames_ahead: self.uplinks.frames_ahead(),
            is_router_healthy: self.router_health.is_healthy(),
            router_restarts: self.router_health.restarts(),
            ..self.stats.snapshot()
        }
    }
}
