//! What has changed for a user since a version. Versions are given here, when they are asked for; see the migration
//! `m0003_chat_semantics`.

use std::collections::HashMap;

use prost::Message as _;
use schema::{Uid, v1};

use super::batch::Executor;
use super::job::{Caller, Settled};
use super::packed;
use super::refused::Refused;
use super::single::Failed;
use crate::store::changes::{self, Change, Thing};
use crate::store::{self, Transaction, views};

/// Items of an answer: what is given without being asked, and at most.
const ITEMS_DEFAULT: u32 = 100;
const ITEMS_MAX: u32 = 500;
/// Bytes of an answer, of which one item alone may take more.
const BYTES_MAX: usize = 128 * 1024;
/// Items whose contents are read at once.
const STEP: usize = 32;

/// Since when, and how much at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    since: i64,
    limit: u32,
    zstd: bool,
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument).
pub(super) fn check(asked: &v1::GetChanges) -> Result<Asked, Refused> {
    let limit = match asked.limit {
        0 => ITEMS_DEFAULT,
        1..=ITEMS_MAX => asked.limit,
        _ => return Err(Refused::invalid("limit is more than 500")),
    };
    let since = i64::try_from(asked.since).map_err(|_| never_given())?;
    Ok(Asked {
        since,
        limit,
        zstd: asked.zstd,
    })
}

fn never_given() -> Refused {
    Refused::invalid("there has been no such version; ask for everything, since 0")
}

impl Executor {
    /// Numbers what has changed, and answers with what came after the version that was asked for.
    pub(super) async fn changes(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        asked: &Asked,
    ) -> Result<Settled, Failed> {
        let uid = &caller.uid;
        let Some(version) = changes::lock(tx, uid).await? else {
            return Err(Refused::not_found("there is no such user").into());
        };
        if asked.since > version {
            return Err(never_given().into());
        }
        let numbered = changes::number(tx, uid, version).await?;
        // One more, to learn whether there is more.
        let listed = changes::list(tx, uid, asked.since, asked.limit + 1).await?;
        let wanted = &listed[..listed.len().min(asked.limit as usize)];
        let (mut page, taken) = read_page(tx, uid, wanted).await?;
        let is_all = taken == listed.len();
        page.more = numbered.more || !is_all;
        let version = match listed[..taken].last() {
            Some(last) if !is_all => last.version,
            _ => numbered.version,
        };
        page.version = version.cast_unsigned();
        if asked.zstd {
            page = packed::changes(page);
        }
        Ok(Settled::ok(v1::Ok {
            answer: Some(v1::ok::Answer::Changes(Box::new(page))),
            ..Default::default()
        }))
    }
}

/// As many of the changes as an answer takes, and how many they are.
async fn read_page(
    tx: &Transaction,
    uid: &Uid,
    wanted: &[Change],
) -> Result<(v1::Changes, usize), store::Error> {
    let mut page = v1::Changes::default();
    let (mut bytes, mut taken) = (0, 0);
    for step in wanted.chunks(STEP) {
        let mut contents = Contents::read(tx, uid, step).await?;
        for change in step {
            let part = contents.take(&change.thing);
            let size = part.encoded_len();
            if taken > 0 && bytes + size > BYTES_MAX {
                return Ok((page, taken));
            }
            bytes += size;
            taken += 1;
            page.conversations.extend(part.conversations);
            page.contacts.extend(part.contacts);
            page.groups.extend(part.groups);
            page.profile = page.profile.or(part.profile);
        }
    }
    Ok((page, taken))
}

/// What some things are now.
struct Contents {
    profile: Option<v1::Profile>,
    contacts: HashMap<String, v1::Contact>,
    groups: HashMap<i64, v1::Group>,
    conversations: HashMap<i64, v1::Conversation>,
}

impl Contents {
    async fn read(tx: &Transaction, uid: &Uid, step: &[Change]) -> Result<Self, store::Error> {
        let (mut is_profile, mut others) = (false, Vec::new());
        let (mut groups, mut conversations) = (Vec::new(), Vec::new());
        for change in step {
            match &change.thing {
                Thing::Profile => is_profile = true,
                Thing::Contact(other) => others.push(other.as_str()),
                Thing::Group(id) => groups.push(*id),
                Thing::Conversation(id) => conversations.push(*id),
                Thing::Departure(_) => {}
            }
        }
        let profile = match is_profile {
            true => changes::profile(tx, uid).await?,
            false => None,
        };
        let contacts = changes::contacts(tx, uid, &others).await?;
        let by_uid = contacts.into_iter().map(|found| (found.uid.clone(), found));
        let found = views::conversations(tx, uid, &conversations).await?;
        let by_id = found
            .into_iter()
            .map(|found| (found.membership.conversation_id, found.into()));
        Ok(Contents {
            profile,
            contacts: by_uid.collect(),
            groups: changes::groups(tx, &groups).await?.into_iter().collect(),
            conversations: by_id.collect(),
        })
    }

    fn take(&mut self, thing: &Thing) -> v1::Changes {
        let mut part = v1::Changes::default();
        match thing {
            Thing::Profile => part.profile = self.profile.take(),
            Thing::Contact(other) => part.contacts.extend(self.contacts.remove(other)),
            Thing::Group(id) => part.groups.extend(self.groups.remove(id)),
            Thing::Conversation(id) => part.conversations.extend(self.conversations.remove(id)),
            Thing::Departure(name) => part.conversations.push(v1::Conversation {
                state: Some(views::departed(name.clone())),
                ..Default::default()
            }),
        }
        part
    }
}
