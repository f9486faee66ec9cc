//! What must hold for any bytes from the network. `fuzz/` looks for bytes for which it does not: `cargo +nightly fuzz run
//! codec` in this crate's folder. A test calls the same functions with `fuzz/corpus/`, where inputs that have found
//! something stay, under a name that says what.

mod session;

use bytes::BytesMut;

use crate::codec::{DecodeError, Packet, Version, decode, decode_connect};

pub use session::session;

/// Longest packet taken, in bytes.
const PACKET_MAX: usize = 64 * 1024;

/// A stream of packets means the same however it is cut into pieces; and what was understood can be written, in the size
/// that was foretold, and is read again as the same.
///
/// The first byte chooses: its lowest bit the version (0: MQTT 3.1.1), the next one whether the stream begins with
/// CONNECT, the others the size of the pieces.
pub fn codec(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else {
        return;
    };
    let version = match choice & 1 {
        0 => Version::V4,
        _ => Version::V5,
    };
    let reader = Reader {
        version,
        is_beginning: choice & 2 != 0,
    };
    let whole = reader.read(stream.chunks(stream.len().max(1)));
    let pieces = reader.read(stream.chunks(1 + usize::from(choice >> 2)));
    assert_eq!(whole.packets, pieces.packets, "cut into pieces");
    assert_eq!(whole.error.is_some(), pieces.error.is_some());
    for (version, packet) in &whole.packets {
        check_round_trip(*version, packet);
    }
}

fn check_round_trip(version: Version, packet: &Packet) {
    let mut bytes = BytesMut::new();
    packet.encode(version, &mut bytes);
    assert_eq!(bytes.len(), packet.size(version), "size of {packet:?}");
    let again = decode(version, &mut bytes, usize::MAX);
    assert_eq!(again.as_ref(), Ok(&Some(packet.clone())), "read again");
    assert!(bytes.is_empty(), "more than {packet:?}");
}

/// Reads a stream as a connection does.
#[derive(Clone, Copy)]
struct Reader {
    version: Version,
    /// Whether the first packet has to be CONNECT.
    is_beginning: bool,
}

/// The packets of a stream, each with the version that it is in, and what ended it.
#[derive(Default)]
struct Read {
    packets: Vec<(Version, Packet)>,
    error: Option<DecodeError>,
}

impl Reader {
    fn read<'a>(mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Read {
        let mut read = Read::default();
        let mut buf = BytesMut::new();
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match self.next(&mut buf) {
                    Ok(Some(packet)) => read.packets.push((self.version, packet)),
                    Ok(None) => break,
                    Err(error) => {
                        read.error = Some(error);
                        return read;
                    }
                }
            }
        }
        read
    }

    fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        if !self.is_beginning {
            return decode(self.version, buf, PACKET_MAX);
        }
        let connect = decode_connect(buf, PACKET_MAX)?;
        Ok(connect.map(|connect| {
            self.is_beginning = false;
            self.version = connect.version;
            Packet::Connect(Box::new(connect))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Calls `check` with each input of a target; a failure tells which.
    fn replay(target: &str, check: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let mut count = 0;
        for input in fs::read_dir(corpus.join(target)).unwrap() {
            let path = input.unwrap().path();
            println!("{}", path.display());
            check(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no inputs for {target}");
    }

    #[test]
    fn the_codec_withstands_its_corpus() {
        replay("codec", codec);
    }

    #[test]
    fn the_session_withstands_its_corpus() {
        replay("session", session);
    }
}
