//! One user: sends what is due, acknowledges what comes, measures both, and stays until all is accounted for.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use broker::codec::{AckKind, Packet, Publish, ReasonCode, Version, encode_ack};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::check::View;
use super::connection::{Broken, Connection};
use super::down::{self, Received};
use super::report::{Samples, Tally};
use super::schedule::{Clock, Next, Pace, Phases};
use super::template::Template;

/// How long after the end the rest may take to be stored, answered and received.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long to listen after that for what should not come: repeats.
const LINGER: Duration = Duration::from_millis(300);

/// What a client starts with.
pub(super) struct Client {
    pub connection: Connection,
    pub template: Template,
    pub pace: Pace,
    /// Publishes that may wait for their PUBACK.
    pub window: usize,
    pub clock: Clock,
    pub phases: Phases,
    /// Told when a message may be due.
    pub wake: Arc<Notify>,
    /// Where everyone's measurements go.
    pub tally: Arc<Mutex<Tally>>,
    /// Tells the peer how many messages there were, once.
    pub total: Option<oneshot::Sender<u32>>,
    /// The same from the peer.
    pub peer_total: oneshot::Receiver<u32>,
}

impl Client {
    /// Chats to the end; what went wrong is in the view.
    pub(super) async fn run(self) -> View {
        let mut chat = Chat::new(self);
        if let Err(broken) = chat.run().await {
            chat.view
                .faults
                .note("broken connection", || broken.to_string());
        }
        chat.view
    }
}

/// A publish that waits for its PUBACK.
struct InFlight {
    packet_id: NonZeroU16,
    due: u64,
}

struct Chat {
    client: Client,
    view: View,
    /// Oldest first: PUBACKs come in the order of the publishes [MQTT-4.6.0-2].
    in_flight: VecDeque<InFlight>,
    last_packet_id: u16,
    samples: Samples,
    /// How many messages the peer sent, when that is known.
    expected: Option<u32>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the end of the time to measure.
    Chatting,
    /// Until everything is accounted for.
    Draining,
    /// For a while longer.
    Lingering,
}

impl Chat {
    fn new(client: Client) -> Chat {
        Chat {
            client,
            view: View::default(),
            in_flight: VecDeque::new(),
            last_packet_id: 0,
            samples: Samples::default(),
            expected: None,
            stage: Stage::Chatting,
        }
    }

    async fn run(&mut self) -> Result<(), Broken> {
        let end = Instant::from_std(self.client.clock.at(self.client.phases.end));
        sleep_until(self.client.clock.at(0).into()).await;
        let alarm = sleep_until(end);
        tokio::pin!(alarm);
        loop {
            self.publish_due();
            self.hand_over();
            self.client.connection.flush()?;
            if self.stage != Stage::Lingering && self.is_complete() {
                self.stage = Stage::Lingering;
                alarm.as_mut().reset(Instant::now() + LINGER);
            }
            tokio::select! {
                read = self.client.connection.exchange() => {
                    read?;
                    self.take_packets()?;
                }
                () = self.client.wake.notified() => {}
                // A peer that has failed says nothing; its own view tells what happened.
                total = &mut self.client.peer_total, if self.expected.is_none() => {
                    self.expected = Some(total.unwrap_or(0));
                }
                () = &mut alarm => match self.stage {
                    Stage::Chatting => {
                        self.stage = Stage::Draining;
                        alarm.as_mut().reset(end + DRAIN_MAX);
                    }
                    Stage::Draining => {
                        self.give_up();
                        return Ok(());
                    }
                    Stage::Lingering => return Ok(()),
                },
            }
        }
    }

    /// Whether everything that was sent is accounted for, on both sides.
    fn is_complete(&self) -> bool {
        let is_all_sent = self.client.total.is_none();
        is_all_sent
            && self
                .expected
                .is_some_and(|total| self.view.is_complete(total))
    }

    /// The rest has taken too long.
    fn give_up(&mut self) {
        let progress = self.view.progress(self.expected);
        let is_all_sent = self.client.total.is_none();
        let kind = if is_all_sent {
            "not drained"
        } else {
            "rate not kept"
        };
        self.view.faults.note(kind, || progress);
    }

    /// Publishes what is due, as far as the window has room; at the end, tells the peer how many there were.
    fn publish_due(&mut self) {
        let client = &mut self.client;
        let now = client.clock.now();
        while client.total.is_some() && self.in_flight.len() < client.window {
            let due = match client
                .pace
                .next(self.view.published() as usize, now, client.phases.end)
            {
                Next::Due(due) => due,
                Next::Later => return,
                Next::Never => {
                    let total = client.total.take();
                    // A peer that has failed does not listen.
                    total.map(|total| total.send(self.view.published()));
                    return;
                }
            };
            let number = self.view.publish();
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let packet_id = NonZeroU16::new(self.last_packet_id).unwrap_or(NonZeroU16::MIN);
            client
                .template
                .write(&mut client.connection.out, packet_id, number, due);
            self.in_flight.push_back(InFlight { packet_id, due });
            self.samples.sent(client.phases, now);
        }
    }

    fn take_packets(&mut self) -> Result<(), Broken> {
        let now = self.client.clock.now();
        while let Some(packet) = self.client.connection.next()? {
            match packet {
                Packet::PubAck(ack) => self.on_puback(ack.packet_id, now),
                Packet::Publish(publish) => self.on_publish(&publish, now),
                Packet::Disconnect(_) => return Err(Broken::Closed),
                other => {
                    let packet_type = other.packet_type();
                    let faults = &mut self.view.faults;
                    faults.note("unexpected packet", || format!("{packet_type:?}"));
                }
            }
        }
        Ok(())
    }

    fn on_puback(&mut self, packet_id: NonZeroU16, now: u64) {
        match self.in_flight.pop_front() {
            Some(oldest) if oldest.packet_id == packet_id => {
                self.view.acked += 1;
                let phases = self.client.phases;
                self.samples.stored(phases, oldest.due, now);
            }
            other => {
                self.view
                    .faults
                    .note("unexpected PUBACK", || format!("packet {packet_id}"));
                other
                    .into_iter()
                    .for_each(|oldest| self.in_flight.push_front(oldest));
            }
        }
    }

    fn on_publish(&mut self, publish: &Publish, now: u64) {
        let connection = &mut self.client.connection;
        if let Some(packet_id) = publish.packet_id {
            let success = ReasonCode::Success;
            encode_ack(
                AckKind::PubAck,
                Version::V4,
                &mut connection.out,
                packet_id,
                success,
            );
        }
        let (view, samples, phases) = (&mut self.view, &mut self.samples, self.client.phases);
        let read = down::read(
            connection.format,
            &publish.payload,
            |received| match received {
                Received::Stored { number, seq } => view.answer(number, seq),
                Received::Refused { number, reason } => view.refuse(number, reason),
                Received::Message { stamp, seq } => {
                    view.receive(stamp.number, seq);
                    samples.delivered(phases, stamp.due, now);
                }
            },
        );
        if let Err(error) = read {
            self.view
                .faults
                .note("unexpected publish", || error.to_string());
        }
    }

    /// Hands the samples over.
    fn hand_over(&mut self) {
        if !self.samples.is_empty() {
            self.client.tally.lock().add(&mut self.samples);
        }
    }
}
