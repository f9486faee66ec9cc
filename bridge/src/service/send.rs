//! Sends: what a client may ask to be sent, and what of it has to be looked up before it has its place.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schema::{ConversationId, Uid, v1};

use super::batch::Executor;
use super::command::{self, Command};
use super::forward::{self, Copied};
use super::job::{Job, Place};
use super::refused::Refused;
use super::schedule;
use super::single::Failed;
use super::{Limits, archived};
use crate::clock;
use crate::code::Code;
use crate::content;
use crate::store::{self, Transaction, messages, scheduled, views};

/// Longest `kind`, in characters.
const KIND_MAX: usize = 32;
/// Most uids in one list of mentions.
const MENTIONS_MAX: usize = 500;
/// What stands for everybody in a group.
const ALL: &str = "@all";
/// Bytes of a medium's address, name, type and thumbnail; of a location's texts.
const URL_MAX: usize = 2048;
const NAME_CHARS_MAX: usize = 255;
const MIME_MAX: usize = 127;
const THUMBNAIL_MAX: usize = 16 * 1024;
const ADDRESS_CHARS_MAX: usize = 1024;
/// Kinds of media.
const MEDIA: [&str; 4] = ["image", "video", "audio", "file"];
/// Kinds that only the server makes.
pub(super) const SYSTEM: &str = "system";
pub(super) const MERGED: &str = "merged";

/// A message before it has its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Send {
    /// Where it goes.
    pub conversation: ConversationId,
    /// The same as the wire has it: the key under which it is looked up.
    pub name: String,
    /// What the content is; empty where that is still to be copied.
    pub kind: String,
    /// The content; `None`: it is still to be copied.
    pub content: Option<v1::message::Content>,
    /// The message that it answers; 0: none.
    pub reply_to: u64,
    /// uids that it mentions, each once.
    pub mentions: Vec<String>,
    /// The device's counter.
    pub client_seq: u64,
    /// What of it is stored as a blob.
    pub stored: Vec<u8>,
    /// What few messages have.
    pub special: Option<Box<Special>>,
}

/// What few messages have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Special {
    /// How long it is there.
    pub expires_in: Option<Duration>,
    /// The messages that are copied.
    pub forward: Option<forward::Forward>,
    /// It was scheduled under this id.
    pub scheduled: Option<u64>,
}

/// Checks what `caller` wants to be sent, now or later.
///
/// # Errors
/// [`Code::InvalidArgument`] or [`Code::TooLarge`].
pub(super) fn check(caller: &Uid, mut send: v1::Send, limits: &Limits) -> Result<Command, Refused> {
    let Some(send_at) = send.send_at.take() else {
        return check_now(caller, send, limits).map(Command::Send);
    };
    match schedule::time(send_at, SystemTime::now())? {
        None => check_now(caller, send, limits).map(Command::Send),
        Some(at) => {
            let new = schedule::New {
                at,
                send: check_now(caller, send.clone(), limits)?,
                asked: send,
            };
            Ok(Command::Schedule(Box::new(new)))
        }
    }
}

/// Checks what is sent at once.
pub(super) fn check_now(caller: &Uid, send: v1::Send, limits: &Limits) -> Result<Send, Refused> {
    let conversation = command::destination(caller, send.to, "send")?;
    let mut special = Special {
        expires_in: check_expiry(send.expires_in_secs, limits)?,
        ..Special::default()
    };
    let (content, kind) = match send.content {
        None => return Err(Refused::invalid("send has no content")),
        Some(v1::send::Content::Text(text)) => {
            check_size(text.len(), limits)?;
            let kind = check_kind(send.kind, "text")?;
            (Some(v1::message::Content::Text(text)), kind)
        }
        Some(v1::send::Content::Body(body)) => {
            check_size(body.len(), limits)?;
            let kind = check_kind(send.kind, "custom")?;
            (Some(v1::message::Content::Body(body)), kind)
        }
        Some(v1::send::Content::Media(media)) => {
            let kind = check_media(&media, send.kind, limits)?;
            let content = v1::message::Content::Media(Box::new(media));
            (Some(content), kind)
        }
        Some(v1::send::Content::Location(location)) => {
            check_location(&location, &send.kind)?;
            let content = v1::message::Content::Location(Box::new(location));
            (Some(content), "location".to_owned())
        }
        Some(v1::send::Content::Forward(_)) if !send.kind.is_empty() => {
            return Err(Refused::invalid("a forwarded message keeps its kind"));
        }
        Some(v1::send::Content::Forward(asked)) => {
            special.forward = Some(forward::check(asked)?);
            (None, String::new())
        }
    };
    let mentions = check_mentions(send.mentions, &conversation)?;
    let encode = |content| content::encode(content, send.reply_to, &mentions);
    Ok(Send {
        name: conversation.to_string(),
        conversation,
        stored: content.as_ref().map(encode).unwrap_or_default(),
        content,
        kind,
        reply_to: send.reply_to,
        mentions,
        client_seq: send.client_seq,
        special: (special != Special::default()).then(|| Box::new(special)),
    })
}

