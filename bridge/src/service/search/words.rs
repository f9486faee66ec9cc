//! What is the same when people look for it, and what a text is found by.
//!
//! No language is known here, and none is needed: a word that is looked for is found wherever it stands in a text, as a
//! part of a longer word too. So the index has the pairs of neighbouring characters of each text. A message that has all
//! pairs of a word need not have the word; what the index finds is compared with the text itself.

use std::fmt::Write as _;

use schema::v1::{self, message::Content};
use unicode_normalization::UnicodeNormalization as _;

/// Bytes of a text, and characters of what becomes of it, that are looked at; the rest is not found.
const TEXT_MAX: usize = 8 * 1024;
/// Tokens of a query that the index is asked for; the text itself is compared with all of it.
const QUERY_TOKENS_MAX: usize = 64;

/// A text without what does not matter: case, width, accents.
pub(in crate::service) fn fold(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(TEXT_MAX)];
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfkd()
        .flat_map(fold_case)
        .filter(|c| !is_accent(*c) && !is_invisible(*c))
        // Syllables of Hangul and voiced kana become whole again.
        .nfkc()
        .take(TEXT_MAX)
        .collect()
}

/// There and back, so that ß and ς are what they are in capitals.
fn fold_case(c: char) -> impl Iterator<Item = char> {
    c.to_lowercase()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
}

/// Marks of Latin, Greek, Cyrillic, Hebrew and Arabic that people leave out. In other scripts marks make another letter.
fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5bd}' | '\u{5bf}' | '\u{5c1}' | '\u{5c2}'
        | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{670}')
}

/// Joiners, direction marks, and what chooses between looks of an emoji.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// Everything in a message that people read, folded. Empty: it can't be found.
pub(in crate::service) fn text_of(message: &v1::Message) -> String {
    let mut text = String::new();
    collect(message, &mut text);
    fold(&text)
}

/// Pieces end with a line of their own, so that nothing is found across them.
fn collect(message: &v1::Message, text: &mut String) {
    let mut push = |piece: &str| {
        text.push_str(piece);
        text.push('\n');
    };
    match &message.content {
        Some(Content::Text(said)) => push(said),
        Some(Content::Media(media)) => {
            push(&media.caption);
            push(&media.name);
        }
        Some(Content::Location(place)) => {
            push(&place.name);
            push(&place.address);
        }
        Some(Content::Merged(merged)) => {
            push(&merged.title);
            for message in &merged.messages {
                if text.len() < TEXT_MAX {
                    collect(message, text);
                }
            }
        }
        Some(Content::Body(_) | Content::System(_)) | None => {}
    }
}

/// What the index has of a character pair, or of a character alone.
type Token = (char, Option<char>);

