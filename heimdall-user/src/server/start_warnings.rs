//! Warnings about the settings on this host, logged once at the start.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::Path,
    thread,
};

use heimdall_ebpf::MAX_QUEUES;
use tracing::{info, warn};

use crate::{
    config::Config,
    xdp::{Interface, addresses_without_link, xsk::FRAME_SIZE},
};

/// Where the kernel shows the hierarchy of control groups (cgroup-v2).
const CGROUPS: &str = "/sys/fs/cgroup";

/// Most addresses that one log line names.
const MAX_NAMED: usize = 4;

/// Warns if the caches and frames of a server with this many queues, all of which are allocated soon after
/// the start, take more than half of the available memory.
pub(super) fn memory(config: &Config, queues: usize) {
    let caches = queues + config.socket.threads + config.forward.threads;
    let frames = queues * config.xdp.frames as usize * FRAME_SIZE as usize;
    let needed = (caches * config.cache.bytes + frames) as u64;
    let Some(available) = available() else { return };
    if needed > available / 2 {
        warn!(
            "{caches} caches and the frames of {queues} queues take {} MiB, and {} MiB of memory are \
             available; lower cache.size, serve fewer queues, or lower socket.threads or forward.threads",
            needed >> 20,
            available >> 20,
        );
    }
}

/// Hints at more socket threads than there are cores for them.
pub(super) fn socket_threads(config: &Config) {
    let threads = config.socket.threads;
    let cores = thread::available_parallelism().map_or(threads, NonZero::get);
    if threads > cores {
        warn!(
            "socket.threads = {threads}: they share {cores} cores, and each has a cache of its own and a part \
             of the clients; more than {cores} gain nothing"
        );
    }
}

/// Warns of an interface with more queues than there are cores for their workers.
pub(super) fn queues(interface: &Interface, queues: usize, cores: usize) {
    let name = &interface.name;
    if interface.rx_queues > MAX_QUEUES {
        warn!(
            "{name}: {} queues, of which AF_XDP can serve {MAX_QUEUES}; run `ethtool -L {name} \
             combined {MAX_QUEUES}`",
            interface.rx_queues
        );
    }
    if cores > 0 && queues > cores {
        warn!(
            "{name}: {queues} queues share {cores} cores, and each has a thread and a cache of its \
             own; run `ethtool -L {name} combined {cores}`"
        );
    }
}

/// Logs which addresses AF_XDP does not serve although a wildcard was given: those that are reached
/// through an interface, but are not its own.
pub(super) fn unserved(listen: &[SocketAddr]) {
    let wildcard = |ip: &IpAddr| {
        let mut wildcards = listen.iter().map(SocketAddr::ip);
        wildcards.any(|one| one.is_unspecified() && one.is_ipv4() == ip.is_ipv4())
    };
    let mut unserved = addresses_without_link().unwrap_or_default();
    unserved.retain(|(ip, _)| wildcard(ip));
    if unserved.is_empty() {
        return;
    }
    let named = unserved.iter().take(MAX_NAMED);
    let named: Vec<String> = named.map(|(ip, name)| format!("{ip} ({name})")).collect();
    let more = match unserved.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    info!(
        "the sockets alone serve {}{more}: to AF_XDP a wildcard stands for the interface's own \
         addresses; name each address with --listen instead",
        named.join(", ")
    );
}

/// Octets that this process may still allocate: the host's available memory, within the limits of its control
/// groups.
fn available() -> Option<u64> {
    let host = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?)? << 10;
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::/"));
    let limits = Path::new(group.unwrap_or_default())
        .ancestors()
        .filter_map(|group| {
            let limit = Path::new(CGROUPS).join(group).join("memory.max");
            fs::read_to_string(limit).ok()?.trim().parse().ok()
        });
    Some(limits.fold(host, u64::min))
}

/// MemAvailable in the text of /proc/meminfo.
fn kibibytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_available_memory_is_read() {
        let text = "MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:   4194304 kB\n";
        assert_eq!(kibibytes(text), Some(4_194_304));
        assert_eq!(kibibytes("MemTotal: 1 kB\n"), None);
    }
}