fn check_expiry(secs: u32, limits: &Limits) -> Result<Option<Duration>, Refused> {
    let expires_in = Duration::from_secs(secs.into());
    if expires_in > limits.expires_max {
        let max = limits.expires_max.as_secs();
        let reason = format!("a message disappears after {max} s at most");
        return Err(Refused::invalid(reason));
    }
    Ok((secs > 0).then_some(expires_in))
}

/// Checks the bytes of a text or a body.
pub(super) fn check_size(size: usize, limits: &Limits) -> Result<(), Refused> {
    if size == 0 {
        return Err(Refused::invalid("the message is empty"));
    }
    if size > limits.text_max {
        let reason = format!("the message has more than {} bytes", limits.text_max);
        return Err(Refused::new(Code::TooLarge, reason));
    }
    Ok(())
}

pub(super) fn check_kind(kind: String, default: &str) -> Result<String, Refused> {
    if kind.is_empty() {
        return Ok(default.to_owned());
    }
    let is_allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if kind.len() > KIND_MAX || !kind.bytes().all(is_allowed) {
        return Err(Refused::invalid("kind is 1-32 of a-z 0-9 . _ -"));
    }
    if kind == SYSTEM || kind == MERGED {
        return Err(Refused::invalid("only the server makes such messages"));
    }
    Ok(kind)
}

/// Checks a medium; returns its kind.
fn check_media(media: &v1::Media, kind: String, limits: &Limits) -> Result<String, Refused> {
    let texts = [&media.url, &media.name, &media.mime];
    if media.url.is_empty() || texts.iter().any(|text| text.contains(char::is_control)) {
        let reason = "a medium has a url, and no control characters in url, name and mime";
        return Err(Refused::invalid(reason));
    }
    let is_long = media.url.len() > URL_MAX
        || media.name.chars().count() > NAME_CHARS_MAX
        || media.mime.len() > MIME_MAX
        || media.thumbnail.len() > THUMBNAIL_MAX;
    if is_long {
        let reason = "a medium's url has at most 2048 bytes, its name 255 characters, its mime 127 bytes, and its \
             thumbnail 16 KiB";
        return Err(Refused::new(Code::TooLarge, reason));
    }
    if !media.caption.is_empty() {
        check_size(media.caption.len(), limits)?;
    }
    let kind = if kind.is_empty() {
        let family = media.mime.split('/').next().unwrap_or_default();
        let is_known = |kind: &&&str| kind.eq_ignore_ascii_case(family);
        (*MEDIA.iter().find(is_known).unwrap_or(&"file")).to_owned()
    } else {
        kind
    };
    if !MEDIA.contains(&kind.as_str()) {
        let reason = "a medium's kind is image, video, audio or file";
        return Err(Refused::invalid(reason));
    }
    Ok(kind)
}

fn check_location(location: &v1::Location, kind: &str) -> Result<(), Refused> {
    if !kind.is_empty() && kind != "location" {
        return Err(Refused::invalid("a location's kind is location"));
    }
    // NaN is in no range.
    let is_on_earth = (-90.0..=90.0).contains(&location.latitude)
        && (-180.0..=180.0).contains(&location.longitude);
    if !is_on_earth {
        let reason = "latitude is -90 to 90, longitude -180 to 180";
        return Err(Refused::invalid(reason));
    }
    if location.name.chars().count() > NAME_CHARS_MAX
        || location.address.chars().count() > ADDRESS_CHARS_MAX
    {
        let reason = "a location's name has at most 255 characters, its address 1024";
        return Err(Refused::new(Code::TooLarge, reason));
    }
    Ok(())
}

