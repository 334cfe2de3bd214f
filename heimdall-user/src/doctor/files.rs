//! Descriptors and ports.

use super::{checks, facts::Facts, finding::Finding, fix::Fix};
use crate::{forward::ForwardOptions, http, socket::MAX_CONNECTIONS};

/// Files of the process as a whole: control, snapshots, logs, netlink, lists; connections over HTTP.
const PROCESS: u64 = 64 + http::MAX_CONNECTIONS as u64;

/// Files of each front: listeners or an AF_XDP socket, its eventfd and its epoll instance.
const FRONT: u64 = 8;

/// Ports for queries to upstreams below which a forged response needs noticeably fewer attempts
/// (RFC 5452 section 9.2 wants as many as possible).
const FEW_PORTS: u64 = 16_384;

/// The kernel's default of `net.ipv4.ip_local_port_range`.
const PORTS: &str = "32768 60999";

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(descriptors(facts));
    findings.extend(ports(facts));
    findings
}

/// Files that are needed with this many fronts and listening sockets, besides those of clients' TCP connections.
pub(crate) fn needed_files(options: &ForwardOptions, fronts: usize, listeners: usize) -> u64 {
    let shared = options.threads.max(1) * options.shared_files();
    PROCESS + FRONT * fronts as u64 + listeners as u64 + shared as u64
}

fn descriptors(facts: &Facts) -> Option<Finding> {
    let hard = facts.hard_limit("Max open files")?;
    let config = &facts.config;
    let options = config.upstream_options();
    let sockets = config.socket.threads;
    let fronts = sockets + facts.queues();
    let others = needed_files(&options, fronts, sockets * config.listening_sockets());
    let needed = MAX_CONNECTIONS as u64 + others;
    let (subject, check) = ("open files", &checks::DESCRIPTORS);
    if needed <= hard {
        return Some(check.good(
            subject,
            format!("the limit has room for the {needed} that are needed"),
        ));
    }
    let finding = format!("the hard limit is {hard}, and these settings need {needed}");
    let fix = match facts.unit() {
        Some(unit) => format!("set LimitNOFILE={needed} in {unit}"),
        None => format!("raise it (ulimit -Hn {needed})"),
    };
    Some(check.warn(subject, finding, Fix::Advice(fix)))
}

fn ports(facts: &Facts) -> Option<Finding> {
    let key = "net.ipv4.ip_local_port_range";
    let path = super::system::sysctl(key);
    let numbers = facts.system.numbers(&path)?;
    let [first, last] = numbers.as_slice() else {
        return None;
    };
    let ports = (last + 1).saturating_sub(*first);
    let check = &checks::PORTS;
    let finding = format!("{ports} ports for queries to upstreams");
    Some(match ports < FEW_PORTS {
        true => check.warn(key, finding, Fix::decision(key, PORTS)),
        false => check.good(key, finding),
    })
}
