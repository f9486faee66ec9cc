//! `bench compare`: what has become better or worse between two files of results.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

use super::page;
use super::results::{Better, Machine, Results, Summary, Unit};
use super::runs::write_file;
use super::text::{Table, readable};

/// Memory is told a little differently after each start of a machine.
const MEMORY_UNIT: u64 = 256 * 1024 * 1024;

/// Two files of results.
#[derive(Args, Clone, Debug)]
pub struct CompareOptions {
    /// Results that --json has written
    #[arg(value_name = "OLD.json")]
    old: PathBuf,
    /// Later ones of the same scenario
    #[arg(value_name = "NEW.json")]
    new: PathBuf,
    /// Also write the comparison as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Fail if a figure has become worse by more than this, beyond the runs' spread; or if that can't be told, because the
    /// load differs or a figure is no longer there
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_if_worse: Option<f64>,
}

/// The outcome.
#[derive(Debug)]
pub(super) struct Comparison {
    pub scenario: String,
    /// The load of the new one in one line.
    pub title: String,
    /// What the two were measured on, and in how many runs.
    pub old: String,
    pub new: String,
    /// Why they are not comparable: another load, or figures that are no longer there.
    pub obstacles: Vec<String>,
    /// Why they may not be.
    pub warnings: Vec<String>,
    pub changes: Vec<Change>,
}

/// What has become of a figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub name: String,
    unit: Unit,
    /// Medians.
    old: f64,
    new: f64,
    pub verdict: Verdict,
    /// By how much of the old value it has become worse; negative: better.
    worse_by: f64,
}

/// Whether the change is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Better,
    Worse,
    /// Runs of the old are among those of the new, or the other way round.
    Same,
    /// The figure says nothing about the server.
    None,
}

impl CompareOptions {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let (old, new) = (read(&self.old)?, read(&self.new)?);
        let comparison = Comparison::new(&old, &new)?;
        print!("{comparison}");
        if let Some(path) = &self.html {
            write_file(path, &page::comparison(&comparison))?;
        }
        if let Some(percent) = self.fail_if_worse {
            ensure!(
                comparison.obstacles.is_empty(),
                "FAILED: not comparable: {}",
                comparison.obstacles.join("; ")
            );
            let worse = comparison.worse_by_more_than(percent);
            ensure!(
                worse.is_empty(),
                "FAILED: worse by more than {percent} %: {}",
                worse.join(", ")
            );
        }
        Ok(())
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse::<f64>().ok();
    let percent = percent.filter(|percent| percent.is_finite() && *percent >= 0.0);
    percent.ok_or_else(|| "not a number from 0 on".to_owned())
}

fn read(path: &Path) -> anyhow::Result<Results> {
    let context = || format!("reading {}", path.display());
    let text = fs::read_to_string(path).with_context(context)?;
    let results: Results = serde_json::from_str(&text).with_context(|| {
        let path = path.display();
        format!("{path} does not hold results that `tidings bench … --json` has written")
    })?;
    let path = path.display();
    ensure!(!results.runs.is_empty(), "{path} holds no runs");
    ensure!(
        results.is_ok(),
        "{path}: its check has failed, so that its figures mean nothing"
    );
    Ok(results)
}

