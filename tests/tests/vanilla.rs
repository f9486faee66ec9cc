//! Clients that others have written, from their packages as they are: each does what any MQTT client may do here, over
//! each way in, in both versions. What they do stands in `tests/clients/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;
use tidings_tests::server::{Folder, password_of};
use tidings_tests::{PATIENCE, Server};
use tokio::process::Command;
use tokio::time::timeout;

/// A program of one of them takes this many times longer than one thing may take.
const STEPS: u32 = 5;

/// Where the clients' own code is, from `tests/clients/install`.
fn installed(path: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("target/clients")
        .join(path);
    ensure!(
        path.exists(),
        "{} is missing: tests/clients/install gets it, tests/run does all of it",
        path.display()
    );
    Ok(path)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

fn paho() -> Result<Command> {
    let mut command = Command::new(installed("venv/bin/python3")?);
    // Nothing is to be left in the folder of the sources.
    command.arg("-B").arg(script("paho_client.py"));
    Ok(command)
}

fn mqtt_js() -> Result<Command> {
    let node = installed("node")?;
    installed("node/node_modules/mqtt")?;
    let mut command = Command::new("node");
    command
        .arg(script("mqttjs_client.mjs"))
        .env("CLIENTS_NODE", node);
    Ok(command)
}

fn mosquitto() -> Result<Command> {
    Ok(Command::new(script("mosquitto_client.sh")))
}

/// Runs a client over one transport in both versions, against a server of its own.
async fn check(transport: &str, client: fn() -> Result<Command>) -> Result<()> {
    let server = Server::start_in(Folder::with_tls()?, &["alice", "bob"]).await?;
    let address = match transport {
        "tcp" => server.mqtt(),
        "tls" => server.mqtts(),
        "ws" => server.http(),
        _ => server.https(),
    };
    let ca = NamedTempFile::new()?;
    std::fs::write(ca.path(), server.authority().cert_pem())?;
    let passwords = ["alice", "bob"].map(|uid| format!("{uid}={}", password_of(uid)));
    for version in ["3.1.1", "5"] {
        let mut command = client()?;
        command
            .args(["--transport", transport, "--version", version])
            .args(["--host", &address.ip().to_string()])
            .args(["--port", &address.port().to_string()])
            .args(["--passwords", &passwords.join(",")])
            .arg("--ca")
            .arg(ca.path());
        run(command)
            .await
            .with_context(|| format!("MQTT {version} over {transport}"))?;
    }
    server.finish().await
}

async fn run(mut command: Command) -> Result<()> {
    let program = command.as_std().get_program().to_owned();
    let started = command.kill_on_drop(true).output();
    let output = timeout(PATIENCE * STEPS, started)
        .await
        .with_context(|| format!("{} does not end", program.display()))?
        .with_context(|| format!("starting {}; tests/run gets it", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}\n{said}{complained}",
        program.display(),
        output.status
    );
    Ok(())
}

#[tokio::test]
async fn paho_over_tcp() -> Result<()> {
    check("tcp", paho).await
}

#[tokio::test]
async fn paho_over_tls() -> Result<()> {
    check("tls", paho).await
}

#[tokio::test]
async fn paho_over_websocket() -> Result<()> {
    check("ws", paho).await
}

#[tokio::test]
async fn paho_over_secure_websocket() -> Result<()> {
    check("wss", paho).await
}

#[tokio::test]
async fn mqtt_js_over_tcp() -> Result<()> {
    check("tcp", mqtt_js).await
}

#[tokio::test]
async fn mqtt_js_over_tls() -> Result<()> {
    check("tls", mqtt_js).await
}

#[tokio::test]
async fn mqtt_js_over_websocket() -> Result<()> {
    check("ws", mqtt_js).await
}

#[tokio::test]
async fn mqtt_js_over_secure_websocket() -> Result<()> {
    check("wss", mqtt_js).await
}

#[tokio::test]
async fn mosquitto_over_tcp() -> Result<()> {
    check("tcp", mosquitto).await
}

#[tokio::test]
async fn mosquitto_over_tls() -> Result<()> {
    check("tls", mosquitto).await
}
