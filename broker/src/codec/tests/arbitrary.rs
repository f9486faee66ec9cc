//! Strategies for arbitrary packets. What a version cannot express is not generated for it, so
//! that reading gives back what was written.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A boxed property set, `None` for an empty one and in MQTT 3.1.1.
fn optional<P>(
    version: Version,
    set: impl Strategy<Value = P> + 'static,
) -> BoxedStrategy<Option<Box<P>>>
where
    P: Default + PartialEq + Clone + std::fmt::Debug + 'static,
{
    if version == Version::V4 {
        return Just(None).boxed();
    }
    set.prop_map(|set| (set != P::default()).then(|| Box::new(set)))
        .boxed()
}

fn text() -> impl Strategy<Value = ByteString> + Clone {
    let odd = select(vec![
        "",
        "é/1",
        "日本",
        "\u{1}",
        "\u{FEFF}",
        "+/#",
        "$share/g/t",
    ]);
    let odd = odd.prop_map(ByteString::from);
    prop_oneof![3 => "[a-z/ ]{0,8}".prop_map(ByteString::from), 1 => odd].boxed()
}

/// A text that may name a topic.
fn topic() -> impl Strategy<Value = ByteString> + Clone {
    text()
        .prop_map(|text| ByteString::from(format!("t{}", text.replace(['+', '#'], "x"))))
        .boxed()
}

fn filter() -> impl Strategy<Value = ByteString> + Clone {
    text().prop_filter("empty", |text| !text.is_empty()).boxed()
}

fn data() -> impl Strategy<Value = Bytes> + Clone {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from).boxed()
}

fn users() -> impl Strategy<Value = Vec<UserProperty>> + Clone {
    vec((text(), text()), 0..3).boxed()
}

fn packet_id() -> impl Strategy<Value = NonZeroU16> + Clone {
    any::<NonZeroU16>()
}

fn qos() -> impl Strategy<Value = Qos> + Clone {
    select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce])
}

/// Any reason that the packet may carry and that survives the version's translation.
fn reason(version: Version, packet: PacketType) -> impl Strategy<Value = ReasonCode> + Clone {
    let codes = match (version, packet) {
        (Version::V5, _) => (0..=u8::MAX).collect(),
        (Version::V4, PacketType::ConnAck) => vec![0x00, 0x84, 0x85, 0x86, 0x87, 0x88],
        (Version::V4, PacketType::SubAck) => vec![0x00, 0x01, 0x02, 0x80],
        (Version::V4, _) => vec![0x00],
    };
    let reasons = codes
        .into_iter()
        .filter_map(|code| ReasonCode::try_from(code).ok());
    select(
        reasons
            .filter(|reason| reason.is_allowed_in(packet))
            .collect::<Vec<_>>(),
    )
}

prop_compose! {
    fn connect_properties()(
        session_expiry_interval: Option<u32>,
        receive_maximum: Option<NonZeroU16>,
        maximum_packet_size: Option<NonZeroU32>,
        topic_alias_maximum: Option<u16>,
        request_response_information: Option<bool>,
        request_problem_information: Option<bool>,
        user_properties in users(),
        authentication in of((text(), of(data()))),
    ) -> ConnectProperties {
        let (authentication_method, authentication_data) = authentication.unzip();
        ConnectProperties {
            session_expiry_interval, receive_maximum, maximum_packet_size, topic_alias_maximum,
            request_response_information, request_problem_information, user_properties,
            authentication_method, authentication_data: authentication_data.flatten(),
        }
    }
}

prop_compose! {
    fn will_properties()(
        will_delay_interval: Option<u32>,
        payload_format_indicator: Option<bool>,
        message_expiry_interval: Option<u32>,
        content_type in of(text()),
        response_topic in of(topic()),
        correlation_data in of(data()),
        user_properties in users(),
    ) -> WillProperties {
        WillProperties {
            will_delay_interval, payload_format_indicator, message_expiry_interval, content_type,
            response_topic, correlation_data, user_properties,
        }
    }
}

prop_compose! {
    fn will(version: Version)(
        qos in qos(),
        retain: bool,
        topic in topic(),
        payload in data(),
        properties in optional(version, will_properties()),
    ) -> Will {
        Will { qos, retain, topic, payload, properties }
    }
}

