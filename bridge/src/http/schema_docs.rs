//! The wire contract's messages as `/openapi.json` shows them.
//!
//! They are documentation only: what is read and written are the types of [`schema::v1`], as canonical protobuf JSON.
//! Fields that are empty or 0 are left out there.

use serde::Serialize;
use utoipa::ToSchema;

/// One command; exactly one of the fields besides `clientMsgId` is set.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Up, example = json!({"clientMsgId": "m1", "send": {"to": {"user": "bob"}, "text": "hi"}}))]
pub(super) struct UpDoc {
    /// 1–64 characters chosen by the client. The same id from the same user gets the first answer again.
    client_msg_id: Option<String>,
    send: Option<SendDoc>,
    /// This device has everything up to `seq`.
    ack: Option<PositionDoc>,
    /// The user has read everything up to `seq`.
    read: Option<PositionDoc>,
    sync: Option<SyncDoc>,
    group_create: Option<GroupCreateDoc>,
    group_add: Option<GroupMembersDoc>,
    group_remove: Option<GroupMembersDoc>,
    group_leave: Option<GroupLeaveDoc>,
    grant: Option<GrantDoc>,
}

/// Sends one message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Send)]
struct SendDoc {
    to: ToDoc,
    /// What the content is; left out: `text` with `text`, `custom` with `body`.
    kind: Option<String>,
    /// Either this or `body`.
    text: Option<String>,
    /// Any bytes, as base64.
    body: Option<String>,
    /// `msgId` of the message that this one answers.
    reply_to: Option<String>,
    /// uids that the text mentions.
    mentions: Option<Vec<String>>,
    /// The client's own counter, handed on unchanged.
    client_seq: Option<String>,
}

/// Whom a message is for; exactly one field is set.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = To)]
struct ToDoc {
    /// uid of the other person.
    user: Option<String>,
    /// gid of a group that the sender is in.
    group: Option<String>,
    /// `u:{a}:{b}` with the uids sorted, or `g:{gid}`.
    conversation: Option<String>,
}

/// A place in a conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = Position)]
struct PositionDoc {
    conversation: String,
    seq: u32,
}

/// Asks for a page, which comes in `ok.batch`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Sync)]
struct SyncDoc {
    conversation: String,
    /// Messages with a greater seq, oldest first.
    after_seq: Option<u32>,
    /// Messages with a smaller seq, newest page.
    before_seq: Option<u32>,
    /// 1–500; left out: 100.
    limit: Option<u32>,
}

/// Makes a group whose owner is the caller.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupCreate)]
struct GroupCreateDoc {
    name: String,
    members: Option<Vec<String>>,
    gid: Option<String>,
}

/// Adds or removes members.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupMembers)]
struct GroupMembersDoc {
    gid: String,
    members: Vec<String>,
}

/// Leaves a group.
#[derive(Serialize, ToSchema)]
#[schema(as = GroupLeave)]
struct GroupLeaveDoc {
    gid: String,
}

/// Lets another user use topics of the caller's devices, `dev/{caller}/…`.
#[derive(Serialize, ToSchema)]
#[schema(as = Grant)]
struct GrantDoc {
    user: String,
    /// A topic filter below `dev/{caller}/`; left out: `#`, all of them.
    filter: Option<String>,
    /// Whether the user may subscribe.
    read: Option<bool>,
    /// Whether the user may publish. Neither: the grant is taken back.
    write: Option<bool>,
}

/// The answer to one command.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reply)]
pub(super) struct ReplyDoc {
    client_msg_id: Option<String>,
    ok: OkDoc,
}

/// Done, and durable.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Ok)]
struct OkDoc {
    /// Of the stored message, for `send`.
    msg_id: Option<String>,
    /// The conversation that the command was about.
    conversation: Option<String>,
    /// The message's seq, or where the position stands now, or the newest seq for `sync`.
    seq: Option<u32>,
    #[schema(format = DateTime)]
    sent_at: Option<String>,
    group: Option<super::groups::GroupView>,
    batch: Option<BatchDoc>,
}

/// Messages of one conversation, ordered by seq.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Batch)]
struct BatchDoc {
    conversation: String,
    messages: Option<Vec<MessageDoc>>,
    /// The conversation's newest seq.
    last_seq: Option<u32>,
    /// Whether the range that was asked for holds more than this page.
    more: Option<bool>,
}

/// A message as everybody sees it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub(super) struct MessageDoc {
    /// Unique, ordered by time.
    msg_id: String,
    /// `u:{a}:{b}` or `g:{gid}`.
    conversation: String,
    /// 1, 2, 3 … in its conversation, without holes.
    seq: u32,
    sender: String,
    /// Client id of the device that sent it; left out when it came by HTTP.
    sender_device: Option<String>,
    client_msg_id: Option<String>,
    client_seq: Option<String>,
    kind: String,
    /// Either this or `body`.
    text: Option<String>,
    /// Any bytes, as base64.
    body: Option<String>,
    /// `msgId` of the message that this one answers.
    reply_to: Option<String>,
    /// uids that the text mentions.
    mentions: Option<Vec<String>>,
    #[schema(format = DateTime)]
    sent_at: String,
}

macro_rules! named {
    ($($type:ident = $name:literal),* $(,)?) => {$(
        /// Described by the protobuf message of that name.
        pub(super) struct $type;

        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::Object::new().into()
            }
        }

        impl ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
        }
    )*};
}

named! {
    ContactDoc = "Contact",
    ContactListDoc = "ContactList",
    ProfileDoc = "Profile",
    UserDoc = "User",
    UserListDoc = "UserList",
}
