//! `tidings serve --demo`: three users and a group, and what to type to see them talk.

use std::net::SocketAddr;

use schema::v1::{reply, up};
use schema::{Gid, Uid, v1};

use crate::auth::{Auth, AuthError};
use crate::service::{Caller, Service};
use crate::settings::Settings;
use crate::store::users::Role;
use crate::store::{self, Store, views};

/// The users, whose passwords are their names; the first one owns the group.
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// gid and name of the group.
const GROUP: &str = "demo";

/// Why the demo can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Accounts with known passwords must not be reachable from elsewhere.
    #[error("--demo makes accounts with known passwords, and {0} is not a loopback address")]
    Exposed(SocketAddr),
    /// A user can't be made.
    #[error("the user {uid} can't be made")]
    User {
        /// Who.
        uid: Uid,
        /// Why.
        #[source]
        source: AuthError,
    },
    /// The service refused to make the group.
    #[error("the group can't be made: {0}")]
    Group(String),
    /// The group can't be looked up.
    #[error("the group can't be looked up")]
    Store(#[from] store::Error),
}

/// Refuses to go on when one of the listeners can be reached from another machine.
///
/// # Errors
/// [`DemoError::Exposed`] with its address.
pub fn check_loopback(settings: &Settings) -> Result<(), DemoError> {
    let listeners = [
        &settings.mqtt.listen,
        &settings.mqtts.listen,
        &settings.http.listen,
        &settings.https.listen,
    ];
    let mut addresses = listeners.into_iter().flatten();
    match addresses.find(|address| !address.ip().is_loopback()) {
        Some(address) => Err(DemoError::Exposed(*address)),
        None => Ok(()),
    }
}

/// Makes the users and the group, as far as they are missing.
///
/// # Errors
/// [`DemoError`] when one of them can't be made.
pub async fn seed(store: &Store, auth: &Auth, service: &Service) -> Result<(), DemoError> {
    for name in USERS {
        let uid = demo_uid(name);
        match auth.add_user_unchecked(uid.clone(), name, Role::User).await {
            Ok(()) | Err(AuthError::Exists) => {}
            Err(source) => return Err(DemoError::User { uid, source }),
        }
    }
    let gid: Gid = GROUP.parse().expect("a valid gid");
    if views::group(store.reader(), &gid).await?.is_some() {
        return Ok(());
    }
    create_group(service).await
}

async fn create_group(service: &Service) -> Result<(), DemoError> {
    let [owner, members @ ..] = USERS;
    let caller = Caller {
        uid: demo_uid(owner),
        device: String::new(),
    };
    let create = v1::GroupCreate {
        name: GROUP.to_owned(),
        members: members.map(str::to_owned).to_vec(),
        gid: GROUP.to_owned(),
    };
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(up::Command::GroupCreate(create)),
    };
    match service.execute(caller, up).await.result {
        Some(reply::Result::Ok(_)) => Ok(()),
        Some(reply::Result::Error(error)) => Err(DemoError::Group(error.reason)),
        None => Err(DemoError::Group("no reply".to_owned())),
    }
}

fn demo_uid(name: &str) -> Uid {
    name.parse().expect("a valid uid")
}

/// What to type next, in other terminals.
#[must_use]
pub fn hint(mqtt: Option<SocketAddr>, http: Option<SocketAddr>) -> String {
    let mut lines = vec![format!(
        "demo: users {} (password = name), group {GROUP}. In other terminals:",
        USERS.join(", ")
    )];
    if let Some(address) = mqtt {
        let (host, port) = (address.ip(), address.port());
        lines.push(format!(
            "  mosquitto_sub -h {host} -p {port} -q 1 -i phone -u bob -P bob -t imj/bob/down"
        ));
        lines.push(format!(
            "  mosquitto_pub -h {host} -p {port} -q 1 -i laptop -u alice -P alice -t imj/alice/up \
             -m '{{\"send\":{{\"to\":{{\"user\":\"bob\"}},\"text\":\"hi\"}}}}'"
        ));
    }
    if let Some(address) = http {
        lines.push(format!(
            "  curl http://{address}/v1/auth/login -H 'content-type: application/json' \
             -d '{{\"uid\":\"bob\",\"password\":\"bob\"}}'"
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_good_enough() {
        let mut settings = Settings::defaults();
        check_loopback(&settings).unwrap();
        settings.http.listen.push("[::1]:0".parse().unwrap());
        check_loopback(&settings).unwrap();
        settings.mqtt.listen.push("0.0.0.0:1883".parse().unwrap());
        assert!(matches!(
            check_loopback(&settings),
            Err(DemoError::Exposed(_))
        ));
    }

    #[test]
    fn the_hint_names_the_real_ports() {
        let hint = hint(
            Some("127.0.0.1:4711".parse().unwrap()),
            Some("[::1]:4712".parse().unwrap()),
        );
        assert!(
            hint.contains("-p 4711") && hint.contains("http://[::1]:4712/v1/auth/login"),
            "{hint}"
        );
        assert!(
            hint.contains(r#"'{"send":{"to":{"user":"bob"},"text":"hi"}}'"#),
            "{hint}"
        );
    }
}
