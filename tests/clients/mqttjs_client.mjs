// What every MQTT client may do here, done by MQTT.js, the client of browsers and Node.
//
// node mqttjs_client.mjs --transport tcp|tls|ws|wss --port PORT [--ca FILE] --version 3.1.1|5 --passwords alice=…,bob=…
//
// Prints one line per step. The first one that fails ends it with status 1 and says why. The module is looked for in the
// folder that CLIENTS_NODE names.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';

const mqtt = createRequire(resolve(process.env.CLIENTS_NODE ?? '.', 'package.json'))('mqtt');
const PATIENCE_MS = 20_000;

const { values: options } = parseArgs({
  options: {
    transport: { type: 'string' },
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string' },
    ca: { type: 'string' },
    version: { type: 'string' },
    passwords: { type: 'string' },
    only: { type: 'string' },
  },
});
const passwords = Object.fromEntries(options.passwords.split(',').map((pair) => pair.split(/=(.*)/s)));
const scheme = { tcp: 'mqtt', tls: 'mqtts', ws: 'ws', wss: 'wss' }[options.transport];
const path = scheme.startsWith('ws') ? '/mqtt' : '';
const url = `${scheme}://${options.host}:${options.port}${path}`;

function check(condition, what) {
  if (!condition) throw new Error(what);
}

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// One connected client, and what has come in on it.
class Peer {
  static async open(user, clientId, { kept = false, will, password } = {}) {
    const peer = new Peer();
    peer.name = `${user}'s ${clientId}`;
    peer.inbox = [];
    peer.readers = [];
    peer.client = mqtt.connect(url, {
      protocolVersion: options.version === '5' ? 5 : 4,
      username: user,
      password: password ?? passwords[user],
      clientId,
      clean: !kept,
      properties: options.version === '5' ? { sessionExpiryInterval: kept ? 3600 : 0 } : undefined,
      will,
      reconnectPeriod: 0,
      resubscribe: false,
      ca: options.ca && readFileSync(options.ca),
    });
    // Before the CONNACK: a kept session may deliver right behind it.
    peer.client.on('message', (topic, payload, packet) => {
      const message = { topic, text: payload.toString(), qos: packet.qos, retain: packet.retain };
      // Events come whenever there is something to tell, and nobody here waits for one.
      if (topic.endsWith('/down') && message.text.startsWith('{"event"')) return;
      const reader = peer.readers.shift();
      if (reader) reader(message);
      else peer.inbox.push(message);
    });
    const connack = new Promise((resolve, reject) => {
      peer.client.once('connect', resolve);
      peer.client.once('error', reject);
      peer.client.once('close', () => reject(new Error(`${peer.name}: closed without CONNACK`)));
    });
    peer.sessionPresent = (await within(connack, `connecting ${peer.name}`)).sessionPresent;
    peer.client.on('error', () => {});
    return peer;
  }

  // The code in the SUBACK.
  async subscribe(topic, qos) {
    const subscribing = new Promise((resolve, reject) => {
      this.client.subscribe(topic, { qos }, (error, granted, packet) => {
        const code = packet?.granted?.[0] ?? error?.code;
        if (code === undefined) reject(error);
        else resolve(typeof code === 'object' ? code.qos : code);
      });
    });
    return within(subscribing, `${this.name} subscribing to ${topic}`);
  }

  publish(topic, payload, qos, retain = false) {
    const publishing = this.client.publishAsync(topic, payload, { qos, retain });
    return within(publishing, `${this.name} publishing to ${topic} at QoS ${qos}`);
  }

  next() {
    const message = this.inbox.shift();
    if (message) return Promise.resolve(message);
    return within(new Promise((resolve) => this.readers.push(resolve)), `${this.name} waiting for a message`);
  }

  leave() {
    return within(this.client.endAsync(), `${this.name} leaving`);
  }

  // Without DISCONNECT, as if the cable had been cut.
  vanish() {
    this.client.stream.destroy();
  }
}

