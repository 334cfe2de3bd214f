//! Queues: how many there are, whether all are served, and how long their rings are.

use std::collections::BTreeSet;

use heimdall_ebpf::MAX_QUEUES;

use crate::{
    doctor::{
        checks,
        facts::{Facts, Nic},
        finding::Finding,
        fix::Fix,
        system::show,
    },
    xdp::{Channels, Details},
};

/// Descriptors below which a burst does not fit while the kernel's thread does not run.
const SHORT_RING: u32 = 512;
/// Descriptors that are enough.
const RING: u32 = 1024;

pub(super) fn examine(facts: &Facts, nic: &Nic, details: &Details) -> Vec<Finding> {
    let mut findings = vec![number(facts, nic, details)];
    findings.extend(served(nic, details));
    findings.extend(rings(nic, details));
    findings
}

/// The command that sets the number of queues. A driver without combined channels refuses them (EINVAL);
/// `None`: it is not known which it has.
fn set_channels(name: &str, channels: Option<&Channels>, count: usize) -> Fix {
    let kinds = match channels {
        Some(channels) if channels.max_combined == 0 => format!("rx {count} tx {count}"),
        _ => format!("combined {count}"),
    };
    Fix::command(&format!("ethtool -L {name} {kinds}"))
}

/// The finding for an interface with more queues than the XDP program can steer to.
pub(crate) fn beyond_map(
    name: &str,
    channels: Option<&Channels>,
    rx_queues: u32,
) -> Option<Finding> {
    (rx_queues > MAX_QUEUES).then(|| {
        let finding = format!("{rx_queues} queues, of which AF_XDP can serve {MAX_QUEUES}");
        let fix = set_channels(name, channels, MAX_QUEUES as usize);
        checks::NIC_QUEUES.warn(name, finding, fix)
    })
}

fn number(facts: &Facts, nic: &Nic, details: &Details) -> Finding {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_QUEUES);
    let cores = facts.config.xdp.cpus.len();
    let channels = details.channels.as_ref();
    if let Some(finding) = beyond_map(subject, channels, nic.rx_queues) {
        return finding;
    }
    let queues = nic.rx_queues;
    let most = channels.map_or(queues, Channels::most);
    let could = (most as usize).min(cores);
    // That a veth was made with one queue is a trap of its own.
    if queues == 1 && could > 1 && nic.driver() != "veth" {
        let finding = format!("one queue of {most} that are possible: one core answers everything");
        let fix = set_channels(subject, channels, could);
        return check.warn(subject, finding, fix);
    }
    let workers = facts.placed(nic).into_iter().map(|(worker, queues)| {
        let core = facts.config.xdp.cpu(worker);
        let core = core.map(|core| format!(" on core {core}"));
        let core = core.unwrap_or_default();
        format!("worker-{worker}{core}: {}", show(&queues))
    });
    let workers = workers.collect::<Vec<_>>().join("; ");
    let kept = match facts.is_served(details) {
        true => "; the kernel refuses fewer (ethtool -L) until the server stops",
        false => "",
    };
    check.good(
        subject,
        format!("receive queues in use: {queues}; {workers}{kept}"),
    )
}

/// Whether packets arrive in queues that no worker serves.
fn served(nic: &Nic, details: &Details) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_SERVED);
    if let Some(unusable) = &nic.unusable_queues {
        let fix = Fix::advice(&unusable.remedy);
        return Some(check.warn(subject, unusable.effect.as_str(), fix));
    }
    let served: BTreeSet<u32> = nic.queues.as_ref().ok()?.iter().copied().collect();
    let used = match &details.rss {
        Some(rss) if !rss.queues.is_empty() => rss.queues.clone(),
        _ => (0..nic.rx_queues).collect(),
    };
    let left = used.difference(&served).map(|queue| *queue as usize);
    let left: BTreeSet<usize> = left.collect();
    if left.is_empty() {
        return Some(check.good(subject, "all queues that get packets have workers"));
    }
    let queues = if left.len() == 1 { "queue" } else { "queues" };
    let finding = format!(
        "no worker serves {queues} {}, to which packets go",
        show(&left)
    );
    let contiguous =
        served.first() == Some(&0) && served.last() == Some(&(served.len() as u32 - 1));
    let fix = match contiguous {
        true => Fix::command(&format!("ethtool -X {subject} equal {}", served.len())),
        false => Fix::Advice(format!("serve all queues: --interface {subject}")),
    };
    Some(check.warn(subject, finding, fix))
}

fn rings(nic: &Nic, details: &Details) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_RINGS);
    let rings = details.rings.as_ref().filter(|rings| rings.max_rx > 0)?;
    let finding = format!(
        "{} descriptors to receive into, {} to send (at most {} and {})",
        rings.rx, rings.tx, rings.max_rx, rings.max_tx
    );
    let mut larger = String::new();
    for (name, now, most) in [
        ("rx", rings.rx, rings.max_rx),
        ("tx", rings.tx, rings.max_tx),
    ] {
        if now < SHORT_RING && most >= 2 * now {
            larger.push_str(&format!(" {name} {}", most.min(RING)));
        }
    }
    Some(match larger.is_empty() {
        true => check.good(subject, finding),
        false => check.warn(
            subject,
            finding,
            Fix::command(&format!("ethtool -G {subject}{larger}")),
        ),
    })
}
