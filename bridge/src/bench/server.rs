//! A server for the run only, with an empty data folder: this program as `serve`, on free ports, or a part of this
//! process; or several of them on one database.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Target;
use super::accounts::{self, Account};
use super::process::Processes;
use super::results::About;
use super::way::Way;
use crate::auth::token;
use crate::serve::{self, Parts as _};
use crate::settings::Settings;
use crate::store::Store;

/// Settings that the environment may have otherwise: a user of the load sends more than a person.
const UNLESS_SET: [(&str, &str); 7] = [
    ("TIDINGS__LOG", "warn"),
    ("TIDINGS__MQTT__PUBLISH_RATE", "0"),
    ("TIDINGS__MQTT__BYTE_RATE", "0"),
    ("TIDINGS__MQTT__MAX_CONNECTIONS", "1000000"),
    ("TIDINGS__RATES__SENDS_PER_USER", "0"),
    ("TIDINGS__RATES__SENDS_PER_CONVERSATION", "0"),
    ("TIDINGS__RATES__EXPENSIVE_PER_MINUTE", "0"),
];

/// Settings that a server for the run never has from elsewhere.
const OWN: [&str; 3] = ["data_dir", "mqtt.listen", "http.listen"];

/// Where servers of the run keep what they store, and how many there are.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct StoreOptions {
    /// The database of servers of its own, instead of SQLite in the data folder; what they store stays there
    #[arg(long, value_name = "URL", conflicts_with = "mqtt")]
    database: Option<String>,
    /// Its first process, on this machine, whose CPU time to measure with that of its children
    #[arg(long, value_name = "PID", requires = "database")]
    database_pid: Option<u32>,
    /// The Redis of these servers
    #[arg(long, value_name = "URL", requires = "database")]
    redis: Option<String>,
    /// Its process, likewise
    #[arg(long, value_name = "PID", requires = "redis")]
    redis_pid: Option<u32>,
    /// How many servers there are; the clients connect to them in turn [default: 1]
    #[arg(long, value_name = "COUNT", requires = "redis", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
}

/// How long a server in this process may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a process of its own.
    Apart,
    /// In this one.
    Here,
}

/// What a load needs besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Extras {
    /// Variables of the environment.
    pub settings: Vec<(&'static str, String)>,
    /// What only a settings' file can say, to be appended to one.
    pub rules: &'static str,
}

impl Extras {
    /// The settings' file to start with, in `folder` if it is a new one.
    fn add_to(&self, config: Option<&Path>, folder: &Path) -> anyhow::Result<Option<PathBuf>> {
        if self.rules.is_empty() {
            return Ok(config.map(Path::to_owned));
        }
        let mut text = match config {
            Some(path) => {
                fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
            }
            None => String::new(),
        };
        text.push('\n');
        text.push_str(self.rules);
        let path = folder.join("bench.toml");
        fs::write(&path, text)?;
        Ok(Some(path))
    }
}

/// Adds what the operator has set otherwise than the defaults: such a server is another one.
pub(super) fn add_settings(mut about: About, config: Option<&Path>) -> anyhow::Result<About> {
    let mut changed = Settings::changed(config)?;
    changed.retain(|key, _| !OWN.contains(&key.as_str()));
    if !changed.is_empty() {
        about.load.insert("settings".to_owned(), json!(changed));
    }
    Ok(about)
}

/// Ends with this value, and takes its folders along.
pub(super) struct Server {
    target: Target,
    processes: Processes,
    nodes: Vec<Node>,
}

struct Node {
    target: Target,
    pid: u32,
    running: Running,
    // Last, so that it is removed after the process has been killed.
    _folder: Folder,
}

enum Running {
    Apart {
        child: Box<Child>,
        // Held open: a server that can't print would end.
        _stdout: Lines<BufReader<ChildStdout>>,
    },
    Here(Box<serve::Server>),
}

