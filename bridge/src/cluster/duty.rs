//! Something that one node alone does at a time. Whoever does it looks before each step whether it is still this node's;
//! since a step may take longer than that is so, steps do no harm when two nodes take them.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Whether the node does it now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Duty {
    /// Until when; `None`: another node does it, or none.
    until: watch::Receiver<Option<Instant>>,
    is_always: bool,
}

impl Duty {
    /// Of a node that has no others.
    #[must_use]
    pub fn always() -> Self {
        let (_, until) = watch::channel(None);
        Duty {
            until,
            is_always: true,
        }
    }

    /// Whether the node does it now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_always
            || self
                .until
                .borrow()
                .is_some_and(|until| Instant::now() < until)
    }

    /// Whether it may be another node that does it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !self.is_always
    }

    /// Returns when the node does it; never, where nobody gives it duties any more.
    pub async fn held(&mut self) {
        while !self.is_held() {
            if self.until.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Has work done while it is this node's to do: begun whenever that begins, and dropped wherever it is when that ends. It
    /// never returns.
    pub async fn while_held<F: Future<Output = ()>>(mut self, work: impl Fn() -> F) {
        loop {
            self.held().await;
            tokio::select! {
                () = work() => {}
                () = self.lost() => {}
            }
        }
    }

    /// Returns when the node no longer does it.
    pub async fn lost(&mut self) {
        loop {
            let until = *self.until.borrow_and_update();
            let until = match (self.is_always, until) {
                (true, _) => return std::future::pending().await,
                (false, Some(until)) if Instant::now() < until => until,
                (false, _) => return,
            };
            tokio::select! {
                // Without a keeper the time runs out.
                Ok(()) = self.until.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }
}

/// The end of a [`Duty`] that says whether the node has it.
#[derive(Debug)]
pub(super) struct Held {
    name: &'static str,
    until: watch::Sender<Option<Instant>>,
}

impl Held {
    pub(super) fn new(name: &'static str) -> (Self, Duty) {
        let (sender, until) = watch::channel(None);
        let duty = Duty {
            until,
            is_always: false,
        };
        (
            Held {
                name,
                until: sender,
            },
            duty,
        )
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn note(&self, until: Option<Instant>) {
        self.until.send_replace(until);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_duty_ends_with_its_time() {
        let (held, mut duty) = Held::new("it");
        assert!(!duty.is_held());
        let mut waiting = duty.clone();
        let wait = tokio::spawn(async move { waiting.held().await });
        tokio::task::yield_now().await;
        let until = |millis| Some(Instant::now() + Duration::from_millis(millis));
        held.note(until(60_000));
        wait.await.unwrap();
        let begun = Instant::now();
        held.note(until(30));
        duty.lost().await;
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert!(!duty.is_held());
        held.note(until(60_000));
        duty.held().await;
        held.note(None);
        duty.lost().await;
        let mut always = Duty::always();
        always.held().await;
        assert!(always.is_held());
    }

    #[tokio::test]
    async fn work_ends_with_the_duty() {
        let (held, duty) = Held::new("it");
        let (steps, mut done) = tokio::sync::mpsc::unbounded_channel();
        let work = move || {
            let steps = steps.clone();
            async move {
                loop {
                    steps.send(()).unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let working = tokio::spawn(duty.while_held(work));
        for _ in 0..2 {
            held.note(Some(Instant::now() + Duration::from_secs(60)));
            done.recv().await.unwrap();
            held.note(None);
            tokio::time::sleep(Duration::from_millis(20)).await;
            while done.try_recv().is_ok() {}
            tokio::time::sleep(Duration::from_millis(20)).await;
            done.try_recv().unwrap_err();
        }
        working.abort();
    }
}
