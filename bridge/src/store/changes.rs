//! What has changed for a user, by version. Versions are given when somebody asks; see the migration
//! `m0003_chat_semantics`. Each thing has a version of its own, so that a page can end between any two.

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::groups::{SETTINGS, pins};
use super::views::{PINS_MAX, described};
use super::{Error, sql};

/// Things of a kind that get their versions at once; the others get theirs the next time.
const NUMBERED_MAX: u32 = 500;

/// The revision of a member's conversation. It only grows, and is another one whenever there is something new.
const CONVERSATION_REVISION: &str = "c.last_seq + c.changes + m.changes";
const GROUP_REVISION: &str = "c.changes";
const CONTACT_REVISION: &str = "k.changes + COALESCE(u.profile_changes, 0)";
const PROFILE_REVISION: &str = "u.profile_changes + u.changes";
/// A user who is back has not departed.
const IS_AWAY: &str = "NOT EXISTS (
        SELECT 1 FROM members m JOIN conversations c ON c.id = m.conversation_id
        WHERE m.uid = d.uid AND c.name = d.name)";

/// Something that can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    /// The user's own profile and settings.
    Profile,
    /// The contact with this uid.
    Contact(String),
    /// What the group of this conversation is.
    Group(i64),
    /// Where the user stands in this conversation.
    Conversation(i64),
    /// The user is no longer in the conversation of this name.
    Departure(String),
}

/// A thing and the version of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Greater than that of any earlier change.
    pub version: i64,
    /// What has changed.
    pub thing: Thing,
}

/// The newest version that was given for a user, whose row stays locked to the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lock<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<i64>, Error> {
    let text = format!(
        "SELECT version FROM users WHERE uid = ?{}",
        sql::for_update(db.get_database_backend())
    );
    let row = sql::query_one(db, &text, [uid.as_str().into()]).await?;
    Ok(row.map(|row| row.try_get("", "version")).transpose()?)
}

/// The newest version after everything that has changed has got one, or as much as is done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The newest version.
    pub version: i64,
    /// Something may be without.
    pub more: bool,
}

/// Gives what has changed the versions after `version`. Call it under [`lock`].
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn number<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    version: i64,
) -> Result<Numbered, Error> {
    let mut numbering = Numbering {
        version,
        more: false,
    };
    let mut profile = None;
    for (_, revision) in numbering.changed(db, uid, PROFILE).await? {
        profile = Some((numbering.next(), revision));
    }
    let mut contacts = sql::Rows::new(4);
    for (row, revision) in numbering.changed(db, uid, CONTACTS).await? {
        let other: String = row.try_get("", "thing")?;
        let version = numbering.next();
        contacts.push([
            uid.as_str().into(),
            other.into(),
            version.into(),
            revision.into(),
        ]);
    }
    let mut groups = numbering.members(db, uid, GROUPS).await?;
    let mut conversations = numbering.members(db, uid, CONVERSATIONS).await?;
    let mut departures = sql::Rows::new(3);
    for (row, _) in numbering.changed(db, uid, DEPARTURES).await? {
        let name: String = row.try_get("", "thing")?;
        departures.push([uid.as_str().into(), name.into(), numbering.next().into()]);
    }
    let numbered = Numbered {
        version: numbering.version,
        more: numbering.more,
    };
    if numbered.version == version {
        return Ok(numbered);
    }
    // MySQL takes a value's name for a column where both are one.
    let columns = ["uid", "other", "number", "revision"];
    let set = "version = v.number, synced = v.revision";
    let on = "contacts.uid = v.uid AND contacts.other = v.other";
    sql::update_rows(db, "contacts", &columns, set, on, contacts).await?;
    let columns = ["conversation_id", "uid", "number", "revision"];
    let on = "members.conversation_id = v.conversation_id AND members.uid = v.uid";
    for (set, rows) in [
        (
            "group_version = v.number, group_synced = v.revision",
            &mut groups,
        ),
        (
            "version = v.number, synced = v.revision",
            &mut conversations,
        ),
    ] {
        sql::update_rows(db, "members", &columns, set, on, std::mem::take(rows)).await?;
    }
    let columns = ["uid", "name", "number"];
    let on = "departures.uid = v.uid AND departures.name = v.name";
    sql::update_rows(
        db,
        "departures",
        &columns,
        "version = v.number",
        on,
        departures,
    )
    .await?;
    if let Some((version, revision)) = profile {
        let text = "UPDATE users SET profile_version = ?, profile_synced = ? WHERE uid = ?";
        let values = [version.into(), revision.into(), uid.as_str().into()];
        sql::execute(db, text, values).await?;
    }
    let text = "UPDATE users SET version = ? WHERE uid = ?";
    sql::execute(db, text, [numbered.version.into(), uid.as_str().into()]).await?;
    Ok(numbered)
}

