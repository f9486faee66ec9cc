//! What a transaction stores beside the commands, and nobody gets an outcome of his own for.

use std::time::SystemTime;

use schema::Uid;
use schema::link::PlainMessage;

use crate::store::devices::{self, Cursor, Departure};
use crate::store::{self, Transaction, looks, retained};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// How far devices have acknowledged.
    pub(super) cursors: Vec<Cursor>,
    /// Devices that have left.
    pub(super) departures: Vec<Departure>,
    /// When users who have left were last seen.
    pub(super) last_seen: Vec<(Uid, SystemTime)>,
    /// At most one for each topic.
    pub(super) retained: Vec<PlainMessage>,
}

impl Notes {
    pub(super) fn is_empty(&self) -> bool {
        self.cursors.is_empty()
            && self.departures.is_empty()
            && self.last_seen.is_empty()
            && self.retained.is_empty()
    }

    /// What may be stored before the commands.
    ///
    /// # Errors
    /// [`store::Error`] when the database can't do it.
    pub(super) async fn store_unordered(&self, tx: &Transaction) -> Result<(), store::Error> {
        devices::leave(tx, &self.departures).await?;
        looks::seen(tx, &self.last_seen).await?;
        retained::set(tx, &self.retained).await
    }

    /// What is stored after them: members' rows are locked after those of conversations, on all nodes.
    ///
    /// # Errors
    /// [`store::Error`] when the database can't do it.
    pub(super) async fn store_cursors(&self, tx: &Transaction) -> Result<(), store::Error> {
        devices::move_cursors(tx, &self.cursors).await
    }

    /// The parts that are stored one by one when all together failed: cursors, departures, those who have left, each
    /// retained message.
    pub(super) fn apart(self) -> Vec<Notes> {
        let mut parts = Vec::new();
        if !self.cursors.is_empty() {
            parts.push(Notes {
                cursors: self.cursors,
                ..Notes::default()
            });
        }
        if !self.departures.is_empty() {
            parts.push(Notes {
                departures: self.departures,
                ..Notes::default()
            });
        }
        if !self.last_seen.is_empty() {
            parts.push(Notes {
                last_seen: self.last_seen,
                ..Notes::default()
            });
        }
        parts.extend(self.retained.into_iter().map(|message| Notes {
            retained: vec![message],
            ..Notes::default()
        }));
        parts
    }
}
