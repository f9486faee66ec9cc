//! Users, their logins and devices; conversations, members, messages and cursors.

use sea_orm_migration::prelude::*;

use crate::dialect::ddl;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_chat"
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
const UP: &str = "
    -- Whoever may connect: people, bots, devices. Rows are never reused.
    CREATE TABLE users (
        uid           {key(64)}  NOT NULL PRIMARY KEY,
        -- person, bot or device
        kind          {key(16)}  NOT NULL,
        -- user or admin
        role          {key(16)}  NOT NULL,
        -- Argon2id in PHC form
        password_hash {key(255)} NOT NULL,
        created_at    {id}       NOT NULL,
        -- null: the password is the one that the account was made with. Grows with every change, even where the clock
        -- does not, so that it tells one password from the next
        password_changed_at {id}
    );
    CREATE INDEX users_by_password_change ON users (password_changed_at);

    -- One row per login by password; its refresh token is replaced at every use.
    CREATE TABLE logins (
        id           {key(32)} NOT NULL PRIMARY KEY,
        uid          {key(64)} NOT NULL,
        -- SHA-256 of the secret half of the refresh token that is valid now
        refresh_hash {blob}    NOT NULL,
        expires_at   {id}      NOT NULL,
        -- set by logout, a password change, or the reuse of an old refresh token
        revoked_at   {id}
    );
    CREATE INDEX logins_by_uid ON logins (uid);
    CREATE INDEX logins_by_revocation ON logins (revoked_at);

    -- What members share. `name` is the conversation's name on the wire; `id` is never shown.
    CREATE TABLE conversations (
        id         {id}       NOT NULL PRIMARY KEY,
        name       {key(140)} NOT NULL UNIQUE,
        -- the newest message's; 0: none yet. Taken under the row's lock, so that seqs have no holes
        last_seq   INTEGER    NOT NULL,
        created_at {id}       NOT NULL
    );

    -- What a group has beyond its conversation. (`groups` is a reserved word in MySQL.)
    CREATE TABLE chat_groups (
        conversation_id {id}         NOT NULL PRIMARY KEY,
        gid             {key(64)}    NOT NULL UNIQUE,
        name            VARCHAR(512) NOT NULL
    );

    -- One row per conversation and user who is in it now.
    -- Unread = (last_seq - last_read_seq) - (sent - sent_read).
    CREATE TABLE members (
        conversation_id {id}      NOT NULL,
        uid             {key(64)} NOT NULL,
        -- owner, admin or member
        role            {key(16)} NOT NULL,
        -- the conversation's last_seq when the user came in; earlier messages are not the user's
        start_seq       INTEGER   NOT NULL,
        -- the newest message that any of the user's devices has acknowledged
        last_ack_seq    INTEGER   NOT NULL,
        last_ack_msgid  {id}      NOT NULL,
        last_read_seq   INTEGER   NOT NULL,
        -- how many messages the user has sent since coming in, and how many of them up to last_read_seq
        sent            INTEGER   NOT NULL,
        sent_read       INTEGER   NOT NULL,
        PRIMARY KEY (conversation_id, uid)
    ) {clustered};
    CREATE INDEX members_by_uid ON members (uid, conversation_id);

    -- Each message once, however many members. Immutable.
    CREATE TABLE messages (
        -- time-ordered, and so appended; the time of sending is part of it
        msg_id          {id}      NOT NULL PRIMARY KEY,
        conversation_id {id}      NOT NULL,
        seq             INTEGER   NOT NULL,
        sender          {key(64)} NOT NULL,
        sender_device   {key(64)} NOT NULL,
        -- null: the client gave none, every delivery counted as new
        client_msg_id   {key(64)},
        client_seq      {id}      NOT NULL,
        kind            {key(32)} NOT NULL,
        -- a protobuf `tidings.v1.Message` with nothing but content, reply_to, mentions and forwarded
        content         {blob}    NOT NULL
    );
    CREATE UNIQUE INDEX messages_by_seq ON messages (conversation_id, seq);
    CREATE UNIQUE INDEX messages_by_client_id ON messages (sender, client_msg_id);

    -- First answers of commands other than `send` (whose answer is the message itself).
    CREATE TABLE answers (
        -- made like a message's id: rows are dropped by age
        id            {id}      NOT NULL PRIMARY KEY,
        uid           {key(64)} NOT NULL,
        client_msg_id {key(64)} NOT NULL,
        -- protobuf `Reply`
        reply         {blob}    NOT NULL
    );
    CREATE UNIQUE INDEX answers_by_client_id ON answers (uid, client_msg_id);

    -- Devices that have subscribed to their down topic at least once.
    CREATE TABLE devices (
        uid     {key(64)} NOT NULL,
        -- the client id
        device  {key(64)} NOT NULL,
        -- when it last began or ended to receive
        seen_at {id}      NOT NULL,
        PRIMARY KEY (uid, device)
    ) {clustered};

    -- How far each device is in each conversation. No row: at the member's start_seq, since a new device
    -- gets rows for all conversations that its user is in by then.
    CREATE TABLE cursors (
        uid             {key(64)} NOT NULL,
        device          {key(64)} NOT NULL,
        conversation_id {id}      NOT NULL,
        seq             INTEGER   NOT NULL,
        PRIMARY KEY (uid, device, conversation_id)
    ) {clustered};
";

const DOWN: &str = "
    DROP TABLE cursors;
    DROP TABLE devices;
    DROP TABLE answers;
    DROP TABLE messages;
    DROP TABLE members;
    DROP TABLE chat_groups;
    DROP TABLE conversations;
    DROP TABLE logins;
    DROP TABLE users;
";
