//! How the NIC spreads packets over its queues: RSS, its hash, and rules before it.

use crate::{
    doctor::{
        checks,
        facts::Nic,
        finding::Finding,
        fix::{Fix, Step},
    },
    xdp::Details,
};

/// Drivers that close and open their queues when the fields of the hash change.
const RESTARTING: &[&str] = &["bnxt_en"];

pub(super) fn examine(nic: &Nic, details: &Details) -> Vec<Finding> {
    let mut findings = Vec::new();
    if nic.rx_queues > 1 {
        findings.extend(hash(nic, details));
        findings.extend(key(nic, details));
    }
    findings.extend(rules(nic, details));
    findings
}

/// Whether the ports of UDP take part in the hash: all queries of one address are in one queue otherwise.
fn hash(nic: &Nic, details: &Details) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_HASH);
    let families = ["udp4", "udp6"].into_iter().zip(details.hashes_ports);
    let families: Vec<(&str, bool)> = families
        .filter_map(|(family, ports)| Some((family, ports?)))
        .collect();
    if families.is_empty() {
        return None;
    }
    let without = families.iter().filter(|(_, ports)| !ports);
    let without: Vec<&str> = without.map(|(family, _)| *family).collect();
    if without.is_empty() {
        return Some(check.good(subject, "UDP is hashed by addresses and ports"));
    }
    let finding = format!(
        "{}: hashed by addresses only, not by ports",
        without.join(" and ")
    );
    let steps = without
        .iter()
        .map(|family| Step::run(&format!("ethtool -N {subject} rx-flow-hash {family} sdfn")))
        .collect();
    let fix = match RESTARTING.contains(&nic.driver()) {
        true => Fix::Commands(steps),
        false => Fix::Safe(steps),
    };
    Some(check.warn(subject, finding, fix))
}

fn key(nic: &Nic, details: &Details) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_KEY);
    let rss = details.rss.as_ref()?;
    // The driver of ena does not tell its key: zeros mean nothing there.
    Some(match rss.zero_key && nic.driver() != "ena" {
        true => check.warn(
            subject,
            "the key of the hash is zero: all packets get into one queue",
            Fix::Advice(format!(
                "set a random key of the same length: ethtool -X {subject} hkey (ethtool -x shows it)"
            )),
        ),
        false => check.good(
            subject,
            format!("packets are spread over {} queues", rss.queues.len()),
        ),
    })
}

fn rules(nic: &Nic, details: &Details) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_RULES);
    Some(match details.steering_rules? {
        0 => check.good(subject, "no rule chooses a queue before the hash does"),
        rules => check.warn(
            subject,
            format!("{rules} rules choose queues before the hash does"),
            Fix::Advice(format!(
                "see that none keeps queries from the workers' queues: ethtool -n {subject}"
            )),
        ),
    })
}
