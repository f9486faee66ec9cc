//! Where what users are to get leaves the bridge: to the own edge, and where there are other nodes, to them, too. There each
//! conversation's messages pass the [`Gate`], whoever has stored them.

use schema::link::{Behind, Position, ToEdge, to_edge};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::arrivals::{Gate, Moment, Place};
use super::job::Delivery;
use crate::cluster::Bus;

/// What a delivery weighs beside its payload, for each recipient.
const RECIPIENT_WEIGHT: usize = 32;

/// Messages of a conversation that have not come in time, up to this seq: who reads it here is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overdue {
    pub(super) conversation: i64,
    pub(super) seq: u32,
}

/// Who has to catch up with a conversation.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) overdue: Overdue,
    /// Those who are connected here.
    pub(super) uids: Vec<String>,
}

/// What the database has of late, whoever stored it.
#[derive(Debug)]
pub(super) struct Recent {
    /// The newest seq of each conversation.
    pub(super) newest: Vec<(i64, u32)>,
    /// Since when all that is known.
    pub(super) asked_at: Instant,
}

/// What was found where messages of other nodes may have been missed.
#[derive(Debug)]
pub(super) enum Found {
    Recent(Recent),
    Readers(Readers),
    /// For users who are connected here.
    Event(Delivery),
}

/// See the module's documentation.
pub(super) struct Outlet {
    bus: Bus,
    among_others: Option<AmongOthers>,
}

struct AmongOthers {
    /// What leaves it may have no recipient here.
    gate: Gate<Option<ToEdge>>,
    /// Gaps that have lasted too long.
    overdue: mpsc::Sender<Overdue>,
    leaving: Vec<Option<ToEdge>>,
}

impl Outlet {
    /// Of a node that is alone, or has begun with what is in the database: nobody was connected to it before.
    pub(super) fn new(bus: Bus, overdue: mpsc::Sender<Overdue>, begin: &Recent) -> Self {
        let among_others = (!bus.is_alone()).then(|| {
            let mut gate = Gate::new(begin.asked_at);
            for (conversation, seq) in &begin.newest {
                gate.begin_after(*conversation, *seq, begin.asked_at);
            }
            gate.is_sure(begin.asked_at);
            AmongOthers {
                gate,
                overdue,
                leaving: Vec::new(),
            }
        });
        Outlet { bus, among_others }
    }

    /// Tells users, wherever they are connected.
    pub(super) fn tell(&mut self, delivery: Delivery, items: &mut Vec<ToEdge>) {
        let deliver = self
            .bus
            .deliver(delivery.deliver, delivery.previous, delivery.about);
        let delivery = Delivery {
            deliver,
            ..delivery
        };
        self.pass(delivery, items);
    }

    /// Tells users who are connected here what others tell.
    pub(super) fn pass(&mut self, delivery: Delivery, items: &mut Vec<ToEdge>) {
        let Some(others) = &mut self.among_others else {
            items.push(delivery.into_item());
            return;
        };
        let Delivery {
            ref deliver,
            previous,
            about,
        } = delivery;
        let is_for_nobody = deliver.to.is_empty();
        let weight = deliver.payload.len() + deliver.to.len() * RECIPIENT_WEIGHT;
        let position = deliver.position;
        let item = (!is_for_nobody).then(|| delivery.into_item());
        let (gate, leaving) = (&mut others.gate, &mut others.leaving);
        if let Some(Position {
            conversation, seq, ..
        }) = position
        {
            let conversation = conversation.cast_signed();
            let place = Place {
                conversation,
                seq,
                previous,
            };
            gate.arrive(place, item, weight, Moment::now(), leaving);
        } else if let Some(about) = about.filter(|_| !is_for_nobody) {
            gate.speak_of(&about, item, weight, Moment::now(), leaving);
        } else {
            leaving.push(item);
        }
        items.extend(leaving.drain(..).flatten());
    }

    /// Others may have told something that was not heard, since then.
    pub(super) fn doubt(&mut self, since: Instant) {
        if let Some(others) = &mut self.among_others {
            others.gate.doubt(since);
        }
    }

    pub(super) fn take(&mut self, found: Found, items: &mut Vec<ToEdge>) {
        match found {
            Found::Recent(recent) => self.compare(&recent),
            Found::Readers(readers) => self.leave_behind(readers, items),
            Found::Event(event) => items.push(event.into_item()),
        }
    }

    /// The database has been asked what others may have told.
    fn compare(&mut self, recent: &Recent) {
        if let Some(AmongOthers { gate, .. }) = &mut self.among_others {
            let now = Instant::now();
            for (conversation, seq) in &recent.newest {
                gate.exists(*conversation, *seq, now);
            }
            gate.is_sure(recent.asked_at);
        }
    }

    /// When [`Outlet::ask`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.among_others.as_ref()?.gate.next_due()
    }

    /// Asks who reads what is overdue, as far as there is room for questions.
    pub(super) fn ask(&mut self) {
        let Some(others) = &mut self.among_others else {
            return;
        };
        // Nobody else takes of it.
        let room = others.overdue.capacity();
        for (conversation, seq) in others.gate.overdue(Instant::now(), room) {
            // Whoever answers ends only with the service.
            let _ = others.overdue.try_send(Overdue { conversation, seq });
        }
    }

    /// Who reads it has to catch up; what was held goes on.
    fn leave_behind(&mut self, readers: Readers, items: &mut Vec<ToEdge>) {
        let Overdue { conversation, seq } = readers.overdue;
        let Some(others) = &mut self.among_others else {
            return;
        };
        // What was missing may have come meanwhile.
        if !others.gate.is_awaited(conversation, seq) {
            return;
        }
        if !readers.uids.is_empty() {
            self.bus.count_put_behind(readers.uids.len());
            let behind = Behind { uids: readers.uids };
            items.push(ToEdge {
                item: Some(to_edge::Item::Behind(behind)),
            });
        }
        let (gate, leaving) = (&mut others.gate, &mut others.leaving);
        gate.go_on(conversation, seq, Instant::now(), leaving);
        items.extend(leaving.drain(..).flatten());
    }
}
