//! Where the messages of a file stand: some ten bytes of each, so that whatever needs no content needs no file.

use std::collections::HashMap;

use prost::Message as _;
use schema::archive;
use sea_orm::DbErr;

use crate::store::operations::Gone;

/// A message that is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the conversation.
    pub seq: u32,
    /// Its id.
    pub msg_id: u64,
    /// Why it has no content any more, whatever the file says.
    pub gone: Option<Gone>,
    /// The one who does not get it.
    pub hidden_from: Option<String>,
    sender: usize,
    kind: usize,
}

/// The messages of a file that still are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// By seq.
    entries: Vec<Entry>,
    /// Everybody who has written or reacted.
    people: Vec<String>,
    kinds: Vec<String>,
    /// People whose reactions count no longer.
    erased: Vec<String>,
}

/// What a directory is to know of a message.
#[derive(Clone, Debug)]
pub struct NewEntry<'a> {
    /// Its place in the conversation.
    pub seq: u32,
    /// Its id.
    pub msg_id: u64,
    /// Who sent it.
    pub sender: &'a str,
    /// What it is.
    pub kind: &'a str,
    /// Why it has no content any more.
    pub gone: Option<Gone>,
    /// The one who does not get it.
    pub hidden_from: Option<&'a str>,
}

impl Directory {
    /// Of messages by seq, and of people who have only reacted to them.
    #[must_use]
    pub fn new<'a>(
        messages: impl IntoIterator<Item = NewEntry<'a>>,
        reacting: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let (mut people, mut kinds) = (Names::default(), Names::default());
        let entries = messages.into_iter().map(|new| Entry {
            seq: new.seq,
            msg_id: new.msg_id,
            gone: new.gone,
            hidden_from: new.hidden_from.map(str::to_owned),
            sender: people.place_of(new.sender),
            kind: kinds.place_of(new.kind),
        });
        let entries = entries.collect();
        for uid in reacting {
            people.place_of(uid);
        }
        Directory {
            entries,
            people: people.names,
            kinds: kinds.names,
            erased: Vec::new(),
        }
    }

    /// The messages by seq.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Everybody who has written or reacted.
    #[must_use]
    pub fn people(&self) -> &[String] {
        &self.people
    }

    /// Who has sent a message of this directory.
    #[must_use]
    pub fn sender(&self, entry: &Entry) -> &str {
        self.people.get(entry.sender).map_or("", String::as_str)
    }

    /// What kind of message one of this directory is.
    #[must_use]
    pub fn kind(&self, entry: &Entry) -> &str {
        self.kinds.get(entry.kind).map_or("", String::as_str)
    }

    /// Whether somebody's reactions count no longer.
    #[must_use]
    pub fn is_erased(&self, uid: &str) -> bool {
        self.erased.iter().any(|erased| erased == uid)
    }

    /// Whose reactions count no longer.
    #[must_use]
    pub fn erased(&self) -> &[String] {
        &self.erased
    }

    /// The message at a place.
    #[must_use]
    pub fn at(&self, seq: u32) -> Option<&Entry> {
        let index = self.entries.binary_search_by_key(&seq, |entry| entry.seq);
        index.ok().map(|index| &self.entries[index])
    }

    /// The message with an id.
    #[must_use]
    pub fn by_id(&self, msg_id: u64) -> Option<&Entry> {
        // Nearly sorted, since nodes' clocks differ; so all are looked at.
        self.entries.iter().find(|entry| entry.msg_id == msg_id)
    }

    /// The smallest and the greatest id; both 0 where there is no message.
    #[must_use]
    pub fn ids(&self) -> (u64, u64) {
        let ids = || self.entries.iter().map(|entry| entry.msg_id);
        (
            ids().min().unwrap_or_default(),
            ids().max().unwrap_or_default(),
        )
    }

    /// Notes that a message has no content any more.
    pub fn take_away(&mut self, seq: u32, gone: Gone) {
        if let Ok(index) = self.entries.binary_search_by_key(&seq, |entry| entry.seq) {
            self.entries[index].gone = Some(gone);
        }
    }

    /// Takes away all that somebody has written, and notes that the reactions count no longer; returns the messages whose
    /// content is taken away now: seq and id.
    pub fn erase(&mut self, uid: &str) -> Vec<(u32, u64)> {
        let person = self.people.iter().position(|name| name == uid);
        let mut taken = Vec::new();
        for entry in &mut self.entries {
            if Some(entry.sender) == person && entry.gone != Some(Gone::Deleted) {
                entry.gone = Some(Gone::Deleted);
                taken.push((entry.seq, entry.msg_id));
            }
        }
        if person.is_some() && !self.is_erased(uid) {
            self.erased.push(uid.to_owned());
        }
        taken
    }

    /// Forgets messages up to `seq`.
    pub fn drop_until(&mut self, seq: u32) {
        self.entries.retain(|entry| entry.seq > seq);
    }

    /// Notes that the file is free of all whom this one calls erased.
    pub fn forget_erased(&mut self) {
        self.erased.clear();
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut directory = archive::Directory {
            people: self.people.clone(),
            kind_names: self.kinds.clone(),
            erased: self.erased.clone(),
            ..Default::default()
        };
        let (mut seq, mut msg_id) = (0_u32, 0_i64);
        for entry in &self.entries {
            directory.seqs.push(entry.seq.wrapping_sub(seq));
            let id = entry.msg_id.cast_signed();
            directory.msg_ids.push(id.wrapping_sub(msg_id));
            (seq, msg_id) = (entry.seq, id);
            directory.senders.push(number(entry.sender));
            directory.kinds.push(number(entry.kind));
            if entry.gone.is_some() || entry.hidden_from.is_some() {
                directory.exceptions.push(archive::Exception {
                    seq: entry.seq,
                    state: entry.gone.map_or(0, Gone::state).cast_unsigned(),
                    hidden_from: entry.hidden_from.clone().unwrap_or_default(),
                });
            }
        }
        directory.encode_to_vec()
    }

    /// What [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`DbErr::Type`] when it is damaged.
    pub fn decode(blob: &[u8]) -> Result<Self, DbErr> {
        let damaged = |what: &str| DbErr::Type(format!("directory of a file: {what}"));
        let stored =
            archive::Directory::decode(blob).map_err(|error| damaged(&error.to_string()))?;
        let count = stored.seqs.len();
        if [&stored.senders, &stored.kinds]
            .iter()
            .any(|list| list.len() != count)
            || stored.msg_ids.len() != count
        {
            return Err(damaged("lists of different lengths"));
        }
        let mut exceptions: HashMap<u32, archive::Exception> = stored
            .exceptions
            .into_iter()
            .map(|exception| (exception.seq, exception))
            .collect();
        let (mut seq, mut msg_id) = (0_u32, 0_i64);
        let mut entries = Vec::with_capacity(count);
        for index in 0..count {
            seq = seq.wrapping_add(stored.seqs[index]);
            msg_id = msg_id.wrapping_add(stored.msg_ids[index]);
            let exception = exceptions.remove(&seq).unwrap_or_default();
            entries.push(Entry {
                seq,
                msg_id: msg_id.cast_unsigned(),
                gone: Gone::of_state(exception.state.cast_signed()),
                hidden_from: Some(exception.hidden_from).filter(|uid| !uid.is_empty()),
                sender: stored.senders[index] as usize,
                kind: stored.kinds[index] as usize,
            });
        }
        Ok(Directory {
            entries,
            people: stored.people,
            kinds: stored.kind_names,
            erased: stored.erased,
        })
    }
}

