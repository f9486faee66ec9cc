//! What a group is beyond its conversation: its settings, who waits to come in, and what is pinned.

pub mod joining;
pub mod pins;

use schema::Gid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::members::Role;
use super::{Error, sql};

/// The least role that may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everybody in the group.
    Member,
    /// Owner and admins.
    Admin,
    /// The owner.
    Owner,
}

impl Policy {
    /// As the database and the wire have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Member => "member",
            Policy::Admin => "admin",
            Policy::Owner => "owner",
        }
    }

    /// The reverse of [`Policy::as_str`].
    #[must_use]
    pub fn parse(policy: &str) -> Option<Self> {
        [Policy::Member, Policy::Admin, Policy::Owner]
            .into_iter()
            .find(|known| known.as_str() == policy)
    }

    /// Whether that role may.
    #[must_use]
    pub fn allows(self, role: Role) -> bool {
        match self {
            Policy::Member => true,
            Policy::Admin => role != Role::Member,
            Policy::Owner => role == Role::Owner,
        }
    }
}

/// Who comes in without being added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Nobody.
    Closed,
    /// Who has the link.
    Link,
    /// Who asks, and is let in.
    Request,
    /// Who knows the gid.
    Open,
}

impl Join {
    /// As the database and the wire have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Join::Closed => "closed",
            Join::Link => "link",
            Join::Request => "request",
            Join::Open => "open",
        }
    }

    /// The reverse of [`Join::as_str`].
    #[must_use]
    pub fn parse(join: &str) -> Option<Self> {
        [Join::Closed, Join::Link, Join::Request, Join::Open]
            .into_iter()
            .find(|known| known.as_str() == join)
    }
}

/// What owner and admins can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For people.
    pub name: String,
    /// Empty: none.
    pub avatar: String,
    /// Empty: none.
    pub announcement: String,
    /// Who comes in without being added.
    pub join: Join,
    /// Who may add members, and let in who asks.
    pub invite: Policy,
    /// Who may send.
    pub post: Policy,
    /// Who may pin messages.
    pub pin: Policy,
    /// Whether newcomers see what was before them.
    pub history_visible: bool,
    /// Whether only owner and admins may send for now.
    pub muted: bool,
}

/// A group that was made, and may have been dissolved: what is looked at before it is locked, or without that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its conversation's key in the database.
    pub conversation_id: i64,
    /// As in [`Settings`].
    pub join: Join,
    /// As in [`Settings`].
    pub invite: Policy,
    /// Whether it is no more.
    pub is_dissolved: bool,
}

/// The columns that [`settings_of`] reads, under the alias `g`.
pub(super) const SETTINGS: &str = "g.name, g.avatar, g.announcement, g.join_by, g.invite_by, \
     g.post_by, g.pin_by, g.history_visible, g.muted";

/// The settings in a row with the columns [`SETTINGS`]. A word that is not known allows least.
pub(super) fn settings_of(row: &QueryResult) -> Result<Settings, DbErr> {
    let announcement: Option<String> = row.try_get("", "announcement")?;
    Ok(Settings {
        name: row.try_get("", "name")?,
        avatar: row.try_get("", "avatar")?,
        announcement: announcement.unwrap_or_default(),
        join: join(row)?,
        invite: policy(row, "invite_by")?,
        post: policy(row, "post_by")?,
        pin: policy(row, "pin_by")?,
        history_visible: row.try_get("", "history_visible")?,
        muted: row.try_get("", "muted")?,
    })
}

fn join(row: &QueryResult) -> Result<Join, DbErr> {
    let join: String = row.try_get("", "join_by")?;
    Ok(Join::parse(&join).unwrap_or(Join::Closed))
}

fn policy(row: &QueryResult, column: &str) -> Result<Policy, DbErr> {
    let policy: String = row.try_get("", column)?;
    Ok(Policy::parse(&policy).unwrap_or(Policy::Owner))
}

/// Makes a conversation a group's.
///
/// # Errors
/// [`Error::Exists`] when there is or was a group of that gid.
pub async fn add<C: ConnectionTrait>(db: &C, id: i64, gid: &Gid, name: &str) -> Result<(), Error> {
    let text = "INSERT INTO chat_groups (conversation_id, gid, name) VALUES (?, ?, ?)";
    sql::execute(db, text, [id.into(), gid.as_str().into(), name.into()]).await?;
    Ok(())
}

