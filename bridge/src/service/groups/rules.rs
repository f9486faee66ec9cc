//! Who may do what in a group: decisions over values.

use std::collections::HashMap;
use std::time::SystemTime;

use schema::Uid;

use crate::clock;
use crate::code::Code;
use crate::service::refused::Refused;
use crate::store::conversations::Senders;
use crate::store::groups::Policy;
use crate::store::members::Role;

/// Who may send, as the catalog keeps it: most members are in neither list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRules {
    /// The least role that may.
    post: Policy,
    /// Whether only owner and admins may for now.
    muted: bool,
    /// Owner and admins.
    managers: HashMap<Uid, Role>,
    /// Who may not until when, in milliseconds since 1970.
    silenced: HashMap<Uid, i64>,
}

impl From<Senders> for GroupRules {
    fn from(senders: Senders) -> Self {
        GroupRules {
            post: senders.post,
            muted: senders.muted,
            managers: senders.managers.into_iter().collect(),
            silenced: senders.silenced.into_iter().collect(),
        }
    }
}

impl GroupRules {
    /// The role of one who is in the group.
    #[must_use]
    pub fn role(&self, member: &Uid) -> Role {
        self.managers.get(member).copied().unwrap_or(Role::Member)
    }

    /// Whether one who is in the group may send. In most groups nothing has to be looked at for it.
    ///
    /// # Errors
    /// [`Code::PermissionDenied`].
    pub fn check_send(
        &self,
        member: &Uid,
        now: impl FnOnce() -> SystemTime,
    ) -> Result<(), Refused> {
        if self.post == Policy::Member && !self.muted && self.silenced.is_empty() {
            return Ok(());
        }
        let role = self.role(member);
        if !self.post.allows(role) {
            return Err(denied(format!(
                "in this group only {} may send",
                those_who(self.post)
            )));
        }
        if self.muted && role == Role::Member {
            return Err(denied("only the group's owner and admins may send for now"));
        }
        match self.silenced.get(member) {
            Some(until) if *until > clock::millis(now()) => {
                Err(denied("you may not send to the group for now"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether that role may do what the policy is about.
///
/// # Errors
/// [`Code::PermissionDenied`], which says what it is.
pub(super) fn check_policy(policy: Policy, role: Role, what: &str) -> Result<(), Refused> {
    if policy.allows(role) {
        return Ok(());
    }
    Err(denied(format!(
        "in this group only {} may {what}",
        those_who(policy)
    )))
}

/// Whether that role lets in who asks.
///
/// # Errors
/// [`Code::PermissionDenied`].
pub(super) fn check_lets_in(invite: Policy, role: Role) -> Result<(), Refused> {
    // Owner and admins at least.
    let policy = match invite {
        Policy::Owner => Policy::Admin,
        policy => policy,
    };
    check_policy(policy, role, "let others in")
}

/// Whether that role manages the group.
///
/// # Errors
/// [`Code::PermissionDenied`].
pub(super) fn check_manages(role: Role) -> Result<(), Refused> {
    match role {
        Role::Owner | Role::Admin => Ok(()),
        Role::Member => Err(denied("only the group's owner and admins may do that")),
    }
}

/// Whether one role stands above another, as it has to for removing and muting.
///
/// # Errors
/// [`Code::PermissionDenied`].
pub(super) fn check_above(caller: Role, other: Role) -> Result<(), Refused> {
    check_manages(caller)?;
    match (caller, other) {
        (_, Role::Owner) => Err(denied("nobody does that to the owner")),
        (Role::Owner, _) | (_, Role::Member) => Ok(()),
        (_, Role::Admin) => Err(denied("only the owner does that to an admin")),
    }
}

fn those_who(policy: Policy) -> &'static str {
    match policy {
        Policy::Member => "members",
        Policy::Admin => "owner and admins",
        Policy::Owner => "the owner",
    }
}

fn denied(reason: impl Into<String>) -> Refused {
    Refused::new(Code::PermissionDenied, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn uid(name: &str) -> Uid {
        name.parse().unwrap()
    }

    #[test]
    fn who_may_send_follows_from_policy_role_and_silence() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1000);
        for (post, muted, silenced_until, may) in [
            (Policy::Member, false, 0, "owner admin member"),
            (Policy::Member, true, 0, "owner admin"),
            (Policy::Admin, false, 0, "owner admin"),
            (Policy::Owner, false, 0, "owner"),
            (Policy::Owner, true, 0, "owner"),
            (Policy::Member, false, 1000, "owner admin member"),
            (Policy::Member, false, 1001, "owner admin"),
        ] {
            let rules = GroupRules::from(Senders {
                post,
                muted,
                managers: vec![(uid("owner"), Role::Owner), (uid("admin"), Role::Admin)],
                silenced: vec![(uid("member"), silenced_until)],
            });
            let may_send = |who: &&str| rules.check_send(&uid(who), || now).is_ok();
            let found: Vec<&str> = ["owner", "admin", "member"]
                .into_iter()
                .filter(may_send)
                .collect();
            assert_eq!(found.join(" "), may, "{rules:?}");
        }
    }

    #[test]
    fn one_has_to_stand_above_another() {
        let roles = [Role::Owner, Role::Admin, Role::Member];
        let above = |caller: Role| roles.map(|other| check_above(caller, other).is_ok());
        assert_eq!(above(Role::Owner), [false, true, true]);
        assert_eq!(above(Role::Admin), [false, false, true]);
        assert_eq!(above(Role::Member), [false, false, false]);
    }

    #[test]
    fn owner_and_admins_always_let_in() {
        for (invite, may) in [
            (Policy::Member, [true, true, true]),
            (Policy::Admin, [true, true, false]),
            (Policy::Owner, [true, true, false]),
        ] {
            let roles = [Role::Owner, Role::Admin, Role::Member];
            let found = roles.map(|role| check_lets_in(invite, role).is_ok());
            assert_eq!(found, may, "{invite:?}");
        }
    }
}
