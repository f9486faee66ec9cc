//! Every reason for which a session ends.

use crate::codec::{DecodeError, ReasonCode};

/// Why a session ended. It tells the DISCONNECT's reason, and whether the will is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The client sent DISCONNECT.
    #[error("the client disconnected")]
    ByClient,
    /// The client sent DISCONNECT and wants its will published.
    #[error("the client disconnected and left its will")]
    ByClientWithWill,
    /// The connection broke.
    #[error("the connection was lost")]
    Lost,
    /// The client sent what is not MQTT, or not allowed by it.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// A valid packet that the client may not send, or not now.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The client used a feature that CONNACK said is not there.
    #[error("unsupported: {0:?}")]
    Unsupported(ReasonCode),
    /// The client left more QoS 2 publishes unreleased than its window allows.
    #[error("receive maximum exceeded")]
    ReceiveMaximumExceeded,
    /// Nothing came for one and a half times the keep-alive.
    #[error("keep-alive timeout")]
    KeepAliveTimeout,
    /// The client took no byte for the write timeout.
    #[error("the client stopped reading")]
    NotReading,
    /// More waits for the session on plain topics than may.
    #[error("too much is waiting")]
    QueueFull,
    /// The client sent more publishes or bytes than it may, for too long.
    #[error("too fast: {0:?}")]
    TooFast(ReasonCode),
    /// The same user connected with the same client id.
    #[error("taken over by a newer connection")]
    TakenOver,
    /// The same at another node, which knows nothing of what the session has kept.
    #[error("taken over by a newer connection to another node")]
    TakenElsewhere {
        /// The client begins anew there.
        is_clean: bool,
    },
    /// The access token has expired.
    #[error("the access token expired")]
    TokenExpired,
    /// The login was revoked, or an administrator ended the session.
    #[error("kicked")]
    Kicked,
    /// What the session needs can't be read from the database.
    #[error("the session can't be served")]
    Unserved,
    /// The server is about to stop, and has told the client so with this reason.
    #[error("moved to another server")]
    Moved(ReasonCode),
    /// The server stops.
    #[error("the server is shutting down")]
    ServerShutdown,
}

impl Closed {
    /// One word of `a-z` and `_`, for metrics and for the bridge.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Closed::ByClient => "by_client",
            Closed::ByClientWithWill => "by_client_with_will",
            Closed::Lost => "lost",
            Closed::Undecodable(DecodeError::TooLarge) => "packet_too_large",
            Closed::Undecodable(_) => "undecodable",
            Closed::Protocol(_) => "protocol_error",
            Closed::Unsupported(_) => "unsupported",
            Closed::ReceiveMaximumExceeded => "receive_maximum_exceeded",
            Closed::KeepAliveTimeout => "keep_alive_timeout",
            Closed::NotReading => "not_reading",
            Closed::QueueFull => "queue_full",
            Closed::TooFast(_) => "too_fast",
            Closed::TakenOver | Closed::TakenElsewhere { .. } => "taken_over",
            Closed::TokenExpired => "token_expired",
            Closed::Kicked => "kicked",
            Closed::Unserved => "unserved",
            Closed::Moved(_) => "moved",
            Closed::ServerShutdown => "server_shutdown",
        }
    }

    /// What the client is told in a DISCONNECT (v5 only); `None` where it is gone or left by itself.
    #[must_use]
    pub fn reason(self) -> Option<ReasonCode> {
        match self {
            Closed::ByClient | Closed::ByClientWithWill | Closed::Lost | Closed::NotReading => None,
            // Only CONNACK can speak of versions; here it is a second CONNECT.
            Closed::Undecodable(DecodeError::UnsupportedVersion) => Some(ReasonCode::ProtocolError),
            Closed::Undecodable(error) => Some(error.reason()),
            Closed::Protocol(_) => Some(ReasonCode::ProtocolError),
            Closed::Unsupported(reason) => Some(reason),
            Closed::Kicked => Some(ReasonCode::NotAuthorized),
            Closed::ReceiveMaximumExceeded => Some(ReasonCode::ReceiveMaximumExceeded),
            Closed::QueueFull => Some(ReasonCode::QuotaExceeded),
            Closed::TooFast(reason) | Closed::Moved(reason) => Some(reason),
            Closed::KeepAliveTimeout => Some(ReasonCode::KeepAliveTimeout),
            Closed::TakenOver | Closed::TakenElsewhere { .. } => Some(ReasonCode::SessionTakenOver),
            Closed::TokenExpired => Some(ReasonCode::MaximumConnectTime),
            Closed::Unserved => Some(ReasonCode::UnspecifiedError),
            Closed::ServerShutdown => Some(ReasonCode::ServerShuttingDown),
        }
    }

    /// Whether the session ends with its connection, whatever the client asked for: what let it in is no longer valid,
    /// what it needs is not there, or the client has another one.
    #[must_use]
    pub fn ends_session(self) -> bool {
        matches!(
            self,
            Closed::Kicked | Closed::Unserved | Closed::TakenElsewhere { .. }
        )
    }

    /// Whether a will that was to wait is not published: its client is back [MQTT-3.1.3-9].
    #[must_use]
    pub fn cancels_delayed_will(self) -> bool {
        matches!(self, Closed::TakenElsewhere { is_clean: false })
    }

    /// [MQTT-3.14.4-3] A normal DISCONNECT takes the will back. Where the user's right to be here has ended, so has the
    /// right to say something later.
    #[must_use]
    pub fn publishes_will(self) -> bool {
        !matches!(
            self,
            Closed::ByClient | Closed::Kicked | Closed::TokenExpired
        )
    }
}
