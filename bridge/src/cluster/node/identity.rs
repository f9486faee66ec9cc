//! By what a node knows itself when it is started anew after it was killed: a file in the data folder, which is locked as long
//! as the process lives. Where there is none, the node is a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use tracing::debug;

/// Its name.
const FILE: &str = "node";

/// The open file.
#[derive(Debug)]
pub(super) struct Identity(File);

impl Identity {
    /// `None`: another process has it, or there can't be one.
    pub(super) fn open(data_dir: &Path) -> Option<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(data_dir.join(FILE)).ok()?;
        file.try_lock().ok()?;
        Some(Identity(file))
    }

    /// The `boot` of the process that had it before.
    pub(super) fn boot(&mut self) -> Option<String> {
        let mut boot = String::new();
        self.0.read_to_string(&mut boot).ok()?;
        let boot = boot.trim();
        (!boot.is_empty()).then(|| boot.to_owned())
    }

    /// This process has it now.
    pub(super) fn note(&mut self, boot: &str) {
        if let Err(error) = self.write(boot) {
            debug!(%error, "the node will not know itself when it is started anew");
        }
    }

    fn write(&mut self, boot: &str) -> io::Result<()> {
        self.0.rewind()?;
        self.0.set_len(0)?;
        writeln!(self.0, "{boot}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Identity::open(folder.path()).unwrap();
        assert_eq!(first.boot(), None);
        first.note("a longer one");
        first.note("a");
        assert!(Identity::open(folder.path()).is_none());
        drop(first);
        let mut second = Identity::open(folder.path()).unwrap();
        assert_eq!(second.boot().as_deref(), Some("a"));
        assert!(Identity::open(&folder.path().join("nowhere")).is_none());
    }
}
