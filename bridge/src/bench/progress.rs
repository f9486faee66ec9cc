//! How far a measurement is, on the standard error; nothing where that is no terminal.

use std::time::Duration;

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress;

/// One stage of it; gone when dropped.
#[derive(Debug)]
pub(super) struct Stage;

impl Progress {
    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        eprintln!("{line}");
    }

    /// A stage of `total` steps.
    pub(super) fn count(&self, what: &str, _total: u64) -> Stage {
        self.say(what);
        Stage
    }

    /// A stage that lasts so long, from now on.
    pub(super) fn time(&self, what: &str, _lasts: Duration) -> Stage {
        self.say(what);
        Stage
    }
}

impl Stage {
    /// So many more steps are done.
    pub(super) fn advance(&self, _steps: u64) {}

    /// What else there is to tell, such as the rate.
    pub(super) fn tell(&self, _text: &str) {}
}
