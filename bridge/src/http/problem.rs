//! Errors as RFC 9457 problem details.

use std::error::Error;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schema::v1;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{AuthError, TooManyFailures};
use crate::code::Code;
use crate::store::{self, chain};

const PROBLEM_JSON: &str = "application/problem+json";

/// When to try again, where nothing better is known.
const RETRY_AFTER_MS: u32 = 1000;

/// axum's own messages are shorter than this.
const REJECTION_MAX: usize = 4096;

/// The HTTP status of each code.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Conflict => StatusCode::CONFLICT,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The closest code for a status that only HTTP knows, like 405 and 415.
fn code_of(status: StatusCode) -> Code {
    let exact = Code::ALL
        .into_iter()
        .find(|code| status_of(*code) == status);
    exact.unwrap_or(if status.is_client_error() {
        Code::InvalidArgument
    } else {
        Code::Internal
    })
}

/// An error on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: String,
    retry_after_ms: u32,
}

/// What the client reads.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Always `about:blank`: the status says which kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    #[schema(example = "Not Found")]
    title: &'static str,
    #[schema(example = 404)]
    status: u16,
    /// For people; its wording may change.
    detail: String,
    /// `invalid_argument`, `unauthenticated`, `permission_denied`, `not_found`, `already_exists`, `too_large`,
    /// `rate_limited`, `conflict`, `unavailable` or `internal`.
    #[schema(example = "not_found")]
    code: &'static str,
    /// When another try makes sense; left out: not without a change. `Retry-After` says the same in seconds.
    #[serde(rename = "retryAfterMs", skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u32>,
}

