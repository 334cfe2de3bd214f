//! How much memory the settings take, and whether the host has it.

use std::{fs, path::Path};

use tracing::warn;

use crate::{config::Config, xdp::socket::FRAME_SIZE};

/// Where the kernel shows the hierarchy of control groups (cgroup-v2).
const CGROUPS: &str = "/sys/fs/cgroup";

/// Warns if the caches and frames of a server with so many queues, all of which are populated at the
/// start, take more than half of the memory that is available.
pub(super) fn warn_if_scarce(config: &Config, queues: usize) {
    let caches = queues + 1 + config.forward.threads;
    let frames = queues * config.xdp.frames as usize * FRAME_SIZE as usize;
    let needed = (caches * config.cache_bytes + frames) as u64;
    let Some(available) = available() else { return };
    if needed > available / 2 {
        warn!(
            "{caches} caches and the frames of {queues} queues take {} MiB, and {} MiB of memory are \
             available; lower cache.size or serve fewer queues",
            needed >> 20,
            available >> 20,
        );
    }
}

/// Octets that this process may still take: what the host has, within the limits of its control
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
