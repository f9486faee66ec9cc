//! What happens to messages that have their place: recall, edit, reactions, deleting for oneself.
//!
//! Who can't see a message is told the same as if there were none. Whoever sees it hears of its changes live, and finds
//! them later by the conversation's `changes`.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use schema::{ConversationId, MsgId, Uid, v1};

use super::Limits;
use super::archived;
use super::batch::Executor;
use super::command;
use super::conversations;
use super::job::{Caller, Delivery, Settled, position};
use super::rates::Rates;
use super::refused::Refused;
use super::schedule;
use super::send::{self, SYSTEM};
use super::single::Failed;
use crate::clock;
use crate::code::Code;
use crate::content;
use crate::store::members::{self, Role};
use crate::store::operations::{self, Gone, Place, Revision};
use crate::store::views::{self, Seen};
use crate::store::{self, Store, Transaction};

/// Messages that are deleted together.
const DELETED_MAX: usize = 500;
/// Bytes of a reaction.
const EMOJI_MAX: usize = 32;
/// Different reactions to a message, and those of one user.
const EMOJIS_MAX: usize = 20;
const EMOJIS_OF_USER_MAX: usize = 5;
/// How often a message is edited.
const EDITS_MAX: u32 = 100;
/// Bytes of an answer about what a message said; older ones are left out.
const REVISIONS_BYTES_MAX: usize = 512 * 1024;

/// What changes messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Takes a message back.
    Recall(u64),
    /// Gives a message another text.
    Edit(Edit),
    /// Adds a reaction, or takes it back.
    React {
        /// The message.
        msg_id: u64,
        /// The reaction.
        emoji: String,
        /// Whether it is taken back.
        remove: bool,
    },
    /// Deletes messages, each named once, for the caller only.
    Delete(Vec<u64>),
    /// Gives up a message that waits to be sent.
    CancelScheduled(u64),
    /// Takes away the content of messages whose time has run out: only the server asks for it.
    Expire,
}

/// Another text for a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    msg_id: u64,
    text: String,
    mentions: Vec<String>,
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(asked: v1::up::Command, limits: &Limits) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let command = match asked {
        Asked::Recall(asked) => Command::Recall(asked.msg_id),
        Asked::Edit(asked) => {
            // That a text must not be empty, while a caption may, is seen later.
            send::check_size(asked.text.len().max(1), limits)?;
            Command::Edit(Edit {
                msg_id: asked.msg_id,
                text: asked.text,
                mentions: asked.mentions,
            })
        }
        Asked::React(asked) => {
            check_emoji(&asked.emoji)?;
            Command::React {
                msg_id: asked.msg_id,
                emoji: asked.emoji,
                remove: asked.remove,
            }
        }
        Asked::DeleteMessages(asked) => Command::Delete(check_deleted(asked.msg_ids)?),
        Asked::ScheduleCancel(asked) => Command::CancelScheduled(asked.id),
        other => unreachable!("no operation on messages: {other:?}"),
    };
    Ok(command::Command::Operation(command))
}

fn check_emoji(emoji: &str) -> Result<(), Refused> {
    let is_odd = |c: char| c.is_control() || c.is_whitespace();
    if emoji.is_empty() || emoji.len() > EMOJI_MAX || emoji.contains(is_odd) {
        return Err(Refused::invalid(
            "a reaction has 1-32 bytes, without spaces and control characters",
        ));
    }
    Ok(())
}

fn check_deleted(mut msg_ids: Vec<u64>) -> Result<Vec<u64>, Refused> {
    if msg_ids.is_empty() {
        return Err(Refused::invalid("no message is named"));
    }
    if msg_ids.len() > DELETED_MAX {
        let reason = "at most 500 messages are deleted together";
        return Err(Refused::new(Code::TooLarge, reason));
    }
    msg_ids.sort_unstable();
    msg_ids.dedup();
    Ok(msg_ids)
}

impl Executor {
    /// Executes an operation on messages.
    pub(super) async fn operate(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
        session: u64,
    ) -> Result<Settled, Failed> {
        match command {
            Command::Recall(msg_id) => self.recall(tx, caller, *msg_id, session).await,
            Command::Edit(edit) => self.edit(tx, caller, edit, session).await,
            Command::React {
                msg_id,
                emoji,
                remove,
            } => react(self, tx, caller, *msg_id, (emoji, *remove), session).await,
            Command::Delete(msg_ids) => {
                delete(&self.limits.rates, tx, caller, msg_ids, session).await
            }
            Command::CancelScheduled(id) => self.cancel_scheduled(tx, caller, *id, session).await,
            Command::Expire => self.expire(tx).await,
        }
    }

