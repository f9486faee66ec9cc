//! What needs no transaction: questions, and notices that are not stored. They are executed beside the pipeline, by
//! tasks that only read.

use schema::{Gid, Uid, v1};

use super::command;
use super::groups;
use super::job::{Caller, Settled};
use super::presence::Presence;
use super::refused::Refused;
use super::typing::{self, Typing, Writers};
use super::{
    conversations, directory, media, operations, receipts, schedule, search, status, sync,
};
use crate::store::views::Which;
use crate::store::{self, Store};

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// A page of a conversation.
    Page(sync::Sync),
    /// Messages that hold some words.
    Search(search::Asked),
    /// Media of a conversation.
    Media(media::Asked),
    /// Who has received and read the caller's message of that id.
    Receipts(u64),
    /// How these users appear; none: all contacts.
    Presence(Vec<Uid>),
    /// Nothing: the caller is writing, which others are told.
    Typing(Typing),
    /// A page of the caller's contacts.
    Contacts(Which),
    /// Users.
    Users(directory::Users),
    /// The caller's own profile and settings.
    Profile,
    /// What a message said.
    Revisions(u64),
    /// The caller's messages that wait to be sent.
    Scheduled,
    /// A group and its members.
    Group(Gid),
    /// Who waits to be let into a group.
    GroupRequests(Gid),
    /// The caller's conversations.
    Conversations(conversations::Asked),
}

/// What answering needs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) presence: Presence,
    /// Whether messages are indexed.
    pub(super) search: bool,
    pub(super) writers: Writers,
}

/// Checks what `caller` asks.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(caller: &Uid, asked: v1::up::Command) -> Result<Question, Refused> {
    use v1::up::Command as Asked;
    match asked {
        Asked::Sync(asked) => sync::check(&asked).map(Question::Page),
        Asked::Search(asked) => search::check(&asked).map(Question::Search),
        Asked::GetMedia(asked) => media::check(asked).map(Question::Media),
        Asked::GetReceipts(asked) => Ok(Question::Receipts(asked.msg_id)),
        Asked::GetPresence(asked) => status::check_uids(&asked).map(Question::Presence),
        Asked::Typing(typing) => typing::check(caller, typing).map(Question::Typing),
        Asked::GetContacts(asked) => directory::check_contacts(asked).map(Question::Contacts),
        Asked::GetUsers(asked) => directory::check_users(&asked).map(Question::Users),
        Asked::GetProfile(_) => Ok(Question::Profile),
        Asked::GetRevisions(asked) => Ok(Question::Revisions(asked.msg_id)),
        Asked::GetScheduled(_) => Ok(Question::Scheduled),
        Asked::GetGroup(asked) => command::gid(&asked.gid).map(Question::Group),
        Asked::GetGroupRequests(asked) => command::gid(&asked.gid).map(Question::GroupRequests),
        Asked::GetConversations(asked) => {
            conversations::check_list(asked).map(Question::Conversations)
        }
        _ => unreachable!("only these are handed over"),
    }
}

/// The answer, and who else hears of it.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub(super) async fn answer(
    context: &Context,
    caller: &Caller,
    question: &Question,
) -> Result<Settled, store::Error> {
    let uid = &caller.uid;
    let Context {
        store,
        presence,
        writers,
        search: is_indexed,
    } = context;
    let result = match question {
        Question::Search(_) if !is_indexed => Err(search::switched_off()),
        Question::Search(asked) => search::page(store, uid, asked).await?,
        Question::Media(asked) => media::page(store, uid, asked).await?,
        Question::Page(asked) => sync::page(store, uid, asked).await?,
        Question::Receipts(msg_id) => receipts::of_message(store, uid, *msg_id).await?,
        Question::Presence(uids) => Ok(status::of_users(store, presence, uid, uids).await?),
        Question::Typing(notice) => {
            return typing::tell(store, presence, writers, uid, notice).await;
        }
        Question::Contacts(which) => Ok(directory::contacts(store, uid, which).await?),
        Question::Users(asked) => Ok(directory::users(store, asked).await?),
        Question::Profile => directory::profile(store, uid).await?,
        Question::Revisions(msg_id) => operations::revisions(store, uid, *msg_id)
            .await?
            .map(|list| answered(v1::ok::Answer::Revisions(list))),
        Question::Scheduled => {
            let list = schedule::list(store, uid).await?;
            Ok(answered(v1::ok::Answer::Scheduled(list)))
        }
        Question::Group(gid) => return groups::questions::group(store, uid, gid).await,
        Question::GroupRequests(gid) => {
            return groups::questions::requests(store, uid, gid).await;
        }
        Question::Conversations(asked) => Ok(conversations::list(store, uid, asked).await?),
    };
    Ok(result.map_or_else(Settled::from, Settled::ok))
}

fn answered(answer: v1::ok::Answer) -> v1::Ok {
    v1::Ok {
        answer: Some(answer),
        ..Default::default()
    }
}
