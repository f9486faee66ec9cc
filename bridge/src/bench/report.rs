//! What was measured, for people and as JSON.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::ChatOptions;
use super::check::Conversations;
use super::faults::Checked;
use super::process::Usage;
use super::schedule::Phases;

/// Latencies are told apart to three digits, and up to this many microseconds.
const LATENCY_MAX: u64 = 10 * 60 * 1_000_000;

/// What one client has measured since it last handed its samples over.
#[derive(Debug, Default)]
pub(super) struct Samples {
    sent: u64,
    stored: u64,
    delivered: u64,
    stored_in: Vec<u64>,
    delivered_in: Vec<u64>,
}

impl Samples {
    /// A message was published.
    pub(super) fn sent(&mut self, phases: Phases, now: u64) {
        self.sent += u64::from(phases.is_measured(now));
    }

    /// The PUBACK came of a message that was due at `due`.
    pub(super) fn stored(&mut self, phases: Phases, due: u64, now: u64) {
        self.stored += u64::from(phases.is_measured(now));
        if phases.is_measured(due) {
            self.stored_in.push(now.saturating_sub(due) / 1000);
        }
    }

    /// A message of the peer came, that was due at `due`.
    pub(super) fn delivered(&mut self, phases: Phases, due: u64, now: u64) {
        self.delivered += u64::from(phases.is_measured(now));
        if phases.is_measured(due) {
            self.delivered_in.push(now.saturating_sub(due) / 1000);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent + self.stored + self.delivered == 0
            && self.stored_in.is_empty()
            && self.delivered_in.is_empty()
    }
}

/// What all clients have measured. Rates count what happened in the measured time; latencies are those of the messages
/// that were due in it, however late they came.
pub(super) struct Tally {
    sent: u64,
    stored: u64,
    delivered: u64,
    stored_in: Histogram<u64>,
    delivered_in: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            sent: 0,
            stored: 0,
            delivered: 0,
            stored_in: latencies(),
            delivered_in: latencies(),
        }
    }
}

impl Tally {
    /// Takes everything out of `samples`.
    pub(super) fn add(&mut self, samples: &mut Samples) {
        self.sent += std::mem::take(&mut samples.sent);
        self.stored += std::mem::take(&mut samples.stored);
        self.delivered += std::mem::take(&mut samples.delivered);
        for micros in samples.stored_in.drain(..) {
            self.stored_in.saturating_record(micros);
        }
        for micros in samples.delivered_in.drain(..) {
            self.delivered_in.saturating_record(micros);
        }
    }
}

/// The outcome of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    ok: bool,
    load: Load,
    sent_per_second: f64,
    stored_per_second: f64,
    delivered_per_second: f64,
    /// From when a message was due to its PUBACK.
    stored_in: Quantiles,
    /// From when a message was due to its arrival at the peer.
    delivered_in: Quantiles,
    generator: Option<Cpu>,
    server: Option<Cpu>,
    /// Server and generator together, where they are one process. What follows is then of both, too.
    process: Option<Cpu>,
    server_rss_peak_bytes: Option<u64>,
    /// Before the run, when passwords were hashed.
    server_rss_peak_before_bytes: Option<u64>,
    check: Checked,
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Load {
    users: u32,
    window: u16,
    /// Messages per second; 0: as the window allows.
    rate: u32,
    size_bytes: u32,
    format: &'static str,
    seconds: u32,
    warmup_seconds: u32,
}

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

/// CPU time within the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    seconds: f64,
    cores: f64,
    /// Per stored message; also the milliseconds per 1,000 of them.
    micros_per_message: f64,
}

impl Cpu {
    fn new(spent: Duration, measured_secs: u32, stored: u64) -> Cpu {
        let seconds = spent.as_secs_f64();
        Cpu {
            seconds,
            cores: seconds / f64::from(measured_secs),
            micros_per_message: seconds * 1e6 / stored.max(1) as f64,
        }
    }
}

impl Report {
    pub(super) fn new(
        options: &ChatOptions,
        tally: &Tally,
        usage: Usage,
        mut check: Conversations,
    ) -> Report {
        if tally.stored == 0 {
            check
                .faults
                .note("nothing measured", || "no PUBACK came in time".to_owned());
        }
        let check = check.into_checked();
        let per_second = |count: u64| count as f64 / f64::from(options.seconds);
        let cpu = |spent| Cpu::new(spent, options.seconds, tally.stored);
        Report {
            ok: check.is_ok(),
            load: Load::from(options),
            sent_per_second: per_second(tally.sent),
            stored_per_second: per_second(tally.stored),
            delivered_per_second: per_second(tally.delivered),
            stored_in: Quantiles::from(&tally.stored_in),
            delivered_in: Quantiles::from(&tally.delivered_in),
            generator: usage.generator_cpu.map(cpu),
            server: usage.server_cpu.map(cpu),
            process: usage.shared_cpu.map(cpu),
            server_rss_peak_bytes: usage.server_rss_peak,
            server_rss_peak_before_bytes: usage.server_rss_peak_before,
            check,
        }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.ok
    }

