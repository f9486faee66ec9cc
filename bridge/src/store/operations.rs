//! What happens to messages that have their place. Rows stay; of a message that is gone the content is taken away,
//! wherever it is.

use std::collections::HashMap;

use schema::Uid;
use sea_orm::ConnectionTrait;

use super::{Error, conversations, messages, search, sql, views};

/// Why a message has no content any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Taken back.
    Recalled,
    /// Its time has run out.
    Expired,
    /// Deleted with its sender's account.
    Deleted,
}

impl Gone {
    /// As the wire has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Gone::Recalled => "recalled",
            Gone::Expired => "expired",
            Gone::Deleted => "deleted",
        }
    }

    pub(super) fn state(self) -> i32 {
        match self {
            Gone::Recalled => 1,
            Gone::Expired => 2,
            Gone::Deleted => 3,
        }
    }

    /// What the column `state` says; `None`: the message is there.
    pub(super) fn of_state(state: i32) -> Option<Self> {
        match state {
            0 => None,
            1 => Some(Gone::Recalled),
            2 => Some(Gone::Expired),
            _ => Some(Gone::Deleted),
        }
    }
}

/// A message by its id and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its id.
    pub msg_id: u64,
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// Where it is there.
    pub seq: u32,
}

/// Keeps others from changing a message, or sending to its conversation, until the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lock<C: ConnectionTrait>(db: &C, msg_id: u64) -> Result<(), Error> {
    // There is no other node on SQLite.
    let lock = sql::for_update(db.get_database_backend());
    if !lock.is_empty() {
        let text = format!(
            "SELECT c.id FROM conversations c
            WHERE c.id = (SELECT x.conversation_id FROM messages x WHERE x.msg_id = ?){lock}"
        );
        sql::query(db, &text, [msg_id.cast_signed().into()]).await?;
    }
    Ok(())
}

/// Who sees a message.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn audience<C: ConnectionTrait>(db: &C, msg_id: u64) -> Result<Vec<Uid>, Error> {
    let text = format!(
        "SELECT m.uid FROM messages x JOIN members m ON m.conversation_id = x.conversation_id
        WHERE x.msg_id = ? AND x.seq > m.visible_seq AND {}",
        views::visible_to("m.uid")
    );
    let mut uids = Vec::new();
    for row in sql::query(db, &text, [msg_id.cast_signed().into()]).await? {
        let uid: String = row.try_get("", "uid")?;
        // A uid in the database has been checked when it was registered.
        uids.extend(uid.parse().ok());
    }
    Ok(uids)
}

/// Counts a change of each of the messages, which are different ones, and notes its number.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn note_changes<C: ConnectionTrait>(db: &C, changed: &[Place]) -> Result<(), Error> {
    let mut more: HashMap<i64, u32> = HashMap::new();
    for place in changed {
        *more.entry(place.conversation_id).or_default() += 1;
    }
    let mut numbers = conversations::count_changes(db, more).await?;
    let mut rows = sql::Rows::new(4);
    for place in changed {
        let number = numbers.entry(place.conversation_id).or_default();
        *number += 1;
        rows.push([
            place.conversation_id.into(),
            place.msg_id.cast_signed().into(),
            place.seq.cast_signed().into(),
            number.cast_signed().into(),
        ]);
    }
    let backend = db.get_database_backend();
    let text = format!(
        "INSERT INTO changed_messages (conversation_id, msg_id, seq, change_number) VALUES {{rows}}
        {} change_number = {}",
        sql::on_conflict(backend, "conversation_id, msg_id"),
        sql::excluded(backend, "change_number"),
    );
    sql::execute_rows(db, &text, rows).await?;
    Ok(())
}

