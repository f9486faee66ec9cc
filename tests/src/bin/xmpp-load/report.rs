//! What came of it, in the form and with the names of `tidings bench`, so that one program reads both.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::load::{Tally, Timing};
use crate::process::Server;
use crate::{Load, Scenario};

/// A run.
pub struct Outcome {
    /// That were measured.
    pub seconds: u32,
    /// That were sent, warm-up included.
    pub messages: u64,
    pub tally: Tally,
    pub spent: Spent,
    pub faults: Faults,
}

/// What the time that counts has cost: the server, then its database.
pub struct Spent {
    cpu: [Duration; 2],
    memory: [u64; 2],
}

/// Kinds of faults, each with how often and the first example.
#[derive(Default)]
pub struct Faults(BTreeMap<&'static str, (u64, String)>);

// === impl Spent, Faults ===

impl Spent {
    pub async fn sample(servers: [Server; 2], timing: Timing) -> Result<Spent> {
        let cpu = || Ok::<_, anyhow::Error>([servers[0].cpu()?, servers[1].cpu()?]);
        tokio::time::sleep_until(timing.at(timing.start).into()).await;
        let before = cpu()?;
        tokio::time::sleep_until(timing.at(timing.end).into()).await;
        let after = cpu()?;
        Ok(Spent {
            cpu: [after[0] - before[0], after[1] - before[1]],
            memory: [servers[0].memory()?, servers[1].memory()?],
        })
    }
}

impl Faults {
    pub fn note(&mut self, kind: &'static str, example: String) {
        self.0.entry(kind).or_insert((0, example)).0 += 1;
    }
}

// === impl Outcome ===

impl Outcome {
    fn figures(&self) -> Vec<Value> {
        let per_second = self.tally.delivered as f64 / f64::from(self.seconds);
        let latency = |quantile| self.tally.delivered_in.value_at_quantile(quantile) as f64;
        let cpu = self
            .spent
            .cpu
            .map(|cpu| cpu.as_secs_f64() * 1e6 / self.tally.delivered.max(1) as f64);
        let memory = self.spent.memory.map(|bytes| bytes as f64);
        let figure = |name: &str, value: f64, unit: &str, better: &str| json!({"name": name, "value": value, "unit": unit, "better": better});
        vec![
            figure("delivered", per_second, "perSecond", "more"),
            figure("delivered p50", latency(0.5), "micros", "less"),
            figure("delivered p99", latency(0.99), "micros", "less"),
            figure("delivered p99.9", latency(0.999), "micros", "less"),
            figure("server CPU per delivery", cpu[0] + cpu[1], "micros", "less"),
            figure("of it ejabberd", cpu[0], "micros", "less"),
            figure("of it PostgreSQL", cpu[1], "micros", "less"),
            figure("server memory peak", memory[0] + memory[1], "bytes", "less"),
            figure("of it ejabberd's", memory[0], "bytes", "less"),
            figure("of it PostgreSQL's", memory[1], "bytes", "less"),
        ]
    }

    fn check(&self) -> Value {
        let faults = self.faults.0.iter().map(|(kind, (count, first))| {
            ((*kind).to_owned(), json!({"count": count, "first": first}))
        });
        let what = format!(
            "{} messages, each received once, in order, by all who were to get it, and in the archive",
            self.messages
        );
        json!({"what": what, "faults": faults.collect::<serde_json::Map<_, _>>()})
    }
}

/// Prints the figures and writes the file.
///
/// # Errors
/// Also that the server broke a promise; then the file is there.
pub fn write(scenario: &Scenario, outcome: &Outcome) -> Result<()> {
    let (name, title, load) = describe(scenario);
    let (figures, check) = (outcome.figures(), outcome.check());
    println!("{title}");
    for figure in &figures {
        println!("{} {} {}", figure["name"], figure["value"], figure["unit"]);
    }
    println!("{check}");
    let results = json!({
        "about": {"scenario": name, "title": title, "load": options(load)},
        "runs": [{"figures": figures, "series": [], "check": check}],
    });
    let text = serde_json::to_string_pretty(&results)? + "\n";
    fs::write(&load.json, text).with_context(|| load.json.display().to_string())?;
    if !outcome.faults.0.is_empty() {
        bail!("FAILED: not every message was received once and archived; see the check");
    }
    Ok(())
}

fn describe(scenario: &Scenario) -> (&'static str, String, &Load) {
    match scenario {
        Scenario::Chat { users, load } => ("chat", format!("{users} users of XMPP in pairs"), load),
        Scenario::Group { members, load } => {
            ("group", format!("a room of {members}, one speaks"), load)
        }
    }
}

fn options(load: &Load) -> Value {
    let Load {
        window,
        rate,
        size,
        seconds,
        warmup,
        ..
    } = load;
    json!({"window": window, "rate": rate, "size": size, "seconds": seconds, "warmup": warmup})
}
