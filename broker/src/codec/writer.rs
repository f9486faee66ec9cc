//! Writes packets. Each packet is described once and run twice: to be measured, because its
//! length stands before it, and to be written.

use bytes::{BufMut, BytesMut};

use super::{VARINT_MAX, Version, varint};

/// Where the fields of a packet go: a buffer, or a [`Size`] that only counts.
pub(super) trait Sink {
    /// Takes `bytes` as they are.
    fn raw(&mut self, bytes: &[u8]);

    /// A byte.
    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// A two byte integer.
    fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    /// A four byte integer.
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// A variable byte integer.
    fn varint(&mut self, value: u32) {
        let (bytes, len) = varint::write(value);
        self.raw(&bytes[..len]);
    }

    /// Binary data behind its length, cut at 65,535 bytes: a length of two bytes cannot say more,
    /// and a wrong length would make the peer misread all that follows.
    fn binary(&mut self, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len);
        self.raw(&bytes[..usize::from(len)]);
    }

    /// A string behind its length, cut at the last character that ends within 65,535 bytes.
    fn string(&mut self, text: &str) {
        let end = text.floor_char_boundary(usize::from(u16::MAX));
        self.binary(&text.as_bytes()[..end]);
    }

    /// A string that names something (topic, filter, client id), so that cutting it would change
    /// its meaning. Being too long is a bug of the caller.
    fn name(&mut self, text: &str) {
        debug_assert!(
            text.len() <= usize::from(u16::MAX),
            "name is over 65,535 bytes"
        );
        self.string(text);
    }
}

impl Sink for BytesMut {
    fn raw(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

/// Counts bytes instead of storing them.
pub(super) struct Size(pub(super) usize);

impl Sink for Size {
    fn raw(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// A packet that can be written.
pub(super) trait Encode {
    /// The first byte: packet type and flags.
    fn first_byte(&self) -> u8;

    /// All that follows the fixed header, except a trailing payload.
    fn write_body<S: Sink>(&self, version: Version, out: &mut S);
}

/// The size of the whole packet in bytes when `payload_len` bytes follow its body.
pub(super) fn size(packet: &impl Encode, version: Version, payload_len: usize) -> usize {
    let remaining = body_size(packet, version) + payload_len;
    1 + varint::write(saturate(remaining)).1 + remaining
}

/// Appends the whole packet to `out`, with `payload` after its body.
///
/// A packet that the four byte length cannot express (256 MiB) is a bug of the caller; it is left
/// out, for a wrong length would make the peer misread all that follows.
pub(super) fn encode(packet: &impl Encode, version: Version, payload: &[u8], out: &mut BytesMut) {
    let remaining = body_size(packet, version) + payload.len();
    let fits = remaining <= VARINT_MAX as usize;
    debug_assert!(fits, "packet is over 268,435,455 bytes");
    if !fits {
        return;
    }
    out.reserve(1 + 4 + remaining);
    out.u8(packet.first_byte());
    out.varint(saturate(remaining));
    packet.write_body(version, out);
    out.raw(payload);
}

fn body_size(packet: &impl Encode, version: Version) -> usize {
    let mut size = Size(0);
    packet.write_body(version, &mut size);
    size.0
}

/// A length as a variable byte integer takes it; longer ones never reach the wire.
pub(super) fn saturate(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
