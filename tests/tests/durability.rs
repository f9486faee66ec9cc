//! kill -9 in the middle of everything: what was acknowledged stays, and resending completes the rest.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use schema::v1::{Message, Up};
use tidings_tests::client::{Ticket, ok_of};
use tidings_tests::{Client, Server, up};

use crate::support::{ensure_complete, text_of};

const SENDERS: [&str; 3] = ["alice", "bob", "carol"];
const GROUP: &str = "g:team";
const KILLS: u32 = 3;
/// Messages that each sender gives to the server before each kill.
const ROUND: u32 = 300;
/// PUBACKs that each sender waits for before the kill: enough to be in the middle.
const BEFORE_KILL: usize = 60;

/// A person who sends, and remembers what the server has promised.
struct Sender {
    uid: &'static str,
    said: u32,
    /// What is not known to be stored, in the order in which it was first said.
    open: Vec<Up>,
    /// `client_msg_id`s that were PUBACKed or answered.
    promised: BTreeSet<String>,
}

impl Sender {
    /// Connects, says again what is open, then what is new.
    async fn talk(&mut self, server: &Server) -> Result<(Client, Vec<(String, Ticket)>)> {
        for _ in 0..ROUND {
            self.said += 1;
            let id = format!("{}-{}", self.uid, self.said);
            let text = up::text(up::group("team"), &self.said.to_string());
            self.open.push(up::with_id(&id, text));
        }
        self.resend(server).await
    }

    async fn resend(&mut self, server: &Server) -> Result<(Client, Vec<(String, Ticket)>)> {
        let mut client = server.client(self.uid).v5().online().await?;
        let mut tickets = Vec::new();
        for up in &self.open {
            let ticket = client.publish(up).await?;
            tickets.push((up.client_msg_id.clone(), ticket));
        }
        Ok((client, tickets))
    }

    /// After a kill: takes down what had been promised until then.
    async fn note(&mut self, mut client: Client, tickets: &[(String, Ticket)]) -> Result<()> {
        client.closed().await?;
        for reply in client.replies_so_far() {
            self.promised.insert(reply.client_msg_id.clone());
            ok_of(reply)?;
        }
        for (id, ticket) in tickets {
            if client.is_puback_here(*ticket) {
                self.promised.insert(id.clone());
            }
        }
        self.open
            .retain(|up| !self.promised.contains(&up.client_msg_id));
        Ok(())
    }
}

/// Three kills within streams of three senders: nothing promised is lost, nothing is twice, no seq has a hole,
/// and each sender's messages keep their order.
#[tokio::test]
async fn nothing_promised_is_lost_by_kill_9() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let members = ["bob", "carol", "dave"];
    let mut alice = server.client("alice").online().await?;
    alice.tell(up::group_create("team", &members)).await?;
    alice.disconnect().await?;
    let mut senders = SENDERS.map(|uid| Sender {
        uid,
        said: 0,
        open: Vec::new(),
        promised: BTreeSet::new(),
    });

    for kill in 1..=KILLS {
        kill_while_they_talk(&mut server, &mut senders)
            .await
            .with_context(|| format!("kill {kill}"))?;
    }

    // The rest, without a kill.
    for sender in &mut senders {
        let (mut client, tickets) = sender.resend(&server).await?;
        client.until_pubacks(tickets.len()).await?;
        for (id, _) in &tickets {
            ok_of(client.reply_to(id).await?)?;
        }
        client.disconnect().await?;
    }
    let history = server.login("dave").await?.history(GROUP).await?;
    ensure_everything_is_there_once(&history, &senders)?;

    // And dave, who was away all the time, has the same told him.
    let mut dave = server.client("dave").online().await?;
    let newest = history.last().context("a history")?;
    let heard = last_message(&mut dave, newest.msg_id).await?;
    assert_eq!(heard, *newest);
    server.finish().await
}

async fn kill_while_they_talk(server: &mut Server, senders: &mut [Sender]) -> Result<()> {
    let mut talks = Vec::new();
    for sender in senders.iter_mut() {
        talks.push(sender.talk(server).await?);
    }
    for (client, _) in &mut talks {
        client.until_pubacks(BEFORE_KILL).await?;
    }
    server.kill().await?;
    for (sender, (client, tickets)) in senders.iter_mut().zip(talks) {
        sender.note(client, &tickets).await?;
    }

    server.restart().await?;
    let history = server.login("dave").await?.history(GROUP).await?;
    ensure_promises_are_kept(&history, senders)
}

fn ensure_promises_are_kept(history: &[Message], senders: &[Sender]) -> Result<()> {
    let stored: BTreeSet<&str> = history
        .iter()
        .map(|message| message.client_msg_id.as_str())
        .collect();
    ensure!(stored.len() == history.len(), "a message is there twice");
    ensure_complete(history, history.len() as u32)?;
    for sender in senders {
        let promised = sender.promised.iter().map(String::as_str);
        let lost: Vec<&str> = promised.filter(|id| !stored.contains(id)).collect();
        ensure!(lost.is_empty(), "promised and lost: {lost:?}");
    }
    Ok(())
}

fn ensure_everything_is_there_once(history: &[Message], senders: &[Sender]) -> Result<()> {
    ensure_promises_are_kept(history, senders)?;
    let mut heard: HashMap<&str, Vec<u32>> = HashMap::new();
    for message in history {
        let number = text_of(message).parse().context("the sender's number")?;
        heard.entry(&message.sender).or_default().push(number);
    }
    for sender in senders {
        let all: Vec<u32> = (1..=sender.said).collect();
        let heard = heard.get(sender.uid).context(sender.uid)?;
        ensure!(*heard == all, "{}: not in order: {heard:?}", sender.uid);
    }
    Ok(())
}

/// Reads on until this message, whatever catch-up leaves to paging.
async fn last_message(client: &mut Client, msg_id: u64) -> Result<Message> {
    loop {
        let message = client.message().await?;
        if message.msg_id >= msg_id {
            return Ok(message);
        }
    }
}
