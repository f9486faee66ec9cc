//! What runs came to, as it is kept in files: figures that can be compared whatever the scenario, what happened second by
//! second, and whether the server kept its promises.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
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
    /// What was asked for rather than achieved, follows from another figure, or is of the generator.
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

/// What the runs say together about one figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Summary {
    pub name: String,
    pub unit: Unit,
    pub better: Better,
    /// The value of each run, or `None` where it was not known.
    pub values: Vec<Option<f64>>,
    pub median: f64,
    /// Lowest and highest.
    pub spread: (f64, f64),
}

impl Results {
    /// The figures in the order of the first run that has them.
    pub(super) fn summaries(&self) -> Vec<Summary> {
        let mut summaries: Vec<Summary> = Vec::new();
        for figure in self.runs.iter().flat_map(|run| &run.figures) {
            if !summaries.iter().any(|known| known.name == figure.name) {
                summaries.extend(Summary::new(figure, &self.runs));
            }
        }
        summaries
    }

    /// Whether the server kept its promises in all runs.
    pub(super) fn is_ok(&self) -> bool {
        self.runs.iter().all(|run| run.check.is_ok())
    }
}

impl About {
    pub(super) fn new<const N: usize>(
        scenario: &str,
        title: String,
        load: [(&str, serde_json::Value); N],
    ) -> About {
        let load = load.map(|(name, value)| (name.to_owned(), value));
        About {
            scenario: scenario.to_owned(),
            title,
            load: load.into(),
        }
    }
}

impl Summary {
    fn new(figure: &Figure, runs: &[Run]) -> Option<Summary> {
        let values: Vec<Option<f64>> = runs.iter().map(|run| run.value(&figure.name)).collect();
        let mut known: Vec<f64> = values.iter().copied().flatten().collect();
        known.sort_unstable_by(f64::total_cmp);
        Some(Summary {
            name: figure.name.clone(),
            unit: figure.unit,
            better: figure.better,
            median: median(&known)?,
            spread: (*known.first()?, *known.last()?),
            values,
        })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if !sorted.len().is_multiple_of(2) {
        return Some(upper);
    }
    let lower = sorted[sorted.len() / 2 - 1];
    Some(f64::midpoint(lower, upper))
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

    /// The quantiles of what took so many microseconds, and the longest; none of nothing.
    pub(super) fn quantiles(name: &str, micros: &Histogram<u64>, better: Better) -> Vec<Figure> {
        if micros.is_empty() {
            return Vec::new();
        }
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
        let figure = |(label, quantile)| Figure {
            name: format!("{name} {label}"),
            value: micros.value_at_quantile(quantile) as f64,
            unit: Unit::Micros,
            better,
        };
        quantiles.map(figure).into()
    }
}

impl Run {
    /// The value of the figure with that name.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        figure.map(|figure| figure.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(figures: Vec<Figure>) -> Run {
        Run {
            figures,
            ..Run::default()
        }
    }

    fn results(runs: Vec<Run>) -> Results {
        Results {
            about: About::new("chat", "a <load>".to_owned(), [("users", 100.into())]),
            machine: Machine {
                cores: 2,
                cpu: "a CPU".to_owned(),
                memory_bytes: Some(1 << 34),
                version: "0.1.0".to_owned(),
                started_at: 1_700_000_000_000,
            },
            runs,
        }
    }

    fn check(values: &[f64], median: f64, spread: (f64, f64)) {
        let figure = |value: &f64| run(vec![Figure::more("stored", *value, Unit::PerSecond)]);
        let summaries = results(values.iter().map(figure).collect()).summaries();
        assert_eq!(summaries.len(), 1);
        assert_eq!((summaries[0].median, summaries[0].spread), (median, spread));
    }

    #[test]
    fn the_median_is_in_the_middle_of_the_spread() {
        check(&[5.0], 5.0, (5.0, 5.0));
        check(&[9.0, 1.0], 5.0, (1.0, 9.0));
        check(&[3.0, 100.0, 2.0], 3.0, (2.0, 100.0));
        check(&[4.0, 1.0, 2.0, 3.0], 2.5, (1.0, 4.0));
    }

    #[test]
    fn a_figure_that_one_run_lacks_is_that_of_the_others() {
        let stored = || Figure::more("stored", 1.0, Unit::PerSecond);
        let cpu = || Figure::less("CPU", 7.0, Unit::Micros);
        let summaries = results(vec![run(vec![stored()]), run(vec![cpu(), stored()])]).summaries();
        let names: Vec<&str> = summaries.iter().map(|each| each.name.as_str()).collect();
        assert_eq!(names, ["stored", "CPU"]);
        assert_eq!(summaries[1].values, [None, Some(7.0)]);
        assert_eq!(summaries[1].median, 7.0);
        assert!(results(Vec::new()).summaries().is_empty());
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut run = run(vec![Figure::less("CPU", 21.7, Unit::Micros)]);
        run.series = vec![
            Second {
                at: -1,
                ..Second::default()
            },
            Second {
                at: 0,
                sent: 5,
                stored: 4,
                delivered: 3,
                delivered_p50: 700,
                delivered_p99: 3600,
                delivered_p999: 9000,
                server_cpu: Some(0.5),
                server_rss_bytes: Some(1 << 27),
            },
        ];
        run.check.what = "all is well".to_owned();
        run.check.faults.note("lost", || "message 7".to_owned());
        let results = results(vec![run]);
        let text = serde_json::to_string_pretty(&results).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
        assert!(!results.is_ok());
    }

    #[test]
    fn quantiles_have_names() {
        let mut micros = super::super::tally::latencies(3);
        assert_eq!(Figure::quantiles("connected", &micros, Better::Less), []);
        (1..=1000).for_each(|each| micros.record(each).unwrap());
        let figures = Figure::quantiles("connected", &micros, Better::Less);
        assert_eq!(figures.len(), 4);
        let expected = [
            ("p50", 500.0),
            ("p99", 990.0),
            ("p99.9", 999.0),
            ("max", 1000.0),
        ];
        for (figure, (label, value)) in figures.iter().zip(expected) {
            assert_eq!(
                (figure.name.as_str(), figure.value),
                (&*format!("connected {label}"), value)
            );
            assert_eq!((figure.unit, figure.better), (Unit::Micros, Better::Less));
        }
    }
}
