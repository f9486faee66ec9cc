//! Accounts, logins and tokens: who is calling, and until when that holds.
//!
//! A password opens a login; the login hands out access tokens (JWTs, valid for an hour or so and checked without the
//! database) and one refresh token, replaced at every use. Ending a login refuses its access tokens at once and ends
//! the sessions that they opened.
//!
//! Reading order: [`Auth`] (who is calling), `accounts` and `administration` (who there is), `logins`, `following` (what others
//! have ended), `revocations` (what no longer counts), `password`, `token`, `key`, `backoff`.

mod accounts;
mod administration;
mod backoff;
mod following;
mod key;
mod logins;
mod password;
mod revocations;
pub(crate) mod token;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schema::Uid;
use schema::link::kick;

use self::backoff::Backoff;
pub use self::backoff::TooManyFailures;
use self::password::{Busy, Passwords};
use self::revocations::Revocations;
use self::token::AccessTokens;
use crate::cluster::decisions::Decisions;
use crate::settings::{AuthOptions, Settings};
use crate::store::users::{self, Role, User};
use crate::store::{self, Store};

/// The longest password in bytes, so that a request can't make the server hash megabytes.
const PASSWORD_MAX: usize = 1024;

/// Ends sessions of a user; tells whether there were any.
pub type Kick = Arc<dyn Fn(&Uid, Sessions<'_>) -> bool + Send + Sync>;

/// Which sessions of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions<'a> {
    /// All of them.
    All,
    /// Those that a login's tokens opened.
    OfLogin(&'a str),
    /// Those of the device with that client id.
    OfDevice(&'a str),
}

impl From<Sessions<'_>> for Option<kick::Which> {
    fn from(which: Sessions<'_>) -> Self {
        match which {
            Sessions::All => None,
            Sessions::OfLogin(login) => Some(kick::Which::Login(login.to_owned())),
            Sessions::OfDevice(device) => Some(kick::Which::Device(device.to_owned())),
        }
    }
}

/// Why somebody was not let in, or an account not changed.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Unknown user, wrong password, or a token that is not (any longer) valid; which one is not told.
    #[error("wrong user name, password or token")]
    Refused,
    /// The new account or password is not acceptable; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// The uid is taken.
    #[error("the uid is taken")]
    Exists,
    /// Strangers may not register here.
    #[error("registration is closed")]
    RegistrationClosed,
    /// There were too many wrong passwords before this one, which was not looked at.
    #[error(transparent)]
    TooManyFailures(#[from] TooManyFailures),
    /// Too many others are waiting.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database failed.
    #[error("the account can't be read or written")]
    Store(#[from] store::Error),
}

impl store::InTheWay for AuthError {
    fn is_in_the_way(&self) -> bool {
        matches!(self, AuthError::Store(error) if error.is_in_the_way())
    }
}

/// Why accounts can't be served at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The key for access tokens can't be read or made.
    #[error("the key for access tokens can't be read or made")]
    Key(#[from] io::Error),
    /// The first password could not be hashed.
    #[error("passwords can't be hashed")]
    Passwords(#[from] Busy),
    /// The ended logins can't be read.
    #[error("the ended logins can't be read")]
    Store(#[from] store::Error),
}

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: Uid,
    /// The login whose token was shown; `None`: a password or a certificate was.
    pub login: Option<String>,
    /// Since when the password that was shown is the user's; `None`: a token or a certificate was shown.
    pub password_set_at: Option<SystemTime>,
    /// When the token runs out; `None`: never.
    pub expires_at: Option<SystemTime>,
    /// Whether the user is an administrator.
    pub admin: bool,
}

/// What a client gets for a password or a refresh token.
#[derive(Clone)]
pub struct Tokens {
    /// A JWT.
    pub access: String,
    /// Valid for one use.
    pub refresh: String,
    /// How long the access token is valid.
    pub expires_in: Duration,
}

/// Accounts and logins. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    store: Store,
    options: AuthOptions,
    passwords: Passwords,
    backoff: Backoff,
    access_tokens: Arc<AccessTokens>,
    revocations: Revocations,
    kick: Kick,
    decisions: Decisions,
}

impl Auth {
    /// Loads or makes the key, and reads which logins have been ended lately.
    ///
    /// # Errors
    /// [`OpenError`] when one of the two can't be done.
    pub async fn open(store: Store, settings: &Settings, kick: Kick) -> Result<Self, OpenError> {
        let options = settings.auth.clone();
        let key = match options.jwt_key.expose() {
            "" => key::load_or_create(&settings.data_dir)?,
            configured => configured.to_owned(),
        };
        let auth = Auth {
            store,
            passwords: Passwords::new().await?,
            backoff: Backoff::new(&options, &settings.network),
            access_tokens: Arc::new(AccessTokens::new(key.as_bytes(), options.access_token_ttl)),
            revocations: Revocations::new(options.access_token_ttl),
            options,
            kick,
            decisions: Decisions::default(),
        };
        auth.load_revocations().await?;
        Ok(auth)
    }

    /// Tells other nodes of sessions that end.
    #[must_use]
    pub fn among(self, decisions: Decisions) -> Self {
        Auth { decisions, ..self }
    }
}

// === impl Auth: who is calling ===

impl Auth {
    /// The caller of an MQTT CONNECT: the password is the account's, or an access token of that user.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when it is neither, [`AuthError::TooManyFailures`] when passwords were wrong too often.
    pub async fn authenticate(
        &self,
        username: &str,
        password: &[u8],
        address: IpAddr,
    ) -> Result<Identity, AuthError> {
        let uid: Uid = username.parse().map_err(|_| AuthError::Refused)?;
        match std::str::from_utf8(password) {
            Ok(token) if token::looks_like_jwt(token) => {
                let identity = self.verify_access(token)?;
                (identity.uid == uid)
                    .then_some(identity)
                    .ok_or(AuthError::Refused)
            }
            _ => self.verify_password(&uid, password, address).await,
        }
    }

    /// The user that something as good as a password names, like a verified client certificate. A new password does not
    /// change that.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when there is no such user.
    pub async fn trust(&self, uid: &Uid) -> Result<Identity, AuthError> {
        let user = users::lookup(self.store.reader(), uid).await?;
        let user = user.ok_or(AuthError::Refused)?;
        Ok(Identity {
            login: None,
            password_set_at: None,
            expires_at: None,
            admin: user.role == Role::Admin,
            uid: user.uid,
        })
    }

    /// The user with that password.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when uid or password is wrong; both take the same time.
    async fn verify_password(
        &self,
        uid: &Uid,
        password: &[u8],
        address: IpAddr,
    ) -> Result<Identity, AuthError> {
        let user = self.user_by_password(uid, password, address).await?;
        Ok(Identity {
            login: None,
            password_set_at: Some(user.password_set_at()),
            expires_at: None,
            admin: user.role == Role::Admin,
            uid: user.uid,
        })
    }

    /// The caller with that access token.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when the token has run out, was not signed here, or its login has ended.
    pub fn verify_access(&self, token: &str) -> Result<Identity, AuthError> {
        let claims = self.access_tokens.read(token).ok_or(AuthError::Refused)?;
        if self.revocations.contains(&claims.sid) {
            return Err(AuthError::Refused);
        }
        Ok(Identity {
            uid: claims.sub.parse().map_err(|_| AuthError::Refused)?,
            expires_at: Some(claims.expires_at()),
            password_set_at: None,
            login: Some(claims.sid),
            admin: claims.admin,
        })
    }

    /// Whether what let a user in, a login or a password of that age, was ended lately. To be asked once more when a
    /// session is in the registry: from then on [`Kick`] finds it.
    #[must_use]
    pub fn is_revoked(
        &self,
        uid: &Uid,
        login: Option<&str>,
        password_set_at: Option<SystemTime>,
    ) -> bool {
        login.is_some_and(|login| self.revocations.contains(login))
            || password_set_at
                .is_some_and(|set_at| self.revocations.has_newer_password(uid, set_at))
    }

    /// Which of these users may no longer be where they are, however long ago that was decided: whose account was deleted, or
    /// who have a newer password than the one that has let them in. A login ends before what is known of its end is forgotten.
    ///
    /// # Errors
    /// [`store::Error`] when the database can't answer.
    pub async fn ended(
        &self,
        shown: Vec<(&Uid, Option<SystemTime>)>,
    ) -> Result<Vec<bool>, store::Error> {
        let uids: BTreeSet<&Uid> = shown.iter().map(|(uid, _)| *uid).collect();
        let passwords = users::passwords_set_at(self.store.reader(), uids).await?;
        let is_ended = |(uid, set_at): &(&Uid, Option<SystemTime>)| match passwords.get(*uid) {
            Some(newest) => set_at.is_some_and(|set_at| *newest > set_at),
            None => true,
        };
        Ok(shown.iter().map(is_ended).collect())
    }

    async fn user_by_password(
        &self,
        uid: &Uid,
        password: &[u8],
        address: IpAddr,
    ) -> Result<User, AuthError> {
        if password.len() > PASSWORD_MAX {
            return Err(AuthError::Refused);
        }
        // Who has to wait takes nobody's turn.
        self.backoff.check(uid, address)?;
        let user = users::lookup(self.store.reader(), uid).await?;
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let turn = self.passwords.turn().await?;
        let attempt = self.backoff.begin(uid, address).await?;
        match self.passwords.verify(turn, password.to_vec(), hash).await {
            Ok(true) => {
                attempt.succeed();
                user.ok_or(AuthError::Refused)
            }
            // Dropped, the attempt counts.
            Ok(false) => Err(AuthError::Refused),
            Err(busy) => {
                attempt.withdraw();
                Err(busy.into())
            }
        }
    }
}

#[cfg(test)]
mod tests;
