//! Sessions on their way from subscribing to live delivery.
//!
//! A session goes live at a point of the pipeline's output before which everything it should have is sent: at once
//! where its device misses nothing, else when its catch-up has come so close that the pipeline can send the last page itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use schema::Uid;
use schema::link::{Drained, Missed, Position, Subscribed, ToEdge};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tracing::{error, warn};

use super::announce::{catch_up_item, end_item, live_item};
use super::arrivals::Moment;
use super::catch_up::{self, Backlog, Progress, Reached, Step, Target};
use super::parcels::Packing;
use super::patience::Patience;
use super::presence::Presence;
use crate::clock;
use crate::store::devices::{self, Behind, Device};
use crate::store::{self, Store};

/// Steps of catch-ups that wait for the pipeline.
const STEP_QUEUE: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Feeds {
    catching_up: HashMap<u64, CatchingUp>,
    /// The devices of the sessions that receive; nameless ones have none.
    receiving: HashMap<u64, (Uid, String)>,
    presence: Presence,
    context: catch_up::Context,
    devices_max: u32,
    is_stalled: Arc<AtomicBool>,
    /// There are no other nodes.
    is_alone: bool,
}

/// A session whose catch-up is running.
#[derive(Debug)]
struct CatchingUp {
    epoch: u32,
    drained: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for CatchingUp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is missing at the end of a catch-up.
enum Rest {
    /// One page.
    Little(Vec<Missed>, Reached),
    Much(Vec<Behind>),
}

impl Feeds {
    /// `catch_up_max` missed messages of a conversation are sent; the receiver gets the steps of all catch-ups.
    pub(super) fn new(
        store: Store,
        presence: Presence,
        readers: Arc<Semaphore>,
        catch_up_max: u32,
        devices_max: u32,
        is_stalled: Arc<AtomicBool>,
        is_alone: bool,
    ) -> (Self, mpsc::Receiver<Step>) {
        let (steps, receiver) = mpsc::channel(STEP_QUEUE);
        let context = catch_up::Context {
            store,
            steps,
            readers,
            max: catch_up_max,
        };
        let feeds = Feeds {
            catching_up: HashMap::new(),
            receiving: HashMap::new(),
            presence,
            context,
            devices_max,
            is_stalled,
            is_alone,
        };
        (feeds, receiver)
    }

    /// The session has sent its page.
    pub(super) fn drained(&self, drained: &Drained) {
        if let Some(feed) = self.catching_up.get(&drained.session)
            && feed.epoch == drained.epoch
        {
            feed.drained.notify_one();
        }
    }

    /// The session begins anew.
    pub(super) fn reset(&mut self, session: u64) {
        self.catching_up.remove(&session);
    }

    /// The session no longer receives.
    pub(super) fn end(&mut self, session: u64) {
        self.reset(session);
        self.receiving.remove(&session);
    }

    /// Nobody receives any more.
    pub(super) fn end_all(&mut self) {
        self.catching_up.clear();
        self.receiving.clear();
    }

    /// Sessions have subscribed: those that miss nothing are live at once, the others begin to catch up.
    pub(super) async fn start(&mut self, mut targets: Vec<Target>, items: &mut Vec<ToEdge>) {
        if targets.is_empty() {
            return;
        }
        let behind = match self.register(&mut targets).await {
            Ok(behind) => behind,
            Err(error) => {
                // One of them is to blame. Their clients come back, each with a round of its own.
                error!(error = %store::chain(&error), "subscriptions can't be served");
                items.extend(targets.iter().map(end_item));
                return;
            }
        };
        for (target, behind) in targets.into_iter().zip(behind) {
            match behind {
                // Its device has had to make room: what it alone has missed is no longer known.
                None => items.push(end_item(&target)),
                Some(behind) if behind.is_empty() => items.push(live_item(&target, Vec::new())),
                Some(behind) => self.start_catch_up(target, behind, HashMap::new()),
            }
        }
    }

    /// Makes the devices of sessions that have subscribed known, for commands of theirs that are executed before they
    /// [start](Self::start).
    pub(super) async fn introduce(&mut self, subscribed: &[Target]) {
        // A resumed session must not make a device known that has been forgotten.
        let fresh = subscribed.iter().filter(|target| !target.is_resumed);
        let mut fresh: Vec<Target> = fresh.cloned().collect();
        if let Err(error) = self.register(&mut fresh).await {
            // Starting them meets the same.
            warn!(error = %store::chain(&error), "devices can't be made known");
        }
    }

