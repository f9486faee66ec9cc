//! Connections of which it is not known yet whose they are. There is little room for them, and it is never taken for long: who
//! comes gets the place of the one that has waited longest, first of those of its own address. So who says nothing, or knows no
//! secret, keeps no bridge out.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::net::Origin;

/// How many there may be: bridges are few.
const PLACES: usize = 32;
/// How many of one address.
const PLACES_OF_ADDRESS: usize = 8;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Lobby(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// Oldest first.
    taken: VecDeque<Taken>,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    origin: Origin,
    gives_way: CancellationToken,
}

/// A place, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    lobby: Arc<Lobby>,
    number: u64,
    gives_way: CancellationToken,
}

impl Lobby {
    /// A place for a connection of that address.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let origin = Origin::of(address.to_canonical());
        let mut waiting = self.0.lock();
        let is_same = |taken: &Taken| taken.origin == origin;
        let same = waiting.taken.iter().filter(|taken| is_same(taken)).count();
        let oldest = waiting.taken.iter().position(is_same);
        let evicted = match oldest {
            Some(oldest) if same >= PLACES_OF_ADDRESS => waiting.taken.remove(oldest),
            _ if waiting.taken.len() >= PLACES => waiting.taken.pop_front(),
            _ => None,
        };
        if let Some(evicted) = evicted {
            evicted.gives_way.cancel();
        }
        waiting.last += 1;
        let (number, gives_way) = (waiting.last, CancellationToken::new());
        waiting.taken.push_back(Taken {
            number,
            origin,
            gives_way: gives_way.clone(),
        });
        Place {
            lobby: self.clone(),
            number,
            gives_way,
        }
    }
}

impl Place {
    /// Does something for as long as the place is there; `None`: it has had to give way.
    pub(super) async fn keep<T>(&self, doing: impl Future<Output = T>) -> Option<T> {
        self.gives_way.run_until_cancelled(doing).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.lobby.0.lock();
        waiting.taken.retain(|taken| taken.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_given_way(place: &Place) -> bool {
        place.gives_way.is_cancelled()
    }

    #[test]
    fn the_oldest_gives_way() {
        let lobby = Arc::<Lobby>::default();
        let enter = |last: u8| lobby.enter(IpAddr::from([192, 0, 2, last]));
        let bridge = enter(1);
        let mut of_one: Vec<Place> = (0..PLACES_OF_ADDRESS).map(|_| enter(2)).collect();
        assert!(!of_one.iter().any(has_given_way));
        of_one.push(enter(2));
        assert!(has_given_way(&of_one[0]) && !has_given_way(&of_one[1]));
        // Whoever fills all places has to come from many addresses.
        let rest = PLACES - PLACES_OF_ADDRESS - 1;
        let others: Vec<Place> = (0..rest).map(|n| enter(10 + n as u8)).collect();
        assert!(!has_given_way(&bridge));
        let one_more = enter(100);
        assert!(has_given_way(&bridge) && !has_given_way(&one_more));
        drop((bridge, of_one, others, one_more));
        assert!(lobby.0.lock().taken.is_empty());
    }
}
