//! What the server tells over HTTP, against the reference.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use schema::v1::Message;
use serde_json::Value;

use super::chat::{Chat, Conversation, is_same_text};
use super::run::World;
use crate::http::number;
use crate::{Api, eventually};

impl World {
    /// At a quiet point: everybody's list, and one user's look at everything else.
    pub(super) async fn compare_some(&mut self) -> Result<()> {
        let chat = &self.chat;
        try_join_all(
            self.apis
                .iter()
                .map(|(uid, api)| compare_list(uid, api, chat)),
        )
        .await?;
        let uids: Vec<&String> = self.apis.keys().collect();
        let uid = uids[self.planner.any(uids.len())].clone();
        self.compare_as(&uid).await
    }

    /// At the end.
    pub(super) async fn compare_everything(&mut self) -> Result<()> {
        let uids: Vec<String> = self.apis.keys().cloned().collect();
        for uid in uids {
            self.compare_as(&uid).await?;
        }
        Ok(())
    }

    async fn compare_as(&mut self, uid: &str) -> Result<()> {
        let api = &self.apis[uid];
        for (name, conversation) in &mut self.chat.conversations {
            let context = || format!("{name} as {uid} sees it");
            let limit = self.planner.any(30) + 1;
            if conversation.has(uid) {
                compare_pages(uid, api, (name, conversation), limit)
                    .await
                    .with_context(context)?;
                compare_members(api, (name, conversation))
                    .await
                    .with_context(context)?;
                compare_receipts(uid, api, conversation)
                    .await
                    .with_context(context)?;
            } else {
                ensure_hidden(api, name).await.with_context(context)?;
            }
        }
        Ok(())
    }
}

/// The list of conversations: which, in which order, and what is unread.
async fn compare_list(uid: &str, api: &Api, chat: &Chat) -> Result<()> {
    let answer = api.get("/v1/conversations").await?.expect(200)?;
    let rows = answer["conversations"].as_array().cloned();
    let rows = rows.unwrap_or_default();
    let context = || format!("{uid}'s list of conversations is {answer}");
    let mut by_name: BTreeMap<&str, &Value> = BTreeMap::new();
    for row in &rows {
        by_name.insert(row["conversation"].as_str().unwrap_or_default(), row);
    }
    let is_listed = |(_, conversation): &(&String, &Conversation)| {
        let deleted_at = conversation.members[uid].view.deleted_at;
        deleted_at.is_none_or(|seq| conversation.last_seq() > seq)
    };
    let listed: Vec<&str> = by_name.keys().copied().collect();
    let expected: Vec<_> = chat.of(uid).filter(is_listed).collect();
    let names: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(listed == names, "{}: not {names:?}", context());
    let mut total = 0;
    for (name, conversation) in expected {
        let row = by_name[name.as_str()];
        let compared = compare_row(uid, row, conversation);
        compared.with_context(|| format!("{}: {name}", context()))?;
        total += u64::from(conversation.unread(uid));
    }
    ensure!(
        number(&answer, "totalUnread") == total,
        "{}: not {total}",
        context()
    );
    let activity = rows.iter().filter(|row| !row["lastMessage"].is_null());
    let activity: Vec<(bool, u64)> = activity
        .map(|row| {
            let is_pinned = row["pinnedAt"].is_string();
            // In which order pinned ones are is left open.
            let newest = number(&row["lastMessage"], "msgId");
            (is_pinned, if is_pinned { 0 } else { newest })
        })
        .collect();
    let is_sorted = activity.is_sorted_by(|a, b| a >= b);
    ensure!(is_sorted, "{}: not by latest activity", context());
    Ok(())
}

fn compare_row(uid: &str, row: &Value, conversation: &Conversation) -> Result<()> {
    let member = &conversation.members[uid];
    let is = ["lastSeq", "lastReadSeq", "unread", "mentions"].map(|field| number(row, field));
    let (unread, mentions) = (conversation.unread(uid), conversation.mentions(uid));
    let should_be = [conversation.last_seq(), member.read, unread, mentions].map(u64::from);
    ensure!(is == should_be, "{row} is not at {should_be:?}");
    let last: Option<Message> = match &row["lastMessage"] {
        Value::Null => None,
        message => Some(serde_json::from_value(message.clone())?),
    };
    let visible = conversation.visible(uid);
    let is_newest = match (&last, visible.last()) {
        (Some(last), Some(newest)) => is_same_text(last, newest),
        (last, newest) => last.is_none() && newest.is_none(),
    };
    ensure!(is_newest, "{row}: not {:?}", visible.last());
    let flags = ["archived", "markedUnread"].map(|field| row[field] == true);
    let draft = row["draft"].as_str().unwrap_or_default();
    let view = &member.view;
    ensure!(
        flags == [view.archived, view.marked_unread]
            && row["pinnedAt"].is_string() == view.pinned
            && draft == view.draft,
        "{row}: not {view:?}"
    );
    Ok(())
}