/// Takes the content of messages away, with all that there is of it elsewhere; with each message, whom it mentions.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn blank<C: ConnectionTrait>(
    db: &C,
    gone: Gone,
    messages: &[(Place, &[String])],
) -> Result<(), Error> {
    let nothing = Vec::<u8>::new;
    let mut contents = sql::Rows::new(2);
    let mut mentions = sql::Rows::new(3);
    let (mut places, mut pins) = (sql::Rows::new(2), sql::Rows::new(2));
    for (place, mentioned) in messages {
        contents.push([place.msg_id.cast_signed().into(), nothing().into()]);
        places.push([place.conversation_id.into(), place.seq.cast_signed().into()]);
        let msg_id = place.msg_id.cast_signed();
        pins.push([place.conversation_id.into(), msg_id.into()]);
        push_mentions(&mut mentions, *place, mentioned);
    }
    let set = format!("state = {}, content = v.blank", gone.state());
    let (columns, on) = (["msg_id", "blank"], "messages.msg_id = v.msg_id");
    sql::update_rows(db, "messages", &columns, &set, on, contents).await?;
    for table in ["revisions", "reactions", "expiring"] {
        let mut ids = sql::Rows::new(1);
        for (place, _) in messages {
            ids.push([place.msg_id.cast_signed().into()]);
        }
        let text = format!("DELETE FROM {table} WHERE msg_id {{in}}");
        sql::execute_in(db, &text, ids).await?;
    }
    let text = "DELETE FROM attachments WHERE (conversation_id, seq) {in}";
    sql::execute_in(db, text, places).await?;
    let text = "DELETE FROM group_pins WHERE (conversation_id, msg_id) {in}";
    sql::execute_in(db, text, pins).await?;
    sql::execute_in(db, DELETE_MENTIONS, mentions).await?;
    let ids: Vec<u64> = messages.iter().map(|(place, _)| place.msg_id).collect();
    search::mark(db, &ids).await
}

const DELETE_MENTIONS: &str = "DELETE FROM mentions WHERE (conversation_id, uid, seq) {in}";

fn push_mentions(rows: &mut sql::Rows, place: Place, mentioned: &[String]) {
    for uid in mentioned {
        rows.push([
            place.conversation_id.into(),
            uid.as_str().into(),
            place.seq.cast_signed().into(),
        ]);
    }
}

/// Forgets whom messages mention.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub(super) async fn forget_mentions<C: ConnectionTrait>(
    db: &C,
    mentioning: &[(Place, Vec<String>)],
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    for (place, mentioned) in mentioning {
        push_mentions(&mut rows, *place, mentioned);
    }
    sql::execute_in(db, DELETE_MENTIONS, rows).await?;
    Ok(())
}

/// How often a message was edited.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count_revisions<C: ConnectionTrait>(db: &C, msg_id: u64) -> Result<u32, Error> {
    let text = "SELECT MAX(number) AS newest FROM revisions WHERE msg_id = ?";
    let row = sql::query_one(db, text, [msg_id.cast_signed().into()]).await?;
    let newest: Option<i32> = row
        .map(|row| row.try_get("", "newest"))
        .transpose()?
        .flatten();
    Ok(newest.unwrap_or_default().cast_unsigned())
}

/// What a message said for a while: its content as [`content::encode_message`](crate::content::encode_message) writes
/// it, and since when it said so, in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The content.
    pub content: Vec<u8>,
    /// Since when.
    pub at: i64,
}

/// Gives a message another content and keeps the one that it had as revision `number`.
///
/// # Errors
/// [`Error::Exists`] when there is such a revision.
pub async fn edit<C: ConnectionTrait>(
    db: &C,
    msg_id: u64,
    number: u32,
    earlier: &Revision,
    now: &Revision,
) -> Result<(), Error> {
    let id = msg_id.cast_signed();
    let text = "INSERT INTO revisions (msg_id, number, content, at) VALUES (?, ?, ?, ?)";
    let values = [
        id.into(),
        number.cast_signed().into(),
        earlier.content.clone().into(),
        earlier.at.into(),
    ];
    sql::execute(db, text, values).await?;
    let text = "UPDATE messages SET content = ?, edited_at = ? WHERE msg_id = ?";
    let values = [now.content.clone().into(), now.at.into(), id.into()];
    sql::execute(db, text, values).await?;
    search::mark(db, &[msg_id]).await
}

/// Notes that a message mentions others than before.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn replace_mentions<C: ConnectionTrait>(
    db: &C,
    place: Place,
    earlier: &[String],
    now: &[&str],
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    push_mentions(&mut rows, place, earlier);
    sql::execute_in(db, DELETE_MENTIONS, rows).await?;
    let rows = now
        .iter()
        .map(|uid| (place.conversation_id, *uid, place.seq));
    messages::add_mentions(db, rows).await
}

/// What a message said before, newest first, without the current one; the newest 32.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn revisions<C: ConnectionTrait>(db: &C, msg_id: u64) -> Result<Vec<Revision>, Error> {
    let text = "SELECT content, at FROM revisions WHERE msg_id = ? ORDER BY number DESC LIMIT 32";
    let mut revisions = Vec::new();
    for row in sql::query(db, text, [msg_id.cast_signed().into()]).await? {
        revisions.push(Revision {
            content: row.try_get("", "content")?,
            at: row.try_get("", "at")?,
        });
    }
    Ok(revisions)
}

