//! Reads the fields of a packet from its body.

use std::num::NonZeroU16;

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::{DecodeError, varint};

const ENDS_EARLY: DecodeError = DecodeError::Malformed("a field ends beyond its packet");

/// A cursor over a packet body. What it hands out are slices of the body, not copies.
pub(super) struct Reader(Bytes);

impl Reader {
    /// Reads from the start of `body`.
    pub(super) fn new(body: Bytes) -> Self {
        Self(body)
    }

    /// Whether all bytes have been read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| ENDS_EARLY)
    }

    /// A two byte integer (MQTT 1.5.2).
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.0.try_get_u16().map_err(|_| ENDS_EARLY)
    }

    /// A four byte integer (MQTT 1.5.3).
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.try_get_u32().map_err(|_| ENDS_EARLY)
    }

    /// A variable byte integer (MQTT 1.5.5).
    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let (value, len) = varint::read(&self.0)?.ok_or(ENDS_EARLY)?;
        self.0.advance(len);
        Ok(value)
    }

    /// A packet identifier; [MQTT-2.2.1-3] zero is none.
    pub(super) fn packet_id(&mut self) -> Result<NonZeroU16, DecodeError> {
        NonZeroU16::new(self.u16()?).ok_or(DecodeError::Protocol("packet identifier is 0"))
    }

    /// Binary data with its two byte length (MQTT 1.5.6).
    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A string with its two byte length (MQTT 1.5.4).
    pub(super) fn string(&mut self) -> Result<ByteString, DecodeError> {
        // [MQTT-1.5.4-1] Ill-formed UTF-8 is malformed; Rust's check also refuses surrogates.
        let text = ByteString::try_from(self.binary()?)
            .map_err(|_| DecodeError::Malformed("string is not utf-8"))?;
        // [MQTT-1.5.4-2] U+0000 is malformed; other control characters may be there.
        if text.as_bytes().contains(&0) {
            return Err(DecodeError::Malformed("string contains u+0000"));
        }
        Ok(text)
    }

    /// A reader of the next `len` bytes, which this one skips.
    pub(super) fn section(&mut self, len: usize) -> Result<Self, DecodeError> {
        self.take(len).map(Self)
    }

    /// All bytes that are left.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    /// Ends a packet: nothing may be left.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed("bytes after the end of the packet"))
        }
    }

    fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if self.0.len() < len {
            return Err(ENDS_EARLY);
        }
        Ok(self.0.split_to(len))
    }
}
