//! The key that signs access tokens.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::token;

/// The file in the data folder.
const FILE: &str = "jwt.key";

/// Reads the key from the data folder, where the first start makes one that only the owner may read.
///
/// # Errors
/// [`io::Error`] when the file can be neither read nor made, or is damaged.
pub fn load_or_create(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join(FILE);
    match create(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => created?,
    }
    let key = fs::read_to_string(&path)?.trim().to_owned();
    if key.len() < token::random_hex().len() {
        let damaged = format!("{} is damaged; remove it to get a new key", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
    }
    Ok(key)
}

fn create(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(token::random_hex().as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let key = load_or_create(folder.path()).unwrap();
        assert_eq!(load_or_create(folder.path()).unwrap(), key);
        let path = folder.path().join(FILE);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, "").unwrap();
        assert!(load_or_create(folder.path()).is_err());
    }
}
