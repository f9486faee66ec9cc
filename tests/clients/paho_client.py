"""What every MQTT client may do here, done by Eclipse Paho's Python client.

paho_client.py --transport tcp|tls|ws|wss --port PORT [--ca FILE] --version 3.1.1|5 --passwords alice=…,bob=…

Prints one line per step. The first one that fails ends it with status 1 and says why.
"""

import argparse
import json
import queue
import socket
import sys
import time
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 20


class Failed(Exception):
    """A step that went wrong."""


def check(condition, what):
    if not condition:
        raise Failed(what)


class Peer:
    """One connected client, and what has come in on it."""

    def __init__(self, options, user, client_id, kept=False, will=None, password=None):
        self.version = mqtt.MQTTv5 if options.version == "5" else mqtt.MQTTv311
        self.name = f"{user}'s {client_id}"
        transport = "websockets" if options.transport in ("ws", "wss") else "tcp"
        arguments = {"client_id": client_id, "protocol": self.version, "transport": transport}
        if self.version == mqtt.MQTTv311:
            arguments["clean_session"] = not kept
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False, **arguments)
        self.client.username_pw_set(user, password or options.passwords[user])
        if options.transport in ("tls", "wss"):
            self.client.tls_set(ca_certs=options.ca)
        if will:
            self.client.will_set(will[0], will[1], qos=1)
        self.events = queue.Queue()
        self.messages = queue.Queue()
        self.client.on_connect = lambda c, u, flags, reason, p: self.events.put(("connack", flags, reason))
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.events.put(("suback", mid, reasons))
        self.client.on_message = lambda c, u, message: self.on_message(message)
        self.connect(options, kept)

    def on_message(self, message):
        # Events come whenever there is something to tell, and nobody here waits for one.
        is_event = message.topic.endswith("/down") and message.payload.startswith(b'{"event"')
        if not is_event:
            self.messages.put(message)

    def connect(self, options, kept):
        arguments = {"keepalive": 60}
        if self.version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if kept else 0
            arguments |= {"clean_start": not kept, "properties": properties}
        self.client.connect(options.host, options.port, **arguments)
        self.client.loop_start()
        _, self.flags, self.reason = self.event("connack")

    def event(self, kind):
        try:
            event = self.events.get(timeout=PATIENCE)
        except queue.Empty:
            raise Failed(f"{self.name}: no {kind} within {PATIENCE} s") from None
        check(event[0] == kind, f"{self.name}: {event} instead of {kind}")
        return event

    def subscribe(self, topic, qos):
        result, mid = self.client.subscribe(topic, qos)
        check(result == mqtt.MQTT_ERR_SUCCESS, f"{self.name}: subscribing to {topic}: {result}")
        _, answered, reasons = self.event("suback")
        check(answered == mid, f"{self.name}: SUBACK {answered} instead of {mid}")
        return reasons[0].value

    def publish(self, topic, payload, qos, retain=False):
        info = self.client.publish(topic, payload, qos, retain)
        info.wait_for_publish(PATIENCE)
        check(info.is_published(), f"{self.name}: {topic} at QoS {qos} is not acknowledged")

    def next(self):
        try:
            return self.messages.get(timeout=PATIENCE)
        except queue.Empty:
            raise Failed(f"{self.name}: no message within {PATIENCE} s") from None

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """Without DISCONNECT, as if the cable had been cut."""
        self.client.loop_stop()
        below = self.client.socket()
        getattr(below, "_socket", below).shutdown(socket.SHUT_RDWR)


def refused(options):
    """A wrong password gets a CONNACK that says so."""
    stranger = Peer(options, "alice", "stranger", password="wrong")
    check(stranger.reason.is_failure, f"let in with a wrong password: {stranger.reason}")


def chat(options):
    alice, bob = Peer(options, "alice", "chat"), Peer(options, "bob", "chat")
    for person, uid in (alice, "alice"), (bob, "bob"):
        check(person.subscribe(f"imj/{uid}/down", 1) == 1, f"{uid}: no SUBACK with QoS 1")
    for sender, uid, other, name in (alice, "alice", bob, "bob"), (bob, "bob", alice, "alice"):
        text = f"hello {name}, {uuid.uuid4()}"
        up = {"clientMsgId": uuid.uuid4().hex, "send": {"to": {"user": name}, "text": text}}
        sender.publish(f"imj/{uid}/up", json.dumps(up), 1)
        reply = json.loads(sender.next().payload)
        check("ok" in reply.get("reply", {}), f"{uid} sent, and was told {reply}")
        message = json.loads(other.next().payload).get("message", {})
        check((message.get("text"), message.get("sender")) == (text, uid), f"{name} got {message}")
    alice.leave()
    bob.leave()


