//! One user: sends what is due, acknowledges what comes, measures both, and stays until all is accounted for.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::check::Promises;
use super::connection::{Broken, Connection, Entry, acknowledge};
use super::down::{self, Delivered, Received};
use super::faults::Faults;
use super::incoming::Incoming;
use super::schedule::{Next, Pace};
use super::stamp::{Mark, Stamp};
use super::talk::{Seat, Shared};
use super::tally::Samples;
use super::way::Way;

/// How long after the end the rest may take to be stored, answered and received, whatever still comes.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long nothing comes from a plain broker before what is missing counts as lost: it does not tell.
const QUIET_MAX: Duration = Duration::from_secs(5);
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
    /// Of one that does not send.
    pub absence: Option<(Absence, WayBack)>,
}

/// A time without connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    /// On the run's clock.
    pub from: Duration,
    pub lasts: Duration,
    /// Whether there is a DISCONNECT before it.
    pub says_goodbye: bool,
}

/// How a client that was away comes back.
pub(super) struct WayBack {
    pub way: Way,
    pub index: u32,
    pub entry: Entry,
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
    absence: Option<(Absence, WayBack)>,
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
    /// Of a chat, oldest first.
    unanswered: VecDeque<Unanswered>,
    samples: Samples,
    /// When the client came back, if it was away: it misses what was due before.
    back_at: u64,
    faults: Faults,
}

/// A publish that waits for its PUBACK.
struct InFlight {
    packet_id: NonZeroU16,
    seat: usize,
    due: u64,
}

