//! Accounts, logins and tokens: who is calling, and until when that holds.
//!
//! A password opens a login; the login hands out access tokens (JWTs, valid for an hour or so and checked without the
//! database) and one refresh token, replaced at every use. Ending a login refuses its access tokens at once and ends
//! the sessions that they opened.

mod administration;
mod backoff;
mod key;
mod password;
mod revocations;
pub(crate) mod token;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schema::Uid;
use schema::link::{self, kick};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::administration::note;
use self::backoff::Backoff;
pub use self::backoff::TooManyFailures;
use self::password::{Busy, Passwords};
use self::revocations::Revocations;
use self::token::{AccessTokens, RefreshToken};
use crate::cluster::decisions::Decisions;
use crate::settings::{AuthOptions, Settings};
use crate::store::audit::OPERATOR;
use crate::store::devices;
use crate::store::logins::{self, Refresh, Revocation};
use crate::store::users::{self, PasswordChange, Role, User};
use crate::store::{self, Store};

/// The longest password in bytes, so that a request can't make the server hash megabytes.
const PASSWORD_MAX: usize = 1024;
/// How often [`Auth::follow`] looks for logins and passwords that another process has ended.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

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

// === impl Auth: start ===

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

    /// Learns of logins and passwords that another process has ended, like `tidings user passwd`, and of sessions that
    /// other nodes have ended, until it is dropped. A session that was opened since by the new password may end too, and
    /// comes back.
    pub async fn follow(self, mut kicks: mpsc::Receiver<link::Kick>) {
        let mut interval = tokio::time::interval(FOLLOW_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(kick) = kicks.recv() => self.follow_kick(&kick).await,
                _ = interval.tick() => self.follow_revocations().await,
            }
        }
    }

    async fn follow_revocations(&self) {
        if let Err(error) = self.load_revocations().await {
            tracing::warn!(error = %store::chain(&error), "can't look for ended logins");
        }
    }

    /// Another node has ended sessions of a user.
    async fn follow_kick(&self, kick: &link::Kick) {
        let Ok(uid) = kick.uid.parse::<Uid>() else {
            return tracing::error!("another node has ended sessions of a user who can't exist");
        };
        match &kick.which {
            Some(kick::Which::Login(login)) => {
                self.announce(&revocation(&uid, login.clone(), SystemTime::now()));
            }
            Some(kick::Which::Device(device)) => {
                (self.kick)(&uid, Sessions::OfDevice(device));
            }
            None => {
                // First what they were let in by, so that they don't come back with that, nor end again for it later.
                self.follow_revocations().await;
                (self.kick)(&uid, Sessions::All);
            }
        }
    }

    async fn load_revocations(&self) -> Result<(), store::Error> {
        let now = SystemTime::now();
        let since = self.revocations.unread_since(now);
        let db = self.store.reader();
        for revocation in logins::revoked_since(db, since).await? {
            self.announce(&revocation);
        }
        for change in users::password_changes_since(db, since).await? {
            self.announce_password(&change);
        }
        self.revocations.read_until(now);
        Ok(())
    }
}

// === impl Auth: accounts ===

impl Auth {
    /// Makes an account for a stranger.
    ///
    /// # Errors
    /// [`AuthError::RegistrationClosed`], [`AuthError::Invalid`] or [`AuthError::Exists`].
    pub async fn register(&self, uid: Uid, password: &str) -> Result<(), AuthError> {
        if !self.options.registration {
            return Err(AuthError::RegistrationClosed);
        }
        self.check_new_password(password)?;
        self.insert(uid, password, Role::User, None).await
    }

    /// Makes an account on behalf of the operator, as the audit log tells.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] or [`AuthError::Exists`].
    pub async fn add_user(&self, uid: Uid, password: &str, role: Role) -> Result<(), AuthError> {
        self.check_new_password(password)?;
        self.insert(uid, password, role, Some(OPERATOR)).await
    }

    /// [`Auth::add_user`] with any password, for the demo's.
    ///
    /// # Errors
    /// [`AuthError::Exists`].
    pub async fn add_user_unchecked(
        &self,
        uid: Uid,
        password: &str,
        role: Role,
    ) -> Result<(), AuthError> {
        self.insert(uid, password, role, None).await
    }

    async fn insert(
        &self,
        uid: Uid,
        password: &str,
        role: Role,
        by: Option<&str>,
    ) -> Result<(), AuthError> {
        // Asked first, so that a taken uid does not cost a hash.
        if users::is_taken(self.store.reader(), &uid).await? {
            return Err(AuthError::Exists);
        }
        let user = User {
            uid,
            kind: "person".to_owned(),
            role,
            password_hash: self.passwords.hash(password.into()).await?,
            created_at: SystemTime::now(),
            password_changed_at: None,
        };
        store::repeat(|| self.try_insert(&user, by)).await
    }

