//! MQTT 3.1.1 by rumqttc.

use anyhow::{Context, Result, bail};
use rumqttc::Outgoing;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{
    Accepted, Acks, Closed, Dial, Link, OUTBOX_CAPACITY, Opened, Original, Outbox,
    PACKET_BYTES_MAX, Packet, Publish, Session, WINDOW,
};

pub(super) async fn open(dial: &Dial) -> Result<Opened> {
    let (client, mut events) = rumqttc::AsyncClient::new(options(dial), OUTBOX_CAPACITY);
    let connack = match events.poll().await {
        Ok(rumqttc::Event::Incoming(rumqttc::Packet::ConnAck(connack))) => connack,
        Ok(other) => bail!("{other:?} instead of CONNACK"),
        Err(rumqttc::ConnectionError::ConnectionRefused(code)) => {
            return Ok(Opened::Refused(code as u8));
        }
        Err(error) => return Err(error).context("no CONNACK"),
    };
    let accepted = Accepted {
        session_present: connack.session_present,
        assigned_client_id: None,
    };
    let (sender, inbox) = unbounded_channel();
    let link = Link {
        outbox: Outbox::V4(client),
        inbox,
        task: tokio::spawn(run(events, sender)),
    };
    Ok(Opened::Accepted(link, accepted))
}

fn options(dial: &Dial) -> rumqttc::MqttOptions {
    let address = dial.address;
    let mut options =
        rumqttc::MqttOptions::new(&dial.client_id, address.ip().to_string(), address.port());
    options
        .set_clean_session(dial.session == Session::Clean)
        .set_manual_acks(dial.acks == Acks::ByTest)
        .set_inflight(WINDOW)
        .set_max_packet_size(PACKET_BYTES_MAX as usize, PACKET_BYTES_MAX as usize);
    if let Some((user, password)) = &dial.login {
        options.set_credentials(user, password);
    }
    if let Some(will) = &dial.will {
        let qos = rumqttc::QoS::AtLeastOnce;
        let payload = will.payload.as_str();
        options.set_last_will(rumqttc::LastWill::new(&will.topic, payload, qos, false));
    }
    options
}

async fn run(mut events: rumqttc::EventLoop, inbox: UnboundedSender<Packet>) {
    let closed = loop {
        match events.poll().await {
            // A send fails when the test has dropped the link; so does the next poll.
            Ok(event) => drop(packet(event).map(|packet| inbox.send(packet))),
            Err(error) => {
                break Closed {
                    reason: None,
                    text: error.to_string(),
                };
            }
        }
    };
    let _ = inbox.send(Packet::Closed(closed));
}

fn packet(event: rumqttc::Event) -> Option<Packet> {
    use rumqttc::{Event, Packet as P, SubscribeReasonCode};

    let code = |code: &SubscribeReasonCode| match code {
        SubscribeReasonCode::Success(qos) => *qos as u8,
        SubscribeReasonCode::Failure => 0x80,
    };
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Some(Packet::Sent(id)),
        Event::Incoming(P::Publish(publish)) => Some(Packet::Publish(Publish {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            qos: publish.qos as u8,
            correlation: None,
            original: Box::new(Original::V4(publish)),
        })),
        Event::Incoming(P::PubAck(ack)) => Some(Packet::Done {
            id: ack.pkid,
            reason: 0,
        }),
        Event::Incoming(P::SubAck(ack)) => {
            Some(Packet::SubAck(ack.return_codes.iter().map(code).collect()))
        }
        _ => None,
    }
}
