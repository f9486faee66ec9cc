//! What edge and accounts ask of each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use broker::{BrokerHandle, Refusal};

use crate::auth::{self, Auth, AuthError, Kick, Sessions};
use crate::service::{Doorkeeper, Ended};

/// Accounts end sessions, and sessions ask accounts: the way back is filled in when both exist.
pub(super) fn kick(sessions: Arc<OnceLock<BrokerHandle>>) -> Kick {
    Arc::new(move |uid, which| {
        let Some(sessions) = sessions.get() else {
            return false;
        };
        match which {
            Sessions::All => sessions.kick(uid, None),
            Sessions::OfLogin(login) => sessions.kick(uid, Some(login)),
            Sessions::OfDevice(device) => sessions.kick_device(uid, device),
        }
    })
}

/// What the edge asks about clients.
pub(super) struct Accounts(pub(super) Auth);

impl Accounts {
    async fn identify(
        &self,
        credentials: broker::Credentials<'_>,
    ) -> Result<auth::Identity, AuthError> {
        let (username, password) = (credentials.username, credentials.password);
        match (credentials.certified, username, password) {
            (Some(uid), None, _) => self.0.trust(uid).await,
            (Some(uid), Some(username), _) if username == uid.as_str() => self.0.trust(uid).await,
            (Some(_), Some(_), _) => Err(AuthError::Refused),
            (None, Some(username), Some(password)) => {
                let address = credentials.address;
                self.0.authenticate(username, password, address).await
            }
            (None, _, _) => Err(AuthError::Refused),
        }
    }
}

impl broker::Authenticate for Accounts {
    fn authenticate<'a>(
        &'a self,
        credentials: broker::Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<broker::Identity, Refusal>> + Send + 'a>> {
        Box::pin(async move {
            match self.identify(credentials).await {
                Ok(identity) => Ok(broker::Identity {
                    is_admin: identity.admin,
                    as_of: 0,
                    uid: identity.uid,
                    login: identity.login,
                    password_set_at: identity.password_set_at,
                    expires_at: identity.expires_at,
                }),
                Err(AuthError::Store(_) | AuthError::Busy(_)) => Err(Refusal::Unavailable),
                Err(AuthError::TooManyFailures(_)) => Err(Refusal::TooManyFailures),
                Err(_) => Err(Refusal::BadCredentials),
            }
        })
    }

    fn is_revoked(&self, identity: &broker::Identity) -> bool {
        let login = identity.login.as_deref();
        (self.0).is_revoked(&identity.uid, login, identity.password_set_at)
    }
}

impl Doorkeeper for Accounts {
    fn ended<'a>(&'a self, identities: &'a [broker::Identity]) -> Ended<'a> {
        let shown = identities.iter();
        let shown = shown.map(|identity| (&identity.uid, identity.password_set_at));
        Box::pin(self.0.ended(shown.collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use schema::Uid;

    use super::*;
    use crate::settings::Settings;
    use crate::store::Store;

    #[tokio::test]
    async fn a_certificate_stands_for_its_user_only() {
        let (store, folder) = Store::fresh().await;
        let mut settings = Settings::defaults();
        settings.data_dir = folder.path().to_owned();
        let auth = Auth::open(store, &settings, Arc::new(|_, _| false));
        let accounts = Accounts(auth.await.unwrap());
        let (alice, nobody): (Uid, Uid) = ("alice".parse().unwrap(), "nobody".parse().unwrap());
        let registered = accounts.0.register(alice.clone(), "correct horse");
        registered.await.unwrap();
        for (certified, username, password, is_let_in) in [
            (Some(&alice), None, None, true),
            (Some(&alice), Some("alice"), None, true),
            (Some(&alice), Some("alice"), Some("no matter"), true),
            (Some(&alice), Some("bob"), None, false),
            (Some(&nobody), None, None, false),
            (Some(&nobody), Some("alice"), Some("correct horse"), false),
            (None, Some("alice"), Some("correct horse"), true),
            (None, Some("alice"), None, false),
            (None, None, Some("correct horse"), false),
        ] {
            let credentials = broker::Credentials {
                username,
                password: password.map(str::as_bytes),
                certified,
                address: Ipv4Addr::LOCALHOST.into(),
            };
            let found = broker::Authenticate::authenticate(&accounts, credentials).await;
            match found {
                Ok(identity) => assert!(is_let_in && identity.uid == alice, "{credentials:?}"),
                Err(refusal) => {
                    assert!(!is_let_in, "{credentials:?}");
                    assert_eq!(refusal, Refusal::BadCredentials);
                }
            }
        }
        // Enough of them, and the right one is not looked at either.
        let login = |password| broker::Credentials {
            username: Some("alice"),
            password: Some(password),
            certified: None,
            address: Ipv4Addr::LOCALHOST.into(),
        };
        for _ in 0..settings.auth.login_failures {
            let found = broker::Authenticate::authenticate(&accounts, login(b"wrong"));
            assert_eq!(found.await.err(), Some(Refusal::BadCredentials));
        }
        let found = broker::Authenticate::authenticate(&accounts, login(b"correct horse"));
        assert_eq!(found.await.err(), Some(Refusal::TooManyFailures));
    }
}
