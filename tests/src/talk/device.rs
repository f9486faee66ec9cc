//! One client. It says again what was not answered, under the same `client_msg_id`, and comes back when its connection goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prost::Message as _;
use schema::v1::{Down, Message, Reply, Up, down};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use super::Phase;
use super::http;
use super::line::Line;
use super::record::Record;
use super::world::World;
use crate::client::unpacked;
use crate::link::Version;
use crate::raw::{DISCONNECT_PACKET, PINGREQ_PACKET};
use crate::up;
use crate::wire::{self, Ack, AckKind, Connect, Packet, Properties, Publish};

/// Messages of a device that may be open; it writes no more until some are answered.
const OPEN_MAX: usize = 16;
/// One of so many messages goes over HTTP.
const HTTP_EVERY: u32 = 20;
/// Time between two pings; and how long nothing may come.
const PING_EVERY: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long the server may take to let the device in.
const ENTER_WITHIN: Duration = Duration::from_secs(15);
/// A PUBACK without its reply is no reason to wait for ever: replies come at QoS 0.
const REPLY_WITHIN: Duration = Duration::from_secs(5);
/// Before a device tries again to connect: at first, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A client that runs until the end.
pub(super) struct Device {
    /// Among all devices.
    place: usize,
    /// Among all users.
    pub user: usize,
    /// The MQTT client id.
    pub name: String,
    version: Version,
    record: Arc<Mutex<Record>>,
}

/// What the device knows of its connection.
struct Connection<'a> {
    device: &'a Device,
    world: &'a Arc<World>,
    line: Line,
    last_packet_id: u16,
    /// Numbers of messages by the packet ids under which they went out.
    under_way: HashMap<u16, usize>,
    heard_at: Instant,
}

// === impl Device ===

impl Device {
    /// All devices of all users.
    pub fn of_all(world: &World) -> Vec<Self> {
        let users = world.users.iter().enumerate();
        let owners = users.flat_map(|(user, owner)| std::iter::repeat_n(user, owner.devices));
        owners
            .enumerate()
            .map(|(place, user)| Device {
                place,
                user,
                name: format!("d{place}"),
                version: [Version::V4, Version::V5][place % 2],
                record: Arc::default(),
            })
            .collect()
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        locked(&self.record)
    }

    /// Whether it was ever let in.
    pub fn has_arrived(&self) -> bool {
        self.record().connections > 0
    }

    /// How many of its messages are not answered.
    pub fn open(&self) -> usize {
        self.record().open.len()
    }

