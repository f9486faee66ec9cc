//! The HTTP API as a person uses it.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use schema::v1::{Message, Reply, Up};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Request;

use crate::tunnel::Tunnel;
use crate::wait::{PATIENCE, eventually};

/// One person's access to the API, or a stranger's.
#[derive(Clone)]
pub struct Api {
    agent: Agent,
    base: String,
    pub tokens: Option<Tokens>,
}

/// What a login gives.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Method and path, for messages.
    pub request: String,
    pub status: u16,
    pub content_type: String,
    /// Seconds after which to ask again.
    pub retry_after: Option<u64>,
    /// The JSON, or the text when it is none.
    pub body: Value,
}

/// One page of history.
#[derive(Clone, Debug)]
pub struct Page {
    pub messages: Vec<Message>,
    pub last_seq: u64,
    pub more: bool,
}

/// Largest page that the API gives.
const PAGE_LIMIT: u32 = 500;
/// Room for a page of the longest messages.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

// === impl Api ===

impl Api {
    /// Without a login.
    pub fn anonymous(address: SocketAddr) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            // A connection kept from before a kill would fail the next request.
            .max_idle_connections(0);
        Api {
            agent: config.build().into(),
            base: format!("http://{address}"),
            tokens: None,
        }
    }

    /// The same server with a user's tokens.
    pub async fn login(&self, uid: &str, password: &str) -> Result<Self> {
        let login = json!({ "uid": uid, "password": password });
        let answer = self.post("/v1/auth/login", &login).await?;
        self.with_tokens(&answer.expect(200)?)
    }

    /// The same server with the tokens that a login or a refresh has given.
    pub fn with_tokens(&self, given: &Value) -> Result<Self> {
        ensure!(number(given, "expiresIn") > 0, "no lifetime in {given}");
        Ok(Api {
            tokens: Some(Tokens {
                access: text(given, "accessToken")?,
                refresh: text(given, "refreshToken")?,
            }),
            ..self.clone()
        })
    }

    /// The tokens of a logged-in user.
    pub fn tokens(&self) -> Result<&Tokens> {
        self.tokens.as_ref().context("nobody is logged in")
    }

    /// The same through a tunnel.
    pub fn through(&self, tunnel: &Tunnel) -> Self {
        self.at(tunnel.address())
    }

    /// The same user at another server, or another way to this one.
    pub fn at(&self, address: SocketAddr) -> Self {
        Api {
            base: format!("http://{address}"),
            ..self.clone()
        }
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.post_text(path, &body.to_string()).await
    }

    /// Posts what need not be JSON as JSON.
    pub async fn post_text(&self, path: &str, body: &str) -> Result<Answer> {
        self.call("POST", path, Some(body.to_owned())).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call("PUT", path, Some(body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call("PATCH", path, Some(body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.call("DELETE", path, None).await
    }

    /// A DELETE that says more than its path.
    pub async fn delete_with(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call("DELETE", path, Some(body.to_string())).await
    }

    /// `POST /v1/up`, for what should succeed.
    pub async fn up(&self, up: &Up) -> Result<schema::v1::Ok> {
        let answer = self.post("/v1/up", &serde_json::to_value(up)?).await?;
        let reply: Reply = serde_json::from_value(answer.expect(200)?)?;
        crate::client::ok_of(reply)
    }

    /// `POST /v1/up`, whatever comes of it: what is answered, or the error's code.
    pub async fn ask(&self, up: &Up) -> Result<Result<schema::v1::Ok, String>> {
        let answer = self.post("/v1/up", &serde_json::to_value(up)?).await?;
        if answer.status != 200 {
            return text(&answer.body, "code").map(Err);
        }
        let reply: Reply = serde_json::from_value(answer.body)?;
        crate::client::ok_of(reply).map(Ok)
    }

    /// `POST /v1/groups`; returns the gid that the server chose.
    pub async fn create_group(&self, members: &[&str]) -> Result<String> {
        let group = json!({ "name": "Neighbours", "members": members });
        let created = self.post("/v1/groups", &group).await?.expect(201)?;
        text(&created, "gid")
    }

    /// The rows of a group's members.
    pub async fn members(&self, gid: &str) -> Result<Vec<Value>> {
        let path = format!("/v1/groups/{gid}/members");
        let answer = self.get(&path).await?.expect(200)?;
        Ok(list(&answer, "members"))
    }

    /// One member's row.
    pub async fn member(&self, gid: &str, uid: &str) -> Result<Value> {
        let members = self.members(gid).await?;
        let found = members.into_iter().find(|member| member["uid"] == uid);
        found.with_context(|| format!("no {uid} among the members of {gid}"))
    }

    /// The rows of the user's conversations.
    pub async fn conversations(&self) -> Result<Vec<Value>> {
        let answer = self.get("/v1/conversations").await?.expect(200)?;
        Ok(list(&answer, "conversations"))
    }

    /// A page of a conversation; `query` is `after_seq=…`, `before_seq=…`, `limit=…`.
    pub async fn page(&self, conversation: &str, query: &str) -> Result<Page> {
        let path = format!("/v1/conversations/{conversation}/messages?{query}");
        let page = self.get(&path).await?.expect(200)?;
        let messages = Value::Array(list(&page, "messages"));
        Ok(Page {
            messages: serde_json::from_value(messages)?,
            last_seq: number(&page, "lastSeq"),
            more: page["more"].as_bool().unwrap_or(false),
        })
    }

    /// The whole conversation, oldest first.
    pub async fn history(&self, conversation: &str) -> Result<Vec<Message>> {
        let mut history: Vec<Message> = Vec::new();
        loop {
            let after = history.last().map_or(0, |message| message.seq);
            let query = format!("after_seq={after}&limit={PAGE_LIMIT}");
            let page = self.page(conversation, &query).await?;
            let progress = !page.messages.is_empty();
            history.extend(page.messages);
            if !page.more {
                return Ok(history);
            }
            ensure!(progress, "an empty page that says there is more: {query}");
        }
    }

    /// A sample of `/metrics`, named with its labels; 0 where nothing was counted yet.
    pub async fn metric(&self, sample: &str) -> Result<f64> {
        let metrics = self.get("/metrics").await?.expect(200)?;
        let lines = metrics.as_str().context("metrics are text")?.lines();
        let mut samples = lines.filter_map(|line| line.rsplit_once(' '));
        match samples.find(|(name, _)| *name == sample) {
            Some((_, value)) => Ok(value.parse()?),
            None => Ok(0.0),
        }
    }

    /// Waits until `/readyz` has that status: 200 or 503.
    pub async fn until_ready(&self, status: u16) -> Result<()> {
        eventually(&format!("/readyz says {status}"), async || {
            Ok(self.get("/readyz").await?.status == status)
        })
        .await
    }

    async fn call(&self, method: &str, path: &str, body: Option<String>) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if let Some(tokens) = &self.tokens {
            request = request.header("authorization", format!("Bearer {}", tokens.access));
        }
        let agent = self.agent.clone();
        let name = format!("{method} {path}");
        let context = name.clone();
        let call = move || -> Result<Answer> {
            let response = match body {
                Some(body) => {
                    let request = request.header("content-type", "application/json");
                    agent.run(request.body(body)?)?
                }
                None => agent.run(request.body(())?)?,
            };
            read_answer(name, response)
        };
        // ureq blocks; the test's other clients must go on meanwhile.
        tokio::task::spawn_blocking(call).await?.context(context)
    }
}

fn read_answer(request: String, mut response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let header = |name| {
        let value = response.headers().get(name);
        value.map(|value| value.to_str().unwrap_or("?").to_owned())
    };
    let content_type = header("content-type").unwrap_or_default();
    let retry_after = header("retry-after").and_then(|seconds| seconds.parse().ok());
    let body = response.body_mut().with_config().limit(BODY_BYTES_MAX);
    let text = body.read_to_string()?;
    Ok(Answer {
        request,
        status: response.status().as_u16(),
        content_type,
        retry_after,
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
    })
}

// === impl Answer ===

impl Answer {
    /// The body, when the status is as expected.
    pub fn expect(self, status: u16) -> Result<Value> {
        ensure!(
            self.status == status,
            "{}: {} instead of {status}: {}",
            self.request,
            self.status,
            self.body
        );
        Ok(self.body)
    }

    /// Any 2xx.
    pub fn success(self) -> Result<Value> {
        let status = self.status;
        ensure!((200..300).contains(&status), "refused: {self:?}");
        Ok(self.body)
    }

    /// Checks that this is problem details (RFC 9457) with this status and code.
    pub fn problem(self, status: u16, code: &str) -> Result<()> {
        ensure!(self.status == status, "{status} expected: {self:?}");
        ensure!(
            self.content_type.starts_with("application/problem+json"),
            "not problem details: {self:?}"
        );
        for field in ["type", "title", "detail"] {
            ensure!(self.body[field].is_string(), "no {field}: {self:?}");
        }
        ensure!(self.body["status"] == status, "no status: {self:?}");
        ensure!(self.body["code"] == code, "{code} expected: {self:?}");
        Ok(())
    }
}

// === canonical protobuf JSON ===

/// A number, which JSON leaves out when it is 0 and writes as text when it has 64 bits.
pub fn number(row: &Value, field: &str) -> u64 {
    match &row[field] {
        Value::String(text) => text.parse().unwrap_or_default(),
        value => value.as_u64().unwrap_or_default(),
    }
}

fn text(row: &Value, field: &str) -> Result<String> {
    let text = row[field].as_str();
    Ok(text.with_context(|| format!("no {field} in {row}"))?.into())
}

/// A list, which JSON leaves out when it is empty.
fn list(row: &Value, field: &str) -> Vec<Value> {
    row[field].as_array().cloned().unwrap_or_default()
}
