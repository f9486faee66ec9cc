//! From a time to a place: the ids of messages tell when they were sent.

use std::time::{Duration, SystemTime};

use schema::{MsgId, Timestamp};

use super::refused::Refused;
use crate::store::views::Membership;
use crate::store::{self, Store, messages};

/// The last time that an id can tell, in milliseconds since 1970: the year 2093.
const LAST_MS: u64 = 1_704_067_200_000 + (1 << 41) - 1;

/// The smallest id that a message sent at `time` or later can have.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) when it is no time.
pub fn first_id(time: &Timestamp) -> Result<u64, Refused> {
    let nanos = u64::try_from(time.nanos).ok();
    let Some(nanos) = nanos.filter(|nanos| *nanos < 1_000_000_000) else {
        return Err(Refused::invalid("a time's nanos are 0 to 999999999"));
    };
    // Messages are sent at whole milliseconds.
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    let ms = seconds.saturating_mul(1000);
    let ms = ms.saturating_add(nanos.div_ceil(1_000_000)).min(LAST_MS);
    Ok(MsgId::at(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).0)
}

/// The seq after which the messages follow that the member may see and that have this id or a greater one. Ids and seqs
/// grow together, so that some twenty looks at an index find it, however long the conversation is.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub async fn seq_before(
    store: &Store,
    membership: &Membership,
    first_id: u64,
) -> Result<u32, store::Error> {
    let (mut before, mut end) = (membership.visible_seq, membership.last_seq + 1);
    while before + 1 < end {
        let middle = before + (end - before) / 2;
        let id = messages::id_at(store.reader(), membership.conversation_id, middle).await?;
        // What is nowhere was deleted for its age.
        if id.is_none_or(|id| id < first_id) {
            before = middle;
        } else {
            end = middle;
        }
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_smallest_id_of_its_millisecond() {
        let at = |ms| MsgId::at(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).0;
        for (seconds, nanos, expected) in [
            (1_800_000_000, 0, at(1_800_000_000_000)),
            (1_800_000_000, 5_000_000, at(1_800_000_000_005)),
            (1_800_000_000, 5_000_001, at(1_800_000_000_006)),
            (0, 0, 0),
            (-5, 0, 0),
            (253_402_300_799, 999_999_999, at(LAST_MS)),
            (i64::MAX, 0, at(LAST_MS)),
        ] {
            let time = Timestamp { seconds, nanos };
            assert_eq!(first_id(&time), Ok(expected), "{time:?}");
        }
        assert!(at(LAST_MS) > at(4_000_000_000_000 - 200_000_000_000));
        for nanos in [-1, 1_000_000_000] {
            assert!(first_id(&Timestamp { seconds: 0, nanos }).is_err());
        }
    }
}
