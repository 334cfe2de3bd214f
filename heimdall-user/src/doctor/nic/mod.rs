//! One interface: what it is, how it is set, and what keeps its queries from the workers.

mod affinity;
mod driver;
mod interrupts;
mod link;
mod queues;
mod route;
mod spread;
mod tier;

pub(crate) use affinity::queue_cores;
pub(super) use affinity::{near, sysfs};
pub(super) use driver::TRAPS;
pub(crate) use queues::beyond_map;
pub(crate) use route::return_path;

use super::{
    checks,
    facts::{Facts, Nic},
    finding::{Finding, Level},
    fix::Fix,
};
use crate::xdp::Details;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let nics = facts.nics.iter();
    let mut findings: Vec<Finding> = nics.flat_map(|nic| examine_one(facts, nic)).collect();
    if !facts.config.wants_xdp() {
        // An interface that is not to be served cannot keep a server from working.
        for finding in &mut findings {
            finding.level = finding.level.min(Level::Warn);
        }
    }
    findings
}

fn examine_one(facts: &Facts, nic: &Nic) -> Vec<Finding> {
    let mut findings = vec![usable(nic)];
    let Some(details) = &nic.details else {
        return findings;
    };
    findings.extend(driver::examine(facts, nic, details));
    findings.extend(link::examine(facts, nic, details));
    findings.push(tier::examine(facts, nic, details));
    findings.extend(route::examine(facts, nic, details));
    if nic.count() > 0 {
        findings.extend(queues::examine(facts, nic, details));
        findings.extend(spread::examine(nic, details));
        findings.extend(interrupts::examine(facts, nic));
    }
    findings
}

/// Whether AF_XDP can serve it; if not, the error has the remedy behind a semicolon.
fn usable(nic: &Nic) -> Finding {
    let check = &checks::NIC_USABLE;
    if let (Some(idle), Some(down)) = (&nic.idle, &nic.down) {
        let fix = Fix::command(&format!("ip link set dev {down} up"));
        let finding = format!("{idle}: its queries get no reply");
        return check.bad(nic.name.as_str(), finding, fix);
    }
    match &nic.queues {
        Ok(queues) => check.good(
            nic.name.as_str(),
            format!("AF_XDP can serve it (queues: {})", queues.len()),
        ),
        Err(error) => {
            let (what, remedy) = error.split_once("; ").unwrap_or((error, ""));
            check.bad(nic.name.as_str(), what, Fix::advice(remedy))
        }
    }
}

/// Whether it is a virtual interface of this host.
fn is_virtual(details: &Details) -> bool {
    let driver = details.driver.as_ref();
    driver.is_some_and(|driver| ["veth", "tun"].contains(&driver.name.as_str()))
}
