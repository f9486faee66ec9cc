//! What a server must not do, as it was seen.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Kinds of faults, each with how often and the first example.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Faults(BTreeMap<Cow<'static, str>, Fault>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fault {
    count: u64,
    first: String,
}

impl Faults {
    pub(super) fn note(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        self.note_many(kind, 1, example);
    }

    /// Notes so many of the same kind; none is no fault.
    pub(super) fn note_many(
        &mut self,
        kind: &'static str,
        count: u64,
        example: impl FnOnce() -> String,
    ) {
        if count == 0 {
            return;
        }
        let fault = self.0.entry(kind.into()).or_insert_with(|| Fault {
            count: 0,
            first: example(),
        });
        fault.count += count;
    }

    pub(super) fn add(&mut self, other: &Faults) {
        for (kind, fault) in &other.0 {
            let sum = self.0.entry(kind.clone()).or_insert_with(|| Fault {
                count: 0,
                first: fault.first.clone(),
            });
            sum.count += fault.count;
        }
    }

    /// Says where the examples come from.
    pub(super) fn name_place(&mut self, place: impl fmt::Display) {
        for fault in self.0.values_mut() {
            fault.first = format!("{place}: {}", fault.first);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn kinds(&self) -> Vec<&str> {
        self.0.keys().map(AsRef::as_ref).collect()
    }
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checked {
    /// What was held against the promises, in a sentence that is true when there are no faults.
    pub what: String,
    pub faults: Faults,
}

impl Checked {
    pub(super) fn is_ok(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            return writeln!(f, "check      ok: {}", self.what);
        }
        writeln!(f, "check      FAILED; should be: {}", self.what)?;
        for (kind, Fault { count, first }) in &self.faults.0 {
            writeln!(f, "FAILED     {kind}: {count} times; {first}")?;
        }
        Ok(())
    }
}
