//! The lines of an export, read page by page and handed over in chunks.

use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use schema::{Timestamp, Uid, v1};
use serde::Serialize;
use tokio::sync::mpsc;

use super::super::problem::Problem;
use super::super::{Api, command};
use crate::clock;
use crate::code::Code;
use crate::store::devices;
use crate::store::export::{self, Account, Conversation};
use crate::store::grants::{self, Grant};

/// Bytes after which a chunk is handed over.
const CHUNK_BYTES: usize = 64 * 1024;
/// Rows that are read at once.
const ROWS: u32 = 100;
/// Messages that are read at once, and how often it is tried while the server is busy.
const MESSAGES: u32 = 500;
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// One line. Messages, contacts, conversations and groups are as everywhere else.
#[derive(Serialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
enum Line<'a> {
    /// The first one.
    Account {
        created_at: Timestamp,
        role: &'a str,
        profile: &'a v1::Profile,
    },
    Device {
        device: &'a str,
        last_seen_at: Timestamp,
    },
    Contact {
        contact: &'a v1::Contact,
    },
    Grant {
        owner: &'a str,
        user: &'a str,
        filter: &'a str,
        read: bool,
        write: bool,
    },
    /// All conversations come before the first message.
    Conversation {
        state: &'a v1::ConversationState,
        #[serde(skip_serializing_if = "Option::is_none")]
        group: Option<&'a v1::Group>,
    },
    Scheduled {
        send_at: Timestamp,
        send: &'a v1::Send,
    },
    Message {
        message: &'a v1::Message,
    },
    /// The last one: without it the export is not complete.
    End,
}

/// Why an export ends early.
pub(super) enum Stopped {
    /// The client has gone.
    Gone,
    Failed(Problem),
}

impl<E: Into<Problem>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Stopped::Failed(error.into())
    }
}

pub(super) struct Writer {
    chunks: mpsc::Sender<Result<Bytes, std::io::Error>>,
    chunk: Vec<u8>,
}

impl Writer {
    pub(super) fn new(chunks: mpsc::Sender<Result<Bytes, std::io::Error>>) -> Self {
        Writer {
            chunks,
            chunk: Vec::new(),
        }
    }

    /// Lets the client learn that the export is not complete.
    pub(super) async fn break_off(&self) {
        let error = std::io::Error::other("the export could not be finished");
        // Who has gone needs not to be told.
        self.chunks.send(Err(error)).await.ok();
    }

    /// Writes all of it.
    pub(super) async fn write(
        &mut self,
        api: &Api,
        uid: &Uid,
        account: &Account,
    ) -> Result<(), Stopped> {
        self.line(&Line::Account {
            created_at: account.created_at,
            role: &account.role,
            profile: &account.profile,
        })
        .await?;
        self.write_devices(api, uid).await?;
        self.write_contacts(api, uid).await?;
        self.write_grants(api, uid).await?;
        self.write_conversations(api, uid).await?;
        self.write_scheduled(api, uid).await?;
        self.write_messages(api, uid).await?;
        self.line(&Line::End).await?;
        self.flush().await
    }

    async fn write_devices(&mut self, api: &Api, uid: &Uid) -> Result<(), Stopped> {
        for known in devices::list(api.store.reader(), uid).await? {
            self.line(&Line::Device {
                device: &known.device,
                last_seen_at: timestamp(known.seen_at),
            })
            .await?;
        }
        Ok(())
    }

    async fn write_contacts(&mut self, api: &Api, uid: &Uid) -> Result<(), Stopped> {
        let mut after = String::new();
        loop {
            let page = export::contacts(api.store.reader(), uid, &after, ROWS).await?;
            for contact in &page {
                self.line(&Line::Contact { contact }).await?;
            }
            match page.into_iter().next_back() {
                Some(last) => after = last.uid,
                None => return Ok(()),
            }
        }
    }

