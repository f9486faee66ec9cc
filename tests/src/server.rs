//! The `tidings` binary as a child process, with a data folder of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::client::Builder;
use crate::daemon::free_port;
use crate::database::{Database, DatabaseLock, Engine};
use crate::device;
use crate::disk::SmallDisk;
use crate::http::Api;
use crate::session::Session;
use crate::tls::Authority;
use crate::tunnel::{Through, Tunnel};
use crate::wait::PATIENCE;

/// Lines of the server's log that a failing test shows.
const LOG_TAIL_LINES: usize = 60;

/// Room for the data of a server with a small disk.
const DISK_MIB: u32 = 64;

/// A running server. A test ends with [`Server::finish`]; a server dropped before that has seen its test fail,
/// and shows the end of its log.
pub struct Server {
    process: Process,
    folder: Folder,
    finished: bool,
}

/// Where a server keeps its things; removed at the end.
pub struct Folder {
    /// Before `root`, because what is mounted can't be removed.
    disk: Option<SmallDisk>,
    root: TempDir,
    /// Once a server has been started here, unless it is told to use another one.
    database: Option<Database>,
    /// Environment variables of the server, at each of its starts.
    settings: Vec<(String, String)>,
    /// Who signed the server's certificate, when it has one.
    authority: Option<Authority>,
    /// Where the server listens from its first start on, for those that are not given any port.
    ports: Listeners,
    program: Program,
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `tidings serve`.
    Serve,
    /// `tidings broker`: it needs no database, and has `link`.
    Broker,
    /// `tidings bridge`: it has HTTP only.
    Bridge,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Serve => "serve",
            Program::Broker => "broker",
            Program::Bridge => "bridge",
        }
    }

    fn doors(self, has_tls: bool) -> &'static [&'static str] {
        match (self, has_tls) {
            (Program::Serve, false) => &["mqtt", "http"],
            (Program::Serve, true) => &["mqtt", "http", "mqtts", "https"],
            (Program::Broker, _) => &["mqtt", "http", "link"],
            (Program::Bridge, _) => &["http"],
        }
    }
}

/// The kinds of port that a server may have, as its `listening` lines name them, with their settings.
const DOORS: [(&str, &str); 5] = [
    ("mqtt", "TIDINGS__MQTT__LISTEN"),
    ("http", "TIDINGS__HTTP__LISTEN"),
    ("mqtts", "TIDINGS__MQTTS__LISTEN"),
    ("https", "TIDINGS__HTTPS__LISTEN"),
    ("link", "TIDINGS__LINK__LISTEN"),
];

/// Limits of people that a test sets where it is about them.
const UNLIMITED: [&str; 3] = [
    "TIDINGS__RATES__SENDS_PER_USER",
    "TIDINGS__RATES__SENDS_PER_CONVERSATION",
    "TIDINGS__RATES__EXPENSIVE_PER_MINUTE",
];

/// Where a server listens, by kind of port.
type Listeners = BTreeMap<String, SocketAddr>;

/// One life of the server.
struct Process {
    child: Child,
    /// Kept open, or the server's next line to it would fail.
    _stdout: Lines<BufReader<ChildStdout>>,
    listeners: Listeners,
}

// === impl Server ===

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

// === impl Folder ===

impl Folder {
    /// An empty one under the system's temporary folder.
    pub fn new() -> Result<Self> {
        let root = tempfile::Builder::new().prefix("tidings-test-").tempdir()?;
        fs::create_dir(root.path().join("data"))?;
        Ok(Folder {
            disk: None,
            root,
            database: None,
            settings: Vec::new(),
            authority: None,
            ports: Listeners::new(),
            program: Program::Serve,
        })
    }

