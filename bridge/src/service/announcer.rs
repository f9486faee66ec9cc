//! The end of the pipeline: says what rounds have come to, in their order, while the next one is executed.

use std::collections::VecDeque;

use broker::link::LinkClosed;
use schema::Uid;
use schema::link::ToEdge;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::announce::{Answered, answer};
use super::command::Command;
use super::intake::Joined;
use super::job::{Delivery, Door, Job, Outcome, Place, Settled};
use super::links::Asides;
use super::outlet::{Found, Outlet};
use crate::clock;

/// Recipients whose names may wait in memory before what there is to say is said.
const RECIPIENTS_MAX: usize = 16 * 1024;

/// What a round has come to.
#[derive(Default)]
pub(super) struct Announcement {
    /// Before all else: from here on, announcements are for another edge.
    pub(super) joined: Option<Joined>,
    /// Answers that needed no transaction, and those to retained messages.
    pub(super) first: Vec<ToEdge>,
    /// What users get to know beside any command.
    pub(super) told: Vec<Delivery>,
    /// What is known of other nodes' messages.
    pub(super) abroad: Abroad,
    /// The round's commands, in their order.
    pub(super) executed: Vec<(Job, Outcome)>,
    /// What continues the deliveries of what has been committed, without a gap.
    pub(super) last: Vec<ToEdge>,
    /// The last frame that the round has dealt with, and the link that has brought it.
    pub(super) last_frame: Option<(u64, u64)>,
}

/// What is known of messages that other nodes have stored.
#[derive(Debug, Default)]
pub(super) struct Abroad {
    /// What they have told, for users who are connected here.
    pub(super) heard: Vec<Delivery>,
    /// Since when they may have told something that was not heard.
    pub(super) in_doubt_since: Option<Instant>,
    pub(super) found: Vec<Found>,
}

/// See the module's documentation.
pub(super) struct Announcer {
    /// What is announced while there is none is heard by nobody.
    joined: Option<Joined>,
    /// Without a link the service can't go on.
    needs_link: bool,
    asides: Asides,
    outlet: Outlet,
    /// Answers to HTTP that leave when the edge is done with the frame of that number.
    held: VecDeque<(u64, Answered)>,
}

impl Announcer {
    pub(super) fn new(needs_link: bool, asides: Asides, outlet: Outlet) -> Self {
        Announcer {
            joined: None,
            needs_link,
            asides,
            outlet,
            held: VecDeque::new(),
        }
    }

