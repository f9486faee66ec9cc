//! `bench mixed`: a day in small. Most users are connected and silent; the others write in pairs and in groups of
//! different sizes, at a rate that does not care how the server is doing; and some go away for a while and catch up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use broker::codec::Qos;
use clap::Args;
use serde_json::json;

use super::WireFormat;
use super::accounts::{self, Account};
use super::check::{Promises, scramble};
use super::client::Absence;
use super::load::{Load, LoadOptions, ServerOptions, Site};
use super::progress::Progress;
use super::results::{About, Figure, Run, Unit};
use super::runs::Output;
use super::server::Extras;
use super::talk::{At, Talk};

/// Of so many users, one writes; the others only read.
const USERS_PER_WRITER: u32 = 5;
/// Of so many users, there is one group; its size is one of these, in turn.
const USERS_PER_GROUP: u32 = 20;
const GROUP_SIZES: [u32; 8] = [3, 5, 10, 20, 5, 50, 100, 200];
/// Where no rate is given, a writer has a message due so often.
const SECS_PER_MESSAGE: u32 = 2;
const RATE_HELP: &str = "Messages per second of all writers together, whatever the server does; 0: each has one due \
                         every two seconds";
/// The shortest time for which someone goes away.
const ABSENCE_MIN: Duration = Duration::from_millis(200);

/// A day in small: most only read, some write in pairs and groups, some go away and come back.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "One user of five writes; the others only read.",
    mut_arg("rate", |rate| rate.help(RATE_HELP))
)]
pub struct MixedOptions {
    /// How many users
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..100_000))]
    users: u32,
    /// How many percent of those who only read go away for a while, every other one without saying so
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100))]
    absent: u32,
    /// How commands and messages are written
    #[arg(long, value_enum, default_value = "protobuf")]
    format: WireFormat,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    load: LoadOptions,
    #[command(flatten)]
    server: ServerOptions,
}

impl MixedOptions {
    pub(super) async fn run(mut self, config: Option<&Path>) -> anyhow::Result<()> {
        if self.load.rate == 0 {
            self.load.rate = self.users / USERS_PER_WRITER / SECS_PER_MESSAGE;
        }
        let measure = async |progress: &Progress| {
            let extras = Extras::default();
            let site = self.server.open(config, self.users, &extras, progress);
            let site = site.await?;
            let run = self.measure(&site, progress).await?;
            site.close().await;
            Ok(run)
        };
        let about = self.server.add_settings(self.about(), config)?;
        self.output.repeat(about, measure).await
    }

    fn about(&self) -> About {
        let mut load = self.load.as_values();
        load.extend([self.server.as_value(), self.format.as_value()]);
        load.insert("users".to_owned(), json!(self.users));
        load.insert("absent".to_owned(), json!(self.absent));
        About {
            scenario: "mixed".to_owned(),
            title: format!(
                "{} users in pairs and groups, {} % of the readers away for a while, {}",
                self.users,
                self.absent,
                self.load.title()
            ),
            load,
        }
    }

    async fn measure(&self, site: &Site, progress: &Progress) -> anyhow::Result<Run> {
        // The same for each run.
        let mut dice = Dice::default();
        let talks = self.talks(site.accounts[0].uid.as_str(), &mut dice);
        let stage = progress.count("making groups", talks.len() as u64);
        for talk in &talks {
            if let At::Group(gid) = &talk.at {
                let mut members = talk.members.iter();
                let mut next = || Some(&site.accounts[*members.next()? as usize]);
                if let Some(owner) = next() {
                    let others: Vec<&Account> = std::iter::from_fn(next).collect();
                    accounts::make_group(site.http()?, owner, gid, &others).await?;
                }
            }
            stage.advance(1);
        }
        let absences = self.absences(&mut dice);
        let absent = absences.len() as f64;
        let load = Load {
            options: &self.load,
            site,
            accounts: &site.accounts,
            talks,
            promises: Promises::Chat,
            format: self.format,
            qos: Qos::AtLeastOnce,
            absences,
        };
        let mut run = load.run(progress).await?;
        run.figures
            .push(Figure::neither("absences", absent, Unit::Count));
        Ok(run)
    }

