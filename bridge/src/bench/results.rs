//! What runs came to, as it is kept in files: figures that can be compared whatever the scenario, what happened second by
//! second, and whether the server kept its promises.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::faults::Checked;

/// Everything about one invocation: the file that `--json` writes and `bench compare` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Results {
    pub about: About,
    pub machine: Machine,
    /// In the order in which they ran.
    pub runs: Vec<Run>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct About {
    /// The subcommand: `chat`, `group` …
    pub scenario: String,
    /// The load in one line, for people.
    pub title: String,
    /// The load's options by their names. Two results with the same ones can be compared.
    pub load: BTreeMap<String, serde_json::Value>,
}

/// Where it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub memory_bytes: Option<u64>,
    /// Of this program.
    pub version: String,
    /// When the first run began, in milliseconds since 1970.
    pub started_at: u64,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Run {
    /// In the order in which people read them; the same names in each run of a scenario, as far as they are known.
    pub figures: Vec<Figure>,
    /// Empty for scenarios that do not last.
    pub series: Vec<Second>,
    pub check: Checked,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figure {
    /// Such as `delivered`, or `delivered p99`.
    pub name: String,
    pub value: f64,
    pub unit: Unit,
    pub better: Better,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Unit {
    Count,
    PerSecond,
    Seconds,
    Micros,
    Bytes,
    /// CPU seconds per second.
    Cores,
    /// One figure by another.
    Ratio,
}

/// Which of two values of a figure is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Better {
    More,
    Less,
    /// What was asked for rather than achieved, or of the generator.
    Neither,
}

/// What happened in one second of a run, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Second {
    /// 0: the first that counts; negative in the warm-up.
    pub at: i64,
    pub sent: u64,
    pub stored: u64,
    pub delivered: u64,
    /// Of the messages that were due in this second, from then to their arrival, in microseconds; 0: there were none.
    pub delivered_p50: u64,
    pub delivered_p99: u64,
    pub delivered_p999: u64,
    /// CPU seconds that the server used in this second.
    pub server_cpu: Option<f64>,
    pub server_rss_bytes: Option<u64>,
}

impl Figure {
    /// A figure of which more is better.
    pub(super) fn more(name: impl Into<String>, value: f64, unit: Unit) -> Figure {
        Figure {
            name: name.into(),
            value,
            unit,
            better: Better::More,
        }
    }

    /// A figure of which less is better.
    pub(super) fn less(name: impl Into<String>, value: f64, unit: Unit) -> Figure {
        Figure {
            better: Better::Less,
            ..Figure::more(name, value, unit)
        }
    }

    /// A figure that says nothing about the server.
    pub(super) fn neither(name: impl Into<String>, value: f64, unit: Unit) -> Figure {
        Figure {
            better: Better::Neither,
            ..Figure::more(name, value, unit)
        }
    }
}

impl Run {
    /// The value of the figure with that name.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        figure.map(|figure| figure.value)
    }
}
