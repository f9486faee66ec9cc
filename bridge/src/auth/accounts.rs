//! Making accounts, and replacing passwords.

use std::net::IpAddr;
use std::time::SystemTime;

use schema::Uid;

use super::administration::note;
use super::{Auth, AuthError, PASSWORD_MAX, Sessions};
use crate::store::audit::OPERATOR;
use crate::store::users::{self, PasswordChange, Role, User};
use crate::store::{self, logins};

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
    pub(super) fn announce_password(&self, change: &PasswordChange) {
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
