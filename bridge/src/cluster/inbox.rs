//! What was heard and waits for the pipeline. Its bound leaves things out, but never that it has.

use std::sync::Arc;

use schema::bus::notice::Notice;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Heard;

/// Notices that may wait, and their bytes.
const NOTICES_MAX: usize = 16 * 1024;
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where the subscriber puts what it hears.
#[derive(Debug)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Entry>,
    bytes: Arc<Semaphore>,
    /// Something was left out, and nobody was told so yet.
    has_missed: bool,
}

#[derive(Debug)]
struct Entry {
    heard: Heard,
    /// Its bytes, given back when it is taken.
    _room: Option<OwnedSemaphorePermit>,
}

/// What came over the bus, in its order.
#[derive(Debug)]
pub struct Hearing {
    receiver: mpsc::Receiver<Entry>,
}

impl Inbox {
    pub(super) fn new() -> (Self, Hearing) {
        let (sender, receiver) = mpsc::channel(NOTICES_MAX);
        let inbox = Inbox {
            sender,
            bytes: Arc::new(Semaphore::new(BYTES_MAX)),
            has_missed: false,
        };
        (inbox, Hearing { receiver })
    }

    /// Puts something in that takes so many bytes; tells whether there was room. What finds none is missed. Half of the
    /// room is not for publishes on plain topics: they are left out, and nobody could find them in the database.
    pub(super) fn put(&mut self, heard: Heard, bytes: usize) -> bool {
        self.settle();
        if self.has_missed {
            return false;
        }
        let is_published = |heard: &Heard| match heard {
            Heard::Notice { notice, .. } => matches!(notice, Notice::Published(_)),
            _ => false,
        };
        let is_half_full = self.sender.capacity() < NOTICES_MAX / 2
            || self.bytes.available_permits() < BYTES_MAX / 2;
        if is_half_full && is_published(&heard) {
            return false;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(room) = self.bytes.clone().try_acquire_many_owned(bytes) else {
            self.missed();
            return false;
        };
        let entry = Entry {
            heard,
            _room: Some(room),
        };
        let is_put = self.sender.try_send(entry).is_ok();
        if !is_put {
            self.missed();
        }
        is_put
    }

    /// Something that others have told may not have arrived.
    pub(super) fn missed(&mut self) {
        self.has_missed = true;
        self.settle();
    }

    /// Says what could not be said before.
    pub(super) fn settle(&mut self) {
        if self.has_missed {
            let entry = Entry {
                heard: Heard::Missed,
                _room: None,
            };
            self.has_missed = self.sender.try_send(entry).is_err();
        }
    }
}

impl Hearing {
    /// Nothing is heard, and whoever would say it is gone.
    pub(super) fn nothing() -> Self {
        let (_, receiver) = mpsc::channel(1);
        Hearing { receiver }
    }

    /// The next; `None`: there will be none.
    pub async fn recv(&mut self) -> Option<Heard> {
        self.receiver.recv().await.map(|entry| entry.heard)
    }

    /// The next that is there already.
    pub fn try_recv(&mut self) -> Option<Heard> {
        self.receiver.try_recv().ok().map(|entry| entry.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(node: u32) -> Heard {
        Heard::Left { node }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_said_to_be_missed() {
        let (mut inbox, mut hearing) = Inbox::new();
        for (node, bytes) in [(1, BYTES_MAX / 2), (2, BYTES_MAX), (3, 1)] {
            inbox.put(left(node), bytes);
        }
        // What follows comes after that it was.
        assert!(matches!(
            hearing.recv().await,
            Some(Heard::Left { node: 1 })
        ));
        assert!(matches!(hearing.recv().await, Some(Heard::Missed)));
        assert!(matches!(
            hearing.recv().await,
            Some(Heard::Left { node: 3 })
        ));

        for node in 0..2 * NOTICES_MAX as u32 {
            inbox.put(left(node), 0);
        }
        for node in 0..NOTICES_MAX as u32 {
            assert!(
                matches!(hearing.try_recv(), Some(Heard::Left { node: found }) if found == node)
            );
        }
        assert!(hearing.try_recv().is_none());
        inbox.settle();
        assert!(matches!(hearing.try_recv(), Some(Heard::Missed)));
        assert!(hearing.try_recv().is_none());
    }

    #[tokio::test]
    async fn half_of_the_room_is_not_for_what_passes() {
        let published = || Heard::Notice {
            node: 1,
            notice: Notice::Published(Box::default()),
        };
        for (bytes, times) in [(BYTES_MAX / 2 + 1, 1), (0, NOTICES_MAX / 2 + 1)] {
            let (mut inbox, mut hearing) = Inbox::new();
            for _ in 0..times {
                assert!(inbox.put(published(), bytes));
            }
            assert!(!inbox.put(published(), 1));
            assert!(inbox.put(left(2), 1));
            let mut count = 0;
            while let Some(heard) = hearing.try_recv() {
                assert!(!matches!(heard, Heard::Missed));
                count += 1;
            }
            assert_eq!(count, times + 1);
        }
    }
}
