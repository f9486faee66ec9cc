//! How a user sees conversations: the list of them, and each one pinned, muted, archived, with a draft, marked unread,
//! cleared or deleted.

use std::time::SystemTime;

use schema::{ConversationId, Uid, v1};

use super::Limits;
use super::batch::Executor;
use super::command::{self, conversation};
use super::job::{Caller, Delivery, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::clock;
use crate::code::Code;
use crate::store::members::{self, Wishes};
use crate::store::views::{self, Membership, PageKey};
use crate::store::{self, Store, Transaction};

/// Conversations of a page: what is given without being asked, and at most.
const LIST_DEFAULT: u32 = 100;
/// The most that may be asked for at once.
pub const LIST_MAX: u32 = 500;
/// A page ends with the conversation whose draft and latest message reach this many bytes.
const LIST_BYTES: usize = 1024 * 1024;
/// `mute_secs` that stands for ever, which is the last second of the year 9999.
const FOR_EVER: (u32, i64) = (u32::MAX, 253_402_300_799_000);

/// What changes how the caller sees a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Changes what is set; what is not, stays.
    Set(ConversationId, Changes),
    /// Hides the messages so far.
    Clear(ConversationId),
    /// Hides it altogether until there is another message.
    Delete(ConversationId),
}

impl Command {
    fn conversation(&self) -> &ConversationId {
        match self {
            Command::Set(conversation, _)
            | Command::Clear(conversation)
            | Command::Delete(conversation) => conversation,
        }
    }
}

/// What [`Command::Set`] changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pinned: Option<bool>,
    mute_secs: Option<u32>,
    archived: Option<bool>,
    /// Empty: none.
    draft: Option<String>,
    marked_unread: Option<bool>,
}

impl Changes {
    fn apply(&self, wishes: &mut Wishes, now: SystemTime) {
        let now = clock::millis(now);
        match self.pinned {
            Some(true) => _ = wishes.pinned_at.get_or_insert(now),
            Some(false) => wishes.pinned_at = None,
            None => {}
        }
        if let Some(secs) = self.mute_secs {
            wishes.muted_until = match secs {
                0 => 0,
                secs if secs == FOR_EVER.0 => FOR_EVER.1,
                secs => now + i64::from(secs) * 1000,
            };
        }
        if let Some(draft) = &self.draft {
            wishes.draft = Some(draft.clone()).filter(|draft| !draft.is_empty());
        }
        wishes.archived = self.archived.unwrap_or(wishes.archived);
        wishes.marked_unread = self.marked_unread.unwrap_or(wishes.marked_unread);
    }
}

impl Command {
    /// Whether the first answer counts when it is asked again: the second time it would take away, or set back, what
    /// came between. Drafts come often, and with their text in the answer.
    pub(super) fn keeps_answer(&self) -> bool {
        match self {
            Command::Clear(_) | Command::Delete(_) => true,
            Command::Set(_, changes) => changes.draft.is_none(),
        }
    }
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(asked: v1::up::Command, limits: &Limits) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let command = match asked {
        Asked::ConversationSet(set) => check_set(set, limits)?,
        Asked::ConversationClear(clear) => Command::Clear(conversation(&clear.conversation)?),
        Asked::ConversationDelete(delete) => Command::Delete(conversation(&delete.conversation)?),
        _ => unreachable!("only these are handed over"),
    };
    Ok(command::Command::Conversation(command))
}

fn check_set(set: v1::ConversationSet, limits: &Limits) -> Result<Command, Refused> {
    if let Some(draft) = &set.draft {
        if draft.len() > limits.text_max {
            let reason = format!("the draft has more than {} bytes", limits.text_max);
            return Err(Refused::new(Code::TooLarge, reason));
        }
        if draft.contains('\0') {
            return Err(Refused::invalid("the draft has a NUL"));
        }
    }
    let changes = Changes {
        pinned: set.pinned,
        mute_secs: set.mute_secs,
        archived: set.archived,
        draft: set.draft,
        marked_unread: set.marked_unread,
    };
    Ok(Command::Set(conversation(&set.conversation)?, changes))
}

impl Executor {
    /// Executes a change of how the caller sees a conversation.
    pub(super) async fn change_conversation(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
        session: u64,
    ) -> Result<Settled, Failed> {
        let name = command.conversation().to_string();
        members::lock(tx, &caller.uid, &name).await?;
        let before = standing(tx, caller, &name).await?;
        let is_changed = match command {
            Command::Set(_, changes) => {
                let mut wishes = before.wishes.clone();
                changes.apply(&mut wishes, SystemTime::now());
                wish(tx, caller, &before, &wishes).await?
            }
            Command::Clear(_) => clear(tx, caller, &before).await?,
            Command::Delete(_) => delete(tx, caller, &before).await?,
        };
        if !is_changed {
            return Ok(Settled::ok(ok(&before)));
        }
        let after = standing(tx, caller, &name).await?;
        Ok(moved(caller, &after, session))
    }
}

/// The caller's membership.
pub(super) async fn standing(
    tx: &Transaction,
    caller: &Caller,
    name: &str,
) -> Result<Membership, Failed> {
    let membership = views::membership(tx, &caller.uid, name).await?;
    let no_such = || Refused::not_found("there is no such conversation").into();
    membership.ok_or_else(no_such)
}

/// The answer to a change of where the caller stands, of which the user's other devices hear, too.
pub(super) fn moved(caller: &Caller, after: &Membership, session: u64) -> Settled {
    let event = v1::event::Event::Conversation(after.state());
    Settled {
        deliveries: vec![Delivery::event(event, [&caller.uid], session)],
        ..Settled::ok(ok(after))
    }
}

