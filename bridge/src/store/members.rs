//! Who is in a conversation, and how far.

use schema::Uid;
use sea_orm::ConnectionTrait;

use super::archives::{self, NEWEST_KEPT};
use super::{Error, conversations, sql};

/// The table, and in which order its rows are locked.
pub(super) const TABLE: (&str, &str) = ("members", "members.conversation_id, members.uid");

/// What a member may do in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Made the group; can't be removed.
    Owner,
    /// May add and remove members.
    Admin,
    /// May write.
    Member,
}

impl Role {
    /// As the database and the wire have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
        }
    }

    /// The reverse of [`Role::as_str`]; an unknown word may do least.
    #[must_use]
    pub fn parse(role: &str) -> Self {
        match role {
            "owner" => Role::Owner,
            "admin" => Role::Admin,
            _ => Role::Member,
        }
    }
}

/// Lets users in, as of the conversation's message `start_seq`; they see messages after `visible_seq`.
///
/// # Errors
/// [`Error::Exists`] when one is in already.
pub async fn add<'a, C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    start_seq: u32,
    visible_seq: u32,
    members: impl IntoIterator<Item = (&'a Uid, Role)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(10);
    let (start, visible) = (start_seq.cast_signed(), visible_seq.cast_signed());
    for (uid, role) in members {
        rows.push([
            conversation_id.into(),
            uid.as_str().into(),
            role.as_str().into(),
            start.into(),
            visible.into(),
            start.into(),
            0_i64.into(),
            start.into(),
            0.into(),
            0.into(),
        ]);
    }
    let text =
        "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
        last_read_seq, sent, sent_read) VALUES {rows}";
    sql::execute_rows(db, text, rows).await?;
    Ok(())
}

/// Takes a user out, who may be out already.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn remove<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
) -> Result<(), Error> {
    let key = || [conversation_id.into(), uid.as_str().into()];
    // Who comes back later starts anew.
    let cursors = "DELETE FROM cursors WHERE conversation_id = ? AND uid = ?";
    sql::execute(db, cursors, key()).await?;
    let member = "DELETE FROM members WHERE conversation_id = ? AND uid = ?";
    if sql::execute(db, member, key()).await? > 0 {
        note_departure(db, conversation_id, uid).await?;
    }
    Ok(())
}

/// Notes that the user's devices are to learn of it; it gets its version when one asks.
async fn note_departure<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
) -> Result<(), Error> {
    let conflict = sql::on_conflict(db.get_database_backend(), "uid, name");
    let text = format!(
        "INSERT INTO departures (uid, name, version)
        SELECT ?, c.name, 0 FROM conversations c WHERE c.id = ? {conflict} version = 0"
    );
    sql::execute(db, &text, [uid.as_str().into(), conversation_id.into()]).await?;
    Ok(())
}

/// Keeps others from changing where a member stands in the conversation of that name, to the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lock<C: ConnectionTrait>(db: &C, uid: &Uid, name: &str) -> Result<(), Error> {
    let lock = sql::for_update(db.get_database_backend());
    // There is no other node on SQLite.
    if !lock.is_empty() {
        let text = format!(
            "SELECT m.uid FROM members m WHERE m.uid = ?
            AND m.conversation_id = (SELECT c.id FROM conversations c WHERE c.name = ?){lock}"
        );
        sql::query(db, &text, [uid.as_str().into(), name.into()]).await?;
    }
    Ok(())
}

/// How a member's user wants to see the conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Since when it is pinned, in milliseconds since 1970.
    pub pinned_at: Option<i64>,
    /// No notifications until then, in milliseconds since 1970.
    pub muted_until: i64,
    /// It is put away.
    pub archived: bool,
    /// It is to look unread, whatever the count says.
    pub marked_unread: bool,
    /// What the user has begun to write.
    pub draft: Option<String>,
    /// The user has deleted it when this was its newest message; it is not listed until there is another.
    pub deleted_seq: Option<u32>,
}

