//! The way up: publishes that the bridge has not answered yet, acknowledged in the order in which they came.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use schema::Format;
use schema::link::{self, FromEdge, Uplink, from_edge};

use super::item;
use crate::closed::Closed;
use crate::codec::{AckKind, Publish, Qos, ReasonCode, Version, encode_ack};
use crate::registry::Handle;

/// Token of an uplink whose answer nobody waits for.
pub(crate) const NO_ANSWER: u32 = 0;

/// Set in every token.
const TOKEN_BIT: u32 = 1 << 31;
/// MQTT 3.1.1 has no Receive Maximum that clients could know: so many packet ids may be between PUBREC and PUBREL there,
/// far more than a client has use for.
const UNRELEASED_MAX: usize = 4096;

/// Publishes in flight. Tokens are consecutive, so that an answer finds its entry by subtraction.
#[derive(Debug)]
pub(super) struct Publishing {
    in_flight: VecDeque<InFlight>,
    /// Number of the front entry, of which its token is made.
    first: u32,
    in_flight_max: usize,
    received: Received,
    /// How many unreleased ones they may be.
    unreleased_max: usize,
}

/// Packet ids of QoS 2 that the session knows; they outlive its connection.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Between PUBREC and PUBREL.
    unreleased: HashSet<NonZeroU16>,
    /// Routed on a plain topic; the connection ended before the PUBREC. They come again, to be stored and acknowledged.
    routed: HashSet<NonZeroU16>,
}

#[derive(Debug)]
struct InFlight {
    qos: Qos,
    packet_id: Option<NonZeroU16>,
    /// On a plain topic, rather than a command.
    is_plain: bool,
    /// How the publisher wants to be answered.
    reply_to: Option<Box<ReplyTo>>,
    /// Set once answered; it waits for the ones before it [MQTT-4.6.0-2, MQTT-4.6.0-3].
    outcome: Option<ReasonCode>,
}

/// What a publish says of its answer (MQTT 5, 4.10).
#[derive(Debug)]
pub(super) struct ReplyTo {
    /// What the publish was written in.
    pub(super) format: Format,
    pub(super) response_topic: Option<ByteString>,
    pub(super) correlation_data: Option<Bytes>,
}

impl ReplyTo {
    fn of(publish: &Publish, format: Format) -> Option<Box<Self>> {
        let properties = publish.properties.as_deref()?;
        if properties.response_topic.is_none() && properties.correlation_data.is_none() {
            return None;
        }
        // Slices would keep the whole read buffer alive.
        Some(Box::new(ReplyTo {
            format,
            response_topic: properties
                .response_topic
                .as_deref()
                .map(|topic| ByteString::from(topic.to_owned())),
            correlation_data: properties
                .correlation_data
                .as_deref()
                .map(Bytes::copy_from_slice),
        }))
    }
}

