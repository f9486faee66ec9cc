//! The users of a run: new ones each time, so that every conversation begins at 1.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use schema::Uid;
use serde_json::json;
use tokio::task::JoinSet;

use super::http;
use crate::auth::token::AccessTokens;
use crate::store::Store;
use crate::store::users::{self, Role, User};

/// Longer than a run.
const SEEDED_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// Accounts that are made at the same time. The server hashes one password per core at a time.
const MAKING_MAX: usize = 8;

/// A user who has logged in.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub uid: Uid,
    pub token: String,
}

/// Registers and logs in `count` users at the HTTP address.
pub(super) async fn make(address: &str, count: u32) -> anyhow::Result<Vec<Account>> {
    let run = random()?;
    let mut making = JoinSet::new();
    let mut made = Vec::with_capacity(count as usize);
    for index in 0..count {
        if making.len() == MAKING_MAX {
            made.extend(making.join_next().await.transpose()?);
        }
        let uid: Uid = format!("bench-{run:08x}-{index:06}").parse()?;
        let address = address.to_owned();
        making.spawn(async move {
            let context = format!("making the user {uid}");
            make_one(&address, uid).await.context(context)
        });
    }
    made.extend(making.join_all().await);
    let mut accounts = made.into_iter().collect::<anyhow::Result<Vec<Account>>>()?;
    accounts.sort_unstable_by(|a, b| a.uid.as_str().cmp(b.uid.as_str()));
    Ok(accounts)
}

async fn make_one(address: &str, uid: Uid) -> anyhow::Result<Account> {
    let password = format!("{:08x}{:08x}", random()?, random()?);
    let credentials = json!({"uid": uid.as_str(), "password": password});
    http::post(address, "/v1/users", None, &credentials).await?;
    let tokens = http::post(address, "/v1/auth/login", None, &credentials).await?;
    let token = tokens["accessToken"].as_str();
    let token = token.context("the login has no access token")?.to_owned();
    Ok(Account { uid, token })
}

/// Puts `count` users into a database that no server uses yet. Nobody can log in as them; their tokens are signed with
/// `key`.
pub(super) async fn seed(database: &str, key: &str, count: u32) -> anyhow::Result<Vec<Account>> {
    let store = Store::connect(database).await?;
    store.migrate().await?;
    let tokens = AccessTokens::new(key.as_bytes(), SEEDED_TOKEN_TTL);
    let now = SystemTime::now();
    let run = random()?;
    let mut seeded = Vec::with_capacity(count as usize);
    let tx = store.begin().await?;
    for index in 0..count {
        let uid: Uid = format!("bench-{run:08x}-{index:06}").parse()?;
        let user = User {
            uid: uid.clone(),
            kind: "person".to_owned(),
            role: Role::User,
            // No password has this hash.
            password_hash: "!".to_owned(),
            created_at: now,
            password_changed_at: None,
        };
        users::add(&tx, &user).await?;
        let token = tokens.issue(uid.as_str(), &format!("{run:08x}-{index}"), false, now);
        seeded.push(Account { uid, token });
    }
    tx.commit().await?;
    Ok(seeded)
}

/// Users of a server that knows nobody: names only.
pub(super) fn strangers(count: u32) -> anyhow::Result<Vec<Account>> {
    let run = random()?;
    let stranger = |index| {
        Ok(Account {
            uid: format!("bench-{run:08x}-{index:06}").parse()?,
            token: String::new(),
        })
    };
    (0..count).map(stranger).collect()
}

/// Makes a group of `owner` and the others.
pub(super) async fn make_group(
    address: &str,
    owner: &Account,
    gid: &str,
    others: &[&Account],
) -> anyhow::Result<()> {
    let members: Vec<&str> = others.iter().map(|other| other.uid.as_str()).collect();
    let group = json!({"gid": gid, "name": gid, "members": members});
    let made = http::post(address, "/v1/groups", Some(&owner.token), &group).await;
    made.with_context(|| format!("making the group {gid}"))?;
    Ok(())
}

/// How many messages the server has stored in a conversation of the user's.
pub(super) async fn last_seq(
    address: &str,
    account: &Account,
    conversation: &str,
) -> anyhow::Result<u32> {
    let list = http::get(address, "/v1/conversations", &account.token).await?;
    let conversations = list["conversations"].as_array();
    let mut conversations = conversations.into_iter().flatten();
    // It begins to be with its first message.
    let Some(found) = conversations.find(|found| found["conversation"] == conversation) else {
        return Ok(0);
    };
    let last_seq = found["lastSeq"].as_u64();
    let last_seq = last_seq.and_then(|seq| u32::try_from(seq).ok());
    last_seq.context("a conversation without lastSeq")
}

fn random() -> anyhow::Result<u32> {
    getrandom::u32().context("no randomness")
}
