//! Contacts, requests and blocks.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::{Uid, v1};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::schema_docs::{ContactDoc, ContactListDoc};
use super::{Api, private};
use crate::code::Code;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, request))
        .routes(routes!(accept))
        .routes(routes!(refuse))
        .routes(routes!(note, remove))
        .routes(routes!(list_blocks))
        .routes(routes!(block, unblock))
}

/// A request to become contacts.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewContact {
    /// uid of the other user.
    #[schema(example = "bob")]
    user: String,
    /// What the other user is told with it, up to 256 characters.
    #[serde(default)]
    text: String,
    /// Makes it safe to ask twice: the same id gets the first answer.
    #[serde(default, alias = "client_msg_id")]
    client_msg_id: String,
}

/// What the caller notes of a contact; what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContactNotes {
    /// What the caller calls the contact, up to 128 characters; empty: nothing.
    remark: Option<String>,
    /// Groups of contacts that this one is in: up to 32 names of 1–64 characters.
    groups: Option<Vec<String>>,
}

/// How a user is blocked.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewBlock {
    /// The user's messages seem to be sent, and reach nobody. Otherwise they are refused.
    #[serde(default)]
    silent: bool,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// 1–500 contacts; left out or 0: 500.
    #[serde(default)]
    limit: u32,
    /// `next` of the page before; left out: the first page.
    #[serde(default)]
    page: String,
}

/// The caller's contacts, requests and blocks, by uid.
#[utoipa::path(
    get, path = "/v1/contacts", tag = "contacts", security(("bearer" = [])), params(ListQuery),
    responses(
        (status = 200, description = "The contacts.", body = ContactListDoc),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    page(&api, caller.uid, query, false).await
}

/// Asks a user to become a contact. Where that user has asked already, they are contacts at once.
#[utoipa::path(
    post, path = "/v1/contacts", tag = "contacts", security(("bearer" = [])),
    responses(
        (status = 200, description = "The contact as it stands now.", body = ContactDoc),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The caller has blocked that user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn request(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Json(request): Json<NewContact>,
) -> Result<Json<v1::Contact>, Problem> {
    let command = Command::ContactRequest(v1::ContactRequest {
        user: request.user,
        text: request.text,
    });
    change(&api, caller.uid, request.client_msg_id, command).await
}

/// Takes up a user's request.
#[utoipa::path(
    post, path = "/v1/contacts/{uid}/accept", tag = "contacts", security(("bearer" = [])),
    params(("uid" = String, Path)),
    responses(
        (status = 200, description = "The contact as it stands now.", body = ContactDoc),
        (status = 404, description = "That user has not asked.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn accept(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
) -> Result<Json<v1::Contact>, Problem> {
    let command = Command::ContactAccept(v1::ContactAccept { user: uid });
    change(&api, caller.uid, String::new(), command).await
}

/// Turns a user's request down. The user is not told.
#[utoipa::path(
    post, path = "/v1/contacts/{uid}/refuse", tag = "contacts", security(("bearer" = [])),
    params(("uid" = String, Path)),
    responses(
        (status = 200, description = "The contact as it stands now.", body = ContactDoc),
        (status = 404, description = "That user has not asked.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn refuse(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
) -> Result<Json<v1::Contact>, Problem> {
    let command = Command::ContactRefuse(v1::ContactRefuse { user: uid });
    change(&api, caller.uid, String::new(), command).await
}

/// Changes what the caller notes of a contact.
#[utoipa::path(
    patch, path = "/v1/contacts/{uid}", tag = "contacts", security(("bearer" = [])),
    params(("uid" = String, Path)),
    responses(
        (status = 200, description = "The contact as it stands now.", body = ContactDoc),
        (status = 404, description = "Not a contact.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn note(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
    Json(notes): Json<ContactNotes>,
) -> Result<Json<v1::Contact>, Problem> {
    let command = Command::ContactSet(v1::ContactSet {
        user: uid,
        remark: notes.remark,
        groups: notes.groups.map(|names| v1::ContactLabels { names }),
    });
    change(&api, caller.uid, String::new(), command).await
}

/// Ends a contact on both sides, or takes the caller's own request back.
#[utoipa::path(
    delete, path = "/v1/contacts/{uid}", tag = "contacts", security(("bearer" = [])),
    params(("uid" = String, Path)),
    responses(
        (status = 204, description = "Not a contact any longer."),
        (status = 404, description = "Not a contact.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
) -> Result<StatusCode, Problem> {
    let command = Command::ContactRemove(v1::ContactRemove { user: uid });
    carry_out(&api, caller.uid, command).await
}

/// The users whom the caller has blocked, by uid.
#[utoipa::path(
    get, path = "/v1/blocks", tag = "contacts", security(("bearer" = [])), params(ListQuery),
    responses(
        (status = 200, description = "What the caller has to do with them.", body = ContactListDoc),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list_blocks(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    page(&api, caller.uid, query, true).await
}

/// Keeps a user from writing to the caller.
#[utoipa::path(
    put, path = "/v1/blocks/{uid}", tag = "contacts", security(("bearer" = [])),
    params(("uid" = String, Path)), request_body(content = NewBlock, description = "May be left out."),
    responses(
        (status = 204, description = "It holds from now on."),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn block(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
    block: Option<Json<NewBlock>>,
) -> Result<StatusCode, Problem> {
    let Json(NewBlock { silent }) = block.unwrap_or_default();
    let command = Command::ContactBlock(v1::ContactBlock { user: uid, silent });
    carry_out(&api, caller.uid, command).await
}

/// Ends a block.
#[utoipa::path(
    delete, path = "/v1/blocks/{uid}", tag = "contacts", security(("bearer" = [])),
    params(("uid" = String, Path)),
    responses(
        (status = 204, description = "Not blocked any longer."),
        (status = 404, description = "No such user.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn unblock(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(uid): Path<String>,
) -> Result<StatusCode, Problem> {
    let command = Command::ContactUnblock(v1::ContactUnblock { user: uid });
    carry_out(&api, caller.uid, command).await
}

/// Carries out a command that is answered with the contact.
async fn change(
    api: &Api,
    uid: Uid,
    client_msg_id: String,
    command: Command,
) -> Result<Json<v1::Contact>, Problem> {
    let up = v1::Up {
        client_msg_id,
        command: Some(command),
    };
    match execute(api, uid, up).await?.answer {
        Some(Answer::Contact(contact)) => Ok(Json(*contact)),
        _ => Err(Problem::new(
            Code::Conflict,
            "the clientMsgId belongs to another command",
        )),
    }
}

async fn carry_out(api: &Api, uid: Uid, command: Command) -> Result<StatusCode, Problem> {
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(command),
    };
    execute(api, uid, up).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn page(api: &Api, uid: Uid, query: ListQuery, blocked: bool) -> Result<Response, Problem> {
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(Command::GetContacts(v1::GetContacts {
            limit: query.limit,
            page: query.page,
            blocked,
        })),
    };
    match execute(api, uid, up).await?.answer {
        Some(Answer::Contacts(contacts)) => Ok(private(contacts)),
        _ => Err(Problem::new(Code::Internal, "the reply has no contacts")),
    }
}
