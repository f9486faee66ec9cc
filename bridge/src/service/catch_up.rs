//! What a device missed, oldest first, page by page, as fast as the device takes it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use schema::link::Missed;
use schema::wire::encode_down;
use schema::{Uid, v1};
use tokio::sync::{Notify, Semaphore, mpsc};
use tracing::{debug, error, warn};

use super::parcels::{self, Packing, Piece};
use crate::store::devices::{Behind, Cursor};
use crate::store::views::{self, Membership};
use crate::store::{self, Store, archives, members, messages};

/// A page ends after so many messages or bytes.
const PAGE_MESSAGES: usize = 256;
const PAGE_BYTES: usize = 64 * 1024;
/// Messages read at once: of large ones not many more than a page takes.
const READ_MESSAGES: usize = 16;
/// Places read ahead in one conversation.
const READ_AHEAD: u32 = 64;
/// How long to wait before reading again, after the database did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// The session that is caught up.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) session: u64,
    pub(super) epoch: u32,
    pub(super) uid: Uid,
    pub(super) device: String,
    /// It came without a client id: it starts where its user stands, and has no cursors.
    pub(super) is_nameless: bool,
    /// It goes on with an earlier connection's subscription, so that its device has to be known.
    pub(super) is_resumed: bool,
    pub(super) packing: Packing,
}

/// What a catch-up has to say to the pipeline.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this; the session tells when it has taken it.
    Page(Target, Vec<Missed>),
    /// Everything that was missing at the start is sent.
    End(Target, Reached),
    /// It can't be read: the session has to end.
    Failed(Target),
}

/// Where a catch-up has come to.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// By conversation, in all rounds of this catch-up.
    pub(super) positions: HashMap<i64, Progress>,
    /// Conversations where there was nothing but what the device itself had sent: no acknowledgement will come.
    pub(super) cursors: Vec<Cursor>,
}