impl Comparison {
    fn new(old: &Results, new: &Results) -> anyhow::Result<Comparison> {
        let scenarios = (&old.about.scenario, &new.about.scenario);
        ensure!(
            scenarios.0 == scenarios.1,
            "the scenarios differ: {} and {}",
            scenarios.0,
            scenarios.1
        );
        let mut obstacles = load_differences(old, new);
        let mut warnings = Vec::new();
        warn_of_machines(&old.machine, &new.machine, &mut warnings);
        if old.runs.len().min(new.runs.len()) == 1 {
            warnings.push("one run has no spread: measure with --runs 3 or more".to_owned());
        }
        let (old_ones, new_ones) = (old.summaries(), new.summaries());
        let only = |among: &[Summary], others: &[Summary], whose: &str| -> Vec<String> {
            let only = among.iter().filter(|one| find(others, one).is_none());
            only.map(|one| format!("only the {whose} one has: {}", one.name))
                .collect()
        };
        obstacles.extend(only(&old_ones, &new_ones, "old"));
        warnings.extend(only(&new_ones, &old_ones, "new"));
        let change = |old| Some(Change::new(old, find(&new_ones, old)?));
        Ok(Comparison {
            scenario: new.about.scenario.clone(),
            title: new.about.title.clone(),
            old: source(old),
            new: source(new),
            changes: old_ones.iter().filter_map(change).collect(),
            obstacles,
            warnings,
        })
    }

    /// Everything that stands against comparing the two.
    pub(super) fn doubts(&self) -> impl Iterator<Item = &String> {
        self.obstacles.iter().chain(&self.warnings)
    }

    fn worse_by_more_than(&self, percent: f64) -> Vec<&str> {
        let is_worse = |change: &&Change| {
            change.verdict == Verdict::Worse && change.worse_by * 100.0 > percent
        };
        let worse = self.changes.iter().filter(is_worse);
        worse.map(|change| change.name.as_str()).collect()
    }
}

fn source(results: &Results) -> String {
    match results.runs.len() {
        1 => format!("{}, 1 run", results.machine),
        runs => format!("{}, {runs} runs", results.machine),
    }
}

fn load_differences(old: &Results, new: &Results) -> Vec<String> {
    let (old, new) = (&old.about.load, &new.about.load);
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let told = |value: Option<&serde_json::Value>| {
        value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
    };
    let values = names
        .iter()
        .map(|name| (name, old.get(*name), new.get(*name)));
    values
        .filter(|(_, old, new)| old != new)
        .map(|(name, old, new)| {
            let (old, new) = (told(old), told(new));
            format!("the load differs: {name} was {old}, is {new}")
        })
        .collect()
}

fn warn_of_machines(old: &Machine, new: &Machine, warnings: &mut Vec<String>) {
    let about = |machine: &Machine| {
        let memory = machine.memory_bytes;
        let memory = memory.map(|bytes| bytes.div_ceil(MEMORY_UNIT));
        (machine.cores, machine.cpu.clone(), memory)
    };
    if about(old) != about(new) {
        warnings.push(format!("the machines differ: {old}; now {new}"));
    }
}

/// The same figure among others.
fn find<'a>(among: &'a [Summary], one: &Summary) -> Option<&'a Summary> {
    let is_it = |other: &&Summary| (&other.name, other.unit) == (&one.name, one.unit);
    among.iter().find(is_it)
}

impl Change {
    fn new(old: &Summary, new: &Summary) -> Change {
        let difference = new.median - old.median;
        let growth = if difference == 0.0 {
            0.0
        } else {
            difference / old.median.abs()
        };
        // What is good is how the new ones see it.
        let worse_by = match new.better {
            Better::More => -growth,
            Better::Less => growth,
            Better::Neither => 0.0,
        };
        let is_beyond_spread = old.spread.1 < new.spread.0 || new.spread.1 < old.spread.0;
        let verdict = match new.better {
            Better::Neither => Verdict::None,
            Better::More | Better::Less if !is_beyond_spread => Verdict::Same,
            Better::More | Better::Less if worse_by > 0.0 => Verdict::Worse,
            Better::More | Better::Less => Verdict::Better,
        };
        Change {
            name: old.name.clone(),
            unit: old.unit,
            old: old.median,
            new: new.median,
            verdict,
            worse_by,
        }
    }