    async fn try_insert(&self, user: &User, by: Option<&str>) -> Result<(), AuthError> {
        let change = self.store.begin().await?;
        match users::add(&change, user).await {
            Err(store::Error::Exists(_)) => return Err(AuthError::Exists),
            added => added?,
        }
        note(&change, by, "user.add", &user.uid, user.created_at).await?;
        Ok(change.commit().await.map_err(store::Error::from)?)
    }

    /// Replaces a password that the user knows, and ends all the user's logins and sessions.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when `old` is wrong, [`AuthError::TooManyFailures`] when it was too often,
    /// [`AuthError::Invalid`] when `new` is not acceptable.
    pub async fn change_password(
        &self,
        uid: &Uid,
        old: &str,
        new: &str,
        address: IpAddr,
    ) -> Result<(), AuthError> {
        self.check_new_password(new)?;
        let old = old.as_bytes();
        let user = self.user_by_password(uid, old, address).await?;
        self.replace_password(uid, Some(&user.password_hash), new, None)
            .await
    }

    /// Replaces a password on behalf of `by`, an administrator or the operator, and ends all the user's logins and
    /// sessions.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when there is no such user, [`AuthError::Invalid`] when `new` is not acceptable.
    pub async fn set_password(&self, uid: &Uid, new: &str, by: &str) -> Result<(), AuthError> {
        self.check_new_password(new)?;
        self.replace_password(uid, None, new, Some(by)).await
    }

    /// `old` is the hash that was compared with; by the time of the change it may be another.
    async fn replace_password(
        &self,
        uid: &Uid,
        old: Option<&str>,
        new: &str,
        by: Option<&str>,
    ) -> Result<(), AuthError> {
        let new = self.passwords.hash(new.into()).await?;
        store::repeat(|| self.try_replace(uid, old, &new, by)).await
    }

    async fn try_replace(
        &self,
        uid: &Uid,
        old: Option<&str>,
        new: &str,
        by: Option<&str>,
    ) -> Result<(), AuthError> {
        let now = SystemTime::now();
        let change = self.store.begin().await?;
        let changed_at = users::set_password_hash(&change, uid, old, new, now).await?;
        let changed_at = changed_at.ok_or(AuthError::Refused)?;
        let ended = logins::revoke_all(&change, uid, now).await?;
        note(&change, by, "user.password", uid, now).await?;
        let kick = self.decisions.kick(&change, uid, Sessions::All).await?;
        change.commit().await.map_err(store::Error::from)?;
        self.end_logins(uid, ended, now);
        self.decisions.tell(kick);
        let uid = uid.clone();
        self.announce_password(&PasswordChange { uid, changed_at });
        Ok(())
    }

    /// Refuses what the old password opens from now on, and ends the user's sessions if that is news.
    fn announce_password(&self, change: &PasswordChange) {
        if self.revocations.insert_password(change) {
            (self.kick)(&change.uid, Sessions::All);
        }
    }

    fn check_new_password(&self, password: &str) -> Result<(), AuthError> {
        let min = self.options.password_min;
        if password.chars().count() < min || password.len() > PASSWORD_MAX {
            let reason = format!("a password is {min} characters to {PASSWORD_MAX} bytes long");
            return Err(AuthError::Invalid(reason));
        }
        Ok(())
    }
}

// === impl Auth: logins ===

impl Auth {
    /// Opens a login by password.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when uid or password is wrong, [`AuthError::TooManyFailures`] when they were too often.
    pub async fn login(
        &self,
        uid: &Uid,
        password: &str,
        address: IpAddr,
    ) -> Result<Tokens, AuthError> {
        let password = password.as_bytes();
        let user = self.user_by_password(uid, password, address).await?;
        store::repeat(|| self.try_login(uid, &user)).await
    }

    async fn try_login(&self, uid: &Uid, user: &User) -> Result<Tokens, AuthError> {
        let refresh = RefreshToken::new(token::login_id());
        let now = SystemTime::now();
        let hash = refresh.hash();
        let next = self.next(&hash, now);
        let horizon = self.revocations.horizon(now);

        let change = self.store.begin().await?;
        logins::prune(&change, uid, now, horizon).await?;
        let is_added =
            logins::add(&change, refresh.login(), uid, next, &user.password_hash).await?;
        change.commit().await.map_err(store::Error::from)?;
        if !is_added {
            return Err(AuthError::Refused);
        }
        Ok(self.tokens(uid, user.role, &refresh, now))
    }

