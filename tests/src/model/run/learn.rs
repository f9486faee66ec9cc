//! Bringing the reference to where the answers say that the server is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use schema::v1::up::Command;
use schema::v1::{Message, Up, send, to};

use super::{RINGER, World};
use crate::model::chat::{direct, is_same_text};
use crate::model::lane::Heard;
use crate::model::membership::{self, Change};
use crate::model::operations::{self, Changed};
use crate::{Api, up};

impl World {
    /// Brings the reference to where the answers say that the server is.
    pub(super) async fn learn(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        let ring = up::new(up::text(up::group("bell"), "quiet, please"));
        let rung = self.apis[RINGER].up(&ring).await?;
        let ring = Heard {
            uid: RINGER.into(),
            device: String::new(),
            up: ring,
            answer: Ok(rung),
        };
        let all = || lanes.iter().flatten().chain([&ring]);
        self.learn_groups(lanes).await?;
        for heard in all() {
            if let (Some(Command::Send(_)), Ok(ok)) = (&heard.up.command, &heard.answer)
                && ok.conversation.starts_with("u:")
            {
                self.chat.make_direct(&ok.conversation);
            }
            if let Ok(ok) = &heard.answer {
                self.planner.remember(&heard.uid, &heard.up, ok);
            }
        }
        self.learn_messages(all()).await?;
        for heard in all() {
            self.learn_position(heard)
                .with_context(|| heard.to_string())?;
        }
        self.learn_changes(lanes).await?;
        ensure_order_of_senders(lanes)
    }

    /// What has become of messages is read again.
    async fn learn_changes(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        let mut changed = Changed::new();
        for heard in lanes.iter().flatten() {
            operations::apply(&mut self.chat, heard, &mut changed)
                .with_context(|| heard.to_string())?;
        }
        self.changed.clear();
        for ((name, seq), change) in changed {
            let api = &self.apis[&change.by.0];
            let query = format!("after_seq={}&limit=1", seq - 1);
            let mut page = api.page(&name, &query).await?.messages;
            let now = page.pop().context("it is seen no more")?;
            let conversation = self.chat.conversations.get_mut(&name);
            let conversation = conversation.context("it was there")?;
            let before = conversation.at(seq).context("it was there")?;
            operations::ensure_as_expected(&now, before, &change.expected)?;
            if !is_same_text(before, &now) {
                self.changed.push((now.clone(), change.by));
            }
            conversation.replace(now);
        }
        Ok(())
    }