/// Where things of a kind are found: what is selected of which tables, the revision, the column with the revision that
/// was numbered last, and the column with its version.
#[derive(Clone, Copy)]
struct Kind {
    thing: &'static str,
    from: &'static str,
    /// `None`: a thing has no revision, and changes only once.
    revision: Option<(&'static str, &'static str)>,
    version: &'static str,
}

const PROFILE: Kind = Kind {
    thing: "u.uid",
    from: "users u WHERE u.uid = ?",
    revision: Some((PROFILE_REVISION, "u.profile_synced")),
    version: "u.profile_version",
};
const CONTACTS: Kind = Kind {
    thing: "k.other",
    from: "contacts k LEFT JOIN users u ON u.uid = k.other WHERE k.uid = ?",
    revision: Some((CONTACT_REVISION, "k.synced")),
    version: "k.version",
};
const GROUPS: Kind = Kind {
    thing: "c.id",
    from: "members m JOIN conversations c ON c.id = m.conversation_id
        JOIN chat_groups g ON g.conversation_id = c.id WHERE m.uid = ?",
    revision: Some((GROUP_REVISION, "m.group_synced")),
    version: "m.group_version",
};
const CONVERSATIONS: Kind = Kind {
    thing: "c.id",
    from: "members m JOIN conversations c ON c.id = m.conversation_id WHERE m.uid = ?",
    revision: Some((CONVERSATION_REVISION, "m.synced")),
    version: "m.version",
};
const DEPARTURES: Kind = Kind {
    thing: "d.name",
    from: "departures d WHERE d.uid = ?",
    revision: None,
    version: "d.version",
};

impl Kind {
    /// Those that have changed since they were numbered last: `thing` and `revision`.
    fn changed(self) -> String {
        let Kind { thing, from, .. } = self;
        match self.revision {
            Some((revision, synced)) => format!(
                "SELECT {thing} AS thing, {revision} AS revision FROM {from} AND {synced} <> {revision}
                ORDER BY {thing} LIMIT {NUMBERED_MAX}"
            ),
            None => format!(
                "SELECT {thing} AS thing, 0 AS revision FROM {from} AND d.version = 0 AND {IS_AWAY}
                ORDER BY {thing} LIMIT {NUMBERED_MAX}"
            ),
        }
    }

    /// Those with a version after the second parameter, oldest first: `thing` and `version`. What has changed since
    /// it was numbered is left out: it comes with its next version, and not twice.
    fn after(self, limit: u32) -> String {
        let Kind {
            thing,
            from,
            version,
            ..
        } = self;
        let is_current = match self.revision {
            Some((revision, synced)) => format!("{synced} = {revision}"),
            None => IS_AWAY.to_owned(),
        };
        format!(
            "SELECT {thing} AS thing, {version} AS version FROM {from} AND {version} > ? AND {is_current}
            ORDER BY {version} LIMIT {limit}"
        )
    }
}

/// Versions being given.
struct Numbering {
    version: i64,
    more: bool,
}

impl Numbering {
    fn next(&mut self) -> i64 {
        self.version += 1;
        self.version
    }

    /// What has changed, with its revision.
    async fn changed<C: ConnectionTrait>(
        &mut self,
        db: &C,
        uid: &Uid,
        kind: Kind,
    ) -> Result<Vec<(QueryResult, i64)>, DbErr> {
        let rows = sql::query(db, &kind.changed(), [uid.as_str().into()]).await?;
        self.more |= rows.len() >= NUMBERED_MAX as usize;
        let with_revision = |row: QueryResult| {
            let revision: i32 = row.try_get("", "revision")?;
            Ok((row, revision.into()))
        };
        rows.into_iter().map(with_revision).collect()
    }

    /// Rows of a member's things: conversation, uid, version, revision.
    async fn members<C: ConnectionTrait>(
        &mut self,
        db: &C,
        uid: &Uid,
        kind: Kind,
    ) -> Result<sql::Rows, DbErr> {
        let mut rows = sql::Rows::new(4);
        for (row, revision) in self.changed(db, uid, kind).await? {
            let id: i64 = row.try_get("", "thing")?;
            let version = self.next();
            rows.push([
                id.into(),
                uid.as_str().into(),
                version.into(),
                revision.into(),
            ]);
        }
        Ok(rows)
    }
}

