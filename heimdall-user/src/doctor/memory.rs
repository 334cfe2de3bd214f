//! Memory: what caches, frames and the hot tier need, and the pages that they are in.

use std::fmt;

use super::{
    checks,
    facts::{Facts, Nic, groups, legacy_groups, nics},
    finding::Finding,
    fix::{Fix, Step},
    system::System,
};
use crate::{
    config::{Config, Size},
    xdp::TierSize,
};

/// The kernel's setting for transparent huge pages (admin-guide/mm/transhuge).
pub(crate) const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// The pool of reserved huge pages of this size (admin-guide/mm/hugetlbpage), and how many of them are unused.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const POOL_FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
const HUGE_PAGE: u64 = 2 << 20;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let demand = Demand::new(&facts.config, &facts.nics);
    findings.extend(room(
        &facts.system,
        &demand,
        match facts.server {
            Some(_) => Asker::Server,
            None => Asker::Command,
        },
    ));
    findings.extend(transparent(facts));
    findings.extend(reserved(facts));
    findings
}

/// Whether what a server with these settings allocates soon after the start leaves half of the available memory: for a
/// start. `None`: what there is is not known.
pub(crate) fn memory(config: &Config) -> Option<Finding> {
    let demand = Demand::new(config, &nics(config));
    room(&System::host(), &demand, Asker::Start)
}

/// What a running server takes in addition, for its first `queues` queues on these `workers`, with these settings: whether it
/// leaves half of the available memory. `None`: what there is is not known.
pub(crate) fn more_memory(
    workers: usize,
    cache_bytes: usize,
    queues: usize,
    queue_bytes: usize,
) -> Option<Finding> {
    let demand = Demand {
        caches: (workers * cache_bytes) as u64,
        in_pool: fits_pool(cache_bytes),
        workers,
        sockets: 0,
        forwarders: 0,
        frames: (queues * queue_bytes) as u64,
        queues,
        tier: 0,
    };
    room(&System::host(), &demand, Asker::Start)
}

/// The memory that a server takes, in octets.
struct Demand {
    /// A cache for each thread that works for queries.
    caches: u64,
    /// The caches are put into reserved huge pages, as far as there are any.
    in_pool: bool,
    workers: usize,
    sockets: usize,
    forwarders: usize,
    /// What the kernel receives packets into.
    frames: u64,
    queues: usize,
    /// The maps of the hot tier of all interfaces.
    tier: u64,
}

impl Demand {
    /// That of a server on these interfaces, if the settings have AF_XDP.
    fn new(config: &Config, nics: &[Nic]) -> Self {
        let is_served = |nic: &&Nic| config.wants_xdp() && nic.count() > 0;
        let served = || nics.iter().filter(is_served);
        let queues = served().map(Nic::count).sum();
        let workers = config.xdp.workers(queues);
        let (sockets, forwarders) = (config.socket.threads, config.forward.threads);
        let sizes = served().map(|nic| nic.count() * nic.frame_size as usize);
        let frames = sizes.sum::<usize>() * config.xdp.frames as usize;
        let tier = served().filter(|nic| config.allows_tier(nic.driver()).is_ok());
        let tier = tier.count() as u64 * TierSize::new(config.tier.entries).octets();
        Self {
            caches: ((workers + sockets + forwarders) * config.cache.bytes) as u64,
            in_pool: fits_pool(config.cache.bytes),
            workers,
            sockets,
            forwarders,
            frames: frames as u64,
            queues,
            tier,
        }
    }

    fn sum(&self) -> u64 {
        self.caches + self.frames + self.tier
    }
}

