//! Random people with several devices do random things at once; the server agrees with a small model of a chat.
//!
//! `TIDINGS_MODEL_SEED` plays one seed instead of those here, with kills where it is odd; `TIDINGS_MODEL_STEPS` sets the
//! steps of each run, `TIDINGS_MODEL_RUNS` plays so many seeds from that one on, and `TIDINGS_MODEL_FEATURES`
//! names what is played beside sending, reading, coming and going, instead of all: `Operations,Views`.

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tidings_tests::http::number;
use tidings_tests::model::{Feature, Options, run};
use tidings_tests::server::raise_open_files;
use tidings_tests::{Server, eventually, up};

use crate::support::msg_ids;

const STEPS: usize = 150;
const FEATURES: &[Feature] = &[
    Feature::Mentions,
    Feature::Operations,
    Feature::Deleting,
    Feature::Views,
    Feature::Clearing,
];

/// A number from the environment.
fn setting(name: &str) -> Result<Option<u64>> {
    let value = std::env::var(name).ok();
    let number = value.map(|value| value.parse().with_context(|| format!("{name}={value}")));
    number.transpose()
}

/// Everything that people see agrees with the model, whatever the order in which things happen; the odd seed kills the
/// server now and then.
#[tokio::test]
async fn the_server_agrees_with_the_model() -> Result<()> {
    let steps = setting("TIDINGS_MODEL_STEPS")?.map_or(STEPS, |steps| steps as usize);
    let first = setting("TIDINGS_MODEL_SEED")?;
    let default = if first.is_some() { 1 } else { 3 };
    let runs = setting("TIDINGS_MODEL_RUNS")?.unwrap_or(default);
    let first = first.unwrap_or(2);
    let features = match std::env::var("TIDINGS_MODEL_FEATURES") {
        Ok(names) => FEATURES
            .iter()
            .filter(|feature| names.contains(&format!("{feature:?}")))
            .copied()
            .collect(),
        Err(_) => FEATURES.to_vec(),
    };
    for seed in first..first + runs {
        let options = Options {
            seed,
            steps,
            kills: seed % 2 == 1,
            features: features.clone(),
        };
        run(&options).await?;
        println!("seed {seed}: {steps} steps");
    }
    Ok(())
}

/// One message to a large group is stored once, and every member who is online gets it once.
#[tokio::test]
async fn a_large_group_gets_a_message_once() -> Result<()> {
    // Each has to choose a password and to show it, which takes the most of the time.
    const MEMBERS: usize = 200;
    const AT_ONCE: usize = 16;
    raise_open_files()?;
    let server = Server::with_users(&["alice"]).await?;
    let uids: Vec<String> = (1..=MEMBERS).map(|number| format!("m{number}")).collect();
    let uids: Vec<&str> = uids.iter().map(String::as_str).collect();
    for some in uids.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|uid| server.add_user(uid))).await?;
    }
    let mut alice = server.client("alice").online().await?;
    alice.tell(up::group_create("large", &uids)).await?;
    let mut members = Vec::new();
    for some in uids.chunks(AT_ONCE) {
        let online = some.iter().map(|uid| server.client(uid).online());
        members.extend(try_join_all(online).await?);
    }

    let sent = alice.say(up::group("large"), "hello, everybody").await?;
    let last = alice
        .say(up::group("large"), "is anything before me?")
        .await?;
    let heard = members.iter_mut().map(|member| member.messages(2));
    for heard in try_join_all(heard).await? {
        assert_eq!(msg_ids(&heard), [sent.msg_id, last.msg_id]);
    }
    let api = server.login("alice").await?;
    let history = api.history("g:large").await?;
    assert_eq!(msg_ids(&history), [sent.msg_id, last.msg_id]);
    eventually("everybody has acknowledged it", async || {
        let rows = api.members("large").await?;
        let mut others = rows.iter().filter(|row| row["uid"] != "alice");
        Ok(others.all(|row| number(row, "lastAckSeq") == 2))
    })
    .await?;
    server.finish().await
}
