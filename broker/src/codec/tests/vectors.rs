//! Packets next to their literal bytes, read and written.

use super::*;

use Version::{V4, V5};

/// Reads `bytes` as `packet` and writes `packet` as `bytes`.
fn check(versions: &[Version], bytes: &str, packet: Packet) {
    for version in versions {
        assert_eq!(
            decode_all(*version, &wire(bytes)).as_ref(),
            Ok(&packet),
            "{bytes}"
        );
        assert_eq!(encode_all(*version, &packet), wire(bytes), "{packet:?}");
    }
}

/// Reads `bytes`, a form that we do not write, as `packet`.
fn check_read(version: Version, bytes: &str, packet: Packet) {
    assert_eq!(decode_all(version, &wire(bytes)), Ok(packet), "{bytes}");
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        client_id: ByteString::new(),
        keep_alive: 10,
        clean_start: true,
        username: None,
        password: None,
        will: None,
        properties: None,
    }
}

#[test]
fn connect_packets() {
    let check = |bytes, connect: Connect| {
        assert_eq!(
            decode_connect(&mut wire(bytes), NO_LIMIT),
            Ok(Some(connect.clone()))
        );
        check(
            &[connect.version],
            bytes,
            Packet::Connect(Box::new(connect)),
        );
    };
    check("10 0C 0004'MQTT' 04 02 000A 0000", connect(V4));
    check("10 0D 0004'MQTT' 05 02 000A 00 0000", connect(V5));
    let credentials = |version| Connect {
        username: Some(ByteString::new()),
        password: Some(Bytes::from_static(b"\xFF\x00")),
        ..connect(version)
    };
    check(
        "10 12 0004'MQTT' 04 C2 000A 0000 0000 0002FF00",
        credentials(V4),
    );
    check(
        "10 13 0004'MQTT' 05 C2 000A 00 0000 0000 0002FF00",
        credentials(V5),
    );
    check(
        "10 11 0004'MQTT' 05 42 000A 00 0000 0002FF00",
        Connect {
            username: None,
            ..credentials(V5)
        },
    );
    // The flags of figure 3-6 of MQTT 5: all but the reserved one and will retain.
    let will = Will {
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: "t".into(),
        payload: Bytes::from_static(b"\x00"),
        properties: None,
    };
    check(
        "10 1D 0004'MQTT' 04 CE 000A 0003'cid' 0001't' 000100 0001'u' 0003'pwd'",
        Connect {
            client_id: "cid".into(),
            will: Some(will.clone()),
            username: Some("u".into()),
            password: Some(Bytes::from_static(b"pwd")),
            ..connect(V4)
        },
    );
    // The property of figure 3-6 of MQTT 5, and one will property.
    check(
        "10 1E 0004'MQTT' 05 34 000A 05 110000000A 0000 05 1800000001 0001't' 000100",
        Connect {
            clean_start: false,
            will: Some(Will {
                qos: Qos::ExactlyOnce,
                retain: true,
                properties: Some(Box::new(WillProperties {
                    will_delay_interval: Some(1),
                    ..Default::default()
                })),
                ..will
            }),
            properties: Some(Box::new(ConnectProperties {
                session_expiry_interval: Some(10),
                ..Default::default()
            })),
            ..connect(V5)
        },
    );
}

#[test]
fn connack_packets() {
    let connack = |session_present, reason, properties: Option<ConnAckProperties>| {
        let properties = properties.map(Box::new);
        Packet::ConnAck(Box::new(ConnAck {
            session_present,
            reason,
            properties,
        }))
    };
    check(
        &[V4],
        "20 02 01 00",
        connack(true, ReasonCode::Success, None),
    );
    check(
        &[V4],
        "20 02 00 05",
        connack(false, ReasonCode::NotAuthorized, None),
    );
    check(
        &[V5],
        "20 03 01 00 00",
        connack(true, ReasonCode::Success, None),
    );
    check(
        &[V5],
        "20 03 00 9F 00",
        connack(false, ReasonCode::ConnectionRateExceeded, None),
    );
    let properties = ConnAckProperties {
        receive_maximum: Some(id(100)),
        maximum_qos: Some(Qos::AtLeastOnce),
        maximum_packet_size: NonZeroU32::new(1024),
        assigned_client_identifier: Some("x".into()),
        ..Default::default()
    };
    check(
        &[V5],
        "20 11 00 00 0E 210064 2401 2700000400 120001'x'",
        connack(false, ReasonCode::Success, Some(properties)),
    );
}

