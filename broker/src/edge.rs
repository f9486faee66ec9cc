//! What all connections share, and what has to be done for those that are away.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use schema::Uid;
use schema::link::{Kick, kick};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::asked::Asked;
use crate::bridges::Bridges;
use crate::codec::Will;
use crate::identity::Authenticate;
use crate::link::{LinkClosed, RouterHealth};
use crate::listener::Slots;
use crate::moving::Moving;
use crate::net::Entrance;
use crate::options::Options;
use crate::parking::{Parked, Parking};
use crate::plain::exchange::{Exchange, now_ms};
use crate::plain::policy::Rules;
use crate::registry::{Handle, Registry};
use crate::session::Lasting;
use crate::stats::{Snapshot, Stats};
use crate::sys::sys_messages;
use crate::uplinks::Uplinks;
use crate::will;

/// How often expired messages, and sessions that have been lost, are looked for.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// The ids of an edge's sessions begin at the millisecond of its start, with room for a million of them in each that it runs.
const SESSIONS_PER_MS_BITS: u32 = 20;

/// What all connections share.
pub(crate) struct Edge {
    pub(crate) options: Options,
    pub(crate) authenticate: Arc<dyn Authenticate>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) bridges: Arc<Bridges>,
    /// What bridges are asked beside that, where they are in other processes.
    pub(crate) asked: Arc<Asked>,
    /// Cancelled once a bridge has sent what it has stored.
    pub(crate) ready: CancellationToken,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) parking: Parking,
    pub(crate) stats: Arc<Stats>,
    /// `None`: there is no router.
    pub(crate) router_health: Option<RouterHealth>,
    /// Limits per address.
    pub(crate) entrance: Entrance,
    /// Limit of all connections together.
    pub(crate) slots: Slots,
    pub(crate) moving: Moving,
}

impl Edge {
    /// An edge without connections. `authenticate` knows who clients are, or asks bridges.
    pub(crate) fn new(
        options: Options,
        rules: Rules,
        bridges: Arc<Bridges>,
        router_health: Option<RouterHealth>,
        authenticate: impl FnOnce(Arc<Asked>) -> Arc<dyn Authenticate>,
    ) -> Self {
        let stats = Arc::new(Stats::default());
        let exchange = Exchange::new(&options, rules, bridges.clone(), stats.clone());
        let asked = Arc::<Asked>::default();
        // Bridges may have known an earlier edge: its sessions must not be taken for ours.
        let last_id = match router_health {
            Some(_) => 0,
            None => now_ms() << SESSIONS_PER_MS_BITS,
        };
        Edge {
            registry: Arc::new(Registry::new(bridges.clone(), last_id)),
            bridges,
            authenticate: authenticate(asked.clone()),
            asked,
            ready: CancellationToken::new(),
            exchange: Arc::new(exchange),
            stats,
            parking: Parking::new(options.sessions_max, options.sessions_per_user_max),
            entrance: Entrance::new(&options.network),
            slots: Slots::new(&options),
            router_health,
            moving: Moving::new(&options.elsewhere),
            options,
        }
    }

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
        self.bridges.tell_of(&handle.uid, &mut items);
    }

    /// A bridge has sent what it has stored.
    pub(crate) fn is_briefed_by(&self, bridge: &Uplinks) {
        if self.bridges.is_voice(bridge) {
            self.exchange.end_briefing();
            self.ready.cancel();
            self.bridges.briefed(&self.registry);
        }
    }

    /// A bridge is gone.
    pub(crate) fn lose(&self, bridge: &Uplinks) {
        if self.bridges.gone(bridge, &self.registry) {
            self.exchange.tell_all_members();
        }
    }

    /// Ends sessions at a bridge's word.
    pub(crate) fn kick(&self, kick: &Kick) {
        let Ok(uid) = kick.uid.parse() else {
            return tracing::error!("a bridge kicks a user who can't exist");
        };
        let decided_at = match kick.age_ms {
            0 => u64::MAX,
            age => now_ms().saturating_sub(age),
        };
        self.kick_where(&uid, |who| {
            who.since <= decided_at
                && match &kick.which {
                    None => true,
                    Some(kick::Which::Login(login)) => who.login.as_ref() == Some(login),
                    Some(kick::Which::Device(device)) => who.device == **device,
                }
        });
    }

    /// Ends those of a user's sessions, with or without a connection, that `is_meant`; tells whether there were any.
    pub(crate) fn kick_where(&self, uid: &Uid, is_meant: impl Fn(&Handle) -> bool) -> bool {
        let was_connected = self.registry.kick(uid, &is_meant);
        let parked = self.parking.take_where(uid, &is_meant);
        let was_parked = !parked.is_empty();
        for parked in parked {
            self.throw_out(parked);
        }
        was_connected || was_parked
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
            uplink_queue_bytes: self.bridges.queued_bytes() as u64,
            frames_ahead: self.bridges.frames_ahead(),
            bridges: self.bridges.count() as u64,
            router: self.router_health.as_ref().map(RouterHealth::state),
            ..self.stats.snapshot()
        }
    }
}
