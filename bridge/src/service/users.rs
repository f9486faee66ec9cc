//! A user's own profile, settings and status, and what a device has set for itself.

use schema::v1;

use super::Limits;
use super::batch::Executor;
use super::command;
use super::device_settings::{self, DeviceSet};
use super::job::{Caller, Delivery, Settled};
use super::refused::Refused;
use super::single::Failed;
use super::status;
use crate::store::{Transaction, conversations, users, views};

/// Longest name, reference to a picture and text about oneself, in characters.
const NAME_MAX: usize = 128;
const AVATAR_MAX: usize = 2048;
const ABOUT_MAX: usize = 512;
/// Who may see a user's presence.
const PRESENCES: [&str; 2] = ["contacts", "nobody"];

/// What changes the caller; what is `None` stays as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Sets what the caller and the device want to pass for.
    Status(status::Set),
    /// What others see.
    Profile {
        /// What people call the user.
        name: Option<String>,
        /// A reference to a picture.
        avatar: Option<String>,
        /// What the user says of himself.
        about: Option<String>,
    },
    /// What others may.
    Settings {
        /// Whether others learn how far the user has read.
        read_receipts: Option<bool>,
        /// Whether users who are no contacts may write to the user.
        strangers: Option<bool>,
        /// Who sees the user's presence.
        presence: Option<String>,
    },
    /// Changes settings of the device.
    Device(DeviceSet),
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(asked: v1::up::Command, _limits: &Limits) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let command = match asked {
        Asked::ProfileSet(asked) => {
            let text = |what, text: Option<String>, max| {
                text.map(|text| short_text(what, &text, max)).transpose()
            };
            Command::Profile {
                name: text("a name", asked.name, NAME_MAX)?,
                avatar: text("an avatar", asked.avatar, AVATAR_MAX)?,
                about: text("the text about a user", asked.about, ABOUT_MAX)?,
            }
        }
        Asked::SettingsSet(asked) => {
            let is_known = |presence: &String| PRESENCES.contains(&presence.as_str());
            if !asked.presence.iter().all(is_known) {
                return Err(Refused::invalid("presence is contacts or nobody"));
            }
            Command::Settings {
                read_receipts: asked.read_receipts,
                strangers: asked.strangers,
                presence: asked.presence,
            }
        }
        Asked::Presence(asked) => Command::Status(status::check(asked)?),
        Asked::DeviceSet(asked) => Command::Device(asked.into()),
        _ => unreachable!("only these are handed over"),
    };
    Ok(command::Command::User(command))
}

/// A text of one line without the spaces around it, if it is not too long.
pub(super) fn short_text(what: &str, text: &str, max: usize) -> Result<String, Refused> {
    let text = text.trim();
    if text.chars().count() > max || text.chars().any(char::is_control) {
        let reason = format!("{what} has up to {max} characters, and no control characters");
        return Err(Refused::invalid(reason));
    }
    Ok(text.to_owned())
}

impl Executor {
    /// Executes a change of the caller.
    pub(super) async fn change_user(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
        session: u64,
    ) -> Result<Settled, Failed> {
        match command {
            Command::Status(set) => self.set_status(tx, caller, set, session).await,
            Command::Device(asked) => device_settings::set(tx, caller, *asked).await,
            Command::Profile { .. } | Command::Settings { .. } => {
                self.change_profile(tx, caller, command, session).await
            }
        }
    }

    async fn change_profile(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
        session: u64,
    ) -> Result<Settled, Failed> {
        let uid = &caller.uid;
        users::lock(tx, [uid]).await?;
        let Some(before) = views::profile(tx, uid).await? else {
            return Err(Refused::not_found("there is no such user").into());
        };
        let after = changed(before.clone(), command);
        if after.user != before.user {
            let seen = after.user.clone().unwrap_or_default();
            users::set_profile(tx, uid, &seen.name, &seen.avatar, &seen.about).await?;
        } else if after != before {
            let (receipts, strangers) = (after.read_receipts, after.strangers);
            users::set_settings(tx, uid, receipts, strangers, &after.presence).await?;
        }
        if after.strangers != before.strangers {
            let names = conversations::direct_names(tx, uid).await?;
            conversations::revise(tx, &names).await?;
            for name in names {
                self.stage_change(&name);
            }
        }
        if after.presence != before.presence {
            self.effects.restyled.push(uid.clone());
        }
        let mut deliveries = Vec::new();
        if after != before {
            let event = v1::event::Event::Profile(after.clone());
            deliveries.push(Delivery::event(event, [uid], session));
        }
        Ok(Settled {
            deliveries,
            ..Settled::ok(v1::Ok {
                answer: Some(v1::ok::Answer::Profile(Box::new(after))),
                ..Default::default()
            })
        })
    }
}

/// The profile that a command makes of another.
fn changed(mut profile: v1::Profile, command: &Command) -> v1::Profile {
    match command {
        Command::Profile {
            name,
            avatar,
            about,
        } => {
            let user = profile.user.get_or_insert_default();
            replace(&mut user.name, name);
            replace(&mut user.avatar, avatar);
            replace(&mut user.about, about);
        }
        Command::Settings {
            read_receipts,
            strangers,
            presence,
        } => {
            replace(&mut profile.read_receipts, read_receipts);
            replace(&mut profile.strangers, strangers);
            replace(&mut profile.presence, presence);
        }
        // Not of the profile.
        Command::Status(_) | Command::Device(_) => {}
    }
    profile
}

fn replace<T: Clone>(value: &mut T, new: &Option<T>) {
    if let Some(new) = new {
        value.clone_from(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_of_one_line() {
        for (text, expected) in [
            ("", Some("")),
            ("  王 小明 ", Some("王 小明")),
            ("1234567", Some("1234567")),
            ("王王王王王王王王", None),
            ("a\nb", None),
            ("a\0b", None),
            ("\u{85}a", Some("a")),
            ("a\u{7f}", None),
        ] {
            let checked = short_text("it", text, 7).ok();
            assert_eq!(checked.as_deref(), expected, "{text:?}");
        }
    }
}
