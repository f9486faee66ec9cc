//! What processes cost, as Linux tells it in `/proc`; elsewhere nothing is known.

use std::fs;
use std::time::Duration;

use super::results::{Better, Figure, Unit};
use super::schedule::{Clock, NANOS_PER_SECOND, Phases};

/// A tick of the CPU times in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux that we know.
const TICK: Duration = Duration::from_millis(10);

/// Whose time to measure beside the load generator's.
#[derive(Clone, Debug, Default)]
pub(super) struct Processes {
    /// The server's; of several nodes one each.
    pub servers: Vec<u32>,
    /// What the servers need to be there, each with its name: its first process, which counts with its children.
    pub others: Vec<(&'static str, u32)>,
}

impl Processes {
    /// A server that needs nobody.
    pub(super) fn of(server: Option<u32>) -> Processes {
        Processes {
            servers: server.into_iter().collect(),
            others: Vec::new(),
        }
    }
}

/// What the measured time has cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    pub cpu: Spent,
    /// The most memory that the server had during the run, in bytes; of several nodes, all of them.
    pub server_rss_peak: Option<u64>,
    /// What it had at the end.
    pub server_rss: Option<u64>,
    /// Second by second, warm-up included.
    pub seconds: Vec<ServerSecond>,
}

/// CPU time, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    /// Of the server, if it is a process of its own, with all that it needs.
    pub server: Option<Duration>,
    /// Of that, where there is more than one process: each with its name.
    pub parts: Vec<(&'static str, Duration)>,
    /// Of the load generator, if it is one.
    pub generator: Option<Duration>,
    /// Of the two in one process.
    pub shared: Option<Duration>,
}

impl Spent {
    /// What is known, with the name of whose it is; and whether less of it is better.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, Duration, Better)> {
        let server = self.server.map(|spent| ("server", spent, Better::Less));
        let parts = self.parts.iter();
        let parts = parts.map(|(whose, spent)| (*whose, *spent, Better::Less));
        let shared = self.shared.map(|spent| ("process", spent, Better::Less));
        let generator = self.generator;
        let generator = generator.map(|spent| ("generator", spent, Better::Neither));
        server
            .into_iter()
            .chain(parts)
            .chain(shared)
            .chain(generator)
    }

    /// As figures: what one of so many has cost.
    pub(super) fn per(&self, what: &str, count: f64) -> impl Iterator<Item = Figure> {
        self.each().map(move |(whose, spent, better)| Figure {
            name: format!("{whose} CPU per {what}"),
            value: spent.as_secs_f64() * 1e6 / count,
            unit: Unit::Micros,
            better,
        })
    }
}

/// Measures the CPU time of the servers, of what they need, and of this process, which may be the server.
pub(super) struct Meter {
    processes: Processes,
    before: Read,
}

/// What has been spent until now.
struct Read {
    own: Option<Duration>,
    servers: Option<Duration>,
    /// In the order of the processes.
    others: Vec<Option<Duration>>,
}

impl Meter {
    /// From now on.
    pub(super) fn start(processes: Processes) -> Meter {
        Meter {
            before: Self::read(&processes),
            processes,
        }
    }

    /// What was spent since then.
    pub(super) fn spent(&self) -> Spent {
        let (before, now) = (&self.before, Self::read(&self.processes));
        let own = spent(before.own, now.own);
        if self.processes.servers == [std::process::id()] {
            return Spent {
                shared: own,
                ..Spent::default()
            };
        }
        let servers = spent(before.servers, now.servers);
        let mut parts = Vec::new();
        let others = self.processes.others.iter();
        for ((name, _), (before, now)) in others.zip(before.others.iter().zip(now.others)) {
            parts.extend(spent(*before, now).map(|spent| (*name, spent)));
        }
        let of_others: Duration = parts.iter().map(|(_, spent)| *spent).sum();
        if !parts.is_empty() {
            parts.splice(..0, servers.map(|spent| ("Tidings", spent)));
        }
        Spent {
            server: servers.map(|spent| spent + of_others),
            parts,
            generator: own,
            shared: None,
        }
    }

