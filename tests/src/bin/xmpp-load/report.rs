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

/// What the time that counts has cost.
pub struct Spent {
    server: Cost,
    database: Cost,
    generator: Cost,
}

struct Cost {
    cpu: Duration,
    memory: u64,
}

/// Kinds of faults, each with how often and the first example.
#[derive(Debug, Default)]
pub struct Faults(BTreeMap<&'static str, (u64, String)>);

// === impl Spent, Cost, Faults ===

impl Spent {
    pub async fn sample([server, database]: [Server; 2], timing: Timing) -> Result<Spent> {
        let servers = [server, database, Server::Alone(std::process::id())];
        tokio::time::sleep_until(timing.at(timing.start).into()).await;
        let before = servers.map(Server::cpu);
        tokio::time::sleep_until(timing.at(timing.end).into()).await;
        let after = servers.map(Server::cpu);
        let mut costs = Vec::new();
        for ((server, before), after) in servers.into_iter().zip(before).zip(after) {
            costs.push(Cost {
                cpu: after?.saturating_sub(before?),
                memory: server.memory()?,
            });
        }
        let [server, database, generator] = costs.try_into().ok().context("three costs")?;
        Ok(Spent {
            server,
            database,
            generator,
        })
    }
}

impl Cost {
    fn and(&self, other: &Cost) -> Cost {
        Cost {
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
        }
    }
}

impl Faults {
    pub fn note(&mut self, kind: &'static str, example: String) {
        self.0.entry(kind).or_insert((0, example)).0 += 1;
    }

    pub fn add(&mut self, other: Faults) {
        for (kind, (count, example)) in other.0 {
            self.0.entry(kind).or_insert((0, example)).0 += count;
        }
    }

    #[cfg(test)]
    pub fn kinds(&self) -> Vec<&str> {
        self.0.keys().copied().collect()
    }
}

// === impl Outcome ===

impl Outcome {
    fn figures(&self) -> Vec<Value> {
        let per_second = |count: f64| count / f64::from(self.seconds);
        let delivered = self.tally.delivered as f64;
        let per_delivery = |cpu: Duration| cpu.as_secs_f64() * 1e6 / delivered.max(1.0);
        let less = |name: String, value: f64, unit: &str| figure(&name, value, unit, "less");
        let mut figures = vec![figure(
            "delivered",
            per_second(delivered),
            "perSecond",
            "more",
        )];
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            let micros = self.tally.delivered_in.value_at_quantile(quantile);
            figures.push(less(format!("delivered {name}"), micros as f64, "micros"));
        }
        let Spent {
            server,
            database,
            generator,
        } = &self.spent;
        for (name, Cost { cpu, memory }) in [
            ("server", &server.and(database)),
            ("ejabberd", server),
            ("PostgreSQL", database),
        ] {
            figures.push(less(
                format!("{name} CPU per delivery"),
                per_delivery(*cpu),
                "micros",
            ));
            figures.push(less(format!("{name} peak RSS"), *memory as f64, "bytes"));
        }
        figures.push(figure(
            "generator CPU per delivery",
            per_delivery(generator.cpu),
            "micros",
            "neither",
        ));
        figures
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

fn figure(name: &str, value: f64, unit: &str, better: &str) -> Value {
    json!({"name": name, "value": value, "unit": unit, "better": better})
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
