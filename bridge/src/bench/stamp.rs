//! What a message's content begins with: which message it is and when it was due. Hexadecimal, so that it is also a text.

/// Bytes of a stamp.
pub(super) const SIZE: usize = TALK_SIZE + SENDER_SIZE + NUMBER_SIZE + TIME_SIZE;
/// Digits of a conversation.
pub(super) const TALK_SIZE: usize = 6;
/// Digits of a sender.
pub(super) const SENDER_SIZE: usize = 6;
/// Digits of a number.
pub(super) const NUMBER_SIZE: usize = 8;
/// Digits of a time: some days.
pub(super) const TIME_SIZE: usize = 12;

/// Says which message this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The index of its conversation among those of the run.
    pub talk: u32,
    /// The index of its sender among those of the conversation.
    pub sender: u32,
    /// 1, 2, 3 … per conversation and sender.
    pub number: u32,
    /// When it was due, in nanoseconds of the run's clock.
    pub due: u64,
}

/// Which of a sender's messages this is: what the `client_msg_id` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// See [`Stamp::talk`].
    pub talk: u32,
    /// See [`Stamp::number`].
    pub number: u32,
}

impl Stamp {
    /// Reads the stamp at the beginning of a content.
    pub(super) fn read(content: &[u8]) -> Option<Stamp> {
        let (talk, rest) = content.split_at_checked(TALK_SIZE)?;
        let (sender, rest) = rest.split_at_checked(SENDER_SIZE)?;
        let (number, rest) = rest.split_at_checked(NUMBER_SIZE)?;
        let (due, _) = rest.split_at_checked(TIME_SIZE)?;
        Some(Stamp {
            talk: read_number(talk)?,
            sender: read_number(sender)?,
            number: read_number(number)?,
            due: read_hex(due)?,
        })
    }
}

impl Mark {
    /// Reads a `client_msg_id`.
    pub(super) fn read(client_msg_id: &[u8]) -> Option<Mark> {
        let (talk, number) = client_msg_id.split_at_checked(TALK_SIZE)?;
        Some(Mark {
            talk: read_number(talk)?,
            number: read_number(number)?,
        })
    }
}

fn read_number(digits: &[u8]) -> Option<u32> {
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
        let stamp = Stamp {
            talk: 0xab_cdef,
            sender: 499,
            number: 0xdead_beef,
            due: 1_234_567_890_123,
        };
        let mut content = [b'x'; SIZE + 3];
        put_hex(&mut content[..6], stamp.talk.into());
        put_hex(&mut content[6..12], stamp.sender.into());
        put_hex(&mut content[12..20], stamp.number.into());
        put_hex(&mut content[20..SIZE], stamp.due);
        assert_eq!(Stamp::read(&content), Some(stamp));
        assert_eq!(Stamp::read(&content[..SIZE]), Some(stamp));
        assert_eq!(Stamp::read(&content[..SIZE - 1]), None);
        assert_eq!(Stamp::read(&[b'x'; SIZE]), None);
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = |text: &str| Mark::read(text.as_bytes());
        let (talk, number) = (17, 0xdead_beef);
        assert_eq!(mark("000011deadbeef"), Some(Mark { talk, number }));
        for text in ["", "00001", "000011xxxxxxxx", "0000111deadbeef"] {
            assert_eq!(mark(text), None, "{text}");
        }
    }
}
