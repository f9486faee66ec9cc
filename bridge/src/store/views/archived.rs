//! Messages that are no rows any more, as a user may see them. What their directory says outweighs what their file says.

use std::sync::Arc;

use schema::{Timestamp, Uid, archive, v1};
use sea_orm::ConnectionTrait;

use super::reactions::NAMED_MAX;
use crate::archive::{Archive, Error as ArchiveError, Opened};
use crate::content;
use crate::store::archives::{self, Directory, Entry, File, Found, Order};
use crate::store::operations::{Gone, Revision};
use crate::store::{Error, Store};

/// Whose eyes see which conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) uid: &'a Uid,
    pub(super) conversation_id: i64,
    /// The conversation's name on the wire.
    pub(super) name: &'a str,
}

/// Up to `limit` of the first messages between two seqs that are not part of it, as far as they are in one file and for the
/// user, and the seq up to which all have been looked at; `None`: there are none in files.
pub(super) async fn some_between(
    store: &Store,
    view: View<'_>,
    (after, before): (u32, u32),
    order: Order,
    limit: usize,
) -> Result<Option<(u32, Vec<v1::Message>)>, Error> {
    let id = view.conversation_id;
    let Some(file) = archives::between(store.reader(), id, (after, before), order).await? else {
        return Ok(None);
    };
    let entries = file.directory.entries().iter();
    let entries = entries.filter(|entry| entry.seq > after && entry.seq < before);
    let mut seqs: Vec<u32> = entries.map(|entry| entry.seq).collect();
    let mut end = file.last_seq;
    if order == Order::NewestFirst {
        seqs.reverse();
        end = file.first_seq;
    }
    if seqs.len() > limit {
        seqs.truncate(limit);
        end = seqs[limit - 1];
    }
    let (file, opened) = open(store, file).await?;
    let places = seqs.iter().map(|seq| (id, *seq));
    let hidden = archives::hidden(store.reader(), view.uid, places).await?;
    let mut messages = Vec::with_capacity(seqs.len());
    for seq in seqs {
        if !hidden.contains(&(id, seq)) {
            messages.extend(message_at(&file, &opened, seq, view)?);
        }
    }
    Ok(Some((end, messages)))
}

/// Those of the messages at these places of a conversation that are in files and there for the user, by seq. The messages
/// get the conversation's wire name.
///
/// # Errors
/// [`Error`] when the database or the archive can't answer.
pub async fn archived_messages(
    store: &Store,
    uid: &Uid,
    (conversation_id, name): (i64, &str),
    seqs: &[u32],
) -> Result<Vec<v1::Message>, Error> {
    let view = View {
        uid,
        conversation_id,
        name,
    };
    let id = view.conversation_id;
    let hidden = seqs.iter().map(|seq| (id, *seq));
    let hidden = archives::hidden(store.reader(), view.uid, hidden).await?;
    let mut seqs: Vec<u32> = seqs.to_vec();
    seqs.retain(|seq| !hidden.contains(&(id, *seq)));
    seqs.sort_unstable();
    let mut messages = Vec::with_capacity(seqs.len());
    let mut seqs = seqs.into_iter().peekable();
    while let Some(seq) = seqs.next() {
        let Some(file) = archives::with(store.reader(), id, seq).await? else {
            continue;
        };
        let (file, opened) = open(store, file).await?;
        messages.extend(message_at(&file, &opened, seq, view)?);
        while let Some(seq) = seqs.next_if(|seq| *seq <= file.last_seq) {
            messages.extend(message_at(&file, &opened, seq, view)?);
        }
    }
    Ok(messages)
}

/// Messages in files, where nobody may wait for files.
#[derive(Debug)]
pub enum AtHand {
    /// All of them.
    All(Vec<v1::Message>),
    /// These objects are not in memory.
    NotYet(Vec<String>),
}

/// The messages with their content, as far as it is in memory.
///
/// # Errors
/// [`Error`] when the database can't answer, or an object is damaged.
pub async fn archived_at_hand<C: ConnectionTrait>(
    db: &C,
    archive: &Archive,
    uid: &Uid,
    found: &[Found],
) -> Result<AtHand, Error> {
    let (mut messages, mut missing) = (Vec::new(), Vec::new());
    for Found { message, place, .. } in found {
        let view = View {
            uid,
            conversation_id: place.conversation_id,
            name: &message.conversation,
        };
        let Some(file) = archives::with(db, place.conversation_id, place.seq).await? else {
            continue;
        };
        match archive.in_memory(&file.object) {
            Some(opened) => messages.extend(message_at(&file, &opened, place.seq, view)?),
            None => missing.push(file.object),
        }
    }
    missing.dedup();
    Ok(if missing.is_empty() {
        AtHand::All(messages)
    } else {
        AtHand::NotYet(missing)
    })
}