    /// Registers the targets, however long the database is away.
    async fn register(
        &mut self,
        targets: &mut [Target],
    ) -> Result<Vec<Option<Vec<Behind>>>, store::Error> {
        for target in targets.iter().filter(|target| !target.is_nameless) {
            let device = (target.uid.clone(), target.device.clone());
            self.receiving.insert(target.session, device);
        }
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        loop {
            match self.try_register(targets).await {
                Err(error) if !matches!(error, store::Error::Internal(_)) => {
                    patience.wait_after(&error).await;
                }
                outcome => {
                    patience.end();
                    return outcome;
                }
            }
        }
    }

    /// Makes new devices known, notes that the others are here, and looks up what they have set; returns where each
    /// target is behind, `None` for one that can't go on where it was.
    async fn try_register(
        &self,
        targets: &mut [Target],
    ) -> Result<Vec<Option<Vec<Behind>>>, store::Error> {
        let named = |target: &&Target| !target.is_nameless;
        let device = |target: &Target| (target.uid.clone(), target.device.clone());
        let mut wanted: Vec<_> = targets.iter().filter(named).map(device).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let wanted: Vec<Device<'_>> = wanted.iter().map(borrowed).collect();
        let tx = self.context.store.begin().await?;
        let known = devices::known(&tx, &wanted).await?.into_iter();
        let known: HashMap<(String, String), bool> = known
            .map(|(uid, device, is_zstd)| ((uid, device), is_zstd))
            .collect();
        let setting =
            |(uid, device): &Device<'_>| known.get(&(uid.to_string(), (*device).to_owned()));
        let is_known = |device: &Device<'_>| setting(device).is_some();
        for target in targets.iter_mut().filter(|target| !target.is_nameless) {
            let is_zstd = setting(&(&target.uid, &target.device));
            target.packing.is_zstd = is_zstd.is_some_and(|is_zstd| *is_zstd);
        }
        let targets = &*targets;
        let (old, mut new): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(is_known);
        // In their order: who has come anew, and is back within the round, is known.
        let mut anew: HashSet<(String, String)> = HashSet::new();
        let is_forgotten: Vec<bool> = targets
            .iter()
            .map(|target| {
                let device = (target.uid.to_string(), target.device.clone());
                if target.is_nameless || is_known(&(&target.uid, &target.device)) {
                    return false;
                }
                if !target.is_resumed {
                    anew.insert(device);
                    return false;
                }
                !anew.contains(&device)
            })
            .collect();
        new.retain(|(uid, device)| anew.contains(&(uid.to_string(), (*device).to_owned())));
        let now = clock::millis(SystemTime::now());
        devices::touch(&tx, &old, now).await?;
        let mut connected: HashMap<&Uid, Vec<&str>> =
            new.iter().map(|(uid, _)| (*uid, Vec::new())).collect();
        for (uid, device) in self.receiving.values() {
            if let Some(devices) = connected.get_mut(uid) {
                devices.push(device);
            }
        }
        for (uid, device) in new {
            let elsewhere = self.presence.devices_elsewhere(uid);
            let elsewhere = elsewhere.iter().map(String::as_str);
            let connected: Vec<&str> = connected[uid].iter().copied().chain(elsewhere).collect();
            devices::add(&tx, (uid, device), &connected, now, self.devices_max).await?;
        }
        let mut by_device: HashMap<(String, String), Vec<Behind>> = HashMap::new();
        for behind in devices::behind(&tx, &wanted).await? {
            let device = (behind.uid.clone(), behind.device.clone());
            by_device.entry(device).or_default().push(behind);
        }
        let mut found = Vec::with_capacity(targets.len());
        for (target, is_forgotten) in targets.iter().zip(is_forgotten) {
            found.push(if is_forgotten {
                None
            } else if target.is_nameless {
                Some(devices::user_behind(&tx, &target.uid).await?)
            } else {
                let device = (target.uid.to_string(), target.device.clone());
                Some(by_device.get(&device).cloned().unwrap_or_default())
            });
        }
        tx.commit().await.map_err(store::Error::from)?;
        Ok(found)
    }

