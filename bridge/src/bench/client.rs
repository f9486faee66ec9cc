//! One user: sends what is due, acknowledges what comes, measures both, and stays until all is accounted for.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use broker::codec::{AckKind, ReasonCode, Version, encode_ack};
use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::check::Promises;
use super::connection::{Broken, Connection};
use super::down::{self, Received};
use super::faults::Faults;
use super::incoming::Incoming;
use super::schedule::{Next, Pace};
use super::stamp::Stamp;
use super::talk::{Seat, Shared};
use super::tally::Samples;

/// How long after the end the rest may take to be stored, answered and received.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long nothing comes from a plain broker before what is missing counts as lost: it does not tell.
const QUIET_MAX: Duration = Duration::from_secs(3);
/// How long to listen at the end for what should not come: repeats.
const LINGER: Duration = Duration::from_millis(300);

/// What a client starts with.
pub(super) struct Client {
    pub shared: Arc<Shared>,
    pub connection: Connection,
    /// By the index of the conversation.
    pub seats: Vec<Seat>,
    /// Of one that sends; it goes through its seats by turns.
    pub pace: Option<Pace>,
    /// Told when a message may be due.
    pub wake: Arc<Notify>,
}

/// What a client has seen.
pub(super) struct Seen {
    pub seats: Vec<Seat>,
    /// What has nothing to do with one conversation.
    pub faults: Faults,
}

impl Client {
    /// Talks to the end.
    pub(super) async fn run(self) -> Seen {
        let mut running = Running::new(self);
        if let Err(broken) = running.run().await {
            let example = || broken.to_string();
            running.desk.faults.note("broken connection", example);
        }
        running.finish()
    }
}

struct Running {
    connection: Connection,
    pace: Option<Pace>,
    wake: Arc<Notify>,
    desk: Desk,
    /// Of [`Desk::seats`], those of conversations to which the client sends.
    sending: Vec<usize>,
    /// How many messages it has sent to all of them.
    sent: usize,
    last_packet_id: u16,
    is_total_known: bool,
    stage: Stage,
}

/// What a client does with what comes, apart from the connection on which it comes.
struct Desk {
    shared: Arc<Shared>,
    seats: Vec<Seat>,
    /// Oldest first: PUBACKs come in the order of the publishes [MQTT-4.6.0-2].
    in_flight: VecDeque<InFlight>,
    samples: Samples,
    faults: Faults,
}

/// A publish that waits for its PUBACK.
struct InFlight {
    packet_id: NonZeroU16,
    seat: usize,
    due: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the end of the time to measure.
    Talking,
    /// Until everything is accounted for.
    Draining,
    /// For a while longer.
    Lingering,
}

impl Running {
    fn new(client: Client) -> Running {
        let seats = client.seats.iter().enumerate();
        let sending = seats.filter(|(_, seat)| seat.template.is_some());
        Running {
            sending: sending.map(|(index, _)| index).collect(),
            connection: client.connection,
            pace: client.pace,
            wake: client.wake,
            desk: Desk {
                shared: client.shared,
                seats: client.seats,
                in_flight: VecDeque::new(),
                samples: Samples::default(),
                faults: Faults::default(),
            },
            sent: 0,
            last_packet_id: 0,
            is_total_known: false,
            stage: Stage::Talking,
        }
    }

