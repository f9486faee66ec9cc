//! The stable names of errors in the contract, the same through both doors.

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The command itself is wrong, whoever sends it and whenever.
    InvalidArgument,
    /// The caller did not say who it is, or not convincingly.
    Unauthenticated,
    /// The caller may not do that.
    PermissionDenied,
    /// There is no such user, group or conversation, or the caller may not know of it.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A limit of size or number.
    TooLarge,
    /// Too often.
    RateLimited,
    /// The state of things does not allow it.
    Conflict,
    /// Not now; the same command may succeed later.
    Unavailable,
    /// A defect of ours.
    Internal,
}

impl Code {
    /// All of them.
    pub const ALL: [Code; 10] = [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::NotFound,
        Code::AlreadyExists,
        Code::TooLarge,
        Code::RateLimited,
        Code::Conflict,
        Code::Unavailable,
        Code::Internal,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::Unauthenticated => "unauthenticated",
            Code::PermissionDenied => "permission_denied",
            Code::NotFound => "not_found",
            Code::AlreadyExists => "already_exists",
            Code::TooLarge => "too_large",
            Code::RateLimited => "rate_limited",
            Code::Conflict => "conflict",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }

    /// The code of a reply; one that we don't know is a defect of ours.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let known = Code::ALL.into_iter().find(|code| code.as_str() == name);
        known.unwrap_or(Code::Internal)
    }

    /// The reason code of a PUBACK or PUBREC (MQTT 5, 3.4.2.1).
    #[must_use]
    pub fn mqtt_reason(self) -> u8 {
        match self {
            Code::InvalidArgument => 0x99, // payload format invalid
            Code::Unauthenticated | Code::PermissionDenied => 0x87, // not authorized
            Code::TooLarge | Code::RateLimited => 0x97, // quota exceeded
            // implementation specific error
            Code::NotFound | Code::AlreadyExists | Code::Conflict => 0x83,
            Code::Unavailable | Code::Internal => 0x80, // unspecified error
        }
    }
}