/// The history, forward and backward, page by page.
async fn compare_pages(
    uid: &str,
    api: &Api,
    (name, conversation): (&str, &Conversation),
    limit: usize,
) -> Result<()> {
    let visible = conversation.visible(uid);
    let mut forward: Vec<Message> = Vec::new();
    loop {
        let after = forward.last().map_or(0, |message| message.seq);
        let query = format!("after_seq={after}&limit={limit}");
        let page = api.page(name, &query).await?;
        let rest = visible.len() - forward.len();
        let (count, more) = (page.messages.len(), rest > limit);
        ensure!(count == rest.min(limit), "{query}: {count} messages");
        ensure!(page.more == more, "{query}: more is {}", page.more);
        forward.extend(page.messages);
        if !more {
            break;
        }
    }
    ensure_equal(&forward, &visible)?;
    let mut backward: Vec<Message> = Vec::new();
    loop {
        let query = match backward.first() {
            Some(first) => format!("before_seq={}&limit={limit}", first.seq),
            None => format!("limit={limit}"),
        };
        let mut page = api.page(name, &query).await?;
        let last_seq = u64::from(conversation.last_seq());
        ensure!(page.last_seq == last_seq, "{query}: {}", page.last_seq);
        page.messages.append(&mut backward);
        backward = page.messages;
        if !page.more {
            break;
        }
    }
    ensure_equal(&backward, &visible)
}

fn ensure_equal(pages: &[Message], visible: &[&Message]) -> Result<()> {
    let mut pairs = pages.iter().zip(visible);
    let differing = pairs.find(|(is, should_be)| is != *should_be);
    ensure!(
        differing.is_none() && pages.len() == visible.len(),
        "{} messages instead of {}, and different: {differing:?}",
        pages.len(),
        visible.len()
    );
    Ok(())
}

/// How far the members of a group are. Acknowledgements may still be on their way.
async fn compare_members(api: &Api, (name, conversation): (&str, &mut Conversation)) -> Result<()> {
    let (Some(gid), Some(owner)) = (name.strip_prefix("g:"), &conversation.owner) else {
        return Ok(());
    };
    let mut rows = Vec::new();
    eventually("acknowledgements count", async || {
        rows = api.members(gid).await?;
        Ok(rows.iter().all(|row| {
            let member = conversation.members.get(uid_of(row));
            let acked = number(row, "lastAckSeq") as u32;
            member.is_none_or(|member| acked >= member.acked.lo)
        }))
    })
    .await?;
    let uids: Vec<&str> = rows.iter().map(uid_of).collect();
    let expected: Vec<&String> = conversation.members.keys().collect();
    ensure!(uids == expected, "members {uids:?} instead of {expected:?}");
    for row in &rows {
        let uid = uid_of(row);
        let member = &conversation.members[uid];
        let role = if uid == owner { "owner" } else { "member" };
        ensure!(row["role"] == role, "{row}: not {role}");
        let read = number(row, "lastReadSeq") as u32;
        ensure!(read == member.read, "{row}: read up to {}", member.read);
        let acked = number(row, "lastAckSeq") as u32;
        ensure!(
            member.acked.contains(acked),
            "{row}: acked {:?}",
            member.acked
        );
        let msg_id = match acked > member.start {
            true => conversation.at(acked).map_or(0, |message| message.msg_id),
            false => 0,
        };
        ensure!(number(row, "lastAckMsgid") == msg_id, "{row}: not {msg_id}");
    }
    for row in &rows {
        let acked = number(row, "lastAckSeq") as u32;
        if let Some(member) = conversation.members.get_mut(uid_of(row)) {
            member.acked.lo = acked;
        }
    }
    Ok(())
}

fn uid_of(row: &Value) -> &str {
    row["uid"].as_str().unwrap_or_default()
}

/// Who has received and read the newest message of one's own.
async fn compare_receipts(uid: &str, api: &Api, conversation: &Conversation) -> Result<()> {
    let visible = conversation.visible(uid);
    let mut own = visible.iter().rev();
    let Some(message) = own.find(|message| message.sender == uid && message.kind != "system")
    else {
        return Ok(());
    };
    let path = format!("/v1/messages/{}/receipts", message.msg_id);
    let receipts = api.get(&path).await?.expect(200)?;
    let uids = |field: &str| -> BTreeSet<&str> {
        let uids = receipts[field].as_array().into_iter().flatten();
        uids.filter_map(Value::as_str).collect()
    };
    let (read, unread, delivered) = (uids("read"), uids("unread"), uids("delivered"));
    let counts = ["readCount", "unreadCount", "deliveredCount"];
    let counts = counts.map(|field| number(&receipts, field) as usize);
    ensure!(
        counts == [read.len(), unread.len(), delivered.len()],
        "{receipts}: other counts than uids"
    );
    let members = conversation.members.iter();
    for (other, member) in members.filter(|(other, _)| *other != uid) {
        let was_for = member.start < message.seq;
        let has_read = was_for && member.read >= message.seq;
        let told = [&read, &unread].map(|uids| uids.contains(&**other));
        let should_be = [has_read, was_for && !has_read];
        ensure!(told == should_be, "{receipts}: {other} is {member:?}");
        let surely = has_read || was_for && member.acked.lo >= message.seq;
        let perhaps = surely || was_for && member.acked.hi >= message.seq;
        let is_delivered = delivered.contains(&**other);
        ensure!(
            is_delivered || !surely,
            "{receipts}: not delivered to {other}, {member:?}"
        );
        ensure!(
            perhaps || !is_delivered,
            "{receipts}: delivered to {other}, {member:?}"
        );
    }
    Ok(())
}

/// Who is not in it learns nothing.
async fn ensure_hidden(api: &Api, name: &str) -> Result<()> {
    let path = format!("/v1/conversations/{name}/messages");
    api.get(&path).await?.problem(404, "not_found")?;
    if let Some(gid) = name.strip_prefix("g:") {
        let path = format!("/v1/groups/{gid}");
        api.get(&path).await?.problem(404, "not_found")?;
    }
    Ok(())
}
