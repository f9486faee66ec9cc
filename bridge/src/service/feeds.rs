//! Sessions on their way from subscribing to live delivery.
//!
//! A session goes live at a point of the pipeline's output before which everything it should have is sent: at once
//! where its device misses nothing, else when its catch-up has come so close that the pipeline can send the rest itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use schema::link::{Drained, Missed, Subscribed, ToEdge};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::announce::{catch_up_item, live_item};
use super::catch_up::{self, Backlog, Reached, Step, Target};
use super::patience::Patience;
use crate::clock;
use crate::store::devices::{self, Behind, Device};
use crate::store::{self, Store};

/// A session that lacks no more than this at the end of its catch-up gets it from the pipeline itself.
const JOIN_MAX: u32 = 64;
/// Steps of catch-ups that wait for the pipeline.
const STEP_QUEUE: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Feeds {
    catching_up: HashMap<u64, CatchingUp>,
    context: catch_up::Context,
    devices_max: u32,
    is_stalled: Arc<AtomicBool>,
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
    Little(Vec<Missed>),
    Much(Vec<Behind>),
}

impl Feeds {
    /// `catch_up_max` missed messages of a conversation are sent; the receiver gets the steps of all catch-ups.
    pub(super) fn new(
        store: Store,
        readers: Arc<Semaphore>,
        catch_up_max: u32,
        devices_max: u32,
        is_stalled: Arc<AtomicBool>,
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
            context,
            devices_max,
            is_stalled,
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

    /// The session no longer receives, or begins anew.
    pub(super) fn end(&mut self, session: u64) {
        self.catching_up.remove(&session);
    }

    /// Sessions have subscribed: those that miss nothing are live at once.
    pub(super) async fn start(&mut self, targets: Vec<Target>, items: &mut Vec<ToEdge>) {
        if targets.is_empty() {
            return;
        }
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        let behind = loop {
            match self.register(&targets).await {
                Ok(behind) => break behind,
                Err(error) => patience.wait_after(&error).await,
            }
        };
        patience.end();
        let mut by_device: HashMap<(String, String), Vec<Behind>> = HashMap::new();
        for behind in behind {
            let device = (behind.uid.clone(), behind.device.clone());
            by_device.entry(device).or_default().push(behind);
        }
        for target in targets {
            let device = (target.uid.to_string(), target.device.clone());
            match by_device.get(&device) {
                None => items.push(live_item(&target)),
                Some(behind) => self.start_catch_up(target, behind.clone()),
            }
        }
    }

    /// Makes new devices known; returns where all of them are behind.
    async fn register(&self, targets: &[Target]) -> Result<Vec<Behind>, store::Error> {
        let device = |target: &Target| (target.uid.clone(), target.device.clone());
        let mut wanted: Vec<_> = targets.iter().map(device).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let wanted: Vec<Device<'_>> = wanted
            .iter()
            .map(|(uid, device)| (uid, device.as_str()))
            .collect();
        let tx = self.context.store.begin().await?;
        let known = devices::known(&tx, &wanted).await?;
        let is_known = |(uid, device): &Device<'_>| {
            known
                .iter()
                .any(|(known_uid, known)| known_uid == uid.as_str() && known == device)
        };
        let (old, new): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(is_known);
        let now = clock::millis(SystemTime::now());
        devices::touch(&tx, &old, now).await?;
        for device in new {
            devices::add(&tx, device, now, self.devices_max).await?;
        }
        let behind = devices::behind(&tx, &wanted).await?;
        tx.commit().await.map_err(store::Error::from)?;
        Ok(behind)
    }

    fn start_catch_up(&mut self, target: Target, behind: Vec<Behind>) {
        let drained = Arc::new(Notify::new());
        let (session, epoch) = (target.session, target.epoch);
        let run = catch_up::run(self.context.clone(), target, behind, drained.clone());
        let feed = CatchingUp {
            epoch,
            drained,
            task: tokio::spawn(run).abort_handle(),
        };
        self.catching_up.insert(session, feed);
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
        self.end(target.session);
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        let rest = loop {
            match self.read_rest(&target, &reached.positions).await {
                Ok(rest) => break rest,
                Err(error) => patience.wait_after(&error).await,
            }
        };
        patience.end();
        match rest {
            Rest::Little(messages) => {
                if !messages.is_empty() {
                    items.push(catch_up_item(&target, messages));
                }
                items.push(live_item(&target));
            }
            Rest::Much(behind) => self.start_catch_up(target, behind),
        }
    }

    async fn read_rest(
        &self,
        target: &Target,
        positions: &[(i64, u32)],
    ) -> Result<Rest, store::Error> {
        let store = &self.context.store;
        let device = (&target.uid, target.device.as_str());
        let mut behind = devices::behind(store.reader(), &[device]).await?;
        // What is sent is not acknowledged yet, and at QoS 0 never: how far it reaches is known only here.
        for conversation in &mut behind {
            let reached = positions
                .iter()
                .find(|(id, _)| *id == conversation.conversation_id);
            if let Some((_, seq)) = reached {
                conversation.after_seq = conversation.after_seq.max(*seq);
            }
        }
        behind.retain(|conversation| conversation.last_seq > conversation.after_seq);
        let missing = |conversation: &Behind| conversation.last_seq - conversation.after_seq;
        if behind.iter().map(missing).sum::<u32>() > JOIN_MAX {
            return Ok(Rest::Much(behind));
        }
        let mut backlog = Backlog::new(target, behind, self.context.max);
        let mut messages = Vec::new();
        loop {
            let page = backlog.next_page(store).await?;
            if page.is_empty() {
                return Ok(Rest::Little(messages));
            }
            messages.extend(page);
        }
    }
}

/// The session that a subscription is of.
pub(super) fn target(subscribed: Subscribed) -> Option<Target> {
    Some(Target {
        session: subscribed.session,
        epoch: subscribed.epoch,
        uid: subscribed.uid.parse().ok()?,
        device: subscribed.device,
    })
}
