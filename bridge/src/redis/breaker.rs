//! When to stop asking.

/// Failures without a success between them after which the circuit is opened.
const FAILURES_MAX: u32 = 5;

/// What a command's failure says of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing: the command is at fault, and it was answered.
    OfCommand,
    /// They may fail, too.
    Passing,
    /// The connection can't be used any more.
    Lost,
}

/// A circuit: closed, it has a connection; open, it has none. What is said of an earlier connection does not count.
#[derive(Debug)]
pub(super) struct Breaker<C> {
    connection: Option<C>,
    generation: u64,
    failures: u32,
}

impl<C> Default for Breaker<C> {
    fn default() -> Self {
        Breaker {
            connection: None,
            generation: 0,
            failures: 0,
        }
    }
}

impl<C: Clone> Breaker<C> {
    /// The connection, and the number that its outcomes are told with.
    pub(super) fn current(&self) -> Option<(u64, C)> {
        Some((self.generation, self.connection.clone()?))
    }

    pub(super) fn close(&mut self, connection: C) {
        self.connection = Some(connection);
        self.generation += 1;
        self.failures = 0;
    }

    pub(super) fn succeeded(&mut self, generation: u64) {
        if generation == self.generation {
            self.failures = 0;
        }
    }

    /// Whether the circuit is opened by it.
    pub(super) fn failed(&mut self, generation: u64, failure: Failure) -> bool {
        if generation != self.generation || self.connection.is_none() {
            return false;
        }
        self.failures = match failure {
            Failure::OfCommand => 0,
            Failure::Passing => self.failures + 1,
            Failure::Lost => FAILURES_MAX,
        };
        let is_opened = self.failures >= FAILURES_MAX;
        if is_opened {
            self.connection = None;
        }
        is_opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_once() {
        let mut breaker = Breaker::default();
        assert!(breaker.current().is_none());
        breaker.close('a');
        for round in 0..3 {
            for _ in 1..FAILURES_MAX {
                assert!(!breaker.failed(1, Failure::Passing), "{round}");
            }
            match round {
                0 => breaker.succeeded(1),
                1 => assert!(!breaker.failed(1, Failure::OfCommand)),
                _ => assert!(breaker.failed(1, Failure::Passing)),
            }
        }
        assert!(breaker.current().is_none());
        assert!(!breaker.failed(1, Failure::Passing));
    }

    #[test]
    fn what_is_said_of_an_earlier_connection_does_not_count() {
        let mut breaker = Breaker::default();
        breaker.close('a');
        assert!(breaker.failed(1, Failure::Lost));
        breaker.close('b');
        assert_eq!(breaker.current(), Some((2, 'b')));
        assert!(!breaker.failed(1, Failure::Lost));
        for _ in 1..FAILURES_MAX {
            assert!(!breaker.failed(2, Failure::Passing));
        }
        breaker.succeeded(1);
        assert!(breaker.failed(2, Failure::Passing));
    }
}
