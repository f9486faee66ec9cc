//! What other nodes tell, in the order in which it came: the pipeline takes it between its rounds, as it takes what its own
//! edge tells, so that nothing told after a session went live is older than what that session was sent.

use schema::bus::notice::Notice;
use tracing::debug;

use super::pipeline::{Pipeline, Round};
use crate::cluster::Heard;

impl Pipeline {
    /// Takes one thing heard. Whatever it says, it is only a hint: the database decides.
    pub(super) fn take_heard(&mut self, heard: Heard, round: &mut Round) {
        match heard {
            Heard::Notice { node, notice } => self.take_notice_of(node, notice, round),
            Heard::Missed => debug!("something that other nodes have told was missed"),
            Heard::Left { node } => debug!(node, "a node has left"),
        }
    }

    /// Each part of the service has its arm.
    fn take_notice_of(&mut self, node: u32, notice: Notice, _round: &mut Round) {
        match notice {
            Notice::Deliver(_)
            | Notice::Connected(_)
            | Notice::Disconnected(_)
            | Notice::Published(_)
            | Notice::Retained(_)
            | Notice::Decision(_)
            | Notice::Told(_)
            | Notice::Status(_)
            | Notice::Restyled(_)
            | Notice::Hello(_)
            | Notice::Roster(_)
            | Notice::Due(_)
            | Notice::Changed(_)
            | Notice::Shared(_) => debug!(node, "nothing is done with this notice yet"),
        }
    }
}
