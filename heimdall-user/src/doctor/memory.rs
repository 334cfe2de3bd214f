//! Memory: what caches and frames need, and the pages that they are in.

use super::{
    checks,
    facts::{Facts, groups},
    finding::{Finding, Level},
    fix::{Fix, Step},
    system::System,
};
use crate::{
    config::{Config, Size},
    xdp::xsk::FRAME_SIZE,
};

/// The kernel's setting for transparent huge pages (admin-guide/mm/transhuge).
pub(crate) const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// The pool of reserved huge pages of this size (admin-guide/mm/hugetlbpage).
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const HUGE_PAGE: u64 = 2 << 20;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(room(
        &facts.system,
        &facts.config,
        facts.queues(),
        match facts.server {
            Some(_) => Asker::Server,
            None => Asker::Command,
        },
    ));
    findings.extend(transparent(facts));
    findings.extend(reserved(facts));
    findings
}

/// Whether the caches and frames of a server with this many queues, all of which are allocated soon after
/// the start, leave half of the available memory: for a start, which has counted its queues. `None`: they
/// do, or it is not known.
pub(crate) fn shortage(config: &Config, queues: usize) -> Option<Finding> {
    room(&System::host(), config, queues, Asker::Start)
        .filter(|finding| finding.level != Level::Good)
}

/// Who asks for the room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// `heimdall doctor`, beside which a server may run.
    Command,
    /// A start, which has allocated nothing yet.
    Start,
    /// A running server: what it holds is a part of what is needed.
    Server,
}

fn room(system: &System, config: &Config, queues: usize, asker: Asker) -> Option<Finding> {
    let mut available = available(system)?;
    if asker == Asker::Server {
        let resident = kibibytes(system, "/proc/self/status", "VmRSS:");
        available += resident.unwrap_or_default();
    }
    let caches = queues + config.socket.threads + config.forward.threads;
    let frames = queues * config.xdp.frames as usize * FRAME_SIZE as usize;
    let needed = (caches * config.cache.bytes + frames) as u64;
    let (subject, check) = ("memory", &checks::MEMORY_ROOM);
    let finding = format!(
        "{caches} caches and the frames of {queues} queues take {} MiB, and {} MiB of memory are available",
        needed >> 20,
        available >> 20,
    );
    if needed <= available / 2 {
        return Some(check.good(subject, finding));
    }
    let finding = match asker {
        Asker::Command => format!("{finding}; a server that runs already is counted twice"),
        Asker::Start | Asker::Server => finding,
    };
    let fix = Fix::advice(
        "lower cache.size, serve fewer queues, or lower socket.threads or forward.threads",
    );
    Some(match needed > available {
        true => check.bad(subject, finding, fix),
        false => check.warn(subject, finding, fix),
    })
}

/// Octets that this process may still allocate: the host's available memory, within the limits of its control
/// groups.
fn available(system: &System) -> Option<u64> {
    let host = kibibytes(system, "/proc/meminfo", "MemAvailable:")?;
    let groups = groups(system);
    let left = groups.iter().filter_map(|group| {
        let limit = system.number(&format!("{group}/memory.max"))?;
        let used = system.number(&format!("{group}/memory.current"));
        Some(limit.saturating_sub(used.unwrap_or_default()))
    });
    Some(left.fold(host, u64::min))
}

/// The octets of a line that has kB.
fn kibibytes(system: &System, path: &str, start: &str) -> Option<u64> {
    let line = system.line(path, start)?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number << 10)
}

fn transparent(facts: &Facts) -> Option<Finding> {
    let check = &checks::HUGE_PAGES;
    let text = facts.system.read(TRANSPARENT)?;
    if !text.contains("[never]") {
        return Some(check.good("transparent huge pages", text));
    }
    let finding = "never used: each look-up in a cache costs a little more";
    let fix = Fix::Safe(vec![Step::Write {
        path: TRANSPARENT.to_owned(),
        value: "madvise".to_owned(),
    }]);
    Some(check.warn("transparent huge pages", finding, fix))
}

fn reserved(facts: &Facts) -> Option<Finding> {
    let pages = facts.system.number(POOL).filter(|pages| *pages > 0)?;
    let check = &checks::HUGE_PAGE_POOL;
    let subject = "huge pages of 2 MiB";
    let bytes = facts.config.cache.bytes as u64;
    if !bytes.is_multiple_of(8 * HUGE_PAGE) {
        let finding = format!(
            "{pages} pages are reserved, and caches of {} do not use them",
            Size(facts.config.cache.bytes)
        );
        let fix = Fix::advice("give a cache.size that is a multiple of 16M");
        return Some(check.warn(subject, finding, fix));
    }
    let caches = facts.threads() as u64;
    let needed = caches * bytes / HUGE_PAGE;
    let finding = format!("{pages} pages are reserved, and {caches} caches take {needed}");
    Some(match pages < needed {
        true => check.warn(
            subject,
            finding,
            // vm.nr_hugepages is the pool of the default size, which may be another one.
            Fix::Commands(vec![Step::Write {
                path: POOL.to_owned(),
                value: needed.to_string(),
            }]),
        ),
        false => check.good(subject, finding),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_available_memory_is_within_the_limits_of_control_groups() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            let parent = path.parent().expect("a parent");
            std::fs::create_dir_all(parent).expect("a directory");
            std::fs::write(path, text).expect("a file");
        };
        let system = System::at(root.path());
        assert_eq!(available(&system), None);
        write(
            "proc/meminfo",
            "MemFree:  1 kB\nMemAvailable:   4194304 kB\n",
        );
        assert_eq!(available(&system), Some(4 << 30));
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        write("sys/fs/cgroup/a/memory.max", "1048576\n");
        assert_eq!(available(&system), Some(1 << 20));
        write("sys/fs/cgroup/a/memory.current", "1000000\n");
        assert_eq!(available(&system), Some(48576));
        // As in a cgroup namespace, where the path may be of a group below the mounted one.
        write("sys/fs/cgroup/memory.max", "4096\n");
        assert_eq!(available(&system), Some(4096));
    }
}
