//! Why a command is refused.

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
}

impl Refused {
    /// A refusal.
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Refused {
            code,
            reason: reason.into(),
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
        let retry_after_ms = match self.code {
            Code::Unavailable => 1000,
            _ => 0,
        };
        v1::Error {
            code: self.code.as_str().to_owned(),
            reason: self.reason.clone(),
            retry_after_ms,
        }
    }
}
