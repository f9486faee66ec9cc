//! `google.protobuf.Timestamp`, whose JSON form ends in `Z`, as canonical protobuf JSON asks
//! (`pbjson-types` writes `+00:00`).

use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds beyond them, 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// `millis` milliseconds after 1970.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Timestamp {
            seconds: millis.div_euclid(1000),
            nanos: i32::try_from(millis.rem_euclid(1000)).unwrap_or_default() * 1_000_000,
        }
    }

    fn to_system_time(self) -> Option<SystemTime> {
        let (seconds, nanos) = (self.seconds.try_into().ok()?, self.nanos.try_into().ok()?);
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
    }

    fn from_system_time(time: SystemTime) -> Option<Self> {
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Timestamp {
            seconds: since_1970.as_secs().try_into().ok()?,
            nanos: since_1970.subsec_nanos().try_into().ok()?,
        })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = self
            .to_system_time()
            .ok_or_else(|| serde::ser::Error::custom("a timestamp is before 1970"))?;
        // 0, 3 or 9 digits of a second, whatever holds it.
        let text = match self.nanos {
            0 => humantime::format_rfc3339_seconds(time),
            nanos if nanos % 1_000_000 == 0 => humantime::format_rfc3339_millis(time),
            _ => humantime::format_rfc3339_nanos(time),
        };
        serializer.collect_str(&text)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = parse(&text).ok_or_else(|| D::Error::custom("a timestamp is not RFC 3339"))?;
        Timestamp::from_system_time(time)
            .ok_or_else(|| D::Error::custom("a timestamp is out of range"))
    }
}

/// RFC 3339 with `Z` or another offset: what is written has `Z`, what is read need not.
fn parse(text: &str) -> Option<SystemTime> {
    const DATE: usize = "2026-11-21".len();
    let Some(at) = text.rfind(['+', '-']).filter(|at| *at > DATE) else {
        return humantime::parse_rfc3339(text).ok();
    };
    let (hours, minutes) = text[at + 1..].split_once(':')?;
    let (hours, minutes) = (two_digits(hours, 23)?, two_digits(minutes, 59)?);
    let offset = Duration::from_secs((hours * 60 + minutes) * 60);
    let local = humantime::parse_rfc3339(&format!("{}Z", &text[..at])).ok()?;
    if text[at..].starts_with('+') {
        local.checked_sub(offset)
    } else {
        local.checked_add(offset)
    }
}

fn two_digits(text: &str, max: u64) -> Option<u64> {
    let is_number = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|number| *number <= max);
    number.filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_canonical() {
        for (millis, text) in [
            (0, r#""1970-01-01T00:00:00Z""#),
            (1_795_000_000_123, r#""2026-11-18T11:06:40.123Z""#),
        ] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(serde_json::to_string(&time).unwrap(), text);
            assert_eq!(serde_json::from_str::<Timestamp>(text).unwrap(), time);
        }
        assert!(serde_json::from_str::<Timestamp>(r#""yesterday""#).is_err());
    }

    #[test]
    fn json_may_have_other_offsets() {
        let read = |text: &str| serde_json::from_value::<Timestamp>(text.into());
        let expected = read("2026-11-18T11:06:40.5Z").unwrap();
        for same in [
            "2026-11-18T19:06:40.5+08:00",
            "2026-11-18T06:36:40.500-04:30",
            "2026-11-18T11:06:40.5+00:00",
            "2026-11-19T10:06:40.5+23:00",
        ] {
            assert_eq!(read(same).unwrap(), expected, "{same}");
        }
        for bad in [
            "",
            "+",
            "2026-11-18",
            "2026-11-18T11:06:40.5",
            "2026-11-18T11:06:40.5+0800",
            "2026-11-18T11:06:40.5+24:00",
            "2026-11-18T11:06:40.5+08:60",
            "2026-11-18T11:06:40.5+8:00",
            "2026-11-18T11:06:40.5++8:00",
            "2026-11-18T11:06:40.5Z+08:00",
            "1970-01-01T00:00:00+00:01",
            "2026-11-18T11:06:40é-08:00",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_before_1970_are_not_written() {
        assert!(serde_json::to_string(&Timestamp::from_millis(-1)).is_err());
    }
}
