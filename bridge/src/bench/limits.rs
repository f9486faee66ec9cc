//! What the operating system allows a process with tens of thousands of connections.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors for everything but connections, of the server and of the generator.
const OTHER_FILES: u64 = 256;
/// Connections from one address: below the number of ports that Linux gives out by itself.
const PORTS_PER_ADDRESS: u32 = 20_000;

/// Raises the limit of open files as far as it may be, for this process and its children.
pub(super) fn raise_open_files() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).context("the limit of open files can't be raised")
}

/// As many connections as can be open at once, and at most `wanted`; says so when they are fewer. The server needs one
/// file descriptor for each, and so does the generator.
pub(super) fn connections_that_fit(wanted: u32) -> u32 {
    let fit = fit(wanted, getrlimit(Resource::Nofile).current);
    if fit < wanted {
        eprintln!(
            "{fit} connections instead of {wanted}: a process may not open more files (ulimit -Hn)"
        );
    }
    fit
}

fn fit(wanted: u32, files: Option<u64>) -> u32 {
    let Some(files) = files else {
        return wanted;
    };
    let connections = files.saturating_sub(OTHER_FILES);
    wanted.min(u32::try_from(connections).unwrap_or(u32::MAX))
}

/// Where the `index`th connection comes from: addresses of the loopback, so that no one of them runs out of ports.
pub(super) fn source(index: u32) -> IpAddr {
    let number = index / PORTS_PER_ADDRESS;
    IpAddr::V4((u32::from(Ipv4Addr::LOCALHOST) + number).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        for (wanted, files, expected) in [
            (100, None, 100),
            (100, Some(20_000), 100),
            (50_000, Some(20_000), 19_744),
            (100, Some(10), 0),
            (u32::MAX, Some(u64::MAX), u32::MAX),
        ] {
            assert_eq!(fit(wanted, files), expected);
        }
    }

    #[test]
    fn no_address_runs_out_of_ports() {
        assert_eq!(source(0), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(source(PORTS_PER_ADDRESS - 1), source(0));
        assert_eq!(source(PORTS_PER_ADDRESS), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(
            source(300 * PORTS_PER_ADDRESS),
            IpAddr::from([127, 0, 1, 45])
        );
    }
}
