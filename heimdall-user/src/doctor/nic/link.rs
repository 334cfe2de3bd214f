//! The link: carrier, speed, errors; what is on top of the interface and around it; programs on it.

use heimdall_ebpf::PROGRAM;

use crate::{
    doctor::{
        checks,
        facts::{Facts, Nic},
        finding::Finding,
        fix::Fix,
    },
    xdp::{AttachedProgram, Details},
};

/// Lost packets for each one seen that are worth a warning: one in ten thousand.
const LOST: u64 = 10_000;

/// Mbit/s below which a link is slow for a server.
const SLOW: u64 = 1000;

pub(super) fn examine(facts: &Facts, nic: &Nic, details: &Details) -> Vec<Finding> {
    let mut findings = vec![carrier(facts, nic, details), counters(nic, details)];
    findings.extend(programs(facts, nic, details));
    findings.push(above(nic, details));
    findings.extend(offloads(nic, details));
    findings
}

fn carrier(facts: &Facts, nic: &Nic, details: &Details) -> Finding {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_LINK);
    if !details.up {
        let fix = Fix::command(&format!("ip link set dev {subject} up"));
        return check.bad(subject, "it is down: no queries arrive on it", fix);
    }
    if !details.carrier {
        let fix = Fix::advice("check the cable, the switch, or the other end");
        return check.bad(subject, "it has no carrier: no queries arrive on it", fix);
    }
    let directory = nic.sysfs(&facts.system);
    let file = |name: &str| {
        let directory = directory.as_ref()?;
        facts.system.read(&format!("{directory}/{name}"))
    };
    let speed: Option<u64> = file("speed").and_then(|speed| speed.parse().ok());
    let duplex = file("duplex").unwrap_or_default();
    let fix = || {
        Fix::Advice(format!(
            "check the cable and the other end's settings (ethtool {subject})"
        ))
    };
    match speed {
        _ if duplex == "half" => check.warn(subject, "the link is half duplex", fix()),
        Some(speed) if speed < SLOW => {
            check.warn(subject, format!("the link has {speed} Mbit/s"), fix())
        }
        Some(speed) => check.good(subject, format!("up, {speed} Mbit/s")),
        None => check.good(subject, "up"),
    }
}

fn counters(nic: &Nic, details: &Details) -> Finding {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_COUNTERS);
    let counters = &details.counters;
    let finding = format!(
        "{} of {} packets received and {} of {} sent had errors or were lost",
        counters.rx_lost, counters.rx_packets, counters.tx_lost, counters.tx_packets
    );
    let many = counters.rx_lost > counters.rx_packets / LOST
        || counters.tx_lost > counters.tx_packets / LOST;
    match many {
        true => check.warn(
            subject,
            finding,
            Fix::Advice(format!(
                "`ethtool -S {subject}` tells which: missed or no_buffer: larger rings (ethtool -G) or more \
                 queues; crc: the cable"
            )),
        ),
        false => check.good(subject, finding),
    }
}

fn programs(facts: &Facts, nic: &Nic, details: &Details) -> Vec<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_PROGRAM);
    if details.programs.is_empty() {
        return vec![check.good(subject, "no XDP program is attached")];
    }
    let judge = |program: &AttachedProgram| {
        let id = program.id;
        match facts.program_name(program) {
            Some(PROGRAM) if facts.is_of_server(program) == Some(false) => check.bad(
                subject,
                format!("the program ({id}) of another Heimdall is attached"),
                Fix::Advice(format!(
                    "stop it; if it is the one that is meant, give its control socket (--control) instead of {}",
                    facts.config.control.display()
                )),
            ),
            Some(PROGRAM) if program.generic => check.warn(
                subject,
                format!("Heimdall's program ({id}) is in generic mode"),
                Fix::advice("the log of the server's start says why not in native mode"),
            ),
            Some(PROGRAM) => check.good(subject, format!("Heimdall's program ({id}) is attached")),
            Some(name) => check.bad(
                subject,
                format!("another XDP program ({id}, {name}) is attached"),
                Fix::Advice(program.remedy.clone()),
            ),
            // It may be Heimdall's: no advice to remove it.
            None => check.warn(
                subject,
                format!(
                    "an XDP program ({id}) is attached; its name cannot be read without CAP_SYS_ADMIN"
                ),
                Fix::advice("run `heimdall doctor` as root"),
            ),
        }
    };
    details.programs.iter().map(judge).collect()
}

fn above(nic: &Nic, details: &Details) -> Finding {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_ABOVE);
    match &details.master {
        None => check.good(subject, "no bond, team or bridge"),
        Some((master, kind)) if kind == "team" => check.warn(
            subject,
            format!(
                "a port of the team {master}: the kernel does not tell which of them it uses, so a backup's \
                 queries are answered, too"
            ),
            Fix::advice("with the runner activebackup use a bond instead"),
        ),
        Some((master, kind)) => check.good(subject, format!("a member of the {kind} {master}")),
    }
}

fn offloads(nic: &Nic, details: &Details) -> Vec<Finding> {
    let subject = nic.name.as_str();
    let Some(offloads) = &details.offloads else {
        return Vec::new();
    };
    let stripped = &details.stripped;
    let vlan = &checks::NIC_VLAN;
    let vlan = match (stripped.names.is_empty(), details.vlans.is_empty()) {
        (false, _) => vlan.warn(subject, stripped.effect(), Fix::command(&stripped.command)),
        (true, true) => vlan.good(subject, "it has no VLANs"),
        (true, false) => vlan.good(subject, "tags stay in the packets"),
    };
    let lro = &checks::NIC_LRO;
    let lro = match offloads.lro {
        true => lro.warn(
            subject,
            "LRO is on: most drivers then refuse native XDP",
            Fix::command(&format!("ethtool -K {subject} lro off")),
        ),
        false => {
            let gro = if offloads.gro { "on" } else { "off" };
            lro.good(
                subject,
                format!("LRO is off (GRO, which is {gro}, does not matter to AF_XDP)"),
            )
        }
    };
    vec![vlan, lro]
}
