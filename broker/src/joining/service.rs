//! A bridge's connection: MQTT 5 for one client, with two topics and QoS 0.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split,
};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::codec::{
    ConnAck, ConnAckProperties, Disconnect, Packet, PublishHead, Qos, ReasonCode, SubAck, Version,
    decode, encode_publish,
};
use crate::link::remote::{BEAT_INTERVAL, BEAT_TOPIC, Carrier, PACKET_MAX, SILENCE_MAX};
use crate::link::{DOWN_TOPIC, UP_TOPIC};

use super::handshake;

/// Frames written at once.
const FRAMES_AT_ONCE: usize = 16;
/// Read from the socket at once, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// How long a bridge may take nothing of what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers that wait to be written.
const REPLIES: usize = 16;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// See the module's documentation.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    input: BytesMut,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It broke: the bridge may come back.
    Lost,
    /// The bridge says nothing any more: it has had its time.
    Silent,
    /// The bridge has said goodbye.
    Goodbye,
}

impl Connection {
    /// `input` was read already.
    pub(super) fn new<S>(stream: Box<S>, input: BytesMut) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Connection { stream, input }
    }

    /// CONNACK for a new link; tells whether the bridge could be told.
    pub(super) async fn welcome(&mut self, id: &str) -> bool {
        let properties = ConnAckProperties {
            assigned_client_identifier: Some(id.into()),
            ..ConnAckProperties::default()
        };
        self.acknowledge(false, Some(Box::new(properties))).await
    }

    /// CONNACK for a link that goes on.
    pub(super) async fn welcome_back(&mut self) -> bool {
        self.acknowledge(true, None).await
    }

    async fn acknowledge(
        &mut self,
        session_present: bool,
        properties: Option<Box<ConnAckProperties>>,
    ) -> bool {
        let mut out = BytesMut::new();
        let connack = ConnAck {
            session_present,
            reason: ReasonCode::Success,
            properties,
        };
        Packet::ConnAck(Box::new(connack)).encode(Version::V5, &mut out);
        self.stream.write_all(&out).await.is_ok()
    }

    pub(super) async fn refuse(mut self, reason: ReasonCode) {
        handshake::refuse(&mut self.stream, reason).await;
    }

    /// Carries frames, from when the bridge has subscribed, until the connection ends or `stop`.
    pub(super) async fn carry(self, carrier: Carrier, stop: &CancellationToken) -> Ended {
        let Carrier {
            outgoing,
            incoming,
            broken,
        } = carrier;
        let (input, output) = split(self.stream);
        let (replies, to_reply) = mpsc::channel(REPLIES);
        let ended = tokio::select! {
            ended = read(input, self.input, incoming, replies) => ended,
            () = write(output, outgoing, to_reply, stop) => Ended::Lost,
            () = broken.cancelled() => Ended::Lost,
        };
        debug!(?ended, "a bridge's connection has ended");
        ended
    }
}

/// Reads packets until there are no more.
async fn read(
    mut stream: ReadHalf<Box<dyn Stream>>,
    mut input: BytesMut,
    frames: mpsc::Sender<Bytes>,
    replies: mpsc::Sender<Packet>,
) -> Ended {
    loop {
        let packet = match decode(Version::V5, &mut input, PACKET_MAX as usize) {
            Ok(packet) => packet,
            Err(error) => {
                tracing::error!(%error, "a bridge sends what is no packet");
                return Ended::Lost;
            }
        };
        let Some(packet) = packet else {
            input.reserve(READ_BYTES);
            match timeout(SILENCE_MAX, stream.read_buf(&mut input)).await {
                Ok(Ok(1..)) => continue,
                Ok(_) => return Ended::Lost,
                Err(_) => return Ended::Silent,
            }
        };
        let is_taken = match packet {
            Packet::Publish(publish) if publish.topic == DOWN_TOPIC => {
                frames.try_send(publish.payload).is_ok()
            }
            Packet::Subscribe(subscribe) => {
                let granted = subscribe.filters.iter().map(|asked| match &*asked.filter {
                    UP_TOPIC | BEAT_TOPIC => ReasonCode::Success,
                    _ => ReasonCode::NotAuthorized,
                });
                let suback = Packet::SubAck(SubAck {
                    packet_id: subscribe.packet_id,
                    reasons: granted.collect(),
                    properties: None,
                });
                replies.try_send(suback).is_ok()
            }
            Packet::PingReq => replies.try_send(Packet::PingResp).is_ok(),
            Packet::Disconnect(_) => return Ended::Goodbye,
            // It lives.
            _ => true,
        };
        if !is_taken {
            return Ended::Lost;
        }
    }
}

/// Writes frames, as soon as the bridge has subscribed to them, until that is no longer possible, or `stop`.
async fn write(
    mut stream: WriteHalf<Box<dyn Stream>>,
    mut frames: mpsc::Receiver<Bytes>,
    mut replies: mpsc::Receiver<Packet>,
    stop: &CancellationToken,
) {
    let mut beats = interval(BEAT_INTERVAL);
    let mut is_subscribed = false;
    loop {
        let mut out = BytesMut::new();
        let mut some = Vec::new();
        tokio::select! {
            count = frames.recv_many(&mut some, FRAMES_AT_ONCE), if is_subscribed => {
                if count == 0 {
                    return;
                }
                for frame in &some {
                    publish(UP_TOPIC, frame, &mut out);
                }
            }
            reply = replies.recv() => match reply {
                Some(reply) => {
                    is_subscribed |= matches!(reply, Packet::SubAck(_));
                    reply.encode(Version::V5, &mut out);
                }
                None => return,
            },
            _ = beats.tick() => publish(BEAT_TOPIC, b"", &mut out),
            () = stop.cancelled() => {
                let goodbye = Disconnect::new(ReasonCode::ServerShuttingDown);
                Packet::Disconnect(goodbye).encode(Version::V5, &mut out);
            }
        }
        let writing = async {
            stream.write_all(&out).await?;
            stream.flush().await
        };
        let is_written = matches!(timeout(WRITE_TIMEOUT, writing).await, Ok(Ok(())));
        if !is_written || stop.is_cancelled() {
            return;
        }
    }
}

fn publish(topic: &str, payload: &[u8], out: &mut BytesMut) {
    let head = PublishHead {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic,
        packet_id: None,
        properties: None,
    };
    encode_publish(Version::V5, out, head, payload);
}
