//! COMMITs that PostgreSQL carries out, and of which its client never hears.

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Result, bail};

/// How a client ends a transaction.
const COMMIT: &[u8] = b"COMMIT";

/// What is watched for, on all connections of a proxy.
#[derive(Default)]
pub(super) struct Commits {
    watch: Mutex<Watch>,
}

#[derive(Default)]
struct Watch {
    /// The first transaction with it takes it away.
    word: Option<Vec<u8>>,
    swallowed: u32,
}

/// One connection's place in that.
pub(super) struct Tap {
    commits: Arc<Commits>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// How many of the word and the COMMIT behind it were said.
    found: usize,
    /// The last bytes, since what is looked for may come in two parts.
    said: Vec<u8>,
}

impl Commits {
    pub(super) fn watch_for(&self, word: &str) {
        lock(&self.watch).word = Some(word.into());
    }

    pub(super) fn swallowed(&self) -> u32 {
        lock(&self.watch).swallowed
    }
}

impl Tap {
    pub(super) fn new(commits: Arc<Commits>) -> Self {
        Tap {
            commits,
            heard: Mutex::default(),
        }
    }

    /// The client says this, and the server has not heard it yet.
    pub(super) fn said(&self, bytes: &[u8]) {
        let mut watch = lock(&self.commits.watch);
        let Some(word) = watch.word.clone() else {
            return;
        };
        let mut heard = lock(&self.heard);
        heard.said.extend(bytes);
        for wanted in [&word, COMMIT].into_iter().skip(heard.found) {
            let at = heard.said.windows(wanted.len()).position(|it| it == wanted);
            let Some(at) = at else {
                let passed = (heard.said.len() + 1).saturating_sub(wanted.len());
                heard.said.drain(..passed);
                return;
            };
            heard.said.drain(..at + wanted.len());
            heard.found += 1;
        }
        watch.word = None;
        watch.swallowed += 1;
    }

    /// The server answers.
    pub(super) fn answered(&self) -> Result<()> {
        if lock(&self.heard).found == 2 {
            bail!("the answer to a COMMIT is swallowed");
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}
