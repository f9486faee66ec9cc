//! Which of the messages that were found a user may see.

use std::collections::{HashMap, HashSet};

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{seq, unsigned};
use crate::store::{Error, sql};

/// A conversation that a user is in, with something to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// `u:{a}:{b}` or `g:{gid}`
    pub name: String,
    /// Only messages with a greater seq are the user's to see.
    pub visible_seq: u32,
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its id.
    pub msg_id: u64,
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// Its place there.
    pub seq: u32,
    /// Who sent it.
    pub sender: String,
}

/// All conversations of a user that have something to see, by their keys in the database.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn rooms<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<HashMap<i64, Room>, Error> {
    let text = "SELECT c.id, c.name, m.visible_seq
        FROM members m JOIN conversations c ON c.id = m.conversation_id
        WHERE m.uid = ? AND c.last_seq > m.visible_seq";
    let mut rooms = HashMap::new();
    for row in sql::query(db, text, [uid.as_str().into()]).await? {
        let room = Room {
            name: row.try_get("", "name")?,
            visible_seq: seq(&row, "visible_seq")?,
        };
        rooms.insert(row.try_get("", "id")?, room);
    }
    Ok(rooms)
}

/// Those of the messages that are in `rooms` and that the user may see there, newest first.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn visible<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    rooms: &HashMap<i64, Room>,
    msg_ids: &[u64],
) -> Result<Vec<Place>, Error> {
    let mut rows = sql::Rows::new(1);
    for msg_id in msg_ids {
        rows.push([msg_id.cast_signed().into()]);
    }
    let text = "SELECT msg_id, conversation_id, seq, sender, state, hidden_from FROM messages WHERE msg_id {in}";
    let mut places = Vec::with_capacity(msg_ids.len());
    for row in sql::query_rows(db, text, rows).await? {
        let hidden_from: Option<String> = row.try_get("", "hidden_from")?;
        let is_there = row.try_get::<i32>("", "state")? == 0;
        let place = place(&row)?;
        let is_in = |room: &Room| place.seq > room.visible_seq;
        let is_for_user = hidden_from.as_deref() != Some(uid.as_str());
        if is_there && is_for_user && rooms.get(&place.conversation_id).is_some_and(is_in) {
            places.push(place);
        }
    }
    let deleted = deleted(db, uid, &places).await?;
    places.retain(|place| !deleted.contains(&(place.conversation_id, place.seq)));
    places.sort_unstable_by_key(|place| std::cmp::Reverse(place.msg_id));
    Ok(places)
}

fn place(row: &QueryResult) -> Result<Place, DbErr> {
    Ok(Place {
        msg_id: unsigned(row, "msg_id")?,
        conversation_id: row.try_get("", "conversation_id")?,
        seq: seq(row, "seq")?,
        sender: row.try_get("", "sender")?,
    })
}

/// Those that the user has deleted for himself: conversation and seq.
async fn deleted<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    places: &[Place],
) -> Result<HashSet<(i64, u32)>, Error> {
    let mut rows = sql::Rows::new(3);
    for place in places {
        rows.push([
            uid.as_str().into(),
            place.conversation_id.into(),
            place.seq.cast_signed().into(),
        ]);
    }
    let text = "SELECT h.conversation_id, h.seq FROM hidden_messages h
        WHERE (h.uid, h.conversation_id, h.seq) {in}";
    let mut deleted = HashSet::new();
    for row in sql::query_rows(db, text, rows).await? {
        deleted.insert((row.try_get("", "conversation_id")?, seq(&row, "seq")?));
    }
    Ok(deleted)
}