    /// Exchanges a refresh token for a new pair. A token that was used before has been copied by someone: it ends
    /// the login.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when the token is not the valid one of a living login.
    pub async fn refresh(&self, token: &str) -> Result<Tokens, AuthError> {
        let old = RefreshToken::parse(token).ok_or(AuthError::Refused)?;
        let now = SystemTime::now();
        let login = logins::lookup(self.store.reader(), old.login()).await?;
        let login = login.ok_or(AuthError::Refused)?;
        if login.is_revoked || login.expires_at <= now {
            return Err(AuthError::Refused);
        }

        let new = RefreshToken::new(old.login().to_owned());
        let new_hash = new.hash();
        let next = self.next(&new_hash, now);
        let db = self.store.writer();
        if !logins::rotate(db, old.login(), &old.hash(), next, now).await? {
            tracing::warn!(user.id = %login.uid, "an old refresh token was used; its login is ended");
            self.logout(&login.uid, old.login()).await?;
            return Err(AuthError::Refused);
        }
        Ok(self.tokens(&login.uid, login.role, &new, now))
    }

    /// Ends a login of a user, and the sessions that it opened.
    ///
    /// # Errors
    /// [`AuthError::Store`] when the database can't note it; the login lives on then.
    pub async fn logout(&self, uid: &Uid, login: &str) -> Result<(), AuthError> {
        store::repeat(|| self.try_logout(uid, login)).await
    }

    async fn try_logout(&self, uid: &Uid, login: &str) -> Result<(), AuthError> {
        let now = SystemTime::now();
        let change = self.store.begin().await?;
        logins::revoke(&change, uid, login, now).await?;
        let which = Sessions::OfLogin(login);
        let kick = self.decisions.kick(&change, uid, which).await?;
        change.commit().await.map_err(store::Error::from)?;
        self.announce(&revocation(uid, login.to_owned(), now));
        self.decisions.tell(kick);
        Ok(())
    }

    /// Ends the login that a refresh token belongs to.
    ///
    /// # Errors
    /// As [`Auth::refresh`] has them.
    pub async fn logout_by_refresh_token(&self, token: &str) -> Result<(), AuthError> {
        // The token is used up first, which checks it.
        let tokens = self.refresh(token).await?;
        let identity = self.verify_access(&tokens.access)?;
        match identity.login {
            Some(login) => self.logout(&identity.uid, &login).await,
            None => Ok(()),
        }
    }

    /// Forgets a user's device, and ends its session; with a valid password or token it can come back, as a new device.
    /// Tells whether it was known, or had a session at this node.
    ///
    /// # Errors
    /// [`store::Error`] when the database can't note it; nothing has changed then.
    pub async fn forget_device(&self, uid: &Uid, device: &str) -> Result<bool, store::Error> {
        store::repeat(|| self.try_forget(uid, device)).await
    }

    async fn try_forget(&self, uid: &Uid, device: &str) -> Result<bool, store::Error> {
        let which = Sessions::OfDevice(device);
        let change = self.store.begin().await?;
        let is_known = devices::forget(&change, (uid, device)).await?;
        let kick = self.decisions.kick(&change, uid, which).await?;
        change.commit().await?;
        // After it is forgotten: what comes back is a new device.
        let had_session = (self.kick)(uid, which);
        self.decisions.tell(kick);
        Ok(is_known || had_session)
    }

    fn next<'a>(&self, hash: &'a [u8], now: SystemTime) -> Refresh<'a> {
        Refresh {
            hash,
            expires_at: now + self.options.refresh_token_ttl,
        }
    }

    fn tokens(&self, uid: &Uid, role: Role, refresh: &RefreshToken, now: SystemTime) -> Tokens {
        let admin = role == Role::Admin;
        Tokens {
            access: (self.access_tokens).issue(uid.as_str(), refresh.login(), admin, now),
            refresh: refresh.to_string(),
            expires_in: self.access_tokens.ttl(),
        }
    }

    /// Refuses a login's tokens from now on, and ends its sessions if that is news.
    fn announce(&self, revocation: &Revocation) {
        if self.revocations.insert(revocation) {
            (self.kick)(&revocation.uid, Sessions::OfLogin(&revocation.id));
        }
    }
}

fn revocation(uid: &Uid, id: String, revoked_at: SystemTime) -> Revocation {
    Revocation {
        id,
        uid: uid.clone(),
        revoked_at,
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