    async fn run(&mut self) -> Result<(), Broken> {
        let shared = self.desk.shared.clone();
        let end = Instant::from_std(shared.clock.at(shared.phases.end));
        sleep_until(shared.clock.at(0).into()).await;
        let alarm = sleep_until(end);
        let known = shared.totals.known();
        tokio::pin!(alarm, known);
        loop {
            self.publish_due();
            self.connection.flush()?;
            if self.is_complete() {
                self.stage = Stage::Lingering;
                alarm.as_mut().reset(Instant::now() + LINGER);
            }
            tokio::select! {
                read = self.connection.exchange() => {
                    read?;
                    self.take_packets()?;
                    if self.stage == Stage::Draining && shared.promises != Promises::Chat {
                        alarm.as_mut().reset(Instant::now() + QUIET_MAX);
                    }
                }
                () = self.wake.notified() => {}
                () = &mut known, if !self.is_total_known => self.is_total_known = true,
                () = &mut alarm => match self.stage {
                    Stage::Talking => {
                        self.stage = Stage::Draining;
                        alarm.as_mut().reset(Instant::now() + DRAIN_MAX);
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

    /// Whether everything that was sent is accounted for, which it was not before.
    fn is_complete(&self) -> bool {
        let is_complete = |seat: &Seat| {
            let total = self.desk.shared.totals.of(seat.talk);
            seat.view.is_complete(total)
        };
        self.is_total_known
            && self.stage != Stage::Lingering
            && self.desk.seats.iter().all(is_complete)
    }

    /// The rest has taken too long; what is missing is counted by the check.
    fn give_up(&mut self) {
        if self.pace.is_some() {
            let sent = self.sent;
            let example = || format!("{sent} messages were sent until then");
            self.desk.faults.note("rate not kept", example);
        }
    }

    /// Publishes what is due, as far as the window has room; at the end, tells how many there were.
    fn publish_due(&mut self) {
        let Running { desk, pace, .. } = self;
        let Some(plan) = *pace else { return };
        let Shared { clock, phases, .. } = *desk.shared;
        if desk.in_flight.len() >= desk.shared.window {
            return;
        }
        let now = clock.now();
        desk.hand_over(now);
        while desk.in_flight.len() < desk.shared.window {
            let due = match plan.next(self.sent, now, phases.end) {
                Next::Due(due) => due,
                Next::Later => return,
                Next::Never => {
                    *pace = None;
                    desk.shared.totals.finish(&desk.seats);
                    return;
                }
            };
            let index = self.sending[self.sent % self.sending.len()];
            let Seat { view, template, .. } = &mut desk.seats[index];
            let Some(template) = template else { return };
            self.sent += 1;
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let packet_id = NonZeroU16::new(self.last_packet_id).unwrap_or(NonZeroU16::MIN);
            template.write(&mut self.connection.out, packet_id, view.publish(), due);
            desk.in_flight.push_back(InFlight {
                packet_id,
                seat: index,
                due,
            });
            desk.samples.sent();
        }
    }

    fn take_packets(&mut self) -> Result<(), Broken> {
        let Running {
            connection, desk, ..
        } = self;
        let now = desk.shared.clock.now();
        desk.hand_over(now);
        connection.take_packets(|packet, out| match packet {
            Incoming::PubAck(packet_id) => desk.on_puback(packet_id, now),
            Incoming::Publish { packet_id, payload } => {
                if let Some(packet_id) = packet_id {
                    acknowledge(out, packet_id);
                }
                desk.on_publish(payload, now);
            }
            Incoming::Other(packet_type) => {
                let example = || format!("{packet_type:?}");
                desk.faults.note("unexpected packet", example);
            }
        })
    }

    fn finish(self) -> Seen {
        let mut desk = self.desk;
        if self.pace.is_some() {
            // The others need not wait for what will not come.
            desk.shared.totals.finish(&desk.seats);
        }
        let now = desk.shared.clock.now();
        desk.shared.tally.lock().add(&mut desk.samples, now);
        Seen {
            seats: desk.seats,
            faults: desk.faults,
        }
    }
}

fn acknowledge(out: &mut BytesMut, packet_id: NonZeroU16) {
    let success = ReasonCode::Success;
    encode_ack(AckKind::PubAck, Version::V4, out, packet_id, success);
}

impl Desk {
    fn on_puback(&mut self, packet_id: NonZeroU16, now: u64) {
        match self.in_flight.front() {
            Some(oldest) if oldest.packet_id == packet_id => {
                self.seats[oldest.seat].view.ack();
                self.samples.stored(oldest.due, now);
                self.in_flight.pop_front();
            }
            _ => {
                let example = || format!("packet {packet_id}");
                self.faults.note("unexpected PUBACK", example);
            }
        }
    }

    fn on_publish(&mut self, payload: &[u8], now: u64) {
        let Shared {
            promises, format, ..
        } = *self.shared;
        if promises != Promises::Chat {
            match Stamp::read(payload) {
                Some(stamp) => self.receive(stamp, 0, now),
                None => {
                    let example = || format!("{} bytes", payload.len());
                    self.faults.note("unexpected publish", example);
                }
            }
            return;
        }
        let read = down::read(format, payload, |received| self.take(received, now));
        if let Err(error) = read {
            let example = || error.to_string();
            self.faults.note("unexpected publish", example);
        }
    }

    fn take(&mut self, received: Received<'_>, now: u64) {
        match received {
            Received::Stored { mark, seq } => {
                if let Some(seat) = self.seat(mark.talk) {
                    seat.view.answer(mark.number, seq);
                }
            }
            Received::Refused { mark, reason } => {
                if let Some(seat) = self.seat(mark.talk) {
                    seat.view.refuse(mark.number, reason);
                }
            }
            Received::Message {
                stamp,
                seq,
                conversation,
            } => {
                if let Some(seat) = self.seat(stamp.talk)
                    && *seat.name != *conversation
                {
                    let example = || format!("{conversation} instead of {}", seat.name);
                    seat.view.faults.note("wrong conversation", example);
                }
                self.receive(stamp, seq, now);
            }
        }
    }

    fn receive(&mut self, stamp: Stamp, seq: u32, now: u64) {
        if let Some(seat) = self.seat(stamp.talk) {
            let is_new = seat.view.receive(stamp.sender, stamp.number, seq);
            if is_new {
                self.samples.delivered(stamp.due, now);
            }
        }
    }

    fn seat(&mut self, talk: u32) -> Option<&mut Seat> {
        let found = self.seats.binary_search_by_key(&talk, |seat| seat.talk);
        if found.is_err() {
            let example = || format!("of conversation {talk}");
            self.faults.note("message for others", example);
        }
        self.seats.get_mut(found.ok()?)
    }

    fn hand_over(&mut self, now: u64) {
        if self.samples.is_due(now) {
            self.shared.tally.lock().add(&mut self.samples, now);
        }
    }
}
