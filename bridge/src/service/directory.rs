//! Who is there: the caller's contacts and profile, and other users. These questions only read.

use prost::Message as _;
use schema::{Uid, v1};

use super::command;
use super::refused::Refused;
use crate::code::Code;
use crate::store::user_words::{self, WORD_MAX};
use crate::store::views::{self, Which};
use crate::store::{self, Store};

/// Bytes of an answer.
const ANSWER_BYTES: usize = 128 * 1024;
/// Contacts of a page: what is given without being asked, and at most.
const CONTACTS_MAX: u32 = 500;
/// Users that are found: what is given without being asked, and at most.
const FOUND_DEFAULT: usize = 20;
const FOUND_MAX: usize = 100;
/// Users that may be asked for by uid.
const UIDS_MAX: usize = 500;
/// What is folded at all: a character can be made of some.
const QUERY_MAX: usize = 4 * WORD_MAX;

/// Which users are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// Those of whom a word begins so, and how many of them. It is folded.
    Like(String, usize),
    /// These.
    Named(Vec<Uid>),
}

/// Checks which contacts are asked for.
pub(super) fn check_contacts(asked: v1::GetContacts) -> Result<Which, Refused> {
    let limit = match asked.limit {
        0 => CONTACTS_MAX,
        1..=CONTACTS_MAX => asked.limit,
        _ => return Err(Refused::invalid("get_contacts.limit is more than 500")),
    };
    if !asked.page.is_empty() {
        let no_page = |_| Refused::invalid("get_contacts.page is no page of an earlier answer");
        asked.page.parse::<Uid>().map_err(no_page)?;
    }
    Ok(Which {
        after: asked.page,
        blocked: asked.blocked,
        limit,
        bytes_max: ANSWER_BYTES,
    })
}

/// Checks which users are asked for.
pub(super) fn check_users(asked: &v1::GetUsers) -> Result<Users, Refused> {
    match (asked.query.is_empty(), asked.uids.as_slice()) {
        (false, []) => check_query(&asked.query, asked.limit),
        (true, []) => Err(Refused::invalid("get_users has neither query nor uids")),
        (true, uids) if uids.len() <= UIDS_MAX => {
            let uids = uids.iter().map(|name| command::uid(name));
            uids.collect::<Result<_, _>>().map(Users::Named)
        }
        (true, _) => Err(Refused::new(Code::TooLarge, "more than 500 uids")),
        (false, _) => Err(Refused::invalid("get_users has both query and uids")),
    }
}

fn check_query(query: &str, limit: u32) -> Result<Users, Refused> {
    let limit = match limit as usize {
        0 => FOUND_DEFAULT,
        limit if limit <= FOUND_MAX => limit,
        _ => return Err(Refused::invalid("get_users.limit is more than 100")),
    };
    let is_short = query.chars().nth(QUERY_MAX).is_none();
    let query = is_short.then(|| user_words::fold(query));
    match query {
        Some(query)
            if (1..=WORD_MAX).contains(&query.chars().count())
                && !query.chars().any(char::is_control) =>
        {
            Ok(Users::Like(query, limit))
        }
        _ => Err(Refused::invalid("get_users.query has 1-64 characters")),
    }
}

/// A page of the user's contacts.
pub(super) async fn contacts(
    store: &Store,
    uid: &Uid,
    which: &Which,
) -> Result<v1::Ok, store::Error> {
    let page = views::contacts(store.reader(), uid, which).await?;
    let next = page.contacts.last().filter(|_| page.more);
    Ok(answer(v1::ok::Answer::Contacts(v1::ContactList {
        next: next.map(|last| last.uid.clone()).unwrap_or_default(),
        contacts: page.contacts,
    })))
}

/// The users that are asked for, as many as the answer has room for.
pub(super) async fn users(store: &Store, asked: &Users) -> Result<v1::Ok, store::Error> {
    let db = store.reader();
    let mut users = match asked {
        Users::Like(query, limit) => views::find_users(db, query, *limit).await?,
        Users::Named(uids) => views::users(db, uids).await?,
    };
    let mut bytes = 0;
    users.retain(|user| {
        let has_room = bytes < ANSWER_BYTES;
        bytes += user.encoded_len();
        has_room
    });
    Ok(answer(v1::ok::Answer::Users(v1::UserList { users })))
}

/// The user's own profile and settings.
pub(super) async fn profile(
    store: &Store,
    uid: &Uid,
) -> Result<Result<v1::Ok, Refused>, store::Error> {
    let profile = views::profile(store.reader(), uid).await?;
    let profile = profile.ok_or_else(|| Refused::not_found("there is no such user"));
    Ok(profile.map(|profile| answer(v1::ok::Answer::Profile(Box::new(profile)))))
}

fn answer(answer: v1::ok::Answer) -> v1::Ok {
    v1::Ok {
        answer: Some(answer),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for_is_folded_and_bounded() {
        let like = |query: &str| match check_query(query, 0) {
            Ok(Users::Like(query, 20)) => Some(query),
            _ => None,
        };
        for (query, folded) in [
            (" ＡDa  l", Some("ada l")),
            ("王", Some("王")),
            ("50%_", Some("50%_")),
            (" ", None),
            ("a\0", None),
            ("e\u{301}", Some("é")),
            ("\u{fdfa}\u{fdfa}\u{fdfa}\u{fdfa}", None),
        ] {
            assert_eq!(like(query).as_deref(), folded, "{query:?}");
        }
        assert!(like(&"x".repeat(64)).is_some());
        assert!(like(&"x".repeat(65)).is_none());
        assert!(check_query("x", 101).is_err());
    }
}
