//! The caller's own devices: which are connected, and which were.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use schema::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::accounts::to_its_end;
use super::bearer::Bearer;
use super::problem::{Problem, ProblemBody};
use super::{Api, private};
use crate::clock;
use crate::service::presence::Devices;
use crate::store;
use crate::store::devices::{self, Known};

/// The caller's devices, by name.
#[derive(Serialize, ToSchema)]
#[schema(as = Devices)]
pub(super) struct DevicesView {
    devices: Vec<DeviceView>,
}

/// A device that is connected, or that messages wait for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Device)]
struct DeviceView {
    /// Its client id, or the one that it was given.
    device: String,
    online: bool,
    /// Since when it is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    connected_at: Option<Timestamp>,
    /// From which IP address it is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// How it is online: `mqtt`, `mqtts`, `ws` or `wss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    /// Now, if it is online.
    #[schema(value_type = String, format = DateTime)]
    last_seen_at: Timestamp,
    /// Why its last connection ended, in a word like `by_client` or `keep_alive_timeout`, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reason: Option<String>,
}

/// The caller's devices.
#[utoipa::path(
    get, path = "/v1/devices", tag = "devices", security(("bearer" = [])),
    responses(
        (status = 200, description = "The devices.", body = DevicesView),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Bearer(caller): Bearer,
) -> Result<Response, Problem> {
    let present = api.service.presence().of(&caller.uid);
    let known = devices::list(api.store.reader(), &caller.uid).await?;
    let devices = views(known, present, SystemTime::now());
    Ok(private(DevicesView { devices }))
}

/// Forgets a device, so that messages no longer wait for it, and ends its connection. A client that still has the
/// password or a token can come back, as a new device.
#[utoipa::path(
    delete, path = "/v1/devices/{device}", tag = "devices", security(("bearer" = [])),
    params(("device" = String, Path, description = "The device's client id.")),
    responses(
        (status = 204, description = "Forgotten."),
        (status = 404, description = "The caller has no such device.", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "Refused.", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn forget(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    Path(device): Path<String>,
) -> Result<StatusCode, Problem> {
    let forget = async move {
        let connections = api.service.presence().of(&caller.uid).connections;
        let is_connected = connections.iter().any(|found| found.device == device);
        let was_there = api.auth.forget_device(&caller.uid, &device).await?;
        Ok::<_, store::Error>(was_there || is_connected)
    };
    if to_its_end(forget).await?? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("device"))
    }
}

fn views(known: Vec<Known>, mut present: Devices, now: SystemTime) -> Vec<DeviceView> {
    let mut views = BTreeMap::new();
    for Known {
        device,
        seen_at,
        last_reason,
    } in known
    {
        let stored = (seen_at, last_reason);
        let departure = present.departures.remove(&device);
        let (seen_at, last_reason) = departure.map_or(stored, |(at, reason)| (at, Some(reason)));
        let view = DeviceView {
            last_seen_at: timestamp(seen_at),
            last_reason,
            ..offline(device.clone())
        };
        views.insert(device, view);
    }
    for connection in present.connections {
        let device = connection.device;
        let view = views
            .entry(device.clone())
            .or_insert_with(|| offline(device));
        view.online = true;
        view.connected_at = Some(timestamp(connection.connected_at));
        view.address = Some(connection.address);
        view.listener = Some(connection.listener);
        view.last_seen_at = timestamp(now);
    }
    views.into_values().collect()
}

fn offline(device: String) -> DeviceView {
    DeviceView {
        device,
        online: false,
        connected_at: None,
        address: None,
        listener: None,
        last_seen_at: Timestamp::from_millis(0),
        last_reason: None,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from_millis(clock::millis(time))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schema::Uid;
    use schema::link::{Connected, Disconnected};

    use super::*;
    use crate::service::presence::Presence;

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn what_is_connected_and_what_is_known_are_shown_together() {
        let alice: Uid = "alice".parse().unwrap();
        let presence = Presence::default();
        let connect = |session: u64, device: &str| {
            let connected = Connected {
                session,
                uid: "alice".to_owned(),
                device: device.to_owned(),
                nameless: false,
                address: "192.0.2.1".to_owned(),
                listener: "wss".to_owned(),
                ..Connected::default()
            };
            presence.connected(connected, at(session));
        };
        let disconnect = |session: u64, device: &str| {
            let disconnected = Disconnected {
                session,
                uid: "alice".to_owned(),
                device: device.to_owned(),
                nameless: false,
                reason: "lost".to_owned(),
                handed_over: false,
            };
            presence.disconnected(disconnected, at(session + 10));
        };
        let known = ["laptop", "phone", "tablet"].map(|device| Known {
            device: device.to_owned(),
            seen_at: at(1),
            last_reason: Some("by_client".to_owned()),
        });
        connect(2, "phone");
        connect(3, "tablet");
        connect(4, "sensor");
        disconnect(3, "tablet");

        let views = views(known.to_vec(), presence.of(&alice), at(99));
        let json = serde_json::to_value(DevicesView { devices: views }).unwrap();
        let expected = serde_json::json!({ "devices": [
            { "device": "laptop", "online": false, "lastSeenAt": "1970-01-01T00:00:01Z", "lastReason": "by_client" },
            { "device": "phone", "online": true, "connectedAt": "1970-01-01T00:00:02Z", "address": "192.0.2.1",
              "listener": "wss", "lastSeenAt": "1970-01-01T00:01:39Z", "lastReason": "by_client" },
            { "device": "sensor", "online": true, "connectedAt": "1970-01-01T00:00:04Z", "address": "192.0.2.1",
              "listener": "wss", "lastSeenAt": "1970-01-01T00:01:39Z" },
            { "device": "tablet", "online": false, "lastSeenAt": "1970-01-01T00:00:13Z", "lastReason": "lost" },
        ] });
        assert_eq!(json, expected);
    }
}
