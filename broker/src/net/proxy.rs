//! The header that a load balancer puts before what the client says: PROXY protocol, version 2.
//!
//! Version 1, a text of unknown length, is refused: it can't be read without reading ahead.

use std::io;
use std::net::IpAddr;

use ppp::v2::{Addresses, Command, Header, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Signature, version, command, family and length.
const FIXED_BYTES: usize = 16;
/// The longest rest of a header. Addresses take up to 216 bytes, and what balancers add about themselves some dozens.
const REST_MAX: usize = 536;

/// A connection of a load balancer that begins with something else.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The connection broke, or ended within the header.
    #[error("the PROXY header did not come")]
    Lost(#[from] io::Error),
    /// No header, one of another version, or one that contradicts itself.
    #[error("no PROXY header of version 2")]
    Malformed(#[source] ParseError),
    /// The header announces more than any balancer needs.
    #[error("the PROXY header is longer than {REST_MAX} bytes")]
    TooLong,
}

/// Reads a header and not a byte more. `None`: the balancer speaks for itself (LOCAL), or for a client without an
/// internet address.
pub(super) async fn read<S: AsyncRead + Unpin>(
    socket: &mut S,
) -> Result<Option<IpAddr>, ProxyError> {
    let mut header = Vec::with_capacity(FIXED_BYTES);
    loop {
        // Judged after each piece, so that what is no header is refused at its first wrong byte.
        let whole = match Header::try_from(&header[..]) {
            Ok(header) => return Ok(client_of(&header)),
            Err(ParseError::Incomplete(_)) => FIXED_BYTES,
            Err(ParseError::Partial(_, rest)) if rest > REST_MAX => {
                return Err(ProxyError::TooLong);
            }
            Err(ParseError::Partial(_, rest)) => FIXED_BYTES + rest,
            Err(error) => return Err(ProxyError::Malformed(error)),
        };
        let missing = (whole - header.len()) as u64;
        if (&mut *socket).take(missing).read_buf(&mut header).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

fn client_of(header: &Header) -> Option<IpAddr> {
    match (header.command, header.addresses) {
        (Command::Local, _) => None,
        (Command::Proxy, Addresses::IPv4(pair)) => Some(pair.source_address.into()),
        (Command::Proxy, Addresses::IPv6(pair)) => Some(pair.source_address.into()),
        (Command::Proxy, Addresses::Unspecified | Addresses::Unix(_)) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use ppp::v2::{Builder, Protocol, Version};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What a balancer says for a client.
    pub(crate) fn header(client: &str) -> Vec<u8> {
        let client: SocketAddr = client.parse().unwrap();
        let server = SocketAddr::new(client.ip(), 1883);
        let command = Version::Two | Command::Proxy;
        let header = Builder::with_addresses(command, Protocol::Stream, (client, server));
        header.build().unwrap()
    }

    /// What a balancer says for itself.
    pub(crate) fn local() -> Vec<u8> {
        [ppp::v2::PROTOCOL_PREFIX, &[0x20, 0, 0, 0]].concat()
    }

    /// A header of `rest` bytes after the fixed part, all of which is an extension that nobody knows.
    fn extended(rest: u16) -> Vec<u8> {
        let mut bytes = header("192.0.2.7:1");
        bytes[14..16].copy_from_slice(&rest.to_be_bytes());
        let value = rest - 12 - 3;
        bytes.push(0xE5);
        bytes.extend(value.to_be_bytes());
        bytes.resize(FIXED_BYTES + usize::from(rest), 7);
        bytes
    }

    async fn check(bytes: Vec<u8>, expected: Option<&str>) {
        let all = [&bytes[..], b"then"].concat();
        let mut rest = &all[..];
        let client = read(&mut rest).await.unwrap();
        assert_eq!(client, expected.map(|text| text.parse().unwrap()));
        assert_eq!(rest, b"then");
    }

    #[tokio::test]
    async fn a_header_is_read_and_nothing_else() {
        check(header("192.0.2.7:4711"), Some("192.0.2.7")).await;
        check(header("[2001:db8::7]:4711"), Some("2001:db8::7")).await;
        check(local(), None).await;
        check(extended(100), Some("192.0.2.7")).await;
        check(extended(REST_MAX as u16), Some("192.0.2.7")).await;
        // LOCAL with addresses, which say nothing.
        let mut bytes = header("192.0.2.7:4711");
        bytes[12] = 0x20;
        check(bytes, None).await;
        // A client behind a Unix socket of the balancer, and one that it can't tell.
        let mut bytes = [ppp::v2::PROTOCOL_PREFIX, &[0x21, 0x31, 0, 216]].concat();
        bytes.resize(FIXED_BYTES + 216, b'x');
        check(bytes, None).await;
        check([ppp::v2::PROTOCOL_PREFIX, &[0x21, 0, 0, 0]].concat(), None).await;
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let version_1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 1883\r\n";
        let connect = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0";
        let mut short = header("192.0.2.7:1");
        short[15] = 11;
        for bytes in [&version_1[..], connect, b"\r\n\r\n\0\r\nQUIX", b"G", &short] {
            let (mut near, mut far) = tokio::io::duplex(100);
            far.write_all(bytes).await.unwrap();
            // Without waiting for more.
            let error = read(&mut near).await.unwrap_err();
            assert!(matches!(error, ProxyError::Malformed(_)), "{bytes:x?}");
        }
        let too_long = extended(REST_MAX as u16 + 1);
        let error = read(&mut &too_long[..FIXED_BYTES]).await.unwrap_err();
        assert!(matches!(error, ProxyError::TooLong));
        for end in [0, 1, 15, 16, 27] {
            let error = read(&mut &header("192.0.2.7:1")[..end]).await.unwrap_err();
            assert!(matches!(error, ProxyError::Lost(_)), "{end}");
        }
    }

    #[tokio::test]
    async fn it_may_come_in_drips() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let bytes = [header("192.0.2.7:1"), b"then".to_vec()].concat();
        let dripping = tokio::spawn(async move { far.write_all(&bytes).await.unwrap() });
        let client = read(&mut near).await.unwrap();
        assert_eq!(client, Some("192.0.2.7".parse().unwrap()));
        let mut rest = String::new();
        near.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "then");
        dripping.await.unwrap();
    }
}
