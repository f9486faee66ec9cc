//! A list of words, and how it is found in a text: whatever the case and width of its letters, and where the script
//! puts spaces between words, only as whole words.

use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use unicode_normalization::UnicodeNormalization as _;

use super::Error;

/// Entries of a list, and the longest, in characters: a text is compared with all of them at once.
const ENTRIES_MAX: usize = 50_000;
const WORD_MAX: usize = 64;
/// Characters of what is noted of a marked message.
const FLAGGED_MAX: usize = 500;

/// What happens to a text that holds the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// It is refused.
    Reject,
    /// Each character of the word becomes `*`.
    Mask,
    /// It is shown to administrators.
    Flag,
}

#[derive(Debug)]
struct Entry {
    /// As the operator wrote it.
    word: Box<str>,
    action: Action,
    /// Whether the word begins, and ends, with what stands together without spaces only within a word.
    is_bounded: (bool, bool),
}

/// The words, ready to be looked for.
#[derive(Debug)]
pub(super) struct List {
    /// Finds the folded words in a folded text.
    matcher: AhoCorasick,
    /// By the number of its pattern.
    entries: Vec<Entry>,
}

/// What was found in the texts of a command.
#[derive(Debug, Default)]
pub(super) struct Findings<'l> {
    pub(super) is_rejected: bool,
    pub(super) has_masked: bool,
    /// The words to be shown to administrators.
    pub(super) flagged: BTreeSet<&'l str>,
}

impl Default for List {
    fn default() -> Self {
        List {
            matcher: AhoCorasick::new([""; 0]).expect("nothing is easily found"),
            entries: Vec::new(),
        }
    }
}

impl List {
    /// One entry per line: a word, and behind a tab what happens to it. Empty lines and those that begin with `#` don't
    /// count.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes)?.trim_start_matches('\u{feff}');
        let (mut entries, mut folded) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (entry, word) =
                parse_line(line).map_err(|reason| Error::Line { number, reason })?;
            entries.push(entry);
            folded.push(word);
            if entries.len() > ENTRIES_MAX {
                return Err(Error::TooLarge);
            }
        }
        let matcher = AhoCorasickBuilder::new().build(folded)?;
        Ok(List { matcher, entries })
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Masks what is to be masked in the text, and notes what else is found.
    pub(super) fn look_through<'l>(&'l self, text: &mut String, findings: &mut Findings<'l>) {
        let folded = fold(text);
        let mut masks = Vec::new();
        for found in self.matcher.find_overlapping_iter(&folded) {
            let entry = &self.entries[found.pattern().as_usize()];
            if !entry.stands_alone(&folded, found.range()) {
                continue;
            }
            match entry.action {
                Action::Reject => {
                    findings.is_rejected = true;
                    return;
                }
                Action::Mask => masks.push(found.range()),
                Action::Flag => drop(findings.flagged.insert(&entry.word)),
            }
        }
        if !masks.is_empty() {
            findings.has_masked = true;
            *text = mask(text, masks);
        }
    }
}

impl Findings<'_> {
    /// The words for administrators, as they are stored; `None`: there are none.
    pub(super) fn flagged(self) -> Option<Box<str>> {
        let words: Vec<&str> = self.flagged.into_iter().collect();
        let words: String = words.join(", ").chars().take(FLAGGED_MAX).collect();
        (!words.is_empty()).then(|| words.into())
    }
}

impl Entry {
    /// Whether what was found there is not a part of a longer word.
    fn stands_alone(&self, folded: &str, found: Range<usize>) -> bool {
        let (at_start, at_end) = self.is_bounded;
        let before = folded[..found.start].chars().next_back();
        let after = folded[found.end..].chars().next();
        !(at_start && before.is_some_and(needs_spaces) || at_end && after.is_some_and(needs_spaces))
    }
}