    /// Name, old, new, ratio, verdict.
    pub(super) fn cells(&self) -> [String; 5] {
        let ratio = self.new / self.old;
        let ratio = match ratio.is_finite() {
            true => format!("{ratio:.3}"),
            false => "–".to_owned(),
        };
        [
            self.name.clone(),
            readable(self.old, self.unit),
            readable(self.new, self.unit),
            ratio,
            self.verdict.to_string(),
        ]
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Same => "same within the spread",
            Verdict::None => "",
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.scenario, self.title)?;
        writeln!(f, "old: {}\nnew: {}", self.old, self.new)?;
        for warning in self.doubts() {
            writeln!(f, "warning: {warning}")?;
        }
        let head = ["", "old", "new", "new / old", ""].map(str::to_owned);
        let rows = self.changes.iter().map(|change| change.cells().to_vec());
        let rows = std::iter::once(head.to_vec()).chain(rows);
        write!(f, "\n{}", Table(rows.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::{About, Figure, Run};
    use super::*;

    fn results(figure: fn(&str, f64, Unit) -> Figure, values: &[f64]) -> Results {
        let run = |value: &f64| Run {
            figures: vec![figure("a figure", *value, Unit::Micros)],
            ..Run::default()
        };
        Results {
            about: About::new("chat", "a <load>".to_owned(), [("users", 100.into())]),
            machine: Machine {
                cores: 2,
                cpu: "a CPU".to_owned(),
                memory_bytes: Some(1 << 34),
                version: "0.1.0".to_owned(),
                started_at: 0,
            },
            runs: values.iter().map(run).collect(),
        }
    }

    fn less(values: &[f64]) -> Results {
        results(|name, value, unit| Figure::less(name, value, unit), values)
    }

    fn more(values: &[f64]) -> Results {
        results(|name, value, unit| Figure::more(name, value, unit), values)
    }

    fn check(old: &Results, new: &Results, verdict: Verdict, percent: f64) {
        let comparison = Comparison::new(old, new).unwrap();
        let change = &comparison.changes[0];
        assert_eq!(change.verdict, verdict, "{change:?}");
        // By that much it is not worse, by a little less it is.
        assert!(
            comparison.worse_by_more_than(percent).is_empty(),
            "{change:?}"
        );
        let worse = comparison.worse_by_more_than(percent - 0.1);
        assert_eq!(
            worse.len(),
            usize::from(verdict == Verdict::Worse),
            "{change:?}"
        );
    }

    #[test]
    fn a_difference_counts_beyond_the_spread() {
        let old = [10.0, 11.0, 12.0];
        check(
            &less(&old),
            &less(&[12.1, 13.2, 14.0]),
            Verdict::Worse,
            20.001,
        );
        check(&less(&old), &less(&[12.0, 13.2, 14.0]), Verdict::Same, 0.0);
        check(&less(&old), &less(&[7.0, 8.0, 9.9]), Verdict::Better, 0.0);
        check(
            &more(&old),
            &more(&[12.1, 13.0, 14.0]),
            Verdict::Better,
            0.0,
        );
        check(&more(&old), &more(&[8.0, 8.8, 9.0]), Verdict::Worse, 20.001);
        let neither = |values| {
            results(
                |name, value, unit| Figure::neither(name, value, unit),
                values,
            )
        };
        check(&neither(&old), &neither(&[99.0]), Verdict::None, 0.0);
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        check(&less(&[0.0]), &less(&[0.0]), Verdict::Same, 0.0);
        check(&more(&[0.0]), &more(&[1.0]), Verdict::Better, 0.0);
        let comparison = Comparison::new(&less(&[0.0]), &less(&[1.0])).unwrap();
        assert_eq!(comparison.worse_by_more_than(1e9), ["a figure"]);
        assert!(!comparison.to_string().contains("inf"), "{comparison}");
    }

    #[test]
    fn only_what_is_alike_is_compared_without_a_word() {
        let old = less(&[1.0, 2.0]);
        let doubts = |new: &Results| {
            let comparison = Comparison::new(&old, new).unwrap();
            comparison.doubts().cloned().collect::<Vec<_>>()
        };
        assert_eq!(doubts(&old), [""; 0]);

        let mut new = old.clone();
        new.about.load.insert("users".to_owned(), 50.into());
        new.about.load.insert("rate".to_owned(), 7.into());
        new.machine.cores = 4;
        new.runs.truncate(1);
        new.runs[0].figures[0].name = "another".to_owned();
        let told = doubts(&new).join("\n");
        for part in [
            "users was 100, is 50",
            "rate was nothing, is 7",
            "machines differ: 2 cores, a CPU, 16.0 GiB; tidings 0.1.0; now 4 cores",
            "one run has no spread",
            "only the old one has: a figure",
            "only the new one has: another",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }

        new.about.scenario = "group".to_owned();
        let error = Comparison::new(&old, &new).unwrap_err();
        assert_eq!(error.to_string(), "the scenarios differ: chat and group");
    }

    #[test]
    fn a_comparison_is_told_and_shown() {
        let comparison = Comparison::new(&less(&[1.0, 1.2]), &less(&[2.0, 2.4])).unwrap();
        let text = comparison.to_string();
        let row = "a figure  1.1 µs  2.2 µs      2.000  worse";
        assert!(text.contains(row), "{text}");
        let page = page::comparison(&comparison);
        assert!(
            page.contains("a &lt;load&gt;") && page.contains("class=bad>worse"),
            "{page}"
        );
    }

    #[test]
    fn files_are_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, results: &Results| {
            let path = folder.path().join(name);
            fs::write(&path, serde_json::to_string(results).unwrap()).unwrap();
            path
        };
        let error = |path: &Path| format!("{:#}", read(path).unwrap_err());
        let good = write("good", &less(&[1.0]));
        assert_eq!(read(&good).unwrap(), less(&[1.0]));
        assert!(error(&write("empty", &less(&[]))).contains("holds no runs"));
        let mut failed = less(&[1.0]);
        failed.runs[0].check.faults.note("lost", String::new);
        assert!(error(&write("failed", &failed)).contains("its check has failed"));
        assert!(error(&folder.path().join("absent")).starts_with("reading "));
        let foreign = folder.path().join("foreign");
        fs::write(&foreign, "{\"ok\": true}").unwrap();
        assert!(error(&foreign).contains("foreign does not hold results"));

        let mut options = CompareOptions {
            old: good,
            new: write("worse", &less(&[1.2])),
            html: Some(folder.path().join("page.html")),
            fail_if_worse: Some(25.0),
        };
        options.run().unwrap();
        options.fail_if_worse = Some(15.0);
        let error = options.run().unwrap_err().to_string();
        assert_eq!(error, "FAILED: worse by more than 15 %: a figure");
    }

    #[test]
    fn what_can_not_be_compared_is_not_passed() {
        let folder = tempfile::tempdir().unwrap();
        let old = less(&[1.0]);
        let compare = |change: fn(&mut Results)| {
            let mut new = old.clone();
            change(&mut new);
            let write = |name: &str, results: &Results| {
                let path = folder.path().join(name);
                fs::write(&path, serde_json::to_string(results).unwrap()).unwrap();
                path
            };
            let mut options = CompareOptions {
                old: write("old", &old),
                new: write("new", &new),
                html: None,
                fail_if_worse: None,
            };
            options.run().unwrap();
            options.fail_if_worse = Some(99.0);
            options.run().map_err(|error| error.to_string())
        };
        assert_eq!(compare(|_| ()), Ok(()));
        let load = compare(|new| drop(new.about.load.insert("users".to_owned(), 50.into())));
        assert!(load.is_err_and(|error| error.contains("users was 100, is 50")));
        let gone = compare(|new| new.runs[0].figures.clear());
        assert!(gone.is_err_and(|error| error.contains("only the old one has: a figure")));
        let more = compare(|new| {
            let figure = Figure::more("another", 1.0, Unit::Count);
            new.runs[0].figures.push(figure);
        });
        assert_eq!(more, Ok(()));
    }
}