/// How far a conversation is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The newest seq sent or skipped.
    pub(super) seq: u32,
    /// Whether the device was sent anything, which it may not have acknowledged yet.
    pub(super) is_sent: bool,
    /// The id of the newest message.
    pub(super) newest_id: u64,
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
    earlier: HashMap<i64, Progress>,
    drained: Arc<Notify>,
) {
    let mut backlog = Backlog::new(&target, behind, context.max);
    backlog.earlier = earlier;
    loop {
        let page = match next_page(&context, &mut backlog).await {
            Ok(page) => page,
            Err(error @ store::Error::Internal(_)) => {
                error!(error = %store::chain(&error), "a catch-up can't be read");
                // The pipeline is only gone when the service ends.
                context.steps.send(Step::Failed(target)).await.ok();
                return;
            }
            Err(store::Error::Archive(error)) => {
                // What is newer than the files must not wait for them. The client is told what to ask for.
                warn!(error = %store::chain(&error), "a catch-up leaves out messages in files");
                if let Err(error) = backlog.leave_files_out(&context.store).await {
                    debug!(error = %store::chain(&error), "catch-up waits for the database");
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
            Err(error) => {
                // The pipeline warns of it, once for everybody.
                debug!(error = %store::chain(&error), "catch-up waits for the database");
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

/// The conversations of a device, merged by the ids, and so the times, of their messages. It reads places ahead and
/// contents only for the page at hand, so that it stays small however many conversations there are.
#[derive(Debug)]
pub(super) struct Backlog {
    uid: Uid,
    device: String,
    streams: Vec<Stream>,
    /// The first place of each stream that has one: message id, stream.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    /// Streams whose next places have to be read before the merge goes on.
    to_read: Vec<usize>,
    /// Conversations whose older messages are left out, with the first seq that is sent: the client is still to be told.
    notices: Vec<(String, u32)>,
    /// The page at hand, with its bytes. It is kept here, since a failed read must lose nothing.
    page: Vec<Piece>,
    bytes: usize,
    packing: Packing,
    /// What earlier rounds have sent.
    pub(super) earlier: HashMap<i64, Progress>,
}

/// The missing part of one conversation: `(after, last]`.
#[derive(Debug)]
struct Stream {
    conversation_id: i64,
    name: String,
    after: u32,
    last: u32,
    /// Read ahead: seq and message id.
    places: VecDeque<(u32, u64)>,
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
                notices.push((behind.name.clone(), after + 1));
            }
            Stream {
                conversation_id: behind.conversation_id,
                name: behind.name,
                after,
                last: behind.last_seq,
                places: VecDeque::new(),
                is_sent: false,
                newest_id: 0,
            }
        };
        let streams: Vec<Stream> = behind.into_iter().map(stream).collect();
        Backlog {
            uid: target.uid.clone(),
            device: target.device.clone(),
            to_read: (0..streams.len()).collect(),
            streams,
            heads: BinaryHeap::new(),
            notices,
            page: Vec::new(),
            bytes: 0,
            packing: target.packing,
            earlier: HashMap::new(),
        }
    }

    /// The next messages; none: that was all.
    ///
    /// # Errors
    /// [`store::Error`]; the next call goes on where this one failed.
    pub(super) async fn next_page(&mut self, store: &Store) -> Result<Vec<Missed>, store::Error> {
        self.add_notices(store).await?;
        while self.page.len() < PAGE_MESSAGES && self.bytes < PAGE_BYTES {
            self.read_places(store).await?;
            let next = self.next_places();
            if next.is_empty() {
                break;
            }
            self.add_messages(store, &next).await?;
        }
        self.bytes = 0;
        Ok(parcels::pack(std::mem::take(&mut self.page), self.packing))
    }

    /// Whether nothing is left after the pages so far.
    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.to_read.is_empty()
    }

    async fn add_notices(&mut self, store: &Store) -> Result<(), store::Error> {
        while let Some((name, first_pushed_seq)) = self.notices.last() {
            let membership = views::membership(store.reader(), &self.uid, name).await?;
            let notice = membership.map(|membership| notice(&membership, *first_pushed_seq));
            self.page.extend(notice.map(Piece::Notice));
            self.notices.pop();
        }
        Ok(())
    }

    async fn read_places(&mut self, store: &Store) -> Result<(), store::Error> {
        while let Some(index) = self.to_read.last().copied() {
            let stream = &mut self.streams[index];
            let (id, after, last) = (stream.conversation_id, stream.after, stream.last);
            let places = messages::places(store.reader(), id, after, last, READ_AHEAD).await?;
            self.to_read.pop();
            // None: erased, and nothing to wait for.
            stream.after = places.last().map_or(stream.last, |(seq, _)| *seq);
            if let Some((_, first_id)) = places.first() {
                self.heads.push(Reverse((*first_id, index)));
            }
            stream.places = places.into();
        }
        Ok(())
    }

    /// The oldest places of all streams, as far as they are known: stream, seq, message id. They are not taken yet.
    fn next_places(&self) -> Vec<(usize, u32, u64)> {
        let mut heads = self.heads.clone();
        let mut taken = vec![0; self.streams.len()];
        let mut next = Vec::with_capacity(READ_MESSAGES);
        while next.len() < READ_MESSAGES
            && let Some(Reverse((msg_id, index))) = heads.pop()
        {
            let stream = &self.streams[index];
            let Some((seq, _)) = stream.places.get(taken[index]) else {
                break;
            };
            next.push((index, *seq, msg_id));
            taken[index] += 1;
            match stream.places.get(taken[index]) {
                Some((_, following)) => heads.push(Reverse((*following, index))),
                // What follows in this stream may be older than the other heads.
                None if stream.after < stream.last => break,
                None => {}
            }
        }
        next
    }

    /// Reads the messages at those places, takes them off their streams, and puts what is for the device on the page.
    async fn add_messages(
        &mut self,
        store: &Store,
        next: &[(usize, u32, u64)],
    ) -> Result<(), store::Error> {
        let ids: Vec<u64> = next.iter().map(|(_, _, id)| *id).collect();
        let mut found = views::members_messages_by_id(store.reader(), &self.uid, &ids).await?;
        self.add_archived(store, next, &mut found).await?;
        for (index, _, msg_id) in next {
            self.take_place(*index);
            let stream = &mut self.streams[*index];
            stream.newest_id = *msg_id;
            let Some(mut message) = found.remove(msg_id) else {
                continue;
            };
            if message.sender == self.uid.as_str() && message.sender_device == self.device {
                continue;
            }
            message.conversation.clone_from(&stream.name);
            stream.is_sent = true;
            self.bytes += message.encoded_len();
            self.page.push(Piece::Message {
                conversation_id: stream.conversation_id,
                last_seq: stream.last,
                message: Box::new(message),
            });
            if self.bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Adds those of the messages that were not found as rows, but are in files.
    async fn add_archived(
        &self,
        store: &Store,
        next: &[(usize, u32, u64)],
        found: &mut HashMap<u64, v1::Message>,
    ) -> Result<(), store::Error> {
        let mut missing: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (index, seq, msg_id) in next {
            if !found.contains_key(msg_id) {
                missing.entry(*index).or_default().push(*seq);
            }
        }
        for (index, mut seqs) in missing {
            let stream = &self.streams[index];
            let id = stream.conversation_id;
            // The user may have left it, or cleared it, since the catch-up began.
            let visible = members::visible_seq(store.reader(), id, &self.uid).await?;
            seqs.retain(|seq| *seq > visible);
            let conversation = (id, stream.name.as_str());
            let archived = views::archived_messages(store, &self.uid, conversation, &seqs).await?;
            found.extend(
                archived
                    .into_iter()
                    .map(|message| (message.msg_id, message)),
            );
        }
        Ok(())
    }

    /// Goes on after the messages that are in files; notices say so.
    async fn leave_files_out(&mut self, store: &Store) -> Result<(), store::Error> {
        let ids = self.streams.iter().map(|stream| stream.conversation_id);
        let archived = archives::archived_seqs(store.reader(), ids).await?;
        self.heads.clear();
        self.to_read.clear();
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let archived = archived.get(&stream.conversation_id).copied();
            let archived = archived.unwrap_or_default().min(stream.last);
            let next = stream.places.front().map(|(seq, _)| *seq);
            if next.unwrap_or(stream.after + 1) <= archived {
                stream.places.clear();
                stream.after = archived;
                self.notices.push((stream.name.clone(), archived + 1));
            }
            match stream.places.front() {
                Some((_, msg_id)) => self.heads.push(Reverse((*msg_id, index))),
                None if stream.after < stream.last => self.to_read.push(index),
                None => {}
            }
        }
        Ok(())
    }

    /// Takes the place at the head of the merge, which is this stream's.
    fn take_place(&mut self, index: usize) {
        self.heads.pop();
        let stream = &mut self.streams[index];
        stream.places.pop_front();
        match stream.places.front() {
            Some((_, msg_id)) => self.heads.push(Reverse((*msg_id, index))),
            None if stream.after < stream.last => self.to_read.push(index),
            None => {}
        }
    }

    pub(super) fn reached(&self) -> Reached {
        let mut reached = Reached {
            positions: self.earlier.clone(),
            cursors: Vec::new(),
        };
        for stream in &self.streams {
            let progress = reached.positions.entry(stream.conversation_id).or_default();
            progress.seq = progress.seq.max(stream.last);
            progress.is_sent |= stream.is_sent;
            progress.newest_id = progress.newest_id.max(stream.newest_id);
            if !progress.is_sent && stream.newest_id > 0 {
                reached.cursors.push(Cursor {
                    uid: self.uid.clone(),
                    device: self.device.clone(),
                    conversation_id: stream.conversation_id,
                    seq: stream.last,
                    msg_id: stream.newest_id,
                });
            }
        }
        reached
    }
}

fn notice(membership: &Membership, first_pushed_seq: u32) -> Missed {
    let state = v1::ConversationState {
        first_pushed_seq,
        ..membership.state()
    };
    let event = v1::event::Event::Conversation(state);
    Missed {
        payload: encode_down(v1::down::Content::Event(v1::Event { event: Some(event) })),
        position: None,
    }
}

#[cfg(test)]
mod tests;
