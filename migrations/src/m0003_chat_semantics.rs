//! What people expect of a chat beyond messages: how each sees a conversation, changes to messages, contacts, what a
//! group allows, search, and what keeps it all safe.

use sea_orm_migration::prelude::*;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0003_chat_semantics"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ddl(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        ddl(manager, DOWN).await
    }
}

/// All times are milliseconds since 1970.
///
/// Versions: what a user may ask "since" is numbered per user, and only when it is asked for. A row that can change has
/// a revision that only grows (of members: the conversation's `last_seq + changes` plus the member's own `changes`);
/// where it is not the one in `synced`, the row has changed since it was numbered last, and gets the user's next
/// `version`. So writing a message touches no row of its members.
const UP: &str = "
    -- What others see of a user.
    ALTER TABLE users ADD COLUMN name VARCHAR(512) NOT NULL DEFAULT '';
    ALTER TABLE users ADD COLUMN avatar VARCHAR(2048) NOT NULL DEFAULT '';
    ALTER TABLE users ADD COLUMN about VARCHAR(2048) NOT NULL DEFAULT '';
    ALTER TABLE users ADD COLUMN status_text VARCHAR(512) NOT NULL DEFAULT '';
    -- counts changes of what others see
    ALTER TABLE users ADD COLUMN profile_changes INTEGER NOT NULL DEFAULT 0;
    -- Settings.
    ALTER TABLE users ADD COLUMN read_receipts BOOLEAN NOT NULL DEFAULT TRUE;
    ALTER TABLE users ADD COLUMN strangers BOOLEAN NOT NULL DEFAULT TRUE;
    -- contacts or nobody
    ALTER TABLE users ADD COLUMN presence {key(16)} NOT NULL DEFAULT 'contacts';
    -- counts changes of settings and status text
    ALTER TABLE users ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
    -- the newest number that was given for the user, the number of the user's own profile and settings, and the
    -- revision (profile_changes + changes) that has it
    ALTER TABLE users ADD COLUMN version {id} NOT NULL DEFAULT 0;
    ALTER TABLE users ADD COLUMN profile_version {id} NOT NULL DEFAULT 0;
    ALTER TABLE users ADD COLUMN profile_synced {id} NOT NULL DEFAULT -1;
    -- when the last of the user's connections ended; null: not known
    ALTER TABLE users ADD COLUMN last_seen_at {id};
    -- null: the account is there. What is left of a deleted one is its uid, which nobody else may have
    ALTER TABLE users ADD COLUMN deleted_at {id};

    -- What users are found by: their uid and the ends of their name from each of its words, in small letters.
    CREATE TABLE user_words (
        word {key(64)} NOT NULL,
        uid  {key(64)} NOT NULL,
        PRIMARY KEY (word, uid)
    ) {clustered};
    CREATE INDEX user_words_by_uid ON user_words (uid);
    INSERT INTO user_words (word, uid) SELECT LOWER(uid), uid FROM users;

    -- Catch-up comes as zstd.
    ALTER TABLE devices ADD COLUMN zstd BOOLEAN NOT NULL DEFAULT FALSE;

    -- Counts what happens to messages that have their place, and to the group.
    ALTER TABLE conversations ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;

    -- Only messages with a greater seq are the member's to see: start_seq, or 0 where newcomers see what was before
    -- them, or more where the user has cleared the history.
    ALTER TABLE members ADD COLUMN visible_seq INTEGER NOT NULL DEFAULT 0;
    UPDATE members SET visible_seq = start_seq;
    -- the user has deleted the conversation, and it is not listed until last_seq is greater; -1: not
    ALTER TABLE members ADD COLUMN deleted_seq INTEGER NOT NULL DEFAULT -1;
    -- null: not pinned
    ALTER TABLE members ADD COLUMN pinned_at {id};
    -- no notifications until then
    ALTER TABLE members ADD COLUMN muted_until {id} NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN archived BOOLEAN NOT NULL DEFAULT FALSE;
    ALTER TABLE members ADD COLUMN marked_unread BOOLEAN NOT NULL DEFAULT FALSE;
    -- null: none
    ALTER TABLE members ADD COLUMN draft {text};
    -- what the member is called in the group
    ALTER TABLE members ADD COLUMN nickname VARCHAR(255) NOT NULL DEFAULT '';
    -- may not send to the group until then
    ALTER TABLE members ADD COLUMN silenced_until {id} NOT NULL DEFAULT 0;
    -- counts changes of this row that its user sees; acknowledgements are none
    ALTER TABLE members ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN version {id} NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN synced {id} NOT NULL DEFAULT -1;
    -- the same for the group itself, whose revision is the conversation's `changes`
    ALTER TABLE members ADD COLUMN group_version {id} NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN group_synced {id} NOT NULL DEFAULT -1;

    -- Conversations that a user is no longer in, so that devices which were away learn of it. A row says nothing while
    -- the user is back.
    CREATE TABLE departures (
        uid     {key(64)}  NOT NULL,
        name    {key(140)} NOT NULL,
        -- 0: not numbered yet
        version {id}       NOT NULL,
        PRIMARY KEY (uid, name)
    ) {clustered};

    -- 0: as it was sent, 1: recalled, 2: expired, 3: deleted with its sender's account; of 1 to 3 the content is gone
    ALTER TABLE messages ADD COLUMN state INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE messages ADD COLUMN edited_at {id};
    ALTER TABLE messages ADD COLUMN expires_at {id};
    -- the one who does not get it, since he has blocked its sender silently
    ALTER TABLE messages ADD COLUMN hidden_from {key(64)};

    -- Messages that are to disappear. Rows go with the content.
    CREATE TABLE expiring (
        msg_id          {id} NOT NULL PRIMARY KEY,
        conversation_id {id} NOT NULL,
        expires_at      {id} NOT NULL
    );
    CREATE INDEX expiring_by_time ON expiring (expires_at);

    -- Messages that something has happened to: one row each, with the conversation's `changes` as of the last time.
    CREATE TABLE changed_messages (
        conversation_id {id}    NOT NULL,
        msg_id          {id}    NOT NULL,
        seq             INTEGER NOT NULL,
        change_number   INTEGER NOT NULL,
        PRIMARY KEY (conversation_id, msg_id)
    ) {clustered};
    CREATE INDEX changed_messages_by_number ON changed_messages (conversation_id, change_number);

    -- What messages said before they were edited.
    CREATE TABLE revisions (
        msg_id  {id}    NOT NULL,
        -- 1, 2, 3 …
        number  INTEGER NOT NULL,
        -- as in messages
        content {blob}  NOT NULL,
        -- since when it said so
        at      {id}    NOT NULL,
        PRIMARY KEY (msg_id, number)
    ) {clustered};

    CREATE TABLE reactions (
        msg_id {id}      NOT NULL,
        emoji  {key(32)} NOT NULL,
        uid    {key(64)} NOT NULL,
        at     {id}      NOT NULL,
        PRIMARY KEY (msg_id, emoji, uid)
    ) {clustered};
    CREATE INDEX reactions_by_uid ON reactions (uid);

    -- Messages that a user has deleted for himself.
    CREATE TABLE hidden_messages (
        uid             {key(64)} NOT NULL,
        conversation_id {id}      NOT NULL,
        seq             INTEGER   NOT NULL,
        PRIMARY KEY (uid, conversation_id, seq)
    ) {clustered};

    -- Whom messages mention; `@all`: everybody.
    CREATE TABLE mentions (
        conversation_id {id}      NOT NULL,
        uid             {key(64)} NOT NULL,
        seq             INTEGER   NOT NULL,
        PRIMARY KEY (conversation_id, uid, seq)
    ) {clustered};

    -- Messages of kind image, video, audio and file.
    CREATE TABLE attachments (
        conversation_id {id}      NOT NULL,
        seq             INTEGER   NOT NULL,
        kind            {key(32)} NOT NULL,
        PRIMARY KEY (conversation_id, seq)
    ) {clustered};

    -- Messages that are to be sent later.
    CREATE TABLE scheduled (
        id            {id}      NOT NULL PRIMARY KEY,
        uid           {key(64)} NOT NULL,
        sender_device {key(64)} NOT NULL,
        -- what the message will have: made of the id
        client_msg_id {key(64)} NOT NULL,
        send_at       {id}      NOT NULL,
        -- protobuf `Send` without send_at
        send          {blob}    NOT NULL
    );
    CREATE INDEX scheduled_by_time ON scheduled (send_at);
    CREATE INDEX scheduled_by_uid ON scheduled (uid);

    -- What a user has to do with another. Rows stay when nothing is left, so that devices learn of it.
    CREATE TABLE contacts (
        -- whose row it is
        uid      {key(64)}     NOT NULL,
        other    {key(64)}     NOT NULL,
        -- contact, requested, asked or none
        state    {key(16)}     NOT NULL,
        remark   VARCHAR(512)  NOT NULL,
        -- protobuf `ContactLabels`
        labels   {blob}        NOT NULL,
        -- what was said with the request
        text     VARCHAR(1024) NOT NULL,
        -- 0: not blocked, 1: the other one is refused, 2: is not heard
        blocked  INTEGER       NOT NULL,
        -- as in members; the revision is this plus the other one's profile_changes
        changes  INTEGER       NOT NULL,
        version  {id}          NOT NULL,
        synced   {id}          NOT NULL,
        PRIMARY KEY (uid, other)
    ) {clustered};
    CREATE INDEX contacts_by_other ON contacts (other, uid);

    ALTER TABLE chat_groups ADD COLUMN avatar VARCHAR(2048) NOT NULL DEFAULT '';
    ALTER TABLE chat_groups ADD COLUMN announcement TEXT;
    -- closed, link, request or open
    ALTER TABLE chat_groups ADD COLUMN join_by {key(16)} NOT NULL DEFAULT 'closed';
    -- who may: member, admin or owner
    ALTER TABLE chat_groups ADD COLUMN invite_by {key(16)} NOT NULL DEFAULT 'admin';
    ALTER TABLE chat_groups ADD COLUMN post_by {key(16)} NOT NULL DEFAULT 'member';
    ALTER TABLE chat_groups ADD COLUMN pin_by {key(16)} NOT NULL DEFAULT 'admin';
    ALTER TABLE chat_groups ADD COLUMN history_visible BOOLEAN NOT NULL DEFAULT FALSE;
    ALTER TABLE chat_groups ADD COLUMN muted BOOLEAN NOT NULL DEFAULT FALSE;
    -- null: it is there
    ALTER TABLE chat_groups ADD COLUMN dissolved_at {id};

    -- The link to join a group by, if there is one.
    CREATE TABLE group_links (
        conversation_id {id}      NOT NULL PRIMARY KEY,
        -- SHA-256 of the token in hexadecimal
        token_hash      {key(64)} NOT NULL UNIQUE,
        -- null: without an end
        expires_at      {id}
    );

    -- Who waits to be let into a group.
    CREATE TABLE group_requests (
        conversation_id {id}          NOT NULL,
        uid             {key(64)}     NOT NULL,
        text            VARCHAR(1024) NOT NULL,
        at              {id}          NOT NULL,
        PRIMARY KEY (conversation_id, uid)
    ) {clustered};
    CREATE INDEX group_requests_by_uid ON group_requests (uid);

    CREATE TABLE group_pins (
        conversation_id {id} NOT NULL,
        msg_id          {id} NOT NULL,
        at              {id} NOT NULL,
        PRIMARY KEY (conversation_id, msg_id)
    ) {clustered};

    -- How far work in the background has come, by its name.
    CREATE TABLE progress (
        task     {key(32)} NOT NULL PRIMARY KEY,
        position {id}      NOT NULL
    );

    -- Messages that the word filter has marked for administrators to look at.
    CREATE TABLE flags (
        msg_id  {id}         NOT NULL PRIMARY KEY,
        -- the words that it was marked for
        words   VARCHAR(512) NOT NULL,
        -- null: nobody has dealt with it
        done_at {id}
    );

    -- What administrators have done.
    CREATE TABLE audit (
        id     {id}         NOT NULL PRIMARY KEY,
        -- the administrator; `$operator` for the command line
        uid    {key(64)}    NOT NULL,
        action {key(64)}    NOT NULL,
        -- whom or what it was done to
        target {key(140)}   NOT NULL,
        detail VARCHAR(1024) NOT NULL,
        at     {id}         NOT NULL
    );
    CREATE INDEX audit_by_uid ON audit (uid, id);

    -- Accounts whose data is being erased.
    CREATE TABLE erasures (
        uid {key(64)} NOT NULL PRIMARY KEY,
        at  {id}      NOT NULL
    );
