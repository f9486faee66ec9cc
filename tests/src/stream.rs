//! What carries bytes both ways.

use tokio::io::{AsyncRead, AsyncWrite};

/// TCP, TLS or the inside of a WebSocket.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