/// Replaces what the user wants.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_wishes<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    wishes: &Wishes,
) -> Result<(), Error> {
    let text = "UPDATE members SET pinned_at = ?, muted_until = ?, archived = ?, marked_unread = ?, draft = ?,
            deleted_seq = ?, changes = changes + 1
        WHERE conversation_id = ? AND uid = ?";
    let values = [
        wishes.pinned_at.into(),
        wishes.muted_until.into(),
        wishes.archived.into(),
        wishes.marked_unread.into(),
        wishes.draft.as_deref().into(),
        wishes.deleted_seq.map_or(-1, u32::cast_signed).into(),
        conversation_id.into(),
        uid.as_str().into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Hides all messages up to `seq` from a member.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn hide_history<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    seq: u32,
) -> Result<(), Error> {
    let text = "UPDATE members SET visible_seq = ?, changes = changes + 1
        WHERE conversation_id = ? AND uid = ?";
    let values = [
        seq.cast_signed().into(),
        conversation_id.into(),
        uid.as_str().into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Takes everybody out. Devices that are away learn of it as of a departure of one's own.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn remove_all<C: ConnectionTrait>(db: &C, conversation_id: i64) -> Result<(), Error> {
    let departures = format!(
        "INSERT INTO departures (uid, name, version)
        SELECT m.uid, c.name, 0 FROM members m JOIN conversations c ON c.id = m.conversation_id
        WHERE m.conversation_id = ?{}version = 0",
        sql::on_conflict(db.get_database_backend(), "uid, name")
    );
    sql::execute(db, &departures, [conversation_id.into()]).await?;
    // By the members, since there is no index of cursors by conversation.
    let cursors = "DELETE FROM cursors WHERE conversation_id = ?
        AND uid IN (SELECT uid FROM members WHERE conversation_id = ?)";
    let ids = [conversation_id.into(), conversation_id.into()];
    sql::execute(db, cursors, ids).await?;
    let members = "DELETE FROM members WHERE conversation_id = ?";
    sql::execute(db, members, [conversation_id.into()]).await?;
    Ok(())
}

/// Only messages with a greater seq are the member's to see; nothing, where the user is not in it.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn visible_seq<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
) -> Result<u32, Error> {
    let text = "SELECT visible_seq FROM members WHERE conversation_id = ? AND uid = ?";
    let row = sql::query_one(db, text, [conversation_id.into(), uid.as_str().into()]).await?;
    let visible: Option<i32> = row.map(|row| row.try_get("", "visible_seq")).transpose()?;
    Ok(visible.unwrap_or(i32::MAX).cast_unsigned())
}

/// Gives a member a role. An owner can't be kept from sending.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_role<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    role: Role,
) -> Result<(), Error> {
    let text = match role {
        Role::Owner => {
            "UPDATE members SET role = ?, silenced_until = 0 WHERE conversation_id = ? AND uid = ?"
        }
        Role::Admin | Role::Member => {
            "UPDATE members SET role = ? WHERE conversation_id = ? AND uid = ?"
        }
    };
    let role = role.as_str().into();
    let values = [role, conversation_id.into(), uid.as_str().into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Keeps a member from sending until that time, in milliseconds since 1970; 0: no longer.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn silence<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    until: i64,
) -> Result<(), Error> {
    let text = "UPDATE members SET silenced_until = ? WHERE conversation_id = ? AND uid = ?";
    let values = [until.into(), conversation_id.into(), uid.as_str().into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// What a member is called in the group; empty: nothing.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_nickname<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    nickname: &str,
) -> Result<(), Error> {
    let text = "UPDATE members SET nickname = ? WHERE conversation_id = ? AND uid = ?";
    let values = [nickname.into(), conversation_id.into(), uid.as_str().into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// A group's members with their roles as of now, where its conversation is locked; ordered by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn roles<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
) -> Result<Vec<(Uid, Role)>, Error> {
    let text = format!(
        "SELECT uid, role FROM members WHERE conversation_id = ? ORDER BY uid{}",
        sql::as_of_now(db.get_database_backend())
    );
    let mut roles = Vec::new();
    for row in sql::query(db, &text, [conversation_id.into()]).await? {
        let (uid, role): (String, String) = (row.try_get("", "uid")?, row.try_get("", "role")?);
        if let Ok(uid) = uid.parse() {
            roles.push((uid, Role::parse(&role)));
        }
    }
    Ok(roles)
}

/// The first `limit` members, by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn some<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    limit: u32,
) -> Result<Vec<Uid>, Error> {
    let text =
        format!("SELECT uid FROM members WHERE conversation_id = ? ORDER BY uid LIMIT {limit}");
    let mut uids = Vec::new();
    for row in sql::query(db, &text, [conversation_id.into()]).await? {
        uids.push(super::users::uid(&row)?);
    }
    Ok(uids)
}

/// A user's role in a conversation; `None`: not a member.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn role<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &str,
) -> Result<Option<Role>, Error> {
    let text = "SELECT role FROM members WHERE conversation_id = ? AND uid = ?";
    let row = sql::query_one(db, text, [conversation_id.into(), uid.into()]).await?;
    let role: Option<String> = row.map(|row| row.try_get("", "role")).transpose()?;
    Ok(role.as_deref().map(Role::parse))
}

/// Counts messages that members have sent, or that are not there for them: conversation, uid, how many more.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count_sent<'a, C: ConnectionTrait>(
    db: &C,
    sent: impl IntoIterator<Item = (i64, &'a Uid, u32)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    // In one order on all nodes, so that two transactions don't wait for each other.
    let mut sent: Vec<(i64, &Uid, u32)> = sent.into_iter().collect();
    sent.sort_unstable();
    for (conversation_id, uid, more) in sent {
        rows.push([
            conversation_id.into(),
            uid.as_str().into(),
            more.cast_signed().into(),
        ]);
    }
    let columns = ["conversation_id", "uid", "more"];
    let on = "members.conversation_id = v.conversation_id AND members.uid = v.uid";
    let set = "sent = members.sent + v.more";
    sql::update_rows_in_order(db, TABLE, &columns, set, on, rows).await?;
    Ok(())
}

/// A conversation that the user has deleted stays so, though it has a message that is hidden from the user.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn keep_deleted<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    seq: u32,
) -> Result<(), Error> {
    let text = "UPDATE members SET deleted_seq = ? WHERE conversation_id = ? AND uid = ? AND deleted_seq = ?";
    let seq = seq.cast_signed();
    let values = [
        seq.into(),
        conversation_id.into(),
        uid.as_str().into(),
        (seq - 1).into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Moves the read position forward, counting what the user sent up to there, or what is not there for him. What is read is
/// no longer marked as unread. `last_seq` is the conversation's.
///
/// # Errors
/// [`Error::Stale`] when the member does not stand where the range begins, so that it would be counted twice.
pub async fn set_read<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    (from_seq, to_seq): (u32, u32),
    last_seq: u32,
) -> Result<(), Error> {
    // What is read most often is among the newest messages, of which none goes to a file.
    let in_files = if from_seq.saturating_add(NEWEST_KEPT) >= last_seq {
        0
    } else {
        // Until the end of the transaction no other message goes to a file.
        conversations::lock(db, &[conversation_id]).await?;
        archives::count_never_unread(db, conversation_id, uid, from_seq, to_seq).await?
    };
    let (range, more) = ((from_seq, to_seq), "marked_unread = FALSE,");
    move_read(db, conversation_id, uid, range, in_files, more).await
}

/// The same for messages that nobody can read any more; a mark stays. The conversation is locked by the caller.
///
/// # Errors
/// As [`set_read`].
pub(super) async fn pass<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    range: (u32, u32),
) -> Result<(), Error> {
    let in_files = archives::count_never_unread(db, conversation_id, uid, range.0, range.1).await?;
    move_read(db, conversation_id, uid, range, in_files, "").await
}

