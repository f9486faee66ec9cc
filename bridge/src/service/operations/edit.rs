//! Other texts for messages, and what they said before.

use std::time::SystemTime;

use schema::{ConversationId, MsgId, Uid, v1};

use super::super::archived;
use super::super::batch::Executor;
use super::super::command;
use super::super::job::{Caller, Settled};
use super::super::refused::Refused;
use super::super::send::{self, SYSTEM};
use super::super::single::Failed;
use super::{Asks, changed, is_within, lock_and_see, ok, there};
use crate::clock;
use crate::code::Code;
use crate::content;
use crate::store::operations::{self, Revision};
use crate::store::{self, Store, Transaction, members, views};

/// How often a message is edited.
const EDITS_MAX: u32 = 100;

/// Bytes of an answer about what a message said; older ones are left out.
const REVISIONS_BYTES_MAX: usize = 512 * 1024;

/// Another text for a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    pub(super) msg_id: u64,
    pub(super) text: String,
    pub(super) mentions: Vec<String>,
}

impl Executor {
    pub(super) async fn edit(
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

/// What a message said, oldest first.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub(in crate::service) async fn revisions(
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