impl Publishing {
    /// Packet ids of an earlier connection of the session are still known [MQTT-4.3.3-10].
    pub(super) fn new(in_flight_max: usize, version: Version, received: Received) -> Self {
        Publishing {
            in_flight: VecDeque::new(),
            first: 0,
            in_flight_max,
            received,
            unreleased_max: match version {
                Version::V4 => UNRELEASED_MAX.max(in_flight_max),
                Version::V5 => in_flight_max,
            },
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < self.in_flight_max
    }

    /// Whether nothing waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// What outlives the connection.
    pub(super) fn into_received(self) -> Received {
        let mut received = self.received;
        let unanswered = self.in_flight.into_iter().filter(|entry| {
            entry.is_plain && entry.qos == Qos::ExactlyOnce && entry.outcome.is_none()
        });
        received
            .routed
            .extend(unanswered.filter_map(|entry| entry.packet_id));
        received
    }

    /// Whether a plain publish was routed before the session's last connection ended; only its acknowledgement is missing.
    pub(super) fn take_routed(&mut self, publish: &Publish) -> bool {
        let packet_id = publish
            .packet_id
            .filter(|_| publish.qos == Qos::ExactlyOnce);
        packet_id.is_some_and(|packet_id| self.received.routed.remove(&packet_id))
    }

    /// Hands a command to the bridge; its acknowledgement is withheld until [`Publishing::end`].
    pub(super) fn begin(
        &mut self,
        handle: &Handle,
        format: Format,
        publish: Publish,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        self.check_unreleased(&publish)?;
        let token = self.admit(&publish, false, ReplyTo::of(&publish, format), None);
        let payload = match publish.properties {
            None => publish.payload,
            // Only its own size is counted: the properties beside it would stay in memory with it.
            Some(_) => Bytes::copy_from_slice(&publish.payload),
        };
        to_bridge.push(uplink(handle, token, format, payload));
        Ok(())
    }

    /// Admits a plain publish whose acknowledgement is withheld until [`Publishing::end`]; returns its token. It has
    /// passed [`Publishing::check_unreleased`].
    pub(super) fn withhold(&mut self, publish: &Publish) -> u32 {
        self.admit(publish, true, None, None)
    }

    /// Admits a publish whose outcome is known.
    pub(super) fn answer(&mut self, publish: &Publish, reason: ReasonCode) -> Result<(), Closed> {
        self.check_unreleased(publish)?;
        self.admit(publish, true, None, Some(reason));
        Ok(())
    }

    /// [MQTT-3.3.4-9] To be asked before a publish has any effect.
    pub(super) fn check_unreleased(&self, publish: &Publish) -> Result<(), Closed> {
        if publish.qos == Qos::ExactlyOnce && self.received.unreleased.len() >= self.unreleased_max
        {
            return Err(Closed::ReceiveMaximumExceeded);
        }
        Ok(())
    }

    /// [MQTT-4.3.3-10] A QoS 2 packet id that is not released yet names the publish that it came with first: `true` for
    /// such a repetition. Where the first one has its PUBREC already, it is written again.
    pub(super) fn answer_repetition(&mut self, publish: &Publish) -> bool {
        let Some(packet_id) = publish
            .packet_id
            .filter(|_| publish.qos == Qos::ExactlyOnce)
        else {
            return false;
        };
        if self.received.unreleased.contains(&packet_id) {
            self.in_flight.push_back(InFlight {
                qos: Qos::ExactlyOnce,
                packet_id: Some(packet_id),
                is_plain: true,
                reply_to: None,
                outcome: Some(ReasonCode::Success),
            });
            return true;
        }
        let is_same =
            |entry: &InFlight| entry.qos == Qos::ExactlyOnce && entry.packet_id == Some(packet_id);
        self.in_flight.iter().any(is_same)
    }

    fn admit(
        &mut self,
        publish: &Publish,
        is_plain: bool,
        reply_to: Option<Box<ReplyTo>>,
        outcome: Option<ReasonCode>,
    ) -> u32 {
        let token = token_at(self.first, self.in_flight.len());
        self.in_flight.push_back(InFlight {
            qos: publish.qos,
            packet_id: publish.packet_id,
            is_plain,
            reply_to,
            outcome,
        });
        token
    }

    /// Ends a publish with the bridge's answer; returns how its reply should be sent, or `None` for a token that is
    /// not in flight.
    pub(super) fn end(&mut self, token: u32, reason: ReasonCode) -> Option<Option<Box<ReplyTo>>> {
        let index = (token.wrapping_sub(self.first) & !TOKEN_BIT) as usize;
        let entry = self.in_flight.get_mut(index)?;
        entry.outcome = Some(reason);
        Some(entry.reply_to.take())
    }

    /// Writes the acknowledgements that are due: those of the answered entries at the front.
    pub(super) fn write_acks(&mut self, version: Version, out: &mut BytesMut) {
        while let Some(outcome) = self.in_flight.front().and_then(|entry| entry.outcome) {
            let Some(InFlight { qos, packet_id, .. }) = self.in_flight.pop_front() else {
                return;
            };
            self.first = self.first.wrapping_add(1);
            let Some(packet_id) = packet_id else {
                continue;
            };
            // MQTT 3.1.1 has no negative acknowledgement: a refused publish is acknowledged and dropped.
            let reason = match version {
                Version::V4 => ReasonCode::Success,
                Version::V5 => outcome,
            };
            if qos == Qos::ExactlyOnce {
                encode_ack(AckKind::PubRec, version, out, packet_id, reason);
                if !reason.is_error() {
                    self.received.unreleased.insert(packet_id);
                }
            } else {
                encode_ack(AckKind::PubAck, version, out, packet_id, reason);
            }
        }
        if self.in_flight.is_empty() {
            // An idle session holds no memory for it.
            self.in_flight = VecDeque::new();
        }
    }

    /// Takes a PUBREL; returns the PUBCOMP's reason.
    pub(super) fn release(&mut self, packet_id: NonZeroU16) -> ReasonCode {
        if self.received.unreleased.remove(&packet_id) {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        }
    }
}

/// The token of a publish, `index` behind the front. Never [`NO_ANSWER`], however many there were before.
fn token_at(first: u32, index: usize) -> u32 {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    first.wrapping_add(index) | TOKEN_BIT
}

/// A publish as the bridge sees it.
pub(crate) fn uplink(handle: &Handle, token: u32, format: Format, payload: Bytes) -> FromEdge {
    item(from_edge::Item::Uplink(Uplink {
        session: handle.id,
        token,
        uid: handle.uid.to_string(),
        device: handle.device.to_string(),
        format: link::Format::from(format).into(),
        payload,
    }))
}
