//! Reactions.

use std::time::SystemTime;

use schema::v1;

use super::super::batch::Executor;
use super::super::job::{Caller, Delivery, Settled, position};
use super::super::refused::Refused;
use super::super::single::Failed;
use super::{Asks, lock_and_see, ok, there};
use crate::clock;
use crate::code::Code;
use crate::store::{Transaction, operations, views};

/// Bytes of a reaction.
const EMOJI_MAX: usize = 32;

/// Different reactions to a message, and those of one user.
const EMOJIS_MAX: usize = 20;
const EMOJIS_OF_USER_MAX: usize = 5;

pub(super) fn check_emoji(emoji: &str) -> Result<(), Refused> {
    let is_odd = |c: char| c.is_control() || c.is_whitespace();
    if emoji.is_empty() || emoji.len() > EMOJI_MAX || emoji.contains(is_odd) {
        return Err(Refused::invalid(
            "a reaction has 1-32 bytes, without spaces and control characters",
        ));
    }
    Ok(())
}

pub(super) async fn react(
    executor: &mut Executor,
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
    (emoji, remove): (&str, bool),
    session: u64,
) -> Result<Settled, Failed> {
    let seen = lock_and_see(&executor.limits.rates, tx, caller, msg_id).await?;
    let place = there(&seen)?;
    let message = &seen.message;
    if !executor
        .is_heard(tx, caller, message, Asks::ToReact)
        .await?
    {
        return Ok(Settled::ok(ok(seen.message)));
    }
    let emojis = operations::emojis(tx, &caller.uid, msg_id).await?;
    let is_there = emojis.iter().any(|(known, mine)| *mine && known == emoji);
    if is_there != remove {
        return Ok(Settled::ok(ok(seen.message)));
    }
    if remove {
        operations::note_changes(tx, &[place]).await?;
        operations::unreact(tx, &caller.uid, msg_id, emoji).await?;
    } else {
        let is_new = !emojis.iter().any(|(known, _)| known == emoji);
        let own = emojis.iter().filter(|(_, mine)| *mine).count();
        if is_new && emojis.len() >= EMOJIS_MAX || own >= EMOJIS_OF_USER_MAX {
            let reason = "a message has at most 20 different reactions, and 5 of a user";
            return Err(Refused::new(Code::TooLarge, reason).into());
        }
        operations::note_changes(tx, &[place]).await?;
        let now = clock::millis(SystemTime::now());
        operations::react(tx, &caller.uid, msg_id, emoji, now).await?;
    }
    let mut reactions = views::reactions(tx, &[msg_id]).await?;
    let message = v1::Message {
        reactions: reactions.remove(&msg_id).unwrap_or_default(),
        ..seen.message
    };
    let event = v1::event::Event::Reaction(v1::ReactionChange {
        conversation: message.conversation.clone(),
        msg_id,
        seq: message.seq,
        uid: caller.uid.to_string(),
        emoji: emoji.to_owned(),
        removed: remove,
        reactions: message.reactions.clone(),
    });
    let audience = operations::audience(tx, msg_id).await?;
    let about = position(place.conversation_id, &message);
    Ok(Settled {
        deliveries: vec![Delivery::event(event, &audience, session).about(about)],
        ..Settled::ok(ok(message))
    })
}