    async fn recall(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        msg_id: u64,
        session: u64,
    ) -> Result<Settled, Failed> {
        let Some(seen) = lock_row(tx, caller, msg_id).await? else {
            let rates = &self.limits.rates;
            let found = archived::find(rates, tx, &caller.uid, &[msg_id]).await?;
            let Some(found) = found.into_iter().next() else {
                return Err(no_such_message());
            };
            self.check_recall(tx, caller, &archived::seen(&found))
                .await?;
            return self.recall_archived(tx, found, session).await;
        };
        self.check_recall(tx, caller, &seen).await?;
        if seen.message.gone == Gone::Recalled.as_str() {
            return Ok(Settled::ok(ok(seen.message)));
        }
        let place = there(&seen)?;
        operations::note_changes(tx, &[place]).await?;
        let gone = [(place, seen.message.mentions.as_slice())];
        operations::blank(tx, Gone::Recalled, &gone).await?;
        changed(&self.limits.rates, tx, caller, msg_id, session).await
    }

    async fn check_recall(
        &self,
        tx: &Transaction,
        caller: &Caller,
        seen: &Seen,
    ) -> Result<(), Failed> {
        let is_own = seen.message.sender == caller.uid.as_str();
        let may_recall = seen.message.kind != SYSTEM
            && (is_own && is_within(self.limits.recall_within, seen.message.msg_id)
                || manages(tx, seen, is_own).await?);
        if !may_recall {
            let reason = "the message can't be recalled by you, or no longer";
            return Err(Refused::new(Code::PermissionDenied, reason).into());
        }
        Ok(())
    }

    async fn edit(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        edit: &Edit,
        session: u64,
    ) -> Result<Settled, Failed> {
        let seen = lock_and_see(&self.limits.rates, tx, caller, edit.msg_id).await?;
        let place = there(&seen)?;
        let before = &seen.message;
        let is_own = before.sender == caller.uid.as_str()
            && before.kind != SYSTEM
            && before.forwarded.is_none();
        if !is_own || !is_within(self.limits.edit_within, edit.msg_id) {
            let reason = "the message can't be edited by you, or no longer";
            return Err(Refused::new(Code::PermissionDenied, reason).into());
        }
        if !self.is_heard(tx, caller, before, Asks::ToWrite).await? {
            return Ok(Settled::ok(ok(seen.message)));
        }
        let after = edited(before, edit)?;
        if after.content == before.content && after.mentions == before.mentions {
            return Ok(Settled::ok(ok(seen.message)));
        }
        let number = operations::count_revisions(tx, edit.msg_id).await? + 1;
        if number > EDITS_MAX {
            let reason = "a message is edited at most 100 times";
            return Err(Refused::new(Code::TooLarge, reason).into());
        }
        let earlier = Revision {
            content: content::encode_message(before),
            at: said_since(before),
        };
        let now = Revision {
            content: content::encode_message(&after),
            at: clock::millis(SystemTime::now()),
        };
        operations::note_changes(tx, &[place]).await?;
        operations::edit(tx, edit.msg_id, number, &earlier, &now).await?;
        if after.mentions != before.mentions {
            let members = members::roles(tx, place.conversation_id).await?;
            let is_member = |uid: &str| members.iter().any(|(member, _)| member.as_str() == uid);
            let meant = send::meant(&after.mentions, caller.uid.as_str(), is_member);
            operations::replace_mentions(tx, place, &before.mentions, &meant).await?;
        }
        changed(&self.limits.rates, tx, caller, edit.msg_id, session).await
    }

    /// Whether what the caller does to a message, which is locked, reaches the others. Of somebody whom the other one has blocked silently
    /// nothing comes, and nothing is said.
    async fn is_heard(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        message: &v1::Message,
        asks: Asks,
    ) -> Result<bool, Failed> {
        let id = command::conversation(&message.conversation)?;
        let Some(conversation) = self.locked_conversation(tx, &id).await? else {
            return Ok(true);
        };
        if let (Asks::ToWrite, Some(group)) = (asks, &conversation.group) {
            group.check_send(&caller.uid, SystemTime::now)?;
        }
        Ok(conversation.deaf_to(&caller.uid)?.is_none())
    }
}

/// What the caller wants of a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    ToWrite,
    ToReact,
}

