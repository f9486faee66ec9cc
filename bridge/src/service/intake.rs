//! From the link to the pipeline: frames are taken apart and commands checked while the pipeline executes earlier ones.

use std::sync::Arc;

use broker::link::{FrameReceiver, FrameSender, LinkClosed};
use schema::link::{self, DownFrame, FromEdge, UpFrame, Uplink, from_edge};
use schema::{Format, Uid};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Limits;
use super::announce::Answered;
use super::gate::{self, Admitted};
use super::job::{Caller, Door, Job};
use super::links::{self, Links};
use super::refused::Refused;

/// What comes off links.
pub(super) enum Taken {
    /// Another link: what earlier ones have brought counts no longer.
    Joined(Joined),
    Frame(Intake),
    /// The link has ended.
    Lost,
}

/// A new link.
pub(super) struct Joined {
    /// Its number.
    pub(super) link: u64,
    pub(super) sender: FrameSender<DownFrame>,
}

/// What a frame has brought.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// The link's number.
    pub(super) link: u64,
    /// The frame's number.
    pub(super) number: u64,
    /// Commands that hold.
    pub(super) jobs: Vec<Job>,
    /// The others.
    pub(super) refused: Vec<Answered>,
    /// All that are no commands.
    pub(super) notices: Vec<from_edge::Item>,
}

/// Hands over what links bring until all is announced: to the last answer it needs to hear that there is room for more.
pub(super) async fn run(
    mut links: Links,
    limits: Limits,
    taken: mpsc::Sender<Taken>,
    ended: CancellationToken,
) -> Result<(), LinkClosed> {
    // An answer to an earlier link's question is heard by nobody, but a password that is not checked to its end counts as wrong.
    let mut asked = JoinSet::new();
    for link in 1.. {
        let next = tokio::select! {
            next = links.next.recv() => next,
            () = ended.cancelled() => return Ok(()),
        };
        let Some(next) = next else {
            ended.cancelled().await;
            return Ok(());
        };
        let sender = next.sender;
        // Before the pipeline: what is said aside from now on is for this link, and waits until it is announced.
        links.asides.begin(link);
        // Once the pipeline has stopped, nothing more is taken, but what it has said may still wait for room.
        let _ = taken.send(Taken::Joined(Joined { link, sender })).await;
        let error = tokio::select! {
            error = receive(next.receiver, link, &links, &limits, &taken, &mut asked) => error,
            () = ended.cancelled() => return Ok(()),
        };
        if links.is_only {
            return Err(error);
        }
        links.asides.end();
        warn!(%error, "the link to the broker has ended");
        let _ = taken.send(Taken::Lost).await;
    }
    Ok(())
}

/// Hands over what a link brings, until it ends.
async fn receive(
    mut receiver: FrameReceiver<UpFrame>,
    link: u64,
    links: &Links,
    limits: &Limits,
    taken: &mpsc::Sender<Taken>,
    asked: &mut JoinSet<()>,
) -> LinkClosed {
    // The next link brings all who are there again.
    let mut rechecks = JoinSet::new();
    let turns = Arc::new(Semaphore::new(1));
    loop {
        let (number, mut items) = match receiver.recv().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        while asked.try_join_next().is_some() || rechecks.try_join_next().is_some() {}
        if let Some(accounts) = &links.accounts {
            let mut handed_over = Vec::new();
            for item in &mut items {
                match &mut item.item {
                    Some(from_edge::Item::Authenticate(who)) => {
                        let (who, asides) = (std::mem::take(who), links.asides.clone());
                        asked.spawn(links::authenticate(who, accounts.clone(), asides));
                        item.item = None;
                    }
                    Some(from_edge::Item::Connected(connected)) if connected.handed_over => {
                        handed_over.extend(links::handed_over(connected));
                    }
                    _ => {}
                }
            }
            if !handed_over.is_empty() {
                let (asides, turns) = (links.asides.clone(), turns.clone());
                let recheck = links::recheck(handed_over, accounts.clone(), asides, turns);
                rechecks.spawn(recheck);
            }
        }
        let intake = Intake {
            link,
            ..take(number, items, limits)
        };
        let _ = taken.send(Taken::Frame(intake)).await;
    }
}

/// Takes a frame apart.
pub(super) fn take(number: u64, items: Vec<FromEdge>, limits: &Limits) -> Intake {
    let mut intake = Intake {
        number,
        ..Intake::default()
    };
    for item in items.into_iter().filter_map(|item| item.item) {
        match item {
            from_edge::Item::Uplink(uplink) => intake.take_uplink(uplink, limits),
            notice => intake.notices.push(notice),
        }
    }
    intake
}

impl Intake {
    fn take_uplink(&mut self, uplink: Uplink, limits: &Limits) {
        let door = Door::Edge {
            session: uplink.session,
            token: uplink.token,
        };
        let format = match uplink.format() {
            link::Format::Json => Format::Json,
            link::Format::Protobuf | link::Format::Unspecified => Format::Protobuf,
        };
        let Ok(uid) = uplink.uid.parse::<Uid>() else {
            error!("the edge sent an uplink of a user who can't exist");
            return;
        };
        let up = match format.decode_up(uplink.payload) {
            Ok(up) => up,
            Err(error) => {
                let refused = Refused::invalid(error.to_string());
                self.refused.push((door, String::new(), Err(refused)));
                return;
            }
        };
        let client_msg_id = up.client_msg_id.clone();
        match gate::admit(&uid, up, limits) {
            Ok(Admitted { command, flagged }) => self.jobs.push(Job {
                caller: Caller {
                    uid,
                    device: uplink.device,
                },
                door,
                client_msg_id,
                command,
                flagged,
            }),
            Err(refused) => self.refused.push((door, client_msg_id, Err(refused))),
        }
    }
}