/// Checks who is mentioned in a conversation; returns each once.
pub(super) fn check_mentions(
    mut mentions: Vec<String>,
    conversation: &ConversationId,
) -> Result<Vec<String>, Refused> {
    if mentions.len() > MENTIONS_MAX {
        return Err(Refused::new(Code::TooLarge, "more than 500 mentions"));
    }
    for mention in &mentions {
        if mention != ALL {
            command::uid(mention)?;
        } else if matches!(conversation, ConversationId::Direct(..)) {
            return Err(Refused::invalid("@all is for groups"));
        }
    }
    if mentions.len() > 1 {
        let mut known = HashSet::new();
        let keep: Vec<bool> = mentions.iter().map(|uid| known.insert(uid)).collect();
        let mut keep = keep.into_iter();
        mentions.retain(|_| keep.next().unwrap_or_default());
    }
    Ok(mentions)
}

/// Those of the mentions that mean somebody: everybody, or members other than the sender.
pub(super) fn meant<'a>(
    mentions: &'a [String],
    sender: &str,
    is_member: impl Fn(&str) -> bool,
) -> Vec<&'a str> {
    let mentions = mentions.iter().map(String::as_str);
    mentions
        .filter(|uid| *uid == ALL || (*uid != sender && is_member(uid)))
        .collect()
}

/// What was looked up for the sends of a batch, by their indices.
#[derive(Debug, Default)]
pub(super) struct LookedUp {
    /// Why they can't be sent.
    pub(super) refused: HashMap<usize, Refused>,
    /// What they copy.
    pub(super) copied: HashMap<usize, Arc<Copied>>,
    /// They were scheduled, and have been canceled or sent since.
    pub(super) settled: HashSet<usize>,
}

impl LookedUp {
    /// Those of the sends that nothing speaks against so far: a conversation is made for no other.
    pub(super) fn admissible<'s, 'a>(
        &self,
        sends: &'s [(&'a Job, &'a Send)],
    ) -> Cow<'s, [(&'a Job, &'a Send)]> {
        if self.refused.is_empty() && self.settled.is_empty() {
            return Cow::Borrowed(sends);
        }
        let is_out =
            |index: &usize| self.refused.contains_key(index) || self.settled.contains(index);
        let sends = sends.iter().enumerate();
        let rest = sends.filter(|(index, _)| !is_out(index));
        Cow::Owned(rest.map(|(_, send)| *send).collect())
    }
}

impl Executor {
    /// Looks up what the sends answer, what they copy, and whether those that were scheduled still are; these no longer
    /// are then, whatever becomes of them.
    pub(super) async fn look_up(
        &mut self,
        tx: &Transaction,
        sends: &[(&Job, &Send)],
    ) -> Result<LookedUp, store::Error> {
        let mut looked_up = LookedUp::default();
        self.check_replies(tx, sends, &mut looked_up).await?;
        take_scheduled(tx, sends, &mut looked_up).await?;
        forward::copy(self.store(), tx, sends, &self.limits, &mut looked_up).await?;
        Ok(looked_up)
    }

    /// A message answers one that its sender can see, in the same conversation.
    async fn check_replies(
        &self,
        tx: &Transaction,
        sends: &[(&Job, &Send)],
        looked_up: &mut LookedUp,
    ) -> Result<(), store::Error> {
        let is_reply = |(_, send): &&(&Job, &Send)| send.reply_to != 0;
        let wanted = sends.iter().filter(is_reply);
        let wanted: HashSet<(u64, &Uid)> = wanted
            .map(|(job, send)| (send.reply_to, &job.caller.uid))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let found = views::repliable(tx, wanted).await?;
        let found: HashMap<(u64, &str), &str> = found
            .iter()
            .map(|(msg_id, uid, conversation)| ((*msg_id, uid.as_str()), conversation.as_str()))
            .collect();
        for (index, (job, send)) in sends.iter().enumerate() {
            if send.reply_to == 0 {
                continue;
            }
            let there = found.get(&(send.reply_to, job.caller.uid.as_str()));
            let is_there = match there {
                Some(conversation) => *conversation == send.name,
                None => match self.is_in_file(tx, job, send).await {
                    Ok(is_there) => is_there,
                    Err(Failed::Refused(refused)) => {
                        looked_up.refused.insert(index, refused);
                        continue;
                    }
                    Err(Failed::Store(error)) => return Err(error),
                },
            };
            if !is_there {
                let reason = "reply_to is no message of this conversation";
                looked_up.refused.insert(index, Refused::invalid(reason));
            }
        }
        Ok(())
    }