const steps = {
  // A wrong password gets a CONNACK that says so.
  async refused() {
    const error = await Peer.open('alice', 'stranger', { password: 'wrong' }).then(() => null, (error) => error);
    check(error, 'let in with a wrong password');
    check([4, 5, 0x86, 0x87].includes(error.code), `no good CONNACK: ${error}`);
  },

  async chat() {
    const [alice, bob] = [await Peer.open('alice', 'chat'), await Peer.open('bob', 'chat')];
    for (const [person, uid] of [[alice, 'alice'], [bob, 'bob']]) {
      check((await person.subscribe(`imj/${uid}/down`, 1)) === 1, `${uid}: no SUBACK with QoS 1`);
    }
    for (const [sender, uid, other, name] of [[alice, 'alice', bob, 'bob'], [bob, 'bob', alice, 'alice']]) {
      const text = `hello ${name}, ${randomUUID()}`;
      const up = { clientMsgId: randomUUID(), send: { to: { user: name }, text } };
      await sender.publish(`imj/${uid}/up`, JSON.stringify(up), 1);
      const { reply } = JSON.parse((await sender.next()).text);
      check(reply?.ok, `${uid} sent, and was told ${JSON.stringify(reply)}`);
      const { message } = JSON.parse((await other.next()).text);
      check(message?.text === text && message.sender === uid, `${name} got ${JSON.stringify(message)}`);
    }
    await Promise.all([alice.leave(), bob.leave()]);
  },

  async plain() {
    const lamp = await Peer.open('alice', 'lamp');
    const topic = `dev/alice/${randomUUID()}/state`;
    check((await lamp.subscribe(topic, 2)) === 2, 'no SUBACK with QoS 2');
    for (const qos of [0, 1, 2]) {
      await lamp.publish(topic, `at ${qos}`, qos);
      const got = await lamp.next();
      const good = got.topic === topic && got.text === `at ${qos}` && got.qos === qos && !got.retain;
      check(good, `at QoS ${qos}: ${JSON.stringify(got)}`);
    }
    check((await lamp.subscribe('dev/bob/state', 1)) >= 0x80, "a foreign device's topic was granted");
    await lamp.leave();
  },

  async retained() {
    const lamp = await Peer.open('alice', 'lamp');
    const base = `dev/alice/${randomUUID()}`;
    for (const qos of [0, 1, 2]) await lamp.publish(`${base}/${qos}`, `kept at ${qos}`, qos, true);
    const viewer = await Peer.open('alice', 'viewer');
    check((await viewer.subscribe(`${base}/+`, 2)) === 2, 'no SUBACK with QoS 2');
    const got = [];
    for (let count = 0; count < 3; count += 1) got.push(await viewer.next());
    got.sort((a, b) => a.text.localeCompare(b.text));
    for (const [qos, message] of got.entries()) {
      const good = message.text === `kept at ${qos}` && message.qos === qos && message.retain;
      check(good, `retained: ${JSON.stringify(got)}`);
    }
    for (const qos of [0, 1, 2]) await lamp.publish(`${base}/${qos}`, '', 1, true);
    const late = await Peer.open('alice', 'late');
    await late.subscribe(`${base}/#`, 1);
    await lamp.publish(`${base}/now`, 'live', 1);
    const message = await late.next();
    check(message.text === 'live' && !message.retain, `after deleting: ${JSON.stringify(message)}`);
    await Promise.all([lamp, viewer, late].map((peer) => peer.leave()));
  },

  async wildcards() {
    const [viewer, lamp] = [await Peer.open('alice', 'viewer'), await Peer.open('alice', 'lamp')];
    const base = `dev/alice/${randomUUID()}`;
    await viewer.subscribe(`${base}/#`, 1);
    for (const topic of [base, `${base}/a`, `${base}/a/b/c`, `${base}/a//é`]) {
      await lamp.publish(topic, 'x', 1);
      const got = (await viewer.next()).topic;
      check(got === topic, `${topic} came as ${got}`);
    }
    await Promise.all([viewer.leave(), lamp.leave()]);
  },

  // A session that is kept gets at QoS 1 and 2 what came while it was away, without subscribing again.
  async away() {
    const topic = `dev/alice/${randomUUID()}`;
    await (await Peer.open('alice', 'keeper')).leave();
    let keeper = await Peer.open('alice', 'keeper', { kept: true });
    check(!keeper.sessionPresent, 'a session before there was one');
    await keeper.subscribe(topic, 2);
    await keeper.leave();
    const lamp = await Peer.open('alice', 'lamp');
    for (const qos of [1, 2]) await lamp.publish(topic, `at ${qos}`, qos);
    keeper = await Peer.open('alice', 'keeper', { kept: true });
    check(keeper.sessionPresent, 'the session is gone');
    for (const qos of [1, 2]) {
      const got = await keeper.next();
      check(got.text === `at ${qos}` && got.qos === qos, `while it was away: ${JSON.stringify(got)}`);
    }
    await Promise.all([keeper.leave(), lamp.leave()]);
    await (await Peer.open('alice', 'keeper')).leave();
  },

  async will() {
    const topic = `dev/alice/${randomUUID()}`;
    const viewer = await Peer.open('alice', 'viewer');
    await viewer.subscribe(topic, 1);
    const mortal = await Peer.open('alice', 'mortal', { will: { topic, payload: Buffer.from('gone'), qos: 1 } });
    mortal.vanish();
    const got = await viewer.next();
    check(got.topic === topic && got.text === 'gone', `instead of the will: ${JSON.stringify(got)}`);
    await viewer.leave();
  },
};

const chosen = options.only?.split(',') ?? Object.keys(steps);
for (const name of Object.keys(steps).filter((name) => chosen.includes(name))) {
  const started = Date.now();
  try {
    await steps[name]();
  } catch (error) {
    console.log(`FAILED ${name}: ${error?.message ?? error}`);
    process.exit(1);
  }
  console.log(`ok ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
}
process.exit(0);
