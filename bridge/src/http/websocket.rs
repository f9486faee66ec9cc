//! MQTT over WebSocket, at `GET /mqtt`.
//!
//! A browser may come from any origin: who it is stands in CONNECT, and not in a cookie that another site could use.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::{SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Error, Router};
use broker::net::Pass;
use broker::{BrokerHandle, Door, Peer};
use bytes::{Buf as _, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Remote;
use super::problem::Problem;
use crate::code::Code;

/// What the client has to offer, and the server chooses [MQTT-6.0.0-3] [MQTT-6.0.0-4].
const SUBPROTOCOL: &str = "mqtt";
/// Read from the socket at once, in bytes. Each connection holds as much.
const READ_BYTES: usize = 4 * 1024;
/// The longest frame that is sent, in bytes. Each connection may hold as much.
const FRAME_MAX: usize = 8 * 1024;

/// The route.
pub(super) fn router<S>(broker: BrokerHandle) -> Router<S> {
    Router::new()
        .route("/mqtt", get(connect))
        .with_state(broker)
}

async fn connect(
    State(broker): State<BrokerHandle>,
    Extension(remote): Extension<Remote>,
    Extension(pass): Extension<Pass>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else {
        let headers = [(UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, "13")];
        let text = "MQTT is spoken here, over WebSocket";
        return (StatusCode::UPGRADE_REQUIRED, headers, text).into_response();
    };
    if !upgrade
        .requested_protocols()
        .any(|name| name == SUBPROTOCOL)
    {
        let detail = "the WebSocket subprotocol \"mqtt\" has to be offered";
        return Problem::new(Code::InvalidArgument, detail).into_response();
    }
    let peer = Peer {
        address: remote.address,
        door: if remote.is_tls { Door::Wss } else { Door::Ws },
        certified: None,
        refusal: None,
    };
    let message_max = message_max(broker.max_packet_size());
    limited(upgrade, message_max)
        .protocols([SUBPROTOCOL])
        .on_upgrade(async move |socket| broker.serve(ByteStream::new(socket), peer, pass).await)
}

/// The longest message taken. It may hold several packets; a client that packs more of them sends several messages.
fn message_max(packet_max: usize) -> usize {
    packet_max.saturating_mul(2)
}

fn limited(upgrade: WebSocketUpgrade, message_max: usize) -> WebSocketUpgrade {
    upgrade
        .max_message_size(message_max)
        .max_frame_size(message_max)
        .read_buffer_size(READ_BYTES)
        // What is sent waits in `ByteStream`'s caller, not here: one frame, and what WebSocket says by itself.
        .write_buffer_size(0)
        .max_write_buffer_size(2 * FRAME_MAX)
}

/// A WebSocket as the bytes in its binary messages, wherever these begin and end [MQTT-6.0.0-2].
///
/// A write is taken when all that was written before has left. Shutting down closes both sides; whoever does it sets a
/// limit of time, for the other side has to agree.
struct ByteStream {
    socket: WebSocket,
    /// What is left of the last message.
    message: Bytes,
    /// Nothing can be written any more.
    is_closing: bool,
}

impl ByteStream {
    fn new(socket: WebSocket) -> Self {
        ByteStream {
            socket,
            message: Bytes::new(),
            is_closing: false,
        }
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        Pin::new(&mut self.socket).poll_next(context)
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.socket).poll_flush(context);
        sent.map_err(io::Error::other)
    }

    /// Begins the closing handshake, unless it has begun.
    fn poll_close(&mut self, context: &mut Context<'_>, code: u16) -> Poll<()> {
        if self.is_closing {
            return Poll::Ready(());
        }
        let is_ready = ready!(Pin::new(&mut self.socket).poll_ready(context)).is_ok();
        self.is_closing = true;
        let close = Message::Close(Some(CloseFrame {
            code,
            reason: "".into(),
        }));
        if is_ready && let Err(error) = Pin::new(&mut self.socket).start_send(close) {
            tracing::debug!(%error, "the other side closed first");
        }
        Poll::Ready(())
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.message.is_empty() {
            let code = match ready!(self.poll_message(context)) {
                Some(Ok(Message::Binary(bytes))) => {
                    self.message = bytes;
                    continue;
                }
                // Answered by the WebSocket itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_))) => {
                    // The other side waits for ours, and nobody may come for this connection again.
                    let _ = self.poll_sent(context);
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Ready(Ok(())),
                // [MQTT-6.0.0-1] Another kind of data ends the connection.
                Some(Ok(Message::Text(_))) => close_code::UNSUPPORTED,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a WebSocket broke");
                    close_code::PROTOCOL
                }
            };
            // Here too as far as it goes without waiting.
            if self.poll_close(context, code).is_ready() {
                let _ = self.poll_sent(context);
            }
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let length = self.message.len().min(buffer.remaining());
        buffer.put_slice(&self.message[..length]);
        self.message.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_sent(context))?;
        let frame = &bytes[..bytes.len().min(FRAME_MAX)];
        let message = Message::Binary(Bytes::copy_from_slice(frame));
        let started = Pin::new(&mut self.socket).start_send(message);
        started.map_err(io::Error::other)?;
        if let Poll::Ready(sent) = self.poll_sent(context) {
            sent?;
        }
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_close(context, close_code::NORMAL));
        ready!(self.poll_sent(context))?;
        // What the other side says before it agrees is heard by nobody.
        while let Some(Ok(_)) = ready!(self.poll_message(context)) {}
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
