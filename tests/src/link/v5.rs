//! MQTT 5 by rumqttc.

use anyhow::{Context, Result, bail};
use rumqttc::{Outgoing, v5};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{
    Accepted, Acks, Closed, Dial, Link, OUTBOX_CAPACITY, Opened, Original, Outbox,
    PACKET_BYTES_MAX, Packet, Publish, SESSION_EXPIRY_SECS, Session, WINDOW,
};

pub(super) async fn open(dial: &Dial) -> Result<Opened> {
    let (client, mut events) = v5::AsyncClient::new(options(dial), OUTBOX_CAPACITY);
    let connack = match events.poll().await {
        Ok(v5::Event::Incoming(v5::mqttbytes::v5::Packet::ConnAck(connack))) => connack,
        Ok(other) => bail!("{other:?} instead of CONNACK"),
        Err(v5::ConnectionError::ConnectionRefused(code)) => {
            return connect_code(code).map(Opened::Refused);
        }
        Err(error) => return Err(error).context("no CONNACK"),
    };
    let accepted = Accepted {
        session_present: connack.session_present,
        assigned_client_id: connack
            .properties
            .and_then(|properties| properties.assigned_client_identifier),
    };
    let (sender, inbox) = unbounded_channel();
    let link = Link {
        outbox: Outbox::V5(client),
        inbox,
        task: tokio::spawn(run(events, sender)),
    };
    Ok(Opened::Accepted(link, accepted))
}

fn options(dial: &Dial) -> v5::MqttOptions {
    let address = dial.address;
    let mut options =
        v5::MqttOptions::new(&dial.client_id, address.ip().to_string(), address.port());
    options
        .set_clean_start(dial.session == Session::Clean)
        .set_manual_acks(dial.acks == Acks::ByTest)
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_max_packet_size(Some(PACKET_BYTES_MAX));
    if dial.session == Session::Kept {
        options.set_session_expiry_interval(Some(SESSION_EXPIRY_SECS));
    }
    if let Some((user, password)) = &dial.login {
        options.set_credentials(user, password);
    }
    if let Some(will) = &dial.will {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        let payload = will.payload.clone();
        let will = v5::mqttbytes::v5::LastWill::new(&will.topic, payload, qos, false, None);
        options.set_last_will(will);
    }
    options
}

async fn run(mut events: v5::EventLoop, inbox: UnboundedSender<Packet>) {
    let closed = loop {
        match events.poll().await {
            // A send fails when the test has dropped the link; so does the next poll.
            Ok(event) => drop(packet(event).map(|packet| inbox.send(packet))),
            Err(error) => {
                break Closed {
                    reason: disconnect_reason(&error),
                    text: error.to_string(),
                };
            }
        }
    };
    let _ = inbox.send(Packet::Closed(closed));
}

fn disconnect_reason(error: &v5::ConnectionError) -> Option<u8> {
    match error {
        v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect {
            reason_code, ..
        }) => Some(*reason_code as u8),
        _ => None,
    }
}

fn packet(event: v5::Event) -> Option<Packet> {
    use v5::Event;
    use v5::mqttbytes::v5::Packet as P;

    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Some(Packet::Sent(id)),
        Event::Incoming(P::Publish(publish)) => Some(Packet::Publish(Publish {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.clone(),
            qos: publish.qos as u8,
            correlation: publish
                .properties
                .as_ref()
                .and_then(|properties| properties.correlation_data.clone()),
            original: Box::new(Original::V5(publish)),
        })),
        Event::Incoming(P::PubAck(ack)) => Some(Packet::Done {
            id: ack.pkid,
            reason: puback_code(ack.reason),
        }),
        Event::Incoming(P::SubAck(ack)) => {
            let codes = ack.return_codes.into_iter().map(suback_code);
            Some(Packet::SubAck(codes.collect()))
        }
        _ => None,
    }
}

/// rumqttc names the codes; the tests, like the standard, number them.
fn connect_code(code: v5::mqttbytes::v5::ConnectReturnCode) -> Result<u8> {
    use v5::mqttbytes::v5::ConnectReturnCode as Code;

    Ok(match code {
        Code::MalformedPacket => 0x81,
        Code::ProtocolError => 0x82,
        Code::ClientIdentifierNotValid => 0x85,
        Code::BadUserNamePassword => 0x86,
        Code::NotAuthorized => 0x87,
        Code::ServerUnavailable => 0x88,
        Code::ServerBusy => 0x89,
        Code::Banned => 0x8A,
        Code::TopicNameInvalid => 0x90,
        other => bail!("unexpected code in CONNACK: {other:?}"),
    })
}

fn puback_code(reason: v5::mqttbytes::v5::PubAckReason) -> u8 {
    use v5::mqttbytes::v5::PubAckReason as Reason;

    match reason {
        Reason::Success => 0x00,
        Reason::NoMatchingSubscribers => 0x10,
        Reason::UnspecifiedError => 0x80,
        Reason::ImplementationSpecificError => 0x83,
        Reason::NotAuthorized => 0x87,
        Reason::TopicNameInvalid => 0x90,
        Reason::PacketIdentifierInUse => 0x91,
        Reason::QuotaExceeded => 0x97,
        Reason::PayloadFormatInvalid => 0x99,
    }
}

fn suback_code(reason: v5::mqttbytes::v5::SubscribeReasonCode) -> u8 {
    use v5::mqttbytes::v5::SubscribeReasonCode as Code;

    match reason {
        Code::Success(qos) => qos as u8,
        Code::Failure | Code::Unspecified => 0x80,
        Code::ImplementationSpecific => 0x83,
        Code::NotAuthorized => 0x87,
        Code::TopicFilterInvalid => 0x8F,
        Code::PkidInUse => 0x91,
        Code::QuotaExceeded => 0x97,
        Code::SharedSubscriptionsNotSupported => 0x9E,
        Code::SubscriptionIdNotSupported => 0xA1,
        Code::WildcardSubscriptionsNotSupported => 0xA2,
    }
}
