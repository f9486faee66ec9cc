//! Who has received and read a message.

use axum::extract::{Path, State};
use axum::response::Response;
use schema::v1;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bearer::Bearer;
use super::command::execute;
use super::problem::{Problem, ProblemBody};
use super::{Api, private};
use crate::code::Code;

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show))
}

/// How far one of the caller's messages has come, among those for whom it was.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MessageReceipts)]
pub(super) struct ReceiptsView {
    msg_id: String,
    /// `u:{a}:{b}` or `g:{gid}`
    #[schema(example = "g:team")]
    conversation: String,
    seq: u32,
    /// uids of those who have read it, as far as they tell.
    read: Vec<String>,
    /// uids of the others.
    unread: Vec<String>,
    /// uids of those whom it has reached, or who have read it.
    delivered: Vec<String>,
    read_count: usize,
    unread_count: usize,
    delivered_count: usize,
}

impl From<v1::Receipts> for ReceiptsView {
    fn from(receipts: v1::Receipts) -> Self {
        let seq = receipts.seq;
        let uids = |is_one: fn(&v1::Receipt, u32) -> bool| -> Vec<String> {
            let found = receipts.members.iter().filter(|member| is_one(member, seq));
            found.map(|member| member.uid.clone()).collect()
        };
        let read = uids(|member, seq| member.read_seq >= seq);
        let unread = uids(|member, seq| member.read_seq < seq);
        let delivered = uids(|member, seq| member.delivered_seq >= seq);
        ReceiptsView {
            msg_id: receipts.msg_id.to_string(),
            conversation: receipts.conversation,
            seq,
            read_count: read.len(),
            unread_count: unread.len(),
            delivered_count: delivered.len(),
            read,
            unread,
            delivered,
        }
    }
}

/// Who has received and read one of the caller's messages. Members who came in later don't count.
#[utoipa::path(
    get, path = "/v1/messages/{msg_id}/receipts", tag = "messages", security(("bearer" = [])),
    params(("msg_id" = String, Path)),
    responses(
        (status = 200, description = "The receipts.", body = ReceiptsView),
        (status = 404, description = "No such message, or the caller did not send it.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(msg_id): Path<String>,
) -> Result<Response, Problem> {
    // What is no id is asked for as the one that no message has, so that the answer is the same.
    let msg_id = msg_id.parse().unwrap_or_default();
    let up = v1::Up {
        client_msg_id: String::new(),
        command: Some(Command::GetReceipts(v1::GetReceipts { msg_id })),
    };
    match execute(&api, caller.uid, up).await?.answer {
        Some(Answer::Receipts(receipts)) => Ok(private(ReceiptsView::from(*receipts))),
        _ => Err(Problem::new(Code::Internal, "the answer holds no receipts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_by_how_far_they_are() {
        let receipt = |uid: &str, delivered_seq: u32, read_seq: u32| v1::Receipt {
            uid: uid.to_owned(),
            delivered_seq,
            read_seq,
        };
        let view = ReceiptsView::from(v1::Receipts {
            conversation: "g:team".to_owned(),
            msg_id: u64::MAX,
            seq: 5,
            members: vec![
                receipt("bob", 9, 5),
                receipt("carol", 5, 4),
                receipt("dave", 4, 0),
            ],
            read_count: 1,
            delivered_count: 2,
        });
        let expected = serde_json::json!({
            "msgId": "18446744073709551615", "conversation": "g:team", "seq": 5,
            "read": ["bob"], "unread": ["carol", "dave"], "delivered": ["bob", "carol"],
            "readCount": 1, "unreadCount": 2, "deliveredCount": 2,
        });
        assert_eq!(serde_json::to_value(view).unwrap(), expected);
    }
}