prop_compose! {
    fn connect(version: Version)(
        client_id in text(),
        keep_alive: u16,
        clean_start: bool,
        username in of(text()),
        password in of(data()),
        will in of(will(version)),
        properties in optional(version, connect_properties()),
    ) -> Connect {
        let password = password.filter(|_| version == Version::V5 || username.is_some());
        Connect { version, client_id, keep_alive, clean_start, username, password, will, properties }
    }
}

prop_compose! {
    fn connack_properties()(
        numbers: (Option<u32>, Option<NonZeroU16>, Option<NonZeroU32>, Option<u16>, Option<u16>),
        flags: (Option<bool>, Option<bool>, Option<bool>, Option<bool>),
        maximum_qos in of(select(vec![Qos::AtMostOnce, Qos::AtLeastOnce])),
        texts in (of(text()), of(text()), of(text()), of(text()), of(text())),
        user_properties in users(),
        authentication_data in of(data()),
    ) -> ConnAckProperties {
        ConnAckProperties {
            session_expiry_interval: numbers.0,
            receive_maximum: numbers.1,
            maximum_qos,
            retain_available: flags.0,
            maximum_packet_size: numbers.2,
            assigned_client_identifier: texts.0,
            topic_alias_maximum: numbers.3,
            reason_string: texts.1,
            user_properties,
            wildcard_subscription_available: flags.1,
            subscription_identifiers_available: flags.2,
            shared_subscription_available: flags.3,
            server_keep_alive: numbers.4,
            response_information: texts.2,
            server_reference: texts.3,
            authentication_method: texts.4,
            authentication_data,
        }
    }
}

prop_compose! {
    fn connack(version: Version)(
        session_present: bool,
        reason in reason(version, PacketType::ConnAck),
        properties in optional(version, connack_properties()),
    ) -> ConnAck {
        let session_present = session_present && reason == ReasonCode::Success;
        ConnAck { session_present, reason, properties }
    }
}

prop_compose! {
    fn publish_properties()(
        payload_format_indicator: Option<bool>,
        message_expiry_interval: Option<u32>,
        topic_alias: Option<NonZeroU16>,
        response_topic in of(topic()),
        correlation_data in of(data()),
        user_properties in users(),
        subscription_identifiers in vec(1..=VARINT_MAX, 0..3),
        content_type in of(text()),
    ) -> PublishProperties {
        PublishProperties {
            payload_format_indicator, message_expiry_interval, topic_alias, response_topic,
            correlation_data, user_properties, subscription_identifiers, content_type,
        }
    }
}

prop_compose! {
    fn publish(version: Version)(
        dup: bool,
        delivery in of((select(vec![Qos::AtLeastOnce, Qos::ExactlyOnce]), packet_id())),
        retain: bool,
        topic in topic(),
        has_topic: bool,
        payload in data(),
        properties in optional(version, publish_properties()),
    ) -> Publish {
        let (qos, packet_id) = delivery.unzip();
        let has_alias = properties.as_ref().is_some_and(|set| set.topic_alias.is_some());
        let topic = if has_topic || !has_alias { topic } else { ByteString::new() };
        let dup = dup && qos.is_some();
        Publish { dup, qos: qos.unwrap_or_default(), retain, topic, packet_id, payload, properties }
    }
}

prop_compose! {
    fn ack_properties()(
        reason_string in of(text()),
        user_properties in users(),
    ) -> AckProperties {
        AckProperties { reason_string, user_properties }
    }
}

prop_compose! {
    fn ack(version: Version, packet: PacketType)(
        packet_id in packet_id(),
        reason in reason(version, packet),
        properties in optional(version, ack_properties()),
    ) -> Ack {
        Ack { packet_id, reason, properties }
    }
}

prop_compose! {
    fn subscribe_filter(version: Version)(
        filter in filter(),
        qos in qos(),
        no_local: bool,
        retain_as_published: bool,
        retain_handling in 0..=2_u8,
    ) -> SubscribeFilter {
        if version == Version::V4 {
            return SubscribeFilter::new(filter, qos);
        }
        let no_local = no_local && !filter.starts_with("$share/");
        let retain_handling = RetainHandling::try_from(retain_handling).unwrap();
        SubscribeFilter { filter, qos, no_local, retain_as_published, retain_handling }
    }
}