/// The emojis with which people have reacted to a message, and whether `uid` has.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn emojis<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_id: u64,
) -> Result<Vec<(String, bool)>, Error> {
    let text = "SELECT emoji, MAX(CASE WHEN uid = ? THEN 1 ELSE 0 END) AS mine
        FROM reactions WHERE msg_id = ? GROUP BY emoji";
    let values = [uid.as_str().into(), msg_id.cast_signed().into()];
    let mut emojis = Vec::new();
    for row in sql::query(db, text, values).await? {
        let mine: i32 = row.try_get("", "mine")?;
        emojis.push((row.try_get("", "emoji")?, mine == 1));
    }
    Ok(emojis)
}

/// Adds a user's reaction.
///
/// # Errors
/// [`Error::Exists`] when it is there.
pub async fn react<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_id: u64,
    emoji: &str,
    at: i64,
) -> Result<(), Error> {
    let text = "INSERT INTO reactions (msg_id, emoji, uid, at) VALUES (?, ?, ?, ?)";
    let id = msg_id.cast_signed();
    let values = [id.into(), emoji.into(), uid.as_str().into(), at.into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Takes a user's reaction back.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn unreact<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_id: u64,
    emoji: &str,
) -> Result<(), Error> {
    let text = "DELETE FROM reactions WHERE msg_id = ? AND emoji = ? AND uid = ?";
    let id = msg_id.cast_signed();
    sql::execute(db, text, [id.into(), emoji.into(), uid.as_str().into()]).await?;
    Ok(())
}

/// Deletes messages of a conversation for one user.
///
/// # Errors
/// [`Error::Exists`] when one of them was.
pub async fn hide<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    conversation_id: i64,
    seqs: impl IntoIterator<Item = u32>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    for seq in seqs {
        rows.push([
            uid.as_str().into(),
            conversation_id.into(),
            seq.cast_signed().into(),
        ]);
    }
    let text = "INSERT INTO hidden_messages (uid, conversation_id, seq) VALUES {rows}";
    sql::execute_rows(db, text, rows).await?;
    let text = "UPDATE members SET changes = changes + 1 WHERE conversation_id = ? AND uid = ?";
    sql::execute(db, text, [conversation_id.into(), uid.as_str().into()]).await?;
    Ok(())
}

/// When the next message disappears, in milliseconds since 1970; `None`: there is none that will.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn next_expiry<C: ConnectionTrait>(db: &C) -> Result<Option<i64>, Error> {
    let text = "SELECT MIN(expires_at) AS next FROM expiring";
    let row = sql::query_one(db, text, []).await?;
    let next: Option<Option<i64>> = row.map(|row| row.try_get("", "next")).transpose()?;
    Ok(next.flatten())
}

#[cfg(test)]
mod tests {
    use schema::{MsgId, v1};

    use super::*;
    use crate::content;
    use crate::store::members::{self, Role};
    use crate::store::views::{Range, history, membership};
    use crate::store::{Store, conversations};

    const ALL: Range = Range {
        after_seq: Some(0),
        before_seq: None,
        limit: 100,
        bytes_max: usize::MAX,
    };

    fn uid(name: &str) -> Uid {
        name.parse().unwrap()
    }

    /// alice and bob in `g:g`, with as many texts of alice's; those with a greater seq than `heard` bob does not get.
    async fn talk(store: &Store, texts: u32, heard: u32) -> Vec<Place> {
        let db = store.writer();
        let (alice, bob) = (uid("alice"), uid("bob"));
        conversations::add(db, 1, "g:g", 0).await.unwrap();
        let roles = [&alice, &bob].map(|uid| (uid, Role::Member));
        members::add(db, 1, 0, 0, roles).await.unwrap();
        let text = |seq: u32| {
            let text = v1::message::Content::Text(format!("text {seq}"));
            content::encode(&text, 0, &["bob".to_owned()])
        };
        let contents: Vec<Vec<u8>> = (1..=texts).map(text).collect();
        let place = |seq: u32| Place {
            msg_id: (u64::from(seq) << 22) + 1,
            conversation_id: 1,
            seq,
        };
        let places: Vec<Place> = (1..=texts).map(place).collect();
        let new = places.iter().zip(&contents).map(|(place, content)| {
            let is_silenced = place.seq > heard;
            messages::New {
                msg_id: MsgId(place.msg_id),
                conversation_id: 1,
                seq: place.seq,
                sender: &alice,
                sender_device: "",
                client_msg_id: "",
                client_seq: 0,
                kind: "text",
                content,
                expires_at: None,
                hidden_from: is_silenced.then_some(&bob),
            }
        });
        messages::add(db, new).await.unwrap();
        let wanted = conversations::Wanted {
            id: 1,
            places: texts,
            last_msg_id: places.last().map_or(0, |place| place.msg_id),
        };
        conversations::advance(db, &[wanted]).await.unwrap();
        let silenced = texts.saturating_sub(heard);
        members::count_sent(db, [(1, &alice, texts), (1, &bob, silenced)])
            .await
            .unwrap();
        places
    }

