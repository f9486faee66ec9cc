//! The devices that receive, and how far each is in each conversation.

use std::collections::BTreeMap;
use std::time::SystemTime;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, members, sql, users};
use crate::clock;

/// A user's device: its client id.
pub type Device<'a> = (&'a Uid, &'a str);

/// Which of the devices are known: uid, device, whether it wants its catch-up as zstd.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn known<C: ConnectionTrait>(
    db: &C,
    devices: &[Device<'_>],
) -> Result<Vec<(String, String, bool)>, Error> {
    let text = "SELECT uid, device, zstd FROM devices WHERE (uid, device) {in}";
    let mut known = Vec::new();
    for row in sql::query_rows(db, text, keys(devices)).await? {
        let (uid, device) = (row.try_get("", "uid")?, row.try_get("", "device")?);
        known.push((uid, device, row.try_get("", "zstd")?));
    }
    Ok(known)
}

/// Notes whether a known device wants its catch-up as zstd.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_zstd<C: ConnectionTrait>(
    db: &C,
    (uid, device): Device<'_>,
    zstd: bool,
) -> Result<(), Error> {
    let text = "UPDATE devices SET zstd = ? WHERE uid = ? AND device = ?";
    let values = [zstd.into(), uid.as_str().into(), device.into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Adds a device, which starts where its user stands in each conversation. Where the user has `max` devices already,
/// the one that was not seen for the longest time goes; one of `connected` stays in any case.
///
/// # Errors
/// [`Error::Exists`] when it is known.
pub async fn add<C: ConnectionTrait>(
    db: &C,
    (uid, device): Device<'_>,
    connected: &[&str],
    now: i64,
    max: u32,
) -> Result<(), Error> {
    // Nobody else adds the last one.
    users::lock(db, [uid]).await?;
    let text = "SELECT device FROM devices WHERE uid = ? ORDER BY seen_at DESC";
    let devices = sql::query(db, text, [uid.as_str().into()]).await?;
    for row in devices.iter().skip(max.saturating_sub(1) as usize) {
        let oldest: String = row.try_get("", "device")?;
        if !connected.contains(&oldest.as_str()) {
            forget(db, (uid, &oldest)).await?;
        }
    }
    let text = "INSERT INTO devices (uid, device, seen_at) VALUES (?, ?, ?)";
    sql::execute(db, text, [uid.as_str().into(), device.into(), now.into()]).await?;
    let text = "INSERT INTO cursors (uid, device, conversation_id, seq)
        SELECT uid, ?, conversation_id, last_ack_seq FROM members WHERE uid = ?";
    sql::execute(db, text, [device.into(), uid.as_str().into()]).await?;
    Ok(())
}

/// Forgets a device and how far it is; tells whether it was known. Call it in a transaction.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn forget<C: ConnectionTrait>(db: &C, (uid, device): Device<'_>) -> Result<bool, Error> {
    let key = || [uid.as_str().into(), device.into()];
    let cursors = "DELETE FROM cursors WHERE uid = ? AND device = ?";
    sql::execute(db, cursors, key()).await?;
    let devices = "DELETE FROM devices WHERE uid = ? AND device = ?";
    Ok(sql::execute(db, devices, key()).await? > 0)
}

/// A device that has received at least once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its client id.
    pub device: String,
    /// When it last began to receive, or its last connection ended.
    pub seen_at: SystemTime,
    /// Why that connection ended, in a word.
    pub last_reason: Option<String>,
}

/// A user's devices, by name.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Vec<Known>, Error> {
    let text = "SELECT device, seen_at, last_reason FROM devices WHERE uid = ? ORDER BY device";
    let known = |row: &QueryResult| {
        Ok(Known {
            device: row.try_get("", "device")?,
            seen_at: clock::from_millis(row.try_get("", "seen_at")?),
            last_reason: row.try_get("", "last_reason")?,
        })
    };
    let rows = sql::query(db, text, [uid.as_str().into()]).await?;
    let devices: Result<_, DbErr> = rows.iter().map(known).collect();
    Ok(devices?)
}

