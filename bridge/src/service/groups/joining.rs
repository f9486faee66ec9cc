//! Coming in without being added: by the group's link, by its name, or by asking those who let in.

use std::time::{Duration, SystemTime};

use schema::{Gid, Timestamp, Uid, v1};
use sha2::{Digest as _, Sha256};

use super::group::{Group, existing, unchanged};
use super::{Command, rules, text};
use crate::auth::token::random_hex;
use crate::clock;
use crate::code::Code;
use crate::service::batch::Executor;
use crate::service::command::{gid, uid};
use crate::service::job::{Delivery, Settled};
use crate::service::refused::Refused;
use crate::service::single::{Failed, check_existence};
use crate::store::Transaction;
use crate::store::groups::{Join, joining};
use crate::store::members::{self, Role};

/// Longest text of who asks to be let in, in characters.
const TEXT_MAX: usize = 256;
/// Users who may wait to be let into one group.
pub(super) const REQUESTS_MAX: usize = 500;
/// Members who are told that somebody wants to be let in: owner and admins first.
const TOLD_MAX: usize = 100;

/// How one wants to come in.
#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    /// By the group's name.
    Gid(Gid),
    /// By the SHA-256 of its link's token, in hexadecimal.
    Link(String),
}

/// What becomes of a request to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Comes in.
    Accept,
    /// Does not.
    Refuse,
}

pub(super) fn check_link(asked: &v1::GroupLink) -> Result<Command, Refused> {
    let valid_secs = (!asked.revoke).then_some(asked.valid_secs);
    Ok(Command::Link(gid(&asked.gid)?, valid_secs))
}

pub(super) fn check_join(asked: v1::GroupJoin) -> Result<Command, Refused> {
    let way = match (asked.gid.as_str(), asked.link.as_str()) {
        (name, "") => Way::Gid(gid(name)?),
        ("", token) => Way::Link(hash(token)),
        _ => return Err(Refused::invalid("either gid or link says which group")),
    };
    let text = text(asked.text.trim(), TEXT_MAX, "what is said")?;
    Ok(Command::Join(way, text))
}

pub(super) fn check_answer(asked: &v1::GroupAnswer) -> Result<Command, Refused> {
    let verdict = match asked.accept {
        true => Verdict::Accept,
        false => Verdict::Refuse,
    };
    Ok(Command::Answer(
        gid(&asked.gid)?,
        uid(&asked.user)?,
        verdict,
    ))
}

/// What the database keeps of a token. It has 256 random bits, so that a fast hash is enough.
fn hash(token: &str) -> String {
    format!("{:x}", Sha256::digest(token))
}

/// Also where there is a group that lets nobody in this way.
fn nothing_to_join() -> Refused {
    Refused::not_found("there is no group to join here")
}

/// What comes of somebody who wants to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    In,
    Asks,
    Nothing,
}

/// A link also opens what is open anyway, and does not spare anybody the asking.
fn entry(join: Join, way: &Way) -> Entry {
    match (join, way) {
        (Join::Open, _) | (Join::Link, Way::Link(_)) => Entry::In,
        (Join::Request, _) => Entry::Asks,
        (Join::Link, Way::Gid(_)) | (Join::Closed, _) => Entry::Nothing,
    }
}

impl Executor {
    pub(super) async fn link(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        valid_secs: Option<u32>,
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_manages(role)?;
        let Some(valid_secs) = valid_secs else {
            joining::drop_link(tx, group.id).await?;
            return unchanged(tx, &group).await;
        };
        let token = random_hex();
        let valid = Duration::from_secs(valid_secs.into());
        let expires_at = (valid_secs > 0).then(|| clock::millis(SystemTime::now() + valid));
        joining::set_link(tx, group.id, &hash(&token), expires_at).await?;
        let link = v1::GroupLinkToken {
            gid: gid.to_string(),
            token,
            expires_at: expires_at.map(Timestamp::from_millis),
        };
        Ok(Settled::ok(v1::Ok {
            conversation: group.conversation,
            answer: Some(v1::ok::Answer::Link(Box::new(link))),
            ..Default::default()
        }))
    }

