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
        let time = humantime::parse_rfc3339(&text).map_err(D::Error::custom)?;
        Timestamp::from_system_time(time)
            .ok_or_else(|| D::Error::custom("a timestamp is out of range"))
    }
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
        assert!(serde_json::to_string(&Timestamp::from_millis(-1)).is_err());
    }
}
