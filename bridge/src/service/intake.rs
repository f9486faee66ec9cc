//! From the link to the pipeline: frames are taken apart and commands checked while the pipeline executes earlier ones.

use broker::link::{FrameReceiver, LinkClosed};
use schema::link::{self, FromEdge, UpFrame, Uplink, from_edge};
use schema::{Format, Uid};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::Limits;
use super::announce::Answered;
use super::gate::{self, Admitted};
use super::job::{Caller, Door, Job};
use super::refused::Refused;

/// What a frame has brought.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// The frame's number.
    pub(super) number: u64,
    /// Commands that hold.
    pub(super) jobs: Vec<Job>,
    /// The others.
    pub(super) refused: Vec<Answered>,
    /// All that are no commands.
    pub(super) notices: Vec<from_edge::Item>,
}

/// Hands over what frames bring until all is announced: to the last answer it needs to hear that there is room for more.
pub(super) async fn run(
    mut receiver: FrameReceiver<UpFrame>,
    limits: Limits,
    taken: mpsc::Sender<Intake>,
    ended: CancellationToken,
) -> Result<(), LinkClosed> {
    loop {
        let (number, items) = tokio::select! {
            frame = receiver.recv() => frame?,
            () = ended.cancelled() => return Ok(()),
        };
        // Once the pipeline has stopped, nothing more is taken, but what it has said may still wait for room.
        let _ = taken.send(take(number, items, &limits)).await;
    }
}

/// Takes a frame apart.
pub(super) fn take(number: u64, items: Vec<FromEdge>, limits: &Limits) -> Intake {
    let mut intake = Intake {
        number,
        ..Intake::default()
    };
    for item in items.into_iter().filter_map(|item| item.item) {
        match item {
            from_edge::Item::Uplink(uplink) => intake.take_uplink(uplink, limits),
            notice => intake.notices.push(notice),
        }
    }
    intake
}

impl Intake {
    fn take_uplink(&mut self, uplink: Uplink, limits: &Limits) {
        let door = Door::Edge {
            session: uplink.session,
            token: uplink.token,
        };
        let format = match uplink.format() {
            link::Format::Json => Format::Json,
            link::Format::Protobuf | link::Format::Unspecified => Format::Protobuf,
        };
        let Ok(uid) = uplink.uid.parse::<Uid>() else {
            error!("the edge sent an uplink of a user who can't exist");
            return;
        };
        let up = match format.decode_up(uplink.payload) {
            Ok(up) => up,
            Err(error) => {
                let refused = Refused::invalid(error.to_string());
                self.refused.push((door, String::new(), Err(refused)));
                return;
            }
        };
        let client_msg_id = up.client_msg_id.clone();
        match gate::admit(&uid, up, limits) {
            Ok(Admitted { command, flagged }) => self.jobs.push(Job {
                caller: Caller {
                    uid,
                    device: uplink.device,
                },
                door,
                client_msg_id,
                command,
                flagged,
            }),
            Err(refused) => self.refused.push((door, client_msg_id, Err(refused))),
        }
    }
}