    /// Whether what the send answers is in a file of the same conversation.
    async fn is_in_file(&self, tx: &Transaction, job: &Job, send: &Send) -> Result<bool, Failed> {
        let (rates, uid) = (&self.limits.rates, &job.caller.uid);
        let found = archived::find(rates, tx, uid, &[send.reply_to]).await?;
        Ok(found
            .iter()
            .any(|found| found.message.conversation == send.name))
    }
}

async fn take_scheduled(
    tx: &Transaction,
    sends: &[(&Job, &Send)],
    looked_up: &mut LookedUp,
) -> Result<(), store::Error> {
    let id = |send: &Send| send.special.as_ref()?.scheduled;
    let ids: Vec<u64> = sends.iter().filter_map(|(_, send)| id(send)).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let taken = scheduled::take(tx, &ids).await?;
    for (index, (_, send)) in sends.iter().enumerate() {
        if id(send).is_some_and(|id| !taken.contains(&id)) {
            looked_up.settled.insert(index);
        }
    }
    Ok(())
}

/// The message as it is stored, in its place.
pub(super) fn new_message<'a>(job: &'a Job, send: &'a Send, place: &'a Place) -> messages::New<'a> {
    let copied = place.copied.as_deref();
    messages::New {
        msg_id: place.msg_id,
        conversation_id: place.conversation.id,
        seq: place.seq,
        sender: &job.caller.uid,
        sender_device: &job.caller.device,
        client_msg_id: &job.client_msg_id,
        client_seq: send.client_seq,
        kind: copied.map_or(&send.kind, |copied| &copied.kind),
        content: copied.map_or(&send.stored, |copied| &copied.stored),
        expires_at: place.expires_at(send),
        hidden_from: place.hidden_from.as_ref(),
    }
}

/// Notes whom messages that have their place mention, and which are media.
pub(super) async fn note_special<'a>(
    tx: &Transaction,
    placed: impl Iterator<Item = (&'a Job, &'a Send, &'a Place)>,
) -> Result<(), store::Error> {
    let mut mentions = Vec::new();
    let mut attachments = Vec::new();
    for (job, send, place) in placed {
        let conversation = &place.conversation;
        if !send.mentions.is_empty() {
            let is_member = |uid: &str| conversation.has_name(uid);
            let meant = meant(&send.mentions, job.caller.uid.as_str(), is_member);
            mentions.extend(
                meant
                    .into_iter()
                    .map(|uid| (conversation.id, uid, place.seq)),
            );
        }
        let copied = place.copied.as_deref();
        let kind = copied.map_or(&send.kind, |copied| &copied.kind);
        if MEDIA.contains(&kind.as_str()) {
            attachments.push((conversation.id, place.seq, kind.as_str()));
        }
    }
    messages::add_mentions(tx, mentions).await?;
    messages::add_attachments(tx, attachments).await
}

impl Place {
    /// When the message disappears, in milliseconds since 1970.
    pub(super) fn expires_at(&self, send: &Send) -> Option<i64> {
        let expires_in = send.special.as_ref()?.expires_in?;
        Some(clock::millis(self.msg_id.time() + expires_in))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::limits;
    use crate::settings::Settings;

    fn to(conversation: &str) -> Option<v1::To> {
        Some(v1::To {
            to: Some(v1::to::To::Conversation(conversation.to_owned())),
        })
    }

    fn code_of(send: v1::Send) -> &'static str {
        let limits = limits(&Settings::defaults());
        let alice = "alice".parse().unwrap();
        match check(&alice, send, &limits) {
            Ok(Command::Send(send)) if send.special.is_none() => "plain",
            Ok(Command::Send(_)) => "special",
            Ok(Command::Schedule(_)) => "scheduled",
            Ok(other) => panic!("not a send: {other:?}"),
            Err(refused) => refused.code.as_str(),
        }
    }