    async fn learn_groups(&mut self, lanes: &[Vec<Heard>]) -> Result<()> {
        for heard in lanes.iter().flatten() {
            if let (Some(Command::GroupCreate(create)), Ok(ok)) = (&heard.up.command, &heard.answer)
            {
                self.chat
                    .make_group(&ok.conversation, &heard.uid, &create.members);
            }
        }
        let touched: BTreeSet<String> = lanes.iter().flatten().filter_map(group_of).collect();
        for name in touched {
            let Some(group) = self.chat.conversations.get_mut(&name) else {
                bail!("a change of {name}, which is no group");
            };
            let owner = group.owner.clone().unwrap_or_default();
            let rows = self.apis[&owner].members(&name[2..]).await?;
            let uid = |row: &serde_json::Value| row["uid"].as_str().unwrap_or_default().to_owned();
            let now: BTreeSet<String> = rows.iter().map(uid).collect();
            let changes: Vec<Vec<&Heard>> = lanes
                .iter()
                .map(|lane| {
                    lane.iter()
                        .filter(|heard| group_of(heard).as_ref() == Some(&name))
                })
                .map(Iterator::collect)
                .collect();
            let before: BTreeSet<String> = group.members.keys().cloned().collect();
            for change in membership::explain(&owner, &before, &changes, &now)? {
                match change {
                    Change::Left { uid } => group.leave(&uid),
                    Change::Entered { uid, start } => {
                        group.enter(&uid, start);
                        let devices = self.handsets.iter_mut();
                        for device in devices.filter(|device| device.uid == uid) {
                            device.begin(&name, start);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what is new, and finds each message that was answered in its place, and no other but the server's own.
    async fn learn_messages(&mut self, all: impl Iterator<Item = &Heard> + Clone) -> Result<()> {
        let mut sent: BTreeMap<(&str, u32), &Heard> = BTreeMap::new();
        for heard in all {
            if let (Some(Command::Send(_)), Ok(ok)) = (&heard.up.command, &heard.answer) {
                let twice = sent.insert((&ok.conversation, ok.seq), heard);
                ensure!(twice.is_none(), "one place for {heard:?} and {twice:?}");
            }
        }
        for (name, conversation) in &mut self.chat.conversations {
            let witness = conversation.witness();
            let witness = &self.apis[witness.context("a conversation without members")?];
            for message in history_after(witness, name, conversation.last_seq()).await? {
                match sent.remove(&(name, message.seq)) {
                    Some(heard) => ensure_as_sent(&message, heard)?,
                    None => ensure!(message.kind == "system", "nobody has sent {message:?}"),
                }
                conversation.push(message)?;
            }
            conversation.narrow_departures();
        }
        let lost = sent.into_values().next();
        ensure!(lost.is_none(), "not in the history: {lost:?}");
        Ok(())
    }

    fn learn_position(&mut self, heard: &Heard) -> Result<()> {
        match &heard.up.command {
            Some(Command::Send(send)) => self.check_right_to_send(heard, send),
            Some(Command::Read(read)) => self.learn_read(heard, &read.conversation, read.seq),
            Some(Command::Ack(ack)) => {
                let ok = heard.answer.as_ref();
                let ok = ok.map_err(|code| anyhow::anyhow!("an ack was refused: {code}"))?;
                let conversation = &self.chat.conversations[&ack.conversation];
                let mut devices = self.handsets.iter();
                let device = devices.find(|device| device.name == heard.device);
                let device = device.context("it was a device")?;
                device.check_position((&ack.conversation, conversation), ok.seq)
            }
            _ => Ok(()),
        }
    }

    fn check_right_to_send(&self, heard: &Heard, send: &schema::v1::Send) -> Result<()> {
        let name = name_of(&heard.uid, send);
        let Some(conversation) = self.chat.conversations.get(&name) else {
            bail!("{name} does not exist, after an answer");
        };
        match &heard.answer {
            Ok(ok) => ensure!(
                conversation.was_for(&heard.uid, ok.seq),
                "who is not a member may write"
            ),
            Err(code) => {
                let is_member = conversation.has(&heard.uid);
                let is_surely_member = is_member && !conversation.is_unsettled(&heard.uid);
                ensure!(!is_surely_member, "a member may not write: {code}");
                let codes = ["permission_denied", "not_found"];
                ensure!(codes.contains(&code.as_str()), "another code expected");
            }
        }
        Ok(())
    }

    fn learn_read(&mut self, heard: &Heard, name: &str, seq: u32) -> Result<()> {
        let conversation = self.chat.conversations.get_mut(name);
        let conversation = conversation.context("a foreign conversation was read")?;
        let last_seq = conversation.last_seq();
        let member = conversation.members.get_mut(&heard.uid);
        let member = member.context("a foreign conversation was read")?;
        match &heard.answer {
            Ok(ok) => {
                ensure!(seq <= ok.seq && ok.seq <= last_seq, "read up to {ok:?}");
                member.read = member.read.max(seq);
                member.view.marked_unread = false;
            }
            Err(code) => {
                ensure!(seq > last_seq, "what is there can't be read: {code}");
                return Ok(());
            }
        }
        let mut devices = self.handsets.iter_mut();
        if let Some(device) = devices.find(|device| device.name == heard.device) {
            device.has_read(name, seq);
        }
        Ok(())
    }
}

/// The group whose members the command is about.
fn group_of(heard: &Heard) -> Option<String> {
    let gid = match heard.up.command.as_ref()? {
        Command::GroupAdd(add) => &add.gid,
        Command::GroupRemove(remove) => &remove.gid,
        Command::GroupLeave(leave) => &leave.gid,
        _ => return None,
    };
    Some(format!("g:{gid}"))
}

/// The conversation that a user sends to.
fn name_of(uid: &str, send: &schema::v1::Send) -> String {
    match send.to.as_ref().and_then(|to| to.to.as_ref()) {
        Some(to::To::User(other)) => direct(uid, other),
        Some(to::To::Group(gid)) => format!("g:{gid}"),
        Some(to::To::Conversation(name)) => name.clone(),
        None => String::new(),
    }
}

async fn history_after(api: &Api, name: &str, after: u32) -> Result<Vec<Message>> {
    let mut all: Vec<Message> = Vec::new();
    loop {
        let after = all.last().map_or(after, |message| message.seq);
        let page = api
            .page(name, &format!("after_seq={after}&limit=500"))
            .await?;
        let is_empty = page.messages.is_empty();
        all.extend(page.messages);
        if !page.more || is_empty {
            return Ok(all);
        }
    }
}

/// The message is what was sent and answered.
fn ensure_as_sent(message: &Message, heard: &Heard) -> Result<()> {
    use schema::v1::message::Content;
    let Heard {
        uid,
        device,
        up: Up {
            client_msg_id,
            command,
        },
        answer,
    } = heard;
    let (Some(Command::Send(send)), Ok(ok)) = (command, answer) else {
        bail!("{heard:?} is no message");
    };
    let (kind, content) = match &send.content {
        Some(send::Content::Text(text)) => ("text", Content::Text(text.clone())),
        Some(send::Content::Body(body)) => ("custom", Content::Body(body.clone())),
        other => bail!("no content of the model's: {other:?}"),
    };
    let expected = Message {
        msg_id: ok.msg_id,
        conversation: name_of(uid, send),
        seq: ok.seq,
        sender: uid.clone(),
        sender_device: device.clone(),
        client_msg_id: client_msg_id.clone(),
        client_seq: send.client_seq,
        kind: kind.into(),
        content: Some(content),
        reply_to: send.reply_to,
        mentions: send.mentions.clone(),
        sent_at: ok.sent_at,
        ..Default::default()
    };
    ensure!(*message == expected, "{message:?} was sent as {expected:?}");
    Ok(())
}

/// What one device says in a conversation keeps its order.
fn ensure_order_of_senders(lanes: &[Vec<Heard>]) -> Result<()> {
    for lane in lanes {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for heard in lane {
            if let (Some(Command::Send(_)), Ok(ok)) = (&heard.up.command, &heard.answer) {
                let before = last.insert(&ok.conversation, ok.seq);
                ensure!(before < Some(ok.seq), "out of order: {heard}");
            }
        }
    }
    Ok(())
}