/// The end of a device's connection.
#[derive(Clone, Debug)]
pub struct Departure {
    /// The device's user.
    pub uid: Uid,
    /// Its client id.
    pub device: String,
    /// When it was.
    pub at: SystemTime,
    /// Why, in a word.
    pub reason: String,
}

/// Notes for those of the devices that are known when and why they left. Each may be there once.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn leave<C: ConnectionTrait>(db: &C, departures: &[Departure]) -> Result<(), Error> {
    let mut rows = sql::Rows::new(4);
    for departure in departures {
        // The column is as long as this; the edge's words are shorter.
        let reason: String = departure.reason.chars().take(64).collect();
        rows.push([
            departure.uid.as_str().into(),
            departure.device.as_str().into(),
            clock::millis(departure.at).into(),
            reason.into(),
        ]);
    }
    let columns = ["uid", "device", "at", "reason"];
    // It may have left another node since.
    let on = "devices.uid = v.uid AND devices.device = v.device AND devices.seen_at <= v.at";
    let set = "seen_at = v.at, last_reason = v.reason";
    sql::update_rows(db, "devices", &columns, set, on, rows).await?;
    Ok(())
}

/// Notes that devices have been seen.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn touch<C: ConnectionTrait>(
    db: &C,
    devices: &[Device<'_>],
    now: i64,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    for (uid, device) in devices {
        rows.push([uid.as_str().into(), (*device).into(), now.into()]);
    }
    let columns = ["uid", "device", "at"];
    let on = "devices.uid = v.uid AND devices.device = v.device";
    sql::update_rows(db, "devices", &columns, "seen_at = v.at", on, rows).await?;
    Ok(())
}

/// How far a device is in a conversation.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The device's user.
    pub uid: Uid,
    /// Its client id.
    pub device: String,
    /// The conversation.
    pub conversation_id: i64,
    /// The newest message that it has acknowledged.
    pub seq: u32,
    /// That message's id.
    pub msg_id: u64,
}

/// How far a device has acknowledged; for one that has no cursor, how far its user's devices have.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn acknowledged<C: ConnectionTrait>(
    db: &C,
    (uid, device): Device<'_>,
    conversation_id: i64,
) -> Result<u32, Error> {
    let text = "SELECT COALESCE(k.seq, m.last_ack_seq) AS seq FROM members m
        LEFT JOIN cursors k ON k.uid = m.uid AND k.device = ? AND k.conversation_id = m.conversation_id
        WHERE m.conversation_id = ? AND m.uid = ?";
    let values = [device.into(), conversation_id.into(), uid.as_str().into()];
    let row = sql::query_one(db, text, values).await?;
    let seq: Option<i32> = row.map(|row| row.try_get("", "seq")).transpose()?;
    Ok(seq.unwrap_or_default().cast_unsigned())
}

