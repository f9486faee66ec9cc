//! Text that must not reach a log.

use std::fmt;

use serde::Deserialize;

/// A setting that is not shown by `{:?}`.
#[derive(Clone, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// From elsewhere than the settings.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Secret(text.to_owned())
    }

    /// The text itself; empty where nothing is configured.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "…" })
    }
}