async fn move_read<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    (from_seq, to_seq): (u32, u32),
    in_files: u32,
    more: &str,
) -> Result<(), Error> {
    let text = format!(
        "UPDATE members SET last_read_seq = ?, {more} changes = changes + 1,
            sent_read = sent_read + ? + (
            SELECT COUNT(*) FROM messages x
            WHERE x.conversation_id = ? AND x.seq > ? AND x.seq <= ? AND (x.sender = ? OR x.hidden_from = ?
                OR EXISTS (SELECT 1 FROM hidden_messages h
                    WHERE h.uid = ? AND h.conversation_id = x.conversation_id AND h.seq = x.seq)))
        WHERE conversation_id = ? AND uid = ? AND last_read_seq = ?"
    );
    let (from, to) = (from_seq.cast_signed(), to_seq.cast_signed());
    let values = [
        to.into(),
        in_files.cast_signed().into(),
        conversation_id.into(),
        from.into(),
        to.into(),
        uid.as_str().into(),
        uid.as_str().into(),
        uid.as_str().into(),
        conversation_id.into(),
        uid.as_str().into(),
        from.into(),
    ];
    match sql::execute(db, &text, values).await? {
        0 => Err(Error::Stale),
        _ => Ok(()),
    }
}

/// Hides messages up to a seq, which are no longer there, from all members.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub(super) async fn hide_until<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    seq: u32,
) -> Result<(), Error> {
    let text = "UPDATE members SET visible_seq = ?, changes = changes + 1
        WHERE conversation_id = ? AND visible_seq < ?";
    let seq = seq.cast_signed();
    sql::execute(db, text, [seq.into(), conversation_id.into(), seq.into()]).await?;
    Ok(())
}
