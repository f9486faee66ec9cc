//! The real chat service on an SQLite file, asked as HTTP asks it: no frame has to come in for a command to be executed.

use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use bridge::cluster::Peers;
use bridge::serve::limits;
use bridge::service::{Caller, Running, Service};
use bridge::settings::Settings;
use bridge::store::Store;
use bridge::store::users::{self, Role, User};
use broker::{Broker, Rules};
use futures_util::future::join_all;
use schema::v1::reply;
use tempfile::TempDir;

use crate::{edge, samples};

/// Pairs of users who write to each other.
pub struct Chat {
    service: Service,
    pairs: usize,
    sent: usize,
    // What follows would end, or be removed, with it.
    _running: Running,
    _broker: Broker,
    _folder: TempDir,
}

impl Chat {
    /// Messages in one round: they wait for the pipeline together, and it takes all of them into one transaction, which
    /// could hold more.
    pub const PER_ROUND: usize = 512;

    /// A new database with so many pairs.
    ///
    /// # Errors
    /// The service can't be started.
    pub async fn new(pairs: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = Store::connect(&Store::sqlite_url(folder.path())).await?;
        store.migrate().await?;
        let tx = store.begin().await?;
        for number in 0..pairs * 2 {
            let user = User {
                uid: samples::uid(number),
                kind: "person".to_owned(),
                role: Role::User,
                password_hash: String::new(),
                created_at: SystemTime::UNIX_EPOCH,
                password_changed_at: None,
            };
            users::add(&tx, &user).await?;
        }
        tx.commit().await.context("users can't be added")?;
        let (broker, link) = edge::start(Rules::default())?;
        let mut settings = Settings::defaults();
        // Each user writes more than a person.
        settings.rates.sends_per_user = 0;
        settings.rates.sends_per_conversation = 0;
        let limits = limits(&settings);
        let (service, running) = Service::start(store, link, limits, Peers::none()).await?;
        let mut chat = Chat {
            service,
            pairs,
            sent: 0,
            _running: running,
            _broker: broker,
            _folder: folder,
        };
        // Makes the conversations.
        chat.round().await?;
        Ok(chat)
    }

    /// Each pair in turn sends a message until there are [`Chat::PER_ROUND`]; all are stored and answered then.
    ///
    /// # Errors
    /// One of them was refused.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        let numbers = self.sent..self.sent + Self::PER_ROUND;
        self.sent = numbers.end;
        let sends = numbers.map(|number| {
            let pair = number % self.pairs;
            let caller = Caller {
                uid: samples::uid(2 * pair),
                device: "phone".to_owned(),
            };
            let to = samples::uid(2 * pair + 1);
            let up = samples::send(&to, format!("message-{number}"), 64);
            self.service.execute(caller, up)
        });
        for reply in join_all(sends).await {
            let is_stored = matches!(reply.result, Some(reply::Result::Ok(_)));
            ensure!(is_stored, "a message was refused: {reply:?}");
        }
        Ok(())
    }
}
