//! Devices that read slowly or not at all on plain topics: what is dropped, what ends, and what is kept for them.

use anyhow::{Context, Result, ensure};
use tidings_tests::device::End;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::wire::Publish;
use tidings_tests::{Server, eventually};

use crate::support::connect;

const DROPPED: &str = r#"tidings_messages_dropped_total{kind="plain"}"#;
const ENDED: &str = r#"tidings_connections_closed_total{reason="queue_full"}"#;

/// Beyond `mqtt.session_queue` QoS 0 is dropped, and counted; where that is not enough, the session is disconnected, and
/// has everything at QoS 1 up to then when it comes back.
#[tokio::test]
async fn a_device_that_does_not_read() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__MESSAGES__TEXT_MAX", "16 KiB")
        .setting("TIDINGS__MQTT__MAX_PACKET_SIZE", "32 KiB")
        .setting("TIDINGS__MQTT__SESSION_QUEUE", "64 KiB")
        .setting("TIDINGS__MQTT__BYTE_RATE", "0");
    let server = Server::start_in(folder, &["alice"]).await?;
    let api = server.api();
    for (version, end) in [(V4, End::Closed), (V5, End::Disconnect(0x97))] {
        let slow = || server.device("alice").version(version).id("slow").kept();
        // It reads nothing that the test does not ask for.
        let mut first = slow().narrow().manual_acks().connect().await?;
        first.subscribe("dev/alice/mail", 1).await?;
        let mut lamp = connect(&server, version, "lamp").await?;
        lamp.publish("dev/alice/mail", "before", 1).await?;

        let ended = api.metric(ENDED).await?;
        let unpromised = Publish::new("dev/alice/mail", vec![b'0'; 20_000], 0);
        eventually(
            "sockets and queue are so full that nothing is taken",
            async || {
                const ROUND: u32 = 10;
                let before = api.metric(DROPPED).await?;
                for _ in 0..ROUND {
                    lamp.start(unpromised.clone()).await?;
                }
                lamp.ping().await?;
                Ok(api.metric(DROPPED).await? - before == f64::from(ROUND))
            },
        )
        .await?;
        ensure!(api.metric(ENDED).await? == ended, "QoS 0 ended a session");

        // Of these the queue holds two: the first one takes the place of all that has QoS 0.
        let promised = |number: u32| format!("{number}{}", "1".repeat(25_000));
        for number in 0..3 {
            ensure!(api.metric(ENDED).await? == ended, "ended by {number}");
            lamp.publish("dev/alice/mail", &promised(number), 1).await?;
        }
        assert_eq!(first.closed().await?, end);
        assert_eq!(api.metric(ENDED).await? - ended, 1.0);

        let mut second = slow().connect().await?;
        ensure!(second.connack.session_present, "the session has ended");
        let again = second.next().await?;
        assert_eq!((again.text().as_str(), again.dup), ("before", true));
        for number in 0..3 {
            let next = second.next_on("dev/alice/mail").await?;
            ensure!(next == promised(number), "not {number}, but {:.10}…", next);
        }
        let heard = second.hears_only(&mut lamp, "dev/alice/mail").await;
        heard.context("after what it was promised")?;
        second.disconnect().await?;
        slow().forget().await?;
        lamp.disconnect().await?;
    }
    server.finish().await
}
