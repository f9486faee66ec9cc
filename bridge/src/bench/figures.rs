//! What a load came to, as figures that people compare.

use super::check::{Conversations, Promises};
use super::faults::Faults;
use super::process::Usage;
use super::results::{Better, Figure, Run, Unit};
use super::tally::{Counts, Tally};

/// Of what was due, so much at least has to be sent in time.
const SENT_MIN: f64 = 0.99;
/// What is due so shortly before the end may be sent after it, which in a short run is more than that.
const LATE_MAX_SECS: f64 = 0.25;

/// Makes a run of what was measured at this rate; 0: as the window allowed.
pub(super) fn run(
    promises: Promises,
    rate: u32,
    tally: &Tally,
    usage: &Usage,
    mut checked: Conversations,
) -> Run {
    let (counts, secs) = (tally.counts(), tally.measured_secs());
    check_counts(counts, &mut checked.faults);
    check_rate(rate, secs, counts.sent, &mut checked.faults);
    let mut series = tally.series();
    for (second, server) in series.iter_mut().zip(&usage.seconds) {
        second.server_cpu = server.cpu.map(|cpu| cpu.as_secs_f64());
        second.server_rss_bytes = server.rss;
    }
    let per_second = |count: u64| count as f64 / secs;
    // A plain broker acknowledges what it has stored nowhere.
    let stored = match promises {
        Promises::Chat => "stored",
        Promises::Plain | Promises::PlainWithLosses => "acknowledged",
    };
    let mut figures = vec![
        Figure::neither("sent", per_second(counts.sent), Unit::PerSecond),
        Figure::more(stored, per_second(counts.stored), Unit::PerSecond),
        Figure::more("delivered", per_second(counts.delivered), Unit::PerSecond),
    ];
    for (what, micros) in [
        (stored, tally.stored_in()),
        ("delivered", tally.delivered_in()),
    ] {
        figures.extend(match rate {
            // A full window takes its size by the throughput, which says nothing about how long a message takes.
            0 => Figure::quantiles(&format!("{what} in the window"), micros, Better::Neither),
            _ => Figure::quantiles(what, micros, Better::Less),
        });
    }
    if promises != Promises::Chat {
        figures.push(Figure::less("lost", checked.lost as f64, Unit::Count));
    }
    figures.extend(usage.cpu.per("message", counts.stored as f64));
    figures.extend(usage.cpu.per("delivery", counts.delivered as f64));
    let cores = usage.cpu.each().map(|(whose, spent, _)| {
        let cores = spent.as_secs_f64() / secs;
        Figure::neither(format!("{whose} cores"), cores, Unit::Cores)
    });
    figures.extend(cores);
    for (name, bytes) in [
        ("server peak RSS", usage.server_rss_peak),
        ("server RSS at the end", usage.server_rss),
    ] {
        figures.extend(bytes.map(|bytes| Figure::less(name, bytes as f64, Unit::Bytes)));
    }
    Run {
        figures,
        series,
        check: checked.into_checked(promises),
    }
}

/// Everyone talks to someone: where nothing is lost, something has come, and where all is lost, nothing is known.
fn check_counts(counts: Counts, faults: &mut Faults) {
    let Counts {
        stored, delivered, ..
    } = counts;
    if stored == 0 || delivered == 0 {
        let example = || format!("{stored} stored and {delivered} delivered in time");
        faults.note("nothing measured", example);
    }
}

/// Whether the timetable was kept.
fn check_rate(rate: u32, secs: f64, sent: u64, faults: &mut Faults) {
    let due = f64::from(rate) * secs;
    let missing = due - sent as f64;
    if missing > due * (1.0 - SENT_MIN) && missing > f64::from(rate) * LATE_MAX_SECS {
        let example = || format!("{sent} of {due} messages were sent when they were due");
        faults.note("fell behind", example);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::process::{ServerSecond, Spent};
    use super::super::schedule::Phases;
    use super::super::tally::Samples;
    use super::*;

    const MS: u64 = 1_000_000;

    /// Four messages in two seconds, each to so many listeners.
    fn run_with(promises: Promises, rate: u32, listeners: usize) -> Run {
        let mut tally = Tally::new(Phases::new(0, 2));
        let mut samples = Samples::default();
        for _ in 0..4 {
            samples.sent();
            samples.stored(0, 3 * MS);
            for _ in 0..listeners {
                samples.delivered(0, 5 * MS);
            }
        }
        tally.add(&mut samples, MS);
        let usage = Usage {
            cpu: Spent {
                server: Some(Duration::from_micros(400)),
                generator: Some(Duration::from_micros(80)),
                ..Spent::default()
            },
            server_rss: Some(5),
            seconds: vec![ServerSecond {
                cpu: Some(Duration::from_millis(250)),
                rss: Some(7),
            }],
            ..Usage::default()
        };
        run(promises, rate, &tally, &usage, Conversations::default())
    }

    #[test]
    fn figures_are_per_second_per_message_and_per_delivery() {
        let run = run_with(Promises::Chat, 2, 2);
        assert!(run.check.is_ok(), "{}", run.check);
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
        let run = run_with(Promises::PlainWithLosses, 2, 2);
        assert_eq!(run.value("acknowledged"), Some(2.0));
        assert_eq!(run.value("stored"), None);
        assert_eq!(run.value("lost"), Some(0.0));
    }

    #[test]
    fn a_full_window_tells_no_latency() {
        let figures = run_with(Promises::Chat, 0, 2).figures;
        let find = |name: &str| figures.iter().find(|figure| figure.name == name);
        for what in ["stored", "delivered"] {
            assert_eq!(find(&format!("{what} p50")), None);
            let in_window = find(&format!("{what} in the window p50")).unwrap();
            assert_eq!(in_window.better, Better::Neither);
        }
    }

    #[test]
    fn a_run_without_deliveries_has_failed() {
        let run = run_with(Promises::PlainWithLosses, 2, 0);
        assert_eq!(run.check.faults.kinds(), ["nothing measured"]);
        assert_eq!(run.value("acknowledged p50"), Some(3001.0));
        assert_eq!(run.value("delivered p50"), None);
    }

    #[test]
    fn who_does_not_keep_up_has_fallen_behind() {
        for (rate, sent, expected) in [
            (0, 0, &[][..]),
            (100, 1000, &[]),
            (100, 976, &[]),
            (100, 974, &["fell behind"]),
        ] {
            let mut faults = Faults::default();
            check_rate(rate, 10.0, sent, &mut faults);
            assert_eq!(faults.kinds(), expected, "{sent} of {rate}/s");
        }
        let mut faults = Faults::default();
        check_rate(1000, 60.0, 59_390, &mut faults);
        assert_eq!(faults.kinds(), ["fell behind"]);
    }
}
