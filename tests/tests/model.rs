//! Random people with several devices do random things at once; the server agrees with a small model of a chat.
//!
//! `TIDINGS_MODEL_SEED` plays one seed instead of those here, with kills where it is odd; `TIDINGS_MODEL_STEPS` sets the
//! steps of each run, and `TIDINGS_MODEL_RUNS` plays so many seeds from that one on.

use anyhow::{Context, Result};
use tidings_tests::model::{Options, run};

const STEPS: usize = 150;

/// A number from the environment.
fn setting(name: &str) -> Result<Option<u64>> {
    let value = std::env::var(name).ok();
    let number = value.map(|value| value.parse().with_context(|| format!("{name}={value}")));
    number.transpose()
}

/// Everything that people see agrees with the model, whatever the order in which things happen; the odd seed kills the
/// server now and then.
#[tokio::test]
async fn the_server_agrees_with_the_model() -> Result<()> {
    let steps = setting("TIDINGS_MODEL_STEPS")?.map_or(STEPS, |steps| steps as usize);
    let first = setting("TIDINGS_MODEL_SEED")?;
    let default = if first.is_some() { 1 } else { 3 };
    let runs = setting("TIDINGS_MODEL_RUNS")?.unwrap_or(default);
    let first = first.unwrap_or(2);
    for seed in first..first + runs {
        let kills = seed % 2 == 1;
        run(&Options { seed, steps, kills }).await?;
        println!("seed {seed}: {steps} steps");
    }
    Ok(())
}
