//! A user's contacts, requests and blocks.

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::ConnectionTrait;

use super::user::{USER_COLUMNS, user};
use crate::store::{Error, contacts, sql};

/// Which contacts a page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// Those behind that uid.
    pub after: String,
    /// Only those whom the user has blocked.
    pub blocked: bool,
    /// So many at most.
    pub limit: u32,
    /// The page ends with the contact that reaches this many bytes.
    pub bytes_max: usize,
}

/// Some of a user's contacts, by uid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContactPage {
    /// The contacts.
    pub contacts: Vec<v1::Contact>,
    /// Whether there are more.
    pub more: bool,
}

/// One page of the user's contacts.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn contacts<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    which: &Which,
) -> Result<ContactPage, Error> {
    let is_there = if which.blocked {
        "k.blocked <> 0"
    } else {
        "(k.state <> 'none' OR k.blocked <> 0)"
    };
    let text = format!(
        "SELECT {}, {USER_COLUMNS} FROM contacts k JOIN users u ON u.uid = k.other
        WHERE k.uid = ? AND k.other > ? AND {is_there}
        ORDER BY k.other LIMIT {}",
        contacts::COLUMNS,
        // One more than the page takes, to learn whether there is more.
        which.limit.saturating_add(1)
    );
    let mut page = ContactPage::default();
    let mut bytes = 0;
    let values = [uid.as_str().into(), which.after.as_str().into()];
    for row in sql::query(db, &text, values).await? {
        if page.contacts.len() >= which.limit as usize || bytes >= which.bytes_max {
            page.more = true;
            break;
        }
        let contact = contacts::from_row(&row)?.into_wire(user(&row)?);
        bytes += contact.encoded_len();
        page.contacts.push(contact);
    }
    Ok(page)
}
