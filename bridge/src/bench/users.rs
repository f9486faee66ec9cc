//! `bench users`: whether a message costs more when many users are connected: the same load with few and then with many,
//! on the same server, spread over all of them.

use std::path::Path;

use anyhow::ensure;
use clap::Args;
use serde_json::json;

use super::accounts::Account;
use super::faults::Checked;
use super::load::{LoadOptions, Site};
use super::progress::Progress;
use super::results::{About, Figure, Run, Unit};
use super::runs::Output;
use super::server::{Place, Server, add_settings};
use super::{WireFormat, chat, limits, stamp};

/// The same load with few users and with many.
#[derive(Args, Clone, Debug)]
pub struct UsersOptions {
    /// Few, an even number
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    few: u32,
    /// Many, an even number; fewer, where a process may not open so many files (see --in-process)
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(2..))]
    many: u32,
    /// Messages per second of all users together
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long to measure, each time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Seconds of the same load before that; longer, where not everyone had a turn by then
    #[arg(long, default_value_t = 5)]
    warmup: u32,
    /// Run the server in this process, and reach it through memory instead of sockets: any number of users. CPU time is
    /// then that of server and generator together
    #[arg(long)]
    in_process: bool,
    /// Bytes of a message's content
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(stamp::SIZE as i64..))]
    size: u32,
    #[command(flatten)]
    output: Output,
}

impl UsersOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        ensure!(
            self.few.is_multiple_of(2) && self.many.is_multiple_of(2),
            "--few and --many must be even: they chat in pairs"
        );
        let (place, many) = if self.in_process {
            (Place::Here, self.many)
        } else {
            limits::raise_open_files()?;
            // An even number again.
            (Place::Apart, limits::connections_that_fit(self.many) & !1)
        };
        ensure!(self.few < many, "--few must be fewer");
        let measure = async |progress: &Progress| {
            // Each time other users, so that every conversation begins at 1.
            let count = self.few + many;
            let server = Server::start_with_users(config, count, place).await?;
            let site = Site::of(server.0, server.1);
            let (few, many) = site.accounts.split_at(self.few as usize);
            let few = self.chat(&site, few, progress).await?;
            let many = self.chat(&site, many, progress).await?;
            site.close().await;
            Ok(both(few, many))
        };
        let about = add_settings(self.about(many), config)?;
        self.output.repeat(about, measure).await
    }

    fn about(&self, many: u32) -> About {
        let mut load = self.load(many).as_values();
        load.insert("few".to_owned(), json!(self.few));
        load.insert("many".to_owned(), json!(many));
        load.insert("inProcess".to_owned(), json!(self.in_process));
        About {
            scenario: "users".to_owned(),
            title: format!(
                "{}/s of {} bytes in pairs, of {} users and of {many}",
                self.rate, self.size, self.few
            ),
            load,
        }
    }

    async fn chat(
        &self,
        site: &Site,
        accounts: &[Account],
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        let load = self.load(u32::try_from(accounts.len())?);
        chat::pairs(site, accounts, WireFormat::Protobuf, &load, progress).await
    }

    fn load(&self, users: u32) -> LoadOptions {
        // The first message makes the conversation, which is not what is to be compared.
        let one_turn = users.div_ceil(self.rate);
        LoadOptions {
            rate: self.rate,
            window: 16,
            seconds: self.seconds,
            warmup: self.warmup.max(one_turn),
            size: self.size,
        }
    }
}

/// One run of the two: what many cost compared with few, then the figures of each; second by second, it is with many.
fn both(few: Run, many: Run) -> Run {
    let by_few = |name: &str| Some(many.value(name)? / few.value(name)?);
    // Where the two share a process, the server's share is not known.
    let cpu = by_few("server CPU per message").or_else(|| by_few("process CPU per message"));
    let ratios = [
        ("CPU per message, many by few", cpu),
        ("delivered p50, many by few", by_few("delivered p50")),
    ];
    let ratio = |(name, value): (&str, Option<f64>)| Some(Figure::less(name, value?, Unit::Ratio));
    let mut figures: Vec<Figure> = ratios.into_iter().filter_map(ratio).collect();
    let mut check = Checked {
        what: format!("few: {}; many: {}", few.check.what, many.check.what),
        ..Checked::default()
    };
    for (name, run) in [("few", &few), ("many", &many)] {
        figures.extend(run.figures.iter().map(|figure| Figure {
            name: format!("{name}: {}", figure.name),
            ..figure.clone()
        }));
        let mut faults = run.check.faults.clone();
        faults.name_place(name);
        check.faults.add(&faults);
    }
    Run {
        figures,
        series: many.series,
        check,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: UsersOptions,
    }

    fn options(line: &str) -> UsersOptions {
        Line::parse_from(line.split(' ')).options
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_in_this_process_keeps_its_promises() {
        let options =
            options("users --few 2 --many 6 --rate 50 --seconds 1 --warmup 0 --in-process");
        options.run(None).await.unwrap();
    }

    #[test]
    fn everyone_has_a_turn_before_it_counts() {
        let options = options("users --rate 1000 --warmup 5");
        assert_eq!(options.load(1000).warmup, 5);
        assert_eq!(options.load(50_000).warmup, 50);
    }

    #[test]
    fn many_are_held_against_few() {
        let run = |cpu: f64, is_ok: bool| {
            let mut run = Run {
                figures: vec![Figure::less("process CPU per message", cpu, Unit::Micros)],
                ..Run::default()
            };
            if !is_ok {
                run.check.faults.note("lost", || "message 3".to_owned());
            }
            run
        };
        let both = both(run(50.0, true), run(75.0, false));
        assert_eq!(both.value("CPU per message, many by few"), Some(1.5));
        assert_eq!(both.value("many: process CPU per message"), Some(75.0));
        let check = both.check.to_string();
        assert!(check.contains("lost: 1 times; many: message 3"), "{check}");
    }
}
