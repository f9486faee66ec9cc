//! As much HTTP as accounts need: one request per connection, JSON both ways.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a request may take; hashing a password waits for its turn.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Posts `body`, as the one whom the token belongs to or as a stranger, and returns the answer.
pub(super) async fn post(
    address: &str,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> anyhow::Result<Value> {
    let body = body.to_string();
    let bearer = token.map_or(String::new(), |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let headers = format!(
        "{bearer}content-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    request(address, "POST", path, &headers, &body).await
}

/// Gets what is at `path`, as the one whom the token belongs to.
pub(super) async fn get(address: &str, path: &str, token: &str) -> anyhow::Result<Value> {
    let headers = format!("authorization: Bearer {token}\r\n");
    request(address, "GET", path, &headers, "").await
}

async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> anyhow::Result<Value> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n{body}"
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(TIMEOUT, exchange).await;
    let answer = answer
        .map_err(anyhow::Error::from)
        .and_then(|answer| Ok(answer?));
    let answer = answer.with_context(|| format!("{method} http://{address}{path}"))?;
    parse(&answer).with_context(|| format!("{method} http://{address}{path}"))
}

/// The JSON of a successful answer.
fn parse(answer: &[u8]) -> anyhow::Result<Value> {
    let answer = std::str::from_utf8(answer).context("not UTF-8")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("cut off")?;
    let status = head.split(' ').nth(1).context("no status")?;
    if !status.starts_with('2') {
        bail!("{status} {body}");
    }
    serde_json::from_str(body).context("not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_has_a_value() {
        let parse = |text: &str| parse(text.as_bytes());
        let value = parse("HTTP/1.1 201 Created\r\nx: y\r\n\r\n{\"uid\":\"a\"}").unwrap();
        assert_eq!(value["uid"], "a");
        let error = parse("HTTP/1.1 409 Conflict\r\n\r\n{\"code\":\"x\"}").unwrap_err();
        assert_eq!(error.to_string(), "409 {\"code\":\"x\"}");
        assert!(parse("HTTP/1.1 200 OK\r\n").is_err());
    }
}
