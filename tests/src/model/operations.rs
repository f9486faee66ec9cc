//! What happens to messages that have their place, and to how members see a conversation.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use schema::v1::message::Content;
use schema::v1::up::Command;
use schema::v1::{ConversationSet, Message, Reaction};

use super::chat::{Chat, Conversation, View};
use super::lane::Heard;

/// Messages as they should be now, by conversation and seq, and who can tell.
pub type Changed = BTreeMap<(String, u32), Change>;

/// What has happened to a message.
pub struct Change {
    /// Reactions in the order of their emojis.
    pub expected: Message,
    /// Who did it, and on which device.
    pub by: (String, String),
}

/// Applies what was answered well; checks that the answer was the right one.
pub fn apply(chat: &mut Chat, heard: &Heard, changed: &mut Changed) -> Result<()> {
    let Some(command) = &heard.up.command else {
        return Ok(());
    };
    match command {
        Command::Recall(asked) => change(chat, heard, asked.msg_id, changed),
        Command::Edit(asked) => change(chat, heard, asked.msg_id, changed),
        Command::React(asked) => change(chat, heard, asked.msg_id, changed),
        Command::DeleteMessages(asked) => delete(chat, heard, &asked.msg_ids),
        Command::ConversationSet(asked) => set(chat, heard, asked),
        Command::ConversationClear(asked) => clear(chat, heard, &asked.conversation),
        Command::ConversationDelete(asked) => {
            clear(chat, heard, &asked.conversation)?;
            let (conversation, _) = of_caller(chat, heard, &asked.conversation)?;
            let last_seq = conversation.last_seq();
            if let (Some(member), Ok(ok)) =
                (conversation.members.get_mut(&heard.uid), &heard.answer)
            {
                member.view = View {
                    deleted_at: Some(ok.seq.min(last_seq)),
                    ..View::default()
                };
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn change(chat: &Chat, heard: &Heard, msg_id: u64, changed: &mut Changed) -> Result<()> {
    let (name, seq) = chat.find(msg_id).context("no such message")?;
    let conversation = &chat.conversations[name];
    let key = (name.to_owned(), seq);
    let before = match changed.get(&key) {
        Some(change) => change.expected.clone(),
        None => conversation.at(seq).cloned().unwrap_or_default(),
    };
    let expected = match heard.up.command.as_ref() {
        _ if !conversation.sees(&heard.uid, seq) => None,
        Some(Command::Recall(_)) => {
            let owns_group = conversation.owner.as_ref() == Some(&heard.uid);
            let may = before.kind != "system" && (before.sender == heard.uid || owns_group);
            may.then(|| recalled(&before))
        }
        Some(Command::Edit(edit)) => {
            let is_text = matches!(before.content, Some(Content::Text(_)));
            let may = is_text && before.sender == heard.uid;
            may.then(|| Message {
                content: Some(Content::Text(edit.text.clone())),
                mentions: edit.mentions.clone(),
                ..before.clone()
            })
        }
        Some(Command::React(react)) if before.gone.is_empty() => {
            Some(reacted(&before, &heard.uid, &react.emoji, react.remove))
        }
        _ => None,
    };
    match (expected, &heard.answer) {
        (Some(expected), Ok(_)) => {
            let by = (heard.uid.clone(), heard.device.clone());
            changed.insert(key, Change { expected, by });
            Ok(())
        }
        (None, Err(_)) => Ok(()),
        (Some(_), Err(code)) => bail!("may be done, and was refused: {code}; {before:?}"),
        (None, Ok(_)) => bail!("may not be done, and was: {before:?}"),
    }
}

fn recalled(before: &Message) -> Message {
    Message {
        content: None,
        mentions: Vec::new(),
        reactions: Vec::new(),
        gone: "recalled".into(),
        ..before.clone()
    }
}

fn reacted(before: &Message, uid: &str, emoji: &str, remove: bool) -> Message {
    let mut after = before.clone();
    let place = after.reactions.iter().position(|one| one.emoji == emoji);
    let place = place.unwrap_or_else(|| {
        after.reactions.push(Reaction {
            emoji: emoji.into(),
            ..Default::default()
        });
        after.reactions.len() - 1
    });
    let reaction = &mut after.reactions[place];
    reaction.uids.retain(|other| other != uid);
    if !remove {
        reaction.uids.push(uid.into());
    }
    reaction.count = reaction.uids.len() as u32;
    after.reactions.retain(|reaction| reaction.count > 0);
    after
}

/// Checks that the message is what it should be, whatever the order of reactions; it is never edited without a trace.
pub fn ensure_as_expected(now: &Message, before: &Message, expected: &Message) -> Result<()> {
    let sorted = |message: &Message| {
        let mut message = message.clone();
        message.edited_at = None;
        message.reactions.sort_by(|a, b| a.emoji.cmp(&b.emoji));
        for reaction in &mut message.reactions {
            reaction.uids.sort_unstable();
        }
        message
    };
    ensure!(
        sorted(now) == sorted(expected),
        "{now:?} should be {expected:?}"
    );
    let is_edited = expected.gone.is_empty() && expected.content != before.content;
    ensure!(!is_edited || now.edited_at.is_some(), "no trace: {now:?}");
    Ok(())
}

fn delete(chat: &mut Chat, heard: &Heard, msg_ids: &[u64]) -> Result<()> {
    let places: Option<Vec<(String, u32)>> = msg_ids
        .iter()
        .map(|id| chat.find(*id).map(|(name, seq)| (name.to_owned(), seq)))
        .collect();
    for (name, seq) in places.context("no such message")? {
        let conversation = chat.conversations.get_mut(&name);
        let conversation = conversation.context("just found")?;
        let may = conversation.sees(&heard.uid, seq);
        ensure!(may == heard.answer.is_ok(), "sees it: {may}");
        if let Some(member) = conversation.members.get_mut(&heard.uid).filter(|_| may) {
            member.has_tidied = true;
            member.deleted.insert(seq);
        }
    }
    Ok(())
}

fn set(chat: &mut Chat, heard: &Heard, asked: &ConversationSet) -> Result<()> {
    let (conversation, _) = of_caller(chat, heard, &asked.conversation)?;
    let Some(member) = conversation.members.get_mut(&heard.uid) else {
        return Ok(());
    };
    let view = &mut member.view;
    view.pinned = asked.pinned.unwrap_or(view.pinned);
    view.archived = asked.archived.unwrap_or(view.archived);
    view.marked_unread = asked.marked_unread.unwrap_or(view.marked_unread);
    if let Some(draft) = &asked.draft {
        view.draft.clone_from(draft);
    }
    member.has_tidied = true;
    Ok(())
}

/// Everything up to then is out of sight, and read.
fn clear(chat: &mut Chat, heard: &Heard, name: &str) -> Result<()> {
    let (conversation, seq) = of_caller(chat, heard, name)?;
    if let Some(member) = conversation.members.get_mut(&heard.uid) {
        member.cleared = member.cleared.max(seq);
        member.read = member.read.max(seq);
        member.view.marked_unread = false;
        member.has_tidied = true;
    }
    Ok(())
}

/// A conversation that the caller is in, and the answer's seq.
fn of_caller<'a>(
    chat: &'a mut Chat,
    heard: &Heard,
    name: &str,
) -> Result<(&'a mut Conversation, u32)> {
    let conversation = chat.conversations.get_mut(name);
    let conversation = conversation.context("no such conversation")?;
    let is_member = conversation.has(&heard.uid);
    ensure!(is_member == heard.answer.is_ok(), "a member: {is_member}");
    let seq = heard.answer.as_ref().map_or(0, |ok| ok.seq);
    Ok((conversation, seq))
}
