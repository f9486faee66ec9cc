//! One actor's part of a burst: a device, or a user over HTTP, doing one thing after the other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use schema::v1::{self, Reply, Up, reply};
use tokio::sync::Notify;

use super::handset::Handset;
use crate::Api;

/// One thing that an actor does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Comes online, or once more, which takes the first connection over.
    Connect,
    Disconnect,
    /// Loses the connection without a word.
    Drop,
    /// Gives commands without waiting between them, then waits for all answers.
    Say(Vec<Up>),
    /// Gives a command again that was answered like this.
    Again(Box<(Up, v1::Ok)>),
}

/// A command, and how it was answered.
#[derive(Clone, Debug)]
pub struct Heard {
    pub uid: String,
    /// Empty: HTTP.
    pub device: String,
    pub up: Up,
    /// Or the error's code.
    pub answer: Result<v1::Ok, String>,
}

/// What became of a lane.
pub struct Done {
    pub heard: Vec<Heard>,
    /// What is still to be done, and why it could not be: the server has gone.
    pub rest: VecDeque<Step>,
    pub failure: Option<anyhow::Error>,
}

/// What all lanes of a run share.
#[derive(Default)]
pub struct Trace {
    lines: RefCell<Vec<String>>,
    answers: Cell<usize>,
    answered: Notify,
}

// === impl Trace ===

impl Trace {
    pub fn note(&self, line: String) {
        self.lines.borrow_mut().push(line);
    }

    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines.borrow();
        let from = lines.len().saturating_sub(count);
        lines[from..].join("\n")
    }

    /// Waits for so many answers from now on.
    pub async fn answers(&self, count: usize) {
        let goal = self.answers.get() + count;
        while self.answers.get() < goal {
            self.answered.notified().await;
        }
    }

    fn answer(&self, heard: &Heard) {
        self.answers.set(self.answers.get() + 1);
        self.answered.notify_one();
        self.note(heard.to_string());
    }
}

// === lanes ===

/// A device's lane, in this burst.
pub async fn run_handset(
    handset: &mut Handset,
    steps: VecDeque<Step>,
    burst: u32,
    trace: &Trace,
) -> Done {
    let mut done = Done::begin(steps);
    while let Some(step) = done.rest.front() {
        match do_step(handset, step, burst, trace).await {
            Ok(heard) => done.heard.extend(heard),
            Err(error) => return done.fail(error.context(handset.to_string())),
        }
        done.rest.pop_front();
    }
    done
}

async fn do_step(
    handset: &mut Handset,
    step: &Step,
    burst: u32,
    trace: &Trace,
) -> Result<Vec<Heard>> {
    handset.take_what_is_here().await?;
    if !matches!(step, Step::Say(_) | Step::Again(..)) {
        trace.note(format!("{handset}: {step:?}"));
    }
    match step {
        Step::Connect => handset.connect(burst).await?,
        Step::Disconnect => handset.disconnect().await?,
        Step::Drop => handset.drop_connection().await,
        Step::Say(ups) => return say(handset, ups, trace).await,
        Step::Again(again) => {
            let (up, first) = again.as_ref();
            let again = say(handset, std::slice::from_ref(up), trace).await?;
            ensure_same(&again[0], first)?;
        }
    }
    Ok(Vec::new())
}

async fn say(handset: &mut Handset, ups: &[Up], trace: &Trace) -> Result<Vec<Heard>> {
    let (uid, device) = (handset.uid.clone(), handset.name.clone());
    for up in ups {
        handset.gives(up.command.as_ref());
    }
    let client = handset.client()?;
    let mut tickets = Vec::new();
    for up in ups {
        tickets.push(client.publish(up).await?);
    }
    let mut all = Vec::new();
    for (up, ticket) in ups.iter().zip(tickets) {
        client.puback(ticket).await?;
        let reply = client.reply_to(&up.client_msg_id).await?;
        let heard = Heard {
            uid: uid.clone(),
            device: device.clone(),
            up: up.clone(),
            answer: result_of(reply)?,
        };
        trace.answer(&heard);
        all.push(heard);
    }
    for heard in &all {
        if let Ok(ok) = &heard.answer {
            handset.has_given(heard.up.command.as_ref(), ok)?;
        }
    }
    Ok(all)
}

/// A user's lane over HTTP.
pub async fn run_api(uid: &str, api: &Api, steps: VecDeque<Step>, trace: &Trace) -> Done {
    let mut done = Done::begin(steps);
    while let Some(step) = done.rest.front() {
        match ask(uid, api, step, trace).await {
            Ok(heard) => done.heard.extend(heard),
            Err(error) => return done.fail(error.context(format!("{uid} over HTTP"))),
        }
        done.rest.pop_front();
    }
    done
}

async fn ask(uid: &str, api: &Api, step: &Step, trace: &Trace) -> Result<Vec<Heard>> {
    let (ups, first) = match step {
        Step::Say(ups) => (ups.as_slice(), None),
        Step::Again(again) => (std::slice::from_ref(&again.0), Some(&again.1)),
        Step::Connect | Step::Disconnect | Step::Drop => return Ok(Vec::new()),
    };
    let mut all = Vec::new();
    for up in ups {
        let answer = api.ask(up).await?;
        ensure!(answer != Err("unavailable".into()), "the server is away");
        let heard = Heard {
            uid: uid.to_owned(),
            device: String::new(),
            up: up.clone(),
            answer,
        };
        trace.answer(&heard);
        all.push(heard);
    }
    match first {
        Some(first) => {
            ensure_same(&all[0], first)?;
            Ok(Vec::new())
        }
        None => Ok(all),
    }
}

fn ensure_same(again: &Heard, first: &v1::Ok) -> Result<()> {
    let is_same = again.answer.as_ref().is_ok_and(|ok| ok == first);
    ensure!(is_same, "{again:?}, but the first time it was {first:?}");
    Ok(())
}

/// The good half of a reply, or the error's code.
pub fn result_of(reply: Reply) -> Result<Result<v1::Ok, String>> {
    match reply.result.context("an empty reply")? {
        reply::Result::Ok(ok) => Ok(Ok(ok)),
        reply::Result::Error(error) => Ok(Err(error.code)),
    }
}

// === impl Done ===

impl Done {
    fn begin(steps: VecDeque<Step>) -> Self {
        Done {
            heard: Vec::new(),
            rest: steps,
            failure: None,
        }
    }

    fn fail(mut self, error: anyhow::Error) -> Self {
        self.failure = Some(error);
        self
    }
}

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = match &*self.device {
            "" => "HTTP",
            device => device,
        };
        write!(f, "{}/{device}: ", self.uid)?;
        match serde_json::to_string(&self.up) {
            Ok(json) => f.write_str(&json)?,
            Err(_) => f.write_char('?')?,
        }
        match &self.answer {
            Ok(ok) => write!(f, " -> ok {} {}", ok.conversation, ok.seq),
            Err(code) => write!(f, " -> {code}"),
        }
    }
}