    /// The `client_msg_id` of a message.
    pub fn client_msg_id(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// The device and the number that a `client_msg_id` names.
    pub fn parse(client_msg_id: &str) -> Option<(usize, usize)> {
        let (device, number) = client_msg_id.strip_prefix('d')?.split_once('-')?;
        Some((device.parse().ok()?, number.parse().ok()?))
    }

    /// What stands in a message.
    pub fn text(client_msg_id: &str, conversation: &str) -> String {
        format!("{client_msg_id} to {conversation}")
    }

    fn up(&self, world: &World, number: usize) -> Up {
        let conversation = self.record().sent[number].conversation;
        let id = self.client_msg_id(number);
        let text = Self::text(&id, &world.conversations[conversation].name);
        let to = world.address(conversation, self.user);
        up::with_id(&id, up::text(to, &text))
    }

    /// Until the end of all.
    pub async fn run(
        &self,
        world: &Arc<World>,
        mut phase: watch::Receiver<Phase>,
        mut rng: fastrand::Rng,
    ) {
        let mut wait = BACK_OFF.0;
        // Messages over HTTP are on their own; they end with the device.
        let mut posting = JoinSet::new();
        while *phase.borrow() != Phase::Over {
            let opened = timeout(ENTER_WITHIN, Connection::open(self, world)).await;
            if let Ok(Ok(mut connection)) = opened {
                wait = BACK_OFF.0;
                self.record().connections += 1;
                let lived = connection.live(&mut phase, &mut rng, &mut posting).await;
                if lived.is_ok() {
                    return;
                }
                self.record().breaks += 1;
            }
            sleep(wait.mul_f64(rng.f64() + 0.5)).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }

    /// Says a message over HTTP until it is answered.
    fn post(&self, world: &Arc<World>, number: usize) -> impl Future<Output = ()> + Send + use<> {
        let up = serde_json::to_value(self.up(world, number));
        let (world, record) = (world.clone(), self.record.clone());
        let user = self.user;
        async move {
            while locked(&record).open.contains_key(&number) {
                let up = up.as_ref().ok();
                let token = Some(&*world.users[user].token);
                let asked = http::call(world.http, "POST", "/v1/up", token, up).await;
                match asked {
                    Ok(answer) if answer.status == 200 => {
                        let reply = serde_json::from_value::<Reply>(answer.body);
                        let mut record = locked(&record);
                        match reply {
                            Ok(reply) => record.answered(number, reply, &world),
                            Err(error) => record.fault(format!("an answer to {up:?}: {error}")),
                        }
                        continue;
                    }
                    Ok(answer) if answer.status < 500 && answer.status != 429 => {
                        let mut record = locked(&record);
                        record.open.remove(&number);
                        record.fault(format!("message {number} over HTTP: {answer:?}"));
                    }
                    _ => {}
                }
                sleep(BACK_OFF.1 / 4).await;
            }
        }
    }
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Connection ===

impl<'a> Connection<'a> {
    /// Connects, subscribes, and says what is open.
    async fn open(device: &'a Device, world: &'a Arc<World>) -> Result<Self> {
        let user = &world.users[device.user];
        let mut line = Line::open(world.mqtt, device.version).await?;
        let connect = Connect {
            version: device.version,
            client_id: device.name.clone(),
            username: Some(user.uid.clone()),
            password: Some(user.token.clone().into_bytes()),
            clean: true,
            keep_alive_secs: 60,
            will: None,
            properties: Properties::default(),
        };
        line.say(&connect.packet());
        line.flush().await?;
        match line.next().await? {
            Packet::ConnAck(connack) => {
                ensure!(connack.reason == 0, "CONNACK {:#04x}", connack.reason);
            }
            other => bail!("{other:?} before a CONNACK"),
        }
        let down = format!("im/{}/down", user.uid);
        let none = Properties::default();
        line.say(&wire::subscribe(device.version, 1, &[(&down, 1)], &none));
        line.flush().await?;
        let mut connection = Connection {
            device,
            world,
            line,
            last_packet_id: 1,
            under_way: HashMap::new(),
            heard_at: Instant::now(),
        };
        connection.say_again(|_| true);
        Ok(connection)
    }

    /// Until the connection breaks, or all is over.
    async fn live(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        rng: &mut fastrand::Rng,
        posting: &mut JoinSet<()>,
    ) -> Result<()> {
        let mut pings = interval(PING_EVERY);
        let mut next_at = Instant::now() + self.pause(rng);
        loop {
            self.line.flush().await?;
            let now = *phase.borrow_and_update();
            if now == Phase::Over {
                self.line.say(DISCONNECT_PACKET);
                return self.line.flush().await;
            }
            let may_write = now == Phase::Talking && self.device.open() < OPEN_MAX;
            tokio::select! {
                packet = self.line.next() => {
                    let mut packet = Some(packet?);
                    while let Some(next) = packet {
                        self.take(next)?;
                        packet = self.line.take()?;
                    }
                }
                () = sleep_until(next_at), if may_write => {
                    next_at = Instant::now() + self.pause(rng);
                    self.write(rng, posting);
                }
                _ = pings.tick() => {
                    ensure!(self.heard_at.elapsed() < SILENCE_MAX, "the server is silent");
                    self.line.say(PINGREQ_PACKET);
                    self.say_again(|again_at| again_at.is_some_and(|at| at <= Instant::now()));
                }
                _ = phase.changed() => {}
            }
        }
    }

    /// From one message to the next, as with people who don't know of each other.
    fn pause(&self, rng: &mut fastrand::Rng) -> Duration {
        let mean = self.world.pause_secs;
        Duration::from_secs_f64(-mean * (1.0 - rng.f64()).ln()).min(Duration::from_secs(600))
    }

    fn write(&mut self, rng: &mut fastrand::Rng, posting: &mut JoinSet<()>) {
        let conversation = self.world.choose(self.device.user, rng);
        let by_http = rng.u32(..HTTP_EVERY) == 0;
        let number = self.device.record().send(conversation, by_http);
        if by_http {
            posting.spawn(self.device.post(self.world, number));
            while posting.try_join_next().is_some() {}
        } else {
            self.publish(number);
        }
    }

    /// Those of the open messages that `wanted` chooses by the time when they are to be said again.
    fn say_again(&mut self, wanted: impl Fn(Option<Instant>) -> bool) {
        let numbers: Vec<usize> = {
            let mut record = self.device.record();
            let Record { open, sent, .. } = &mut *record;
            let chosen = open
                .iter_mut()
                .filter(|(number, open)| !sent[**number].by_http && wanted(open.again_at));
            chosen
                .map(|(number, open)| {
                    open.again_at = None;
                    *number
                })
                .collect()
        };
        for number in numbers {
            self.publish(number);
        }
    }

    fn publish(&mut self, number: usize) {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.under_way.insert(self.last_packet_id, number);
        let topic = format!("im/{}/up", self.world.users[self.device.user].uid);
        let payload = self.device.up(self.world, number).encode_to_vec();
        let mut publish = Publish::new(&topic, payload, 1);
        publish.packet_id = self.last_packet_id;
        self.line.say(&publish.packet(self.device.version));
    }

    fn take(&mut self, packet: Packet) -> Result<()> {
        self.heard_at = Instant::now();
        match packet {
            Packet::Publish(publish) => {
                self.hear(&publish)?;
                if publish.qos == 1 {
                    let ack = Ack {
                        kind: AckKind::PubAck,
                        packet_id: publish.packet_id,
                        reason: 0,
                    };
                    self.line.say(&ack.packet());
                }
            }
            Packet::Ack(ack) if ack.kind == AckKind::PubAck => {
                let Some(number) = self.under_way.remove(&ack.packet_id) else {
                    bail!("a PUBACK of nothing");
                };
                let mut record = self.device.record();
                // In MQTT 3.1.1 it does not say whether the message was taken; the reply does.
                if self.device.version == Version::V5 && ack.reason < 0x80 {
                    record.sent[number].is_promised = true;
                }
                if let Some(open) = record.open.get_mut(&number) {
                    open.again_at.get_or_insert(Instant::now() + REPLY_WITHIN);
                }
            }
            Packet::Disconnect { reason, .. } => bail!("DISCONNECT {reason:#04x}"),
            Packet::SubAck { codes, .. } => ensure!(codes == [1], "SUBACK {codes:02x?}"),
            Packet::PingResp => {}
            other => bail!("unexpected: {other:?}"),
        }
        Ok(())
    }

    fn hear(&mut self, publish: &Publish) -> Result<()> {
        let down = Down::decode(&*publish.payload).context("no Down")?;
        match down.content {
            Some(down::Content::Message(message)) => self.hear_message(&message),
            Some(down::Content::Batch(batch)) => {
                for message in unpacked(batch)?.messages {
                    self.hear_message(&message);
                }
            }
            Some(down::Content::Reply(reply)) => {
                let named = Device::parse(&reply.client_msg_id);
                let mut record = self.device.record();
                match named {
                    Some((device, number)) if device == self.device.place => {
                        record.answered(number, reply, self.world);
                    }
                    _ => record.fault(format!("somebody else's reply: {reply:?}")),
                }
            }
            Some(down::Content::Event(_)) => {}
            None => self.device.record().fault("an empty Down".to_owned()),
        }
        Ok(())
    }

    fn hear_message(&self, message: &Message) {
        let mut record = self.device.record();
        match self.world.find(&message.conversation, self.device.user) {
            Some(conversation) => record.hear(conversation, &self.device.name, message),
            None => record.fault(format!("somebody else's message: {message:?}")),
        }
    }
}
