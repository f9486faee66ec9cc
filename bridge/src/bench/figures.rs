//! What a load came to, as figures that people compare.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::check::{Conversations, Promises};
use super::process::Usage;
use super::results::{Figure, Run, Unit};
use super::tally::{Counts, Tally};

/// Makes a run of what was measured.
pub(super) fn run(
    promises: Promises,
    tally: &Tally,
    usage: &Usage,
    mut checked: Conversations,
) -> Run {
    let counts = tally.counts();
    if counts.stored == 0 {
        let example = || "no PUBACK came in time".to_owned();
        checked.faults.note("nothing measured", example);
    }
    let mut series = tally.series();
    for (second, server) in series.iter_mut().zip(&usage.seconds) {
        second.server_cpu = server.cpu.map(|cpu| cpu.as_secs_f64());
        second.server_rss_bytes = server.rss;
    }
    let mut figures = Vec::new();
    let secs = tally.measured_secs();
    let per_second = |count: u64| count as f64 / secs;
    // A plain broker acknowledges what it has stored nowhere.
    let stored = match promises {
        Promises::Chat => "stored",
        Promises::Plain | Promises::PlainWithLosses => "acknowledged",
    };
    figures.push(Figure::neither(
        "sent",
        per_second(counts.sent),
        Unit::PerSecond,
    ));
    figures.push(Figure::more(
        stored,
        per_second(counts.stored),
        Unit::PerSecond,
    ));
    figures.push(Figure::more(
        "delivered",
        per_second(counts.delivered),
        Unit::PerSecond,
    ));
    figures.extend(quantiles(stored, tally.stored_in()));
    figures.extend(quantiles("delivered", tally.delivered_in()));
    if promises != Promises::Chat {
        figures.push(Figure::less("lost", checked.lost as f64, Unit::Count));
    }
    figures.extend(
        usage
            .server_cpu
            .map(|cpu| cpu_figures("server", cpu, counts, secs))
            .into_iter()
            .flatten(),
    );
    figures.extend(
        usage
            .shared_cpu
            .map(|cpu| cpu_figures("process", cpu, counts, secs))
            .into_iter()
            .flatten(),
    );
    for (name, bytes) in [
        ("server peak RSS", usage.server_rss_peak),
        ("server RSS at the end", usage.server_rss),
    ] {
        figures.extend(bytes.map(|bytes| Figure::less(name, bytes as f64, Unit::Bytes)));
    }
    if let Some(cpu) = usage.generator_cpu {
        let neither = |figure: Figure| Figure::neither(figure.name, figure.value, figure.unit);
        figures.extend(cpu_figures("generator", cpu, counts, secs).map(neither));
    }
    Run {
        figures,
        series,
        check: checked.into_checked(promises),
    }
}

/// From when a message was due until it was `what`.
pub(super) fn quantiles(what: &str, histogram: &Histogram<u64>) -> [Figure; 4] {
    [
        ("p50", histogram.value_at_quantile(0.5)),
        ("p99", histogram.value_at_quantile(0.99)),
        ("p99.9", histogram.value_at_quantile(0.999)),
        ("max", histogram.max()),
    ]
    .map(|(quantile, micros)| {
        Figure::less(format!("{what} {quantile}"), micros as f64, Unit::Micros)
    })
}

/// What the CPU time `spent` by `who` is per message that was stored and per delivery, and per second.
fn cpu_figures(who: &str, spent: Duration, counts: Counts, secs: f64) -> [Figure; 3] {
    let micros = spent.as_secs_f64() * 1e6;
    let per = |count: u64| micros / count.max(1) as f64;
    let cores = spent.as_secs_f64() / secs;
    [
        Figure::less(
            format!("{who} CPU per message"),
            per(counts.stored),
            Unit::Micros,
        ),
        Figure::less(
            format!("{who} CPU per delivery"),
            per(counts.delivered),
            Unit::Micros,
        ),
        Figure::neither(format!("{who} cores"), cores, Unit::Cores),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Phases;
    use super::super::tally::Samples;
    use super::*;

    const MS: u64 = 1_000_000;

    fn run_with(promises: Promises, is_any: bool) -> Run {
        let mut tally = Tally::new(Phases::new(0, 2));
        let mut samples = Samples::default();
        if is_any {
            for _ in 0..4 {
                samples.sent();
                samples.stored(0, 3 * MS);
                samples.delivered(0, 5 * MS);
                samples.delivered(0, 5 * MS);
            }
        }
        tally.add(&mut samples, MS);
        let usage = Usage {
            server_cpu: Some(Duration::from_micros(400)),
            generator_cpu: Some(Duration::from_micros(80)),
            server_rss: Some(5),
            seconds: vec![super::super::process::ServerSecond {
                cpu: Some(Duration::from_millis(250)),
                rss: Some(7),
            }],
            ..Usage::default()
        };
        run(promises, &tally, &usage, Conversations::default())
    }

    #[test]
    fn figures_are_per_second_per_message_and_per_delivery() {
        let run = run_with(Promises::Chat, true);
        assert!(run.check.is_ok());
        for (name, value) in [
            ("sent", 2.0),
            ("stored", 2.0),
            ("delivered", 4.0),
            ("delivered p99.9", 5003.0),
            ("server CPU per message", 100.0),
            ("server CPU per delivery", 50.0),
            ("server cores", 0.0002),
            ("generator CPU per delivery", 10.0),
            ("server RSS at the end", 5.0),
        ] {
            let found = run.value(name).unwrap_or_else(|| panic!("no {name}"));
            assert!((found - value).abs() < 1e-9, "{name}: {found}");
        }
        assert_eq!(run.value("lost"), None);
        assert_eq!(run.series[0].server_cpu, Some(0.25));
        assert_eq!(run.series[0].server_rss_bytes, Some(7));
        assert_eq!(run.series[1].server_cpu, None);
    }

    #[test]
    fn a_broker_stores_nothing_and_may_lose() {
        let run = run_with(Promises::PlainWithLosses, true);
        assert_eq!(run.value("acknowledged"), Some(2.0));
        assert_eq!(run.value("stored"), None);
        assert_eq!(run.value("lost"), Some(0.0));
    }

    #[test]
    fn a_run_without_messages_has_failed() {
        let run = run_with(Promises::Chat, false);
        assert_eq!(run.check.faults.kinds(), ["nothing measured"]);
        assert_eq!(run.value("server CPU per message"), Some(400.0));
    }
}
