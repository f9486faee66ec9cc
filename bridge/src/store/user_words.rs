//! Rows of `user_words`: what users are found by.

use std::collections::{BTreeSet, HashSet};

use schema::Uid;
use sea_orm::ConnectionTrait;
use unicode_normalization::UnicodeNormalization as _;

use super::{Error, sql};

/// Words of a user, the uid included.
const WORDS_MAX: usize = 32;
/// Characters of a word, and so of what is looked for.
pub const WORD_MAX: usize = 64;

/// A text in which neither case nor width nor the number of spaces matters.
#[must_use]
pub fn fold(text: &str) -> String {
    let folded: String = text.nfkc().flat_map(char::to_lowercase).nfkc().collect();
    let words: Vec<&str> = folded.split_whitespace().collect();
    words.join(" ")
}

/// Adds what a new user is found by.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn add<C: ConnectionTrait>(db: &C, uid: &Uid, name: &str) -> Result<(), Error> {
    let mut rows = sql::Rows::new(2);
    for word in words(uid, name) {
        rows.push([word.into(), uid.as_str().into()]);
    }
    let text = "INSERT INTO user_words (word, uid) VALUES {rows}";
    Ok(sql::execute_rows(db, text, rows).await?)
}

/// The same after the user's name has changed.
///
/// # Errors
/// [`Error`] when the database can't do it; call it in a transaction.
pub async fn replace<C: ConnectionTrait>(db: &C, uid: &Uid, name: &str) -> Result<(), Error> {
    let text = "DELETE FROM user_words WHERE uid = ?";
    sql::execute(db, text, [uid.as_str().into()]).await?;
    add(db, uid, name).await
}

/// The users who have a word with this beginning and are not deleted, the closest first. `beginning` is folded.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find<C: ConnectionTrait>(
    db: &C,
    beginning: &str,
    limit: usize,
) -> Result<Vec<Uid>, Error> {
    // Each user could have all his words there.
    let text = search_text(limit.saturating_mul(WORDS_MAX));
    let end = format!("{beginning}{}", char::MAX);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for row in sql::query(db, &text, [beginning.into(), end.into()]).await? {
        let uid = super::users::uid(&row)?;
        if found.len() < limit && seen.insert(uid.clone()) {
            found.push(uid);
        }
    }
    Ok(found)
}

fn search_text(limit: usize) -> String {
    format!(
        "SELECT w.uid FROM user_words w JOIN users u ON u.uid = w.uid
        WHERE w.word >= ? AND w.word < ? AND u.deleted_at IS NULL
        ORDER BY w.word, w.uid LIMIT {limit}"
    )
}

/// The uid, and what is left of the name from each of its words on.
fn words(uid: &Uid, name: &str) -> BTreeSet<String> {
    let name = fold(name);
    let mut words = BTreeSet::from([fold(uid.as_str())]);
    let mut before = None;
    for (place, char) in name.char_indices() {
        if words.len() == WORDS_MAX {
            break;
        }
        if begins_word(before, char) {
            let word: String = name[place..].chars().take(WORD_MAX).collect();
            words.insert(word.trim_end().to_owned());
        }
        before = Some(char);
    }
    words
}

fn begins_word(before: Option<char>, char: char) -> bool {
    let Some(before) = before else {
        return true;
    };
    char.is_alphanumeric() && (!before.is_alphanumeric() || is_cjk(before) || is_cjk(char))
}

/// Whether it is of a script whose names have no spaces between their parts.
fn is_cjk(char: char) -> bool {
    matches!(
        char,
        '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7ff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many users there are, a search reads an index from where it begins.
    #[tokio::test]
    async fn a_search_does_not_scan() {
        let (store, _folder) = crate::store::Store::fresh().await;
        let text = format!("EXPLAIN QUERY PLAN {}", search_text(20));
        let plan = sql::query(store.reader(), &text, ["a".into(), "b".into()]);
        let details: Vec<String> = plan
            .await
            .unwrap()
            .iter()
            .map(|row| row.try_get("", "detail").unwrap())
            .collect();
        assert!(
            details[0].starts_with("SEARCH w USING PRIMARY KEY"),
            "{details:?}"
        );
        assert_eq!(details.len(), 2, "{details:?}");
    }

    #[test]
    fn names_fall_into_the_ends_that_begin_with_a_word() {
        for (name, expected) in [
            ("", &["ada.1"][..]),
            (
                "  Ada  LOVELACE ",
                &["ada lovelace", "ada.1", "lovelace"][..],
            ),
            ("Jean-Luc", &["ada.1", "jean-luc", "luc"]),
            ("Ｏ'Neil", &["ada.1", "neil", "o'neil"]),
            ("王小明", &["ada.1", "小明", "明", "王小明"]),
            ("Anna王", &["ada.1", "anna王", "王"]),
            ("🚀 Bob", &["ada.1", "bob", "🚀 bob"]),
        ] {
            let words = words(&"Ada.1".parse().unwrap(), name);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            assert_eq!(words, expected, "{name}");
        }
        let long = words(&"a".parse().unwrap(), &"王".repeat(128));
        assert!(long.iter().all(|word| word.chars().count() <= WORD_MAX));
        let many = words(&"a".parse().unwrap(), &"a b c ".repeat(40));
        assert_eq!(many.len(), WORDS_MAX);
    }
}
