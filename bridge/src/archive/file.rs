//! How an object looks: `TDAR`, a version, the SHA-256 of all that follows, and a [`Run`] as protobuf in zstd.

use prost::Message as _;
use schema::archive::Run;
use sha2::{Digest as _, Sha256};
use zstd::zstd_safe;

const MAGIC: &[u8; 4] = b"TDAR";
/// The only version so far. Another one would be for what an older reader must not misread.
const VERSION: u8 = 1;
const CHECKSUM: usize = 32;
const HEADER: usize = MAGIC.len() + 1 + CHECKSUM;
/// Writing happens once and seldom, reading often; higher levels gain little on texts.
const LEVEL: i32 = 6;
/// Unpacked, nothing larger is read: so much memory may whoever can write to the store have a node take.
const PLAIN_MAX: usize = 256 * 1024 * 1024;
/// Nothing larger is written, so that all that was written can be read. Runs are cut far below.
const WRITTEN_MAX: usize = PLAIN_MAX / 2;

/// Why an object can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    /// It was not written by this program.
    #[error("it does not begin as a file of messages")]
    Foreign,
    /// A newer program has written it.
    #[error("it has version {0}")]
    Version(u8),
    /// It was changed, or cut off.
    #[error("its checksum does not fit")]
    Checksum,
    /// It does not say how large it is unpacked, or it is too large.
    #[error("its size is not known, or too large")]
    Size,
    /// It can't be unpacked.
    #[error("it can't be unpacked")]
    Packed(#[source] std::io::Error),
    /// There is no run in it.
    #[error("it can't be decoded")]
    Content(#[source] prost::DecodeError),
    /// It does not hold what it was made of.
    #[error("it is not what was to be written")]
    Different,
}

/// A run is too large for an object: so many bytes.
#[derive(Debug, thiserror::Error)]
#[error("{0} bytes are too many for one object")]
pub struct TooLarge(usize);

/// The bytes of an object.
///
/// # Errors
/// [`TooLarge`].
pub fn encode(run: &Run) -> Result<Vec<u8>, TooLarge> {
    let size = run.encoded_len();
    if size > WRITTEN_MAX {
        return Err(TooLarge(size));
    }
    let packed = zstd::bulk::compress(&run.encode_to_vec(), LEVEL)
        .expect("memory is all that compressing needs");
    let mut bytes = Vec::with_capacity(HEADER + packed.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&Sha256::digest(&packed));
    bytes.extend_from_slice(&packed);
    Ok(bytes)
}

/// What is in an object, and how large it is unpacked.
///
/// # Errors
/// [`Damaged`].
pub fn decode(bytes: &[u8]) -> Result<(Run, usize), Damaged> {
    let (magic, rest) = bytes
        .split_at_checked(MAGIC.len())
        .ok_or(Damaged::Foreign)?;
    if magic != MAGIC {
        return Err(Damaged::Foreign);
    }
    let (version, rest) = rest.split_first().ok_or(Damaged::Checksum)?;
    if *version != VERSION {
        return Err(Damaged::Version(*version));
    }
    let (checksum, packed) = rest.split_at_checked(CHECKSUM).ok_or(Damaged::Checksum)?;
    if Sha256::digest(packed)[..] != *checksum {
        return Err(Damaged::Checksum);
    }
    // Exactly so much memory is taken, and kept by what is decoded from it.
    let size = plain_size(packed).ok_or(Damaged::Size)?;
    let plain = zstd::bulk::decompress(packed, size).map_err(Damaged::Packed)?;
    let size = plain.len();
    let run = Run::decode(bytes::Bytes::from(plain)).map_err(Damaged::Content)?;
    Ok((run, size))
}

/// How large it is unpacked, as it was noted when it was packed.
fn plain_size(packed: &[u8]) -> Option<usize> {
    let noted = zstd_safe::get_frame_content_size(packed).ok().flatten()?;
    let size = usize::try_from(noted).ok()?;
    (size <= PLAIN_MAX).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_says_why() {
        let good = encode(&Run {
            conversation: 5,
            ..Default::default()
        })
        .unwrap();
        assert_eq!(decode(&good).unwrap().0.conversation, 5);
        let mut newer = good.clone();
        newer[4] = 2;
        let mut odd = good.clone();
        odd[HEADER] ^= 1;
        let check = |bytes: &[u8]| match decode(bytes).unwrap_err() {
            Damaged::Foreign => "foreign",
            Damaged::Version(2) => "version",
            Damaged::Checksum => "checksum",
            other => panic!("{other}"),
        };
        for (bytes, why) in [
            (&b""[..], "foreign"),
            (b"TDA", "foreign"),
            (b"<html>", "foreign"),
            (&good[..5], "checksum"),
            (&good[..good.len() - 1], "checksum"),
            (&newer, "version"),
            (&odd, "checksum"),
        ] {
            assert_eq!(check(bytes), why);
        }
    }

    #[test]
    fn what_was_written_can_be_read_however_large_it_is() {
        for bytes in [0, 100, 65 * 1024 * 1024] {
            let run = Run {
                conversation: 0,
                messages: vec![schema::archive::Stored {
                    content: vec![0; bytes].into(),
                    ..Default::default()
                }],
            };
            let (read, size) = decode(&encode(&run).unwrap()).unwrap();
            assert!(read == run && size >= bytes, "{bytes}");
        }
        let nothing = Run::default();
        assert_eq!(decode(&encode(&nothing).unwrap()).unwrap(), (nothing, 0));
    }
}
