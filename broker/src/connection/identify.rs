//! The first packet: who is it, may they come in, and with what.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use bytes::BytesMut;
use schema::Uid;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::{hear_out, read, say_farewell};
use crate::codec::{
    ConnAck, ConnAckProperties, Connect, Packet, PacketType, ReasonCode, Version, connect_version,
    decode_connect,
};
use crate::edge::Edge;
use crate::identity::{Credentials, Identity, Refusal};
use crate::options::Options;
use crate::peer::Peer;
use crate::registry::Newcomer;
use crate::session::{asked_expiry, session_expiry};
use crate::will;

/// Longest client id, in characters.
const CLIENT_ID_MAX: usize = 64;

/// How long a client waits until there is a bridge, and it has room for one more.
const WELCOME_PATIENCE: Duration = Duration::from_secs(8);

/// A client that may come in, and what CONNACK will say. What the server grants is written into `connect`.
pub(super) struct Identified {
    pub(super) who: Newcomer,
    pub(super) connect: Connect,
    pub(super) identity: Identity,
    pub(super) connack: ConnAckProperties,
}

/// Reads CONNECT and checks who it is; answers a refusal itself.
pub(super) async fn identify<S>(
    socket: &mut S,
    peer: Peer,
    input: &mut BytesMut,
    edge: &Edge,
) -> Option<Box<Identified>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut version = None;
    let connect = loop {
        version = version.or_else(|| connect_version(input));
        let length = input.len();
        match decode_connect(input, edge.options.max_packet_size) {
            Ok(Some(connect)) => {
                let length = length - input.len();
                edge.stats.received(PacketType::Connect, length);
                break connect;
            }
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "no CONNECT");
                // What isn't MQTT at all gets no answer.
                if input.first().is_some_and(|byte| byte >> 4 == 1) || version.is_some() {
                    refuse(socket, version.unwrap_or(Version::V4), error.reason(), edge).await;
                }
                return None;
            }
        }
        if !matches!(read(socket, input).await, Ok(1..)) {
            return None;
        }
    };
    let version = connect.version;
    match admit(connect, &peer, edge).await {
        Ok(identified) => Some(Box::new(identified)),
        Err(reason) => {
            debug!(?reason, "connection refused");
            refuse(socket, version, reason, edge).await;
            None
        }
    }
}

/// Decides whether a client may come in, and with what.
async fn admit(mut connect: Connect, peer: &Peer, edge: &Edge) -> Result<Identified, ReasonCode> {
    if let Some(reason) = peer.refusal.or_else(|| edge.moving.refusal()) {
        return Err(reason);
    }
    check_connect(&connect)?;
    let identity = authenticate(&connect, peer, edge).await?;
    // The bridge is told of whoever comes in: nobody does while it has too much to hear already.
    if !edge.bridges.welcome(&identity.uid, WELCOME_PATIENCE).await {
        return Err(ReasonCode::ServerUnavailable);
    }
    let connack = concede(&mut connect, &identity, edge);
    let who = newcomer(&connect, &identity, &connack, peer, &edge.options);
    if let Some(will) = &connect.will {
        will::check(&edge.exchange, &who, &will.topic)?;
    }
    let per_user_max = edge.options.connections_per_user_max;
    if !edge.registry.has_room(&who, per_user_max) {
        return Err(ReasonCode::QuotaExceeded);
    }
    Ok(Identified {
        who,
        connect,
        identity,
        connack,
    })
}

fn check_connect(connect: &Connect) -> Result<(), ReasonCode> {
    let is_printable = |c: char| !c.is_control();
    if connect.client_id.chars().count() > CLIENT_ID_MAX
        || !connect.client_id.chars().all(is_printable)
    {
        return Err(ReasonCode::ClientIdentifierNotValid);
    }
    // [MQTT-3.1.3-8] In 3.1.1 an empty client id needs a clean session.
    if connect.client_id.is_empty() && connect.version == Version::V4 && !connect.clean_start {
        return Err(ReasonCode::ClientIdentifierNotValid);
    }
    let properties = connect.properties.as_deref();
    if properties.is_some_and(|set| set.authentication_method.is_some()) {
        // [MQTT-4.12.0-1]
        return Err(ReasonCode::BadAuthenticationMethod);
    }
    Ok(())
}