    async fn seqs(store: &Store, name: &str) -> Vec<u32> {
        let page = history(store, &uid(name), 1, "g:g", 0, ALL).await;
        page.unwrap().messages.iter().map(|it| it.seq).collect()
    }

    async fn unread(store: &Store, name: &str) -> u32 {
        let found = membership(store.reader(), &uid(name), "g:g").await;
        found.unwrap().unwrap().unread
    }

    /// Who has silenced the sender gets nothing of it, and has nothing unread; the sender notices nothing.
    #[tokio::test]
    async fn a_silenced_message_is_there_for_its_sender_alone() {
        let (store, _folder) = Store::fresh().await;
        let places = talk(&store, 3, 1).await;
        assert_eq!(seqs(&store, "alice").await, [1, 2, 3]);
        assert_eq!(seqs(&store, "bob").await, [1]);
        let names = [uid("alice"), uid("bob")];
        let audience = async |place: &Place| {
            let mut found = audience(store.reader(), place.msg_id).await.unwrap();
            found.sort_unstable();
            found
        };
        assert_eq!(audience(&places[0]).await, names);
        assert_eq!(audience(&places[1]).await, names[..1]);
        let ids = places.iter().map(|place| place.msg_id);
        let ids: Vec<u64> = ids.collect();
        let seen = views::seen(store.reader(), &uid("bob"), &ids)
            .await
            .unwrap();
        assert_eq!(seen.len(), 1);
        let missed = views::messages_by_id(store.reader(), &uid("bob"), &ids).await;
        assert_eq!(missed.unwrap().len(), 1);

        assert_eq!(unread(&store, "bob").await, 1);
        for (from, to, left) in [(0, 1, 0), (1, 2, 0), (2, 3, 0)] {
            members::set_read(store.writer(), 1, &uid("bob"), (from, to), 3)
                .await
                .unwrap();
            assert_eq!(unread(&store, "bob").await, left, "read up to {to}");
        }
    }

    /// Whatever there was of a message elsewhere goes with it; its place, and other messages, stay.
    #[tokio::test]
    async fn nothing_is_left_of_a_message_that_is_gone() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let places = talk(&store, 2, 2).await;
        let bob = uid("bob");
        let mentions = ["bob".to_owned()];
        for place in &places {
            let revision = Revision {
                content: b"before".to_vec(),
                at: 1,
            };
            edit(db, place.msg_id, 1, &revision, &revision)
                .await
                .unwrap();
            react(db, &bob, place.msg_id, "x", 1).await.unwrap();
            messages::add_mentions(db, [(1, "bob", place.seq)])
                .await
                .unwrap();
            messages::add_attachments(db, [(1, place.seq, "image")])
                .await
                .unwrap();
        }
        let gone = [(places[0], mentions.as_slice())];
        blank(db, Gone::Recalled, &gone).await.unwrap();
        for (table, count) in [
            ("messages", 2),
            ("revisions", 1),
            ("reactions", 1),
            ("mentions", 1),
            ("attachments", 1),
        ] {
            let text = format!("SELECT * FROM {table}");
            let rows = sql::query(db, &text, []).await.unwrap();
            assert_eq!(rows.len(), count, "{table}");
        }
        let text = "SELECT content FROM messages WHERE seq = 1";
        let row = sql::query_one(db, text, []).await.unwrap().unwrap();
        let content: Vec<u8> = row.try_get("", "content").unwrap();
        assert_eq!(content, b"");
    }

    /// Each change of a message has a number of its own, and a message has the number of its last one.
    #[tokio::test]
    async fn changes_are_numbered() {
        let (store, _folder) = Store::fresh().await;
        let places = talk(&store, 3, 3).await;
        note_changes(store.writer(), &places).await.unwrap();
        note_changes(store.writer(), &places[..1]).await.unwrap();
        let text = "SELECT seq, change_number FROM changed_messages ORDER BY change_number";
        let rows = sql::query(store.reader(), text, []).await.unwrap();
        let number = |row: &sea_orm::QueryResult| -> (i32, i32) {
            let seq = row.try_get("", "seq").unwrap();
            (seq, row.try_get("", "change_number").unwrap())
        };
        let numbers: Vec<(i32, i32)> = rows.iter().map(number).collect();
        assert_eq!(numbers, [(2, 2), (3, 3), (1, 4)]);
    }
}
