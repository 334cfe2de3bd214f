//! The cores that workers are pinned to, and how much of them this process gets.

use std::collections::BTreeSet;

use super::{
    checks,
    facts::{Facts, groups, legacy_groups},
    finding::Finding,
    fix::{Fix, Step},
    system::{System, show},
};
use crate::config::Config;

/// Drivers whose `powersave` follows the load.
const FOLLOWING: &[&str] = &["intel_pstate", "amd-pstate-epp"];

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(quota(facts));
    let cores = workers(facts);
    if !cores.is_empty() {
        findings.extend(isolated(facts, &cores));
        let crowded = crowded(&facts.config, facts.queues());
        findings.extend(crowded.or_else(|| siblings(facts, &cores)));
        findings.extend(governor(facts, &cores));
    }
    findings
}

/// Cores of all workers.
fn workers(facts: &Facts) -> BTreeSet<usize> {
    if !facts.config.wants_xdp() {
        return BTreeSet::new();
    }
    let nics = facts.nics.iter();
    nics.flat_map(|nic| facts.cores(nic)).collect()
}

/// The CPU time of the control groups: files with a quota in tenths of a core (`cpu.max`: the quota and the period, in
/// microseconds; with cgroup v1 in a file each, the quota -1 without a limit).
fn quotas(system: &System) -> impl Iterator<Item = (String, u64)> {
    let tenths = |quota: u64, period: u64| quota.saturating_mul(10) / period.max(1);
    let unified = groups(system).into_iter().filter_map(move |group| {
        let file = format!("{group}/cpu.max");
        let text = system.read(&file)?;
        let (quota, period) = text.split_once(' ')?;
        Some((file, tenths(quota.parse().ok()?, period.parse().ok()?)))
    });
    let legacy = legacy_groups(system, "cpu").into_iter();
    unified.chain(legacy.filter_map(move |group| {
        let file = format!("{group}/cpu.cfs_quota_us");
        let period = system.number(&format!("{group}/cpu.cfs_period_us"))?;
        Some((system.number(&file)?, period)).map(|(quota, period)| (file, tenths(quota, period)))
    }))
}

fn quota(facts: &Facts) -> Option<Finding> {
    let check = &checks::CPU_QUOTA;
    let least = quotas(&facts.system).min_by_key(|(_, tenths)| *tenths);
    let Some((file, tenths)) = least else {
        return Some(check.good("CPU time", "no control group limits it"));
    };
    let threads = facts.threads();
    let finding = format!(
        "the control group gets the time of {}.{} cores, for {threads} threads",
        tenths / 10,
        tenths % 10
    );
    if tenths >= 10 * threads as u64 {
        return Some(check.good("CPU time", finding));
    }
    let fix = Fix::Advice(match facts.unit() {
        Some(unit) => format!("remove CPUQuota= from {unit}, and give it cores (AllowedCPUs=)"),
        None => format!("remove the limit in {file}, and give it cores of its own"),
    });
    Some(check.warn("CPU time", finding, fix))
}

fn isolated(facts: &Facts, cores: &BTreeSet<usize>) -> Option<Finding> {
    let isolated = facts.system.list("/sys/devices/system/cpu/isolated")?;
    let (subject, check) = ("xdp.cpus", &checks::ISOLATED);
    if isolated.is_empty() || !cores.is_disjoint(&isolated) {
        let finding = match isolated.is_empty() {
            true => "no cores are isolated".to_owned(),
            false => format!("workers use isolated cores: {}", show(&isolated)),
        };
        return Some(check.good(subject, finding));
    }
    let list: Vec<String> = isolated.iter().map(usize::to_string).collect();
    Some(check.warn(
        subject,
        format!(
            "cores {} are isolated, and workers use {}",
            show(&isolated),
            show(cores)
        ),
        Fix::Advice(format!("set cpus = [{}] in [xdp]", list.join(", "))),
    ))
}

/// Whether some of the workers of so many queues are pinned to one core.
pub(crate) fn crowded(config: &Config, queues: usize) -> Option<Finding> {
    let (workers, cores) = (config.xdp.workers(queues), config.xdp.cpus.len());
    (cores > 0 && workers > cores).then(|| {
        checks::SMT.warn(
            "xdp.workers",
            format!("{workers} workers share {cores} cores, and each has a cache of its own"),
            Fix::Advice(format!(
                "leave xdp.workers out, set it to {cores}, or name more cores in xdp.cpus"
            )),
        )
    })
}

/// Workers on two threads of one core.
fn siblings(facts: &Facts, cores: &BTreeSet<usize>) -> Option<Finding> {
    let (subject, check) = ("xdp.cpus", &checks::SMT);
    let siblings = |core: &usize| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        facts.system.list(&path)
    };
    let groups: Option<Vec<BTreeSet<usize>>> = cores.iter().map(siblings).collect();
    let groups = groups?;
    let shared = groups
        .iter()
        .find(|group| group.intersection(cores).count() > 1);
    let Some(shared) = shared else {
        return Some(check.good(subject, "each worker's core runs no other worker"));
    };
    // The first of each group of siblings.
    let firsts: BTreeSet<usize> = groups
        .iter()
        .filter_map(|group| group.first())
        .copied()
        .collect();
    let list: Vec<String> = firsts.iter().map(usize::to_string).collect();
    Some(check.warn(
        subject,
        format!(
            "{} are threads of one core, and each has a worker",
            show(shared)
        ),
        Fix::Advice(format!("set cpus = [{}] in [xdp]", list.join(", "))),
    ))
}

fn governor(facts: &Facts, cores: &BTreeSet<usize>) -> Option<Finding> {
    let check = &checks::GOVERNOR;
    let file =
        |core: &usize, name: &str| format!("/sys/devices/system/cpu/cpu{core}/cpufreq/{name}");
    let read = |core: &usize, name: &str| facts.system.read(&file(core, name));
    let mut slow = Vec::new();
    let mut seen = None;
    for core in cores {
        let governor = read(core, "scaling_governor")?;
        let driver = read(core, "scaling_driver").unwrap_or_default();
        let follows = governor == "schedutil"
            || governor == "powersave" && FOLLOWING.contains(&driver.as_str());
        if governor != "performance" && !follows {
            slow.push(*core);
        }
        seen = Some(governor);
    }
    let governor = seen?;
    if slow.is_empty() {
        return Some(check.good("cores", format!("the frequency governor is {governor}")));
    }
    let steps = slow.iter().map(|core| Step::Write {
        path: file(core, "scaling_governor"),
        value: "performance".to_owned(),
    });
    let cores: BTreeSet<usize> = slow.iter().copied().collect();
    Some(check.warn(
        format!("cores {}", show(&cores)),
        format!(
            "the frequency governor is {governor}, which raises the frequency late or not at all"
        ),
        Fix::Safe(steps.collect()),
    ))
}
