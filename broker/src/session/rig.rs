//! Sessions without sockets, for tests and fuzzing: what comes out for what goes in.

use schema::link::Retain;

use super::*;
use crate::bridges::Bridges;
use crate::codec::decode;
use crate::outbox::{Answer, Outbox};
use crate::peer::Door;
use crate::plain::policy::Rules;
use crate::registry::{Newcomer, Registry};
use crate::stats::Stats;
use crate::uplinks::Uplinks;

/// What sessions share.
pub(crate) struct Rig {
    pub(crate) options: Options,
    pub(crate) exchange: Arc<Exchange>,
    registry: Registry,
    /// What the bridge is told apart from the sessions' own items.
    uplinks: Arc<Uplinks>,
}

impl Rig {
    pub(crate) fn new(options: Options, rules: Rules) -> Self {
        let (bridges, uplinks) = Bridges::only(Arc::default());
        let bridges = Arc::new(bridges);
        // What it is asked at the beginning.
        drop(uplinks.take());
        Rig {
            exchange: Arc::new(Exchange::new(
                &options,
                rules,
                bridges.clone(),
                Arc::new(Stats::default()),
            )),
            registry: Registry::new(bridges, 0),
            uplinks,
            options,
        }
    }

    /// The retained messages that the bridge has been given to store since the last call.
    pub(crate) fn retains(&self) -> Vec<Retain> {
        let retains = self.told().into_iter().filter_map(|item| match item {
            from_edge::Item::Retain(retain) => Some(retain),
            _ => None,
        });
        retains.collect()
    }

    /// All that the bridge was told apart from the sessions' own items since the last call; not who comes and goes.
    pub(crate) fn told(&self) -> Vec<from_edge::Item> {
        use from_edge::Item::{Connected, Disconnected};
        let items = self.uplinks.take().into_iter().filter_map(|one| one.item);
        let told = items.filter(|item| !matches!(item, Connected(_) | Disconnected(_)));
        told.collect()
    }

    /// A new connection of a device, which goes on with `lasting`.
    pub(crate) fn connect(
        &self,
        uid: &str,
        mut connect: Connect,
        lasting: Option<Lasting>,
    ) -> Client {
        let who = Newcomer {
            uid: uid.parse().unwrap_or_else(|_| schema::Uid::anonymous()),
            device: connect.client_id.clone(),
            is_nameless: false,
            is_clean: connect.clean_start,
            login: None,
            password_set_at: None,
            is_admin: false,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            door: Door::Mqtt,
        };
        let outbox = Outbox::new(self.options.session_queue, false);
        let (handle, _) = self.registry.add(who, outbox);
        let mut to_bridge = Vec::new();
        let mut session = Session::new(
            handle.clone(),
            self.exchange.clone(),
            &mut connect,
            &self.options,
            lasting.unwrap_or_default(),
        );
        session.resume(&mut to_bridge);
        Client {
            session,
            handle,
            out: BytesMut::new(),
            to_bridge,
        }
    }
}

/// CONNECT without anything special.
pub(crate) fn connect(version: Version) -> Connect {
    Connect {
        version,
        client_id: "phone".into(),
        keep_alive: 0,
        clean_start: true,
        username: None,
        password: None,
        will: None,
        properties: None,
    }
}

/// A session with what it has said so far.
pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) handle: Arc<Handle>,
    pub(crate) out: BytesMut,
    pub(crate) to_bridge: Vec<FromEdge>,
}

impl Client {
    /// Hands a packet to the session.
    pub(crate) fn send(&mut self, packet: Packet) -> Result<(), Closed> {
        self.session
            .on_packet(packet, &mut self.out, &mut self.to_bridge)?;
        self.look()
    }

    /// Lets the session write what waits for it.
    pub(crate) fn look(&mut self) -> Result<(), Closed> {
        self.session.on_outbox(&mut self.out, &mut self.to_bridge)?;
        self.session.flush_acks(&mut self.to_bridge);
        Ok(())
    }

    /// Answers a publish as the bridge would.
    pub(crate) fn answer(&mut self, token: u32, reason: ReasonCode) -> Result<(), Closed> {
        self.handle.outbox.answer(Answer {
            token,
            reason,
            reply: Arc::new(Payload::new(b"")),
        });
        self.look()
    }

    /// What the client has got since the last call. Whatever a session writes can be decoded.
    pub(crate) fn packets(&mut self) -> Vec<Packet> {
        let version = self.session.version;
        let next = || decode(version, &mut self.out, usize::MAX).expect("a session writes packets");
        std::iter::from_fn(next).collect()
    }

    /// Ends the connection; returns what outlives it.
    pub(crate) fn leave(mut self, reason: Closed) -> Option<Lasting> {
        let parked = self.session.close(reason, &mut self.to_bridge);
        parked.map(|parked| parked.lasting)
    }
}
