//! What a device missed, oldest first, page by page, as fast as the device takes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use schema::link::Missed;
use schema::wire::encode_down;
use schema::{Uid, v1};
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::warn;

use super::job::position;
use crate::store::devices::{Behind, Cursor};
use crate::store::views::{self, Range};
use crate::store::{self, Store};

/// A page ends after so many messages or bytes.
const PAGE_MESSAGES: usize = 256;
const PAGE_BYTES: usize = 64 * 1024;
/// Messages read at once from one conversation.
const READ_MESSAGES: u32 = 64;
/// How long to wait before reading again, after the database did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// The session that is caught up.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) session: u64,
    pub(super) epoch: u32,
    pub(super) uid: Uid,
    pub(super) device: String,
}

/// What a catch-up has to say to the pipeline.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this; the session tells when it has taken it.
    Page(Target, Vec<Missed>),
    /// Everything that was missing at the start is sent.
    End(Target, Reached),
}

/// Where a catch-up has come to.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// The newest seq sent or skipped, by conversation.
    pub(super) positions: Vec<(i64, u32)>,
    /// Conversations where there was nothing but what the device itself had sent: no acknowledgement will come.
    pub(super) cursors: Vec<Cursor>,
}

/// What a task needs besides.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) steps: mpsc::Sender<Step>,
    /// Bounds how many read at the same time.
    pub(super) readers: Arc<Semaphore>,
    pub(super) max: u32,
}

/// Sends what is missing, and ends; it is dropped when the session goes.
pub(super) async fn run(
    context: Context,
    target: Target,
    behind: Vec<Behind>,
    drained: Arc<Notify>,
) {
    let mut backlog = Backlog::new(&target, behind, context.max);
    loop {
        let page = match next_page(&context, &mut backlog).await {
            Ok(page) => page,
            Err(error) => {
                warn!(error = %store::chain(&error), "catch-up waits for the database");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let is_last = page.is_empty();
        let step = if is_last {
            Step::End(target.clone(), backlog.reached())
        } else {
            Step::Page(target.clone(), page)
        };
        if context.steps.send(step).await.is_err() || is_last {
            return;
        }
        drained.notified().await;
    }
}

async fn next_page(context: &Context, backlog: &mut Backlog) -> Result<Vec<Missed>, store::Error> {
    // The semaphore is never closed; a permit less would do no harm.
    let _permit = context.readers.acquire().await.ok();
    backlog.next_page(&context.store).await
}

/// The conversations of a device, merged by the time of their messages.
#[derive(Debug)]
pub(super) struct Backlog {
    uid: Uid,
    device: String,
    streams: Vec<Stream>,
    /// For the first page.
    notices: Vec<Missed>,
}

/// The missing part of one conversation: `(after, last]`.
#[derive(Debug)]
struct Stream {
    conversation_id: i64,
    name: String,
    after: u32,
    last: u32,
    read: VecDeque<v1::Message>,
    /// Whether the device gets anything here.
    is_sent: bool,
    newest_id: u64,
}

impl Backlog {
    /// Of conversations that miss more than `max` messages, the newest `max`; a notice tells the client of the rest.
    pub(super) fn new(target: &Target, behind: Vec<Behind>, max: u32) -> Self {
        let mut notices = Vec::new();
        let stream = |behind: Behind| {
            let after = behind.after_seq.max(behind.last_seq.saturating_sub(max));
            if after > behind.after_seq {
                notices.push(notice(&behind, after + 1));
            }
            Stream {
                conversation_id: behind.conversation_id,
                name: behind.name,
                after,
                last: behind.last_seq,
                read: VecDeque::new(),
                is_sent: false,
                newest_id: 0,
            }
        };
        Backlog {
            uid: target.uid.clone(),
            device: target.device.clone(),
            streams: behind.into_iter().map(stream).collect(),
            notices,
        }
    }

    /// The next messages; none: that was all.
    pub(super) async fn next_page(&mut self, store: &Store) -> Result<Vec<Missed>, store::Error> {
        let mut page = std::mem::take(&mut self.notices);
        let mut bytes = 0;
        while page.len() < PAGE_MESSAGES && bytes < PAGE_BYTES {
            for stream in &mut self.streams {
                stream.fill(store, &self.uid, &self.device).await?;
            }
            let oldest = self
                .streams
                .iter_mut()
                .filter(|stream| !stream.read.is_empty())
                .min_by_key(|stream| stream.read.front().map(|message| message.msg_id));
            let Some(stream) = oldest else { break };
            let Some(message) = stream.read.pop_front() else {
                break;
            };
            stream.is_sent = true;
            let position = position(stream.conversation_id, &message);
            let payload = encode_down(v1::down::Content::Message(message));
            bytes += payload.len();
            page.push(Missed {
                payload,
                position: Some(position),
            });
        }
        Ok(page)
    }

    pub(super) fn reached(&self) -> Reached {
        let positions = self
            .streams
            .iter()
            .map(|stream| (stream.conversation_id, stream.last));
        let own = self.streams.iter().filter(|stream| !stream.is_sent);
        let cursor = |stream: &Stream| Cursor {
            uid: self.uid.clone(),
            device: self.device.clone(),
            conversation_id: stream.conversation_id,
            seq: stream.last,
            msg_id: stream.newest_id,
        };
        Reached {
            positions: positions.collect(),
            cursors: own.map(cursor).collect(),
        }
    }
}

impl Stream {
    /// Reads on, unless something is there already, until there is something for the device or the end.
    async fn fill(&mut self, store: &Store, uid: &Uid, device: &str) -> Result<(), store::Error> {
        while self.read.is_empty() && self.after < self.last {
            let range = Range {
                after_seq: Some(self.after),
                before_seq: Some(self.last + 1),
                limit: READ_MESSAGES,
                bytes_max: PAGE_BYTES,
            };
            let page =
                views::history(store.reader(), self.conversation_id, &self.name, 0, range).await?;
            let Some(newest) = page.messages.last() else {
                // Archived or erased: nothing to wait for.
                self.after = self.last;
                return Ok(());
            };
            (self.after, self.newest_id) = (newest.seq, newest.msg_id);
            let is_own = |message: &v1::Message| {
                message.sender == uid.as_str() && message.sender_device == device
            };
            self.read
                .extend(page.messages.into_iter().filter(|message| !is_own(message)));
        }
        Ok(())
    }
}

fn notice(behind: &Behind, first_pushed_seq: u32) -> Missed {
    let state = v1::ConversationState {
        conversation: behind.name.clone(),
        last_seq: behind.last_seq,
        last_read_seq: behind.last_read_seq,
        unread: behind.unread,
        first_pushed_seq,
    };
    let event = v1::event::Event::Conversation(state);
    Missed {
        payload: encode_down(v1::down::Content::Event(v1::Event { event: Some(event) })),
        position: None,
    }
}
