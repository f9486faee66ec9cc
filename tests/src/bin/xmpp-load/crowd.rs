//! Everyone at once, each with a task for either direction, until all that was sent is accounted for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::load::{Channel, Pace, Tally, Template, Timing, View};
use crate::report::Faults;
use crate::session::Session;

/// How long after the end the rest may take to arrive.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long to listen after that for what should not come.
const LINGER: Duration = Duration::from_millis(300);

/// One user, and what it does.
pub struct User {
    pub session: Session,
    pub sends: Option<(Arc<Channel>, Template)>,
    pub gets: Arc<Channel>,
}

/// See the module's documentation.
pub struct Crowd {
    /// They return what they wrote to, since it is to stay open.
    sending: JoinSet<Result<OwnedWriteHalf>>,
    receiving: JoinSet<View>,
    stop: watch::Sender<bool>,
    channels: Vec<Arc<Channel>>,
    give_up: Instant,
}

/// What came of it.
pub struct Finished {
    /// That were sent.
    pub messages: u64,
    pub faults: Faults,
    /// Everyone is still there: a room ends when the last one leaves.
    pub open: Vec<OwnedWriteHalf>,
}

impl Crowd {
    pub fn start(users: Vec<User>, timing: Timing, pace: Pace, tally: &Arc<Mutex<Tally>>) -> Crowd {
        let mut crowd = Crowd {
            sending: JoinSet::new(),
            receiving: JoinSet::new(),
            stop: watch::Sender::new(false),
            channels: Vec::new(),
            give_up: (timing.at(timing.end) + DRAIN_MAX).into(),
        };
        for user in users {
            let (mut incoming, mut outgoing) = (user.session.incoming, user.session.outgoing);
            let (tally, stop) = (tally.clone(), crowd.stop.subscribe());
            crowd.receiving.spawn(async move {
                let gets = user.gets;
                gets.receive(&mut incoming, timing, &tally, stop).await
            });
            crowd
                .channels
                .extend(user.sends.as_ref().map(|(channel, _)| channel.clone()));
            crowd.sending.spawn(async move {
                if let Some((channel, template)) = user.sends {
                    channel.send(&mut outgoing, timing, pace, &template).await?;
                }
                Ok(outgoing)
            });
        }
        pace.start(timing, crowd.channels.clone());
        crowd
    }

    /// Waits until everything that was sent has arrived.
    pub async fn finish(mut self) -> Result<Finished> {
        let mut faults = Faults::default();
        let mut open = Vec::new();
        while let Ok(Some(sent)) = timeout_at(self.give_up, self.sending.join_next()).await {
            match sent.context("a sender")? {
                Ok(outgoing) => open.push(outgoing),
                Err(error) => faults.note("broken connection", format!("{error:#}")),
            }
        }
        for _ in 0..self.sending.len() {
            faults.note("rate not kept", "a sender has not sent all".to_owned());
        }
        for channel in &self.channels {
            if timeout_at(self.give_up, channel.drained()).await.is_err() {
                let (done, sent) = (channel.done(), channel.sent());
                let example = format!("{done} of {sent} from {}", channel.from);
                faults.note("not received by all", example);
            }
        }
        sleep(LINGER).await;
        self.stop.send_replace(true);
        for view in self.receiving.join_all().await {
            faults.add(view.faults);
        }
        let sent = self
            .channels
            .iter()
            .map(|channel| u64::from(channel.sent()));
        Ok(Finished {
            messages: sent.sum(),
            faults,
            open,
        })
    }
}
