//! What members ask about a group. It only reads.

use schema::{ConversationId, Gid, Uid, v1};

use super::group::{group_settled, no_such_group};
use super::joining::REQUESTS_MAX;
use super::rules;
use crate::service::job::Settled;
use crate::store::groups::joining;
use crate::store::{self, Store, groups, members, views};

/// The group with all its members.
pub(in crate::service) async fn group(
    store: &Store,
    caller: &Uid,
    gid: &Gid,
) -> Result<Settled, store::Error> {
    Ok(match views::group_of(store.reader(), caller, gid).await? {
        Some(group) => group_settled(group),
        None => no_such_group().into(),
    })
}

/// Who waits to be let in.
pub(in crate::service) async fn requests(
    store: &Store,
    caller: &Uid,
    gid: &Gid,
) -> Result<Settled, store::Error> {
    let db = store.reader();
    let Some(known) = groups::lookup(db, gid).await? else {
        return Ok(no_such_group().into());
    };
    let id = known.conversation_id;
    // Nobody is in one that was dissolved.
    let Some(role) = members::role(db, id, caller.as_str()).await? else {
        return Ok(no_such_group().into());
    };
    if let Err(refused) = rules::check_lets_in(known.invite, role) {
        return Ok(refused.into());
    }
    let requests = joining::requests(db, id, gid, REQUESTS_MAX).await?;
    Ok(Settled::ok(v1::Ok {
        conversation: ConversationId::Group(gid.clone()).to_string(),
        answer: Some(v1::ok::Answer::GroupRequests(v1::GroupRequestList {
            requests,
        })),
        ..Default::default()
    }))
}
