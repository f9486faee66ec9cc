//! What the operator decides: `conf/default.toml`, then a file, then the environment.
//!
//! `conf/default.toml` documents every key and is compiled in, so that documentation and defaults can't differ.

mod options;
mod secret;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{
    Config, ConfigError, Environment, File, FileFormat, Map, Source as _, Value, ValueKind,
};
use serde::Deserialize;

pub(crate) use options::is_unset;
pub use options::{
    Action, ArchiveOptions, AuthOptions, BrokerAddress, ClientCert, ContactsOptions,
    DatabaseOptions, DevicesOptions, Effect, GroupsOptions, HttpOptions, HttpsOptions, LinkOptions,
    MessagesOptions, MqttOptions, MqttsOptions, NetworkOptions, PresenceOptions, RatesOptions,
    RedisOptions, RuleOptions, SearchOptions, ShutdownOptions, TopicsOptions, Who, WordsOptions,
};
pub use secret::Secret;

use crate::store::Store;

/// The defaults, as the operator reads them.
pub const DEFAULTS: &str = include_str!("../../conf/default.toml");

/// Prefix of the environment variables, and what separates section from key.
const ENVIRONMENT: (&str, &str) = ("TIDINGS", "__");

/// Modules of others that are heard less than ours: rumqttd reports its own view of what the edge has logged
/// already, and the migrations tell at every start that there is nothing to do.
const QUIET: [(&str, &str); 2] = [("rumqttd", "off"), ("sea_orm_migration", "warn")];

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer can't be read, or holds an unknown key or a value of the wrong kind.
    #[error("the settings can't be read")]
    Load(#[from] ConfigError),
    /// All values are readable, but one makes no sense alone or beside another.
    #[error("{0}")]
    Invalid(String),
}

/// All settings, one struct per section of `conf/default.toml`, which explains them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "explained in conf/default.toml")]
pub struct Settings {
    pub data_dir: PathBuf,
    pub log: String,
    pub network: NetworkOptions,
    pub mqtt: MqttOptions,
    pub mqtts: MqttsOptions,
    pub http: HttpOptions,
    pub https: HttpsOptions,
    pub topics: TopicsOptions,
    pub database: DatabaseOptions,
    pub redis: RedisOptions,
    pub link: LinkOptions,
    pub messages: MessagesOptions,
    pub archive: ArchiveOptions,
    pub groups: GroupsOptions,
    pub contacts: ContactsOptions,
    pub devices: DevicesOptions,
    pub search: SearchOptions,
    pub presence: PresenceOptions,
    pub auth: AuthOptions,
    pub rates: RatesOptions,
    pub words: WordsOptions,
    pub shutdown: ShutdownOptions,
}

fn environment() -> Environment {
    let (prefix, separator) = ENVIRONMENT;
    Environment::with_prefix(prefix)
        .prefix_separator(separator)
        .separator(separator)
}

/// Puts every value of a table below its whole key.
fn flatten(above: &str, table: Map<String, Value>, flat: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let key = format!("{above}{key}");
        match value.kind {
            ValueKind::Table(table) => flatten(&format!("{key}."), table, flat),
            kind => drop(flat.insert(key, kind.to_string())),
        }
    }
}