/// The tokens of a folded text, each once.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(text.len());
    for word in text.split_whitespace() {
        let mut previous = None;
        for c in word.chars() {
            if let Some(previous) = previous {
                tokens.push((previous, Some(c)));
            }
            if may_be_a_word(c) {
                tokens.push((c, None));
            }
            previous = Some(c);
        }
    }
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// The tokens that a text must have to hold these folded words.
fn wanted(words: &[String]) -> Vec<Token> {
    let mut wanted = Vec::new();
    for word in words {
        let mut of_word = tokens(word);
        if word.chars().nth(1).is_some() {
            of_word.retain(|(_, second)| second.is_some());
        }
        wanted.append(&mut of_word);
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted.truncate(QUERY_TOKENS_MAX);
    wanted
}

/// Whether people look for this character by itself: those of Chinese, Japanese and Korean, and emoji. Single letters
/// of alphabets are in nearly every message, and not worth a place in the index.
fn may_be_a_word(c: char) -> bool {
    c >= '\u{2600}'
}

/// The words of a query, folded.
pub(in crate::service) fn words_of(query: &str) -> Vec<String> {
    let words = fold(query);
    words.split_whitespace().map(str::to_owned).collect()
}

/// Whether a folded text holds all of these folded words.
pub(in crate::service) fn holds(text: &str, words: &[String]) -> bool {
    words.iter().all(|word| text.contains(word.as_str()))
}

/// What a message with this text is found by, as the index has it: its tokens, and that of its conversation.
pub(in crate::service) fn index_row(text: &str, conversation_id: i64) -> String {
    let mut row = conversation_token(conversation_id);
    for token in tokens(text) {
        row.push(' ');
        write_token(token, &mut row);
    }
    row
}

/// What to ask the index for these words. Nothing: all messages may have them.
pub(in crate::service) fn query_tokens(words: &[String]) -> Vec<String> {
    let tokens = wanted(words).into_iter().map(|token| {
        let mut text = String::new();
        write_token(token, &mut text);
        text
    });
    tokens.collect()
}

/// The token that all messages of a conversation have.
pub(in crate::service) fn conversation_token(conversation_id: i64) -> String {
    format!("k{conversation_id:x}")
}

/// Letters and digits only, three at least, and no word of any language that an index would leave out.
fn write_token((first, second): Token, text: &mut String) {
    let first = u32::from(first);
    let written = match second {
        Some(second) => write!(text, "{first:x}z{:x}", u32::from(second)),
        None => write!(text, "y{first:x}"),
    };
    debug_assert!(written.is_ok(), "a String takes everything");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> v1::Message {
        v1::Message {
            content: Some(Content::Text(text.to_owned())),
            ..Default::default()
        }
    }

    #[test]
    fn what_people_take_for_the_same_is_found() {
        for (text, query, expected) in [
            ("Hello World", "hello", true),
            ("Hello World", "WORLD hello", true),
            ("Hello World", "ell orl", true),
            ("Hello World", "helloworld", false),
            ("Hello World", "hello moon", false),
            ("Crème Brûlée", "creme brulee", true),
            ("creme brulee", "Crème BRÛLÉE", true),
            ("Straße", "STRASSE", true),
            ("ΟΔΟΣ", "οδος", true),
            ("ΟΔΟΣ", "οδοσ", true),
            ("ёлка", "елка", true),
            ("İstanbul", "istanbul", true),
            ("ＨＥＬＬＯ　１２３", "hello 123", true),
            ("ﾃﾞｰﾀﾍﾞｰｽ", "データベース", true),
            ("がんばって", "かんばって", false),
            ("今天天气很好", "天气", true),
            ("今天天气很好", "气", true),
            ("今天天气很好", "很今", false),
            ("한국어 메시지", "국어", true),
            ("สวัสดีครับ น้ำแข็ง", "น้ำ", true),
            ("नमस्ते दुनिया", "दुनिया", true),
            ("see you 🎉🎉", "🎉", true),
            ("I ❤️ this", "❤", true),
            ("C++ & user@example.com", "c++ r@ex", true),
            ("ﷺ", "صلى", true),
            ("x", "x", true),
        ] {
            let folded = text_of(&super::tests::text(text));
            let words = words_of(query);
            assert_eq!(holds(&folded, &words), expected, "{query} in {text}");
            let row = format!(" {} ", index_row(&folded, 7));
            let has = |token: &String| row.contains(&format!(" {token} "));
            if expected {
                assert!(query_tokens(&words).iter().all(has), "{query} in {row}");
            }
        }
    }

    #[test]
    fn all_that_people_read_is_found() {
        let media = v1::Media {
            name: "IMG_1.jpeg".into(),
            caption: "At the Beach".into(),
            ..Default::default()
        };
        let media = v1::Message {
            content: Some(Content::Media(Box::new(media))),
            ..Default::default()
        };
        assert_eq!(text_of(&media), "at the beach\nimg_1.jpeg\n");
        let merged = v1::Merged {
            title: "Chat".into(),
            messages: vec![text("One"), media],
        };
        let merged = v1::Message {
            content: Some(Content::Merged(Box::new(merged))),
            ..Default::default()
        };
        assert_eq!(text_of(&merged), "chat\none\nat the beach\nimg_1.jpeg\n");
        let body = v1::Message {
            content: Some(Content::Body("secret".into())),
            ..Default::default()
        };
        assert_eq!(text_of(&body), "");
    }

    #[test]
    fn what_is_indexed_is_bounded() {
        // 18 characters become of each.
        let longest = "ﷺ".repeat(100_000);
        assert!(fold(&longest).chars().count() <= TEXT_MAX);
        let words = words_of(&longest[..128 * 3]);
        assert!(query_tokens(&words).len() <= QUERY_TOKENS_MAX);
        assert!(!holds(
            &fold(&format!("{}end", "x".repeat(TEXT_MAX))),
            &words_of("end")
        ));
        assert_eq!(words_of(" \u{200b}\u{3000}"), Vec::<String>::new());
    }

    proptest! {
        /// Whatever part of a text is looked for, the index has its tokens, all of which any database takes for words.
        #[test]
        fn the_index_finds_every_part(text in "\\PC{0,40}", from in 0..40_usize, length in 1..10_usize) {
            let folded = fold(&text);
            let part: String = folded.chars().skip(from).take(length).collect();
            let words: Vec<String> = part.split_whitespace().map(str::to_owned).collect();
            let row = index_row(&folded, i64::MAX);
            let tokens: Vec<&str> = row.split(' ').collect();
            for wanted in query_tokens(&words) {
                prop_assert!(tokens.contains(&wanted.as_str()), "{} of {}", wanted, row);
            }
            for token in tokens {
                let is_word = token.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
                prop_assert!((3..=17).contains(&token.len()) && is_word, "{}", token);
            }
        }
    }
}