    fn read(processes: &Processes) -> Read {
        let others = processes.others.iter();
        Read {
            own: cpu_time(std::process::id()),
            servers: sum(&processes.servers, cpu_time),
            others: others
                .map(|(_, pid)| cpu_time_with_children(*pid))
                .collect(),
        }
    }
}

/// `None`: there are none, or nothing is known of one.
fn sum<T: std::iter::Sum>(pids: &[u32], of: impl Fn(u32) -> Option<T>) -> Option<T> {
    let known = pids.iter().map(|pid| of(*pid));
    (!pids.is_empty()).then(|| known.sum()).flatten()
}

/// What one second has cost the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerSecond {
    pub cpu: Option<Duration>,
    /// Memory at its end, in bytes.
    pub rss: Option<u64>,
}

/// Watches from the start to the end of the load. The server may be this process.
pub(super) async fn sample(clock: Clock, phases: Phases, processes: Processes) -> Usage {
    let servers = &processes.servers;
    servers.iter().copied().for_each(reset_rss_peak);
    let mut seconds = Vec::new();
    let mut meter = None;
    let mut last = None;
    for at in (0..=phases.end).step_by(NANOS_PER_SECOND as usize) {
        tokio::time::sleep_until(clock.at(at).into()).await;
        let now = sum(servers, cpu_time);
        if at > 0 {
            seconds.push(ServerSecond {
                cpu: spent(last, now),
                rss: sum(servers, rss),
            });
        }
        if at == phases.start {
            meter = Some(Meter::start(processes.clone()));
        }
        last = now;
    }
    Usage {
        cpu: meter.map(|meter| meter.spent()).unwrap_or_default(),
        server_rss_peak: sum(servers, rss_peak),
        server_rss: seconds.last().and_then(|second| second.rss),
        seconds,
    }
}

fn spent(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    after?.checked_sub(before?)
}

/// CPU time that a process has used until now.
fn cpu_time(pid: u32) -> Option<Duration> {
    parse_cpu_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 2)
}

/// The same with that of its children, those who have ended too: PostgreSQL has a process for each connection.
fn cpu_time_with_children(pid: u32) -> Option<Duration> {
    let own = parse_cpu_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 4)?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let children = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok());
    // One that ends meanwhile is missed: a server's stay.
    Some(own + children.filter_map(cpu_time).sum::<Duration>())
}

/// Memory that the servers have now, in bytes.
pub(super) fn rss_of(processes: &Processes) -> Option<u64> {
    sum(&processes.servers, rss)
}

/// Memory that a process has now, in bytes.
fn rss(pid: u32) -> Option<u64> {
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

/// The first so many of utime, stime, cutime and cstime: fields 14 to 17 of proc_pid_stat(5). The name, field 2, may hold
/// spaces and parentheses.
fn parse_cpu_time(stat: &str, count: usize) -> Option<Duration> {
    let (_, from_state) = stat.rsplit_once(')')?;
    let times = from_state.split_whitespace().skip(11).take(count);
    let times: Vec<u32> = times.filter_map(|time| time.parse().ok()).collect();
    (times.len() == count).then(|| TICK * times.iter().sum())
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
        let stat = "12 (a (b) c) S 1 12 12 0 -1 4194560 900 0 0 0 250 75 30 5 20 0 9 0 100 1 2";
        assert_eq!(parse_cpu_time(stat, 2), Some(Duration::from_millis(3250)));
        assert_eq!(parse_cpu_time(stat, 4), Some(Duration::from_millis(3600)));
        assert_eq!(parse_cpu_time("12 (x) S 1", 2), None);
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
        let names = |processes| -> Vec<&str> {
            let spent = Meter::start(processes).spent();
            spent.each().map(|(whose, ..)| whose).collect()
        };
        assert_eq!(names(Processes::of(Some(own))), ["process"]);
        assert_eq!(names(Processes::of(None)), ["generator"]);
        let nodes = Processes {
            servers: vec![own, own],
            others: vec![("PostgreSQL", own), ("Redis", own)],
        };
        let expected = ["server", "Tidings", "PostgreSQL", "Redis", "generator"];
        assert_eq!(names(nodes), expected);
    }
}
