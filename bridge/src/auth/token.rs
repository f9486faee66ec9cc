//! The two tokens of a login: a short-lived JWT, and a refresh token that is replaced at every use.

use std::fmt;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user's uid.
    pub sub: String,
    /// The login's id.
    pub sid: String,
    /// When it was issued, in seconds since 1970.
    pub iat: u64,
    /// When it runs out, in seconds since 1970.
    pub exp: u64,
    /// Whether the user was an administrator then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub admin: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Claims {
    /// When the token runs out.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.exp)
    }
}

/// Signs access tokens with HS256, and reads them.
#[derive(Clone)]
pub struct AccessTokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    ttl: Duration,
}

impl AccessTokens {
    /// Tokens signed with `key`, valid for `ttl`.
    #[must_use]
    pub fn new(key: &[u8], ttl: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // Issued and checked by the same clock.
        validation.leeway = 0;
        AccessTokens {
            encoding: EncodingKey::from_secret(key),
            decoding: DecodingKey::from_secret(key),
            validation,
            ttl,
        }
    }

    /// How long a token is valid.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A token for the login `sid` of the user `sub`.
    #[must_use]
    pub fn issue(&self, sub: &str, sid: &str, admin: bool, now: SystemTime) -> String {
        let claims = Claims {
            sub: sub.to_owned(),
            sid: sid.to_owned(),
            iat: seconds(now),
            exp: seconds(now + self.ttl),
            admin,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .expect("claims of text and numbers can be written as JSON")
    }

    /// What a token says; `None`: not signed by this key, run out, or no token at all.
    #[must_use]
    pub fn read(&self, token: &str) -> Option<Claims> {
        let read = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation);
        read.ok().map(|data| data.claims)
    }
}

/// Whether a text has the shape of a JWT, valid or not; a password would have to be made to look like one.
#[must_use]
pub fn looks_like_jwt(text: &str) -> bool {
    text.split('.').count() == 3 && jsonwebtoken::decode_header(text).is_ok()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// `{login id}.{secret}`, what a client exchanges for the next pair of tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken {
    login: String,
    secret: String,
}

impl RefreshToken {
    /// A token with a new secret.
    #[must_use]
    pub fn new(login: String) -> Self {
        RefreshToken {
            login,
            secret: random_hex(),
        }
    }

    /// Reads what a client sent; `None`: not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (login, secret) = text.split_once('.')?;
        Some(RefreshToken {
            login: login.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The login that it belongs to.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// What the database keeps. The secret has 256 random bits, so that a fast hash is enough.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.secret.as_bytes()).to_vec()
    }
}

impl fmt::Display for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.login, self.secret)
    }
}

/// The id of a new login: 128 random bits.
#[must_use]
pub fn login_id() -> String {
    let mut id = random_hex();
    id.truncate(32);
    id
}

/// 256 random bits as hexadecimal digits.
#[must_use]
pub fn random_hex() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64 random bits.
#[must_use]
pub fn random() -> u64 {
    getrandom::u64().expect("the operating system gives random bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn an_access_token_is_read_back_until_it_runs_out() {
        let tokens = AccessTokens::new(KEY, Duration::from_secs(60));
        let now = SystemTime::now();
        let token = tokens.issue("alice", "login", false, now);
        let claims = tokens.read(&token).unwrap();
        assert_eq!(
            (claims.sub.as_str(), claims.sid.as_str()),
            ("alice", "login")
        );
        assert!(!claims.admin && claims.expires_at() <= now + Duration::from_secs(60));
        assert!(
            tokens
                .read(&tokens.issue("alice", "l", true, now))
                .unwrap()
                .admin
        );

        let old = tokens.issue("alice", "login", false, now - Duration::from_secs(61));
        assert_eq!(tokens.read(&old), None);
        let other = AccessTokens::new(b"another key of thirty-two bytes!", tokens.ttl());
        assert_eq!(other.read(&token), None);
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let tokens = AccessTokens::new(KEY, Duration::from_secs(60));
        // {"alg":"none"} . {"sub":"alice","sid":"x","iat":0,"exp":9999999999}
        let forged = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsInNpZCI6IngiLCJpYXQiOjAsImV4cCI6OTk5OTk5OTk5OX0.";
        assert_eq!(tokens.read(forged), None);
    }

    #[test]
    fn a_jwt_is_told_from_a_password() {
        let tokens = AccessTokens::new(KEY, Duration::from_secs(60));
        assert!(looks_like_jwt(&tokens.issue(
            "a",
            "b",
            false,
            SystemTime::now()
        )));
        for password in ["", "secret", "a.b.c", "..", "first.second.third"] {
            assert!(!looks_like_jwt(password), "{password}");
        }
    }

    #[test]
    fn a_refresh_token_is_read_back() {
        let token = RefreshToken::new(login_id());
        let read = RefreshToken::parse(&token.to_string()).unwrap();
        assert!(read == token && read.login().len() == 32);
        assert_eq!(read.hash(), token.hash());
        assert_ne!(RefreshToken::new(login_id()).hash(), token.hash());
        assert!(RefreshToken::parse("nonsense").is_none());
    }
}
