//! Interrupts: which cores take them, how far those are from the workers, and how they are deferred.

use std::collections::BTreeSet;

use super::affinity;
use crate::{
    doctor::{
        checks,
        facts::{Facts, Nic},
        finding::Finding,
        fix::{Fix, Step},
        system::show,
    },
    worker::IdleMode,
    xdp::lacks_for_busy_polling,
};

pub(super) fn examine(facts: &Facts, nic: &Nic) -> Vec<Finding> {
    let Some(directory) = nic.sysfs(&facts.system) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    findings.extend(cores(facts, nic, &directory));
    findings.extend(node(facts, nic, &directory));
    findings.extend(deferral(facts, nic, &directory));
    findings
}

/// Whether the interrupts of several queues go to one core.
fn cores(facts: &Facts, nic: &Nic, directory: &str) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_INTERRUPTS);
    let interrupts = affinity::interrupts(&facts.system, directory);
    let cores: BTreeSet<usize> = interrupts
        .iter()
        .filter_map(|irq| affinity::cores(&facts.system, irq))
        .flatten()
        .collect();
    if cores.is_empty() {
        return None;
    }
    let workers = facts.cores(nic);
    if cores.len() == 1 && nic.count() > 1 && workers.len() > 1 {
        let finding = format!(
            "all its interrupts go to core {}, and {} queues have workers on cores {}",
            show(&cores),
            nic.count(),
            show(&workers)
        );
        let fix = "give each queue's interrupt the core of its worker: echo CORE > \
                   /proc/irq/IRQ/smp_affinity_list (grep the interface in /proc/interrupts), with irqbalance \
                   stopped";
        return Some(check.warn(subject, finding, Fix::advice(fix)));
    }
    Some(check.good(
        subject,
        format!("its interrupts go to cores {}", show(&cores)),
    ))
}

/// Whether the workers run on the NUMA node that the NIC is attached to.
fn node(facts: &Facts, nic: &Nic, directory: &str) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_NODE);
    // -1: the host has one node, or the device none.
    let node = facts
        .system
        .number(&format!("{directory}/device/numa_node"))?;
    let near = facts
        .system
        .list(&format!("/sys/devices/system/node/node{node}/cpulist"))?;
    let workers = facts.cores(nic);
    let far: BTreeSet<usize> = workers.difference(&near).copied().collect();
    if far.is_empty() {
        return Some(check.good(subject, format!("its workers run on its NUMA node, {node}")));
    }
    let list: Vec<String> = near.iter().map(usize::to_string).collect();
    Some(check.warn(
        subject,
        format!(
            "it is on NUMA node {node}, and workers on cores {} are not",
            show(&far)
        ),
        Fix::Advice(format!("set cpus = [{}] in [xdp]", list.join(", "))),
    ))
}

/// Whether the deferral of interrupts is what `xdp.idle` needs.
fn deferral(facts: &Facts, nic: &Nic, directory: &str) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_DEFERRAL);
    let path = |file: &str| format!("{directory}/{file}");
    let number = |file: &str| facts.system.number(&path(file));
    let write = |file: &str, value: u32| Step::Write {
        path: path(file),
        value: value.to_string(),
    };
    if facts.config.xdp.idle == IdleMode::BusyPoll {
        let shown = facts.system.path(directory);
        let lacks = lacks_for_busy_polling(&shown);
        let steps: Vec<Step> = lacks.map(|(file, value)| write(file, value)).collect();
        return Some(match steps.is_empty() {
            true => check.good(subject, "interrupts are deferred, as busy polling needs"),
            false => check.warn(
                subject,
                "packets also arrive without busy polling, which then costs more than it saves",
                Fix::Safe(steps),
            ),
        });
    }
    let (defer, flush) = (
        number("napi_defer_hard_irqs")?,
        number("gro_flush_timeout")?,
    );
    let threaded = match number("threaded") {
        Some(1..) => "; NAPI has threads of its own",
        _ => "",
    };
    if defer > 0 && flush > 0 {
        let finding = format!(
            "interrupts are deferred by up to {} µs, and workers that sleep wait for them{threaded}",
            flush / 1000
        );
        let files = ["napi_defer_hard_irqs", "gro_flush_timeout"];
        let steps = files.map(|file| write(file, 0)).to_vec();
        return Some(check.warn(subject, finding, Fix::Safe(steps)));
    }
    Some(check.good(subject, format!("interrupts are not deferred{threaded}")))
}
