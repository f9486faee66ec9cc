//! The `tidings` binary as a child process, with a data folder of its own.

mod folder;
mod process;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use self::process::Process;
use crate::client::Builder;
use crate::database::{Database, DatabaseLock};
use crate::device;
use crate::http::Api;
use crate::session::Session;
use crate::tls::Authority;
use crate::tunnel::{Through, Tunnel};

pub use folder::Folder;
pub use process::Program;

/// Lines of the server's log that a failing test shows.
const LOG_TAIL_LINES: usize = 60;

/// A running server. A test ends with [`Server::finish`]; a server dropped before that has seen its test fail,
/// and shows the end of its log.
pub struct Server {
    process: Process,
    folder: Folder,
    finished: bool,
}

impl Server {
    /// A fresh server with these users. Their passwords are what [`password_of`] says.
    pub async fn with_users(uids: &[&str]) -> Result<Self> {
        Self::start_in(Folder::new()?, uids).await
    }

    /// The same in a folder that the test has prepared.
    pub async fn start_in(mut folder: Folder, uids: &[&str]) -> Result<Self> {
        folder.make_database().await?;
        let server = Server {
            process: Process::start(&folder, &folder.doors()).await?,
            folder,
            finished: false,
        };
        for uid in uids {
            server.add_user(uid).await?;
        }
        Ok(server)
    }

    /// Registers one more user.
    pub async fn add_user(&self, uid: &str) -> Result<()> {
        let account = json!({ "uid": uid, "password": password_of(uid) });
        let answer = self.api().post("/v1/users", &account).await?;
        answer.expect(201).map(drop)
    }

    /// Logs a user in over HTTP.
    pub async fn login(&self, uid: &str) -> Result<Api> {
        self.api().login(uid, &password_of(uid)).await
    }

    /// HTTP without a login.
    pub fn api(&self) -> Api {
        Api::anonymous(self.process.listener("http"))
    }

    /// Adds a user as the operator does it: by the program itself, not over the network.
    pub async fn add_user_by_program(&self, uid: &str) -> Result<()> {
        self.run_user_add(uid, &[]).await
    }

    /// The same for an administrator.
    pub async fn add_admin(&self, uid: &str) -> Result<()> {
        self.run_user_add(uid, &["--admin"]).await
    }

    /// Deletes a user in the same way.
    pub async fn delete_user_by_program(&self, uid: &str) -> Result<()> {
        self.run_user(&["delete", uid]).await
    }

    async fn run_user_add(&self, uid: &str, more: &[&str]) -> Result<()> {
        let password = password_of(uid);
        let mut arguments = vec!["add", uid, "--password", &password];
        arguments.extend(more);
        self.run_user(&arguments).await
    }

    async fn run_user(&self, arguments: &[&str]) -> Result<()> {
        let arguments = [&["user"], arguments].concat();
        self.run(&arguments).await.map(drop)
    }

