//! The kernel's network stack, as the socket front and the forwarder use it.

use super::{checks, facts::Facts, finding::Finding, fix::Fix};

/// The kernel's default of `net.core.rmem_default` and `wmem_default`.
const BUFFER: u64 = 212_992;

/// Lost datagrams for each one received that are worth a warning: one in ten thousand.
const LOST: u64 = 10_000;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(buffers(facts));
    findings.extend(lost(facts));
    findings.extend(busy_polling(facts));
    findings
}

fn buffers(facts: &Facts) -> Vec<Finding> {
    let check = &checks::BUFFERS;
    let keys = ["net.core.rmem_default", "net.core.wmem_default"];
    let judge = |key| {
        let octets = facts.system.sysctl(key)?;
        let finding = format!("{octets} octets for each socket");
        Some(match octets < BUFFER {
            true => check.warn(key, finding, Fix::sysctl(key, BUFFER)),
            false => check.good(key, finding),
        })
    };
    keys.into_iter().filter_map(judge).collect()
}

/// Datagrams that the kernel dropped because a socket's buffer was full.
fn lost(facts: &Facts) -> Option<Finding> {
    let (mut received, mut lost) = received4(facts)?;
    // IPv6 has counters of its own; a kernel without it does not have the file.
    if let Some((received6, lost6)) = received6(facts) {
        received += received6;
        lost += lost6;
    }
    let finding = format!("{lost} of {received} datagrams of this host found a full socket buffer");
    let (subject, check) = ("UDP", &checks::UDP_LOST);
    Some(match lost > received / LOST {
        true => check.warn(
            subject,
            finding,
            Fix::advice(
                "if they are Heimdall's, as `ss -ulmp` shows (d): more socket.threads, or, without CAP_NET_ADMIN, a \
                 larger net.core.rmem_max",
            ),
        ),
        false => check.good(subject, finding),
    })
}

/// Datagrams that were received, and those dropped, over IPv4 (/proc/net/snmp).
fn received4(facts: &Facts) -> Option<(u64, u64)> {
    let text = facts.system.read("/proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let count = |name: &str| -> Option<u64> {
        let column = names.split_whitespace().position(|one| one == name)?;
        values.split_whitespace().nth(column)?.parse().ok()
    };
    Some((count("InDatagrams")?, count("RcvbufErrors")?))
}

/// The same over IPv6 (/proc/net/snmp6).
fn received6(facts: &Facts) -> Option<(u64, u64)> {
    let count = |name: &str| -> Option<u64> {
        let value = facts.system.line("/proc/net/snmp6", name)?;
        value.parse().ok()
    };
    Some((count("Udp6InDatagrams")?, count("Udp6RcvbufErrors")?))
}

fn busy_polling(facts: &Facts) -> Vec<Finding> {
    let check = &checks::SOCKET_BUSY_POLL;
    let keys = ["net.core.busy_poll", "net.core.busy_read"];
    let judge = |key| {
        Some(match facts.system.sysctl(key)? {
            0 => check.good(key, "off"),
            micros => {
                let finding = format!("each wait of a socket polls the NIC for {micros} µs first");
                check.warn(key, finding, Fix::sysctl(key, 0))
            }
        })
    };
    keys.into_iter().filter_map(judge).collect()
}
