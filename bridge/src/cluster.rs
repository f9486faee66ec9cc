//! Several nodes on one database: what they tell each other beside it.
//!
//! The database is the truth, and what goes over the [`Bus`] only a hint: a node that misses some of it has its sessions catch
//! up from the database, and asks the others for what is only in their memory. So the bus promises nothing but to say when
//! something may have been missed ([`Heard::Missed`]).

pub mod duty;
pub mod node;

use schema::bus::{Notice, notice};
use tokio::sync::mpsc;

use node::Node;

use crate::redis::Redis;

/// The other nodes, and what is shared with them beside the database.
#[derive(Debug)]
pub struct Peers {
    /// Tells them something.
    pub bus: Bus,
    /// What they tell.
    pub heard: mpsc::Receiver<Heard>,
    /// `None`: there are none.
    pub redis: Option<Redis>,
    /// What this node is among them.
    pub node: Node,
}

impl Peers {
    /// Of a node that has no others.
    #[must_use]
    pub fn none() -> Self {
        // Nothing is heard, and its sender is gone; whoever receives must bear that.
        let (_, heard) = mpsc::channel(1);
        Peers {
            bus: Bus::default(),
            heard,
            redis: None,
            node: Node::sole(),
        }
    }
}

/// What came over the bus.
#[derive(Debug)]
pub enum Heard {
    /// Another node tells something.
    Notice {
        /// The node's number.
        node: u32,
        /// What it tells.
        notice: notice::Notice,
    },
    /// Something that others have told may not have arrived.
    Missed,
    /// A node is gone: its sessions are no longer there.
    Left {
        /// The node's number.
        node: u32,
    },
}

/// Tells the other nodes of a cluster. Cheap to clone; where there is no cluster, it does nothing.
#[derive(Clone, Debug, Default)]
pub struct Bus {
    outgoing: Option<mpsc::Sender<Notice>>,
    node: u32,
}

impl Bus {
    /// Of the node with that number, with what it tells.
    #[cfg(test)]
    pub(crate) fn of_node(node: u32) -> (Self, mpsc::Receiver<Notice>) {
        let (outgoing, told) = mpsc::channel(10_000);
        let outgoing = Some(outgoing);
        (Bus { outgoing, node }, told)
    }

    /// Whether there are no other nodes to be told.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.outgoing.is_none()
    }

    /// The number of this node, which no other one has at the same time.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.node
    }

    /// Tells the other nodes, in the order of the calls; never waits.
    pub fn tell(&self, notice: notice::Notice) {
        let Some(outgoing) = &self.outgoing else {
            return;
        };
        let notice = Notice {
            notice: Some(notice),
        };
        // One that finds no room is missed by the others, who see that by the number of the next frame.
        let _ = outgoing.try_send(notice);
    }
}
