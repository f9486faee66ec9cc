//! The end of the pipeline: says what rounds have come to, in their order, while the next one is executed.

use std::collections::VecDeque;

use broker::link::{FrameSender, LinkClosed};
use schema::Uid;
use schema::link::{DownFrame, ToEdge};
use tokio::sync::mpsc;

use super::announce::{Answered, answer};
use super::command::Command;
use super::job::{Delivery, Door, Job, Outcome, Place, Settled};

/// Recipients whose names may wait in memory before what there is to say is said.
const RECIPIENTS_MAX: usize = 16 * 1024;

/// What a round has come to.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    /// Answers that needed no transaction, and those to retained messages.
    pub(super) first: Vec<ToEdge>,
    /// The round's commands, in their order.
    pub(super) executed: Vec<(Job, Outcome)>,
    /// What continues the deliveries of what has been committed, without a gap.
    pub(super) last: Vec<ToEdge>,
    /// The last frame that the round has dealt with.
    pub(super) last_frame: Option<u64>,
}

/// See the module's documentation.
pub(super) struct Announcer {
    sender: FrameSender<DownFrame>,
    /// Answers to HTTP that leave when the edge is done with the frame of that number.
    held: VecDeque<(u64, Answered)>,
}

impl Announcer {
    pub(super) fn new(sender: FrameSender<DownFrame>) -> Self {
        Announcer {
            sender,
            held: VecDeque::new(),
        }
    }

    /// Announces until the pipeline has ended and all is said.
    pub(super) async fn run(
        mut self,
        mut announcements: mpsc::Receiver<Announcement>,
    ) -> Result<(), LinkClosed> {
        let flow = self.sender.flow().clone();
        loop {
            tokio::select! {
                announcement = announcements.recv() => match announcement {
                    Some(announcement) => self.announce(announcement).await?,
                    None => break,
                },
                () = flow.woken() => {}
            }
            self.release_answers(self.sender.flow().peer_done());
            self.sender.report().await?;
        }
        self.release_answers(u64::MAX);
        Ok(())
    }

    async fn announce(&mut self, announcement: Announcement) -> Result<(), LinkClosed> {
        let mut items = announcement.first;
        let mut held = Vec::new();
        let mut recipients = 0;
        for (job, outcome) in announcement.executed {
            match outcome {
                Outcome::Stored(place) => {
                    recipients += place.conversation.members().len();
                    tell_stored(job, &place, &mut items);
                }
                Outcome::Settled(settled) => tell_settled(job, *settled, &mut items, &mut held),
            }
            if recipients >= RECIPIENTS_MAX {
                recipients = 0;
                self.sender.send(std::mem::take(&mut items)).await?;
                // A round of large groups takes long, and others wait for this thread.
                tokio::task::yield_now().await;
            }
        }
        items.extend(announcement.last);
        if let Some(number) = announcement.last_frame {
            self.sender.flow().done(number);
        }
        self.sender.send(items).await?;
        if !held.is_empty() {
            let number = self.sender.urge().await?;
            let held = held.into_iter().map(|answered| (number, answered));
            self.held.extend(held);
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

/// The answer to the sender, and the message to everybody else.
fn tell_stored(job: Job, place: &Place, items: &mut Vec<ToEdge>) {
    let Command::Send(send) = job.command else {
        unreachable!("only what is sent gets a place")
    };
    let session = job.door.session();
    answer((job.door, job.client_msg_id.clone(), Ok(place.ok())), items);
    let message = place.message(job.caller, job.client_msg_id, send);
    let conversation = &place.conversation;
    let hears = |uid: &&Uid| place.hidden_from.as_ref() != Some(uid);
    let to = conversation.members().iter().filter(hears);
    let delivery = Delivery::message(conversation.id, &message, place.previous, to, session);
    items.push(delivery.into_item());
}

fn tell_settled(job: Job, settled: Settled, items: &mut Vec<ToEdge>, held: &mut Vec<Answered>) {
    // On the link it arrives before the answer; an answer to HTTP could overtake it.
    let is_held = settled.precondition.is_some() && matches!(job.door, Door::Http(_));
    items.extend(settled.precondition);
    let answered = (job.door, job.client_msg_id, settled.result);
    if is_held {
        held.push(answered);
    } else {
        answer(answered, items);
    }
    let deliveries = settled.deliveries.into_iter();
    items.extend(deliveries.map(Delivery::into_item));
}