    /// Announces until the pipeline has ended and all is said.
    pub(super) async fn run(
        mut self,
        mut announcements: mpsc::Receiver<Announcement>,
    ) -> Result<(), LinkClosed> {
        let asides = self.asides.clone();
        loop {
            let flow = self
                .joined
                .as_ref()
                .map(|joined| joined.sender.flow().clone());
            let woken = async {
                match flow {
                    Some(flow) => flow.woken().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                announcement = announcements.recv() => match announcement {
                    Some(announcement) => self.announce(announcement).await?,
                    None => break,
                },
                () = asides.filled() => self.send_asides().await?,
                () = woken => {}
                () = clock::sleep_until(self.outlet.next_due()) => self.outlet.ask(),
            }
            self.report().await?;
        }
        self.release_answers(u64::MAX);
        Ok(())
    }

    async fn report(&mut self) -> Result<(), LinkClosed> {
        let Some(joined) = &mut self.joined else {
            return Ok(());
        };
        let done = joined.sender.flow().peer_done();
        let reported = joined.sender.report().await;
        self.check(reported)?;
        self.release_answers(done);
        Ok(())
    }

    async fn send(&mut self, items: Vec<ToEdge>) -> Result<(), LinkClosed> {
        let Some(joined) = &mut self.joined else {
            return Ok(());
        };
        let sent = joined.sender.send(items).await;
        self.check(sent)
    }

    /// Sends what was said aside for the link that there is. What is for a later one waits until that is announced.
    async fn send_asides(&mut self) -> Result<(), LinkClosed> {
        let Some(joined) = &self.joined else {
            return Ok(());
        };
        let items = self.asides.take(joined.link);
        self.send(items).await
    }

    /// Goes on without a link that has ended, if there may be another one.
    fn check(&mut self, outcome: Result<(), LinkClosed>) -> Result<(), LinkClosed> {
        match outcome {
            Err(error) if self.needs_link => Err(error),
            Err(_) => {
                self.joined = None;
                // Whatever edge comes next has what they depend on from the database.
                self.release_answers(u64::MAX);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn announce(&mut self, announcement: Announcement) -> Result<(), LinkClosed> {
        if let Some(joined) = announcement.joined {
            self.joined = Some(joined);
            self.release_answers(u64::MAX);
            self.send_asides().await?;
        }
        let mut items = announcement.first;
        let outlet = &mut self.outlet;
        for delivery in announcement.told {
            outlet.tell(delivery, &mut items);
        }
        if let Some(since) = announcement.abroad.in_doubt_since {
            outlet.doubt(since);
        }
        for delivery in announcement.abroad.heard {
            outlet.pass(delivery, &mut items);
        }
        for found in announcement.abroad.found {
            outlet.take(found, &mut items);
        }
        let mut held = Vec::new();
        let mut recipients = 0;
        for (job, outcome) in announcement.executed {
            match outcome {
                Outcome::Stored(place) => {
                    recipients += place.conversation.members().len();
                    let delivery = tell_stored(job, &place, &mut items);
                    self.outlet.tell(delivery, &mut items);
                }
                Outcome::Settled(settled) => {
                    for delivery in tell_settled(job, *settled, &mut items, &mut held) {
                        self.outlet.tell(delivery, &mut items);
                    }
                }
            }
            if recipients >= RECIPIENTS_MAX {
                recipients = 0;
                self.send(std::mem::take(&mut items)).await?;
                // A round of large groups takes long, and others wait for this thread.
                tokio::task::yield_now().await;
            }
        }
        items.extend(announcement.last);
        if let (Some((link, number)), Some(joined)) = (announcement.last_frame, &self.joined)
            && joined.link == link
        {
            joined.sender.flow().done(number);
        }
        self.send(items).await?;
        if !held.is_empty() {
            self.hold(held).await?;
        }
        Ok(())
    }

    /// Holds answers until the edge is done with what it was sent before them.
    async fn hold(&mut self, held: Vec<Answered>) -> Result<(), LinkClosed> {
        let mut number = 0;
        if let Some(joined) = &mut self.joined {
            let urged = joined.sender.urge().await.map(|last| number = last);
            self.check(urged)?;
        }
        let held = held.into_iter().map(|answered| (number, answered));
        self.held.extend(held);
        if self.joined.is_none() {
            self.release_answers(u64::MAX);
        }
        Ok(())
    }

    /// Sends the answers that were held until the edge was done with that frame.
    fn release_answers(&mut self, done: u64) {
        while self.held.front().is_some_and(|(number, _)| *number <= done)
            && let Some((_, answered)) = self.held.pop_front()
        {
            // Only HTTP's are held, which are no items.
            answer(answered, &mut Vec::new());
        }
    }
}

/// The answer to the sender; returns the message for everybody else.
fn tell_stored(job: Job, place: &Place, items: &mut Vec<ToEdge>) -> Delivery {
    let Command::Send(send) = job.command else {
        unreachable!("only what is sent gets a place")
    };
    let session = job.door.session();
    answer((job.door, job.client_msg_id.clone(), Ok(place.ok())), items);
    let message = place.message(job.caller, job.client_msg_id, send);
    let conversation = &place.conversation;
    let hears = |uid: &&Uid| place.hidden_from.as_ref() != Some(uid);
    let to = conversation.members().iter().filter(hears);
    Delivery::message(conversation.id, &message, place.previous, to, session)
}

/// The answer; returns what others get to know.
fn tell_settled(
    job: Job,
    settled: Settled,
    items: &mut Vec<ToEdge>,
    held: &mut Vec<Answered>,
) -> Vec<Delivery> {
    // On the link it arrives before the answer; an answer to HTTP could overtake it.
    let is_held = settled.precondition.is_some() && matches!(job.door, Door::Http(_));
    items.extend(settled.precondition);
    let answered = (job.door, job.client_msg_id, settled.result);
    if is_held {
        held.push(answered);
    } else {
        answer(answered, items);
    }
    settled.deliveries
}
