//! Passwords, kept as Argon2id hashes.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::password_hash::{self, phc};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::chain;

/// How long a password may wait for its turn. Shorter than `mqtt.connect_timeout` by default, so that an overloaded
/// server says so in its CONNACK.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(8);
/// Bytes of a hash, and so of [`Output`].
const HASH_BYTES: usize = Params::DEFAULT_OUTPUT_LEN;

/// Too many passwords are waiting to be checked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many passwords are waiting to be checked")]
pub struct Busy;

/// Why a stored hash can't be compared with anything.
#[derive(Debug, thiserror::Error)]
enum Damaged {
    #[error("it is not in PHC form")]
    Form(#[from] phc::Error),
    #[error("it is not Argon2's")]
    Algorithm(#[from] password_hash::Error),
    #[error("it can't be computed")]
    Parameters(#[from] argon2::Error),
    #[error("it has no salt, no hash, or needs more memory than ours do")]
    Content,
}

/// The right to use a core for one password.
pub type Turn = OwnedSemaphorePermit;

/// What Argon2 works in: 19 MiB, kept from one password to the next. Given back to the allocator after each, they would
/// stay with as many threads as have ever hashed.
type Memory = Vec<Block>;

/// Hashes and verifies passwords, one per core at a time: each takes 19 MiB and some 20 ms of a core.
#[derive(Clone, Debug)]
pub struct Passwords {
    /// One permit per core.
    turns: Arc<Semaphore>,
    /// Those that are not in use. There are never more than permits.
    memories: Arc<Mutex<Vec<Memory>>>,
    patience: Duration,
    /// The hash of nobody's password, for uids that don't exist.
    decoy: Arc<str>,
}

impl Passwords {
    /// # Errors
    /// [`Busy`] when the very first hash could not be made.
    pub async fn new() -> Result<Self, Busy> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_limits(cores, QUEUE_TIMEOUT).await
    }

    async fn with_limits(cores: usize, patience: Duration) -> Result<Self, Busy> {
        let mut passwords = Passwords {
            turns: Arc::new(Semaphore::new(cores)),
            memories: Arc::default(),
            patience,
            decoy: "".into(),
        };
        let nobodys = super::token::random_hex();
        passwords.decoy = passwords.hash(nobodys.into_bytes()).await?.into();
        Ok(passwords)
    }

    /// The hash of a new password, in PHC form.
    ///
    /// # Errors
    /// [`Busy`] when it had to wait for too long.
    pub async fn hash(&self, password: Vec<u8>) -> Result<String, Busy> {
        let turn = self.turn().await?;
        self.run(turn, move |memory| {
            let hash = hash(&password, memory);
            hash.expect("the default parameters are valid").to_string()
        })
        .await
    }

    /// Waits until a password can be verified.
    ///
    /// # Errors
    /// [`Busy`] when it had to wait for too long.
    pub async fn turn(&self) -> Result<Turn, Busy> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        match tokio::time::timeout(self.patience, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Busy),
        }
    }

    /// Whether a password is the one that was hashed. Without a hash the answer is no, and takes as long.
    ///
    /// # Errors
    /// [`Busy`] when it could not be computed.
    pub async fn verify(
        &self,
        turn: Turn,
        password: Vec<u8>,
        hash: Option<String>,
    ) -> Result<bool, Busy> {
        let decoy = Arc::clone(&self.decoy);
        self.run(turn, move |memory| {
            let is_known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(&decoy);
            let is_right = matches(&password, hash, memory).unwrap_or_else(|error| {
                tracing::error!(error = %chain(&error), "a stored password hash is damaged");
                false
            });
            is_known && is_right
        })
        .await
    }

    /// Runs `work` off the async threads. It holds its turn to the end even if nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let memories = Arc::clone(&self.memories);
        let task = tokio::task::spawn_blocking(move || {
            let mut memory = memories.lock().pop().unwrap_or_default();
            let result = work(&mut memory);
            memories.lock().push(memory);
            drop(turn);
            result
        });
        task.await.map_err(|_| Busy)
    }
}

