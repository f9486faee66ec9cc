//! The same measurement several times, and what is told of it.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

use super::page;
use super::progress::Progress;
use super::results::{About, Machine, Results, Run};
use super::text::{Figures, Together};

/// How often to measure, and where the results go.
#[derive(Args, Clone, Debug)]
pub(super) struct Output {
    /// How many times; the results are the median of each figure, and its spread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Also write the results as JSON; to the standard output for -, and the text to the standard error then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write them as a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Output {
    /// Measures, prints and writes the results. A run in which the server broke a promise is the last.
    ///
    /// # Errors
    /// Those of a run, that a file can't be written, or that the server broke a promise: then everything has been
    /// written before.
    pub(super) async fn repeat(
        &self,
        about: About,
        measure: impl AsyncFn(&Progress) -> anyhow::Result<Run>,
    ) -> anyhow::Result<()> {
        let progress = Progress::default();
        let machine = Machine::here();
        self.print(format_args!("{}\n{machine}\n", about.title));
        let mut results = Results {
            about,
            machine,
            runs: Vec::new(),
        };
        for number in 1..=self.runs {
            let mut run = measure(&progress).await?;
            // What was divided by nothing is not known, and JSON has no word for it.
            run.figures.retain(|figure| figure.value.is_finite());
            self.print_run(number, &run);
            results.runs.push(run);
            if !results.is_ok() {
                break;
            }
        }
        self.print(Together(&results));
        self.write(&results)?;
        ensure!(
            results.is_ok(),
            "FAILED: not all was as it should be; see the check"
        );
        Ok(())
    }

    fn print_run(&self, number: u32, run: &Run) {
        let figures = Figures(&run.figures);
        match self.runs {
            1 => self.print(format_args!("\n{figures}{}", run.check)),
            runs => self.print(format_args!(
                "\nrun {number} of {runs}\n{figures}{}",
                run.check
            )),
        }
    }

    fn print(&self, text: impl fmt::Display) {
        if self.json.as_deref() == Some(Path::new("-")) {
            eprint!("{text}");
        } else {
            print!("{text}");
        }
    }

    fn write(&self, results: &Results) -> anyhow::Result<()> {
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(results)? + "\n";
            if path == Path::new("-") {
                let written = std::io::stdout().write_all(text.as_bytes());
                written.context("writing the results")?;
            } else {
                write_file(path, &text)?;
            }
        }
        if let Some(path) = &self.html {
            write_file(path, &page::results(results)?)?;
        }
        Ok(())
    }
}

pub(super) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::results::{Figure, Unit};
    use super::*;

    fn output(folder: &Path, runs: u32) -> Output {
        Output {
            runs,
            json: Some(folder.join("results.json")),
            html: Some(folder.join("results.html")),
        }
    }

    async fn repeat(
        output: &Output,
        measure: impl Fn(u32) -> Run,
    ) -> (anyhow::Result<()>, Results) {
        let number = Cell::new(0);
        let repeated = output
            .repeat(About::new("idle", "nobody".to_owned(), []), async |_| {
                number.set(number.get() + 1);
                Ok(measure(number.get()))
            })
            .await;
        let json = fs::read_to_string(output.json.as_ref().unwrap()).unwrap();
        let page = fs::read_to_string(output.html.as_ref().unwrap()).unwrap();
        assert!(page.contains("nobody"), "{page}");
        (repeated, serde_json::from_str(&json).unwrap())
    }

    #[tokio::test]
    async fn every_run_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (repeated, results) = repeat(&output(folder.path(), 3), |number| Run {
            figures: vec![
                Figure::more("stored", f64::from(number), Unit::PerSecond),
                Figure::less("CPU", f64::NAN, Unit::Micros),
            ],
            ..Run::default()
        })
        .await;
        repeated.unwrap();
        let stored: Vec<_> = results.runs.iter().map(|run| run.value("stored")).collect();
        assert_eq!(stored, [Some(1.0), Some(2.0), Some(3.0)]);
        assert_eq!(results.runs[0].value("CPU"), None);
        assert_eq!(results.about.scenario, "idle");
    }

    #[tokio::test]
    async fn a_broken_promise_is_written_before_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let (repeated, results) = repeat(&output(folder.path(), 3), |number| {
            let mut run = Run::default();
            if number == 2 {
                run.check.faults.note("lost", || "message 7".to_owned());
            }
            run
        })
        .await;
        assert!(repeated.unwrap_err().to_string().starts_with("FAILED"));
        assert_eq!(results.runs.len(), 2);
        assert!(!results.is_ok());
    }
}