/// Names, each once.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl Names {
    fn place_of(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.names.len();
        self.names.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        place
    }
}

fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u32, sender: &'static str) -> NewEntry<'static> {
        NewEntry {
            seq,
            // About a message a minute, and now and then one whose node's clock is behind.
            msg_id: ((u64::from(seq) * 60_000 - u64::from(seq % 7) * 90_000) << 22) + 1,
            sender,
            kind: if seq.is_multiple_of(10) {
                "image"
            } else {
                "text"
            },
            gone: None,
            hidden_from: None,
        }
    }

    fn thousand() -> Directory {
        let entries =
            (1001..=2000).map(|seq| entry(seq, ["alice", "bob", "carol"][seq as usize % 3]));
        Directory::new(entries, ["alice", "dave"])
    }

    #[test]
    fn what_was_encoded_comes_back() {
        let mut directory = thousand();
        directory.take_away(1500, Gone::Recalled);
        directory.entries[9].hidden_from = Some("bob".to_owned());
        directory.erase("dave");
        let blob = directory.encode();
        assert_eq!(Directory::decode(&blob).unwrap(), directory);
        assert_eq!(directory.people(), ["carol", "alice", "bob", "dave"]);
        let entry = directory.at(1500).unwrap();
        assert_eq!(
            (directory.sender(entry), directory.kind(entry)),
            ("alice", "image")
        );
        assert_eq!(directory.by_id(entry.msg_id), Some(entry));
        assert_eq!(Directory::decode(&[]).unwrap(), Directory::default());
        assert!(Directory::decode(&blob[..100]).is_err());
    }

    /// What a message in a file still takes of the database.
    #[test]
    fn a_message_takes_about_ten_bytes() {
        let bytes = thousand().encode().len();
        assert!((8_000..11_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn erasing_takes_what_one_has_written_once() {
        let mut directory = thousand();
        directory.take_away(1001, Gone::Recalled);
        let taken = directory.erase("carol");
        assert_eq!(taken.len(), 334, "recalled ones, too");
        assert!(directory.erase("carol").is_empty());
        assert_eq!(directory.at(1004).unwrap().gone, Some(Gone::Deleted));
        assert!(directory.is_erased("carol") && !directory.is_erased("bob"));
        assert!(directory.erase("stranger").is_empty());
        assert!(!directory.is_erased("stranger"));
        directory.drop_until(1999);
        assert_eq!(directory.entries().len(), 1);
    }
}
