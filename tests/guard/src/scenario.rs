//! Named pieces of work, whose instructions `tests/instructions` counts.

use std::future::Future;
use std::hint::black_box;
use std::num::NonZeroU16;

use anyhow::{Context as _, ensure};
use bridge::serve::limits;
use bridge::service::command;
use bridge::settings::Settings;
use broker::codec::{Version, decode};
use bytes::{Bytes, BytesMut};
use schema::{Format, Topic};

use crate::chat::Chat;
use crate::samples;
use crate::traffic::{Commands, FanOut, Plain};

/// A piece of work. Done twice as often it costs twice as much, but for what has to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called in `tests/instructions.toml`.
    pub name: &'static str,
    /// How often it is done to be counted.
    pub times: usize,
    /// Does it so often.
    run: fn(usize) -> anyhow::Result<()>,
}

/// All of them. A constant's closures, and what they call, would be compiled again in the program.
pub static ALL: [Scenario; 8] = [
    Scenario {
        name: "decode",
        times: 2_500,
        run: decode_publishes,
    },
    Scenario {
        name: "topics",
        times: 1_000,
        run: judge_topics,
    },
    Scenario {
        name: "commands",
        times: 5_000,
        run: read_commands,
    },
    Scenario {
        name: "edge",
        times: 32,
        run: |times| block_on(through_the_edge(times)),
    },
    Scenario {
        name: "fan-out",
        times: 20,
        run: |times| block_on(fan_out(times)),
    },
    Scenario {
        name: "fan-out-json",
        times: 20,
        run: |times| block_on(fan_out_json(times)),
    },
    Scenario {
        name: "plain",
        times: 16,
        run: |times| block_on(plain(times)),
    },
    Scenario {
        name: "round",
        times: 8,
        run: |times| block_on(rounds(times)),
    },
];

impl Scenario {
    /// The one with this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        ALL.iter().find(|scenario| scenario.name == name).copied()
    }

    /// Does it so often.
    ///
    /// # Errors
    /// It does not come to what it should: then it is not worth counting.
    pub fn run(&self, times: usize) -> anyhow::Result<()> {
        (self.run)(times)
    }
}

/// On one thread, so that it is done in the same order each time.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

/// Four PUBLISH packets: of both versions, with 64 and with 1024 bytes.
fn decode_publishes(times: usize) -> anyhow::Result<()> {
    for version in [Version::V4, Version::V5] {
        for length in [64, 1024] {
            let payload = Bytes::from(vec![b'x'; length]);
            let packet = samples::publish(version, "im/user00000/up", NonZeroU16::MIN, payload);
            let packet = samples::encoded(version, &packet);
            for _ in 0..times {
                let mut input = BytesMut::from(&packet[..]);
                let decoded = decode(version, black_box(&mut input), usize::MAX)?;
                ensure!(black_box(decoded).is_some());
            }
        }
    }
    Ok(())
}

/// Topics of all kinds, each looked at as a publish to it would be.
fn judge_topics(times: usize) -> anyhow::Result<()> {
    let filters = samples::filters(10_000);
    let rights = samples::rights()?;
    let user = samples::uid(0);
    for _ in 0..times {
        for (topic, is_plain, is_open, matching) in [
            ("im/user00000/up", false, false, 0),
            ("imj/user00000/down", false, false, 0),
            (samples::LAMP, true, true, 2),
            ("dev/user00000/lamp/state", true, true, 0),
            ("dev/user00002/lamp/state", true, false, 0),
            ("site/5/floor/5/lamp", true, true, 1),
            ("site/5/secret/5/lamp", true, false, 0),
            ("by/user00000/phone/news", true, true, 0),
        ] {
            let topic = black_box(topic);
            let parsed = black_box(Topic::parse(topic));
            let may_publish = rights.may_publish(&user, "phone", topic);
            let may_receive = rights.may_receive(&user, "phone", topic);
            let found = (
                parsed == Topic::Other,
                may_publish && may_receive,
                filters.count_matching(topic),
            );
            ensure!(found == (is_plain, is_open, matching), "{topic}: {found:?}");
        }
    }
    Ok(())
}

/// A command in each format, read and checked.
fn read_commands(times: usize) -> anyhow::Result<()> {
    let limits = limits(&Settings::defaults());
    let user = samples::uid(0);
    let up = samples::send(&samples::uid(1), "message-1".to_owned(), 64);
    for format in [Format::Protobuf, Format::Json] {
        let payload = samples::written(format, &up);
        for _ in 0..times {
            let up = format.decode_up(black_box(payload.clone()))?;
            black_box(command::check(&user, up, &limits)?);
        }
    }
    Ok(())
}

/// [`Commands::PER_STEP`] publishes, to the bridge and back.
async fn through_the_edge(times: usize) -> anyhow::Result<()> {
    let mut commands = Commands::new().await?;
    for _ in 0..times {
        commands.step().await?;
    }
    Ok(())
}

/// A short message to a group of 500, half of whom want JSON.
async fn fan_out(times: usize) -> anyhow::Result<()> {
    deliver(times, &[Format::Protobuf, Format::Json], 64).await
}

/// A long message to a group of 500 who all want JSON. Written once for all of them it costs little beside the deliveries;
/// written for each it would be most of the work.
async fn fan_out_json(times: usize) -> anyhow::Result<()> {
    deliver(times, &[Format::Json], 16 * 1024).await
}

async fn deliver(times: usize, formats: &[Format], text_length: usize) -> anyhow::Result<()> {
    let mut group = FanOut::new(500, formats, text_length).await?;
    for _ in 0..times {
        group.step().await.context("a message was not delivered")?;
    }
    Ok(())
}

/// [`Plain::PER_STEP`] publishes among 10,000 filters.
async fn plain(times: usize) -> anyhow::Result<()> {
    let mut plain = Plain::new(10_000).await?;
    for _ in 0..times {
        plain.step().await?;
    }
    Ok(())
}

/// [`Chat::PER_ROUND`] messages in 50 conversations, stored and answered.
async fn rounds(times: usize) -> anyhow::Result<()> {
    let mut chat = Chat::new(50).await?;
    for _ in 0..times {
        chat.round().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_does_what_is_counted() {
        for scenario in &ALL {
            let found = Scenario::find(scenario.name).unwrap();
            found.run(2).unwrap_or_else(|error| {
                panic!("{}: {error:#}", scenario.name);
            });
        }
    }
}