impl Settings {
    /// Reads all layers and checks them.
    ///
    /// # Errors
    /// [`Error`] with the key at fault.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        Self::from_layers(file, environment())
    }

    /// The same with variables above those of the environment.
    ///
    /// # Errors
    /// [`Error`] with the key at fault.
    pub fn load_with(file: Option<&Path>, variables: &[(&str, String)]) -> Result<Self, Error> {
        let inherited = std::env::vars_os().filter_map(|(name, value)| {
            // A setting is text.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let more = variables.iter();
        let more = more.map(|(name, value)| ((*name).to_owned(), value.clone()));
        let all = inherited.chain(more).collect();
        Self::from_layers(file, environment().source(Some(all)))
    }

    fn from_layers(file: Option<&Path>, environment: Environment) -> Result<Self, Error> {
        let mut layers = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            layers = layers.add_source(File::from(file).format(FileFormat::Toml));
        }
        let settings: Settings = layers.add_source(environment).build()?.try_deserialize()?;
        settings.validate()?;
        Ok(settings)
    }

    /// What the file and the environment say, by key: everything else is as in `conf/default.toml`. Keys that name a
    /// secret, or may hold one in a URL, are left out.
    ///
    /// # Errors
    /// That the file can't be read.
    pub fn changed(file: Option<&Path>) -> Result<BTreeMap<String, String>, Error> {
        let mut layers = Config::builder();
        if let Some(file) = file {
            layers = layers.add_source(File::from(file).format(FileFormat::Toml));
        }
        let table = layers.add_source(environment()).build()?.collect()?;
        let mut changed = BTreeMap::new();
        flatten("", table, &mut changed);
        let is_secret = |key: &str| {
            ["key", "url", "secret"]
                .iter()
                .any(|end| key.ends_with(end))
        };
        changed.retain(|key, _| !is_secret(key));
        Ok(changed)
    }

    /// The defaults alone, for tests.
    ///
    /// # Panics
    /// Never: a test reads `conf/default.toml`.
    #[must_use]
    pub fn defaults() -> Self {
        let nothing = Environment::default().source(Some(config::Map::new()));
        Self::from_layers(None, nothing).expect("conf/default.toml is valid")
    }

    /// The URL of the database, which is a file in the data folder unless configured.
    #[must_use]
    pub fn database_url(&self) -> String {
        match self.database.url.expose() {
            "" => Store::sqlite_url(&self.data_dir),
            url => url.to_owned(),
        }
    }

    /// The filter for the log: what the operator says, and modules of others more quietly unless they are named.
    #[must_use]
    pub fn log_filter(&self) -> String {
        let mut filter = self.log.clone();
        for (module, level) in QUIET {
            if !self.log.contains(module) {
                filter.push_str(&format!(",{module}={level}"));
            }
        }
        filter
    }

    /// What no single key can tell.
    fn validate(&self) -> Result<(), Error> {
        let checks = [
            (
                self.mqtt.listen.is_empty()
                    && self.mqtts.listen.is_empty()
                    && self.http.listen.is_empty()
                    && self.https.listen.is_empty(),
                "no section has an address to listen on: there would be nothing to serve",
            ),
            (
                is_unset(&self.data_dir),
                "data_dir is empty: it names the folder for the database and the keys",
            ),
        ];
        refuse_first(&checks)?;
        tracing_subscriber::EnvFilter::try_new(self.log_filter())
            .map_err(|error| Error::Invalid(format!("log is not a filter: {error}")))?;
        refuse_first(&self.database.checks())?;
        refuse_first(&self.redis.checks(&self.database_url(), &self.auth))?;
        refuse_first(&self.link.checks())?;
        refuse_first(&self.network.checks())?;
        refuse_first(&self.mqtt.checks())?;
        refuse_first(&self.mqtts.checks())?;
        refuse_first(&self.http.checks())?;
        refuse_first(&self.https.checks(&self.mqtts))?;
        refuse_first(&self.messages.checks(&self.mqtt))?;
        refuse_first(&self.archive.checks(&self.messages))?;
        refuse_first(&self.groups.checks())?;
        refuse_first(&self.devices.checks())?;
        refuse_first(&self.auth.checks())?;
        refuse_first(&self.rates.checks())
    }
}

/// A condition that must not hold, and what to tell the operator when it does.
type Check = (bool, &'static str);

fn refuse_first(checks: &[Check]) -> Result<(), Error> {
    match checks.iter().find(|(wrong, _)| *wrong) {
        Some((_, reason)) => Err(Error::Invalid((*reason).to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
