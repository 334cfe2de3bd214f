//! `heimdall doctor`: what on this host costs speed, or keeps a server with these settings from working.
//!
//! Each area has a file with functions from facts to findings. The facts are files of /proc and /sys below a
//! root ([`System`]), what the kernel tells of interfaces ([`crate::xdp::Details`]), and the settings; so tests
//! provoke each finding. This module changes nothing, except by a [`Step`] that its caller applies.
//!
//! Called by `cli` for the command, by `server` at its start, and for warnings that both have.

mod checks;
mod cores;
mod facts;
mod files;
mod finding;
mod fix;
mod kernel;
mod memory;
mod network;
mod nic;
mod privileges;
mod settings;
mod system;
mod tls;

pub(crate) use cores::crowded;
pub(crate) use files::needed_files;
pub(crate) use finding::{Finding, Level};
pub(crate) use fix::Step;
pub(crate) use memory::{TRANSPARENT, memory, more_memory};
pub(crate) use nic::{beyond_map, queue_cores, return_path};
pub(crate) use settings::load;
pub(crate) use system::{System, show};

use crate::config::Config;
use facts::Facts;
#[cfg(test)]
use fix::Fix;

/// What the checks find on this host for a server with these settings. Nothing is changed, and nothing that a
/// server does is disturbed; it takes some milliseconds. `programs` are the ids of the XDP programs of the server that runs with
/// these settings, none if there is no such server; `None`: they are not known.
pub(crate) fn findings(config: &Config, programs: Option<Vec<u32>>) -> Vec<Finding> {
    examine(&Facts::gather(config, None, programs))
}

/// Those of them that say why a start could not attach its programs, as others are attached.
pub(crate) fn others_programs(config: &Config, programs: Option<Vec<u32>>) -> Vec<Finding> {
    let mut findings = findings(config, programs);
    let id = checks::NIC_PROGRAM.id;
    findings.retain(|finding| finding.check.id == id && finding.level == Level::Bad);
    findings
}

/// The same in a running server, which has allocated its memory; `programs` are the ids of its XDP programs.
pub(crate) fn findings_in_server(config: &Config, programs: Vec<u32>) -> Vec<Finding> {
    examine(&Facts::gather(config, Some(programs), None))
}

fn examine(facts: &Facts) -> Vec<Finding> {
    [
        kernel::examine,
        privileges::examine,
        memory::examine,
        cores::examine,
        files::examine,
        network::examine,
        tls::examine,
        nic::examine,
    ]
    .iter()
    .flat_map(|area| area(facts))
    .collect()
}

/// Describes all checks, and what is known of drivers.
pub(crate) fn describe() -> String {
    let mut text = String::new();
    for check in checks::ALL {
        text.push_str(&format!(
            "{}\n  looks at  {}\n  because   {}\n  fixed by  {}\n",
            check.id, check.examines, check.why, check.fixes
        ));
    }
    text.push_str("\nKnown of drivers (nic.trap):\n");
    for trap in nic::TRAPS {
        let drivers = trap.drivers.join(", ");
        text.push_str(&format!(
            "{drivers}\n  {}\n  source: {}\n",
            trap.what, trap.source
        ));
    }
    text
}

/// A bad finding, a warning and a good one, for tests.
#[cfg(test)]
pub(crate) fn example_findings() -> Vec<Finding> {
    let busy = "net.core.busy_poll";
    vec![
        checks::BPF_JIT.good("net.core.bpf_jit_enable", "BPF programs are compiled"),
        checks::SOCKET_BUSY_POLL.warn(
            busy,
            "each wait of a socket polls the NIC for 50 µs first",
            Fix::sysctl(busy, 0),
        ),
        checks::NIC_LINK.bad(
            "eth0",
            "it is down: no queries arrive on it",
            Fix::command("ip link set dev eth0 up"),
        ),
    ]
}

#[cfg(test)]
mod tests;
