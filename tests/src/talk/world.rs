//! Who is there, and who talks to whom.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use futures_util::stream;
use schema::v1::To;
use serde_json::json;

use super::Options;
use super::http;
use crate::cluster::Cluster;
use crate::server::password_of;
use crate::up;

/// The first user, who is registered; the others are made after this image, and have the same password.
pub const FIRST_USER: &str = "u0";
/// Members of a small group; each user is in one.
const GROUP_MEMBERS: usize = 20;
/// Members of the large one.
const CROWD_MEMBERS: usize = 200;
/// Logins at the same time: a few per core, since each costs the server a hash.
const LOGINS_MAX: usize = 8;

/// Everything that does not change.
pub(super) struct World {
    /// Where clients connect.
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
    pub users: Vec<User>,
    pub conversations: Vec<Conversation>,
    by_name: HashMap<String, usize>,
    /// Mean time between two messages of a device, in seconds.
    pub pause_secs: f64,
}

pub(super) struct User {
    pub uid: String,
    pub token: String,
    /// Conversations with one other.
    pub direct: Vec<usize>,
    pub groups: Vec<usize>,
    /// How many devices there are.
    pub devices: usize,
}

pub(super) struct Conversation {
    /// As messages name it.
    pub name: String,
    /// Places in [`World::users`].
    pub members: Vec<usize>,
    /// Of a group.
    pub gid: Option<String>,
}

// === impl World ===

impl World {
    /// Makes users and groups on the cluster, and logs all of them in.
    pub async fn make(options: &Options, cluster: &Cluster) -> Result<Self> {
        let count = options.users;
        let others = format!(
            "INSERT INTO users SELECT (jsonb_populate_record(u, jsonb_build_object('uid', 'u' || n))).* \
             FROM users u, generate_series(1, {}) n WHERE u.uid = '{FIRST_USER}'",
            count - 1
        );
        cluster.sql(&others).await?;
        let mut world = World {
            mqtt: cluster.balancer.mqtt(),
            http: cluster.balancer.http(),
            users: Vec::with_capacity(count),
            conversations: Vec::new(),
            by_name: HashMap::new(),
            pause_secs: 0.0,
        };
        let tokens = stream::iter(0..count).map(|user| login(world.http, uid(user)));
        let tokens: Vec<Result<String>> = tokens.buffered(LOGINS_MAX).collect().await;
        for (user, token) in tokens.into_iter().enumerate() {
            world.users.push(User {
                uid: uid(user),
                token: token?,
                direct: Vec::new(),
                groups: Vec::new(),
                devices: if user % 10 == 0 { 2 } else { 1 },
            });
        }
        let devices: usize = world.users.iter().map(|user| user.devices).sum();
        world.pause_secs = devices as f64 / options.rate;

        for user in 0..count {
            for other in [user ^ 1, user + count / 2] {
                if user < other && other < count {
                    world.add_direct(user, other);
                }
            }
        }
        let everybody: Vec<usize> = (0..count).collect();
        for (number, members) in everybody.chunks(GROUP_MEMBERS).enumerate() {
            world
                .add_group(format!("g{number}"), members.to_vec())
                .await?;
        }
        let each = (count / CROWD_MEMBERS).max(1);
        let crowd = everybody.into_iter().step_by(each).take(CROWD_MEMBERS);
        world.add_group("crowd".to_owned(), crowd.collect()).await?;
        Ok(world)
    }

    fn add_direct(&mut self, one: usize, other: usize) {
        let mut uids = [one, other].map(|user| self.users[user].uid.as_str());
        uids.sort_unstable();
        let conversation = Conversation {
            name: format!("u:{}:{}", uids[0], uids[1]),
            members: vec![one, other],
            gid: None,
        };
        let place = self.add(conversation);
        for user in [one, other] {
            self.users[user].direct.push(place);
        }
    }

    async fn add_group(&mut self, gid: String, members: Vec<usize>) -> Result<()> {
        let uids: Vec<&str> = members[1..]
            .iter()
            .map(|user| &*self.users[*user].uid)
            .collect();
        let group = json!({ "gid": gid, "name": gid, "members": uids });
        let owner = &self.users[members[0]].token;
        let answer = http::call(self.http, "POST", "/v1/groups", Some(owner), Some(&group)).await?;
        answer
            .expect(201)
            .with_context(|| format!("making {gid}"))?;
        let place = self.add(Conversation {
            name: format!("g:{gid}"),
            members: members.clone(),
            gid: Some(gid),
        });
        for user in members {
            self.users[user].groups.push(place);
        }
        Ok(())
    }

    fn add(&mut self, conversation: Conversation) -> usize {
        let place = self.conversations.len();
        self.by_name.insert(conversation.name.clone(), place);
        self.conversations.push(conversation);
        place
    }

    /// The conversation of that name, if the user is in it.
    pub fn find(&self, name: &str, user: usize) -> Option<usize> {
        let place = *self.by_name.get(name)?;
        let is_member = self.conversations[place].members.contains(&user);
        is_member.then_some(place)
    }

    /// Where the user writes next: mostly to one, sometimes to a group, seldom to the crowd.
    pub fn choose(&self, user: usize, rng: &mut fastrand::Rng) -> usize {
        let User { direct, groups, .. } = &self.users[user];
        let among = |places: &[usize], rng: &mut fastrand::Rng| places[rng.usize(..places.len())];
        match rng.u32(..100) {
            0..80 if !direct.is_empty() => among(direct, rng),
            0..99 => groups[0],
            _ => among(groups, rng),
        }
    }

    /// How the user names the conversation when writing to it.
    pub fn address(&self, conversation: usize, user: usize) -> To {
        let conversation = &self.conversations[conversation];
        match &conversation.gid {
            Some(gid) => up::group(gid),
            None => {
                let mut others = conversation.members.iter();
                let other = others.find(|other| **other != user);
                up::user(&self.users[*other.unwrap_or(&user)].uid)
            }
        }
    }
}

fn uid(user: usize) -> String {
    format!("u{user}")
}

async fn login(http: SocketAddr, uid: String) -> Result<String> {
    let login = json!({ "uid": uid, "password": password_of(FIRST_USER) });
    let answer = http::call(http, "POST", "/v1/auth/login", None, Some(&login)).await?;
    let tokens = answer
        .expect(200)
        .with_context(|| format!("logging {uid} in"))?;
    let token = tokens["accessToken"].as_str();
    Ok(token.context("no accessToken")?.to_owned())
}