impl Server {
    /// Starts the server with so many users and waits until it is ready. What the environment and `config` say goes for
    /// it too, except for the listeners, the data folder and, unless the environment has them, limits that the load would
    /// meet. The users are in its database before it starts: making them over HTTP would take a password's time for each.
    pub(super) async fn start_with_users(
        config: Option<&Path>,
        count: u32,
        place: Place,
    ) -> anyhow::Result<(Server, Vec<Account>)> {
        Self::start(config, count, place, &Extras::default()).await
    }

    /// The same with settings that a load needs.
    pub(super) async fn start(
        config: Option<&Path>,
        users: u32,
        place: Place,
        extras: &Extras,
    ) -> anyhow::Result<(Server, Vec<Account>)> {
        Self::start_on(&StoreOptions::default(), config, users, place, extras).await
    }

    /// The same, or several of them, on this database.
    pub(super) async fn start_on(
        stores: &StoreOptions,
        config: Option<&Path>,
        users: u32,
        place: Place,
        extras: &Extras,
    ) -> anyhow::Result<(Server, Vec<Account>)> {
        let key = token::random_hex();
        let first = Folder::make()?;
        let database = match &stores.database {
            Some(url) => url.clone(),
            None => Store::sqlite_url(&first.0),
        };
        let accounts = accounts::seed(&database, &key, users).await?;
        let mut folders = vec![first];
        for _ in 1..stores.nodes.unwrap_or(1) {
            folders.push(Folder::make()?);
        }
        let mut nodes = Vec::with_capacity(folders.len());
        for folder in folders {
            let variables = variables(&folder, stores, &key, extras);
            let config = extras.add_to(config, &folder.0)?;
            let config = config.as_deref();
            let node = match place {
                Place::Apart => Node::start_apart(folder, config, variables).await,
                Place::Here => Node::start_here(folder, config, &variables).await,
            };
            nodes.push(node.context("starting a server")?);
        }
        let server = Server {
            target: target(&nodes)?,
            processes: Processes {
                servers: nodes.iter().map(|node| node.pid).collect(),
                others: stores.processes(),
            },
            nodes,
        };
        Ok((server, accounts))
    }

    /// Of the first one for HTTP, and of all for MQTT.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Those that work for it, too.
    pub(super) fn processes(&self) -> Processes {
        self.processes.clone()
    }

    /// Ends it. One of its own process is killed: the folder goes too, so there is nothing to put in order.
    pub(super) async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

impl StoreOptions {
    /// Says what is not as in a single server with SQLite.
    pub(super) fn add_to(&self, mut about: About) -> About {
        if let Some(url) = &self.database {
            let (name, nodes) = (database_name(url), self.nodes.unwrap_or(1));
            about.title.push_str(&format!(", {nodes} × on {name}"));
            about.load.insert("database".to_owned(), json!(name));
            about.load.insert("nodes".to_owned(), json!(nodes));
        }
        about
    }

    fn processes(&self) -> Vec<(&'static str, u32)> {
        let database = self.database.as_deref().map(database_name);
        let database = database.zip(self.database_pid);
        let redis = self.redis_pid.map(|pid| ("Redis", pid));
        database.into_iter().chain(redis).collect()
    }
}

/// What people call the database at this URL.
fn database_name(url: &str) -> &'static str {
    match url.split(':').next() {
        Some("postgres" | "postgresql") => "PostgreSQL",
        Some("mysql" | "mariadb") => "MySQL",
        _ => "SQLite",
    }
}

