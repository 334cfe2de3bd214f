//! What this process may do: capabilities, and memory that it may lock.

use std::net::SocketAddr;

use super::{
    checks,
    facts::{Facts, capability, hidden_group},
    finding::Finding,
    fix::Fix,
};
use crate::config::SandboxMode;

/// Since then BPF maps are charged to the control group instead of the limit on locked memory.
const UNCHARGED_MAPS: (u32, u32) = (5, 11);

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![capabilities(facts)];
    findings.extend(memory_lock(facts));
    findings.push(sandbox(facts));
    findings.extend(view(facts));
    findings
}

fn capabilities(facts: &Facts) -> Finding {
    let (subject, check) = ("this process", &checks::CAPABILITIES);
    let Some(all) = facts.has(capability::SYS_ADMIN) else {
        let finding = "its capabilities are not known: /proc/self/status cannot be read";
        return check.warn(subject, finding, Fix::advice("mount /proc"));
    };
    let lacks = |capability| facts.has(capability) == Some(false);
    let mut missing = Vec::new();
    let first = facts.system.sysctl("net.ipv4.ip_unprivileged_port_start");
    let first = first.unwrap_or(1024);
    let privileged = |port: u16| u64::from(port) < first;
    let listen = facts.config.listen.iter();
    let mut ports = listen
        .chain(&facts.config.listen_tls)
        .chain(&facts.config.metrics.listen)
        .map(SocketAddr::port);
    if ports.any(privileged) && lacks(capability::NET_BIND_SERVICE) {
        missing.push("CAP_NET_BIND_SERVICE");
    }
    if facts.config.wants_xdp() {
        for (capability, name) in [
            (capability::NET_ADMIN, "CAP_NET_ADMIN"),
            (capability::NET_RAW, "CAP_NET_RAW"),
            (capability::BPF, "CAP_BPF"),
            (capability::PERFMON, "CAP_PERFMON"),
        ] {
            // CAP_SYS_ADMIN stands for what was split off from it in Linux 5.8.
            let split = [capability::BPF, capability::PERFMON].contains(&capability);
            if lacks(capability) && !(split && all) {
                missing.push(name);
            }
        }
    }
    if missing.is_empty() {
        return check.good(subject, "it has the capabilities that the settings need");
    }
    let missing = missing.join(" ");
    let fix = match facts.unit() {
        Some(unit) => format!("add {missing} to AmbientCapabilities= of {unit}"),
        None => format!(
            "run as root, or as the unit in deploy/ does (AmbientCapabilities={missing}); without \
             privileges: --backend socket and a port from {first} on"
        ),
    };
    check.bad(subject, format!("it lacks {missing}"), Fix::Advice(fix))
}

fn memory_lock(facts: &Facts) -> Option<Finding> {
    if !facts.config.wants_xdp() {
        return None;
    }
    let (subject, check) = ("locked memory", &checks::MEMORY_LOCK);
    // The kernel enforces the soft limit.
    let limit = facts.soft_limit("Max locked memory");
    let charged = |limit| {
        let finding = format!(
            "the limit is {} KiB, and before Linux {}.{} BPF maps are charged to it whatever the capabilities",
            limit >> 10,
            UNCHARGED_MAPS.0,
            UNCHARGED_MAPS.1
        );
        let fix = match facts.unit() {
            Some(unit) => format!("set LimitMEMLOCK=infinity in {unit}"),
            None => "lift the limit (ulimit -l unlimited)".to_owned(),
        };
        check.warn(subject, finding, Fix::Advice(fix))
    };
    let kernel = facts.kernel();
    let limits_maps = kernel != (0, 0) && kernel < UNCHARGED_MAPS;
    if facts.has(capability::IPC_LOCK) == Some(true) {
        return Some(
            match limit.filter(|limit| limits_maps && *limit != u64::MAX) {
                Some(limit) => charged(limit),
                None => check.good(subject, "CAP_IPC_LOCK: there is no limit"),
            },
        );
    }
    let limit = limit?;
    let queues = facts.queues() as u64;
    let needed = queues * u64::from(facts.config.xdp.frames) * u64::from(facts.frame_size());
    if limit >= needed && limits_maps && limit != u64::MAX {
        return Some(charged(limit));
    }
    if limit >= needed {
        return Some(check.good(subject, "the limit has room for the frames"));
    }
    let finding = format!(
        "the limit is {} KiB, and the frames of {queues} queues take {} KiB",
        limit >> 10,
        needed >> 10
    );
    let fix = match facts.unit() {
        Some(unit) => format!("set LimitMEMLOCK=infinity in {unit}"),
        None => "grant CAP_IPC_LOCK, raise the limit (ulimit -l), or lower xdp.frames".to_owned(),
    };
    Some(check.bad(subject, finding, Fix::Advice(fix)))
}

fn sandbox(facts: &Facts) -> Finding {
    let (subject, check) = ("sandbox", &checks::SANDBOX);
    if facts.config.privileges.sandbox == SandboxMode::Off {
        let fix = Fix::advice("leave `privileges.sandbox` out, or give --sandbox auto");
        return check.warn(subject, "it is off", fix);
    }
    match facts.unrestricted.as_slice() {
        [] => check.good(
            subject,
            "capabilities, files and system calls are restricted",
        ),
        open => {
            let fix = "enable Landlock (`lsm=` on the kernel's command line) and seccomp; in a container, allow their calls";
            check.warn(subject, open.join("; "), Fix::advice(fix))
        }
    }
}

/// What this process cannot see.
fn view(facts: &Facts) -> Option<Finding> {
    let check = &checks::VIEW;
    if let Some(group) = hidden_group(&facts.system) {
        let fix = "mount control groups: `mount -t cgroup2 none /sys/fs/cgroup`";
        return Some(check.warn(
            "this process",
            format!(
                "the limits of the control group {group} cannot be seen: /sys/fs/cgroup is empty, as under `ip netns exec`"
            ),
            Fix::advice(fix),
        ));
    }
    let unnamed = facts.nics.iter().filter_map(|nic| nic.details.as_ref());
    let mut unnamed = unnamed.filter(|details| {
        let mut programs = details.programs.iter();
        programs.any(|program| facts.program_name(program).is_none())
    });
    match unnamed.next() {
        Some(details) => Some(check.warn(
            details.name.as_str(),
            "whose XDP program is attached cannot be seen",
            Fix::advice("run `heimdall doctor` as root (CAP_SYS_ADMIN)"),
        )),
        None if facts.nics.is_empty() => None,
        None => Some(check.good("this process", "it may see all that is looked at")),
    }
}