    /// [`Folder::run`].
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.folder.run(arguments).await
    }

    /// A device of `uid`, to be described and then connected.
    pub fn client(&self, uid: &str) -> Builder {
        Builder::new(self.mqtt(), uid)
    }

    /// A device of `uid` that uses plain topics, to be described and then connected.
    pub fn device(&self, uid: &str) -> device::Builder {
        device::Builder::new(self.mqtt(), Some((uid, &password_of(uid))))
    }

    /// A device without user name.
    pub fn stranger(&self) -> device::Builder {
        device::Builder::new(self.mqtt(), None)
    }

    /// Where MQTT is.
    pub fn mqtt(&self) -> SocketAddr {
        self.process.listener("mqtt")
    }

    /// Where bridges join.
    pub fn link(&self) -> SocketAddr {
        self.process.listener("link")
    }

    /// Where MQTT over TLS is.
    pub fn mqtts(&self) -> SocketAddr {
        self.process.listener("mqtts")
    }

    /// Where the HTTP API is, and WebSocket.
    pub fn http(&self) -> SocketAddr {
        self.process.listener("http")
    }

    /// The same over TLS.
    pub fn https(&self) -> SocketAddr {
        self.process.listener("https")
    }

    /// Who signed the server's certificate; for a folder made [`Folder::with_tls`].
    pub fn authority(&self) -> &Authority {
        let authority = self.folder.authority.as_ref();
        authority.expect("this server's folder was made with TLS")
    }

    /// A way to this server for clients that know TCP only.
    pub async fn tunnel(&self, through: Through) -> Result<Tunnel> {
        let address = match &through {
            Through::Tls(_) => self.mqtts(),
            Through::Ws => self.http(),
            Through::Https | Through::Wss => self.https(),
        };
        let trust = self.folder.authority.as_ref().map(Authority::trust);
        Tunnel::open(address, through, trust).await
    }

    fn pid(&self) -> Result<u32> {
        self.process
            .child
            .id()
            .context("the server has already ended")
    }

    /// The memory that the process has now, as Linux tells it.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let mut lines = status.lines();
        let size = lines.find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
        let size = size.context("no VmRSS in the process's status")?;
        Ok(size.trim().parse::<u64>()? * 1024)
    }

    /// Where it keeps its things.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What the server has written to its log.
    pub fn log(&self) -> String {
        self.folder.log()
    }

    /// The lines of its log that a person must look at.
    pub fn alarms(&self) -> Vec<String> {
        let log = self.folder.log();
        let lines = log.lines().filter(|line| is_alarming(line));
        lines.map(str::to_owned).collect()
    }

    /// The folder that `TIDINGS__DATA_DIR` names.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.data_dir()
    }

    fn database(&self) -> Result<&Database> {
        let database = self.folder.database.as_ref();
        database.context("this server's database is not its own")
    }

    /// Takes the database away from the server.
    pub async fn lock_database(&self) -> Result<DatabaseLock> {
        self.database()?.lock().await
    }

    /// Executes an SQL statement in the database, beside the server, that all engines understand; returns the rows, a line
    /// each with tabs between the columns.
    pub async fn sql(&self, statement: &str) -> Result<String> {
        self.database()?.sql(statement).await
    }

    /// Somebody else on a database server.
    pub async fn database_session(&self) -> Result<Session> {
        self.database()?.session().await
    }

    /// Everything in the database, as bytes in which texts can be found.
    pub async fn dump(&self) -> Result<Vec<u8>> {
        self.database()?.dump().await
    }

    /// Makes two users each other's contacts.
    pub async fn befriend(&self, one: &str, other: &str) -> Result<()> {
        self.sql(&befriending(one, other)).await.map(drop)
    }

    /// Sends the process a signal, such as `HUP`, and does not wait for what comes of it.
    pub async fn signal(&self, name: &str) -> Result<()> {
        self.process.signal(name).await
    }

    /// kill -9, then waits until the process is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.child.kill().await.context("kill -9")
    }

    /// SIGTERM, then waits until the process has left by itself; returns how long that took.
    pub async fn shut_down(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.process.terminate().await?;
        Ok(started.elapsed())
    }

    /// Waits until the process has left well by itself, after [`Server::signal`].
    pub async fn wait(&mut self) -> Result<()> {
        self.process.wait().await
    }

    /// Starts the program again after [`Server::kill`] or [`Server::shut_down`]: same data, same ports.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = Process::start(&self.folder, &self.process.listeners).await?;
        Ok(())
    }

    /// Ends a test: [`Server::shut_down`], whatever stands in the log.
    pub async fn stop(mut self) -> Result<()> {
        self.process.terminate().await?;
        self.end().await
    }

    /// Ends a test in which nothing should have gone wrong: [`Server::stop`], and no ERROR or panic in the log.
    pub async fn finish(mut self) -> Result<()> {
        self.process.terminate().await?;
        if let Some(line) = self.alarms().first() {
            bail!("in the server's log: {line}");
        }
        self.end().await
    }

    async fn end(&mut self) -> Result<()> {
        self.finished = true;
        match self.folder.database.take() {
            Some(database) => database.remove().await,
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let log = self.folder.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        eprintln!("--- end of server.log ---\n{}\n---", tail.join("\n"));
    }
}

/// The password that the harness gives a user.
pub fn password_of(uid: &str) -> String {
    format!("{uid}-has-a-password")
}

/// Lets this process, and the servers that it starts from now on, open as many files as they may.
pub fn raise_open_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).context("the limit of open files can't be raised")
}

/// ERROR means that a person must look. (The word stands alone in text logs, in quotes in JSON ones.)
fn is_alarming(line: &str) -> bool {
    let is_word = |word: &str| word.trim_matches(['"', ',', ':', '{', '}']) == "ERROR";
    line.split([' ', ':', ',']).any(is_word) || line.contains("panicked at")
}

/// The statement that makes two users each other's contacts.
pub(crate) fn befriending(one: &str, other: &str) -> String {
    let row = |uid: &str, other: &str| {
        format!("('{uid}', '{other}', 'contact', '', '', '', 0, 0, 0, -1)")
    };
    let rows = [row(one, other), row(other, one)].join(", ");
    format!("INSERT INTO contacts VALUES {rows}")
}
