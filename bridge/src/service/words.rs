//! The operator's word filter: what may not be written, what is masked, and what administrators get to see.
//!
//! Reading order: [`Words`] (the list in use, which can be replaced while messages come in), `list` (its file, and how
//! it is found in a text), `texts` (what of a command is readable text).

mod list;
mod texts;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use schema::v1;
use tracing::{error, info};

use self::list::{Findings, List};
use super::refused::Refused;
use crate::store::chain;

/// The largest file, in bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// How often the file is looked at. A change is taken when it was the same twice.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("the list of words can't be read")]
    Read(#[from] io::Error),
    /// The file is larger than 1 MiB, or has more than 50,000 entries.
    #[error("the list of words has more than 1 MiB or 50,000 entries")]
    TooLarge,
    /// It is no text.
    #[error("the list of words is not UTF-8")]
    Encoding(#[from] std::str::Utf8Error),
    /// A line that is not understood.
    #[error("line {number} of the list of words: {reason}")]
    Line {
        /// From 1.
        number: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The words are too many to be looked for together.
    #[error("the list of words can't be prepared")]
    Build(#[from] aho_corasick::BuildError),
}

/// The filter; without a file it does nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Words(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    list: RwLock<Arc<List>>,
    counts: Counts,
}

/// How many commands each action has met.
#[derive(Debug, Default)]
struct Counts {
    rejected: AtomicU64,
    masked: AtomicU64,
    flagged: AtomicU64,
}

/// What tells one version of a file from the next.
type Fingerprint = Option<(u64, SystemTime)>;

impl Words {
    /// The filter of that file; an empty path: none. Nothing is looked for before [`Words::reload`].
    #[must_use]
    pub fn of_file(file: &Path) -> Self {
        let is_set = !file.as_os_str().is_empty();
        Words(is_set.then(|| {
            Arc::new(Inner {
                file: file.to_owned(),
                list: RwLock::default(),
                counts: Counts::default(),
            })
        }))
    }

    /// Reads the file, and takes its list from now on; returns how many entries it has.
    ///
    /// # Errors
    /// [`Error`]; the list stays what it was.
    pub fn reload(&self) -> Result<usize, Error> {
        let Some(inner) = &self.0 else { return Ok(0) };
        let list = List::parse(&read(&inner.file)?)?;
        let count = list.len();
        *inner.list.write() = Arc::new(list);
        Ok(count)
    }

    /// Looks at the file for ever, and takes it when it has changed. What can't be used is logged.
    pub async fn follow_file(self) {
        let Some(inner) = self.0.clone() else { return };
        let mut known = fingerprint(&inner.file);
        let mut last = known;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = fingerprint(&inner.file);
            let is_settled = std::mem::replace(&mut last, now) == now;
            if !is_settled || now == known {
                continue;
            }
            known = now;
            let words = self.clone();
            // It takes a while to prepare many words.
            let _ = tokio::task::spawn_blocking(move || words.reload_and_log()).await;
        }
    }

    /// [`Words::reload`] for who can't be told what is wrong.
    pub fn reload_and_log(&self) {
        match self.reload() {
            Ok(count) if self.0.is_some() => info!(count, "the list of words was read"),
            Ok(_) => {}
            Err(error) => error!(error = %chain(&error), "the old list of words stays in use"),
        }
    }

    /// Masks what is to be masked in the command's texts; returns the words that administrators are to see it for.
    ///
    /// # Errors
    /// A refusal, where one of the texts holds a word that may not be written.
    pub fn apply(&self, up: &mut v1::Up) -> Result<Option<Box<str>>, Refused> {
        let (Some(inner), Some(command)) = (&self.0, &mut up.command) else {
            return Ok(None);
        };
        let list = inner.list.read().clone();
        let mut findings = Findings::default();
        for text in texts::of(command) {
            list.look_through(text, &mut findings);
        }
        inner.count(&findings);
        if findings.is_rejected {
            let reason = "it contains a word that is not allowed here";
            return Err(Refused::invalid(reason));
        }
        Ok(findings.flagged())
    }

    /// How many commands were refused, changed and marked.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let count = |pick: fn(&Counts) -> &AtomicU64| {
            let counts = self.0.as_ref().map(|inner| &inner.counts);
            counts.map_or(0, |counts| pick(counts).load(Ordering::Relaxed))
        };
        [
            ("reject", count(|counts| &counts.rejected)),
            ("mask", count(|counts| &counts.masked)),
            ("flag", count(|counts| &counts.flagged)),
        ]
    }
}

impl Inner {
    fn count(&self, findings: &Findings<'_>) {
        for (has_found, count) in [
            (findings.is_rejected, &self.counts.rejected),
            (findings.has_masked, &self.counts.masked),
            (!findings.flagged.is_empty(), &self.counts.flagged),
        ] {
            if has_found {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(file)?.take(FILE_MAX + 1);
    if file.read_to_end(&mut bytes)? as u64 > FILE_MAX {
        return Err(Error::TooLarge);
    }
    Ok(bytes)
}

fn fingerprint(file: &Path) -> Fingerprint {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

#[cfg(test)]
mod tests {
    use schema::v1::{send, up};

    use super::*;

    fn send(text: &str) -> v1::Up {
        v1::Up {
            client_msg_id: String::new(),
            command: Some(up::Command::Send(v1::Send {
                content: Some(send::Content::Text(text.to_owned())),
                ..Default::default()
            })),
        }
    }

    #[test]
    fn a_file_that_can_not_be_used_leaves_the_list_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("words");
        let words = Words::of_file(&file);
        assert!(matches!(words.reload(), Err(Error::Read(_))));
        std::fs::write(&file, "bad\nodd\tflag\nrude\tmask\n").unwrap();
        assert_eq!(words.reload().unwrap(), 3);
        for broken in [
            &b"good\tforbid"[..],
            b"\xff",
            b"\tmask",
            &vec![b'\n'; FILE_MAX as usize + 1],
        ] {
            std::fs::write(&file, broken).unwrap();
            words.reload().unwrap_err();
        }
        let refused = words.apply(&mut send("so bad")).unwrap_err();
        assert!(!refused.reason.contains("bad"), "{refused}");
        let mut up = send("rude and odd");
        assert_eq!(words.apply(&mut up).unwrap().as_deref(), Some("odd"));
        assert_eq!(up, send("**** and odd"));
        assert_eq!(words.counts(), [("reject", 1), ("mask", 1), ("flag", 1)]);
    }

    #[test]
    fn without_a_file_nothing_is_looked_for() {
        let words = Words::of_file(Path::new(""));
        assert_eq!(words.reload().unwrap(), 0);
        assert_eq!(words.apply(&mut send("bad")).unwrap(), None);
    }
}