    /// Microseconds of CPU time of the server, or of the process that it shares with the generator.
    pub(super) fn cpu_per_message(&self) -> Option<f64> {
        let cpu = self.server.or(self.process);
        cpu.map(|cpu| cpu.micros_per_message)
    }

    /// From when a message was due to its arrival at the peer, in microseconds: the median.
    pub(super) fn delivered_in(&self) -> u64 {
        self.delivered_in.p50_micros
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

/// For microseconds.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX, 3).expect("three digits up to minutes are possible")
}

impl From<&ChatOptions> for Load {
    fn from(options: &ChatOptions) -> Self {
        Load {
            users: options.users,
            window: options.window,
            rate: options.rate,
            size_bytes: options.size,
            format: match options.format {
                super::WireFormat::Protobuf => "protobuf",
                super::WireFormat::Json => "json",
            },
            seconds: options.seconds,
            warmup_seconds: options.warmup,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.load)?;
        writeln!(f, "sent       {:>9.0} /s", self.sent_per_second)?;
        writeln!(
            f,
            "stored     {:>9.0} /s  {}",
            self.stored_per_second, self.stored_in
        )?;
        writeln!(
            f,
            "delivered  {:>9.0} /s  {}",
            self.delivered_per_second, self.delivered_in
        )?;
        if let Some(cpu) = &self.server {
            writeln!(f, "server     {cpu}")?;
        }
        if let Some(cpu) = &self.process {
            writeln!(f, "process    {cpu}, server and generator together")?;
        }
        if let Some(peak) = self.server_rss_peak_bytes {
            write!(f, "           {} peak RSS", Mib(peak))?;
            match self.server_rss_peak_before_bytes {
                Some(before) => writeln!(f, " (before the run: {})", Mib(before))?,
                None => writeln!(f)?,
            }
        }
        if let Some(cpu) = &self.generator {
            writeln!(f, "generator  {cpu}")?;
        }
        write!(f, "{}", self.check)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} users in pairs, {} bytes as {}, ",
            self.users, self.size_bytes, self.format
        )?;
        match self.rate {
            0 => write!(f, "window {}", self.window)?,
            rate => write!(f, "{rate}/s (window {})", self.window)?,
        }
        write!(
            f,
            ", {} s after {} s of warm-up",
            self.seconds, self.warmup_seconds
        )
    }
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

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} µs of CPU per message ({:.4} s per 1,000; {:.2} cores)",
            self.micros_per_message,
            self.micros_per_message / 1000.0,
            self.cores
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn rates_count_events_and_latencies_count_messages() {
        // Measured from 1 s to 3 s.
        let phases = Phases::new(1, 2);
        let mut samples = Samples::default();
        samples.sent(phases, 999 * MS);
        samples.stored(phases, 999 * MS, 1001 * MS);
        samples.sent(phases, 2000 * MS);
        samples.stored(phases, 2000 * MS, 2003 * MS);
        samples.delivered(phases, 2000 * MS, 2004 * MS);
        samples.sent(phases, 2999 * MS);
        samples.stored(phases, 2999 * MS, 3009 * MS);
        samples.delivered(phases, 2999 * MS, 3019 * MS);
        let mut tally = Tally::default();
        tally.add(&mut samples);
        assert!(samples.is_empty());
        assert_eq!((tally.sent, tally.stored, tally.delivered), (2, 2, 1));
        let stored_in = Quantiles::from(&tally.stored_in);
        assert_eq!((stored_in.count, stored_in.p50_micros), (2, 3001));
        assert_eq!(stored_in.max_micros, 10_007);
        assert_eq!(Quantiles::from(&tally.delivered_in).count, 2);
    }

    #[test]
    fn cpu_is_per_stored_message() {
        let cpu = Cpu::new(Duration::from_secs(5), 10, 100_000);
        assert_eq!(
            cpu.to_string(),
            "50.0 µs of CPU per message (0.0500 s per 1,000; 0.50 cores)"
        );
        assert_eq!(Cpu::new(Duration::ZERO, 10, 0).micros_per_message, 0.0);
    }
}
