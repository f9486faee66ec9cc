//! What users want to pass for, and what those see who ask.
//!
//! What a device passes for is kept in memory, and ends with its connection; the text stays. Only contacts in both
//! directions see anything, if the user lets them and neither has blocked the other: all others, and those who don't
//! exist, are simply not in the answer.

use std::collections::BTreeMap;

use schema::{Timestamp, Uid, v1};

use super::appearance::{Appearance, Status};
use super::batch::Executor;
use super::command;
use super::job::{Caller, Delivery, Settled};
use super::presence::Presence;
use super::refused::Refused;
use super::single::Failed;
use crate::clock;
use crate::store::looks::{self, Look};
use crate::store::{self, Store, Transaction, devices, views};

/// Longest text, in characters.
const TEXT_MAX: usize = 128;
/// Users who are asked for at once.
const UIDS_MAX: usize = 500;
/// Contacts of an answer where nobody is named: the first so many, by uid.
const CONTACTS_MAX: u32 = 10_000;

/// What a user wants to pass for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Of the device that asks; `None`: as it was.
    pub status: Option<Status>,
    /// For people; `None`: as it was.
    pub text: Option<String>,
}

/// Checks what the caller wants to pass for.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument).
pub(super) fn check(asked: v1::PresenceSet) -> Result<Set, Refused> {
    let status = match asked.state.as_str() {
        "" => None,
        name => Some(
            Status::named(name)
                .ok_or_else(|| Refused::invalid("state is online, away or invisible"))?,
        ),
    };
    let is_bad = |text: &String| text.chars().count() > TEXT_MAX || text.contains('\0');
    if asked.text.as_ref().is_some_and(is_bad) {
        let reason = "the text has more than 128 characters, or a NUL";
        return Err(Refused::invalid(reason));
    }
    Ok(Set {
        status,
        text: asked.text,
    })
}

/// Checks whose presence is asked for: each once. None: that of all contacts.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check_uids(asked: &v1::GetPresence) -> Result<Vec<Uid>, Refused> {
    if asked.uids.len() > UIDS_MAX {
        let code = crate::code::Code::TooLarge;
        return Err(Refused::new(code, "more than 500 uids"));
    }
    let uids = asked.uids.iter().map(|name| command::uid(name));
    let mut uids = uids.collect::<Result<Vec<_>, _>>()?;
    uids.sort_unstable();
    uids.dedup();
    Ok(uids)
}

impl Executor {
    /// Sets what the caller and the device want to pass for.
    pub(super) async fn set_status(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        set: &Set,
        session: u64,
    ) -> Result<Settled, Failed> {
        if set.status.is_some() && session == 0 {
            let reason = "a state is a connected device's: over HTTP there is none";
            return Err(Refused::invalid(reason).into());
        }
        let mut deliveries = Vec::new();
        if let Some(text) = &set.text
            && looks::set_text(tx, &caller.uid, text).await?
        {
            self.effects.restyled.push(caller.uid.clone());
            if let Some(profile) = views::profile(tx, &caller.uid).await? {
                let event = v1::event::Event::Profile(profile);
                deliveries.push(Delivery::event(event, [&caller.uid], session));
            }
        }
        if let Some(status) = set.status {
            let status = (caller.uid.clone(), session, status);
            self.effects.statuses.push(status);
        }
        Ok(Settled {
            deliveries,
            ..Settled::ok(v1::Ok::default())
        })
    }
}

/// How those of the users appear whom the caller may see; of the caller, each device.
pub(super) async fn of_users(
    store: &Store,
    presence: &Presence,
    caller: &Uid,
    uids: &[Uid],
) -> Result<v1::Ok, store::Error> {
    let db = store.reader();
    let mut found = if uids.is_empty() {
        looks::all_visible(db, caller, CONTACTS_MAX).await?
    } else {
        looks::visible(db, caller, uids).await?
    };
    // Nobody is one's own contact.
    found.retain(|look| look.uid != *caller);
    let shown = found.into_iter().map(|look| {
        let appearance = presence.appearance(&look.uid);
        self::presence(presence, look, appearance)
    });
    let mut presences: Vec<v1::Presence> = shown.collect();
    if uids.contains(caller) {
        presences.extend(own(store, presence, caller).await?);
    }
    presences.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
    Ok(v1::Ok {
        answer: Some(v1::ok::Answer::Presences(v1::PresenceList { presences })),
        ..Default::default()
    })
}

/// A user's presence as others see it.
pub(super) fn presence(presence: &Presence, look: Look, appearance: Appearance) -> v1::Presence {
    let is_offline = appearance == Appearance::Offline;
    let last_seen_at = presence.last_seen_at(&look.uid).max(look.last_seen_at);
    v1::Presence {
        uid: look.uid.to_string(),
        state: appearance.as_str().to_owned(),
        last_seen_at: last_seen_at.filter(|_| is_offline).map(timestamp),
        text: look.text,
        devices: Vec::new(),
    }
}

/// The caller's own presence: as others would see it, and every device.
async fn own(
    store: &Store,
    presence: &Presence,
    uid: &Uid,
) -> Result<Option<v1::Presence>, store::Error> {
    // In this order: what is no longer here is there.
    let present = presence.of(uid);
    let known = devices::list(store.reader(), uid).await?;
    let Some(look) = looks::lookup(store.reader(), uid).await? else {
        return Ok(None);
    };
    let mut devices: BTreeMap<String, v1::DevicePresence> = BTreeMap::new();
    for known in known {
        let left = present.departures.get(&known.device);
        let seen_at = left.map_or(known.seen_at, |(at, _)| *at);
        let device = device(&known.device, Appearance::Offline.as_str());
        let last_seen_at = Some(timestamp(seen_at));
        devices.insert(
            known.device,
            v1::DevicePresence {
                last_seen_at,
                ..device
            },
        );
    }
    for connection in &present.connections {
        let name = &connection.device;
        devices.insert(name.clone(), device(name, connection.status.as_str()));
    }
    let statuses = present.connections.iter().map(|found| found.status);
    let appearance = Appearance::of(statuses);
    Ok(Some(v1::Presence {
        devices: devices.into_values().collect(),
        ..self::presence(presence, look, appearance)
    }))
}

fn device(name: &str, state: &str) -> v1::DevicePresence {
    v1::DevicePresence {
        device: name.to_owned(),
        state: state.to_owned(),
        last_seen_at: None,
    }
}

fn timestamp(time: std::time::SystemTime) -> Timestamp {
    Timestamp::from_millis(clock::millis(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_passes_for_is_checked() {
        let set = |state: &str, text: Option<&str>| {
            check(v1::PresenceSet {
                state: state.to_owned(),
                text: text.map(str::to_owned),
            })
        };
        let found = set("invisible", Some("")).unwrap();
        assert_eq!(found.status, Some(Status::Invisible));
        assert_eq!(found.text.as_deref(), Some(""));
        assert_eq!(set("", None).unwrap().status, None);
        assert!(set("offline", None).is_err());
        assert!(set("", Some(&"é".repeat(128))).is_ok());
        assert!(set("", Some(&"é".repeat(129))).is_err());
        assert!(set("", Some("a\0b")).is_err());
        let uids = |uids: &[&str]| {
            check_uids(&v1::GetPresence {
                uids: uids.iter().map(ToString::to_string).collect(),
            })
        };
        assert_eq!(uids(&["b", "a", "b"]).unwrap().len(), 2);
        assert!(uids(&["no name"]).is_err());
        assert!(uids(&vec!["a"; 501]).is_err());
    }
}
