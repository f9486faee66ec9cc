//! Commands: `POST /v1/up`, and what the other routes ask of the service.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use schema::{Uid, v1};

use super::Api;
use super::bearer::Bearer;
use super::problem::{Problem, ProblemBody};
use super::schema_docs::{ReplyDoc, UpDoc};
use crate::code::Code;
use crate::service::Caller;

/// How long a command may take. It may be carried out still; sending it again with the same `clientMsgId` is safe.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that MQTT can do: one command, answered with its reply.
#[utoipa::path(
    post, path = "/v1/up", tag = "messages", security(("bearer" = [])),
    request_body = UpDoc,
    responses(
        (status = 200, description = "Done, and durable.", body = ReplyDoc),
        (status = 503, description = "Not answered in time; send it again with the same clientMsgId.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused; nothing was changed.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn up(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(up): Json<v1::Up>,
) -> Result<Json<v1::Reply>, Problem> {
    let client_msg_id = up.client_msg_id.clone();
    let ok = execute(&api, caller.uid, up).await?;
    Ok(Json(v1::Reply {
        client_msg_id,
        result: Some(v1::reply::Result::Ok(ok)),
    }))
}

/// Asks what may be asked any number of times.
pub(super) async fn ask(api: &Api, uid: Uid, command: v1::up::Command) -> Result<v1::Ok, Problem> {
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(command),
    };
    execute(api, uid, up).await
}

/// The answer to another question: a defect of ours.
pub(super) fn unexpected() -> Problem {
    Problem::new(Code::Internal, "the answer is to another question")
}

/// Hands a command to the service and waits for its answer.
pub(super) async fn execute(api: &Api, uid: Uid, up: v1::Up) -> Result<v1::Ok, Problem> {
    let caller = Caller {
        uid,
        device: String::new(),
    };
    let reply = tokio::time::timeout(COMMAND_TIMEOUT, api.service.execute(caller, up));
    let Ok(reply) = reply.await else {
        let detail =
            "the command was not answered in time; send it again with the same clientMsgId";
        return Err(Problem::new(Code::Unavailable, detail));
    };
    match reply.result {
        Some(v1::reply::Result::Ok(ok)) => Ok(ok),
        Some(v1::reply::Result::Error(error)) => Err(error.into()),
        None => Err(Problem::new(Code::Internal, "the reply is empty")),
    }
}