    async fn write_grants(&mut self, api: &Api, uid: &Uid) -> Result<(), Stopped> {
        for grant in grants::given(api.store.reader(), uid).await? {
            let Grant {
                owner,
                user,
                filter,
                read,
                write,
            } = &grant;
            self.line(&Line::Grant {
                owner: owner.as_str(),
                user: user.as_str(),
                filter,
                read: *read,
                write: *write,
            })
            .await?;
        }
        Ok(())
    }

    async fn write_conversations(&mut self, api: &Api, uid: &Uid) -> Result<(), Stopped> {
        let mut after = 0;
        loop {
            let page = conversations(api, uid, after).await?;
            for Conversation { state, group, .. } in &page {
                let group = group.as_ref();
                self.line(&Line::Conversation { state, group }).await?;
            }
            match page.last() {
                Some(last) => after = last.id,
                None => return Ok(()),
            }
        }
    }

    async fn write_scheduled(&mut self, api: &Api, uid: &Uid) -> Result<(), Stopped> {
        let mut after = 0;
        loop {
            let page = export::scheduled(api.store.reader(), uid, after, ROWS).await?;
            for (_, send_at, send) in &page {
                let send_at = *send_at;
                self.line(&Line::Scheduled { send_at, send }).await?;
            }
            match page.last() {
                Some((id, ..)) => after = *id,
                None => return Ok(()),
            }
        }
    }

    async fn write_messages(&mut self, api: &Api, uid: &Uid) -> Result<(), Stopped> {
        let mut after = 0;
        loop {
            let page = conversations(api, uid, after).await?;
            for Conversation { state, .. } in &page {
                self.write_history(api, uid, state).await?;
            }
            match page.last() {
                Some(last) => after = last.id,
                None => return Ok(()),
            }
        }
    }

    /// The messages of a conversation as far as the user may see them, oldest first.
    async fn write_history(
        &mut self,
        api: &Api,
        uid: &Uid,
        state: &v1::ConversationState,
    ) -> Result<(), Stopped> {
        let mut after_seq = state.visible_seq;
        loop {
            let batch = match page(api, uid, &state.conversation, after_seq).await {
                Ok(batch) => batch,
                // The user was taken out meanwhile.
                Err(problem) if problem.code() == Code::NotFound => return Ok(()),
                Err(problem) => return Err(problem.into()),
            };
            for message in &batch.messages {
                self.line(&Line::Message { message }).await?;
            }
            match batch.messages.last() {
                Some(last) if batch.more => after_seq = last.seq,
                _ => return Ok(()),
            }
        }
    }

    async fn line(&mut self, line: &Line<'_>) -> Result<(), Stopped> {
        serde_json::to_writer(&mut self.chunk, line).map_err(|error| Problem::internal(&error))?;
        self.chunk.push(b'\n');
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Stopped> {
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        let handed = self.chunks.send(Ok(chunk)).await;
        handed.map_err(|_| Stopped::Gone)
    }
}

async fn conversations(api: &Api, uid: &Uid, after: i64) -> Result<Vec<Conversation>, Problem> {
    Ok(export::conversations(api.store.reader(), uid, after, ROWS).await?)
}

/// The page of a conversation after a message, as the user's own device would get it.
async fn page(
    api: &Api,
    uid: &Uid,
    conversation: &str,
    after_seq: u32,
) -> Result<v1::Batch, Problem> {
    let sync = v1::Sync {
        conversation: conversation.to_owned(),
        after_seq,
        limit: MESSAGES,
        ..Default::default()
    };
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(v1::up::Command::Sync(sync)),
    };
    let mut tries = TRIES;
    loop {
        match command::execute(api, uid.clone(), up.clone()).await {
            Ok(ok) => return Ok(*ok.batch.unwrap_or_default()),
            Err(problem) if problem.code() == Code::Unavailable && tries > 0 => {
                tries -= 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(problem) => return Err(problem),
        }
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from_millis(clock::millis(time))
}