/// The message with its new text.
fn edited(before: &v1::Message, edit: &Edit) -> Result<v1::Message, Refused> {
    use v1::message::Content;
    let conversation: ConversationId = command::conversation(&before.conversation)?;
    let content = match &before.content {
        Some(Content::Text(_)) if edit.text.is_empty() => {
            return Err(Refused::invalid("the message is empty"));
        }
        Some(Content::Text(_)) => Content::Text(edit.text.clone()),
        Some(Content::Media(media)) => {
            let mut media = media.clone();
            media.caption.clone_from(&edit.text);
            Content::Media(media)
        }
        _ => return Err(Refused::invalid("only texts and captions can be edited")),
    };
    Ok(v1::Message {
        content: Some(content),
        mentions: send::check_mentions(edit.mentions.clone(), &conversation)?,
        ..before.clone()
    })
}

/// Since when a message says what it says, in milliseconds since 1970.
fn said_since(message: &v1::Message) -> i64 {
    match &message.edited_at {
        Some(at) => at.seconds * 1000 + i64::from(at.nanos) / 1_000_000,
        None => clock::millis(MsgId(message.msg_id).time()),
    }
}

fn is_within(time: Duration, msg_id: u64) -> bool {
    let sent = MsgId(msg_id).time();
    // A clock that was set back makes no message older.
    let age = SystemTime::now().duration_since(sent);
    !time.is_zero() && age.unwrap_or_default() < time
}

/// Whether the message is in a group where the caller ranks above its sender, or takes back an own one among those who
/// may do so at any time.
async fn manages(tx: &Transaction, seen: &Seen, is_own: bool) -> Result<bool, store::Error> {
    if seen.role == Role::Member || !seen.message.conversation.starts_with("g:") {
        return Ok(false);
    }
    if is_own || seen.role == Role::Owner {
        return Ok(true);
    }
    let sender = members::role(tx, seen.conversation_id, &seen.message.sender).await?;
    // Who has left is nobody any more.
    Ok(matches!(sender, None | Some(Role::Member)))
}

async fn react(
    executor: &mut Executor,
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
    (emoji, remove): (&str, bool),
    session: u64,
) -> Result<Settled, Failed> {
    let seen = lock_and_see(&executor.limits.rates, tx, caller, msg_id).await?;
    let place = there(&seen)?;
    let message = &seen.message;
    if !executor
        .is_heard(tx, caller, message, Asks::ToReact)
        .await?
    {
        return Ok(Settled::ok(ok(seen.message)));
    }
    let emojis = operations::emojis(tx, &caller.uid, msg_id).await?;
    let is_there = emojis.iter().any(|(known, mine)| *mine && known == emoji);
    if is_there != remove {
        return Ok(Settled::ok(ok(seen.message)));
    }
    if remove {
        operations::note_changes(tx, &[place]).await?;
        operations::unreact(tx, &caller.uid, msg_id, emoji).await?;
    } else {
        let is_new = !emojis.iter().any(|(known, _)| known == emoji);
        let own = emojis.iter().filter(|(_, mine)| *mine).count();
        if is_new && emojis.len() >= EMOJIS_MAX || own >= EMOJIS_OF_USER_MAX {
            let reason = "a message has at most 20 different reactions, and 5 of a user";
            return Err(Refused::new(Code::TooLarge, reason).into());
        }
        operations::note_changes(tx, &[place]).await?;
        let now = clock::millis(SystemTime::now());
        operations::react(tx, &caller.uid, msg_id, emoji, now).await?;
    }
    let mut reactions = views::reactions(tx, &[msg_id]).await?;
    let message = v1::Message {
        reactions: reactions.remove(&msg_id).unwrap_or_default(),
        ..seen.message
    };
    let event = v1::event::Event::Reaction(v1::ReactionChange {
        conversation: message.conversation.clone(),
        msg_id,
        seq: message.seq,
        uid: caller.uid.to_string(),
        emoji: emoji.to_owned(),
        removed: remove,
        reactions: message.reactions.clone(),
    });
    let audience = operations::audience(tx, msg_id).await?;
    let about = position(place.conversation_id, &message);
    Ok(Settled {
        deliveries: vec![Delivery::event(event, &audience, session).about(about)],
        ..Settled::ok(ok(message))
    })
}

