//! What is measured on, as Linux tells it in `/proc`.

use std::fs;
use std::thread;
use std::time::SystemTime;

use super::process::parse_kib;
use super::results::Machine;

impl Machine {
    /// This one, now.
    pub(super) fn here() -> Machine {
        let cpu = fs::read_to_string("/proc/cpuinfo").ok();
        let cpu = cpu.as_deref().and_then(parse_cpu);
        let memory = fs::read_to_string("/proc/meminfo").ok();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let millis = since_1970.unwrap_or_default().as_millis();
        Machine {
            cores: thread::available_parallelism().map_or(1, usize::from),
            cpu: cpu.unwrap_or(std::env::consts::ARCH).to_owned(),
            memory_bytes: memory.and_then(|memory| parse_kib(&memory, "MemTotal:")),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: u64::try_from(millis).unwrap_or(u64::MAX),
        }
    }
}

/// Not every architecture tells a name.
fn parse_cpu(cpuinfo: &str) -> Option<&str> {
    let field = |line| str::split_once(line, ':');
    let mut fields = cpuinfo.lines().filter_map(field);
    let (_, name) = fields.find(|(key, _)| key.trim_end() == "model name")?;
    Some(name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: A CPU @ 2.10GHz\n";
        assert_eq!(parse_cpu(cpuinfo), Some("A CPU @ 2.10GHz"));
        assert_eq!(parse_cpu("processor\t: 0\nBogoMIPS\t: 100.00\n"), None);
    }
}