    fn start_catch_up(
        &mut self,
        target: Target,
        behind: Vec<Behind>,
        earlier: HashMap<i64, Progress>,
    ) {
        let drained = Arc::new(Notify::new());
        let (session, epoch) = (target.session, target.epoch);
        let run = catch_up::run(
            self.context.clone(),
            target,
            behind,
            earlier,
            drained.clone(),
        );
        let feed = CatchingUp {
            epoch,
            drained,
            task: tokio::spawn(run).abort_handle(),
        };
        self.catching_up.insert(session, feed);
    }

    /// A catch-up can't go on: its client is told, and comes back.
    pub(super) fn fail(&mut self, target: &Target, items: &mut Vec<ToEdge>) {
        let is_current = |feed: &CatchingUp| feed.epoch == target.epoch;
        if self
            .catching_up
            .get(&target.session)
            .is_some_and(is_current)
        {
            self.reset(target.session);
            items.push(end_item(target));
        }
    }

    /// A catch-up has sent what was missing when it began: what has come since is little, or it goes on.
    pub(super) async fn end_catch_up(
        &mut self,
        target: Target,
        reached: &Reached,
        items: &mut Vec<ToEdge>,
    ) {
        let is_current = |feed: &CatchingUp| feed.epoch == target.epoch;
        if !self
            .catching_up
            .get(&target.session)
            .is_some_and(is_current)
        {
            return;
        }
        self.reset(target.session);
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        let rest = loop {
            match self.read_rest(&target, &reached.positions).await {
                Ok(rest) => break rest,
                Err(error @ (store::Error::Internal(_) | store::Error::Archive(_))) => {
                    error!(error = %store::chain(&error), "a catch-up can't be ended");
                    items.push(end_item(&target));
                    return;
                }
                Err(error) => patience.wait_after(&error).await,
            }
        };
        patience.end();
        match rest {
            Rest::Little(messages, reached) => {
                if !messages.is_empty() {
                    items.push(catch_up_item(&target, messages));
                }
                items.push(live_item(&target, self.sent_of_late(&reached)));
            }
            Rest::Much(behind) => {
                self.start_catch_up(target, behind, reached.positions.clone());
            }
        }
    }

    /// How far a session was sent what other nodes may still tell of.
    fn sent_of_late(&self, reached: &Reached) -> Vec<Position> {
        if self.is_alone {
            return Vec::new();
        }
        let now = Moment::now();
        let recent = reached
            .positions
            .iter()
            .filter(|(_, progress)| !now.is_past(progress.newest_id));
        recent
            .map(|(conversation, progress)| Position {
                conversation: conversation.cast_unsigned(),
                seq: progress.seq,
                msg_id: progress.newest_id,
            })
            .collect()
    }

    async fn read_rest(
        &self,
        target: &Target,
        positions: &HashMap<i64, Progress>,
    ) -> Result<Rest, store::Error> {
        let store = &self.context.store;
        let mut behind = if target.is_nameless {
            devices::user_behind(store.reader(), &target.uid).await?
        } else {
            let device = (&target.uid, target.device.as_str());
            devices::behind(store.reader(), &[device]).await?
        };
        // What is sent is not acknowledged yet, and at QoS 0 never: how far it reaches is known only here.
        for conversation in &mut behind {
            if let Some(progress) = positions.get(&conversation.conversation_id) {
                conversation.after_seq = conversation.after_seq.max(progress.seq);
            }
        }
        behind.retain(|conversation| conversation.last_seq > conversation.after_seq);
        // Nobody waits here for files.
        if behind
            .iter()
            .any(|conversation| conversation.archived_seq > conversation.after_seq)
        {
            return Ok(Rest::Much(behind));
        }
        let mut backlog = Backlog::new(target, behind.clone(), self.context.max);
        backlog.earlier.clone_from(positions);
        let page = backlog.next_page(store).await?;
        Ok(if backlog.is_empty() {
            Rest::Little(page, backlog.reached())
        } else {
            Rest::Much(behind)
        })
    }
}

fn borrowed((uid, device): &(Uid, String)) -> Device<'_> {
    (uid, device.as_str())
}

/// The session that a subscription is of.
pub(super) fn target(subscribed: Subscribed) -> Option<Target> {
    Some(Target {
        packing: Packing::from(&subscribed),
        session: subscribed.session,
        epoch: subscribed.epoch,
        uid: subscribed.uid.parse().ok()?,
        device: subscribed.device,
        is_nameless: subscribed.nameless,
        is_resumed: subscribed.resumed,
    })
}
