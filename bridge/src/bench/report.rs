//! Measurements for people and as JSON.

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Quantiles {
    count: u64,
    p50_micros: u64,
    p99_micros: u64,
    p999_micros: u64,
    max_micros: u64,
}

impl From<&Histogram<u64>> for Quantiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        Quantiles {
            count: histogram.len(),
            p50_micros: histogram.value_at_quantile(0.5),
            p99_micros: histogram.value_at_quantile(0.99),
            p999_micros: histogram.value_at_quantile(0.999),
            max_micros: histogram.max(),
        }
    }
}

/// Prints a report, and writes it as JSON to `json` (`-`: the standard output, which is then free of text).
pub(super) fn write<R: fmt::Display + Serialize>(
    report: &R,
    json: Option<&Path>,
) -> anyhow::Result<()> {
    let Some(path) = json else {
        print!("{report}");
        return Ok(());
    };
    let text = serde_json::to_string_pretty(report)? + "\n";
    if path == Path::new("-") {
        eprint!("{report}");
        let written = std::io::stdout().write_all(text.as_bytes());
        return written.context("writing the report");
    }
    print!("{report}");
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |micros: u64| micros as f64 / 1000.0;
        write!(
            f,
            "p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  max {:.2} ms",
            millis(self.p50_micros),
            millis(self.p99_micros),
            millis(self.p999_micros),
            millis(self.max_micros)
        )
    }
}

/// Bytes for people.
pub(super) struct Mib(pub(super) u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1024 * 1024))
    }
}
