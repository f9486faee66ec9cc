//! A bridge's first packet.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::codec::{ConnAck, Connect, Packet, ReasonCode, Version, decode_connect};
use crate::link::remote::{BOOT, SHARES, USER_NAME};

/// The longest CONNECT, in bytes. Anybody can make us hold that much.
const CONNECT_MAX: usize = 4 * 1024;

/// What bridges know.
pub(super) struct Secret(Box<[u8]>);

impl Secret {
    pub(super) fn new(secret: &str) -> Self {
        Secret(secret.as_bytes().into())
    }

    /// Compares all of it in any case: how long it takes tells nothing but how long the secret is.
    fn is(&self, shown: &[u8]) -> bool {
        let differing = self.0.iter().zip(shown).map(|(a, b)| a ^ b);
        let difference = differing.fold(0, |all, one| std::hint::black_box(all | one));
        self.0.len() == shown.len() && difference == 0
    }
}

/// What a bridge asks for.
pub(super) struct Asked {
    /// The link that it had; empty: none.
    pub(super) id: String,
    /// Which process it is.
    pub(super) boot: String,
    /// Whether it can share its work with others.
    pub(super) shares: bool,
}

/// Reads CONNECT; returns what is asked, and what was read beyond that. `Err`: it knows no secret. `None`: it does not speak
/// MQTT 5.
pub(super) async fn hear<S: AsyncRead + Unpin>(
    stream: &mut S,
    secret: &Secret,
) -> Option<Result<(Asked, BytesMut), ReasonCode>> {
    let mut input = BytesMut::new();
    let connect = loop {
        if let Some(connect) = decode_connect(&mut input, CONNECT_MAX).ok()? {
            break connect;
        }
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    };
    if connect.version != Version::V5 {
        return None;
    }
    let shown = connect.password.as_deref().unwrap_or_default();
    if connect.username.as_deref() != Some(USER_NAME) || !secret.is(shown) {
        return Some(Err(ReasonCode::BadUserNameOrPassword));
    }
    Some(Ok((asked(&connect), input)))
}

fn asked(connect: &Connect) -> Asked {
    let properties = connect.properties.as_deref();
    let pairs = properties.map(|set| set.user_properties.as_slice());
    let property = |name: &str| {
        let pairs = pairs.unwrap_or_default().iter();
        let mut named = pairs.filter(|(key, _)| **key == *name);
        named.next().map(|(_, value)| &**value)
    };
    Asked {
        id: connect.client_id.to_string(),
        boot: property(BOOT).unwrap_or_default().to_owned(),
        shares: property(SHARES) == Some("true"),
    }
}

/// Says why not.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, reason: ReasonCode) {
    let mut out = BytesMut::new();
    let connack = ConnAck {
        reason,
        ..ConnAck::default()
    };
    Packet::ConnAck(Box::new(connack)).encode(Version::V5, &mut out);
    // Whether it hears that or not, it is not in.
    if stream.write_all(&out).await.is_ok() {
        drop(stream.shutdown().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_the_secret() {
        let secret = Secret::new("0123456789abcdef");
        assert!(secret.is(b"0123456789abcdef"));
        for wrong in [
            "",
            "0",
            "0123456789abcdeF",
            "0123456789abcdef0",
            "1123456789abcdef",
        ] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
    }
}