    /// Every writer chats with a neighbour; groups are drawn from all users, and named after the run.
    fn talks(&self, run: &str, dice: &mut Dice) -> Vec<Talk> {
        let pair = |writer: u32| Talk {
            senders: 1,
            ..Talk::pair(writer, (writer + 1) % self.users)
        };
        let pairs = (0..self.users).filter(|user| is_writer(*user)).map(pair);
        let mut talks: Vec<Talk> = pairs.collect();
        let sizes = GROUP_SIZES.iter().cycle();
        for (group, size) in (0..self.users.div_ceil(USERS_PER_GROUP)).zip(sizes) {
            talks.push(self.group(format!("{run}-{group}"), *size, dice));
        }
        talks
    }

    fn group(&self, gid: String, size: u32, dice: &mut Dice) -> Talk {
        let size = size.min(self.users) as usize;
        let writer = dice.below(self.users.div_ceil(USERS_PER_WRITER)) * USERS_PER_WRITER;
        let mut members = vec![writer];
        while members.len() < size {
            let user = dice.below(self.users);
            if !members.contains(&user) {
                members.push(user);
            }
        }
        members.sort_by_key(|user| !is_writer(*user));
        let senders = members.iter().filter(|user| is_writer(**user)).count();
        Talk {
            at: At::Group(gid),
            members,
            senders: senders as u32,
        }
    }

    /// Who goes away when, all within the measured time.
    fn absences(&self, dice: &mut Dice) -> BTreeMap<u32, Absence> {
        let begin = Duration::from_secs(self.load.warmup.into());
        let measured = Duration::from_secs(self.load.seconds.into());
        let mut absences = BTreeMap::new();
        for user in (0..self.users).filter(|user| !is_writer(*user)) {
            if dice.below(100) >= self.absent {
                continue;
            }
            let from = begin + measured.mul_f64(dice.fraction() * 0.6);
            let lasts = ABSENCE_MIN + measured.mul_f64(dice.fraction() * 0.1);
            let absence = Absence {
                from,
                lasts,
                says_goodbye: absences.len().is_multiple_of(2),
            };
            absences.insert(user, absence);
        }
        absences
    }
}

fn is_writer(user: u32) -> bool {
    user.is_multiple_of(USERS_PER_WRITER)
}

/// Numbers without order, the same ones each time.
#[derive(Default)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        scramble(self.0)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    /// 0 or more, less than 1.
    fn fraction(&mut self) -> f64 {
        f64::from(self.below(1 << 20)) / f64::from(1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::server::{Place, Server};
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: MixedOptions,
    }

    fn options(line: &str) -> MixedOptions {
        Line::parse_from(line.split(' ')).options
    }

    #[test]
    fn its_help_tells_what_it_does() {
        let help = <Line as clap::CommandFactory>::command().render_long_help();
        let help = help.to_string();
        assert!(help.contains("one due every two seconds"), "{help}");
        assert!(!help.contains("--broker"), "{help}");
    }

    #[test]
    fn only_writers_write_and_only_readers_go_away() {
        let options = options("mixed --users 1000 --seconds 10 --warmup 2");
        let talks = options.talks("x", &mut Dice::default());
        assert_eq!(talks.len(), 200 + 50);
        for talk in &talks {
            let (senders, readers) = talk.members.split_at(talk.senders as usize);
            assert!(!senders.is_empty() && senders.iter().all(|user| is_writer(*user)));
            let mut members = talk.members.clone();
            members.sort_unstable();
            members.dedup();
            assert_eq!(members.len(), talk.members.len());
            let is_group = matches!(talk.at, At::Group(_));
            assert!(!is_group || readers.iter().all(|user| !is_writer(*user)));
        }
        let absences = options.absences(&mut Dice::default());
        assert!((100..220).contains(&absences.len()), "{}", absences.len());
        for (user, absence) in absences {
            assert!(!is_writer(user));
            assert!(absence.from >= Duration::from_secs(2));
            assert!(absence.from + absence.lasts < Duration::from_secs(12));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_was_away_has_everything_in_the_end() {
        let options = options("mixed --users 30 --absent 60 --rate 100 --seconds 2 --warmup 0");
        let server = Server::start(None, 30, Place::Here, &Extras::default()).await;
        let (server, accounts) = server.unwrap();
        let site = Site::of(server, accounts);
        let progress = Default::default();
        let run = options.measure(&site, &progress).await.unwrap();
        site.close().await;
        assert!(run.check.is_ok(), "{}", run.check);
        assert!(run.value("absences").is_some_and(|absences| absences > 5.0));
    }
}
