//! Why a command is refused.

use std::time::Duration;

use schema::v1;

use crate::code::Code;

/// A refusal; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", code.as_str())]
pub struct Refused {
    /// What kind of error it is.
    pub code: Code,
    /// For the caller to read; tells nothing that the caller may not know.
    pub reason: String,
    /// After which time another try makes sense; `None`: what the code says of it.
    pub retry_after: Option<Duration>,
}

impl Refused {
    /// A refusal.
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Refused {
            code,
            reason: reason.into(),
            retry_after: None,
        }
    }

    /// [`Code::RateLimited`], to be tried again after `wait`.
    pub fn too_often(wait: Duration) -> Self {
        Refused {
            retry_after: Some(wait),
            ..Self::new(Code::RateLimited, "too often; try again a little later")
        }
    }

    /// [`Code::InvalidArgument`].
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason)
    }

    /// [`Code::NotFound`].
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason)
    }

    /// As the wire has it.
    #[must_use]
    pub fn to_wire(&self) -> v1::Error {
        let retry_after_ms = match (self.retry_after, self.code) {
            // Rounded up: 0 would mean that waiting does not help.
            (Some(wait), _) => {
                let ms = wait.as_nanos().div_ceil(1_000_000).max(1);
                u32::try_from(ms).unwrap_or(u32::MAX)
            }
            (None, Code::Unavailable) => 1000,
            (None, _) => 0,
        };
        v1::Error {
            code: self.code.as_str().to_owned(),
            reason: self.reason.clone(),
            retry_after_ms,
        }
    }
}