impl Problem {
    /// A problem with a text that the client may read.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let is_passing = matches!(code, Code::RateLimited | Code::Unavailable);
        Problem {
            code,
            status: status_of(code),
            detail: detail.into(),
            retry_after_ms: if is_passing { RETRY_AFTER_MS } else { 0 },
        }
    }

    /// What kind of problem it is.
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// What does not exist, and what the caller may not know to exist.
    pub(super) fn not_found(what: &str) -> Self {
        Problem::new(Code::NotFound, format!("no such {what}"))
    }

    /// A defect of ours: the log gets the cause, the client does not.
    pub(super) fn internal(error: &dyn Error) -> Self {
        tracing::error!(error = %chain(error), "a request failed");
        Problem::new(
            Code::Internal,
            "the server made a mistake; it has been logged",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.as_str(),
            retry_after_ms: (self.retry_after_ms > 0).then_some(self.retry_after_ms),
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.code == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.retry_after_ms > 0 {
            let seconds = self.retry_after_ms.div_ceil(1000);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<v1::Error> for Problem {
    fn from(error: v1::Error) -> Self {
        let problem = Problem::new(Code::from_name(&error.code), error.reason);
        let known = Some(error.retry_after_ms).filter(|ms| *ms > 0);
        Problem {
            retry_after_ms: known.unwrap_or(problem.retry_after_ms),
            ..problem
        }
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unavailable(_) | store::Error::Conflict(_) => {
                tracing::warn!(error = %chain(&error), "a request found no database");
                Problem::new(Code::Unavailable, "the database is unavailable")
            }
            store::Error::Archive(_) => {
                tracing::warn!(error = %chain(&error), "messages in files can't be read");
                Problem::new(Code::Unavailable, "archived messages are unavailable")
            }
            store::Error::Exists(_) | store::Error::Stale | store::Error::Internal(_) => {
                Problem::internal(&error)
            }
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::TooManyFailures(TooManyFailures(wait)) => {
                let problem = Problem::new(Code::RateLimited, error.to_string());
                // Rounded up: 0 would mean that waiting does not help.
                let millis = wait.as_nanos().div_ceil(1_000_000);
                return Problem {
                    retry_after_ms: u32::try_from(millis).unwrap_or(u32::MAX),
                    ..problem
                };
            }
            AuthError::Refused => Code::Unauthenticated,
            AuthError::Invalid(_) => Code::InvalidArgument,
            AuthError::Exists => Code::AlreadyExists,
            AuthError::RegistrationClosed => Code::PermissionDenied,
            AuthError::Busy(_) => Code::Unavailable,
            AuthError::Store(error) => return error.into(),
        };
        Problem::new(code, error.to_string())
    }
}

/// Gives the errors that axum makes by itself (bad JSON, wrong method, too long a body …) the shape of ours.
pub(super) async fn from_response(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || is_json(&response) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, REJECTION_MAX).await.unwrap_or_default();
    let problem = rejected(status, &String::from_utf8_lossy(&text));

    // Headers like Allow stay.
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(CONTENT_TYPE);
    let (ours, body) = problem.into_response().into_parts();
    parts.headers.extend(ours.headers);
    parts.status = ours.status;
    Response::from_parts(parts, Body::new(body))
}

fn rejected(status: StatusCode, text: &str) -> Problem {
    // To axum, JSON that is not of the right form is "unprocessable"; to our clients it is one kind of bad argument.
    let status = match status {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        other => other,
    };
    let code = code_of(status);
    let detail = match text {
        "" => status.canonical_reason().unwrap_or("error"),
        text => text,
    };
    Problem {
        status,
        ..Problem::new(code, detail)
    }
}

fn is_json(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().ends_with(b"json"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn body(response: Response) -> serde_json::Value {
        let bytes = to_bytes(response.into_body(), REJECTION_MAX).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_the_rfc() {
        let response = Problem::not_found("group").into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Not Found", "status": 404,
            "detail": "no such group", "code": "not_found",
        });
        assert_eq!(body(response).await, expected);
    }

    #[test]
    fn each_code_has_its_status_and_headers() {
        for (name, status, header) in [
            ("invalid_argument", 400, None),
            ("unauthenticated", 401, Some((WWW_AUTHENTICATE, "Bearer"))),
            ("permission_denied", 403, None),
            ("not_found", 404, None),
            ("already_exists", 409, None),
            ("conflict", 409, None),
            ("too_large", 413, None),
            ("rate_limited", 429, Some((RETRY_AFTER, "3"))),
            ("unavailable", 503, Some((RETRY_AFTER, "3"))),
            ("internal", 500, None),
            ("unheard_of", 500, None),
        ] {
            let passing = matches!(name, "rate_limited" | "unavailable");
            let error = v1::Error {
                code: name.to_owned(),
                reason: "because".to_owned(),
                retry_after_ms: if passing { 2001 } else { 0 },
            };
            let response = Problem::from(error).into_response();
            assert_eq!(response.status().as_u16(), status, "{name}");
            for candidate in [WWW_AUTHENTICATE, RETRY_AFTER] {
                let expected = header.as_ref().filter(|(key, _)| *key == candidate);
                let found = response.headers().get(&candidate);
                assert_eq!(
                    found.map(HeaderValue::as_bytes),
                    expected.map(|(_, value)| value.as_bytes()),
                    "{name}"
                );
            }
        }
    }

    #[tokio::test]
    async fn whoever_has_to_wait_is_told_how_long() {
        for (wait, millis, seconds) in [
            (Duration::from_micros(1), 1, "1"),
            (Duration::from_millis(2000), 2000, "2"),
            (Duration::from_millis(2001), 2001, "3"),
        ] {
            let error = AuthError::TooManyFailures(TooManyFailures(wait));
            let response = Problem::from(error).into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
            let body = body(response).await;
            assert_eq!(body["code"], "rate_limited");
            assert_eq!(body["retryAfterMs"], millis);
        }
    }

    #[tokio::test]
    async fn what_axum_refuses_gets_the_same_shape() {
        for (status, text, expected, code) in [
            (405, "", 405, "invalid_argument"),
            (415, "Expected JSON", 415, "invalid_argument"),
            (422, "missing field `uid`", 400, "invalid_argument"),
            (413, "length limit exceeded", 413, "too_large"),
            (404, "", 404, "not_found"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let response = from_response((status, [("allow", "GET")], text).into_response()).await;
            assert_eq!(response.status().as_u16(), expected);
            assert_eq!(response.headers()["allow"], "GET");
            assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
            assert_eq!(body(response).await["code"], code);
        }
        let fine = from_response("text".into_response()).await;
        assert_eq!(fine.status(), StatusCode::OK);
    }
}