    /// What its server is.
    pub fn running(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Its server's ports are such that no outgoing connection takes them while it is down.
    pub fn with_own_ports(mut self) -> Result<Self> {
        for door in self.program.doors(false) {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
            self.ports.insert((*door).to_owned(), address);
        }
        Ok(self)
    }

    /// One whose server also listens for MQTT and HTTP over TLS, with a certificate for 127.0.0.1 and localhost.
    pub fn with_tls() -> Result<Self> {
        let mut folder = Self::new()?;
        let authority = Authority::new()?;
        folder.write_certificate(&authority)?;
        folder.authority = Some(authority);
        let [cert, key] = folder.certificate_files();
        let path = |path: PathBuf| path.display().to_string();
        Ok(folder
            .setting("TIDINGS__MQTTS__CERT", &path(cert))
            .setting("TIDINGS__MQTTS__KEY", &path(key)))
    }

    /// Puts a new certificate for the server, signed by this authority, into the files that it reads.
    pub fn write_certificate(&self, authority: &Authority) -> Result<()> {
        let server = authority.server()?;
        self.write_certificate_files(&server.cert_pem(), &server.key_pem())
    }

    /// Puts whatever it is into these files.
    pub fn write_certificate_files(&self, cert_pem: &str, key_pem: &str) -> Result<()> {
        let [cert, key] = self.certificate_files();
        // The key first: whoever reads in between has a pair that does not match, and tries again.
        fs::write(key, key_pem)?;
        fs::write(cert, cert_pem)?;
        Ok(())
    }

    fn certificate_files(&self) -> [PathBuf; 2] {
        ["server.pem", "server.key"].map(|name| self.root.path().join(name))
    }

    /// Asks clients for a certificate that the folder's authority has signed; `how` is "optional" or "required".
    pub fn client_certificates(self, how: &str) -> Result<Self> {
        let authority = self.authority.as_ref().context("it has no TLS")?;
        let path = self.root.path().join("clients.pem");
        fs::write(&path, authority.cert_pem())?;
        Ok(self
            .setting("TIDINGS__MQTTS__CLIENT_CA", &path.display().to_string())
            .setting("TIDINGS__MQTTS__CLIENT_CERT", how))
    }

    /// What stands in the file of `--config`.
    pub fn config(self, toml: &str) -> Result<Self> {
        self.write_config(toml)?;
        Ok(self)
    }

    /// The same for the server's next start.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        Ok(fs::write(self.config_file(), toml)?)
    }

    fn config_file(&self) -> PathBuf {
        self.root.path().join("tidings.toml")
    }

    /// One whose database is there before any server.
    pub async fn with_database(mut self) -> Result<Self> {
        self.make_database().await?;
        Ok(self)
    }

    /// Where the database is.
    pub fn database_url(&self) -> Result<String> {
        let database = self.database.as_ref();
        Ok(database.context("no server was started here")?.url())
    }

    async fn make_database(&mut self) -> Result<()> {
        if self.database.is_some() {
            return Ok(());
        }
        let mut names = self.settings.iter().map(|(name, _)| name);
        let has_one = names.any(|name| name == "TIDINGS__DATABASE__URL");
        if has_one || self.program == Program::Broker {
            return Ok(());
        }
        let engine = match self.disk {
            Some(_) => Engine::Sqlite,
            None => Engine::tested(),
        };
        self.database = Some(Database::make(engine, self.data_dir()).await?);
        Ok(())
    }

    /// Runs the program for this folder and its database with these arguments, and returns what it prints. What it says when it
    /// fails is the error.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command()?;
        command.args(arguments);
        command.envs(self.settings.iter().cloned());
        let output = timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let name = arguments.first().unwrap_or(&"");
        ensure!(output.status.success(), "tidings {name}: {stderr}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The program with what it needs to know of the folder and its database.
    fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary()?);
        isolate(&mut command);
        command.env("TIDINGS__DATA_DIR", self.data_dir());
        if let Some(database) = &self.database {
            command.env("TIDINGS__DATABASE__URL", database.url());
        }
        if self.config_file().exists() {
            command.arg("--config").arg(self.config_file());
        }
        Ok(command)
    }

    /// Which ports a server here has at first: any, if it has none of its own.
    fn doors(&self) -> Listeners {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let doors = self.program.doors(self.authority.is_some()).iter();
        doors
            .map(|door| ((*door).to_owned(), any_port))
            .chain(self.ports.clone())
            .collect()
    }

    /// A setting that differs from the default, such as `TIDINGS__SHUTDOWN__TIMEOUT`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// One whose data part is a disk of its own, which the test can fill. `None` when this user may not mount.
    pub fn on_small_disk() -> Result<Option<Self>> {
        let mut folder = Self::new()?;
        folder.disk = SmallDisk::mount(&folder.data_dir(), DISK_MIB)?;
        Ok(folder.disk.is_some().then_some(folder))
    }

    /// The server's part of it. The log stands beside it, so that a full disk does not hide why.
    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.root.path().join("server.log")
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

