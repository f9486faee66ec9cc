//! What a group is and allows, and its end.

use std::time::SystemTime;

use schema::{Gid, Uid, v1};

use super::group::{Change, Group, group_settled, unchanged};
use super::{Command, name, rules, text};
use crate::clock;
use crate::service::batch::Executor;
use crate::service::command::gid;
use crate::service::job::{Delivery, Settled};
use crate::service::refused::Refused;
use crate::service::single::Failed;
use crate::service::system_messages::happened;
use crate::store::groups::{self, Join, Policy, Settings};
use crate::store::{Transaction, conversations, members};

/// Longest reference to a picture, in characters.
const AVATAR_MAX: usize = 2048;
/// Longest announcement, in characters.
const ANNOUNCEMENT_MAX: usize = 4096;

/// What is to be changed; `None`: stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    name: Option<String>,
    avatar: Option<String>,
    announcement: Option<String>,
    muted: Option<bool>,
    join: Option<Join>,
    invite: Option<Policy>,
    post: Option<Policy>,
    pin: Option<Policy>,
    history_visible: Option<bool>,
}

pub(super) fn check(asked: v1::GroupSet) -> Result<Command, Refused> {
    let avatar = |avatar: String| text(&avatar, AVATAR_MAX, "an avatar");
    let announcement = |said: String| text(&said, ANNOUNCEMENT_MAX, "an announcement");
    let gid = gid(&asked.gid)?;
    let asked = Asked {
        name: asked.name.as_deref().map(name).transpose()?,
        avatar: asked.avatar.map(avatar).transpose()?,
        announcement: asked.announcement.map(announcement).transpose()?,
        muted: asked.muted,
        join: asked.join.as_deref().map(join).transpose()?,
        invite: asked.invite.as_deref().map(policy).transpose()?,
        post: asked.post.as_deref().map(policy).transpose()?,
        pin: asked.pin.as_deref().map(policy).transpose()?,
        history_visible: asked.history_visible,
    };
    Ok(Command::Set(gid, asked))
}

fn join(word: &str) -> Result<Join, Refused> {
    Join::parse(word).ok_or_else(|| Refused::invalid("join is closed, link, request or open"))
}

fn policy(word: &str) -> Result<Policy, Refused> {
    let reason = "invite, post and pin are member, admin or owner";
    Policy::parse(word).ok_or_else(|| Refused::invalid(reason))
}

impl Asked {
    /// Whether only the owner may change it.
    fn is_policy(&self) -> bool {
        self.join.is_some()
            || self.invite.is_some()
            || self.post.is_some()
            || self.pin.is_some()
            || self.history_visible.is_some()
    }

    fn applied_to(&self, settings: &Settings) -> Settings {
        let text = |asked: &Option<String>, was: &str| asked.as_deref().unwrap_or(was).to_owned();
        Settings {
            name: text(&self.name, &settings.name),
            avatar: text(&self.avatar, &settings.avatar),
            announcement: text(&self.announcement, &settings.announcement),
            join: self.join.unwrap_or(settings.join),
            invite: self.invite.unwrap_or(settings.invite),
            post: self.post.unwrap_or(settings.post),
            pin: self.pin.unwrap_or(settings.pin),
            history_visible: self.history_visible.unwrap_or(settings.history_visible),
            muted: self.muted.unwrap_or(settings.muted),
        }
    }
}

/// What members read of a change of settings.
fn differences(before: &Settings, after: &Settings) -> Vec<v1::System> {
    let said = |what: &str, text: &str| v1::System {
        text: text.to_owned(),
        ..happened(what, [])
    };
    let mut differences = Vec::new();
    if before.name != after.name {
        differences.push(said("name_changed", &after.name));
    }
    if before.announcement != after.announcement {
        differences.push(said("announcement_changed", &after.announcement));
    }
    match (before.muted, after.muted) {
        (false, true) => differences.push(happened("muted", [])),
        (true, false) => differences.push(happened("unmuted", [])),
        (false, false) | (true, true) => {}
    }
    differences
}

