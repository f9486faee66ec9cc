//! Why a command is refused: the stable code, and what it becomes on each wire.

use schema::v1;

/// The stable names of errors in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The command itself is wrong, whoever sends it and whenever.
    InvalidArgument,
    /// The caller may not do that.
    PermissionDenied,
    /// There is no such user, group or conversation, or the caller may not know of it.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A limit of size or number.
    TooLarge,
    /// The state of things does not allow it.
    Conflict,
    /// Not now; the same command may succeed later.
    Unavailable,
    /// A defect of ours.
    Internal,
}

impl Code {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::PermissionDenied => "permission_denied",
            Code::NotFound => "not_found",
            Code::AlreadyExists => "already_exists",
            Code::TooLarge => "too_large",
            Code::Conflict => "conflict",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// The reason code of the PUBACK (MQTT 5, 3.4.2.1).
    #[must_use]
    pub fn mqtt_reason(self) -> u8 {
        match self {
            Code::InvalidArgument => 0x99,  // payload format invalid
            Code::PermissionDenied => 0x87, // not authorized
            Code::TooLarge => 0x97,         // quota exceeded
            // implementation specific error
            Code::NotFound | Code::AlreadyExists | Code::Conflict => 0x83,
            Code::Unavailable | Code::Internal => 0x80, // unspecified error
        }
    }
}

/// A refusal; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", code.as_str())]
pub struct Refused {
    /// What kind.
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
