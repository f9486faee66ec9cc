//! A small S3-compatible store in this process: one bucket, path style, and it looks at every signature.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The only bucket.
pub const BUCKET: &str = "messages";
/// Who may use it.
pub const KEY_ID: &str = "AKTEST";
/// With what.
pub const SECRET: &str = "a secret of the tests";
const REGION: &str = "eu-test-1";

/// How the store behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// It answers 503.
    Overloaded,
    /// It takes requests and never answers.
    Silent,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    mood: Mood,
    /// Requests that were not signed by who may use it.
    refused: u32,
    /// By method.
    requests: BTreeMap<String, u32>,
}

/// The store; it ends with this value.
pub struct S3 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl S3 {
    /// An empty one.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let accepting = tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = state.clone();
                    tokio::spawn(async move { serve(stream, &state).await });
                }
            }
        });
        Ok(S3 {
            address,
            state,
            accepting,
        })
    }

    /// The settings of a server that keeps its messages here.
    pub fn settings(&self, secret: &str) -> Vec<(&'static str, String)> {
        vec![
            ("TIDINGS__ARCHIVE__URL", format!("s3://{BUCKET}/chat/cold")),
            (
                "TIDINGS__ARCHIVE__ENDPOINT",
                format!("http://{}", self.address),
            ),
            ("TIDINGS__ARCHIVE__REGION", REGION.to_owned()),
            ("TIDINGS__ARCHIVE__ACCESS_KEY_ID", KEY_ID.to_owned()),
            ("TIDINGS__ARCHIVE__SECRET_ACCESS_KEY", secret.to_owned()),
        ]
    }

    /// From now on it behaves so.
    pub fn be(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// The names of all objects, with their content.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().objects.clone()
    }

    /// Requests that were refused for their signature.
    pub fn refused(&self) -> u32 {
        self.lock().refused
    }

    /// Requests with this method.
    pub fn requests(&self, method: &str) -> u32 {
        self.lock()
            .requests
            .get(method)
            .copied()
            .unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Request {
    method: String,
    /// As it came, percent-encoded.
    path: String,
    /// By name, in small letters.
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Answers requests until the connection ends.
async fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = read(&mut stream).await {
        let mood = state.lock().expect("no test panics with the lock").mood;
        if mood == Mood::Silent {
            return std::future::pending().await;
        }
        let (status, body) = answer(&request, state, mood);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"1\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n",
            body.len()
        );
        let written = async {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await
        };
        if written.await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let (method, path) = words.next().zip(words.next()).context("a request line")?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => break,
        }
    }
    let length = headers
        .get("content-length")
        .map_or(Ok(0), |length| length.parse())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        method,
        path,
        headers,
        body,
    }))
}

fn answer(request: &Request, state: &Mutex<State>, mood: Mood) -> (&'static str, Vec<u8>) {
    let mut state = state.lock().expect("no test panics with the lock");
    *state.requests.entry(request.method.clone()).or_default() += 1;
    if check_signature(request).is_err() {
        state.refused += 1;
        return (
            "403 Forbidden",
            b"<Error><Code>SignatureDoesNotMatch</Code></Error>".to_vec(),
        );
    }
    if mood == Mood::Overloaded {
        return ("503 Slow Down", Vec::new());
    }
    let Some(object) = request.path.strip_prefix(&format!("/{BUCKET}/")) else {
        return (
            "404 Not Found",
            b"<Error><Code>NoSuchBucket</Code></Error>".to_vec(),
        );
    };
    match request.method.as_str() {
        "PUT" => {
            state
                .objects
                .insert(object.to_owned(), request.body.clone());
            ("200 OK", Vec::new())
        }
        "GET" => match state.objects.get(object) {
            Some(bytes) => ("200 OK", bytes.clone()),
            None => (
                "404 Not Found",
                b"<Error><Code>NoSuchKey</Code></Error>".to_vec(),
            ),
        },
        "DELETE" => {
            state.objects.remove(object);
            ("204 No Content", Vec::new())
        }
        _ => ("405 Method Not Allowed", Vec::new()),
    }
}

/// Signature Version 4: <https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>.
fn check_signature(request: &Request) -> Result<()> {
    let header = |name: &str| {
        request
            .headers
            .get(name)
            .with_context(|| format!("no {name}"))
    };
    let authorization = header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ");
    let authorization = authorization.context("another algorithm")?;
    let parts = authorization
        .split(',')
        .filter_map(|part| part.trim().split_once('='));
    let parts: BTreeMap<&str, &str> = parts.collect();
    let part = |name: &str| {
        parts
            .get(name)
            .copied()
            .with_context(|| format!("no {name}"))
    };
    let (credential, signed, signature) = (
        part("Credential")?,
        part("SignedHeaders")?,
        part("Signature")?,
    );
    let (key_id, scope) = credential.split_once('/').context("no scope")?;
    ensure!(key_id == KEY_ID, "another key");
    let [day, region, service, _] = scope.split('/').collect::<Vec<_>>()[..] else {
        bail!("the scope is {scope}");
    };
    ensure!((region, service) == (REGION, "s3"), "the scope is {scope}");
    let payload = header("x-amz-content-sha256")?;
    ensure!(
        *payload == hex(&Sha256::digest(&request.body)),
        "another body"
    );

    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let mut canonical = format!("{}\n{path}\n{query}\n", request.method);
    for name in signed.split(';') {
        canonical.push_str(&format!("{name}:{}\n", header(name)?));
    }
    canonical.push_str(&format!("\n{signed}\n{payload}"));
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        header("x-amz-date")?,
        hex(&Sha256::digest(canonical))
    );
    let mut key = hmac(format!("AWS4{SECRET}").as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        key = hmac(&key, part);
    }
    ensure!(hex(&hmac(&key, &to_sign)) == signature, "another signature");
    Ok(())
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // Keys here are shorter than a block of SHA-256.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(text)
        .finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner);
    outer.finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
