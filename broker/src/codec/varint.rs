//! The variable byte integer: seven bits a byte, lowest first (MQTT 5: 1.5.5, 3.1.1: 2.2.3).

use super::DecodeError;

/// The largest variable byte integer, thus also the longest body of a packet in bytes.
pub const VARINT_MAX: u32 = 268_435_455;

/// Reads the integer at the front of `bytes` and returns it with its length in bytes; `None` if
/// its end has not arrived yet.
///
/// # Errors
/// Malformed if it takes a fifth byte, or more bytes than needed [MQTT-1.5.5-1].
pub(super) fn read(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let is_padded = *byte == 0 && index > 0;
            return if is_padded {
                Err(DecodeError::Malformed("variable byte integer is padded"))
            } else {
                Ok(Some((value, index + 1)))
            };
        }
    }
    if bytes.len() < 4 {
        return Ok(None);
    }
    Err(DecodeError::Malformed("variable byte integer is too long"))
}

/// The shortest form of `value`: its bytes and how many of them count. A value over
/// [`VARINT_MAX`] is taken for [`VARINT_MAX`], so that the bytes stay well-formed.
pub(super) fn write(value: u32) -> ([u8; 4], usize) {
    let mut rest = value.min(VARINT_MAX);
    let mut bytes = [0; 4];
    let mut len = 0;
    loop {
        bytes[len] = (rest & 0x7F) as u8;
        rest >>= 7;
        if rest == 0 {
            return (bytes, len + 1);
        }
        bytes[len] |= 0x80;
        len += 1;
    }
}