async fn authenticate(connect: &Connect, peer: &Peer, edge: &Edge) -> Result<Identity, ReasonCode> {
    let is_nobody = connect.username.is_none() && peer.certified.is_none();
    if is_nobody && edge.options.anonymous {
        return Ok(Identity {
            uid: Uid::anonymous(),
            login: None,
            password_set_at: None,
            expires_at: None,
            is_admin: false,
            as_of: 0,
        });
    }
    if is_nobody {
        return Err(ReasonCode::NotAuthorized);
    }
    let credentials = Credentials {
        username: connect.username.as_deref(),
        password: connect.password.as_deref(),
        certified: peer.certified.as_ref(),
        address: peer.address,
    };
    let outcome = edge.authenticate.authenticate(credentials).await;
    outcome.map_err(|refusal| match refusal {
        Refusal::BadCredentials => ReasonCode::BadUserNameOrPassword,
        Refusal::TooManyFailures => ReasonCode::QuotaExceeded,
        Refusal::Unavailable => ReasonCode::ServerUnavailable,
    })
}

/// Decides what the session gets of what it asked for, and says so.
fn concede(connect: &mut Connect, identity: &Identity, edge: &Edge) -> ConnAckProperties {
    let options = &edge.options;
    let asked = connect.properties.as_deref();
    let expiry = session_expiry(connect, options);
    let wants_information = asked.is_some_and(|set| set.request_response_information == Some(true));
    let mut properties = ConnAckProperties {
        // [MQTT-3.2.2-15] Only where it is not what the client asked for.
        session_expiry_interval: Some(expiry).filter(|expiry| asked_expiry(connect) != *expiry),
        receive_maximum: NonZeroU16::new(options.receive_maximum),
        maximum_packet_size: u32::try_from(options.max_packet_size)
            .ok()
            .and_then(NonZeroU32::new),
        topic_alias_maximum: Some(options.topic_alias_max).filter(|max| *max > 0),
        response_information: (wants_information && !identity.uid.is_anonymous())
            .then(|| format!("dev/{}/", identity.uid).into()),
        ..Default::default()
    };
    let keep_alive_max = options.keep_alive_max_secs;
    if keep_alive_max > 0 && (connect.keep_alive == 0 || connect.keep_alive > keep_alive_max) {
        connect.keep_alive = keep_alive_max;
        properties.server_keep_alive = Some(keep_alive_max);
    }
    if connect.client_id.is_empty() {
        connect.client_id = edge.registry.new_client_id().into();
        properties.assigned_client_identifier = Some(connect.client_id.clone());
    }
    properties
}

fn newcomer(
    connect: &Connect,
    identity: &Identity,
    connack: &ConnAckProperties,
    peer: &Peer,
    options: &Options,
) -> Newcomer {
    let expiry_secs = session_expiry(connect, options);
    Newcomer {
        uid: identity.uid.clone(),
        // A slice would keep the whole CONNECT alive.
        device: String::from(&*connect.client_id).into(),
        // A session that is kept comes back under the name that it was given.
        is_nameless: connack.assigned_client_identifier.is_some() && expiry_secs == 0,
        is_clean: connect.clean_start,
        login: identity.login.clone(),
        password_set_at: identity.password_set_at,
        is_admin: identity.is_admin,
        address: peer.address,
        door: peer.door,
    }
}

async fn refuse<S>(socket: &mut S, version: Version, reason: ReasonCode, edge: &Edge)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    edge.stats.refused(reason);
    let mut out = BytesMut::new();
    let properties = edge.moving.reference(reason).map(|reference| {
        Box::new(ConnAckProperties {
            server_reference: Some(reference),
            ..Default::default()
        })
    });
    let connack = ConnAck {
        session_present: false,
        reason,
        properties,
    };
    Packet::ConnAck(Box::new(connack)).encode(version, &mut out);
    edge.stats.sent(&out);
    say_farewell(socket, &out).await;
    hear_out(socket).await;
}
