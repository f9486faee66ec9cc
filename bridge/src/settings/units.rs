//! Values as an operator writes them: durations and sizes with units, lists separated by commas.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error};

/// `"10s"`, `"1h 30m"`.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map_err(|error| refuse(&text, "a duration like \"10s\"", error))
}

/// A duration; `"0"` stands for none.
pub(super) fn duration_or_none<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    Ok(Some(duration(from)?).filter(|duration| !duration.is_zero()))
}

/// `"64 KiB"`, or a plain number of bytes.
pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    const SIZE: &str = "a size like \"64 KiB\"";
    let text = String::deserialize(from)?;
    let size: ByteSize = text.parse().map_err(|error| refuse(&text, SIZE, error))?;
    usize::try_from(size.as_u64()).map_err(|error| refuse(&text, SIZE, error))
}

/// A list of addresses with ports, or one text that separates them by commas.
pub(super) fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    texts(from)?.iter().map(|text| address(text)).collect()
}

/// A list of IP addresses and networks, or one text that separates them by commas.
pub(super) fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    texts(from)?.iter().map(|text| network(text)).collect()
}

fn network<E: Error>(text: &str) -> Result<IpNet, E> {
    let network = text.parse::<IpNet>();
    network
        .or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error))
        .map_err(|error| refuse(text, "a network like \"10.0.0.0/8\"", error))
}

/// A list of texts, or one text that separates them by commas.
pub(super) fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let mut texts = match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        OneOrMany::Many(texts) => texts,
    };
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}

fn address<E: Error>(text: &str) -> Result<SocketAddr, E> {
    text.parse().map_err(|error| {
        refuse(
            text,
            "an IP address with a port like \"127.0.0.1:1883\"",
            error,
        )
    })
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn refuse<E: Error>(text: &str, expected: &str, error: impl Display) -> E {
    E::custom(format!("{text:?} is not {expected}: {error}"))
}