/// What the environment of a server says.
fn variables(
    folder: &Folder,
    stores: &StoreOptions,
    key: &str,
    extras: &Extras,
) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("TIDINGS__DATA_DIR", folder.0.display().to_string()),
        ("TIDINGS__MQTT__LISTEN", "127.0.0.1:0".to_owned()),
        ("TIDINGS__HTTP__LISTEN", "127.0.0.1:0".to_owned()),
        ("TIDINGS__AUTH__JWT_KEY", key.to_owned()),
        // Empty: the one in the data folder.
        (
            "TIDINGS__DATABASE__URL",
            stores.database.clone().unwrap_or_default(),
        ),
    ];
    let redis = stores.redis.iter();
    variables.extend(redis.map(|url| ("TIDINGS__REDIS__URL", url.clone())));
    let is_unset = |(name, _): &&(&str, &str)| std::env::var_os(name).is_none();
    let unless_set = UNLESS_SET.iter().filter(is_unset);
    variables.extend(unless_set.map(|(name, value)| (*name, (*value).to_owned())));
    variables.extend(extras.settings.iter().cloned());
    variables
}

/// All nodes as one server.
fn target(nodes: &[Node]) -> anyhow::Result<Target> {
    let first = nodes.first().context("there is no server")?;
    let addresses = nodes.iter().map(|node| match &node.target.mqtt {
        Way::Tcp(addresses) => addresses.clone(),
        Way::Memory(_) => Vec::new(),
    });
    Ok(match &first.target.mqtt {
        Way::Tcp(_) => Target {
            mqtt: Way::Tcp(addresses.flatten().collect()),
            http: first.target.http.clone(),
        },
        Way::Memory(_) => first.target.clone(),
    })
}

impl Node {
    async fn start_apart(
        folder: Folder,
        config: Option<&Path>,
        variables: Vec<(&str, String)>,
    ) -> anyhow::Result<Node> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command
            .arg("serve")
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().context("it ended at once")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        let mut stdout = BufReader::new(stdout).lines();
        let target = read_target(&mut stdout).await?;
        Ok(Node {
            target,
            pid,
            running: Running::Apart {
                child: Box::new(child),
                _stdout: stdout,
            },
            _folder: folder,
        })
    }

    async fn start_here(
        folder: Folder,
        config: Option<&Path>,
        variables: &[(&str, String)],
    ) -> anyhow::Result<Node> {
        let settings = Settings::load_with(config, variables)?;
        let server = serve::Server::start(&settings, false).await?;
        let http = server.http().first();
        let http = http.context("it does not listen for HTTP")?.to_string();
        Ok(Node {
            target: Target {
                mqtt: Way::Memory(server.sessions()),
                http,
            },
            pid: std::process::id(),
            running: Running::Here(Box::new(server)),
            _folder: folder,
        })
    }

    async fn stop(self) {
        match self.running {
            Running::Apart { mut child, .. } => {
                if let Err(error) = child.kill().await {
                    eprintln!("the server (pid {}) can't be killed: {error}", self.pid);
                }
            }
            Running::Here(server) => server.stop(STOP_MAX).await,
        }
    }
}

async fn read_target(stdout: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Target> {
    let (mut mqtt, mut http) = (None, None);
    while let Some(line) = stdout.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["listening", "mqtt", address] => mqtt = Some(address.to_owned()),
            ["listening", "http", address] => http = Some(address.to_owned()),
            ["ready"] => {
                return Ok(Target {
                    mqtt: Way::Tcp(vec![mqtt.context("it does not listen for MQTT")?]),
                    http: http.context("it does not listen for HTTP")?,
                });
            }
            _ => {}
        }
    }
    bail!("it ended before it was ready")
}

/// A folder that is removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Folder> {
        let name = format!("tidings-bench-{:016x}", getrandom::u64()?);
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("the folder {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} can't be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_what_is_set_but_no_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("tidings.toml");
        let text = "[mqtt]\nlisten = [\"127.0.0.1:7\"]\nreceive_maximum = 7\n\
                    [auth]\njwt_key = \"secret\"\n[database]\nurl = \"postgres://secret\"\n";
        fs::write(&config, text).unwrap();
        let about = || About::new("idle", String::new(), []);
        let load = add_settings(about(), Some(&config)).unwrap().load;
        assert_eq!(load["settings"]["mqtt.receive_maximum"], "7");
        let settings = load["settings"].to_string();
        assert!(!settings.contains("secret") && !settings.contains("127.0.0.1:7"));
    }
}
