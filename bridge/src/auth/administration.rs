//! Accounts that are made, ended and changed on behalf of others: by administrators and the operator, which the audit log
//! tells; and the end of one's own.

use std::net::IpAddr;
use std::time::SystemTime;

use schema::Uid;

use super::logins::revocation;
use super::{Auth, AuthError, Sessions};
use crate::store::audit::{self, Act};
use crate::store::users::{self, PasswordChange};
use crate::store::{self, Transaction, erasure, logins};

impl Auth {
    /// Deletes the account of a user who knows its password, and ends all logins and sessions. What else is left of it is
    /// noted to be erased.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when the password is wrong, [`AuthError::TooManyFailures`] when it was too often.
    pub async fn delete_own(
        &self,
        uid: &Uid,
        password: &str,
        address: IpAddr,
    ) -> Result<(), AuthError> {
        let user = (self.user_by_password(uid, password.as_bytes(), address)).await?;
        self.delete(uid, Some(&user.password_hash), None).await
    }

    /// The same on behalf of `by`, an administrator or the operator.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when there is no such user.
    pub async fn delete_user(&self, uid: &Uid, by: &str) -> Result<(), AuthError> {
        self.delete(uid, None, Some(by)).await
    }

    async fn delete(
        &self,
        uid: &Uid,
        old_hash: Option<&str>,
        by: Option<&str>,
    ) -> Result<(), AuthError> {
        store::repeat(|| self.try_delete(uid, old_hash, by)).await
    }

    async fn try_delete(
        &self,
        uid: &Uid,
        old_hash: Option<&str>,
        by: Option<&str>,
    ) -> Result<(), AuthError> {
        let now = SystemTime::now();
        let change = self.store.begin().await?;
        let changed_at = users::delete(&change, uid, old_hash, now).await?;
        let changed_at = changed_at.ok_or(AuthError::Refused)?;
        let ended = logins::revoke_all(&change, uid, now).await?;
        erasure::add(&change, uid, now).await?;
        note(&change, by, "user.delete", uid, now).await?;
        let kick = self.decisions.kick(&change, uid, Sessions::All).await?;
        change.commit().await.map_err(store::Error::from)?;
        self.end_logins(uid, ended, now);
        self.decisions.tell(kick);
        let uid = uid.clone();
        self.announce_password(&PasswordChange { uid, changed_at });
        Ok(())
    }

    /// Ends all logins and sessions of a user on behalf of `by`. With the password the user can come back.
    ///
    /// # Errors
    /// [`AuthError::Refused`] when there is no such user.
    pub async fn kick_user(&self, uid: &Uid, by: &str) -> Result<(), AuthError> {
        store::repeat(|| self.try_kick(uid, by)).await
    }

    async fn try_kick(&self, uid: &Uid, by: &str) -> Result<(), AuthError> {
        let now = SystemTime::now();
        let change = self.store.begin().await?;
        let user = users::lookup(&change, uid).await?;
        let user = user.ok_or(AuthError::Refused)?;
        let ended = logins::revoke_all(&change, uid, now).await?;
        note(&change, Some(by), "user.kick", uid, now).await?;
        let kick = self.decisions.kick(&change, uid, Sessions::All).await?;
        change.commit().await.map_err(store::Error::from)?;
        self.end_logins(uid, ended, now);
        (self.kick)(&user.uid, Sessions::All);
        self.decisions.tell(kick);
        Ok(())
    }

    /// Refuses the tokens of logins that have ended. Their sessions are the caller's to end.
    pub(super) fn end_logins(&self, uid: &Uid, ended: Vec<String>, now: SystemTime) {
        for id in ended {
            self.revocations.insert(&revocation(uid, id, now));
        }
    }
}

/// Adds what was done to a user to the audit log, if it was done on behalf of somebody.
pub(super) async fn note(
    change: &Transaction,
    by: Option<&str>,
    action: &str,
    uid: &Uid,
    now: SystemTime,
) -> Result<(), store::Error> {
    let Some(by) = by else { return Ok(()) };
    let act = Act {
        by,
        action,
        target: uid.as_str(),
        detail: "",
    };
    audit::add(change, act, now).await
}
