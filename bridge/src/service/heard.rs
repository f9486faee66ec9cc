//! What other nodes tell, in the order in which it came: the pipeline takes it between its rounds, as it takes what its own
//! edge tells, so that nothing told after a session went live is older than what that session was sent.

use schema::bus::notice::Notice;
use schema::bus::{Changed, Due, changed};
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
            Notice::Due(due) => self.take_due(due),
            Notice::Changed(Changed { what }) => {
                if let Some(changed::What::Conversation(name)) = what {
                    self.executor.catalog.forget_name(&name);
                }
            }
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
            | Notice::Shared(_) => debug!(node, "nothing is done with this notice yet"),
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
