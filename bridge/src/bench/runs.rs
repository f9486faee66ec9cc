//! The same measurement several times, and what is told of it.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::progress::Progress;
use super::results::{About, Run};

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
    /// Measures, prints and writes the results.
    ///
    /// # Errors
    /// Those of a run, that a file can't be written, or that the server broke a promise: then everything has been
    /// written before.
    pub(super) async fn repeat(
        &self,
        about: About,
        measure: impl AsyncFn(&Progress) -> anyhow::Result<Run>,
    ) -> anyhow::Result<()> {
        let progress = Progress;
        for _ in 0..self.runs {
            let run = measure(&progress).await?;
            println!("{}", about.title);
            for figure in &run.figures {
                println!("{} {:.2} {:?}", figure.name, figure.value, figure.unit);
            }
            print!("{}", run.check);
            if !run.check.is_ok() {
                bail!("FAILED: the server broke a promise; see the check");
            }
        }
        Ok(())
    }
}
