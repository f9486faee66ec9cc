//! What processes cost, as Linux tells it in `/proc`; elsewhere nothing is known.

use std::fs;
use std::time::Duration;

use super::results::{Better, Figure, Unit};
use super::schedule::{Clock, NANOS_PER_SECOND, Phases};

/// A tick of the CPU times in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux that we know.
const TICK: Duration = Duration::from_millis(10);

/// What the measured time has cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    pub cpu: Spent,
    /// The most memory that the server had during the run, in bytes.
    pub server_rss_peak: Option<u64>,
    /// What it had at the end.
    pub server_rss: Option<u64>,
    /// Second by second, warm-up included.
    pub seconds: Vec<ServerSecond>,
}

/// CPU time, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// Of the server, if it is a process of its own.
    pub server: Option<Duration>,
    /// Of the load generator, if it is one.
    pub generator: Option<Duration>,
    /// Of the two in one process.
    pub shared: Option<Duration>,
}

impl Spent {
    /// What is known, with the name of whose it is; and whether less of it is better.
    pub(super) fn each(self) -> impl Iterator<Item = (&'static str, Duration, Better)> {
        let each = [
            ("server", self.server, Better::Less),
            ("process", self.shared, Better::Less),
            ("generator", self.generator, Better::Neither),
        ];
        let known = each.into_iter();
        known.filter_map(|(whose, spent, better)| Some((whose, spent?, better)))
    }

    /// As figures: what one of so many has cost.
    pub(super) fn per(self, what: &str, count: f64) -> impl Iterator<Item = Figure> {
        self.each().map(move |(whose, spent, better)| Figure {
            name: format!("{whose} CPU per {what}"),
            value: spent.as_secs_f64() * 1e6 / count,
            unit: Unit::Micros,
            better,
        })
    }
}

/// Measures the CPU time of the server and of this process, which may be the same.
pub(super) struct Meter {
    server: Option<u32>,
    before: [Option<Duration>; 2],
}

impl Meter {
    /// From now on.
    pub(super) fn start(server: Option<u32>) -> Meter {
        Meter {
            server,
            before: Self::read(server),
        }
    }

    /// What was spent since then.
    pub(super) fn spent(&self) -> Spent {
        let [server, own] = Self::read(self.server);
        let (server, own) = (spent(self.before[0], server), spent(self.before[1], own));
        let is_shared = self.server == Some(std::process::id());
        Spent {
            server: server.filter(|_| !is_shared),
            generator: own.filter(|_| !is_shared),
            shared: own.filter(|_| is_shared),
        }
    }

    fn read(server: Option<u32>) -> [Option<Duration>; 2] {
        [server, Some(std::process::id())].map(|pid| pid.and_then(cpu_time))
    }
}

/// What one second has cost the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerSecond {
    pub cpu: Option<Duration>,
    /// Memory at its end, in bytes.
    pub rss: Option<u64>,
}

/// Watches from the start to the end of the load. The server may be this process.
pub(super) async fn sample(clock: Clock, phases: Phases, server: Option<u32>) -> Usage {
    if let Some(server) = server {
        reset_rss_peak(server);
    }
    let mut seconds = Vec::new();
    let mut meter = None;
    let mut last = None;
    for at in (0..=phases.end).step_by(NANOS_PER_SECOND as usize) {
        tokio::time::sleep_until(clock.at(at).into()).await;
        let now = server.and_then(cpu_time);
        if at > 0 {
            seconds.push(ServerSecond {
                cpu: spent(last, now),
                rss: server.and_then(rss),
            });
        }
        if at == phases.start {
            meter = Some(Meter::start(server));
        }
        last = now;
    }
    Usage {
        cpu: meter.map(|meter| meter.spent()).unwrap_or_default(),
        server_rss_peak: server.and_then(rss_peak),
        server_rss: seconds.last().and_then(|second| second.rss),
        seconds,
    }
}

fn spent(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    after?.checked_sub(before?)
}

/// CPU time that a process has used until now.
fn cpu_time(pid: u32) -> Option<Duration> {
    parse_cpu_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Memory that a process has now, in bytes.
pub(super) fn rss(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

fn rss_peak(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    parse_kib(&status.ok()?, name)
}

/// Lets the peak begin anew at the present size, where that is allowed: before, passwords may have been hashed.
fn reset_rss_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// utime + stime, fields 14 and 15 of proc_pid_stat(5). The name, field 2, may hold spaces and parentheses.
fn parse_cpu_time(stat: &str) -> Option<Duration> {
    let (_, from_state) = stat.rsplit_once(')')?;
    let mut times = from_state.split_whitespace().skip(11);
    let user: u32 = times.next()?.parse().ok()?;
    let system: u32 = times.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

/// The bytes of a line like `VmRSS:    80000 kB`.
pub(super) fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let stat = "12 (a (b) c) S 1 12 12 0 -1 4194560 900 0 0 0 250 75 0 0 20 0 9 0 100 1 2";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_millis(3250)));
        assert_eq!(parse_cpu_time("12 (x) S 1"), None);
        let status = "Name:\tx\nVmHWM:\t   85124 kB\nVmRSS:\t   80000 kB\n";
        assert_eq!(parse_kib(status, "VmHWM:"), Some(85124 * 1024));
        assert_eq!(parse_kib(status, "VmRSS:"), Some(80000 * 1024));
        assert_eq!(parse_kib("Name:\tx\n", "VmRSS:"), None);
        let meminfo = "MemTotal:       24683732 kB\nMemFree:         100 kB\n";
        assert_eq!(parse_kib(meminfo, "MemTotal:"), Some(24_683_732 * 1024));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_own_process_is_known() {
        let own = std::process::id();
        assert!(cpu_time(own).is_some());
        assert!(rss_peak(own).is_some_and(|bytes| bytes > 0));
        let spent = Meter::start(Some(own)).spent();
        assert!(spent.shared.is_some() && spent.server.is_none() && spent.generator.is_none());
        let spent = Meter::start(None).spent();
        let names: Vec<&str> = spent.each().map(|(whose, ..)| whose).collect();
        assert_eq!(names, ["generator"]);
    }
}
