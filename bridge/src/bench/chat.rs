//! `bench chat`: pairs of users who send each other messages, both at once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use broker::codec::Qos;
use clap::Args;
use serde_json::json;

use super::WireFormat;
use super::accounts::Account;
use super::check::Promises;
use super::load::{Load, LoadOptions, Site, WhereOptions, parse_qos};
use super::progress::Progress;
use super::results::{About, Run};
use super::runs::Output;
use super::server::Extras;
use super::talk::{At, Talk};

/// Pairs of users who send each other messages.
#[derive(Args, Clone, Debug)]
pub struct ChatOptions {
    /// How many users, an even number; user 2k and user 2k+1 chat with each other
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    users: u32,
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

impl ChatOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        ensure!(
            self.users.is_multiple_of(2),
            "--users must be even: they chat in pairs"
        );
        let measure = async |progress: &Progress| {
            let extras = Extras::default();
            let site = self.server.open(config, self.users, &extras, progress);
            let site = site.await?;
            let run = match self.server.is_broker() {
                false => pairs(&site, &site.accounts, self.format, &self.load, progress).await?,
                true => self.pass_on(&site, progress).await?,
            };
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
        load.insert("qos".to_owned(), json!(self.qos as u8));
        About {
            scenario: "chat".to_owned(),
            title: format!("{} users in pairs, {}", self.users, self.load.title()),
            load,
        }
    }

    /// The same through a broker that knows nothing of chats: a topic for each user, to which the other one publishes.
    async fn pass_on(&self, site: &Site, progress: &Progress) -> anyhow::Result<Run> {
        let one_way = |sender: u32| Talk {
            at: At::Topic(format!("bench/{}", site.accounts[sender as usize ^ 1].uid)),
            members: vec![sender, sender ^ 1],
            senders: 1,
        };
        let load = Load {
            options: &self.load,
            site,
            accounts: &site.accounts,
            talks: (0..self.users).map(one_way).collect(),
            promises: Promises::of_plain(self.qos),
            format: self.format,
            qos: self.qos,
            absences: BTreeMap::new(),
        };
        load.run(progress).await
    }
}

/// Lets `accounts`, who have not chatted before, chat in pairs.
pub(super) async fn pairs(
    site: &Site,
    accounts: &[Account],
    format: WireFormat,
    options: &LoadOptions,
    progress: &Progress,
) -> anyhow::Result<Run> {
    let users = u32::try_from(accounts.len())?;
    let load = Load {
        options,
        site,
        accounts,
        talks: (0..users)
            .step_by(2)
            .map(|one| Talk::pair(one, one + 1))
            .collect(),
        promises: Promises::Chat,
        format,
        qos: Qos::AtLeastOnce,
        absences: BTreeMap::new(),
    };
    load.run(progress).await
}