/// Messages that the caller has not read count no longer as unread when they are deleted.
async fn delete(
    rates: &Rates,
    tx: &Transaction,
    caller: &Caller,
    msg_ids: &[u64],
    session: u64,
) -> Result<Settled, Failed> {
    let uid = &caller.uid;
    let mut seen = views::seen(tx, uid, msg_ids).await?;
    if seen.len() < msg_ids.len() {
        let rows: HashSet<u64> = seen.iter().map(|seen| seen.message.msg_id).collect();
        let missing = msg_ids.iter().filter(|msg_id| !rows.contains(msg_id));
        let missing: Vec<u64> = missing.copied().collect();
        let found = archived::find(rates, tx, uid, &missing).await?;
        seen.extend(found.iter().map(archived::seen));
    }
    let Some(first) = seen.first().filter(|_| seen.len() == msg_ids.len()) else {
        return Err(no_such_message());
    };
    let (id, name) = (first.conversation_id, &first.message.conversation);
    if seen.iter().any(|seen| seen.conversation_id != id) {
        let reason = "the messages are not of one conversation";
        return Err(Refused::invalid(reason).into());
    }
    members::lock(tx, uid, name).await?;
    let Some(membership) = views::membership(tx, uid, name).await? else {
        return Err(no_such_message());
    };
    let is_unread = |message: &v1::Message| {
        message.seq > membership.last_read_seq && message.sender != uid.as_str()
    };
    let unread = seen.iter().filter(|seen| is_unread(&seen.message)).count();
    let seqs = seen.iter().map(|seen| seen.message.seq);
    operations::hide(tx, uid, id, seqs).await?;
    if unread > 0 {
        let unread = u32::try_from(unread).unwrap_or(u32::MAX);
        members::count_sent(tx, [(id, uid, unread)]).await?;
    }
    let event = v1::event::Event::Deleted(v1::MessagesDeleted {
        conversation: name.clone(),
        msg_ids: msg_ids.to_vec(),
    });
    let after = conversations::standing(tx, caller, name).await?;
    let mut settled = conversations::moved(caller, &after, session);
    let deleted = Delivery::event(event, [uid], session);
    settled.deliveries.insert(0, deleted);
    Ok(settled)
}

/// A message that the caller can see and that can be changed; nobody else changes it meanwhile.
async fn lock_and_see(
    rates: &Rates,
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
) -> Result<Seen, Failed> {
    match lock_row(tx, caller, msg_id).await? {
        Some(seen) => Ok(seen),
        None => Err(archived::refusal(rates, tx, &caller.uid, msg_id).await),
    }
}

/// `None`: there is no such message, or it is in a file.
async fn lock_row(
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
) -> Result<Option<Seen>, store::Error> {
    operations::lock(tx, msg_id).await?;
    Ok(views::seen(tx, &caller.uid, &[msg_id]).await?.pop())
}

fn no_such_message() -> Failed {
    Refused::not_found("there is no such message").into()
}

/// The place of a message that is not gone.
fn there(seen: &Seen) -> Result<Place, Refused> {
    if !seen.message.gone.is_empty() {
        let reason = format!("the message is {}", seen.message.gone);
        return Err(Refused::new(Code::Conflict, reason));
    }
    Ok(Place {
        msg_id: seen.message.msg_id,
        conversation_id: seen.conversation_id,
        seq: seen.message.seq,
    })
}

/// Answers with the message as it is now, and shows it to all who see it.
async fn changed(
    rates: &Rates,
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
    session: u64,
) -> Result<Settled, Failed> {
    let Seen {
        message,
        conversation_id,
        ..
    } = lock_and_see(rates, tx, caller, msg_id).await?;
    let audience = operations::audience(tx, msg_id).await?;
    let event = v1::event::Event::Changed(Box::new(message.clone()));
    let about = position(conversation_id, &message);
    Ok(Settled {
        deliveries: vec![Delivery::event(event, &audience, session).about(about)],
        ..Settled::ok(ok(message))
    })
}

/// The answer to an operation on a message.
pub(super) fn ok(message: v1::Message) -> v1::Ok {
    v1::Ok {
        msg_id: message.msg_id,
        conversation: message.conversation.clone(),
        seq: message.seq,
        answer: Some(v1::ok::Answer::Message(Box::new(message))),
        ..Default::default()
    }
}

/// An answer as it is kept for the next time that the same is asked: without what people have written, since that may be
/// recalled.
pub(super) fn kept(ok: &v1::Ok) -> v1::Ok {
    let mut kept = ok.clone();
    match &mut kept.answer {
        Some(v1::ok::Answer::Message(_)) => kept.answer = None,
        Some(v1::ok::Answer::Scheduled(list)) => {
            for scheduled in &mut list.scheduled {
                scheduled.message = None;
            }
        }
        _ => {}
    }
    kept
}