/// What has a version after `since`, oldest first, so much at most.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    since: i64,
    limit: u32,
) -> Result<Vec<Change>, Error> {
    type Read = fn(&QueryResult) -> Result<Thing, DbErr>;
    let kinds: [(Kind, Read); 5] = [
        (PROFILE, |_| Ok(Thing::Profile)),
        (CONTACTS, |row| {
            Ok(Thing::Contact(row.try_get("", "thing")?))
        }),
        (GROUPS, |row| Ok(Thing::Group(row.try_get("", "thing")?))),
        (CONVERSATIONS, |row| {
            Ok(Thing::Conversation(row.try_get("", "thing")?))
        }),
        (DEPARTURES, |row| {
            Ok(Thing::Departure(row.try_get("", "thing")?))
        }),
    ];
    let mut changes = Vec::new();
    for (kind, read) in kinds {
        let values = [uid.as_str().into(), since.into()];
        for row in sql::query(db, &kind.after(limit), values).await? {
            changes.push(Change {
                version: row.try_get("", "version")?,
                thing: read(&row)?,
            });
        }
    }
    changes.sort_unstable_by_key(|change| change.version);
    changes.truncate(limit as usize);
    Ok(changes)
}

/// The groups of these conversations, without members.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn groups<C: ConnectionTrait>(
    db: &C,
    ids: &[i64],
) -> Result<Vec<(i64, v1::Group)>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([(*id).into()]);
    }
    let text = format!(
        "SELECT c.id, c.name AS conversation, c.created_at, g.gid, {SETTINGS}, g.dissolved_at,
            (SELECT COUNT(*) FROM members m WHERE m.conversation_id = c.id) AS member_count
        FROM chat_groups g JOIN conversations c ON c.id = g.conversation_id WHERE g.conversation_id {{in}}"
    );
    let rows = sql::query_rows(db, &text, rows).await?;
    let mut groups: Vec<(i64, v1::Group)> = rows.iter().map(group).collect::<Result<_, _>>()?;
    for (id, group) in &mut groups {
        group.pinned = pins::list(db, *id, PINS_MAX).await?;
    }
    Ok(groups)
}

fn group(row: &QueryResult) -> Result<(i64, v1::Group), DbErr> {
    let dissolved_at: Option<i64> = row.try_get("", "dissolved_at")?;
    let group = v1::Group {
        gid: row.try_get("", "gid")?,
        conversation: row.try_get("", "conversation")?,
        partial: true,
        dissolved: dissolved_at.is_some(),
        ..described(row)?
    };
    Ok((row.try_get("", "id")?, group))
}

/// What of a user everybody may see, under the alias `u`.
const USER_COLUMNS: &str = "u.name, u.avatar, u.about, u.kind, u.deleted_at";

fn user(row: &QueryResult, uid: String) -> Result<v1::User, DbErr> {
    // Null where there is no such user.
    let text = |column: &str| -> Result<String, DbErr> {
        let text: Option<String> = row.try_get("", column)?;
        Ok(text.unwrap_or_default())
    };
    let deleted_at: Option<i64> = row.try_get("", "deleted_at")?;
    Ok(v1::User {
        uid,
        name: text("name")?,
        avatar: text("avatar")?,
        about: text("about")?,
        kind: text("kind")?,
        deleted: deleted_at.is_some(),
    })
}

/// Those contacts of a user.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn contacts<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    others: &[&str],
) -> Result<Vec<v1::Contact>, Error> {
    let mut rows = sql::Rows::new(2);
    for other in others {
        rows.push([uid.as_str().into(), (*other).into()]);
    }
    let text = format!(
        "SELECT k.other, k.state, k.remark, k.labels, k.text, k.blocked, {USER_COLUMNS}
        FROM contacts k LEFT JOIN users u ON u.uid = k.other WHERE (k.uid, k.other) {{in}}"
    );
    let rows = sql::query_rows(db, &text, rows).await?;
    Ok(rows.iter().map(contact).collect::<Result<_, _>>()?)
}