    /// What has nothing special takes the short way.
    #[test]
    fn contents_are_checked_for_their_kind() {
        use v1::send::Content;
        let media = |url: &str, mime: &str| v1::Media {
            url: url.to_owned(),
            mime: mime.to_owned(),
            ..Default::default()
        };
        let place = |latitude, longitude| {
            Content::Location(v1::Location {
                latitude,
                longitude,
                ..Default::default()
            })
        };
        let forward = |count: u64| {
            Content::Forward(v1::Forward {
                msg_ids: (1..=count).collect(),
                title: String::new(),
            })
        };
        let long = "x".repeat(URL_MAX + 1);
        let caption = v1::Media {
            caption: "x".repeat(64 * 1024 + 1),
            ..media("u", "")
        };
        let thumbnail = v1::Media {
            thumbnail: vec![0; THUMBNAIL_MAX + 1].into(),
            ..media("u", "")
        };
        for (kind, content, expected) in [
            ("", Content::Text("hi".into()), "plain"),
            ("x.note", Content::Text("hi".into()), "plain"),
            ("image", Content::Text("hi".into()), "plain"),
            ("system", Content::Text("hi".into()), "invalid_argument"),
            ("merged", Content::Body("hi".into()), "invalid_argument"),
            ("", Content::Media(media("u", "image/png")), "plain"),
            ("video", Content::Media(media("u", "image/png")), "plain"),
            ("text", Content::Media(media("u", "")), "invalid_argument"),
            ("", Content::Media(media("", "")), "invalid_argument"),
            ("", Content::Media(media("a\nb", "")), "invalid_argument"),
            ("", Content::Media(media(&long, "")), "too_large"),
            ("", Content::Media(media("u", &long[..128])), "too_large"),
            ("", Content::Media(caption), "too_large"),
            ("", Content::Media(thumbnail), "too_large"),
            ("", place(-90.0, 180.0), "plain"),
            ("location", place(0.0, 0.0), "plain"),
            ("custom", place(0.0, 0.0), "invalid_argument"),
            ("", place(90.5, 0.0), "invalid_argument"),
            ("", place(f64::NAN, 0.0), "invalid_argument"),
            ("", place(0.0, f64::INFINITY), "invalid_argument"),
            ("", forward(1), "special"),
            ("", forward(100), "special"),
            ("", forward(101), "too_large"),
            ("", forward(0), "invalid_argument"),
            ("text", forward(1), "invalid_argument"),
        ] {
            let send = v1::Send {
                to: to("u:alice:bob"),
                kind: kind.to_owned(),
                content: Some(content.clone()),
                ..Default::default()
            };
            assert_eq!(code_of(send), expected, "{kind} {content:?}");
        }
    }

    #[test]
    fn a_medium_that_says_nothing_is_what_its_type_says() {
        let limits = limits(&Settings::defaults());
        for (mime, kind) in [
            ("image/png", "image"),
            ("Audio/ogg", "audio"),
            ("application/pdf", "file"),
            ("", "file"),
        ] {
            let media = v1::Media {
                url: "u".to_owned(),
                mime: mime.to_owned(),
                ..Default::default()
            };
            assert_eq!(check_media(&media, String::new(), &limits).unwrap(), kind);
        }
    }

    #[test]
    fn mentions_are_named_once_and_everybody_only_in_groups() {
        let group = "g:team".parse().unwrap();
        let pair = "u:alice:bob".parse().unwrap();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mentions = names(&["bob", "@all", "bob", "carol", "@all"]);
        let checked = check_mentions(mentions.clone(), &group).unwrap();
        assert_eq!(checked, ["bob", "@all", "carol"]);
        assert!(check_mentions(mentions, &pair).is_err());
        assert!(check_mentions(names(&["@here"]), &group).is_err());
        let meant = meant(&checked, "alice", |uid| uid == "carol");
        assert_eq!(meant, ["@all", "carol"]);
    }

    #[test]
    fn times_to_come_are_scheduled_and_expiry_is_bounded() {
        let year = 365 * 24 * 3600;
        let from_now = |secs: i64| {
            let now = clock::millis(SystemTime::now());
            Some(schema::Timestamp::from_millis(now + secs * 1000))
        };
        for (send_at, expires_in_secs, expected) in [
            (None, 1, "special"),
            (None, year, "special"),
            (None, year + 1, "invalid_argument"),
            (from_now(-5), 0, "plain"),
            (from_now(60), 0, "scheduled"),
            (from_now(366 * 24 * 3600), 0, "invalid_argument"),
        ] {
            let send = v1::Send {
                to: to("u:alice:bob"),
                content: Some(v1::send::Content::Text("hi".into())),
                expires_in_secs,
                send_at,
                ..Default::default()
            };
            assert_eq!(code_of(send), expected, "{send_at:?} {expires_in_secs}");
        }
    }
}