/// A message that waits for its reply, which says that it is stored.
struct Unanswered {
    mark: Mark,
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
            absence: client.absence,
            desk: Desk {
                shared: client.shared,
                seats: client.seats,
                in_flight: VecDeque::new(),
                unanswered: VecDeque::new(),
                samples: Samples::default(),
                back_at: 0,
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
        let is_plain = shared.promises != Promises::Chat;
        let end = Instant::from_std(shared.clock.at(shared.phases.end));
        let latest = end + DRAIN_MAX;
        sleep_until(shared.clock.at(0).into()).await;
        let alarm = sleep_until(end);
        let known = shared.totals.known();
        let leaves = self.absence.as_ref().map(|(absence, _)| absence.from);
        let leaving = sleep_until((shared.clock.at(0) + leaves.unwrap_or_default()).into());
        tokio::pin!(alarm, known, leaving);
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
                    if self.stage == Stage::Draining && is_plain {
                        alarm.as_mut().reset(latest.min(Instant::now() + QUIET_MAX));
                    }
                }
                () = self.wake.notified() => {}
                () = &mut leaving, if self.absence.is_some() => self.be_absent().await?,
                () = &mut known, if !self.is_total_known => self.is_total_known = true,
                () = &mut alarm => match self.stage {
                    Stage::Talking => {
                        self.stage = Stage::Draining;
                        let patience = if is_plain { QUIET_MAX } else { DRAIN_MAX };
                        alarm.as_mut().reset(Instant::now() + patience);
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

    /// Leaves, and comes back later.
    async fn be_absent(&mut self) -> Result<(), Broken> {
        let Some((absence, way_back)) = self.absence.take() else {
            return Ok(());
        };
        if absence.says_goodbye {
            self.connection.say_goodbye();
            self.connection.flush()?;
        }
        self.connection.disconnect();
        sleep(absence.lasts).await;
        let WayBack { way, index, entry } = way_back;
        let connection = Connection::open(&way, index, &entry).await;
        self.connection = connection.map_err(Broken::NotReopened)?;
        self.desk.back_at = self.desk.shared.clock.now();
        for seat in &mut self.desk.seats {
            seat.view.reconnect();
        }
        Ok(())
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
        if !desk.has_room() {
            return;
        }
        let now = clock.now();
        desk.hand_over(now);
        while desk.has_room() {
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
            let Seat {
                talk,
                view,
                template,
                ..
            } = &mut desk.seats[index];
            let Some(template) = template else { return };
            self.sent += 1;
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let packet_id = NonZeroU16::new(self.last_packet_id).unwrap_or(NonZeroU16::MIN);
            let (talk, number) = (*talk, view.publish());
            template.write(&mut self.connection.out, packet_id, number, due);
            if desk.shared.promises == Promises::Chat {
                let mark = Mark { talk, number };
                desk.unanswered.push_back(Unanswered { mark, due });
            }
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
            Incoming::Publish {
                topic,
                packet_id,
                payload,
            } => {
                if let Some(packet_id) = packet_id {
                    acknowledge(out, packet_id);
                }
                desk.on_publish(topic, packet_id, payload, now);
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

impl Desk {
    fn has_room(&self) -> bool {
        self.in_flight.len().max(self.unanswered.len()) < self.shared.window
    }

    fn on_puback(&mut self, packet_id: NonZeroU16, now: u64) {
        match self.in_flight.front() {
            Some(oldest) if oldest.packet_id == packet_id => {
                self.seats[oldest.seat].view.ack();
                if self.shared.promises != Promises::Chat {
                    self.samples.stored(oldest.due, now);
                }
                self.in_flight.pop_front();
            }
            _ => {
                let example = || format!("packet {packet_id}");
                self.faults.note("unexpected PUBACK", example);
            }
        }
    }

    fn on_publish(&mut self, topic: &str, packet_id: Option<NonZeroU16>, payload: &[u8], now: u64) {
        let Shared {
            promises, format, ..
        } = *self.shared;
        if promises == Promises::Chat {
            let take = |received: Received<'_>| self.take(received, packet_id, now);
            if let Err(error) = down::read(format, payload, take) {
                let example = || error.to_string();
                self.faults.note("unexpected publish", example);
            }
            return;
        }
        let Some(stamp) = Stamp::read(payload) else {
            let example = || format!("{} bytes", payload.len());
            self.faults.note("unexpected publish", example);
            return;
        };
        let message = Delivered {
            stamp,
            size: payload.len(),
            seq: 0,
            conversation: topic,
            sender: "",
        };
        self.receive(&message, packet_id, now);
    }

    fn take(&mut self, received: Received<'_>, packet_id: Option<NonZeroU16>, now: u64) {
        match received {
            Received::Stored { mark, seq } => {
                if let Some(seat) = self.seat(mark.talk) {
                    seat.view.answer(mark.number, seq);
                }
                if let Some(due) = self.settle(mark) {
                    self.samples.stored(due, now);
                }
            }
            Received::Refused { mark, reason } => {
                if let Some(seat) = self.seat(mark.talk) {
                    seat.view.refuse(mark.number, reason);
                }
                self.settle(mark);
            }
            Received::Message(message) => self.receive(&message, packet_id, now),
        }
    }

    /// The reply to a message has come; tells when the message was due, if it was waited for.
    fn settle(&mut self, mark: Mark) -> Option<u64> {
        let at = self.unanswered.iter().position(|each| each.mark == mark)?;
        Some(self.unanswered.remove(at)?.due)
    }

    fn receive(&mut self, message: &Delivered<'_>, packet_id: Option<NonZeroU16>, now: u64) {
        let Shared { promises, size, .. } = *self.shared;
        let Stamp {
            talk,
            sender,
            number,
            due,
        } = message.stamp;
        let Some(seat) = self.seat(talk) else { return };
        seat.check(message, size);
        if packet_id.is_none() && promises != Promises::PlainWithLosses {
            let example = || format!("message {number}");
            seat.view.faults.note("delivered at QoS 0", example);
        }
        let is_new = seat.view.receive(sender, number, message.seq);
        if is_new && due >= self.back_at {
            self.samples.delivered(due, now);
        } else if is_new {
            self.samples.caught_up();
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

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use schema::Format;
    use schema::v1::{self, down as content, message, reply};
    use schema::wire::encode_down;

    use super::super::check::View;
    use super::super::schedule::{Clock, Phases};
    use super::super::stamp;
    use super::super::talk::Totals;
    use super::super::tally::Tally;
    use super::*;

    const ID: Option<NonZeroU16> = Some(NonZeroU16::MIN);
    const MS: u64 = 1_000_000;

    /// Of a client that sends, as the first of two in a chat; on a plain topic it listens.
    fn desk(promises: Promises) -> Desk {
        let phases = Phases::new(0, 1);
        let (name, sender, senders) = match promises {
            Promises::Chat => ("u:a:b", Some(0), vec!["a", "b"]),
            Promises::Plain | Promises::PlainWithLosses => ("room", None, vec![]),
        };
        let uids = senders.into_iter().map(|uid| uid.parse().unwrap());
        Desk {
            shared: Arc::new(Shared {
                promises,
                format: Format::Protobuf,
                clock: Clock::starting_in(Duration::ZERO),
                phases,
                window: 2,
                size: stamp::SIZE,
                tally: Mutex::new(Tally::new(phases)),
                totals: Totals::new(5, 1),
            }),
            seats: vec![Seat {
                talk: 4,
                name: name.into(),
                senders: uids.collect(),
                template: None,
                view: View::new(promises, sender, 2),
            }],
            in_flight: VecDeque::new(),
            unanswered: VecDeque::new(),
            samples: Samples::default(),
            back_at: 0,
            faults: Faults::default(),
        }
    }

    fn kinds(desk: &Desk) -> Vec<&str> {
        let mut kinds = desk.faults.kinds();
        kinds.extend(desk.seats[0].view.faults.kinds());
        kinds
    }

    fn check_message(packet_id: Option<NonZeroU16>, break_it: fn(&mut v1::Message), kind: &[&str]) {
        let mut message = v1::Message {
            conversation: "u:a:b".into(),
            seq: 1,
            sender: "b".into(),
            content: Some(message::Content::Text(format!(
                "{:06x}{:06x}{:08x}{:012x}",
                4, 1, 1, 0
            ))),
            ..Default::default()
        };
        break_it(&mut message);
        let payload = encode_down(content::Content::Message(message));
        let mut desk = desk(Promises::Chat);
        desk.on_publish("im/a/down", packet_id, &payload, MS);
        assert_eq!(kinds(&desk), kind);
    }

    #[test]
    fn a_message_is_looked_at_from_all_sides() {
        check_message(ID, |_| (), &[]);
        check_message(None, |_| (), &["delivered at QoS 0"]);
        let other = |message: &mut v1::Message| message.conversation = "u:b:c".into();
        check_message(ID, other, &["wrong conversation"]);
        check_message(ID, |message| message.sender = "c".into(), &["wrong sender"]);
        let longer = |message: &mut v1::Message| {
            if let Some(message::Content::Text(text)) = &mut message.content {
                text.push('x');
            }
        };
        check_message(ID, longer, &["wrong size"]);
        let for_others = |message: &mut v1::Message| {
            if let Some(message::Content::Text(text)) = &mut message.content {
                text.replace_range(..stamp::TALK_SIZE, "000007");
            }
        };
        check_message(ID, for_others, &["message for others"]);
    }

    #[test]
    fn a_plain_message_is_looked_at_too() {
        let content = format!("{:06x}{:06x}{:08x}{:012x}", 4, 1, 1, 0);
        let check = |promises, topic, packet_id, content: &str, expected: &[&str]| {
            let mut desk = desk(promises);
            desk.on_publish(topic, packet_id, content.as_bytes(), MS);
            assert_eq!(kinds(&desk), expected);
        };
        let long = content.clone() + "x";
        let (plain, lossy) = (Promises::Plain, Promises::PlainWithLosses);
        check(plain, "room", ID, &content, &[]);
        check(plain, "room", None, &content, &["delivered at QoS 0"]);
        check(lossy, "room", None, &content, &[]);
        check(lossy, "hall", None, &content, &["wrong conversation"]);
        check(lossy, "room", None, &long, &["wrong size"]);
        check(lossy, "room", None, "hello", &["unexpected publish"]);
    }

    #[test]
    fn a_chat_has_stored_what_it_has_answered() {
        let mut desk = desk(Promises::Chat);
        let number = desk.seats[0].view.publish();
        let mark = Mark { talk: 4, number };
        desk.unanswered.push_back(Unanswered { mark, due: 0 });
        let packet_id = NonZeroU16::MIN;
        desk.in_flight.push_back(InFlight {
            packet_id,
            seat: 0,
            due: 0,
        });
        let stored = |desk: &mut Desk| {
            let mut tally = Tally::new(Phases::new(0, 1));
            tally.add(&mut desk.samples, 3 * MS);
            tally.counts().stored
        };
        desk.on_puback(packet_id, MS);
        assert_eq!(stored(&mut desk), 0);
        let ok = reply::Result::Ok(v1::Ok {
            seq: 1,
            ..Default::default()
        });
        let reply = v1::Reply {
            client_msg_id: format!("{:06x}{number:08x}", 4),
            result: Some(ok),
        };
        let payload = encode_down(content::Content::Reply(reply));
        desk.on_publish("im/a/down", ID, &payload, 2 * MS);
        assert_eq!(stored(&mut desk), 1);
        assert!(desk.unanswered.is_empty() && kinds(&desk).is_empty());
    }

    #[test]
    fn the_window_counts_what_is_not_answered() {
        let mut desk = desk(Promises::Chat);
        for number in 1..=2 {
            assert!(desk.has_room());
            let mark = Mark { talk: 4, number };
            desk.unanswered.push_back(Unanswered { mark, due: 0 });
        }
        assert!(!desk.has_room());
        let refused = |number| Received::Refused {
            mark: Mark { talk: 4, number },
            reason: String::new(),
        };
        desk.take(refused(2), ID, MS);
        assert!(desk.has_room());
    }
}
