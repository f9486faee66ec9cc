//! `$SYS/#`: how the broker is, under the names that people know from mosquitto, and some of ours.

use crate::stats::{Counts, Snapshot};

/// All topics with their values as text.
pub(crate) fn sys_messages(snapshot: &Snapshot) -> Vec<(String, String)> {
    let clients = snapshot.sessions_connected + snapshot.sessions_parked;
    let version = concat!("tidings version ", env!("CARGO_PKG_VERSION"));
    let uptime = format!("{} seconds", snapshot.uptime.as_secs());
    let numbers = [
        ("clients/connected", snapshot.sessions_connected),
        ("clients/disconnected", snapshot.sessions_parked),
        ("clients/total", clients),
        ("messages/received", sum(&snapshot.packets_received)),
        ("messages/sent", sum(&snapshot.packets_sent)),
        (
            "publish/messages/received",
            publishes(&snapshot.packets_received),
        ),
        ("publish/messages/sent", publishes(&snapshot.packets_sent)),
        ("publish/messages/dropped", sum(&snapshot.dropped)),
        ("bytes/received", sum(&snapshot.bytes_received)),
        ("bytes/sent", sum(&snapshot.bytes_sent)),
        ("subscriptions/count", snapshot.subscriptions),
        ("retained messages/count", snapshot.retained_messages),
        // What the edge keeps beyond deliveries under way; chat is in the database.
        ("store/messages/count", snapshot.retained_messages),
        ("store/messages/bytes", snapshot.retained_bytes),
        ("bridges", snapshot.bridges),
        ("uplinks/bytes", snapshot.uplink_queue_bytes),
        ("uplinks/frames", snapshot.frames_ahead),
    ];
    let router = snapshot.router.into_iter().flat_map(|router| {
        [
            ("router/healthy", u64::from(router.is_healthy)),
            ("router/restarts", router.restarts),
        ]
    });
    let texts = [("version", version.to_owned()), ("uptime", uptime)];
    let numbers = numbers.into_iter().chain(router);
    let numbers = numbers.map(|(name, number)| (name, number.to_string()));
    let by_listener = snapshot.connections.iter();
    let by_listener = by_listener.map(|(listener, count)| {
        let topic = format!("$SYS/broker/connections/{listener}");
        (topic, count.to_string())
    });
    texts
        .into_iter()
        .chain(numbers)
        .map(|(name, value)| (format!("$SYS/broker/{name}"), value))
        .chain(by_listener)
        .collect()
}

fn sum(counts: &Counts) -> u64 {
    counts.iter().map(|(_, count)| count).sum()
}

fn publishes(counts: &Counts) -> u64 {
    let found = counts.iter().find(|(packet, _)| packet == "publish");
    found.map_or(0, |(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;
    use crate::link::RouterState;

    #[test]
    fn the_names_of_mosquitto_tell_what_they_tell_there() {
        let counts = |pairs: &[(&str, u64)]| -> Counts {
            let owned = pairs.iter();
            owned
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let snapshot = Snapshot {
            uptime: Duration::from_millis(61_900),
            sessions_connected: 3,
            sessions_parked: 4,
            connections: counts(&[("mqtt", 2), ("wss", 1)]),
            packets_received: counts(&[("connect", 3), ("publish", 10)]),
            bytes_received: counts(&[("connect", 90), ("publish", 1000)]),
            dropped: counts(&[("plain", 5), ("chat", 1)]),
            retained_messages: 8,
            router: Some(RouterState {
                is_healthy: true,
                restarts: 0,
            }),
            ..Snapshot::default()
        };
        let messages = sys_messages(&snapshot);
        for (name, value) in [
            ("uptime", "61 seconds"),
            ("clients/connected", "3"),
            ("clients/disconnected", "4"),
            ("clients/total", "7"),
            ("messages/received", "13"),
            ("messages/sent", "0"),
            ("publish/messages/received", "10"),
            ("publish/messages/dropped", "6"),
            ("bytes/received", "1090"),
            ("retained messages/count", "8"),
            ("router/healthy", "1"),
            ("connections/wss", "1"),
        ] {
            let expected = (format!("$SYS/broker/{name}"), value.to_owned());
            assert!(messages.contains(&expected), "{expected:?}");
        }
        let topics: HashSet<_> = messages.iter().map(|(topic, _)| topic).collect();
        assert_eq!(topics.len(), messages.len());
    }
}