#[test]
fn publish_packets() {
    let publish = Publish {
        topic: "a/b".into(),
        ..Default::default()
    };
    check(&[V4], "30 05 0003'a/b'", Packet::Publish(publish.clone()));
    check(
        &[V5],
        "30 06 0003'a/b' 00",
        Packet::Publish(publish.clone()),
    );
    // The example of 3.3.2: topic "a/b", packet identifier 10.
    let qos1 = Publish {
        dup: true,
        qos: Qos::AtLeastOnce,
        retain: true,
        packet_id: Some(id(10)),
        payload: Bytes::from_static(b"x"),
        ..publish
    };
    check(
        &[V4],
        "3B 08 0003'a/b' 000A 'x'",
        Packet::Publish(qos1.clone()),
    );
    check(
        &[V5],
        "3B 09 0003'a/b' 000A 00 'x'",
        Packet::Publish(qos1.clone()),
    );
    let alias = PublishProperties {
        topic_alias: Some(id(3)),
        user_properties: user("k", "v"),
        subscription_identifiers: vec![1, 268_435_455],
        ..Default::default()
    };
    let properties = Some(Box::new(alias));
    check(
        &[V5],
        "34 18 0000 0001 11 230003 26 0001'k' 0001'v' 0B01 0BFFFFFF7F 'hi'",
        Packet::Publish(Publish {
            qos: Qos::ExactlyOnce,
            topic: ByteString::new(),
            packet_id: Some(id(1)),
            payload: Bytes::from_static(b"hi"),
            properties,
            ..Default::default()
        }),
    );
    // [MQTT-1.5.4-3] U+FEFF is kept; 1.5.4.1: 'A' and U+2A6D4. Control characters may be there.
    let odd = Publish {
        topic: "A\u{2A6D4}\u{FEFF}\u{1}".into(),
        ..Default::default()
    };
    check(
        &[V4],
        "30 0B 0009'A' F0AA9B94 EFBBBF 01",
        Packet::Publish(odd),
    );
}

#[test]
fn acknowledgements() {
    let kinds = [
        ("40", Packet::PubAck as fn(Ack) -> Packet),
        ("50", Packet::PubRec),
        ("62", Packet::PubRel),
        ("70", Packet::PubComp),
    ];
    for (first, packet) in kinds {
        let ack = Ack::success(id(0x1234));
        check(&[V4, V5], &format!("{first} 02 1234"), packet(ack.clone()));
        check_read(V5, &format!("{first} 03 1234 00"), packet(ack.clone()));
        check_read(V5, &format!("{first} 04 1234 00 00"), packet(ack.clone()));
        let properties = AckProperties {
            reason_string: Some("why".into()),
            user_properties: user("", ""),
        };
        let properties = Some(Box::new(properties));
        let bytes = format!("{first} 0F 1234 00 0B 1F0003'why' 26 0000 0000");
        check(&[V5], &bytes, packet(Ack { properties, ..ack }));
    }
    let reason = |reason| Ack {
        reason,
        ..Ack::success(id(1))
    };
    check(
        &[V5],
        "40 03 0001 10",
        Packet::PubAck(reason(ReasonCode::NoMatchingSubscribers)),
    );
    check(
        &[V5],
        "50 03 0001 97",
        Packet::PubRec(reason(ReasonCode::QuotaExceeded)),
    );
    check(
        &[V5],
        "62 03 0001 92",
        Packet::PubRel(reason(ReasonCode::PacketIdentifierNotFound)),
    );
}

