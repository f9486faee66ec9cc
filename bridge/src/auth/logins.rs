//! Opening and ending logins.

use std::net::IpAddr;
use std::time::SystemTime;

use schema::Uid;

use super::token::{self, RefreshToken};
use super::{Auth, AuthError, Sessions, Tokens};
use crate::store::logins::{self, Refresh, Revocation};
use crate::store::users::{Role, User};
use crate::store::{self, devices};

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
    pub(super) fn announce(&self, revocation: &Revocation) {
        if self.revocations.insert(revocation) {
            (self.kick)(&revocation.uid, Sessions::OfLogin(&revocation.id));
        }
    }
}

pub(super) fn revocation(uid: &Uid, id: String, revoked_at: SystemTime) -> Revocation {
    Revocation {
        id,
        uid: uid.clone(),
        revoked_at,
    }
}
