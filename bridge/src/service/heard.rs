//! What other nodes tell, in the order in which it came: the pipeline takes it between its rounds, as it takes what its own
//! edge tells, so that nothing told after a session went live is older than what that session was sent.

use std::time::SystemTime;

use schema::bus::notice::Notice;
use schema::bus::{Changed, Due, changed};
use schema::link::{Deliver, Elsewhere, Position, ToEdge, to_edge};
use tokio::time::Instant;

use super::job::Delivery;
use super::pipeline::{Pipeline, Round};
use crate::cluster::Heard;

impl Pipeline {
    /// Takes one thing heard. Whatever it says, it is only a hint: the database decides.
    pub(super) fn take_heard(&mut self, heard: Heard, round: &mut Round) {
        match heard {
            Heard::Notice { node, notice } => self.take_notice_of(node, notice, round),
            Heard::Missed => {
                self.crossing.asked();
                self.crossing.reviews.note_missed(Instant::now());
                self.presence.greet();
                // Before the database is asked, so that its answer ends the doubt.
                round.abroad.in_doubt_since.get_or_insert_with(Instant::now);
                self.others.missed.notify_one();
            }
            Heard::Left { node } => {
                round.items.extend(self.crossing.left(node));
                self.presence.left(node, SystemTime::now());
            }
        }
    }

    /// Each part of the service has its arm.
    fn take_notice_of(&mut self, node: u32, notice: Notice, round: &mut Round) {
        let (presence, now) = (&self.presence, SystemTime::now());
        match notice {
            Notice::Due(due) => self.take_due(due),
            Notice::Changed(Changed { what }) => {
                if let Some(changed::What::Conversation(name)) = what {
                    self.executor.catalog.forget_name(&name);
                }
            }
            Notice::Connected(connected) => {
                let elsewhere = presence.heard_connected(node, connected, now);
                round.items.extend(elsewhere.map(elsewhere_item));
            }
            Notice::Disconnected(disconnected) => {
                presence.heard_disconnected(node, disconnected, now);
            }
            Notice::Status(status) => presence.heard_status(node, &status, now),
            Notice::Restyled(uid) => presence.heard_restyled(node, &uid),
            Notice::Told(told) => presence.heard_told(&told),
            Notice::Hello(_) => {
                presence.asked();
                self.crossing.asked();
            }
            Notice::Published(published) => {
                round.items.push(self.crossing.heard_published(published));
            }
            Notice::Retained(message) => {
                round.items.push(self.crossing.heard_retained(*message));
            }
            Notice::Shared(shared) => {
                round.items.push(self.crossing.heard_shared(node, shared));
            }
            Notice::Decision(decision) => self.crossing.decisions.heard(decision),
            Notice::Roster(roster) => {
                let elsewhere = presence.heard_roster(node, roster, now);
                let items = elsewhere.into_iter().map(elsewhere_item);
                round.items.extend(items);
            }
            Notice::Deliver(heard) => {
                let (previous, about) = (heard.previous, heard.about);
                let is_possible =
                    |deliver: &Deliver| deliver.position.iter().chain(&about).all(is_possible);
                let deliver = heard.deliver.filter(is_possible);
                if let Some(mut deliver) = deliver {
                    presence.retain_here(&mut deliver.to);
                    round.abroad.heard.push(Delivery {
                        deliver,
                        previous,
                        about,
                    });
                }
            }
        }
    }

    /// Whoever looks after such things looks again, if that is this node.
    fn take_due(&self, due: i32) {
        let alarms = &self.executor.alarms;
        match Due::try_from(due) {
            Ok(Due::Scheduled) => alarms.schedule.bell().ring(),
            Ok(Due::Expiring) => alarms.expiry.bell().ring(),
            Ok(Due::Erasure) => alarms.erasure.notify_one(),
            Ok(Due::Unspecified) | Err(_) => {}
        }
    }
}

/// Whether the database could have a message there: after one beyond, none of the conversation would leave the gate any more.
fn is_possible(place: &Position) -> bool {
    (1..=i32::MAX.cast_unsigned()).contains(&place.seq)
}

fn elsewhere_item(elsewhere: Elsewhere) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::Elsewhere(elsewhere)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_no_database_has_are_not_believed() {
        for (seq, expected) in [
            (0, false),
            (1, true),
            (i32::MAX.cast_unsigned(), true),
            (i32::MAX.cast_unsigned() + 1, false),
            (u32::MAX, false),
        ] {
            let place = Position {
                seq,
                ..Position::default()
            };
            assert_eq!(is_possible(&place), expected, "{seq}");
        }
    }
}