/// What a message in a file said before, newest first, without the current one.
///
/// # Errors
/// [`Error`] when the database or the archive can't answer.
pub async fn archived_revisions(
    store: &Store,
    conversation_id: i64,
    seq: u32,
) -> Result<Vec<Revision>, Error> {
    let Some(file) = archives::with(store.reader(), conversation_id, seq).await? else {
        return Ok(Vec::new());
    };
    let (file, opened) = open(store, file).await?;
    let is_there = |entry: &Entry| entry.gone.is_none();
    if !file.directory.at(seq).is_some_and(is_there) {
        return Ok(Vec::new());
    }
    let revisions = stored(&opened, seq).map_or(&[][..], |stored| &stored.revisions);
    let revisions = revisions.iter().rev().map(|revision| Revision {
        content: revision.content.to_vec(),
        at: revision.at,
    });
    Ok(revisions.collect())
}

/// Reads the object of a file; one that has just been replaced by another is looked up again.
async fn open(store: &Store, file: File) -> Result<(File, Arc<Opened>), Error> {
    let archive = store.archive()?;
    match archive.read(&file.object).await {
        Ok(opened) => Ok((file, opened)),
        Err(missing @ ArchiveError::Missing(_)) => {
            let id = file.conversation_id;
            let current = archives::with(store.reader(), id, file.last_seq).await?;
            match current {
                Some(current) if current.object != file.object => {
                    let opened = archive.read(&current.object).await?;
                    Ok((current, opened))
                }
                _ => Err(missing.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn stored(opened: &Opened, seq: u32) -> Option<&archive::Stored> {
    let messages = &opened.run.messages;
    let index = messages.binary_search_by_key(&seq, |stored| stored.seq);
    index.ok().map(|index| &messages[index])
}

/// `None`: there is no such message, or not for the user.
fn message_at(
    file: &File,
    opened: &Opened,
    seq: u32,
    view: View<'_>,
) -> Result<Option<v1::Message>, ArchiveError> {
    let is_for_user = |entry: &&Entry| entry.hidden_from.as_deref() != Some(view.uid.as_str());
    let directory = &file.directory;
    let Some(entry) = directory.at(seq).filter(is_for_user) else {
        return Ok(None);
    };
    let bare = archives::bare(directory, entry, view.name);
    let Some(stored) = stored(opened, seq) else {
        return Ok(Some(bare));
    };
    message(directory, entry, stored, bare)
        .map(Some)
        .map_err(|source| ArchiveError::Damaged {
            object: file.object.clone(),
            source: crate::archive::file::Damaged::Content(source),
        })
}

fn message(
    directory: &Directory,
    entry: &Entry,
    stored: &archive::Stored,
    bare: v1::Message,
) -> Result<v1::Message, prost::DecodeError> {
    // Nothing that the account's own device has said is told of a deleted account.
    if entry.gone == Some(Gone::Deleted) {
        return Ok(bare);
    }
    let mut message = v1::Message {
        sender_device: stored.sender_device.clone(),
        client_msg_id: stored.client_msg_id.clone(),
        client_seq: stored.client_seq,
        ..bare
    };
    if entry.gone.is_none() {
        content::decode(&stored.content, &mut message)?;
        let edited_at = Some(stored.edited_at).filter(|at| *at != 0);
        message.edited_at = edited_at.map(Timestamp::from_millis);
        message.reactions = reactions(directory, stored);
    }
    Ok(message)
}

/// The emoji that was first used comes first.
fn reactions(directory: &Directory, stored: &archive::Stored) -> Vec<v1::Reaction> {
    let mut reactions: Vec<v1::Reaction> = Vec::new();
    for archive::Reaction { emoji, uid } in &stored.reactions {
        if directory.is_erased(uid) {
            continue;
        }
        match reactions.iter_mut().find(|known| known.emoji == *emoji) {
            Some(known) => {
                known.count += 1;
                if known.uids.len() < NAMED_MAX {
                    known.uids.push(uid.clone());
                }
            }
            None => reactions.push(v1::Reaction {
                emoji: emoji.clone(),
                count: 1,
                uids: vec![uid.clone()],
            }),
        }
    }
    reactions
}