/// `caches of 2 workers, 1 socket thread and 1 forwarder thread (256 MiB), frames of 4 queues (64 MiB)`.
impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            _ => Some(format!("{count} {what}s")),
        };
        let mut parts = Vec::new();
        let threads = [
            counted(self.workers, "worker"),
            counted(self.sockets, "socket thread"),
            counted(self.forwarders, "forwarder thread"),
        ];
        let threads: Vec<String> = threads.into_iter().flatten().collect();
        if let Some((last, others)) = threads.split_last() {
            let and = if others.is_empty() { "" } else { " and " };
            let others = others.join(", ");
            let caches = self.caches >> 20;
            parts.push(format!("caches of {others}{and}{last} ({caches} MiB)"));
        }
        if let Some(queues) = counted(self.queues, "queue") {
            parts.push(format!("frames of {queues} ({} MiB)", self.frames >> 20));
        }
        if self.tier > 0 {
            parts.push(format!("the hot tier ({} MiB)", self.tier >> 20));
        }
        f.write_str(&parts.join(", "))
    }
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

fn room(system: &System, demand: &Demand, asker: Asker) -> Option<Finding> {
    let mut available = available(system)?;
    if asker == Asker::Server {
        for held in ["VmRSS:", "HugetlbPages:"] {
            available += kibibytes(system, "/proc/self/status", held).unwrap_or_default();
        }
    }
    if demand.in_pool {
        // They are no part of the available memory.
        let pages = system.number(POOL_FREE).unwrap_or_default();
        available += pages.saturating_mul(HUGE_PAGE).min(demand.caches);
    }
    let needed = demand.sum();
    let (subject, check) = ("memory", &checks::MEMORY_ROOM);
    let finding = format!(
        "{demand} take {} MiB, and {} MiB of memory are available",
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
        "lower cache.size or xdp.frames, serve fewer queues, or lower xdp.workers, socket.threads or forward.threads",
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
    let unified = groups(system).into_iter();
    let unified = unified.filter_map(|group| {
        let files = ["memory.max", "memory.current", "inactive_file"];
        left(system, &group, files)
    });
    let legacy = legacy_groups(system, "memory").into_iter();
    let legacy = legacy.filter_map(|group| {
        let files = [
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ];
        left(system, &group, files)
    });
    Some(unified.chain(legacy).fold(host, u64::min))
}

/// What the limit of a control group leaves: files with its limit and what is used, and the line of memory.stat with the
/// cached files among that, which the kernel drops when memory is needed.
fn left(system: &System, group: &str, [limit, used, cached]: [&str; 3]) -> Option<u64> {
    let limit = system.number(&format!("{group}/{limit}"))?;
    let used = system
        .number(&format!("{group}/{used}"))
        .unwrap_or_default();
    let cached = system.line(&format!("{group}/memory.stat"), &format!("{cached} "));
    let cached = cached.and_then(|number| number.parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
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

/// Whether caches of this size use reserved huge pages.
fn fits_pool(cache_bytes: usize) -> bool {
    (cache_bytes as u64).is_multiple_of(8 * HUGE_PAGE)
}

fn reserved(facts: &Facts) -> Option<Finding> {
    let pages = facts.system.number(POOL).filter(|pages| *pages > 0)?;
    let check = &checks::HUGE_PAGE_POOL;
    let subject = "huge pages of 2 MiB";
    let bytes = facts.config.cache.bytes as u64;
    if !fits_pool(facts.config.cache.bytes) {
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
        // Files that are cached are dropped when memory is needed.
        write(
            "sys/fs/cgroup/a/memory.stat",
            "anon 7\ninactive_file 200000\n",
        );
        assert_eq!(available(&system), Some(248_576));
        // As in a cgroup namespace, where the path may be of a group below the mounted one.
        write("sys/fs/cgroup/memory.max", "4096\n");
        assert_eq!(available(&system), Some(4096));
        // cgroup v1.
        write("proc/self/cgroup", "4:memory:/c\n0::/\n");
        write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "3000");
        write("sys/fs/cgroup/memory/c/memory.usage_in_bytes", "1000");
        write(
            "sys/fs/cgroup/memory/c/memory.stat",
            "total_inactive_file 100",
        );
        assert_eq!(available(&system), Some(2100));
        // Limits of groups above count, too.
        write("proc/self/cgroup", "4:memory:/d/e/f\n0::/\n");
        write("sys/fs/cgroup/memory/d/e/memory.limit_in_bytes", "700");
        assert_eq!(available(&system), Some(700));
    }
}