fn hash(password: &[u8], memory: &mut Memory) -> Result<PasswordHash, Damaged> {
    let (algorithm, version) = (Algorithm::default(), Version::default());
    let salt = Salt::generate();
    let mut hash = [0; HASH_BYTES];
    let argon2 = Argon2::new(algorithm, version, Params::DEFAULT);
    fill(&argon2, password, &salt, &mut hash, memory)?;
    Ok(PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: (&Params::DEFAULT).try_into()?,
        salt: Some(salt),
        hash: Some(Output::new(&hash)?),
    })
}

fn matches(password: &[u8], hash: &str, memory: &mut Memory) -> Result<bool, Damaged> {
    let stored = PasswordHash::new(hash)?;
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
        return Err(Damaged::Content);
    };
    let version = stored.version.map(Version::try_from).transpose()?;
    let argon2 = Argon2::new(
        Algorithm::new(stored.algorithm)?,
        version.unwrap_or_default(),
        Params::try_from(&stored)?,
    );
    let mut hash = [0; Output::MAX_LENGTH];
    let hash = hash.get_mut(..expected.len()).ok_or(Damaged::Content)?;
    fill(&argon2, password, salt, hash, memory)?;
    // The comparison of two `Output`s takes the same time wherever they differ.
    Ok(Output::new(hash)? == *expected)
}

fn fill(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
    hash: &mut [u8],
    memory: &mut Memory,
) -> Result<(), Damaged> {
    let ours = Params::DEFAULT.block_count();
    if argon2.params().block_count() > ours {
        return Err(Damaged::Content);
    }
    memory.resize(ours, Block::new());
    Ok(argon2.hash_password_into_with_memory(password, salt, hash, memory)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_matches() {
        let passwords = Passwords::new().await.unwrap();
        let hash = passwords.hash(b"correct horse".to_vec()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let greedy = hash.replace("m=19456", "m=4000000000");
        for (password, hash, right) in [
            ("correct horse", Some(hash.clone()), true),
            ("correct horsf", Some(hash), false),
            ("correct horse", None, false),
            ("correct horse", Some("damaged".to_owned()), false),
            ("correct horse", Some(greedy), false),
        ] {
            let turn = passwords.turn().await.unwrap();
            let verified = passwords.verify(turn, password.into(), hash).await;
            let verified = verified.unwrap();
            assert_eq!(verified, right);
        }
    }

    /// By the crate's own way, with memory of its own.
    #[test]
    fn the_hashes_are_argon2s() {
        use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

        // Whatever an earlier password has left there.
        let mut memory = vec![Block::new(); 3];
        for password in [b"correct horse".as_slice(), b"battery staple"] {
            let ours = hash(password, &mut memory).unwrap();
            Argon2::default().verify_password(password, &ours).unwrap();
            let theirs = Argon2::default().hash_password(password).unwrap();
            assert!(matches(password, &theirs.to_string(), &mut memory).unwrap());
        }
    }

    #[tokio::test]
    async fn many_passwords_share_little_memory() {
        let passwords = Passwords::with_limits(2, QUEUE_TIMEOUT).await.unwrap();
        let mut hashing = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let passwords = passwords.clone();
            hashing.spawn(async move { passwords.hash(b"correct horse".to_vec()).await });
        }
        while let Some(hashed) = hashing.join_next().await {
            hashed.unwrap().unwrap();
        }
        assert!(passwords.memories.lock().len() <= 2);
    }

    #[tokio::test]
    async fn a_password_that_waits_for_too_long_is_told_so() {
        let passwords = Passwords::with_limits(1, Duration::from_millis(50)).await;
        let passwords = passwords.unwrap();
        let turn = passwords.turn().await.unwrap();
        assert!(matches!(passwords.turn().await, Err(Busy)));
        drop(turn);
        passwords.hash(b"correct horse".to_vec()).await.unwrap();
    }
}