def plain(options):
    lamp = Peer(options, "alice", "lamp")
    topic = f"dev/alice/{uuid.uuid4().hex}/state"
    check(lamp.subscribe(topic, 2) == 2, "no SUBACK with QoS 2")
    for qos in 0, 1, 2:
        lamp.publish(topic, f"at {qos}", qos)
        message = lamp.next()
        got = (message.topic, message.payload, message.qos, message.retain)
        check(got == (topic, f"at {qos}".encode(), qos, False), f"at QoS {qos}: {got}")
    check(lamp.subscribe("dev/bob/state", 1) >= 0x80, "a foreign device's topic was granted")
    lamp.leave()


def retained(options):
    lamp = Peer(options, "alice", "lamp")
    base = f"dev/alice/{uuid.uuid4().hex}"
    for qos in 0, 1, 2:
        lamp.publish(f"{base}/{qos}", f"kept at {qos}", qos, retain=True)
    viewer = Peer(options, "alice", "viewer")
    check(viewer.subscribe(f"{base}/+", 2) == 2, "no SUBACK with QoS 2")
    got = sorted((m.payload.decode(), m.qos, m.retain) for m in (viewer.next() for _ in range(3)))
    expected = [(f"kept at {qos}", qos, True) for qos in (0, 1, 2)]
    check(got == expected, f"retained: {got}")
    for qos in 0, 1, 2:
        lamp.publish(f"{base}/{qos}", b"", 1, retain=True)
    late = Peer(options, "alice", "late")
    late.subscribe(f"{base}/#", 1)
    lamp.publish(f"{base}/now", "live", 1)
    message = late.next()
    check((message.payload, message.retain) == (b"live", False), f"after deleting: {message.payload}")
    for client in lamp, viewer, late:
        client.leave()


def wildcards(options):
    viewer = Peer(options, "alice", "viewer")
    lamp = Peer(options, "alice", "lamp")
    base = f"dev/alice/{uuid.uuid4().hex}"
    viewer.subscribe(f"{base}/#", 1)
    for topic in base, f"{base}/a", f"{base}/a/b/c", f"{base}/a//é":
        lamp.publish(topic, "x", 1)
        got = viewer.next().topic
        check(got == topic, f"{topic} came as {got}")
    viewer.leave()
    lamp.leave()


def away(options):
    """A session that is kept gets at QoS 1 and 2 what came while it was away, without subscribing again."""
    topic = f"dev/alice/{uuid.uuid4().hex}"
    Peer(options, "alice", "keeper").leave()
    keeper = Peer(options, "alice", "keeper", kept=True)
    check(not keeper.flags.session_present, "a session before there was one")
    keeper.subscribe(topic, 2)
    keeper.leave()
    lamp = Peer(options, "alice", "lamp")
    for qos in 1, 2:
        lamp.publish(topic, f"at {qos}", qos)
    keeper = Peer(options, "alice", "keeper", kept=True)
    check(keeper.flags.session_present, "the session is gone")
    got = [(m.payload, m.qos) for m in (keeper.next() for _ in range(2))]
    check(got == [(b"at 1", 1), (b"at 2", 2)], f"while it was away: {got}")
    keeper.leave()
    Peer(options, "alice", "keeper").leave()
    lamp.leave()


def will(options):
    topic = f"dev/alice/{uuid.uuid4().hex}"
    viewer = Peer(options, "alice", "viewer")
    viewer.subscribe(topic, 1)
    Peer(options, "alice", "mortal", will=(topic, "gone")).vanish()
    message = viewer.next()
    check((message.topic, message.payload) == (topic, b"gone"), f"instead of the will: {message.payload}")
    viewer.leave()


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--transport", choices=["tcp", "tls", "ws", "wss"], required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca")
    parser.add_argument("--version", choices=["3.1.1", "5"], required=True)
    parser.add_argument("--passwords", required=True)
    parser.add_argument("--only", help="steps, separated by commas")
    parsed = parser.parse_args()
    parsed.passwords = dict(pair.split("=", 1) for pair in parsed.passwords.split(","))
    return parsed


def main():
    parsed = options()
    steps = [refused, chat, plain, retained, wildcards, away, will]
    if parsed.only:
        steps = [step for step in steps if step.__name__ in parsed.only.split(",")]
    for step in steps:
        started = time.monotonic()
        try:
            step(parsed)
        except (Failed, OSError, ValueError) as error:
            print(f"FAILED {step.__name__}: {error}", flush=True)
            sys.exit(1)
        print(f"ok {step.__name__} ({time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
