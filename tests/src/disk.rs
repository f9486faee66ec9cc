//! A disk that is small enough to be filled.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A tmpfs on a folder; unmounted when dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// One of so many MiB; `None` when this user may not mount.
    pub fn mount(path: &Path, mib: u32) -> Result<Option<Self>> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(path)
            .output()
            .context("starting mount")?;
        let path = path.to_owned();
        Ok(mounted.status.success().then_some(SmallDisk { path }))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a server that has just been killed may still have it open.
        let umount = Command::new("umount").arg("-l").arg(&self.path).status();
        if let Err(error) = umount {
            eprintln!("{} stays mounted: {error}", self.path.display());
        }
    }
}

/// Writes a file until the disk of `folder` has nothing left; returns its path.
pub fn fill(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("filler");
    let mut filler = File::create(&path)?;
    for block in [1 << 16, 1] {
        let block = vec![0; block];
        loop {
            match filler.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(path)
}
