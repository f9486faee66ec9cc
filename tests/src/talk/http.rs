//! HTTP as simply as it goes: a connection for each request.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take: a node that waits for the database says so before.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A response.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body, when the status is as expected.
    pub fn expect(self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "not {status}: {self:?}");
        Ok(self.body)
    }
}

/// Asks, and waits for the answer.
pub(super) async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<Answer> {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    if let Some(token) = token {
        request += &format!("authorization: Bearer {token}\r\n");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        let length = body.len();
        request += &format!("content-type: application/json\r\ncontent-length: {length}\r\n");
    }
    request += "\r\n";
    request += &body;
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        read(&String::from_utf8(response)?)
    };
    let answer = timeout(ANSWER_WITHIN, asking).await;
    answer
        .context("no answer in time")
        .flatten()
        .with_context(|| format!("{method} {path}"))
}

fn read(response: &str) -> Result<Answer> {
    let (head, body) = response.split_once("\r\n\r\n").context("cut off")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let length: usize = length.context("no length")?.parse()?;
    ensure!(body.len() == length, "{} of {length} bytes", body.len());
    let body = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
    Ok(Answer { status, body })
}
