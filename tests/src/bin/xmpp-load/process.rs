//! What processes cost, as Linux tells it in `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A tick of the CPU times in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux that we know.
const TICK: Duration = Duration::from_millis(10);

/// A process, with those that it has started if it is PostgreSQL's first.
#[derive(Clone, Copy, Debug)]
pub enum Processes {
    Alone(u32),
    WithChildren(u32),
}

impl Processes {
    /// CPU time until now; of several, also of children who have ended.
    pub fn cpu(self) -> Result<Duration> {
        let ticks: u64 = match self {
            Processes::Alone(pid) => ticks(pid, 2)?,
            Processes::WithChildren(pid) => {
                // A child that ends meanwhile is missed: a server's stay.
                ticks(pid, 4)?
                    + children(pid)?
                        .filter_map(|child| ticks(child, 2).ok())
                        .sum::<u64>()
            }
        };
        Ok(TICK * u32::try_from(ticks)?)
    }

    /// Lets the most memory that one had who is alone count from now on: more may have been needed to start.
    pub fn forget_peak(self) -> Result<()> {
        match self {
            Processes::Alone(pid) => {
                let path = format!("/proc/{pid}/clear_refs");
                fs::write(&path, "5").context(path)
            }
            Processes::WithChildren(_) => Ok(()),
        }
    }

    /// Memory in bytes: the most that one had who is alone. Of several what they have now, where what they share counts
    /// once; a backend of PostgreSQL stays and gives nothing back, so that is about the most, too.
    pub fn memory(self) -> Result<u64> {
        match self {
            Processes::Alone(pid) => kib(pid, "status", "VmHWM:"),
            Processes::WithChildren(pid) => {
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
    use std::io::Read as _;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    const PEAK_BYTES: usize = 64 << 20;

    #[test]
    fn the_own_process_is_known() {
        let own = std::process::id();
        assert!(Processes::Alone(own).cpu().is_ok());
        assert!(Processes::Alone(own).memory().is_ok_and(|bytes| bytes > 0));
    }

    #[test]
    fn a_peak_is_forgotten() {
        let own = Processes::Alone(std::process::id());
        drop(std::hint::black_box(vec![1_u8; PEAK_BYTES]));
        let before = own.memory().unwrap();
        own.forget_peak().unwrap();
        assert!(own.memory().unwrap() + PEAK_BYTES as u64 / 2 < before);
    }

    #[test]
    fn children_count() {
        // Its child is busy until we are gone, while it waits.
        let mut parent = Command::new("sh")
            .args(["-c", "cat /dev/zero & wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut zeros = parent.stdout.take().unwrap();
        let all = Processes::WithChildren(parent.id());
        let alone = Processes::Alone(parent.id());
        let give_up = Instant::now() + Duration::from_secs(30);
        let mut some = vec![0; 1 << 20];
        while all.cpu().unwrap() < alone.cpu().unwrap() + 5 * TICK {
            assert!(Instant::now() < give_up, "a child's time does not count");
            zeros.read_exact(&mut some).unwrap();
        }
        let of_parent = kib(parent.id(), "smaps_rollup", "Pss:").unwrap();
        let child = children(parent.id()).unwrap().next().unwrap();
        let of_child = kib(child, "smaps_rollup", "Pss:").unwrap();
        assert!(all.memory().unwrap() >= of_parent + of_child / 2);
        drop(zeros);
        parent.wait().unwrap();
    }
}
