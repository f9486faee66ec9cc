//! Passwords, kept as Argon2id hashes.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a password may wait for its turn. A client that waited longer has given up by itself.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);

/// Too many passwords are waiting to be checked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many passwords are waiting to be checked")]
pub struct Busy;

/// Hashes and verifies passwords, one per core at a time: each takes 19 MiB and some 20 ms of a core.
#[derive(Clone, Debug)]
pub struct Passwords {
    cores: Arc<Semaphore>,
    /// The hash of nobody's password, for uids that don't exist.
    decoy: Arc<str>,
}

impl Passwords {
    /// # Errors
    /// [`Busy`] when the very first hash could not be made.
    pub async fn new() -> Result<Self, Busy> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut passwords = Passwords {
            cores: Arc::new(Semaphore::new(cores)),
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
        self.run(move || {
            let hash = Argon2::default().hash_password(&password);
            hash.expect("the default parameters are valid").to_string()
        })
        .await
    }

    /// Whether a password is the one that was hashed. Without a hash the answer is no, and takes as long.
    ///
    /// # Errors
    /// [`Busy`] when it had to wait for too long.
    pub async fn verify(&self, password: Vec<u8>, hash: Option<String>) -> Result<bool, Busy> {
        let decoy = Arc::clone(&self.decoy);
        self.run(move || {
            let is_known = hash.is_some();
            let is_right = matches(&password, hash.as_deref().unwrap_or(&decoy));
            is_known && is_right
        })
        .await
    }

    /// Runs `work` off the async threads. It holds its permit to the end even if nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let permit = self.permit().await?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        task.await.map_err(|_| Busy)
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Busy> {
        let turn = Arc::clone(&self.cores).acquire_owned();
        match tokio::time::timeout(QUEUE_TIMEOUT, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Busy),
        }
    }
}

fn matches(password: &[u8], hash: &str) -> bool {
    match PasswordHash::new(hash) {
        Ok(hash) => Argon2::default().verify_password(password, &hash).is_ok(),
        Err(error) => {
            tracing::error!(%error, "a stored password hash is damaged");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_matches() {
        let passwords = Passwords::new().await.unwrap();
        let hash = passwords.hash(b"correct horse".to_vec()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        for (password, hash, right) in [
            ("correct horse", Some(hash.clone()), true),
            ("correct horsf", Some(hash), false),
            ("correct horse", None, false),
            ("correct horse", Some("damaged".to_owned()), false),
        ] {
            let verified = passwords.verify(password.into(), hash).await.unwrap();
            assert_eq!(verified, right);
        }
    }
}
