//! `bench group`: one group of many members, of whom some send; what counts is the deliveries.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use broker::codec::Qos;
use clap::Args;
use serde_json::json;

use super::WireFormat;
use super::accounts::{self, Account};
use super::check::Promises;
use super::load::{Load, LoadOptions, Site, WhereOptions, parse_qos};
use super::progress::Progress;
use super::results::{About, Run};
use super::runs::Output;
use super::server::Extras;
use super::talk::{At, Talk};

/// One group of many members, of whom some send.
#[derive(Args, Clone, Debug)]
pub struct GroupOptions {
    /// How many members, senders included
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..))]
    members: u32,
    /// How many of them send
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    senders: u32,
    /// How commands and messages are written
    #[arg(long, value_enum, default_value = "protobuf")]
    format: WireFormat,
    /// With --broker, at which QoS messages are delivered, 0 or 1; at 0 what is lost is only counted
    #[arg(long, default_value = "1", requires = "broker", value_parser = parse_qos)]
    qos: Qos,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    load: LoadOptions,
    #[command(flatten)]
    server: WhereOptions,
}

impl GroupOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        ensure!(
            self.senders <= self.members,
            "--senders must not be more than --members"
        );
        ensure!(
            !self.server.is_broker() || self.senders < self.members,
            "--senders must be fewer than --members: through a broker, those who send do not listen"
        );
        let measure = async |progress: &Progress| {
            let extras = self.extras();
            let site = self.server.open(config, self.members, &extras, progress);
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
        load.insert("members".to_owned(), json!(self.members));
        load.insert("qos".to_owned(), json!(self.qos as u8));
        load.insert("senders".to_owned(), json!(self.senders));
        About {
            scenario: "group".to_owned(),
            title: format!(
                "a group of {}, {} of them send, {}",
                self.members,
                self.senders,
                self.load.title()
            ),
            load,
        }
    }

    /// Room for the group.
    fn extras(&self) -> Extras {
        Extras {
            settings: vec![("TIDINGS__GROUPS__MEMBERS_MAX", self.members.to_string())],
            ..Extras::default()
        }
    }

    async fn measure(&self, site: &Site, progress: &Progress) -> anyhow::Result<Run> {
        let (owner, others) = site.accounts.split_first().expect("there are members");
        let (at, promises) = if self.server.is_broker() {
            let topic = format!("bench/{}/group", owner.uid);
            (At::Topic(topic), Promises::of_plain(self.qos))
        } else {
            let others: Vec<&Account> = others.iter().collect();
            let gid = owner.uid.to_string();
            accounts::make_group(site.http()?, owner, &gid, &others).await?;
            (At::Group(gid), Promises::Chat)
        };
        let talk = Talk {
            at,
            members: (0..self.members).collect(),
            senders: self.senders,
        };
        let load = Load {
            options: &self.load,
            site,
            accounts: &site.accounts,
            talks: vec![talk],
            promises,
            format: self.format,
            qos: self.qos,
            absences: BTreeMap::new(),
        };
        load.run(progress).await
    }
}