prop_compose! {
    fn subscribe(version: Version)(
        packet_id in packet_id(),
        filters in vec(subscribe_filter(version), 1..4),
        subscription_identifier in of(1..=VARINT_MAX),
        user_properties in users(),
    ) -> Subscribe {
        let (subscription_identifier, user_properties) = match version {
            Version::V4 => (None, vec![]),
            Version::V5 => (subscription_identifier, user_properties),
        };
        Subscribe { packet_id, filters, subscription_identifier, user_properties }
    }
}

prop_compose! {
    fn unsubscribe(version: Version)(
        packet_id in packet_id(),
        filters in vec(filter(), 1..4),
        user_properties in users(),
    ) -> Unsubscribe {
        let user_properties = if version == Version::V4 { vec![] } else { user_properties };
        Unsubscribe { packet_id, filters, user_properties }
    }
}

prop_compose! {
    fn suback(version: Version)(
        packet_id in packet_id(),
        reasons in vec(reason(version, PacketType::SubAck), 1..4),
        properties in optional(version, ack_properties()),
    ) -> SubAck {
        SubAck { packet_id, reasons, properties }
    }
}

prop_compose! {
    fn unsuback(version: Version)(
        packet_id in packet_id(),
        reasons in vec(reason(version, PacketType::UnsubAck), 1..4),
        properties in optional(version, ack_properties()),
    ) -> UnsubAck {
        let reasons = if version == Version::V4 { vec![] } else { reasons };
        UnsubAck { packet_id, reasons, properties }
    }
}

prop_compose! {
    fn disconnect_properties()(
        session_expiry_interval: Option<u32>,
        reason_string in of(text()),
        user_properties in users(),
        server_reference in of(text()),
    ) -> DisconnectProperties {
        DisconnectProperties {
            session_expiry_interval, reason_string, user_properties, server_reference,
        }
    }
}

prop_compose! {
    fn disconnect(version: Version)(
        reason in reason(version, PacketType::Disconnect),
        properties in optional(version, disconnect_properties()),
    ) -> Disconnect {
        Disconnect { reason, properties }
    }
}

prop_compose! {
    fn auth_properties()(
        method in of(text()),
        data in of(data()),
        reason_string in of(text()),
        user_properties in users(),
    ) -> AuthProperties {
        AuthProperties { method, data, reason_string, user_properties }
    }
}

prop_compose! {
    fn auth()(
        reason in reason(Version::V5, PacketType::Auth),
        properties in optional(Version::V5, auth_properties()),
    ) -> Auth {
        Auth { reason, properties }
    }
}

/// Any packet that `version` can express.
fn packet_of(version: Version) -> BoxedStrategy<Packet> {
    let packets = prop_oneof![
        connect(version).prop_map(|connect| Packet::Connect(Box::new(connect))),
        connack(version).prop_map(|connack| Packet::ConnAck(Box::new(connack))),
        publish(version).prop_map(Packet::Publish),
        ack(version, PacketType::PubAck).prop_map(Packet::PubAck),
        ack(version, PacketType::PubRec).prop_map(Packet::PubRec),
        ack(version, PacketType::PubRel).prop_map(Packet::PubRel),
        ack(version, PacketType::PubComp).prop_map(Packet::PubComp),
        subscribe(version).prop_map(Packet::Subscribe),
        suback(version).prop_map(Packet::SubAck),
        unsubscribe(version).prop_map(Packet::Unsubscribe),
        unsuback(version).prop_map(Packet::UnsubAck),
        select(vec![Packet::PingReq, Packet::PingResp]),
        disconnect(version).prop_map(Packet::Disconnect),
    ];
    match version {
        Version::V4 => packets.boxed(),
        Version::V5 => prop_oneof![13 => packets, 1 => auth().prop_map(Packet::Auth)].boxed(),
    }
}

/// Either version.
pub(super) fn version() -> impl Strategy<Value = Version> {
    select(vec![Version::V4, Version::V5])
}

/// A version and any packet that it can express.
pub(super) fn packet() -> impl Strategy<Value = (Version, Packet)> {
    version().prop_flat_map(|version| (Just(version), packet_of(version)))
}
