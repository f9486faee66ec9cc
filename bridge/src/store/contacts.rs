//! Rows of `contacts`: what a user has to do with another.

use std::collections::HashMap;

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};

/// How a user stands to another, as the user sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not at all.
    #[default]
    None,
    /// Both are contacts.
    Contact,
    /// The user waits for the other one.
    Requested,
    /// The other one waits for the user.
    Asked,
}

impl State {
    /// As the database and the wire have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::None => "none",
            State::Contact => "contact",
            State::Requested => "requested",
            State::Asked => "asked",
        }
    }

    /// The reverse of [`State::as_str`].
    fn parse(state: &str) -> Self {
        match state {
            "contact" => State::Contact,
            "requested" => State::Requested,
            "asked" => State::Asked,
            _ => State::None,
        }
    }
}

/// Whether a user hears the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    /// Yes.
    #[default]
    No,
    /// No, and the other one is told.
    Refuse,
    /// No, and the other one does not notice.
    Silent,
}

impl Block {
    /// As the wire has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Block::No => "",
            Block::Refuse => "refuse",
            Block::Silent => "silent",
        }
    }

    fn number(self) -> i32 {
        match self {
            Block::No => 0,
            Block::Refuse => 1,
            Block::Silent => 2,
        }
    }

    fn from_number(number: i32) -> Self {
        match number {
            0 => Block::No,
            2 => Block::Silent,
            _ => Block::Refuse,
        }
    }
}

/// What a user has to do with another; [`Contact::default`] where there is no row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// How they stand to each other.
    pub state: State,
    /// Whether the user hears the other one.
    pub block: Block,
    /// What the user calls the other one.
    pub remark: String,
    /// The user's groups of contacts that the other one is in.
    pub labels: Vec<String>,
    /// What was said with the request.
    pub text: String,
}

impl Contact {
    /// Whether it takes one of the user's places for contacts: what others begin does not.
    #[must_use]
    pub fn counts(&self) -> bool {
        matches!(self.state, State::Contact | State::Requested) || self.block != Block::No
    }

    /// As the wire has it; `user` is the other one.
    #[must_use]
    pub fn into_wire(self, user: v1::User) -> v1::Contact {
        v1::Contact {
            uid: user.uid.clone(),
            state: self.state.as_str().to_owned(),
            remark: self.remark,
            groups: self.labels,
            text: self.text,
            blocked: self.block.as_str().to_owned(),
            user: Some(user),
        }
    }
}

/// The columns that [`from_row`] reads, under the alias `k`.
pub(super) const COLUMNS: &str = "k.state, k.remark, k.labels, k.text, k.blocked";

/// What a user has to do with another.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    other: &Uid,
) -> Result<Option<Contact>, Error> {
    let text = format!("SELECT {COLUMNS} FROM contacts k WHERE k.uid = ? AND k.other = ?");
    let values = [uid.as_str().into(), other.as_str().into()];
    let row = sql::query_one(db, &text, values).await?;
    Ok(row.as_ref().map(from_row).transpose()?)
}

/// Replaces what a user has to do with another.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    other: &Uid,
    contact: &Contact,
) -> Result<(), Error> {
    const REPLACED: [&str; 5] = ["state", "remark", "labels", "text", "blocked"];
    let backend = db.get_database_backend();
    let replaced = REPLACED.map(|column| format!("{column} = {}", sql::excluded(backend, column)));
    let text = format!(
        "INSERT INTO contacts (uid, other, state, remark, labels, text, blocked, changes, version, synced)
        VALUES (?, ?, ?, ?, ?, ?, ?, 1, 0, -1){}{}, changes = contacts.changes + 1",
        sql::on_conflict(backend, "uid, other"),
        replaced.join(", ")
    );
    let labels = v1::ContactLabels {
        names: contact.labels.clone(),
    };
    let values = [
        uid.as_str().into(),
        other.as_str().into(),
        contact.state.as_str().into(),
        contact.remark.as_str().into(),
        labels.encode_to_vec().into(),
        contact.text.as_str().into(),
        contact.block.number().into(),
    ];
    sql::execute(db, &text, values).await?;
    Ok(())
}

/// How many of a user's contacts there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that count ([`Contact::counts`]).
    pub all: u32,
    /// Those of them for whom the user waits.
    pub requested: u32,
    /// Those who wait for the user.
    pub asked: u32,
}

/// Counts a user's contacts.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Counts, Error> {
    let text = "SELECT state, blocked, COUNT(*) AS total FROM contacts WHERE uid = ? GROUP BY state, blocked";
    let mut counts = Counts::default();
    for row in sql::query(db, text, [uid.as_str().into()]).await? {
        let total: i64 = row.try_get("", "total")?;
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let (state, block) = standing(&row)?;
        match state {
            State::Requested => counts.requested += total,
            State::Asked => counts.asked += total,
            State::None | State::Contact => {}
        }
        let contact = Contact {
            state,
            block,
            ..Contact::default()
        };
        if contact.counts() {
            counts.all += total;
        }
    }
    Ok(counts)
}

/// How users stand to others, by user and other one; those who have nothing to do with each other are missing.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn standings<'a, C: ConnectionTrait>(
    db: &C,
    pairs: impl IntoIterator<Item = (&'a Uid, &'a Uid)>,
) -> Result<HashMap<(Uid, Uid), (State, Block)>, Error> {
    let mut rows = sql::Rows::new(2);
    for (uid, other) in pairs {
        rows.push([uid.as_str().into(), other.as_str().into()]);
    }
    let text = "SELECT uid, other, state, blocked FROM contacts WHERE (uid, other) {in}";
    let mut found = HashMap::new();
    for row in sql::query_rows(db, text, rows).await? {
        let uid: String = row.try_get("", "uid")?;
        let other: String = row.try_get("", "other")?;
        if let (Ok(uid), Ok(other)) = (uid.parse(), other.parse()) {
            found.insert((uid, other), standing(&row)?);
        }
    }
    Ok(found)
}

/// The columns of [`COLUMNS`].
pub(super) fn from_row(row: &QueryResult) -> Result<Contact, DbErr> {
    let (state, block) = standing(row)?;
    let labels: Vec<u8> = row.try_get("", "labels")?;
    let labels = v1::ContactLabels::decode(labels.as_slice())
        .map_err(|error| DbErr::Type(format!("labels of a contact: {error}")))?;
    Ok(Contact {
        state,
        block,
        remark: row.try_get("", "remark")?,
        labels: labels.names,
        text: row.try_get("", "text")?,
    })
}

fn standing(row: &QueryResult) -> Result<(State, Block), DbErr> {
    let state: String = row.try_get("", "state")?;
    let block = row.try_get("", "blocked")?;
    Ok((State::parse(&state), Block::from_number(block)))
}
