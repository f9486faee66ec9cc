//! Who a client is. The edge asks; somebody else knows.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::SystemTime;

use schema::Uid;

/// What a CONNECT shows.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The user name, which is a uid.
    pub username: Option<&'a str>,
    /// The account's password, or an access token.
    pub password: Option<&'a [u8]>,
    /// The user that a verified client certificate names. It needs no password, and no user name either; one that is
    /// given has to be the same.
    pub certified: Option<&'a Uid>,
    /// Where the client is.
    pub address: IpAddr,
}

/// The outcome of a successful authentication.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user, whose topics the session may use. [`Uid::anonymous`] for a client without user name.
    pub uid: Uid,
    /// The login that the access token came from; `None` for a password.
    pub login: Option<String>,
    /// Since when the password is the user's; `None` for an access token.
    pub password_set_at: Option<SystemTime>,
    /// When the access token ends, and the session with it.
    pub expires_at: Option<SystemTime>,
    /// Whether the user may see `$SYS/#`, and more where operators say so.
    pub is_admin: bool,
    /// Up to when what has ended since is known, as whoever has checked it counts; 0 where nobody does.
    pub as_of: u64,
}

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown user, wrong password, invalid or expired token; deliberately one case.
    BadCredentials,
    /// Too many wrong passwords before this; it was not even looked at.
    TooManyFailures,
    /// It can't be told now.
    Unavailable,
}

/// Checks who sends a CONNECT.
pub trait Authenticate: Send + Sync + 'static {
    /// Tells who it is.
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send + 'a>>;

    /// Whether the login has ended or the password was changed since [`Authenticate::authenticate`]. Asked once the
    /// session can be found and ended by a kick, so that none slips through between the two.
    fn is_revoked(&self, identity: &Identity) -> bool;
}