/// Moves cursors forward, and the members' `last_ack_*` with them. Nothing moves for who is not a member now, for what
/// was sent before the member came in, or back; only known devices have cursors.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn move_cursors<C: ConnectionTrait>(db: &C, cursors: &[Cursor]) -> Result<(), Error> {
    let backend = db.get_database_backend();
    let mut positions = sql::Rows::new(4);
    // The furthest of a user's devices: an UPDATE that meets several rows takes any of them.
    // In one order on all nodes, so that two transactions don't wait for each other.
    let mut furthest: BTreeMap<(i64, &Uid), (u32, u64)> = BTreeMap::new();
    for cursor in cursors {
        let seq = cursor.seq.cast_signed();
        positions.push([
            cursor.uid.as_str().into(),
            cursor.device.as_str().into(),
            cursor.conversation_id.into(),
            seq.into(),
        ]);
        let ack = furthest
            .entry((cursor.conversation_id, &cursor.uid))
            .or_default();
        *ack = (*ack).max((cursor.seq, cursor.msg_id));
    }
    let mut acks = sql::Rows::new(4);
    for ((conversation_id, uid), (seq, msg_id)) in furthest {
        acks.push([
            conversation_id.into(),
            uid.as_str().into(),
            seq.cast_signed().into(),
            msg_id.cast_signed().into(),
        ]);
    }
    let excluded = sql::excluded(backend, "seq");
    let conflict = format!(
        "{} seq = CASE WHEN {excluded} > cursors.seq THEN {excluded} ELSE cursors.seq END",
        sql::on_conflict(backend, "uid, device, conversation_id"),
    );
    let columns = ["uid", "device", "conversation_id", "seq"];
    let select = "SELECT v.uid, v.device, v.conversation_id, v.seq FROM v
        JOIN devices d ON d.uid = v.uid AND d.device = v.device
        JOIN members m ON m.conversation_id = v.conversation_id AND m.uid = v.uid
        WHERE v.seq > m.start_seq";
    sql::insert_from_rows(db, "cursors", &columns, select, &conflict, positions).await?;
    let columns = ["conversation_id", "uid", "seq", "msg_id"];
    let set = "last_ack_seq = v.seq, last_ack_msgid = v.msg_id";
    let on = "members.conversation_id = v.conversation_id AND members.uid = v.uid
        AND members.last_ack_seq < v.seq";
    sql::update_rows_in_order(db, members::TABLE, &columns, set, on, acks).await?;
    Ok(())
}

/// A conversation in which a device has something to catch up with.
#[derive(Clone, Debug)]
pub struct Behind {
    /// The device's user.
    pub uid: String,
    /// Its client id.
    pub device: String,
    /// The conversation.
    pub conversation_id: i64,
    /// Its name on the wire.
    pub name: String,
    /// What the device has; it lacks everything after.
    pub after_seq: u32,
    /// The conversation's newest.
    pub last_seq: u32,
    /// Messages up to here are in files.
    pub archived_seq: u32,
}

/// Where known devices are behind.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn behind<C: ConnectionTrait>(
    db: &C,
    devices: &[Device<'_>],
) -> Result<Vec<Behind>, Error> {
    // No cursor: the user came in when the device was known already, so that all since then is missing. What was sent
    // before the user came in is nobody's business here, whatever a cursor says; nor is what the user has cleared.
    let after = "CASE WHEN k.seq > m.start_seq AND k.seq > m.visible_seq THEN k.seq
        WHEN m.start_seq > m.visible_seq THEN m.start_seq ELSE m.visible_seq END";
    let text = format!(
        "SELECT d.uid, d.device, {after} AS after_seq, {BEHIND_COLUMNS}
        FROM devices d
        JOIN members m ON m.uid = d.uid
        JOIN conversations c ON c.id = m.conversation_id
        LEFT JOIN cursors k ON k.uid = d.uid AND k.device = d.device AND k.conversation_id = c.id
        WHERE (d.uid, d.device) {{in}} AND c.last_seq > {after}"
    );
    let rows = sql::query_rows(db, &text, keys(devices)).await?;
    Ok(rows.iter().map(behind_of).collect::<Result<_, _>>()?)
}

/// Where a user is behind: what none of the user's devices has acknowledged.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn user_behind<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Vec<Behind>, Error> {
    let after =
        "CASE WHEN m.last_ack_seq > m.visible_seq THEN m.last_ack_seq ELSE m.visible_seq END";
    let text = format!(
        "SELECT m.uid, '' AS device, {after} AS after_seq, {BEHIND_COLUMNS}
        FROM members m JOIN conversations c ON c.id = m.conversation_id
        WHERE m.uid = ? AND c.last_seq > {after}"
    );
    let rows = sql::query(db, &text, [uid.as_str().into()]).await?;
    Ok(rows.iter().map(behind_of).collect::<Result<_, _>>()?)
}

const BEHIND_COLUMNS: &str = "c.id, c.name, c.last_seq, c.archived_seq";