/// An entry, and its word folded.
fn parse_line(line: &str) -> Result<(Entry, String), &'static str> {
    let (word, action) = match line.split_once('\t') {
        None => (line, "reject"),
        Some((word, action)) => (word, action.trim()),
    };
    let action = match action {
        "reject" => Action::Reject,
        "mask" => Action::Mask,
        "flag" => Action::Flag,
        _ => return Err("behind the tab stands neither reject nor mask nor flag"),
    };
    let word = word.trim();
    let folded = fold(word);
    if folded.is_empty() || word.chars().count() > WORD_MAX {
        return Err("the word has not 1 to 64 characters");
    }
    let entry = Entry {
        word: word.into(),
        action,
        is_bounded: (
            folded.starts_with(needs_spaces),
            folded.ends_with(needs_spaces),
        ),
    };
    Ok((entry, folded))
}

/// Whether the character is of a word that ends where other characters begin: letters of scripts that put spaces between
/// words, and digits. Those of Chinese, Japanese, Thai and their neighbours are not.
fn needs_spaces(c: char) -> bool {
    c.is_alphanumeric() && matches!(c, '\0'..='\u{dff}' | '\u{1e00}'..='\u{1fff}')
}

/// The text without regard to case, width and invisible characters.
fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        fold_char(c, &mut folded);
    }
    folded
}

fn fold_char(c: char, folded: &mut String) {
    if c.is_ascii() {
        folded.push(c.to_ascii_lowercase());
    } else if !is_invisible(c) {
        folded.extend(c.nfkc().flat_map(char::to_lowercase));
    }
}

/// What could be put between letters without being seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// Writes `*` for each character of which anything lies in one of the ranges of the folded text.
fn mask(text: &str, mut masks: Vec<Range<usize>>) -> String {
    masks.sort_unstable_by_key(|range| range.start);
    let mut masks = masks.into_iter().peekable();
    let mut masked = String::with_capacity(text.len());
    // What is folded of the characters so far: its length is where the next one begins.
    let mut folded = String::new();
    let mut masked_to = 0;
    for c in text.chars() {
        let start = folded.len();
        fold_char(c, &mut folded);
        while let Some(range) = masks.next_if(|range| range.start < folded.len()) {
            masked_to = masked_to.max(range.end);
        }
        masked.push(if start < masked_to { '*' } else { c });
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a text: `None`: it is refused.
    fn look(list: &str, text: &str) -> Option<(String, Option<Box<str>>)> {
        let list = List::parse(list.as_bytes()).unwrap();
        let (mut text, mut findings) = (text.to_owned(), Findings::default());
        list.look_through(&mut text, &mut findings);
        (!findings.is_rejected).then(|| (text, findings.flagged()))
    }

    #[test]
    fn words_are_found_in_any_disguise() {
        const LIST: &str = "# comment\n\nass\n坏人\nvery bad\nштраф\nc++\nﬁsh\n";
        for refused in [
            "ass",
            "an ASS!",
            "ａｓｓ",
            "a\u{200b}ss",
            "你ass好",
            "这个坏人啊",
            "VERY BAD",
            "ШТРАФ.",
            "use c++",
            "fish",
            "ﬁsh",
        ] {
            assert_eq!(look(LIST, refused), None, "{refused}");
        }
        for fine in [
            "class",
            "assume",
            "ass1",
            "坏 人",
            "very badly",
            "штрафы",
            "abc++",
            "",
            "***",
        ] {
            assert_eq!(look(LIST, fine), Some((fine.to_owned(), None)));
        }
    }

    #[test]
    fn each_character_is_masked_by_one() {
        const LIST: &str = "rude\tmask\n坏人\tmask\nude\tmask\nfi\tmask\nbig rude\tmask";
        for (text, masked) in [
            ("Rude and ＲＵＤＥ", "**** and ****"),
            ("坏人坏人!", "****!"),
            ("r\u{200b}ude", "*****"),
            ("a big rude man", "a ******** man"),
            ("ﬁ fi", "* **"),
            ("é坏人é", "é**é"),
            ("rudeness", "rudeness"),
        ] {
            assert_eq!(look(LIST, text), Some((masked.to_owned(), None)));
        }
    }

    #[test]
    fn marked_words_are_told_once() {
        let (text, flagged) = look("spam\tflag\nscam\tflag", "scam, Spam, scam").unwrap();
        assert_eq!(text, "scam, Spam, scam");
        assert_eq!(flagged.as_deref(), Some("scam, spam"));
    }
}