fn contact(row: &QueryResult) -> Result<v1::Contact, DbErr> {
    let uid: String = row.try_get("", "other")?;
    let labels: Vec<u8> = row.try_get("", "labels")?;
    let labels: v1::ContactLabels = prost::Message::decode(&*labels)
        .map_err(|error| DbErr::Type(format!("labels of contact {uid}: {error}")))?;
    let blocked: i32 = row.try_get("", "blocked")?;
    let blocked = match blocked {
        0 => "",
        1 => "refuse",
        _ => "silent",
    };
    Ok(v1::Contact {
        state: row.try_get("", "state")?,
        remark: row.try_get("", "remark")?,
        groups: labels.names,
        text: row.try_get("", "text")?,
        blocked: blocked.to_owned(),
        user: Some(user(row, uid.clone())?),
        uid,
    })
}

/// The user's own profile and settings.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn profile<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<v1::Profile>, Error> {
    let text = format!(
        "SELECT u.read_receipts, u.strangers, u.presence, u.status_text, {USER_COLUMNS} FROM users u WHERE u.uid = ?"
    );
    let Some(row) = sql::query_one(db, &text, [uid.as_str().into()]).await? else {
        return Ok(None);
    };
    Ok(Some(v1::Profile {
        user: Some(user(&row, uid.to_string())?),
        read_receipts: row.try_get("", "read_receipts")?,
        strangers: row.try_get("", "strangers")?,
        presence: row.try_get("", "presence")?,
        text: row.try_get("", "status_text")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::members::{self, Role, Wishes};
    use crate::store::{Store, conversations, groups};

    fn bob() -> Uid {
        "bob".parse().unwrap()
    }

    async fn run(store: &Store, texts: &[&str]) {
        for text in texts {
            sql::execute(store.writer(), text, []).await.unwrap();
        }
    }

    /// Bob is in `g:1` to `g:3`, and has alice as a contact.
    async fn bobs_store() -> (Store, tempfile::TempDir) {
        let (store, folder) = Store::fresh().await;
        let db = store.writer();
        for uid in ["alice", "bob"] {
            let text = "INSERT INTO users (uid, kind, role, password_hash, created_at) VALUES (?, 'person', 'user', '', 0)";
            sql::execute(db, text, [uid.into()]).await.unwrap();
        }
        for id in 1..=3 {
            let name = format!("g:{id}");
            conversations::add(db, id, &name, 0).await.unwrap();
            groups::add(db, id, &id.to_string().parse().unwrap(), "A group")
                .await
                .unwrap();
            members::add(db, id, 0, 0, [(&bob(), Role::Member)])
                .await
                .unwrap();
        }
        run(
            &store,
            &["INSERT INTO contacts (uid, other, state, remark, labels, text, blocked, changes, version, synced)
                VALUES ('bob', 'alice', 'contact', 'A.', '', '', 0, 0, 0, -1)"],
        )
        .await;
        (store, folder)
    }

    async fn since(store: &Store, version: i64) -> (Vec<Thing>, i64) {
        let db = store.writer();
        let current = lock(db, &bob()).await.unwrap().unwrap();
        let numbered = number(db, &bob(), current).await.unwrap();
        assert!(!numbered.more);
        let changes = list(db, &bob(), version, 100).await.unwrap();
        let versions: Vec<i64> = changes.iter().map(|change| change.version).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        if let Some(last) = versions.last() {
            assert!(*last <= numbered.version);
        }
        let things = changes.into_iter().map(|change| change.thing);
        (things.collect(), numbered.version)
    }

    /// Each difference comes once for whoever asks since before it, whatever others have asked in between.
    #[tokio::test]
    async fn whoever_asks_gets_the_differences() {
        let (store, _folder) = bobs_store().await;
        let (everything, first) = since(&store, 0).await;
        let (group, conversation) = (Thing::Group, Thing::Conversation);
        let contact = Thing::Contact("alice".into());
        let expected = [
            vec![Thing::Profile, contact.clone()],
            (1..=3).map(group).collect(),
            (1..=3).map(conversation).collect(),
        ];
        assert_eq!(everything, expected.concat());
        assert_eq!(since(&store, first).await, (vec![], first));
        assert_eq!(since(&store, 0).await, (everything, first));

        run(
            &store,
            &["UPDATE conversations SET last_seq = 1 WHERE id = 2"],
        )
        .await;
        let (found, second) = since(&store, first).await;
        assert_eq!(found, [conversation(2)]);
        run(
            &store,
            &[
                "UPDATE users SET profile_changes = 1 WHERE uid = 'alice'",
                "UPDATE conversations SET changes = 1 WHERE id = 3",
            ],
        )
        .await;
        members::set_wishes(store.writer(), 2, &bob(), &Wishes::default())
            .await
            .unwrap();
        let news = [contact, group(3), conversation(2), conversation(3)];
        let (found, third) = since(&store, second).await;
        assert_eq!(found, news);
        assert_eq!(since(&store, first).await.0, news, "2 is not there twice");
        assert_eq!(since(&store, third).await, (vec![], third));
        run(&store, &["UPDATE users SET changes = 1 WHERE uid = 'bob'"]).await;
        assert_eq!(since(&store, third).await.0, [Thing::Profile]);
    }

    #[tokio::test]
    async fn who_leaves_and_comes_back_learns_of_both() {
        let (store, _folder) = bobs_store().await;
        let (_, first) = since(&store, 0).await;
        let db = store.writer();
        let gone = [Thing::Departure("g:1".into())];
        let back = [Thing::Group(1), Thing::Conversation(1)];
        members::remove(db, 1, &bob()).await.unwrap();
        members::remove(db, 1, &bob()).await.unwrap();
        let (found, second) = since(&store, first).await;
        assert_eq!(found, gone);
        assert_eq!(since(&store, second).await, (vec![], second));

        let member = [(&bob(), Role::Member)];
        members::add(db, 1, 0, 0, member).await.unwrap();
        let (found, third) = since(&store, second).await;
        assert_eq!(found, back);
        assert_eq!(since(&store, first).await.0, back);
        // Out and in again before anybody asks.
        members::remove(db, 1, &bob()).await.unwrap();
        members::add(db, 1, 0, 0, member).await.unwrap();
        assert_eq!(since(&store, third).await.0, back);
        members::remove(db, 1, &bob()).await.unwrap();
        assert_eq!(since(&store, third).await.0, gone);
    }

    /// Much at once is numbered step by step, and nothing of it comes twice.
    #[tokio::test]
    async fn much_is_numbered_in_steps() {
        let (store, _folder) = bobs_store().await;
        run(
            &store,
            &["INSERT INTO departures (uid, name, version)
                WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
                SELECT 'bob', 'g:old' || i, 0 FROM n"],
        )
        .await;
        let db = store.writer();
        let (mut found, mut position) = (Vec::new(), 0);
        loop {
            let current = lock(db, &bob()).await.unwrap().unwrap();
            let numbered = number(db, &bob(), current).await.unwrap();
            assert!(numbered.version - current <= 5 * i64::from(NUMBERED_MAX));
            let page = list(db, &bob(), position, 100).await.unwrap();
            let Some(last) = page.last() else {
                assert!(!numbered.more);
                break;
            };
            position = last.version;
            found.extend(page.into_iter().map(|change| format!("{:?}", change.thing)));
        }
        let count = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!((count, found.len()), (1208, 1208));
    }

    #[tokio::test]
    async fn contents_are_read_off_the_tables() {
        let (store, _folder) = bobs_store().await;
        run(
            &store,
            &[
                "UPDATE users SET name = 'Alice', about = 'me' WHERE uid = 'alice'",
                "UPDATE users SET deleted_at = 5, status_text = 'busy' WHERE uid = 'bob'",
                "UPDATE contacts SET blocked = 2",
                "UPDATE chat_groups SET announcement = 'Hear!', muted = TRUE WHERE conversation_id = 2",
            ],
        )
        .await;
        let db = store.reader();
        let contacts = contacts(db, &bob(), &["alice", "nobody"]).await.unwrap();
        let [contact] = &contacts[..] else {
            panic!("{contacts:?}");
        };
        assert_eq!(
            (contact.remark.as_str(), &*contact.blocked),
            ("A.", "silent")
        );
        assert_eq!(contact.user.as_ref().unwrap().name, "Alice");
        let groups = groups(db, &[2, 9]).await.unwrap();
        let [(2, group)] = &groups[..] else {
            panic!("{groups:?}");
        };
        assert_eq!(
            (group.announcement.as_str(), group.member_count),
            ("Hear!", 1)
        );
        assert!(group.muted && group.partial && !group.dissolved);
        let profile = profile(db, &bob()).await.unwrap().unwrap();
        assert!(profile.read_receipts && profile.user.unwrap().deleted);
        assert_eq!(profile.text, "busy");
    }
}
