//! What must hold when all is quiet again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use schema::v1::{Message, message::Content};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::LOOK_AGAIN_AFTER;
use super::device::Device;
use super::http;
use super::record::Heard;
use super::world::World;
use crate::cluster::Cluster;
use crate::http::number;

/// Requests at the same time.
const ASKING_MAX: usize = 16;
/// Messages in a page of history.
const PAGE: usize = 500;
/// Examples of each kind that are shown.
const EXAMPLES: usize = 5;

/// The kinds of what may be wrong, each as a reader asks for it.
pub const KINDS: [&str; 9] = [
    LOST, DOUBLED, HOLES, STRANGE, ORDER, DEVICES, NODES, COUNTS, LOGS,
];
const LOST: &str = "lost";
const DOUBLED: &str = "doubled";
const HOLES: &str = "holes";
const STRANGE: &str = "never sent, or changed";
const ORDER: &str = "out of their sender's order";
const DEVICES: &str = "devices that differ";
const NODES: &str = "nodes that differ";
const COUNTS: &str = "unread counts and positions";
const LOGS: &str = "panics and errors in logs";

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct Checked {
    pub conversations: usize,
    pub messages: usize,
    wrong: BTreeMap<&'static str, Vec<String>>,
}

/// A stored message, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    seq: u32,
    msg_id: u64,
    sender: String,
    device: String,
    client_msg_id: String,
    text: String,
}

type History = Vec<Stored>;

// === impl Checked ===

impl Checked {
    fn wrong(&mut self, kind: &'static str, what: String) {
        self.wrong.entry(kind).or_default().push(what);
    }

    pub fn count(&self, kind: &str) -> usize {
        self.wrong.get(kind).map_or(0, Vec::len)
    }

    /// Some of them.
    pub fn examples(&self, kind: &str) -> &[String] {
        let all = self.wrong.get(kind).map_or(&[][..], |all| all);
        &all[..all.len().min(EXAMPLES)]
    }

    pub fn is_ok(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in KINDS {
            writeln!(f, "{:6}  {kind}", self.count(kind))?;
            for example in self.examples(kind) {
                writeln!(f, "        {example}")?;
            }
        }
        Ok(())
    }
}

/// Waits until all devices have everything, at most for `limit`, then looks at all that there is.
pub(super) async fn everything(
    cluster: &Cluster,
    world: &Arc<World>,
    devices: &[Device],
    limit: Duration,
) -> Result<Checked> {
    let mut checked = Checked::default();
    let nodes: Vec<SocketAddr> = (0..cluster.len())
        .map(|node| cluster.node(node).http())
        .collect();
    let histories = histories(nodes[0], world).await?;
    checked.conversations = histories.len();
    checked.messages = histories.iter().map(Vec::len).sum();
    for (place, history) in histories.iter().enumerate() {
        check_history(&mut checked, world, devices, place, history);
    }
    check_promises(&mut checked, world, devices, &histories);
    check_devices(&mut checked, world, devices, &histories, limit).await;
    for (node, address) in nodes.iter().enumerate().skip(1) {
        let other = self::histories(*address, world).await?;
        for (place, (one, other)) in histories.iter().zip(&other).enumerate() {
            if one != other {
                let name = &world.conversations[place].name;
                checked.wrong(NODES, format!("{name} is another one at node {node}"));
            }
        }
    }
    check_lists(&mut checked, world, &nodes, &histories).await?;
    check_members(&mut checked, world, &nodes, &histories, limit).await?;
    for node in 0..cluster.len() {
        for line in cluster.node(node).alarms() {
            checked.wrong(LOGS, format!("node {node}: {line}"));
        }
    }
    Ok(checked)
}

/// All conversations as one node tells them.
async fn histories(node: SocketAddr, world: &Arc<World>) -> Result<Vec<History>> {
    let reading = (0..world.conversations.len()).map(|place| {
        let world = world.clone();
        async move { history(node, &world, place).await }
    });
    stream::iter(reading)
        .buffered(ASKING_MAX)
        .try_collect()
        .await
}

async fn history(node: SocketAddr, world: &World, place: usize) -> Result<History> {
    let conversation = &world.conversations[place];
    let token = &world.users[conversation.members[0]].token;
    let mut history = History::new();
    loop {
        let after = history.last().map_or(0, |stored| stored.seq);
        let name = &conversation.name;
        let path = format!("/v1/conversations/{name}/messages?after_seq={after}&limit={PAGE}");
        let answer = http::call(node, "GET", &path, Some(token), None).await?;
        if answer.status == 404 && conversation.gid.is_none() {
            // Nobody has written to the other.
            return Ok(history);
        }
        let mut page = answer.expect(200)?;
        let messages: Vec<Message> = serde_json::from_value(page["messages"].take())?;
        ensure!(
            !messages.is_empty() || page["more"] != true,
            "{path}: an empty page"
        );
        history.extend(messages.into_iter().map(Stored::from));
        if page["more"] != true {
            return Ok(history);
        }
    }
}

