//! What administrators have done, and what the word filter has marked for them.

use std::time::SystemTime;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::{Timestamp, v1};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::problem::{Problem, ProblemBody};
use super::super::schema_docs::MessageDoc;
use super::super::{Api, private};
use super::{Admin, limit};
use crate::clock;
use crate::code::Code;
use crate::store::audit::{self, Act};
use crate::store::{self, flags, views};

/// Which marked messages.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FlagsQuery {
    /// Only those that are dealt with, or only others; left out: all.
    done: Option<bool>,
    /// Only messages before this one: the last of the page before.
    before: Option<u64>,
    /// 1–500 messages; left out or 0: 100.
    limit: Option<u32>,
}

/// Marked messages, latest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Flags)]
pub(crate) struct FlagsView {
    flags: Vec<FlagView>,
}

/// A marked message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Flag)]
struct FlagView {
    /// The words that it was marked for.
    words: String,
    /// When an administrator has dealt with it; left out: not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    done_at: Option<Timestamp>,
    #[schema(value_type = MessageDoc)]
    message: v1::Message,
}

/// Which part of the audit log.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only what this administrator has done; `$operator`: by the command line.
    uid: Option<String>,
    /// Only entries before this one: the last of the page before.
    before: Option<u64>,
    /// 1–500 entries; left out or 0: 100.
    limit: Option<u32>,
}

/// What was done, latest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Audit)]
pub(crate) struct AuditView {
    entries: Vec<EntryView>,
}

/// What an administrator has done.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct EntryView {
    id: String,
    /// The administrator; `$operator`: by the command line.
    uid: String,
    /// `user.add`, `user.delete`, `user.kick`, `user.password`, `user.export`, `flags.read`, `flags.done` or `words.reload`.
    action: String,
    /// Whom or what it was done to.
    target: String,
    detail: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// How many words there are.
#[derive(Serialize, ToSchema)]
#[schema(as = WordsReloaded)]
pub(crate) struct WordsView {
    entries: usize,
}

/// Messages that the word filter has marked. The audit log tells who has read them.
#[utoipa::path(
    get, path = "/v1/admin/flags", tag = "admin", security(("bearer" = [])), params(FlagsQuery),
    responses(
        (status = 200, description = "The messages.", body = FlagsView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn flags(
    State(api): State<Api>,
    admin: Admin,
    Query(query): Query<FlagsQuery>,
) -> Result<Response, Problem> {
    let db = api.store.reader();
    let found = flags::list(db, query.done, query.before, limit(query.limit)?).await?;
    let ids: Vec<u64> = found.iter().map(|flag| flag.msg_id).collect();
    let mut messages = views::messages_by_id(db, admin.uid(), &ids).await?;
    for flag in &found {
        if let Some(seq) = flag.archived_seq {
            let conversation = (flag.conversation_id, flag.conversation.as_str());
            let (store, seqs) = (&api.store, [seq]);
            let archived =
                views::archived_messages(store, admin.uid(), conversation, &seqs).await?;
            messages.extend(archived.into_iter().map(|it| (it.msg_id, it)));
        }
    }
    let flags: Vec<FlagView> = found
        .into_iter()
        .filter_map(|flag| {
            let message = messages.remove(&flag.msg_id)?;
            Some(FlagView {
                words: flag.words,
                done_at: flag.done_at.map(timestamp),
                message: v1::Message {
                    conversation: flag.conversation,
                    ..message
                },
            })
        })
        .collect();
    let detail = format!("{} messages", flags.len());
    let act = Act {
        by: admin.uid().as_str(),
        action: "flags.read",
        target: "",
        detail: &detail,
    };
    // First: who can't be noted does not read.
    api.note(act).await?;
    Ok(private(FlagsView { flags }))
}

/// Notes that a marked message is dealt with.
#[utoipa::path(
    post, path = "/v1/admin/flags/{msg_id}/done", tag = "admin", security(("bearer" = [])),
    params(("msg_id" = String, Path, description = "The message.")),
    responses(
        (status = 204, description = "Noted."),
        (status = 404, description = "It is not marked.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn settle_flag(
    State(api): State<Api>,
    admin: Admin,
    Path(msg_id): Path<String>,
) -> Result<StatusCode, Problem> {
    let no_such = || Problem::not_found("marked message");
    let id: u64 = msg_id.parse().map_err(|_| no_such())?;
    let now = SystemTime::now();
    let act = Act {
        by: admin.uid().as_str(),
        action: "flags.done",
        target: &id.to_string(),
        detail: "",
    };
    let settle = || async {
        let tx = api.store.begin().await?;
        let is_marked = flags::set_done(&tx, id, now).await?;
        if is_marked {
            audit::add(&tx, act, now).await?;
            tx.commit().await.map_err(store::Error::from)?;
        }
        Ok::<_, store::Error>(is_marked)
    };
    match store::repeat(settle).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_such()),
    }
}

/// What administrators have done, latest first.
#[utoipa::path(
    get, path = "/v1/admin/audit", tag = "admin", security(("bearer" = [])), params(AuditQuery),
    responses(
        (status = 200, description = "The entries.", body = AuditView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn audit(
    State(api): State<Api>,
    _: Admin,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let range = audit::Range {
        by: query.uid.as_deref(),
        before: query.before,
        limit: limit(query.limit)?,
    };
    let entries = audit::list(api.store.reader(), range).await?;
    let entries = entries.into_iter().map(|entry| EntryView {
        id: entry.id.to_string(),
        uid: entry.by,
        action: entry.action,
        target: entry.target,
        detail: entry.detail,
        at: timestamp(entry.at),
    });
    Ok(private(AuditView {
        entries: entries.collect(),
    }))
}

/// Reads the list of words again. One that can't be used changes nothing.
#[utoipa::path(
    post, path = "/v1/admin/words/reload", tag = "admin", security(("bearer" = [])),
    responses(
        (status = 200, description = "It is in use; without a configured file it has no entries.", body = WordsView),
        (status = 409, description = "It can't be used; the old one stays.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn reload_words(
    State(api): State<Api>,
    admin: Admin,
) -> Result<Response, Problem> {
    let act = Act {
        by: admin.uid().as_str(),
        action: "words.reload",
        target: "",
        detail: "",
    };
    api.note(act).await?;
    let words = api.service.words().clone();
    let reloaded = tokio::task::spawn_blocking(move || words.reload()).await;
    let reloaded = reloaded.map_err(|error| Problem::internal(&error))?;
    let entries = reloaded.map_err(|error| Problem::new(Code::Conflict, store::chain(&error)))?;
    Ok(private(WordsView { entries }))
}

pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from_millis(clock::millis(time))
}
