//! What a soak has come to, for people.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Options;
use super::faults::Happened;
use crate::talk::{self, Checked, Talk, Tally};

/// Shown by its `Display`.
#[derive(Debug)]
pub struct Report {
    options: Options,
    happened: Vec<Happened>,
    checked: Checked,
    settled_after: Duration,
    tally: Tally,
    /// In milliseconds.
    answers: Histogram<u64>,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        talk: &Talk,
        happened: Vec<Happened>,
        checked: Checked,
        settled_after: Duration,
    ) -> Self {
        let mut answers = Histogram::new(3).expect("three digits are allowed");
        for millis in talk.answers_ms() {
            answers.saturating_record(millis);
        }
        Report {
            options: options.clone(),
            happened,
            checked,
            settled_after,
            tally: talk.tally(),
            answers,
        }
    }

    /// Whether everything is as it should be.
    pub fn is_ok(&self) -> bool {
        self.checked.is_ok()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            nodes,
            talk: talk::Options { users, seed, .. },
            lasts,
            ..
        } = &self.options;
        let Tally {
            devices,
            sent,
            sent_by_http,
            heard,
            heard_again,
            breaks,
            ..
        } = &self.tally;
        writeln!(
            f,
            "{nodes} nodes, {users} users with {devices} devices, {lasts:?}, seed {seed}"
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "       at  fault                     away    all nodes ready after"
        )?;
        for Happened {
            at,
            fault,
            down,
            ready_after,
        } in &self.happened
        {
            let [at, down, ready] = [at, down, ready_after].map(Duration::as_secs_f64);
            writeln!(
                f,
                "  {at:5.1} s  {:24} {down:4.1} s  {ready:4.1} s",
                fault.to_string()
            )?;
        }
        writeln!(f)?;
        let Checked {
            messages,
            conversations,
            ..
        } = &self.checked;
        writeln!(
            f,
            "sent        {sent} messages, {sent_by_http} of them over HTTP"
        )?;
        writeln!(
            f,
            "stored      {messages} messages in {conversations} conversations"
        )?;
        writeln!(f, "heard       {heard} deliveries, and {heard_again} again")?;
        writeln!(f, "broken      {breaks} connections")?;
        let [half, most, all] = [0.5, 0.99, 1.0].map(|q| self.answers.value_at_quantile(q));
        writeln!(
            f,
            "answered    half within {half} ms, 99 % within {most} ms, all within {all} ms"
        )?;
        writeln!(
            f,
            "quiet       {:.1} s after the last fault's time",
            self.settled_after.as_secs_f64()
        )?;
        writeln!(f)?;
        self.checked.fmt(f)?;
        let outcome = if self.is_ok() { "ok" } else { "FAILED" };
        write!(f, "soak {outcome}")
    }
}
