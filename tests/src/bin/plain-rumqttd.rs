//! rumqttd as it comes, for `tests/compare`: `plain-rumqttd HOST:PORT` serves MQTT 3.1.1 there until it is killed.

use std::collections::HashMap;
use std::env;

use anyhow::{Context as _, Result};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

fn main() -> Result<()> {
    let listen = env::args()
        .nth(1)
        .context("usage: plain-rumqttd HOST:PORT")?;
    let server = ServerSettings {
        name: "plain".to_owned(),
        listen: listen.parse().context(listen)?,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 20_480,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        router: RouterConfig {
            // The numbers of the file that comes with it. Less memory per filter would cost messages: what a
            // subscriber has not read when its segment goes is lost.
            max_connections: 10_010,
            max_outgoing_packet_count: 200,
            max_segment_size: 104_857_600,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("plain".to_owned(), server)])),
        ..Config::default()
    };
    Broker::new(config).start().context("rumqttd ended")
}