/// Where the caller stands.
pub(super) fn ok(membership: &Membership) -> v1::Ok {
    v1::Ok {
        conversation: membership.name.clone(),
        seq: membership.last_read_seq,
        answer: Some(v1::ok::Answer::State(Box::new(membership.state()))),
        ..Default::default()
    }
}

/// Tells whether it changed anything, like the following.
async fn wish(
    tx: &Transaction,
    caller: &Caller,
    before: &Membership,
    wishes: &Wishes,
) -> Result<bool, store::Error> {
    if *wishes == before.wishes {
        return Ok(false);
    }
    members::set_wishes(tx, before.conversation_id, &caller.uid, wishes).await?;
    Ok(true)
}

/// Nothing of what can't be seen is left to be read.
async fn clear(
    tx: &Transaction,
    caller: &Caller,
    before: &Membership,
) -> Result<bool, store::Error> {
    let (id, uid, last) = (before.conversation_id, &caller.uid, before.last_seq);
    let is_read = before.last_read_seq >= last && !before.wishes.marked_unread;
    if !is_read {
        members::set_read(tx, id, uid, (before.last_read_seq, last), last).await?;
    }
    let is_hidden = before.visible_seq >= last;
    if !is_hidden {
        members::hide_history(tx, id, uid, last).await?;
    }
    Ok(!(is_read && is_hidden))
}

async fn delete(
    tx: &Transaction,
    caller: &Caller,
    before: &Membership,
) -> Result<bool, store::Error> {
    let is_cleared = clear(tx, caller, before).await?;
    let wishes = Wishes {
        muted_until: before.wishes.muted_until,
        deleted_seq: Some(before.last_seq),
        ..Wishes::default()
    };
    Ok(wish(tx, caller, before, &wishes).await? || is_cleared)
}

/// Which conversations are to be listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Only these; empty: all.
    names: Vec<String>,
    archived: Option<bool>,
    after: Option<PageKey>,
    limit: u32,
}

/// Checks which conversations are asked for.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check_list(asked: v1::GetConversations) -> Result<Asked, Refused> {
    if asked.conversations.len() > LIST_MAX as usize {
        let reason = format!("more than {LIST_MAX} conversations");
        return Err(Refused::new(Code::TooLarge, reason));
    }
    let mut names = asked.conversations;
    for name in &names {
        conversation(name)?;
    }
    names.sort_unstable();
    names.dedup();
    Ok(Asked {
        names,
        archived: asked.archived,
        after: (!asked.page.is_empty())
            .then(|| parse_page(&asked.page))
            .transpose()?,
        limit: match asked.limit {
            0 => LIST_DEFAULT,
            1..=LIST_MAX => asked.limit,
            _ => {
                let reason = format!("limit is more than {LIST_MAX}");
                return Err(Refused::invalid(reason));
            }
        },
    })
}

/// The name of the page after a conversation: its place in hexadecimal.
fn page_after(key: PageKey) -> String {
    format!("{:x}-{:x}", key.pinned, key.activity)
}

fn parse_page(page: &str) -> Result<PageKey, Refused> {
    let number = |text: &str| {
        let number = i64::from_str_radix(text, 16).ok();
        number.filter(|number| *number >= 0)
    };
    let key = page.split_once('-').and_then(|(pinned, activity)| {
        Some(PageKey {
            pinned: number(pinned)?,
            activity: number(activity)?,
        })
    });
    key.ok_or_else(|| Refused::invalid("there is no such page"))
}

/// A page of the user's conversations.
pub(super) async fn list(store: &Store, uid: &Uid, asked: &Asked) -> Result<v1::Ok, store::Error> {
    let wanted = views::Asked {
        names: &asked.names,
        archived: asked.archived,
        after: asked.after,
        limit: asked.limit as usize,
        bytes_max: LIST_BYTES,
    };
    let list = views::list(store, uid, wanted).await?;
    let list = v1::ConversationList {
        conversations: list.conversations,
        total_unread: list.total_unread,
        next: list.next.map(page_after).unwrap_or_default(),
    };
    Ok(v1::Ok {
        answer: Some(v1::ok::Answer::Conversations(list)),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_named_by_its_place() {
        let key = PageKey {
            pinned: 1_700_000_000_000,
            activity: i64::MAX,
        };
        assert_eq!(parse_page(&page_after(key)), Ok(key));
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1-1",
            "1--1",
            "g-1",
            "1-1-1",
            "1-8000000000000000",
            "é-1",
        ] {
            assert!(parse_page(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_set_stays() {
        let now = clock::from_millis(5000);
        let mut wishes = Wishes {
            pinned_at: Some(1000),
            draft: Some("so".into()),
            ..Wishes::default()
        };
        let set = |changes: Changes, wishes: &mut Wishes| {
            changes.apply(wishes, now);
            wishes.clone()
        };
        let before = wishes.clone();
        assert_eq!(set(Changes::default(), &mut wishes), before);
        let again = Changes {
            pinned: Some(true),
            draft: Some("so".into()),
            marked_unread: Some(false),
            ..Changes::default()
        };
        assert_eq!(set(again, &mut wishes), before, "it is so already");
        for (secs, until) in [(3, 8000), (FOR_EVER.0, FOR_EVER.1), (0, 0)] {
            let mute = Changes {
                mute_secs: Some(secs),
                ..Changes::default()
            };
            assert_eq!(set(mute, &mut wishes).muted_until, until);
        }
        let nothing = Changes {
            pinned: Some(false),
            draft: Some(String::new()),
            ..Changes::default()
        };
        assert_eq!(set(nothing, &mut wishes), Wishes::default());
    }
}
