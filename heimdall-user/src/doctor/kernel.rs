//! The kernel: its version, AF_XDP, and the settings of BPF.

use super::{
    checks,
    facts::{Facts, capability},
    finding::Finding,
    fix::Fix,
};
use crate::worker::IdleMode;

/// The oldest kernel on which AF_XDP is used: XDP programs held by a bpf_link.
const OLDEST: (u32, u32) = (5, 9);
/// Preferred busy polling.
const BUSY_POLLING: (u32, u32) = (5, 11);

/// Features that are used where they exist: since when, and what their lack means.
const FEATURES: &[((u32, u32), &str, &str)] = &[
    (
        (5, 14),
        "MADV_POPULATE_WRITE",
        "caches are allocated as they are used",
    ),
    ((5, 18), "bpf_xdp_store_bytes", "there is no hot tier"),
    (
        (6, 3),
        "XDP features over netlink",
        "they cannot be shown here",
    ),
    (
        (6, 17),
        "XDP_MAX_TX_SKB_BUDGET",
        "in copy mode a call sends 32 packets at most",
    ),
];

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version(facts)];
    findings.extend(af_xdp(facts));
    findings.extend(bpf_call(facts));
    findings.extend(jit(facts));
    findings.extend(unprivileged(facts));
    findings
}

fn version(facts: &Facts) -> Finding {
    let version = facts.kernel();
    let subject = "kernel";
    let (major, minor) = version;
    let text = format!("Linux {major}.{minor}");
    let check = &checks::KERNEL_VERSION;
    if version == (0, 0) {
        let why = "the version is not known: /proc/sys/kernel/osrelease cannot be read";
        return check.warn(subject, why, Fix::advice("mount /proc"));
    }
    if version < OLDEST && facts.config.wants_xdp() {
        let finding = format!("{text} cannot hold an XDP program by a bpf_link");
        let fix = Fix::advice("use Linux 5.9 or newer, or --backend socket");
        return check.bad(subject, finding, fix);
    }
    if version < BUSY_POLLING && facts.config.xdp.idle == IdleMode::BusyPoll {
        let finding =
            format!("{text} has no busy polling of AF_XDP sockets, which xdp.idle asks for");
        let fix = Fix::advice("use Linux 5.11 or newer, or set idle = \"sleep\" in [xdp]");
        return check.warn(subject, finding, fix);
    }
    let lacks = FEATURES.iter().filter(|(since, ..)| version < *since);
    let lacks: Vec<String> = lacks
        .map(|((major, minor), what, means)| format!("{what} (Linux {major}.{minor}): {means}"))
        .collect();
    let finding = match lacks.is_empty() {
        true => format!("{text} has everything that is used"),
        false => format!("{text}; it lacks {}", lacks.join("; ")),
    };
    check.good(subject, finding)
}

fn af_xdp(facts: &Facts) -> Option<Finding> {
    if !facts.config.wants_xdp() {
        return None;
    }
    let (subject, check) = ("AF_XDP", &checks::KERNEL_AF_XDP);
    let Some(error) = facts.af_xdp else {
        return Some(check.good(subject, "sockets can be opened"));
    };
    let protocols = facts.system.read("/proc/net/protocols");
    let built_in = protocols.map(|text| text.lines().any(|line| line.starts_with("XDP")));
    Some(match (error, built_in) {
        (libc::EAFNOSUPPORT, Some(true)) => check.bad(
            subject,
            "the kernel has it, and this process may not use it: a filter of system calls forbids it",
            Fix::advice("add AF_XDP to RestrictAddressFamilies= in the unit"),
        ),
        (libc::EAFNOSUPPORT, _) => check.bad(
            subject,
            "the kernel was built without it",
            Fix::advice("use a kernel with CONFIG_XDP_SOCKETS, or --backend socket"),
        ),
        (libc::EPERM, _) => check.bad(
            subject,
            "no permission to open a socket",
            Fix::advice("run as root, or grant CAP_NET_RAW"),
        ),
        (error, _) => check.bad(
            subject,
            format!("no socket can be opened: {}", std::io::Error::from_raw_os_error(error)),
            Fix::advice("see the kernel's log (dmesg), or use --backend socket"),
        ),
    })
}

fn bpf_call(facts: &Facts) -> Option<Finding> {
    if !facts.config.wants_xdp() {
        return None;
    }
    let privileged = [capability::BPF, capability::SYS_ADMIN].map(|one| facts.has(one));
    let (subject, check) = ("bpf", &checks::BPF_CALL);
    Some(match facts.bpf {
        Some(libc::ENOSYS) => check.bad(
            subject,
            "the kernel has no system call bpf, or a filter of system calls hides it",
            Fix::advice("use a kernel with CONFIG_BPF_SYSCALL, or --backend socket"),
        ),
        // Without the privilege that is another finding.
        Some(libc::EPERM) if privileged.contains(&Some(true)) => check.bad(
            subject,
            "this process may not use the system call, in spite of its capabilities",
            Fix::advice("set SystemCallFilter=@system-service bpf in the unit; in a container, its seccomp profile"),
        ),
        Some(libc::EPERM) => return None,
        _ => check.good(subject, "the system call can be used"),
    })
}

fn jit(facts: &Facts) -> Option<Finding> {
    let key = "net.core.bpf_jit_enable";
    let check = &checks::BPF_JIT;
    Some(match facts.system.sysctl(key) {
        // The kernel has no interpreter, or no BPF at all: loading the program tells.
        None => return None,
        Some(0) if facts.config.wants_xdp() => {
            let finding = "the XDP program is interpreted, not compiled";
            check.bad(key, finding, Fix::sysctl(key, 1))
        }
        Some(0) => check.warn(key, "BPF programs are interpreted", Fix::sysctl(key, 1)),
        Some(2) => {
            let finding = "the compiler writes each program to the kernel's log";
            check.warn(key, finding, Fix::sysctl(key, 1))
        }
        Some(_) => check.good(key, "BPF programs are compiled"),
    })
}

fn unprivileged(facts: &Facts) -> Option<Finding> {
    let key = "kernel.unprivileged_bpf_disabled";
    let check = &checks::BPF_UNPRIVILEGED;
    Some(match facts.system.sysctl(key)? {
        0 => {
            let finding = "every user may load BPF programs";
            check.warn(key, finding, Fix::decision(key, 2))
        }
        _ => check.good(key, "only privileged users load BPF programs"),
    })
}