    pub(super) async fn join(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        way: &Way,
        text: &str,
    ) -> Result<Settled, Failed> {
        let gid = match way {
            Way::Gid(gid) => Some(gid.clone()),
            Way::Link(hash) => {
                joining::find_by_link(tx, hash, clock::millis(SystemTime::now())).await?
            }
        };
        let gid = gid.ok_or_else(nothing_to_join)?;
        let known = existing(tx, &gid).await?.ok_or_else(nothing_to_join)?;
        let id = known.conversation_id;
        // Asked before the lock as well, so that strangers keep nobody waiting.
        if entry(known.join, way) == Entry::Nothing
            && members::role(tx, id, caller.as_str()).await?.is_none()
        {
            return Err(nothing_to_join().into());
        }
        let group = Group::lock(tx, &gid, id).await?;
        let group = group.ok_or_else(nothing_to_join)?;
        if group.role(caller).is_some() {
            return unchanged(tx, &group).await;
        }
        match entry(group.settings.join, way) {
            Entry::In => {
                let new = vec![caller.clone()];
                self.let_in(tx, caller, group, new, "member_joined").await
            }
            Entry::Asks => ask_to_be_let_in(tx, caller, &group, text).await,
            Entry::Nothing => Err(nothing_to_join().into()),
        }
    }

    pub(super) async fn answer_request(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        user: &Uid,
        verdict: Verdict,
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_lets_in(group.settings.invite, role)?;
        if joining::find_request(tx, group.id, user).await?.is_none() {
            let reason = format!("{user} does not wait to be let in");
            return Err(Refused::not_found(reason).into());
        }
        match verdict {
            Verdict::Accept => {
                let new = vec![user.clone()];
                check_existence(tx, &new).await?;
                self.let_in(tx, caller, group, new, "members_added").await
            }
            Verdict::Refuse => {
                joining::drop_requests(tx, group.id, [user]).await?;
                unchanged(tx, &group).await
            }
        }
    }
}

/// Notes that the caller wants to be let in, and tells those who may do that, the first time.
async fn ask_to_be_let_in(
    tx: &Transaction,
    caller: &Uid,
    group: &Group,
    text: &str,
) -> Result<Settled, Failed> {
    let earlier = joining::find_request(tx, group.id, caller).await?;
    let waiting = joining::count_requests(tx, group.id).await?;
    if earlier.is_none() && waiting >= REQUESTS_MAX {
        let reason = "too many wait to be let into the group";
        return Err(Refused::new(Code::TooLarge, reason).into());
    }
    let at = clock::millis(SystemTime::now());
    joining::set_request(tx, group.id, caller, text, at).await?;
    let request = v1::GroupRequest {
        gid: group.gid.to_string(),
        uid: caller.to_string(),
        text: text.to_owned(),
        at: Some(Timestamp::from_millis(at)),
    };
    let mut settled = Settled::ok(v1::Ok {
        conversation: group.conversation.clone(),
        answer: Some(v1::ok::Answer::GroupRequests(v1::GroupRequestList {
            requests: vec![request.clone()],
        })),
        ..Default::default()
    });
    if earlier.is_none() {
        let event = v1::event::Event::GroupRequest(request);
        let told = who_lets_in(group);
        settled.deliveries = vec![Delivery::event(event, told, 0)];
    }
    Ok(settled)
}

/// Those who may let others in; of very many the first.
fn who_lets_in(group: &Group) -> impl Iterator<Item = &Uid> {
    let may = |role| rules::check_lets_in(group.settings.invite, role).is_ok();
    let mut told: Vec<_> = group
        .members
        .iter()
        .filter(|(_, role)| may(*role))
        .collect();
    told.sort_by_key(|(_, role)| *role == Role::Member);
    told.into_iter().map(|(uid, _)| uid).take(TOLD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_a_group() {
        let by_gid = Way::Gid("g".parse().unwrap());
        let by_link = Way::Link(hash("token"));
        for (join, gid, link) in [
            (Join::Closed, Entry::Nothing, Entry::Nothing),
            (Join::Link, Entry::Nothing, Entry::In),
            (Join::Request, Entry::Asks, Entry::Asks),
            (Join::Open, Entry::In, Entry::In),
        ] {
            let found = (entry(join, &by_gid), entry(join, &by_link));
            assert_eq!(found, (gid, link), "{join:?}");
        }
    }
}