#[test]
fn subscriptions() {
    // The example of 3.8.3: "a/b" with QoS 1, "c/d" with QoS 2.
    let subscribe = Subscribe {
        packet_id: id(10),
        filters: vec![
            SubscribeFilter::new("a/b", Qos::AtLeastOnce),
            SubscribeFilter::new("c/d", Qos::ExactlyOnce),
        ],
        subscription_identifier: None,
        user_properties: vec![],
    };
    let packet = Packet::Subscribe(subscribe.clone());
    check(
        &[V4],
        "82 0E 000A 0003'a/b' 01 0003'c/d' 02",
        packet.clone(),
    );
    check(&[V5], "82 0F 000A 00 0003'a/b' 01 0003'c/d' 02", packet);
    let filter = SubscribeFilter {
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
        ..SubscribeFilter::new("#", Qos::AtMostOnce)
    };
    let subscribe = Subscribe {
        filters: vec![filter],
        subscription_identifier: Some(128),
        user_properties: user("k", "v"),
        ..subscribe
    };
    let bytes = "82 11 000A 0A 0B8001 26 0001'k' 0001'v' 0001'#' 2C";
    check(&[V5], bytes, Packet::Subscribe(subscribe));

    // The example of 3.10.3.
    let filters = vec!["a/b".into(), "c/d".into()];
    let unsubscribe = Unsubscribe {
        packet_id: id(10),
        filters,
        user_properties: vec![],
    };
    let packet = Packet::Unsubscribe(unsubscribe);
    check(&[V4], "A2 0C 000A 0003'a/b' 0003'c/d'", packet.clone());
    check(&[V5], "A2 0D 000A 00 0003'a/b' 0003'c/d'", packet);
}

#[test]
fn subscription_answers() {
    use ReasonCode::*;
    let suback = |reasons| SubAck {
        packet_id: id(10),
        reasons,
        properties: None,
    };
    let common = vec![Success, GrantedQos1, GrantedQos2, UnspecifiedError];
    check(
        &[V4],
        "90 06 000A 00010280",
        Packet::SubAck(suback(common.clone())),
    );
    check(
        &[V5],
        "90 07 000A 00 00010280",
        Packet::SubAck(suback(common)),
    );
    let refused = Packet::SubAck(suback(vec![NotAuthorized, TopicFilterInvalid]));
    check(&[V5], "90 05 000A 00 878F", refused.clone());
    assert_eq!(encode_all(V4, &refused), wire("90 04 000A 8080"));

    let reasons = vec![Success, NoSubscriptionExisted];
    let unsuback = UnsubAck {
        packet_id: id(10),
        reasons,
        properties: None,
    };
    check(
        &[V5],
        "B0 05 000A 00 0011",
        Packet::UnsubAck(unsuback.clone()),
    );
    let unsuback = UnsubAck {
        reasons: vec![],
        ..unsuback
    };
    check(&[V4], "B0 02 000A", Packet::UnsubAck(unsuback));
}

#[test]
fn short_packets() {
    check(&[V4, V5], "C0 00", Packet::PingReq);
    check(&[V4, V5], "D0 00", Packet::PingResp);
    let disconnect = |reason| Packet::Disconnect(Disconnect::new(reason));
    check(&[V4, V5], "E0 00", disconnect(ReasonCode::Success));
    check(
        &[V5],
        "E0 02 04 00",
        disconnect(ReasonCode::DisconnectWithWill),
    );
    check_read(V5, "E0 01 00", disconnect(ReasonCode::Success));
    check_read(V5, "E0 01 8D", disconnect(ReasonCode::KeepAliveTimeout));
    assert_eq!(
        encode_all(V4, &disconnect(ReasonCode::ServerShuttingDown)),
        wire("E0 00")
    );
    let properties = DisconnectProperties {
        session_expiry_interval: Some(0),
        server_reference: Some("s".into()),
        ..Default::default()
    };
    let properties = Some(Box::new(properties));
    check(
        &[V5],
        "E0 0B 9D 09 1100000000 1C0001's'",
        Packet::Disconnect(Disconnect {
            reason: ReasonCode::ServerMoved,
            properties,
        }),
    );

    check(&[V5], "F0 00", Packet::Auth(Auth::default()));
    check_read(V5, "F0 02 00 00", Packet::Auth(Auth::default()));
    let properties = AuthProperties {
        method: Some("m".into()),
        data: Some(Bytes::new()),
        ..Default::default()
    };
    let properties = Some(Box::new(properties));
    let reason = ReasonCode::ContinueAuthentication;
    check(
        &[V5],
        "F0 09 18 07 150001'm' 160000",
        Packet::Auth(Auth { reason, properties }),
    );
}
