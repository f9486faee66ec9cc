//! `tidings-guard` tells the scenarios that there are, and how often each is done; `tidings-guard NAME TIMES` does one.

use anyhow::{Context as _, bail};
use tidings_guard::scenario::{ALL, Scenario};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => {
            for scenario in &ALL {
                println!("{} {}", scenario.name, scenario.times);
            }
            Ok(())
        }
        [name, times] => {
            let times = times.parse().context("not a number of times")?;
            let scenario = Scenario::find(name).context("there is no such scenario")?;
            scenario.run(times)
        }
        _ => bail!("usage: tidings-guard [NAME TIMES]"),
    }
}
