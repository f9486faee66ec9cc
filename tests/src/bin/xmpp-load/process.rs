//! What processes cost, as Linux tells it in `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A tick of the CPU times in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux that we know.
const TICK: Duration = Duration::from_millis(10);

/// A process, with those that it has started if it is PostgreSQL's first.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    Alone(u32),
    WithChildren(u32),
}

impl Server {
    /// CPU time until now, with that of children who have ended.
    pub fn cpu(self) -> Result<Duration> {
        let ticks: u64 = match self {
            Server::Alone(pid) => ticks(pid, 2)?,
            Server::WithChildren(pid) => {
                // A child that ends meanwhile is missed: a server's stay.
                ticks(pid, 4)?
                    + children(pid)?
                        .filter_map(|child| ticks(child, 2).ok())
                        .sum::<u64>()
            }
        };
        Ok(TICK * u32::try_from(ticks)?)
    }

    /// Memory in bytes: the most that one had who is alone. Of several what they have now, where what they share counts
    /// once; a backend of PostgreSQL stays and gives nothing back, so that is about the most, too.
    pub fn memory(self) -> Result<u64> {
        match self {
            Server::Alone(pid) => kib(pid, "status", "VmHWM:"),
            Server::WithChildren(pid) => {
                let of_children =
                    children(pid)?.filter_map(|child| kib(child, "smaps_rollup", "Pss:").ok());
                Ok(kib(pid, "smaps_rollup", "Pss:")? + of_children.sum::<u64>())
            }
        }
    }
}

/// The first so many of utime, stime, cutime and cstime: fields 14 to 17 of proc_pid_stat(5). The name, field 2, may
/// hold spaces and parentheses.
fn ticks(pid: u32, count: usize) -> Result<u64> {
    let stat = read(pid, "stat")?;
    let (_, from_state) = stat.rsplit_once(')').context("no name")?;
    let times = from_state.split_whitespace().skip(11).take(count);
    times.map(|time| Ok(time.parse::<u64>()?)).sum()
}

fn kib(pid: u32, file: &str, name: &str) -> Result<u64> {
    let text = read(pid, file)?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .context(name.to_owned())?;
    let kib: u64 = value.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

fn children(pid: u32) -> Result<impl Iterator<Item = u32>> {
    let list = read(pid, &format!("task/{pid}/children"))?;
    let pids: Vec<u32> = list
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    Ok(pids.into_iter())
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).context(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_known() {
        let own = std::process::id();
        assert!(Server::Alone(own).cpu().is_ok());
        assert!(Server::Alone(own).memory().is_ok_and(|bytes| bytes > 0));
    }

    #[test]
    fn children_count() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let server = Server::WithChildren(std::process::id());
        // The test's own thread has started it, not the first one.
        assert!(server.cpu().is_ok() && server.memory().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