fn behind_of(row: &QueryResult) -> Result<Behind, DbErr> {
    let seq = |column: &str| -> Result<u32, DbErr> {
        let value: i32 = row.try_get("", column)?;
        Ok(u32::try_from(value).unwrap_or_default())
    };
    Ok(Behind {
        uid: row.try_get("", "uid")?,
        device: row.try_get("", "device")?,
        conversation_id: row.try_get("", "id")?,
        name: row.try_get("", "name")?,
        after_seq: seq("after_seq")?,
        last_seq: seq("last_seq")?,
        archived_seq: seq("archived_seq")?,
    })
}

fn keys(devices: &[Device<'_>]) -> sql::Rows {
    let mut rows = sql::Rows::new(2);
    for (uid, device) in devices {
        rows.push([uid.as_str().into(), (*device).into()]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::members::Role;
    use crate::store::{Store, conversations, members};

    /// Only known devices have a row to note it in; forgetting one takes its cursors with it.
    #[tokio::test]
    async fn a_known_device_leaves_and_is_forgotten() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let bob: Uid = "bob".parse().unwrap();
        conversations::add(db, 1, "g:1", 0).await.unwrap();
        members::add(db, 1, 3, 3, [(&bob, Role::Member)])
            .await
            .unwrap();
        for device in ["phone", "laptop"] {
            add(db, (&bob, device), &[], 1000, 10).await.unwrap();
        }
        let departures = ["phone", "stranger"].map(|device| Departure {
            uid: bob.clone(),
            device: device.to_owned(),
            at: clock::from_millis(2000),
            reason: "lost".to_owned(),
        });
        leave(db, &departures).await.unwrap();
        let known = |device: &str, seen_at: i64, reason: Option<&str>| Known {
            device: device.to_owned(),
            seen_at: clock::from_millis(seen_at),
            last_reason: reason.map(str::to_owned),
        };
        let (laptop, phone) = (
            known("laptop", 1000, None),
            known("phone", 2000, Some("lost")),
        );
        assert_eq!(list(db, &bob).await.unwrap(), [laptop.clone(), phone]);

        assert!(!forget(db, (&bob, "stranger")).await.unwrap());
        assert!(forget(db, (&bob, "phone")).await.unwrap());
        assert_eq!(list(db, &bob).await.unwrap(), [laptop]);
        let cursors = sql::query(db, "SELECT device FROM cursors", []).await;
        assert_eq!(cursors.unwrap().len(), 1);
    }

    /// Two devices of a user acknowledge in one go: the member stands where the furthest one does, in whichever order
    /// they come. Nothing moves for what was sent before the member came in.
    #[tokio::test]
    async fn the_furthest_device_counts() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let bob: Uid = "bob".parse().unwrap();
        let cursor = |device: &str, conversation_id: i64, seq: u32| Cursor {
            uid: bob.clone(),
            device: device.to_owned(),
            conversation_id,
            seq,
            msg_id: seq.into(),
        };
        for (id, devices) in [(1, ["laptop", "phone"]), (2, ["phone", "laptop"])] {
            conversations::add(db, id, &format!("g:{id}"), 0)
                .await
                .unwrap();
            members::add(db, id, 3, 3, [(&bob, Role::Member)])
                .await
                .unwrap();
            if id == 1 {
                for device in devices {
                    add(db, (&bob, device), &[], 0, 10).await.unwrap();
                }
            }
            let [far, near] = devices;
            let cursors = [cursor(far, id, 9), cursor(near, id, 5)];
            move_cursors(db, &cursors).await.unwrap();
            move_cursors(db, &[cursor(near, id, 2)]).await.unwrap();
            assert_eq!(acknowledged(db, (&bob, far), id).await.unwrap(), 9);
            assert_eq!(acknowledged(db, (&bob, near), id).await.unwrap(), 5);
            assert_eq!(acknowledged(db, (&bob, "no device"), id).await.unwrap(), 9);
        }
    }
}
