//! A server's data folder, and how the server in it is to be.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use super::process::{Listeners, Program, binary, isolate};
use crate::daemon::free_port;
use crate::database::{Database, Engine};
use crate::disk::SmallDisk;
use crate::tls::Authority;
use crate::wait::PATIENCE;

/// Room for the data of a server with a small disk.
const DISK_MIB: u32 = 64;

/// Where a server keeps its things; removed at the end.
pub struct Folder {
    /// Before `root`, because what is mounted can't be removed.
    disk: Option<SmallDisk>,
    pub(super) root: TempDir,
    /// Once a server has been started here, unless it is told to use another one.
    pub(super) database: Option<Database>,
    /// Environment variables of the server, at each of its starts.
    pub(super) settings: Vec<(String, String)>,
    /// Who signed the server's certificate, when it has one.
    pub(super) authority: Option<Authority>,
    /// Where the server listens from its first start on, for those that are not given any port.
    ports: Listeners,
    pub(super) program: Program,
}

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

    pub(super) async fn make_database(&mut self) -> Result<()> {
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
    pub(super) fn command(&self) -> Result<Command> {
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
    pub(super) fn doors(&self) -> Listeners {
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

    pub(super) fn log_file(&self) -> PathBuf {
        self.root.path().join("server.log")
    }

    pub(super) fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