/// Puts into an answer that was [`kept`] what it says now.
pub(super) async fn complete(
    tx: &Transaction,
    caller: &Caller,
    settled: &mut Settled,
) -> Result<(), store::Error> {
    let Ok(ok) = &mut settled.result else {
        return Ok(());
    };
    match &mut ok.answer {
        None if ok.msg_id != 0 => {
            let seen = views::seen(tx, &caller.uid, &[ok.msg_id]).await?.pop();
            let message = seen.map(|seen| Box::new(seen.message));
            ok.answer = message.map(v1::ok::Answer::Message);
        }
        Some(v1::ok::Answer::Scheduled(list)) => schedule::complete(tx, &caller.uid, list).await?,
        _ => {}
    }
    Ok(())
}

/// What a message said, oldest first.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub(super) async fn revisions(
    store: &Store,
    uid: &Uid,
    msg_id: u64,
) -> Result<Result<v1::RevisionList, Refused>, store::Error> {
    let db = store.reader();
    let (message, earlier) = match views::seen(db, uid, &[msg_id]).await?.pop() {
        Some(seen) => (seen.message, operations::revisions(db, msg_id).await?),
        None => match archived::revisions(store, uid, msg_id).await? {
            Some(found) => found,
            None => return Ok(Err(Refused::not_found("there is no such message"))),
        },
    };
    let mut list = v1::RevisionList::default();
    if !message.gone.is_empty() {
        return Ok(Ok(list));
    }
    let mut bytes = 0;
    let now = revision(&message, said_since(&message));
    let earlier = earlier.into_iter().filter_map(|earlier| {
        let mut message = v1::Message::default();
        content::decode(&earlier.content, &mut message).ok()?;
        Some(revision(&message, earlier.at))
    });
    for revision in std::iter::once(now).chain(earlier) {
        bytes += revision.text.len();
        if bytes > REVISIONS_BYTES_MAX {
            break;
        }
        list.revisions.push(revision);
    }
    list.revisions.reverse();
    Ok(Ok(list))
}

fn revision(message: &v1::Message, at: i64) -> v1::Revision {
    let text = match &message.content {
        Some(v1::message::Content::Text(text)) => text.clone(),
        Some(v1::message::Content::Media(media)) => media.caption.clone(),
        _ => String::new(),
    };
    v1::Revision {
        text,
        at: Some(schema::Timestamp::from_millis(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::limits;
    use crate::settings::Settings;

    #[test]
    fn what_can_not_be_done_is_refused_at_the_gate() {
        use v1::up::Command as Asked;
        let limits = limits(&Settings::defaults());
        let react = |emoji: &str| {
            Asked::React(v1::React {
                emoji: emoji.to_owned(),
                ..Default::default()
            })
        };
        let edit = |length: usize| {
            Asked::Edit(v1::Edit {
                text: "x".repeat(length),
                ..Default::default()
            })
        };
        let delete = |count: u64| {
            Asked::DeleteMessages(v1::DeleteMessages {
                msg_ids: (0..count).collect(),
            })
        };
        for (asked, expected) in [
            (react("👍"), "ok"),
            (react("👩‍👩‍👧‍👦"), "ok"),
            (react(""), "invalid_argument"),
            (react("two words"), "invalid_argument"),
            (react("a\0"), "invalid_argument"),
            (react(&"x".repeat(33)), "invalid_argument"),
            (edit(0), "ok"),
            (edit(64 * 1024), "ok"),
            (edit(64 * 1024 + 1), "too_large"),
            (delete(0), "invalid_argument"),
            (delete(500), "ok"),
            (delete(501), "too_large"),
        ] {
            let name = format!("{asked:.40?}");
            let found =
                check(asked, &limits).map_or_else(|refused| refused.code.as_str(), |_| "ok");
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_caption_may_be_empty_and_a_text_may_not() {
        use v1::message::Content;
        let message = |content: Content| v1::Message {
            conversation: "u:alice:bob".to_owned(),
            content: Some(content),
            reply_to: 7,
            ..Default::default()
        };
        let media = v1::Media {
            url: "u".to_owned(),
            caption: "before".to_owned(),
            ..Default::default()
        };
        let edit = |text: &str| Edit {
            msg_id: 1,
            text: text.to_owned(),
            mentions: Vec::new(),
        };
        let text = message(Content::Text("before".to_owned()));
        assert_eq!(edited(&text, &edit("after")).unwrap().reply_to, 7);
        edited(&text, &edit("")).unwrap_err();
        let picture = message(Content::Media(Box::new(media)));
        let after = edited(&picture, &edit("")).unwrap();
        let Some(Content::Media(media)) = after.content else {
            panic!("not a medium any more");
        };
        assert_eq!((media.url.as_str(), media.caption.as_str()), ("u", ""));
        edited(&message(Content::Body("x".into())), &edit("after")).unwrap_err();
    }
}