/// The group of that gid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(db: &C, gid: &Gid) -> Result<Option<Known>, Error> {
    let text =
        "SELECT conversation_id, join_by, invite_by, dissolved_at FROM chat_groups WHERE gid = ?";
    let Some(row) = sql::query_one(db, text, [gid.as_str().into()]).await? else {
        return Ok(None);
    };
    let dissolved_at: Option<i64> = row.try_get("", "dissolved_at")?;
    Ok(Some(Known {
        conversation_id: row.try_get("", "conversation_id")?,
        join: join(&row)?,
        invite: policy(&row, "invite_by")?,
        is_dissolved: dissolved_at.is_some(),
    }))
}

/// A group's settings as of now, where its conversation is locked; `None`: it is dissolved.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn settings<C: ConnectionTrait>(db: &C, id: i64) -> Result<Option<Settings>, Error> {
    let text = format!(
        "SELECT {SETTINGS} FROM chat_groups g
        WHERE g.conversation_id = ? AND g.dissolved_at IS NULL{}",
        sql::as_of_now(db.get_database_backend())
    );
    let row = sql::query_one(db, &text, [id.into()]).await?;
    Ok(row.as_ref().map(settings_of).transpose()?)
}

/// Replaces a group's settings.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set<C: ConnectionTrait>(db: &C, id: i64, settings: &Settings) -> Result<(), Error> {
    let text =
        "UPDATE chat_groups SET name = ?, avatar = ?, announcement = ?, join_by = ?, invite_by = ?,
        post_by = ?, pin_by = ?, history_visible = ?, muted = ? WHERE conversation_id = ?";
    let announcement = Some(settings.announcement.as_str()).filter(|text| !text.is_empty());
    let values = [
        settings.name.as_str().into(),
        settings.avatar.as_str().into(),
        announcement.into(),
        settings.join.as_str().into(),
        settings.invite.as_str().into(),
        settings.post.as_str().into(),
        settings.pin.as_str().into(),
        settings.history_visible.into(),
        settings.muted.into(),
        id.into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Ends a group, except for its members; nobody gets its gid again.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn dissolve<C: ConnectionTrait>(db: &C, id: i64, at: i64) -> Result<(), Error> {
    let text = "UPDATE chat_groups SET dissolved_at = ? WHERE conversation_id = ?";
    sql::execute(db, text, [at.into(), id.into()]).await?;
    for table in ["group_links", "group_requests", "group_pins"] {
        let text = format!("DELETE FROM {table} WHERE conversation_id = ?");
        sql::execute(db, &text, [id.into()]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, conversations, members, views};

    async fn count(store: &Store, rows: &str) -> i64 {
        let text = format!("SELECT COUNT(*) AS rows_found FROM {rows}");
        let row = sql::query_one(store.reader(), &text, []).await.unwrap();
        row.unwrap().try_get("", "rows_found").unwrap()
    }

    /// Its members are told when they ask, as often as it happens to them, and its gid stays taken.
    #[tokio::test]
    async fn nothing_is_left_of_a_dissolved_group_but_its_gid() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let uids = ["alice", "bob"].map(|name| name.parse().unwrap());
        let gid: Gid = "team".parse().unwrap();
        conversations::add(db, 1, "g:team", 0).await.unwrap();
        add(db, 1, &gid, "Team").await.unwrap();
        let roles = uids.iter().zip([Role::Owner, Role::Member]);
        members::add(db, 1, 0, 0, roles).await.unwrap();
        for statement in [
            "INSERT INTO cursors (uid, device, conversation_id, seq) VALUES ('bob', 'phone', 1, 1), ('bob', 'phone', 2, 1)",
            "INSERT INTO departures (uid, name, version) VALUES ('bob', 'g:team', 7)",
            "INSERT INTO group_requests (conversation_id, uid, text, at) VALUES (1, 'carol', '', 0)",
            "INSERT INTO group_links (conversation_id, token_hash, expires_at) VALUES (1, 'x', NULL)",
            "INSERT INTO group_pins (conversation_id, msg_id, at) VALUES (1, 1, 0)",
        ] {
            sql::execute(db, statement, []).await.unwrap();
        }
        assert!(views::group(db, &gid).await.unwrap().is_some());

        dissolve(db, 1, 5).await.unwrap();
        members::remove_all(db, 1).await.unwrap();
        for (rows, expected) in [
            ("members", 0),
            ("group_requests", 0),
            ("group_links", 0),
            ("group_pins", 0),
            ("cursors", 1),
            ("departures WHERE name = 'g:team' AND version = 0", 2),
        ] {
            assert_eq!(count(&store, rows).await, expected, "{rows}");
        }
        assert!(views::group(db, &gid).await.unwrap().is_none());
        assert!(settings(db, 1).await.unwrap().is_none());
        assert!(
            conversations::lookup(db, &["g:team"])
                .await
                .unwrap()
                .is_empty()
        );
        let known = lookup(db, &gid).await.unwrap();
        assert!(known.is_some_and(|known| known.is_dissolved));
    }
}