";

const DOWN: &str = "
    DROP TABLE erasures;
    DROP TABLE audit;
    DROP TABLE flags;
    DROP TABLE progress;
    DROP TABLE group_pins;
    DROP TABLE group_requests;
    DROP TABLE group_links;
    ALTER TABLE chat_groups DROP COLUMN dissolved_at;
    ALTER TABLE chat_groups DROP COLUMN muted;
    ALTER TABLE chat_groups DROP COLUMN history_visible;
    ALTER TABLE chat_groups DROP COLUMN pin_by;
    ALTER TABLE chat_groups DROP COLUMN post_by;
    ALTER TABLE chat_groups DROP COLUMN invite_by;
    ALTER TABLE chat_groups DROP COLUMN join_by;
    ALTER TABLE chat_groups DROP COLUMN announcement;
    ALTER TABLE chat_groups DROP COLUMN avatar;
    DROP TABLE contacts;
    DROP TABLE scheduled;
    DROP TABLE attachments;
    DROP TABLE mentions;
    DROP TABLE hidden_messages;
    DROP TABLE reactions;
    DROP TABLE revisions;
    DROP TABLE changed_messages;
    DROP TABLE expiring;
    ALTER TABLE messages DROP COLUMN hidden_from;
    ALTER TABLE messages DROP COLUMN expires_at;
    ALTER TABLE messages DROP COLUMN edited_at;
    ALTER TABLE messages DROP COLUMN state;
    DROP TABLE departures;
    ALTER TABLE members DROP COLUMN group_synced;
    ALTER TABLE members DROP COLUMN group_version;
    ALTER TABLE members DROP COLUMN synced;
    ALTER TABLE members DROP COLUMN version;
    ALTER TABLE members DROP COLUMN changes;
    ALTER TABLE members DROP COLUMN silenced_until;
    ALTER TABLE members DROP COLUMN nickname;
    ALTER TABLE members DROP COLUMN draft;
    ALTER TABLE members DROP COLUMN marked_unread;
    ALTER TABLE members DROP COLUMN archived;
    ALTER TABLE members DROP COLUMN muted_until;
    ALTER TABLE members DROP COLUMN pinned_at;
    ALTER TABLE members DROP COLUMN deleted_seq;
    ALTER TABLE members DROP COLUMN visible_seq;
    ALTER TABLE conversations DROP COLUMN changes;
    ALTER TABLE devices DROP COLUMN zstd;
    DROP TABLE user_words;
    ALTER TABLE users DROP COLUMN deleted_at;
    ALTER TABLE users DROP COLUMN last_seen_at;
    ALTER TABLE users DROP COLUMN profile_synced;
    ALTER TABLE users DROP COLUMN profile_version;
    ALTER TABLE users DROP COLUMN version;
    ALTER TABLE users DROP COLUMN changes;
    ALTER TABLE users DROP COLUMN presence;
    ALTER TABLE users DROP COLUMN strangers;
    ALTER TABLE users DROP COLUMN read_receipts;
    ALTER TABLE users DROP COLUMN profile_changes;
    ALTER TABLE users DROP COLUMN status_text;
    ALTER TABLE users DROP COLUMN about;
    ALTER TABLE users DROP COLUMN avatar;
    ALTER TABLE users DROP COLUMN name;
";
