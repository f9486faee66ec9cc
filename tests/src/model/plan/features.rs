//! What is done beside sending, reading, coming and going.

use schema::v1::up::Command;
use schema::v1::{self, ConversationSet, To, to};

use super::claims::Claims;
use super::{Feature, Planner};
use crate::ask;
use crate::model::chat::{Chat, Conversation};
use crate::model::lane::Step;

impl Planner {
    fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    pub(super) fn mentions(&mut self, to: &To) -> Vec<String> {
        if !self.has(Feature::Mentions) || self.rng.u8(0..4) > 0 {
            return Vec::new();
        }
        let is_group = match &to.to {
            Some(to::To::Group(_)) => true,
            Some(to::To::Conversation(name)) => name.starts_with("g:"),
            _ => false,
        };
        match is_group && self.rng.bool() {
            true => vec!["@all".to_owned()],
            false => vec![self.somebody()],
        }
    }

    pub(super) fn use_feature(
        &mut self,
        chat: &Chat,
        uid: &str,
        claims: &mut Claims,
    ) -> Option<Step> {
        let command = match *self.rng.choice(&self.features)? {
            Feature::Mentions => self.send(chat, uid),
            Feature::Operations => self.operate(chat, uid, claims)?,
            Feature::Deleting => self.delete(chat, uid, claims)?,
            Feature::Views => self.set_view(chat, uid, claims)?,
            Feature::Clearing => self.clear(chat, uid, claims)?,
        };
        Some(self.say([command]))
    }

    /// One of the conversation's newest messages, mostly one that the user sees.
    fn some_message(&mut self, conversation: &Conversation, uid: &str) -> Option<u64> {
        const NEWEST: u32 = 30;
        let seq = conversation
            .last_seq()
            .checked_sub(self.rng.u32(..NEWEST))?;
        let is_blind = self.rng.u8(0..10) == 0;
        let message = conversation.at(seq)?;
        (is_blind || conversation.sees(uid, seq)).then_some(message.msg_id)
    }

    fn operate(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> Option<Command> {
        let conversations: Vec<_> = chat.of(uid).collect();
        let (name, conversation) = *self.rng.choice(&conversations)?;
        let msg_id = self.some_message(conversation, uid)?;
        let kind = self.rng.u8(0..6);
        let is_free = match kind {
            0..2 => claims.change(msg_id),
            _ => claims.react(msg_id, uid),
        };
        if !is_free || !claims.look(name, uid) {
            return None;
        }
        Some(match kind {
            0 => ask::recall(msg_id),
            1 => {
                self.said += 1;
                let mentions = match self.has(Feature::Mentions) {
                    true => vec![self.somebody()],
                    false => Vec::new(),
                };
                Command::Edit(v1::Edit {
                    msg_id,
                    text: format!("rather {}", self.said),
                    mentions,
                })
            }
            2 => ask::unreact(msg_id, "👍"),
            3 => ask::react(msg_id, "👍"),
            _ => ask::react(msg_id, "好"),
        })
    }

    fn delete(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> Option<Command> {
        let conversations: Vec<_> = chat.of(uid).collect();
        let (name, conversation) = *self.rng.choice(&conversations)?;
        let msg_id = self.some_message(conversation, uid)?;
        let is_free = may_tidy(conversation, uid) && claims.tidy(name, uid);
        is_free.then(|| ask::delete_messages(&[msg_id]))
    }

    fn set_view(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> Option<Command> {
        let conversations: Vec<_> = chat.of(uid).collect();
        let (name, _) = *self.rng.choice(&conversations)?;
        if !claims.tidy(name, uid) {
            return None;
        }
        let (view, flag) = (ask::view(name), self.rng.bool());
        Some(Command::ConversationSet(match self.rng.u8(0..4) {
            0 => ConversationSet {
                pinned: Some(flag),
                ..view
            },
            1 => ConversationSet {
                archived: Some(flag),
                ..view
            },
            2 => ConversationSet {
                marked_unread: Some(flag),
                ..view
            },
            _ => ConversationSet {
                draft: Some(if flag { "what I".into() } else { String::new() }),
                ..view
            },
        }))
    }

    fn clear(&mut self, chat: &Chat, uid: &str, claims: &mut Claims) -> Option<Command> {
        let conversations: Vec<_> = chat.of(uid).collect();
        let (name, conversation) = *self.rng.choice(&conversations)?;
        // It would make most of what follows invisible.
        let is_rare = self.rng.u8(0..4) == 0;
        let is_free = is_rare && may_tidy(conversation, uid) && claims.tidy(name, uid);
        is_free.then(|| match self.rng.bool() {
            true => ask::conversation_clear(name),
            false => ask::conversation_delete(name),
        })
    }
}

fn may_tidy(conversation: &Conversation, uid: &str) -> bool {
    conversation.witness().is_some_and(|witness| witness != uid)
}