impl From<Message> for Stored {
    fn from(message: Message) -> Self {
        Stored {
            seq: message.seq,
            msg_id: message.msg_id,
            sender: message.sender,
            device: message.sender_device,
            client_msg_id: message.client_msg_id,
            text: match message.content {
                Some(Content::Text(text)) => text,
                other => format!("{other:?}"),
            },
        }
    }
}

/// Places without holes, and every message one that somebody has written, once.
fn check_history(
    checked: &mut Checked,
    world: &World,
    devices: &[Device],
    place: usize,
    history: &History,
) {
    let name = &world.conversations[place].name;
    let mut last = (0, 0);
    let mut numbers: HashMap<usize, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for stored in history {
        if stored.seq != last.0 + 1 || stored.msg_id <= last.1 {
            checked.wrong(HOLES, format!("{name}: after {last:?} comes {stored:?}"));
        }
        last = (stored.seq, stored.msg_id);
        if !seen.insert(&stored.client_msg_id) {
            checked.wrong(DOUBLED, format!("{name}: {stored:?}"));
        }
        let Some((device, number)) = sent(world, devices, place, stored) else {
            checked.wrong(STRANGE, format!("{name}: {stored:?}"));
            continue;
        };
        if devices[device].record().sent[number].by_http {
            continue;
        }
        let before = numbers.insert(device, number);
        if before.is_some_and(|before| before > number) {
            checked.wrong(ORDER, format!("{name}: after {before:?} comes {stored:?}"));
        }
    }
}

/// The device and number of a message, if it was sent like this.
fn sent(
    world: &World,
    devices: &[Device],
    place: usize,
    stored: &Stored,
) -> Option<(usize, usize)> {
    let (place_of_device, number) = Device::parse(&stored.client_msg_id)?;
    let device = devices.get(place_of_device)?;
    let record = device.record();
    let sent = record.sent.get(number)?;
    let from = if sent.by_http { "" } else { &device.name };
    let name = &world.conversations[place].name;
    let is_it = sent.conversation == place
        && stored.sender == world.users[device.user].uid
        && stored.device == from
        && stored.text == Device::text(&stored.client_msg_id, name);
    is_it.then_some((place_of_device, number))
}

/// What was answered, or acknowledged, is there, where it was said to be.
fn check_promises(checked: &mut Checked, world: &World, devices: &[Device], histories: &[History]) {
    let all = histories.iter().flatten();
    let stored: HashMap<&str, (u32, u64)> = all
        .map(|stored| (&*stored.client_msg_id, (stored.seq, stored.msg_id)))
        .collect();
    for device in devices {
        let record = device.record();
        for (number, sent) in record.sent.iter().enumerate() {
            let id = device.client_msg_id(number);
            let place = stored.get(&*id);
            if place.is_none() || place != sent.place.as_ref() {
                let name = &world.conversations[sent.conversation].name;
                checked.wrong(
                    LOST,
                    format!("{id} to {name}: stored as {place:?}, {sent:?}"),
                );
            }
        }
        for fault in &record.faults {
            checked.wrong(STRANGE, format!("{}: {fault}", device.name));
        }
    }
}

/// Every device has every message of its user's conversations, but for those that it has written itself.
async fn check_devices(
    checked: &mut Checked,
    world: &World,
    devices: &[Device],
    histories: &[History],
    limit: Duration,
) {
    let deadline = Instant::now() + limit;
    loop {
        let mut differences = Vec::new();
        for device in devices {
            let user = &world.users[device.user];
            for place in user.direct.iter().chain(&user.groups) {
                let record = device.record();
                let heard = record.heard.get(place);
                let difference = difference(device, heard, &histories[*place]);
                let name = &world.conversations[*place].name;
                differences.extend(difference.map(|it| format!("{} in {name}: {it}", device.name)));
            }
        }
        if differences.is_empty() || Instant::now() >= deadline {
            for difference in differences {
                checked.wrong(DEVICES, difference);
            }
            return;
        }
        sleep(LOOK_AGAIN_AFTER).await;
    }
}

