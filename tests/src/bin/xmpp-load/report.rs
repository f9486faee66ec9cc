//! What came of it, in the form and with the names of `tidings bench`, so that one program reads both.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::load::{Tally, Timing};
use crate::process::Processes;
use crate::{Load, Scenario};

/// A run.
pub struct Outcome {
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
    pub async fn sample([server, database]: [Processes; 2], timing: Timing) -> Result<Spent> {
        let all = [server, database, Processes::Alone(std::process::id())];
        server.forget_peak()?;
        tokio::time::sleep_until(timing.at(timing.start).into()).await;
        let before = all.map(Processes::cpu);
        tokio::time::sleep_until(timing.at(timing.end).into()).await;
        let after = all.map(Processes::cpu);
        let mut costs = Vec::new();
        for ((server, before), after) in all.into_iter().zip(before).zip(after) {
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

    fn cpu_figures(&self, who: &str, delivered: f64, seconds: f64, better: &str) -> [Value; 2] {
        let spent = self.cpu.as_secs_f64();
        let per_delivery = spent * 1e6 / delivered.max(1.0);
        [
            figure(
                &format!("{who} CPU per delivery"),
                per_delivery,
                "micros",
                better,
            ),
            figure(&format!("{who} cores"), spent / seconds, "cores", "neither"),
        ]
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
    fn figures(&self, load: &Load) -> Vec<Value> {
        let seconds = f64::from(load.seconds);
        let delivered = self.tally.delivered as f64;
        let per_second = delivered / seconds;
        let mut figures = vec![figure("delivered", per_second, "perSecond", "more")];
        // Without a rate they would tell how many messages are under way, which the window says.
        if load.rate > 0 {
            for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
                let micros = self.tally.delivered_in.value_at_quantile(quantile) as f64;
                let name = format!("delivered {name}");
                figures.push(figure(&name, micros, "micros", "less"));
            }
        }
        let spent = &self.spent;
        for (who, cost) in [
            ("server", &spent.server.and(&spent.database)),
            ("ejabberd", &spent.server),
            ("PostgreSQL", &spent.database),
        ] {
            figures.extend(cost.cpu_figures(who, delivered, seconds, "less"));
            let peak = format!("{who} peak RSS");
            figures.push(figure(&peak, cost.memory as f64, "bytes", "less"));
        }
        figures.extend(
            spent
                .generator
                .cpu_figures("generator", delivered, seconds, "neither"),
        );
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
    let (figures, check) = (outcome.figures(load), outcome.check());
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::Options;

    fn names(rate: &str) -> Vec<String> {
        let options = "xmpp-load chat --server a:1 --password b --server-pid 1 --database-pid 2 \
            --json c --rate";
        let options = Options::parse_from(options.split_whitespace().chain([rate]));
        let cost = |millis| Cost {
            cpu: Duration::from_millis(millis),
            memory: 1,
        };
        let outcome = Outcome {
            messages: 1,
            tally: Tally::default(),
            spent: Spent {
                server: cost(10),
                database: cost(20),
                generator: cost(30),
            },
            faults: Faults::default(),
        };
        let figures = outcome.figures(describe(&options.scenario).2);
        let name = |figure: &Value| figure["name"].as_str().unwrap().to_owned();
        figures.iter().map(name).collect()
    }

    #[test]
    fn latencies_are_told_where_messages_come_by_a_timetable() {
        let latencies = |rate| {
            let all = names(rate).into_iter();
            all.filter(|name| name.starts_with("delivered p")).count()
        };
        assert_eq!((latencies("0"), latencies("1000")), (0, 3));
    }

    #[test]
    fn everyone_has_cores() {
        let all = names("0");
        for who in ["server", "ejabberd", "PostgreSQL", "generator"] {
            assert!(all.contains(&format!("{who} cores")), "{all:?}");
        }
    }
}
