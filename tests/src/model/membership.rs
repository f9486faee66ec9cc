//! Concurrent changes of a group, put into an order in which every answer makes sense.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use schema::v1::up::Command;

use super::lane::Heard;

/// What a command did to the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Entered { uid: String, start: u32 },
    Left { uid: String },
}

/// The commands of each lane in their order, and where the search stands in each.
struct Search<'a> {
    lanes: &'a [Vec<&'a Heard>],
    next: Vec<usize>,
    owner: &'a str,
    changes: Vec<Change>,
    goal: &'a BTreeSet<String>,
}

/// Finds an order of the lanes' commands that leads from `members` to `goal` and explains their answers; returns what
/// happened in it.
pub fn explain(
    owner: &str,
    members: &BTreeSet<String>,
    lanes: &[Vec<&Heard>],
    goal: &BTreeSet<String>,
) -> Result<Vec<Change>> {
    let mut search = Search {
        lanes,
        next: vec![0; lanes.len()],
        owner,
        changes: Vec::new(),
        goal,
    };
    let found = search.go_on(members);
    let told = || format!("no order of {lanes:#?} leads from {members:?} to {goal:?}");
    found.then_some(search.changes).with_context(told)
}

impl Search<'_> {
    fn go_on(&mut self, members: &BTreeSet<String>) -> bool {
        let mut is_end = true;
        for lane in 0..self.lanes.len() {
            let Some(heard) = self.lanes[lane].get(self.next[lane]) else {
                continue;
            };
            is_end = false;
            let Some((after, changes)) = self.step(members, heard) else {
                continue;
            };
            let before = self.changes.len();
            self.changes.extend(changes);
            self.next[lane] += 1;
            if self.go_on(&after) {
                return true;
            }
            self.next[lane] -= 1;
            self.changes.truncate(before);
        }
        is_end && members == self.goal
    }

    /// What the command does at this point; `None`: its answer would have been another one.
    fn step(
        &self,
        members: &BTreeSet<String>,
        heard: &Heard,
    ) -> Option<(BTreeSet<String>, Vec<Change>)> {
        let expected = self.after(members, &heard.uid, heard.up.command.as_ref()?);
        let (after, ok) = match (expected, &heard.answer) {
            (Some(after), Ok(ok)) => (after, ok),
            (None, Err(_)) => return Some((members.clone(), Vec::new())),
            _ => return None,
        };
        let group = ok.group.as_ref().filter(|group| !group.partial);
        let told = group.map(|group| group.members.iter().map(|member| member.uid.clone()));
        if told.is_some_and(|told| told.collect::<BTreeSet<_>>() != after) {
            return None;
        }
        let rows = || group.into_iter().flat_map(|group| &group.members);
        let entered = after.difference(members).map(|uid| {
            let row = rows().find(|member| member.uid == *uid);
            Change::Entered {
                uid: uid.clone(),
                start: row.map_or(0, |row| row.last_ack_seq),
            }
        });
        let left = members.difference(&after);
        let left = left.map(|uid| Change::Left { uid: uid.clone() });
        let changes = entered.chain(left).collect();
        Some((after, changes))
    }

    /// The members after the command; `None`: it is refused.
    fn after(
        &self,
        members: &BTreeSet<String>,
        by: &str,
        command: &Command,
    ) -> Option<BTreeSet<String>> {
        if !members.contains(by) {
            return None;
        }
        let mut after = members.clone();
        match command {
            Command::GroupAdd(add) if by == self.owner => after.extend(add.members.iter().cloned()),
            Command::GroupRemove(remove) if by == self.owner => {
                for uid in &remove.members {
                    if uid == self.owner || !after.remove(uid) {
                        return None;
                    }
                }
            }
            Command::GroupLeave(_) if by != self.owner => {
                after.remove(by);
            }
            _ => return None,
        }
        Some(after)
    }
}
