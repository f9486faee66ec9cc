//! How long the hot path's steps take: `cargo bench -p tidings-guard`, with a part of a name for some of them, and on a
//! machine that does nothing else.

use std::future::Future;
use std::num::NonZeroU16;

use bridge::serve::limits;
use bridge::service::command;
use bridge::settings::Settings;
use broker::codec::{Packet, PublishHead, Qos, Version, decode, decode_connect, encode_publish};
use bytes::{Bytes, BytesMut};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use schema::wire::encode_message;
use schema::{Format, Topic};
use tidings_guard::chat::Chat;
use tidings_guard::samples;
use tidings_guard::traffic::{Commands, FanOut, Plain};
use tokio::runtime::Builder;

const VERSIONS: [Version; 2] = [Version::V4, Version::V5];
const FORMATS: [Format; 2] = [Format::Protobuf, Format::Json];
const FILTERS: [usize; 3] = [1, 1_000, 100_000];

fn main() {
    divan::main();
}

mod codec {
    use super::*;

    fn bench_decode(bencher: Bencher<'_, '_>, version: Version, packet: &Packet) {
        let packet = samples::encoded(version, packet);
        bencher
            .counter(BytesCount::new(packet.len()))
            .with_inputs(|| BytesMut::from(&packet[..]))
            .bench_refs(|input| decode(version, input, usize::MAX));
    }

    #[divan::bench(args = VERSIONS, consts = [64, 1024])]
    fn decode_publish<const LENGTH: usize>(bencher: Bencher<'_, '_>, version: Version) {
        let payload = Bytes::from(vec![b'x'; LENGTH]);
        let packet = samples::publish(version, "im/user00000/up", NonZeroU16::MIN, payload);
        bench_decode(bencher, version, &packet);
    }

    #[divan::bench(args = VERSIONS)]
    fn decode_puback(bencher: Bencher<'_, '_>, version: Version) {
        bench_decode(bencher, version, &samples::puback(NonZeroU16::MIN));
    }

    #[divan::bench(args = VERSIONS)]
    fn decode_a_connect(bencher: Bencher<'_, '_>, version: Version) {
        let packet = samples::encoded(version, &samples::connect(version, &samples::uid(0)));
        bencher
            .with_inputs(|| BytesMut::from(&packet[..]))
            .bench_refs(|input| decode_connect(input, usize::MAX));
    }

    #[divan::bench(args = VERSIONS)]
    fn encode_delivery(bencher: Bencher<'_, '_>, version: Version) {
        let payload = encode_message(&samples::message(1, 64));
        let head = PublishHead {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: "im/user00000/down",
            packet_id: Some(NonZeroU16::MIN),
            properties: None,
        };
        bencher
            .with_inputs(|| BytesMut::with_capacity(1024))
            .bench_refs(|out| encode_publish(version, out, head, &payload));
    }
}

mod topics {
    use super::*;

    /// Of chat, of one's own devices, granted, opened by a rule, and of nobody.
    const TOPICS: [&str; 5] = [
        "im/user00000/up",
        "dev/user00000/lamp/state",
        samples::LAMP,
        "site/5/floor/5/lamp",
        "dev/user00002/lamp/state",
    ];

    #[divan::bench(args = TOPICS)]
    fn parse(topic: &str) -> Topic {
        Topic::parse(black_box(topic))
    }

    #[divan::bench(args = TOPICS)]
    fn may_publish(bencher: Bencher<'_, '_>, topic: &str) {
        let (rights, user) = (samples::rights().expect("rules"), samples::uid(0));
        bencher.bench(|| rights.may_publish(&user, "phone", black_box(topic)));
    }

    #[divan::bench(args = TOPICS)]
    fn may_receive(bencher: Bencher<'_, '_>, topic: &str) {
        let (rights, user) = (samples::rights().expect("rules"), samples::uid(0));
        bencher.bench(|| rights.may_receive(&user, "phone", black_box(topic)));
    }

    #[divan::bench(args = FILTERS)]
    fn matching_filters(bencher: Bencher<'_, '_>, count: usize) {
        let filters = samples::filters(count);
        bencher.bench(|| filters.count_matching(black_box(samples::LAMP)));
    }
}

mod payload {
    use super::*;

    #[divan::bench(args = FORMATS)]
    fn read_command(bencher: Bencher<'_, '_>, format: Format) {
        let up = samples::send(&samples::uid(1), "message-1".to_owned(), 64);
        let payload = samples::written(format, &up);
        bencher.bench(|| format.decode_up(black_box(payload.clone())));
    }

    #[divan::bench]
    fn check_command(bencher: Bencher<'_, '_>) {
        let (limits, user) = (limits(&Settings::defaults()), samples::uid(0));
        bencher
            .with_inputs(|| samples::send(&samples::uid(1), "message-1".to_owned(), 64))
            .bench_values(|up| command::check(&user, up, &limits));
    }

    /// What a fan-out costs once, if anybody wants JSON.
    #[divan::bench]
    fn message_to_json(bencher: Bencher<'_, '_>) {
        let payload = encode_message(&samples::message(1, 64));
        bencher.bench(|| Format::Json.from_protobuf(black_box(&payload)));
    }
}

/// Steps of the real edge and the real service, each on one thread of its own.
mod traffic {
    use super::*;

    fn bench_steps<T>(
        bencher: Bencher<'_, '_>,
        messages: usize,
        begin: impl Future<Output = anyhow::Result<T>>,
        step: impl AsyncFn(&mut T) -> anyhow::Result<()>,
    ) {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut traffic = runtime.block_on(begin).expect("everything is set up");
        bencher
            .counter(ItemsCount::new(messages))
            .bench_local(|| runtime.block_on(step(&mut traffic)).expect("all of a step"));
    }

    #[divan::bench]
    fn commands(bencher: Bencher<'_, '_>) {
        let step = Commands::step;
        bench_steps(bencher, Commands::PER_STEP, Commands::new(), step);
    }

    #[divan::bench(args = [1, 500])]
    fn fan_out(bencher: Bencher<'_, '_>, members: usize) {
        let group = FanOut::new(members, &FORMATS, 64);
        bench_steps(bencher, members, group, FanOut::step);
    }

    #[divan::bench(args = FILTERS)]
    fn plain(bencher: Bencher<'_, '_>, filters: usize) {
        bench_steps(bencher, Plain::PER_STEP, Plain::new(filters), Plain::step);
    }

    #[divan::bench]
    fn store(bencher: Bencher<'_, '_>) {
        bench_steps(bencher, Chat::PER_ROUND, Chat::new(50), Chat::round);
    }
}