impl Executor {
    pub(super) async fn set_group(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        asked: &Asked,
    ) -> Result<Settled, Failed> {
        let (mut group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_manages(role)?;
        if asked.is_policy() {
            rules::check_policy(Policy::Owner, role, "change what it allows")?;
        }
        let settings = asked.applied_to(&group.settings);
        if settings == group.settings {
            return unchanged(tx, &group).await;
        }
        groups::set(tx, group.id, &settings).await?;
        let change = Change {
            happened: differences(&group.settings, &settings),
            ..Change::default()
        };
        group.settings = settings;
        self.tell_change(tx, caller, &group, change).await
    }

    pub(super) async fn dissolve(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_policy(Policy::Owner, role, "dissolve it")?;
        self.end_group(tx, &group).await
    }

    /// Ends a group. Nothing of it is left for anybody to read, so that there is no message of it.
    pub(super) async fn end_group(
        &mut self,
        tx: &Transaction,
        group: &Group,
    ) -> Result<Settled, Failed> {
        groups::dissolve(tx, group.id, clock::millis(SystemTime::now())).await?;
        members::remove_all(tx, group.id).await?;
        conversations::count_change(tx, group.id).await?;
        self.stage_change(&group.conversation);
        let ended = v1::Group {
            gid: group.gid.to_string(),
            name: group.settings.name.clone(),
            conversation: group.conversation.clone(),
            partial: true,
            dissolved: true,
            ..Default::default()
        };
        let event = v1::event::Event::Group(ended.clone());
        Ok(Settled {
            deliveries: vec![Delivery::event(event, group.uids(), 0)],
            ..group_settled(ended)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            name: "team".to_owned(),
            avatar: String::new(),
            announcement: String::new(),
            join: Join::Closed,
            invite: Policy::Admin,
            post: Policy::Member,
            pin: Policy::Admin,
            history_visible: false,
            muted: false,
        }
    }

    #[test]
    fn only_what_is_asked_changes_and_only_what_changes_is_told() {
        let before = settings();
        let asked = v1::GroupSet {
            gid: "g".to_owned(),
            name: Some(" team ".to_owned()),
            announcement: Some("welcome".to_owned()),
            muted: Some(true),
            post: Some("admin".to_owned()),
            ..Default::default()
        };
        let Ok(Command::Set(_, asked)) = check(asked) else {
            panic!("it is in order");
        };
        let after = asked.applied_to(&before);
        let expected = Settings {
            announcement: "welcome".to_owned(),
            muted: true,
            post: Policy::Admin,
            ..settings()
        };
        assert_eq!(after, expected);
        let told: Vec<(String, String)> = differences(&before, &after)
            .into_iter()
            .map(|system| (system.r#type, system.text))
            .collect();
        let expected = [("announcement_changed", "welcome"), ("muted", "")];
        assert_eq!(
            told,
            expected.map(|(what, text)| (what.to_owned(), text.to_owned()))
        );
        assert!(differences(&after, &after).is_empty());
    }

    #[test]
    fn only_the_owner_changes_policies() {
        for (asked, is_policy) in [
            (
                Asked {
                    muted: Some(true),
                    ..Asked::default()
                },
                false,
            ),
            (
                Asked {
                    name: Some(String::new()),
                    ..Asked::default()
                },
                false,
            ),
            (
                Asked {
                    join: Some(Join::Open),
                    ..Asked::default()
                },
                true,
            ),
            (
                Asked {
                    invite: Some(Policy::Member),
                    ..Asked::default()
                },
                true,
            ),
            (
                Asked {
                    post: Some(Policy::Member),
                    ..Asked::default()
                },
                true,
            ),
            (
                Asked {
                    pin: Some(Policy::Member),
                    ..Asked::default()
                },
                true,
            ),
            (
                Asked {
                    history_visible: Some(true),
                    ..Asked::default()
                },
                true,
            ),
        ] {
            assert_eq!(asked.is_policy(), is_policy, "{asked:?}");
        }
    }
}
