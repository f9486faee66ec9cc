//! People who talk on a cluster, each with a client that says again what was not answered, comes back when its connection
//! goes, and takes down what it hears; and what must hold when all is quiet again, whatever went wrong meanwhile.
//!
//! Reading order: `world` (who is there, and who talks to whom), `device` (one client) over `line` (its bytes)
//! and `record` (what it remembers), `check` (what must hold).
//!
//! Clients are tasks with a socket each, so that some thousands of them leave the machine to the servers.

mod check;
mod device;
mod http;
mod line;
mod record;
mod world;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub use self::check::{Checked, KINDS};
use self::device::Device;
use self::world::World;
use crate::cluster::Cluster;
use crate::server::raise_open_files;

pub use self::world::FIRST_USER;

/// How long all devices together may take to come in.
const ARRIVE_WITHIN: Duration = Duration::from_secs(120);
/// How long it may take until everything is answered, and then until everything is delivered.
const SETTLE_WITHIN: Duration = Duration::from_secs(120);
/// Time between two looks at that.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Devices that come in per second.
const ARRIVALS_PER_SEC: f64 = 400.0;

/// How many people, and how much they write.
#[derive(Clone, Debug)]
pub struct Options {
    /// Users, an even number; each tenth has a second device.
    pub users: usize,
    /// Messages per second that all together write.
    pub rate: f64,
    /// Chooses who says what to whom.
    pub seed: u64,
}

/// People who talk. Ended by [`Talk::end`].
pub struct Talk {
    world: Arc<World>,
    devices: Arc<Vec<Device>>,
    phases: watch::Sender<Phase>,
    running: JoinSet<()>,
}

/// What devices are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Come in.
    Arriving,
    /// Write messages.
    Talking,
    /// Only what is open is said again.
    Settling,
    /// Leave.
    Over,
}

/// What was said and heard so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub devices: usize,
    pub sent: usize,
    pub sent_by_http: usize,
    pub answered: usize,
    /// Deliveries of messages, and those of them that came again.
    pub heard: usize,
    pub heard_again: u64,
    /// Connections that ended.
    pub breaks: u64,
}

// === impl Talk ===

impl Talk {
    /// Makes users and groups, lets all their devices in through the balancer, and has them talk. The cluster has to have
    /// been started with [`FIRST_USER`].
    pub async fn begin(cluster: &Cluster, options: &Options) -> Result<Self> {
        raise_open_files()?;
        let world = Arc::new(World::make(options, cluster).await?);
        let devices = Arc::new(Device::of_all(&world));
        let (phases, phase) = watch::channel(Phase::Arriving);
        let mut running = JoinSet::new();
        for place in 0..devices.len() {
            let (devices, world, phase) = (devices.clone(), world.clone(), phase.clone());
            let delay = Duration::from_secs_f64(place as f64 / ARRIVALS_PER_SEC);
            let rng = fastrand::Rng::with_seed(options.seed ^ (place as u64) << 20);
            running.spawn(async move {
                sleep(delay).await;
                devices[place].run(&world, phase, rng).await;
            });
        }
        let talk = Talk {
            world,
            devices,
            phases,
            running,
        };
        talk.until(ARRIVE_WITHIN, "devices have not come in", |device| {
            usize::from(!device.has_arrived())
        })
        .await?;
        talk.phases.send_replace(Phase::Talking);
        Ok(talk)
    }

    /// Waits until so many more messages were answered.
    pub async fn until_answered(&self, more: usize) -> Result<()> {
        let wanted = self.tally().answered + more;
        let deadline = Instant::now() + SETTLE_WITHIN;
        while self.tally().answered < wanted {
            let tally = self.tally();
            ensure!(Instant::now() < deadline, "not {wanted} answers: {tally:?}");
            sleep(LOOK_AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// The longest time that a message which was written since then has waited for its answer, whether it has one or not.
    pub fn longest_wait_since(&self, since: Instant) -> Duration {
        let waits = self.devices.iter().flat_map(|device| {
            let record = device.record();
            let sent = record.sent.iter().filter(|sent| sent.since >= since);
            sent.map(|sent| sent.wait()).max()
        });
        waits.max().unwrap_or_default()
    }

    /// All times from writing a message to its answer, in milliseconds.
    pub fn answers_ms(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for device in self.devices.iter() {
            let record = device.record();
            all.extend(record.sent.iter().filter_map(|sent| sent.answered_after_ms));
        }
        all
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally {
            devices: self.devices.len(),
            ..Tally::default()
        };
        for device in self.devices.iter() {
            let record = device.record();
            tally.sent += record.sent.len();
            tally.answered += record.sent.len() - record.open.len();
            let by_http = record.sent.iter().filter(|sent| sent.by_http);
            tally.sent_by_http += by_http.count();
            let heard = record.heard.values().map(|heard| heard.ids.len());
            tally.heard += heard.sum::<usize>();
            tally.heard_again += record.again;
            tally.breaks += record.breaks;
        }
        tally
    }

    /// Nobody writes any more; waits until everything is answered and delivered, and looks at all that there is.
    pub async fn settle(&self, cluster: &Cluster) -> Result<Checked> {
        self.phases.send_replace(Phase::Settling);
        self.until(SETTLE_WITHIN, "messages are not answered", Device::open)
            .await?;
        check::everything(cluster, &self.world, &self.devices, SETTLE_WITHIN).await
    }

    /// All devices leave.
    pub async fn leave(mut self) -> Result<()> {
        self.phases.send_replace(Phase::Over);
        while let Some(ended) = self.running.join_next().await {
            ended.context("a device's task")?;
        }
        Ok(())
    }

    /// [`Talk::settle`] and [`Talk::leave`]; everything must be as it should.
    pub async fn end(self, cluster: &Cluster) -> Result<()> {
        let checked = self.settle(cluster).await?;
        if !checked.is_ok() {
            bail!("{checked}");
        }
        self.leave().await
    }

    /// Waits until `missing` of all devices is 0.
    async fn until(
        &self,
        limit: Duration,
        what: &str,
        missing: impl Fn(&Device) -> usize,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let count: usize = self.devices.iter().map(&missing).sum();
            if count == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "after {limit:?} {count} {what}");
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }
}
