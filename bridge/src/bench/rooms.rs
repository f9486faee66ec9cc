//! `bench rooms`: fan-out without storage: on each of some plain topics one user publishes to many.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use broker::codec::Qos;
use clap::Args;
use serde_json::json;

use super::WireFormat;
use super::check::Promises;
use super::load::{Load, LoadOptions, Site, WhereOptions, parse_qos};
use super::progress::Progress;
use super::results::{About, Run};
use super::runs::Output;
use super::server::Extras;
use super::talk::{At, Talk};

/// Opens the topics: everything under `dev/{uid}` is the user's own otherwise.
const RULES: &str = r#"
[[topics.rules]]
effect = "allow"
action = "subscribe"
who = "users"
topics = ["dev/+/room"]
"#;

/// Plain topics, on each of which one user publishes to many; nothing is stored.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "A server that runs already has to let users subscribe to dev/+/room; see [[topics.rules]] in \
                        conf/default.toml."
)]
pub struct RoomsOptions {
    /// How many rooms, each with a publisher of its own
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..10_000))]
    rooms: u32,
    /// How many subscribers each of them has, which are in no other
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..100_000))]
    subscribers: u32,
    /// At which QoS messages are delivered, 0 or 1; at 0 what is lost is only counted
    #[arg(long, default_value = "1", value_parser = parse_qos)]
    qos: Qos,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    load: LoadOptions,
    #[command(flatten)]
    server: WhereOptions,
}

impl RoomsOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        let extras = Extras {
            rules: RULES,
            ..Extras::default()
        };
        let clients = self.rooms.checked_mul(self.subscribers + 1);
        let clients = clients.context("so many clients can't be numbered")?;
        let measure = async |progress: &Progress| {
            let site = self.server.open(config, clients, &extras, progress).await?;
            let run = self.measure(&site, progress).await?;
            site.close().await;
            Ok(run)
        };
        let about = self.server.add_settings(self.about(), config)?;
        self.output.repeat(about, measure).await
    }

    fn about(&self) -> About {
        let qos = self.qos as u8;
        let mut load = self.load.as_values();
        load.extend([self.server.as_value()]);
        load.insert("rooms".to_owned(), json!(self.rooms));
        load.insert("subscribers".to_owned(), json!(self.subscribers));
        load.insert("qos".to_owned(), json!(qos));
        About {
            scenario: "rooms".to_owned(),
            title: format!(
                "{} rooms with {} subscribers at QoS {qos}, {}",
                self.rooms,
                self.subscribers,
                self.load.title()
            ),
            load,
        }
    }

    async fn measure(&self, site: &Site, progress: &Progress) -> anyhow::Result<Run> {
        // Publishers first, then the subscribers of each room.
        let room = |publisher: u32| {
            let first = self.rooms + publisher * self.subscribers;
            let mut members = vec![publisher];
            members.extend(first..first + self.subscribers);
            Talk {
                at: At::Topic(format!(
                    "dev/{}/room",
                    site.accounts[publisher as usize].uid
                )),
                members,
                senders: 1,
            }
        };
        let load = Load {
            options: &self.load,
            site,
            accounts: &site.accounts,
            talks: (0..self.rooms).map(room).collect(),
            promises: Promises::of_plain(self.qos),
            format: WireFormat::Protobuf,
            qos: self.qos,
            absences: BTreeMap::new(),
        };
        load.run(progress).await
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
        options: RoomsOptions,
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everyone_in_a_room_gets_what_is_published() {
        let line = "rooms --rooms 2 --subscribers 3 --rate 50 --seconds 1 --warmup 0";
        for qos in ["--qos 0", "--qos 1"] {
            let line = format!("{line} {qos}");
            let options = Line::parse_from(line.split(' ')).options;
            let extras = Extras {
                rules: RULES,
                ..Extras::default()
            };
            let server = Server::start(None, 8, Place::Here, &extras).await;
            let (server, accounts) = server.unwrap();
            let site = Site::of(server, accounts);
            let progress = Default::default();
            let run = options.measure(&site, &progress).await.unwrap();
            site.close().await;
            assert!(run.check.is_ok(), "{}", run.check);
            let what = &run.check.what;
            assert!(what.starts_with("50 messages in 2 conversations"), "{what}");
            assert_eq!(run.value("lost"), Some(0.0), "{qos}");
        }
    }
}
