//! MQTT over WebSocket, as a browser opens it.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::stream::Stream;

/// What WebSocket clients of MQTT ask for [MQTT-6.0.0-3].
pub const SUBPROTOCOL: &str = "mqtt";
/// Bytes that may wait on their way through [`as_stream`].
const PIPE_BYTES: usize = 64 * 1024;

/// A WebSocket, whatever is below it.
pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// Asks for a WebSocket at `path`, offering these subprotocols. The inner error is the HTTP status of a refusal.
pub async fn ask(
    below: Box<dyn Stream>,
    address: SocketAddr,
    path: &str,
    subprotocols: &[&str],
) -> Result<std::result::Result<Socket, u16>> {
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    if !subprotocols.is_empty() {
        let offered = HeaderValue::from_str(&subprotocols.join(", "))?;
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", offered);
    }
    match client_async(request, below).await {
        Ok((socket, response)) => {
            let chosen = response.headers().get("sec-websocket-protocol");
            let offered = !subprotocols.is_empty();
            if offered && chosen.is_none_or(|chosen| chosen != SUBPROTOCOL) {
                bail!("the server chose the subprotocol {chosen:?}");
            }
            Ok(Ok(socket))
        }
        Err(Error::Http(response)) => Ok(Err(response.status().as_u16())),
        Err(error) => Err(error).context("the WebSocket handshake"),
    }
}

/// Opens one for MQTT.
pub async fn open(below: Box<dyn Stream>, address: SocketAddr) -> Result<Socket> {
    match ask(below, address, "/mqtt", &[SUBPROTOCOL]).await? {
        Ok(socket) => Ok(socket),
        Err(status) => bail!("the server refused the WebSocket: {status}"),
    }
}

/// The bytes of a WebSocket without its frames.
pub fn as_stream(socket: Socket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (mut far_in, mut far_out) = tokio::io::split(far);
    let (mut sink, mut source) = socket.split();
    // Each ends when the other side of its direction does.
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(bytes) = message else {
                continue;
            };
            if far_out.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = far_out.shutdown().await;
    });
    tokio::spawn(async move {
        let mut bytes = vec![0; PIPE_BYTES];
        while let Ok(read @ 1..) = far_in.read(&mut bytes).await {
            let frame = Message::binary(bytes[..read].to_vec());
            if sink.send(frame).await.is_err() {
                break;
            }
        }
        let _ = sink.close().await;
    });
    near
}
