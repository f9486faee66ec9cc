//! What a message's content begins with: its number and when it was due. Hexadecimal, so that it is also a text.

/// Bytes of a stamp.
pub(super) const SIZE: usize = NUMBER_SIZE + TIME_SIZE;
/// Digits of a number; also of the `client_msg_id` that is made from it.
pub(super) const NUMBER_SIZE: usize = 8;
/// Digits of a time.
pub(super) const TIME_SIZE: usize = 16;

/// Says which message this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// 1, 2, 3 … per sender.
    pub number: u32,
    /// When it was due, in nanoseconds of the run's clock.
    pub due: u64,
}

impl Stamp {
    /// Reads the stamp at the beginning of a content.
    pub(super) fn read(content: &[u8]) -> Option<Stamp> {
        let (number, rest) = content.split_at_checked(NUMBER_SIZE)?;
        let (due, _) = rest.split_at_checked(TIME_SIZE)?;
        Some(Stamp {
            number: read_number(number)?,
            due: read_hex(due)?,
        })
    }
}

/// Reads a number, for instance of a `client_msg_id`.
pub(super) fn read_number(digits: &[u8]) -> Option<u32> {
    u32::try_from(read_hex(digits)?).ok()
}

/// Fills `digits` with the lowest digits of `value`.
pub(super) fn put_hex(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let mut content = [b'x'; SIZE + 3];
        put_hex(&mut content[..NUMBER_SIZE], 0xdead_beef);
        put_hex(&mut content[NUMBER_SIZE..SIZE], 1_234_567_890_123);
        let stamp = Stamp {
            number: 0xdead_beef,
            due: 1_234_567_890_123,
        };
        assert_eq!(Stamp::read(&content), Some(stamp));
        assert_eq!(Stamp::read(&content[..SIZE]), Some(stamp));
        assert_eq!(Stamp::read(&content[..SIZE - 1]), None);
        assert_eq!(Stamp::read(&[b'x'; SIZE]), None);
    }
}