fn difference(device: &Device, heard: Option<&Heard>, history: &History) -> Option<String> {
    let none = BTreeMap::new();
    let heard = heard.map_or(&none, |heard| &heard.ids);
    let is_missing = |stored: &&Stored| {
        stored.device != device.name && heard.get(&stored.seq) != Some(&stored.msg_id)
    };
    let missing: Vec<u32> = history
        .iter()
        .filter(is_missing)
        .map(|stored| stored.seq)
        .collect();
    let ids: HashSet<u64> = history.iter().map(|stored| stored.msg_id).collect();
    let strange: Vec<&u64> = heard.values().filter(|id| !ids.contains(id)).collect();
    let is_same = missing.is_empty() && strange.is_empty();
    (!is_same).then(|| {
        let count = history.len();
        format!("of {count} seqs {missing:?} are missing; never stored: {strange:?}")
    })
}

/// Every node lists the same conversations to a user, with counts that follow from the history: nobody has read anything.
async fn check_lists(
    checked: &mut Checked,
    world: &Arc<World>,
    nodes: &[SocketAddr],
    histories: &[History],
) -> Result<()> {
    let asking = world.users.iter().flat_map(|user| {
        let asked = nodes.iter().map(move |node| async move {
            let asked = http::call(*node, "GET", "/v1/conversations", Some(&user.token), None);
            anyhow::Ok((user, asked.await?.expect(200)?))
        });
        asked.collect::<Vec<_>>()
    });
    let mut lists = stream::iter(asking).buffered(ASKING_MAX);
    let mut first: Option<Value> = None;
    let mut count = 0;
    while let Some((user, list)) = lists.try_next().await? {
        let uid = &user.uid;
        if count % nodes.len() == 0 {
            check_list(checked, world, user, &list, histories)
                .with_context(|| format!("{uid}: {list}"))?;
            first = Some(list);
        } else if first.as_ref() != Some(&list) {
            let node = count % nodes.len();
            checked.wrong(
                NODES,
                format!("{uid}: node 0 {first:?}, node {node} {list}"),
            );
        }
        count += 1;
    }
    Ok(())
}

fn check_list(
    checked: &mut Checked,
    world: &World,
    user: &super::world::User,
    list: &Value,
    histories: &[History],
) -> Result<()> {
    let rows = list["conversations"].as_array().context("no list")?;
    let rows: HashMap<&str, &Value> = rows
        .iter()
        .filter_map(|row| Some((row["conversation"].as_str()?, row)))
        .collect();
    let mut total = 0;
    for place in user.direct.iter().chain(&user.groups) {
        let (name, history) = (&*world.conversations[*place].name, &histories[*place]);
        let unread = history.iter().filter(|stored| stored.sender != user.uid);
        let unread = unread.count() as u64;
        total += unread;
        let last_seq = history.len() as u64;
        let row = rows.get(name).copied().unwrap_or(&Value::Null);
        let is = ["lastSeq", "unread"].map(|field| number(row, field));
        if is != [last_seq, unread] {
            let uid = &user.uid;
            checked.wrong(
                COUNTS,
                format!("{uid}: {row}, and not {last_seq}, {unread}"),
            );
        }
    }
    if number(list, "totalUnread") != total {
        checked.wrong(
            COUNTS,
            format!("{}: {list} does not count {total}", user.uid),
        );
    }
    Ok(())
}

/// The rows of groups' members are the same everywhere, and everybody has acknowledged everything.
async fn check_members(
    checked: &mut Checked,
    world: &World,
    nodes: &[SocketAddr],
    histories: &[History],
    limit: Duration,
) -> Result<()> {
    // Positions are stored a moment after they were told.
    let deadline = Instant::now() + limit;
    for (place, conversation) in world.conversations.iter().enumerate() {
        let Some(gid) = &conversation.gid else {
            continue;
        };
        let token = &world.users[conversation.members[0]].token;
        let path = format!("/v1/groups/{gid}/members");
        loop {
            let mut answers = Vec::new();
            for node in nodes {
                let answer = http::call(*node, "GET", &path, Some(token), None).await?;
                answers.push(answer.expect(200)?);
            }
            let behind = behind(&answers[0], &histories[place]);
            let differ = answers.iter().any(|answer| *answer != answers[0]);
            if !differ && behind.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                if differ {
                    checked.wrong(NODES, format!("the members of {gid}: {answers:?}"));
                }
                let last_seq = histories[place].len();
                for row in behind {
                    checked.wrong(COUNTS, format!("{gid} at {last_seq}: {row}"));
                }
                break;
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }
    Ok(())
}

/// Members who have not acknowledged the last message of somebody else.
fn behind(answer: &Value, history: &History) -> Vec<Value> {
    let rows = answer["members"].as_array().cloned().unwrap_or_default();
    let is_behind = |row: &Value| {
        let of_others = history.iter().rev();
        let mut of_others = of_others.filter(|stored| row["uid"] != *stored.sender);
        let last = of_others.next().map_or(0, |stored| stored.seq);
        number(row, "lastAckSeq") < u64::from(last)
    };
    rows.into_iter().filter(is_behind).collect()
}