// === impl Process ===

impl Process {
    /// Starts the program, and waits until it says where it listens and that it is ready.
    async fn start(folder: &Folder, doors: &Listeners) -> Result<Self> {
        let spawned = serve(folder, doors)?.spawn();
        let mut child = spawned.context("starting tidings")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut stdout = BufReader::new(stdout).lines();

        let listeners = timeout(PATIENCE, read_listeners(&mut stdout))
            .await
            .with_context(|| format!("not ready within {PATIENCE:?}"))?
            .with_context(|| format!("the server did not start; its log:\n{}", folder.log()))?;
        for door in doors.keys() {
            ensure!(
                listeners.contains_key(door),
                "ready without a listener for {door}"
            );
        }
        Ok(Process {
            child,
            _stdout: stdout,
            listeners,
        })
    }

    fn listener(&self, door: &str) -> SocketAddr {
        let address = self.listeners.get(door);
        *address.unwrap_or_else(|| panic!("this server does not listen for {door}"))
    }

    async fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("the server has already ended")?;
        let kill = format!("kill -{name} {pid}");
        let sent = Command::new("sh").args(["-c", &kill]).status().await?;
        ensure!(sent.success(), "{kill}: {sent}");
        Ok(())
    }

    /// SIGTERM, and a good end.
    async fn terminate(&mut self) -> Result<()> {
        self.signal("TERM").await?;
        self.wait().await
    }

    async fn wait(&mut self) -> Result<()> {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .with_context(|| format!("still running {PATIENCE:?} after SIGTERM"))??;
        ensure!(status.success(), "the server left with {status}");
        Ok(())
    }
}

/// The statement that makes two users each other's contacts.
pub(crate) fn befriending(one: &str, other: &str) -> String {
    let row = |uid: &str, other: &str| {
        format!("('{uid}', '{other}', 'contact', '', '', '', 0, 0, 0, -1)")
    };
    let rows = [row(one, other), row(other, one)].join(", ");
    format!("INSERT INTO contacts VALUES {rows}")
}

fn serve(folder: &Folder, doors: &Listeners) -> Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.log_file())?;
    let mut command = folder.command()?;
    for (door, setting) in DOORS {
        if let Some(address) = doors.get(door) {
            command.env(setting, address.to_string());
        }
    }
    command
        .arg(folder.program.name())
        .env(
            "TIDINGS__LOG",
            std::env::var("TIDINGS_TEST_LOG").unwrap_or("info".into()),
        )
        // A test's user writes more than a person.
        .envs(UNLIMITED.map(|name| (name, "0")))
        .envs(folder.settings.iter().cloned())
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "1")
        .current_dir(folder.root.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    Ok(command)
}

/// Settings of the developer's own shell must not reach the test.
fn isolate(command: &mut Command) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDINGS_")) {
        command.env_remove(name);
    }
}

/// `TIDINGS_BIN`, or the binary that cargo put beside this test's own folder, or beside this program.
fn binary() -> Result<PathBuf> {
    let binary = match std::env::var_os("TIDINGS_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let this = std::env::current_exe()?;
            let folder = this.parent().context("a program is in a folder")?;
            match folder.ends_with("deps") {
                true => folder.with_file_name("tidings"),
                false => folder.join("tidings"),
            }
        }
    };
    ensure!(
        binary.is_file(),
        "{} is missing: `cargo build` makes it, tests/run does all of it",
        binary.display()
    );
    Ok(binary)
}

/// Reads `listening mqtt 127.0.0.1:40001`, the same for the other kinds of port, and `ready`. Of several addresses of a
/// kind the first one counts.
async fn read_listeners(stdout: &mut Lines<BufReader<ChildStdout>>) -> Result<Listeners> {
    let mut listeners = Listeners::new();
    while let Some(line) = stdout.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["listening", door, address] => {
                listeners.entry(door.to_owned()).or_insert(address.parse()?);
            }
            ["ready"] => return Ok(listeners),
            _ => {}
        }
    }
    bail!("its stdout ended before `ready`")
}
