//! Who a client is. The edge asks; somebody else knows.

use std::future::Future;
use std::pin::Pin;
use std::time::SystemTime;

use schema::Uid;

/// The outcome of a successful authentication.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user, whose topics the session may use.
    pub uid: Uid,
    /// The login that the access token came from; `None` for a password.
    pub login: Option<String>,
    /// Since when the password is the user's; `None` for an access token.
    pub password_set_at: Option<SystemTime>,
    /// When the access token ends, and the session with it.
    pub expires_at: Option<SystemTime>,
}

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown user, wrong password, invalid or expired token; deliberately one case.
    BadCredentials,
    /// It can't be told now.
    Unavailable,
}

/// Checks the user name and password of a CONNECT.
pub trait Authenticate: Send + Sync + 'static {
    /// `password` is the account's password or an access token.
    fn authenticate<'a>(
        &'a self,
        username: &'a str,
        password: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send + 'a>>;

    /// Whether the login has ended or the password was changed since [`Authenticate::authenticate`]. Asked once the
    /// session can be found and ended by a kick, so that none slips through between the two.
    fn is_revoked(&self, identity: &Identity) -> bool;
}
