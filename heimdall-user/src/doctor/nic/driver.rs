//! The driver: what it can do with XDP, and what is known to go wrong with it.

use super::is_virtual;
use crate::{
    doctor::{
        checks,
        facts::{Facts, Nic},
        finding::{Finding, Level},
        fix::Fix,
    },
    xdp::{Channels, Details},
};

pub(super) fn examine(facts: &Facts, nic: &Nic, details: &Details) -> Vec<Finding> {
    let mut findings = vec![identity(nic, details), native(nic, details)];
    findings.extend(zero_copy(nic, details));
    findings.extend(traps(facts, nic, details));
    findings
}

fn identity(nic: &Nic, details: &Details) -> Finding {
    let check = &checks::NIC_DRIVER;
    let subject = nic.name.as_str();
    let Some(driver) = &details.driver else {
        return check.good(subject, "the driver does not tell its name");
    };
    let mut finding = driver.name.clone();
    for (what, text) in [("version", &driver.version), ("firmware", &driver.firmware)] {
        if !text.is_empty() {
            finding.push_str(&format!(", {what} {text}"));
        }
    }
    check.good(subject, finding)
}

fn native(nic: &Nic, details: &Details) -> Finding {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_NATIVE);
    match &details.xdp {
        None => check.good(subject, "the kernel does not tell (Linux 6.3 and newer do)"),
        Some(features) if features.native => check.good(subject, "native XDP: the driver has it"),
        // `veth_set_xdp_features`, drivers/net/veth.c.
        Some(_) if nic.driver() == "veth" => {
            let queues = nic.rx_queues;
            let finding = format!(
                "the peer sends from more queues than the {queues} that it receives on: the program runs in generic mode"
            );
            let fix = format!(
                "run `ethtool -L PEER tx {queues}` where the peer is, or make the pair with as many queues at both ends"
            );
            check.warn(subject, finding, Fix::Advice(fix))
        }
        Some(_) => check.warn(
            subject,
            "the driver has no native XDP: the program runs in generic mode",
            Fix::advice(
                "another NIC, or --backend socket, which is hardly slower; see docs/doctor.md for drivers",
            ),
        ),
    }
}

fn zero_copy(nic: &Nic, details: &Details) -> Option<Finding> {
    let (subject, check) = (nic.name.as_str(), &checks::NIC_ZERO_COPY);
    let features = details.xdp.as_ref().filter(|features| features.native)?;
    Some(if features.zero_copy {
        let segments = features.zero_copy_segments;
        check.good(
            subject,
            format!("zero-copy: the driver has it, with up to {segments} buffers a packet"),
        )
    } else if is_virtual(details) {
        check.good(
            subject,
            "copy mode, as on every virtual interface of this kind",
        )
    } else {
        check.warn(
            subject,
            "the driver has no zero-copy: the kernel copies each packet",
            Fix::advice("a newer kernel may have it for this driver; else another NIC"),
        )
    })
}

fn traps(facts: &Facts, nic: &Nic, details: &Details) -> Vec<Finding> {
    let driver = nic.driver();
    let known = TRAPS.iter().filter(|trap| trap.drivers.contains(&driver));
    known
        .filter_map(|trap| {
            let (level, finding, fix) = (trap.applies)(facts, nic, details)?;
            Some(checks::NIC_TRAP.finding(level, nic.name.as_str(), finding, fix))
        })
        .collect()
}

/// Cores that the kernel is prepared for.
fn possible_cores(facts: &Facts) -> Option<u32> {
    let cores = facts.system.list("/sys/devices/system/cpu/possible")?;
    u32::try_from(cores.len()).ok()
}

/// Whether virtio_net runs XDP programs without queue pairs of their own.
fn shares_pairs(facts: &Facts) -> bool {
    let kernel = facts.kernel();
    kernel == (0, 0) || kernel >= (5, 13)
}

/// A finding's level, what is, and what fixes it.
type Judgement = (Level, String, Fix);

/// What is known to go wrong with a driver.
pub(in crate::doctor) struct Trap {
    pub(in crate::doctor) drivers: &'static [&'static str],
    /// For the documentation.
    pub(in crate::doctor) what: &'static str,
    /// A file of the kernel's source, and what to look for in it; or a page.
    pub(in crate::doctor) source: &'static str,
    applies: fn(&Facts, &Nic, &Details) -> Option<Judgement>,
}

/// The traps that are looked for.
pub(in crate::doctor) static TRAPS: &[Trap] = &[
    Trap {
        drivers: &["ena"],
        what: "attaching is refused unless at least half of the queues are free",
        source: "`drivers/net/ethernet/amazon/ena/ena_xdp.h`, `ena_xdp_legal_queue_count`",
        applies: |facts, nic, details| {
            let Channels {
                combined,
                max_combined,
                ..
            } = details.channels.as_ref()?;
            (2 * combined > *max_combined).then(|| {
                let finding = format!(
                    "{combined} of {max_combined} queues are in use, and ena needs as many more for XDP"
                );
                let half = (max_combined / 2).max(1);
                let command = format!("ethtool -L {} combined {half}", nic.name);
                let fix = match facts.is_served(details) {
                    true => Fix::Advice(format!(
                        "stop the server, whose AF_XDP sockets keep the queues, and run `{command}`"
                    )),
                    false => Fix::command(&command),
                };
                (Level::Bad, finding, fix)
            })
        },
    },
    Trap {
        drivers: &["ixgbe"],
        what: "attaching is refused with more than 128 possible cores; with more than 64, senders share queues under a lock",
        source: "`drivers/net/ethernet/intel/ixgbe/ixgbe_main.c`, `ixgbe_xdp_setup`, `IXGBE_MAX_XDP_QS`",
        applies: |facts, _, _| {
            let cores = possible_cores(facts)?;
            match cores {
                0..=64 => None,
                65..=128 => Some((
                    Level::Warn,
                    format!("{cores} possible cores share 64 queues for sending, under a lock"),
                    Fix::advice("boot with nr_cpus=64 if the host has no more cores"),
                )),
                _ => Some((
                    Level::Bad,
                    format!("ixgbe refuses native XDP with {cores} possible cores"),
                    Fix::advice("boot with nr_cpus=128 or less, or use another NIC"),
                )),
            }
        },
    },
    Trap {
        drivers: &["virtio_net"],
        what: "native XDP is refused if the host merges or checks packets for the guest and does not let it turn that off",
        source: "`drivers/net/virtio_net.c`, `virtnet_xdp_set` (`VIRTIO_NET_F_CTRL_GUEST_OFFLOADS`)",
        applies: |facts, nic, _| {
            let directory = nic.sysfs(&facts.system)?;
            let bits = facts.system.read(&format!("{directory}/device/features"))?;
            let has = |bit: usize| bits.as_bytes().get(bit) == Some(&b'1');
            // VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, and GUEST_CSUM, GUEST_TSO4, _TSO6, _ECN, _UFO.
            let stuck = !has(2) && [1, 7, 8, 9, 10].into_iter().any(has);
            stuck.then(|| {
                (
                    Level::Bad,
                    "the host does offloads for this guest that it does not let it turn off: native XDP is refused".to_owned(),
                    Fix::advice(
                        "on the host, start the guest with guest_csum, guest_tso4, guest_tso6, guest_ecn and \
                         guest_ufo off, or with ctrl_guest_offloads on",
                    ),
                )
            })
        },
    },
    Trap {
        drivers: &["virtio_net"],
        what: "before Linux 5.13 native XDP is refused without a queue pair for each core in addition; newer kernels share queue pairs then, under a lock",
        source: "`drivers/net/virtio_net.c`, `virtnet_xdp_set` (\"XDP request %i queues but max is %i\")",
        applies: |facts, nic, details| {
            let channels = details.channels.as_ref()?;
            let (pairs, cores) = (nic.usable_queues, possible_cores(facts)?);
            (!channels.adds_pairs(pairs, cores)).then(|| {
                let most = channels.max_combined;
                match shares_pairs(facts) {
                    true => (
                        Level::Good,
                        format!("XDP shares its {pairs} queue pairs with the kernel's stack, under a lock"),
                        Fix::None,
                    ),
                    false => (
                        Level::Bad,
                        format!(
                            "with this kernel XDP wants {} queue pairs, and the host gives {most}",
                            pairs + cores
                        ),
                        Fix::Advice(format!(
                            "use Linux 5.13 or newer, or give the guest queues={} on the host",
                            pairs + cores
                        )),
                    ),
                }
            })
        },
    },
    Trap {
        drivers: &["virtio_net"],
        what: "if there is a queue pair for each core in addition, they are turned on for XDP: AF_XDP cannot send there, and the sockets answer what arrives there",
        source: "`drivers/net/virtio_net.c`, `virtnet_xdp_set`, `is_xdp_raw_buffer_queue`",
        applies: |facts, nic, details| {
            let channels = details.channels.as_ref()?;
            let (pairs, cores) = (nic.usable_queues, possible_cores(facts)?);
            channels.adds_pairs(pairs, cores).then(|| {
                let few = channels.pairs_that_leave_few(cores);
                let command = format!("ethtool -L {} combined {few}", nic.name);
                let fix = match (shares_pairs(facts), facts.is_served(details)) {
                    (false, _) => Fix::advice("use Linux 5.13 or newer, which can do without them"),
                    (true, true) => {
                        Fix::Advice(format!("stop the server, and run `{command}`: then too few are left"))
                    }
                    (true, false) => Fix::command(&command),
                };
                (
                    Level::Warn,
                    format!(
                        "with {pairs} of {} queue pairs in use, {cores} more are turned on for XDP, on which AF_XDP cannot send: \
                         the sockets answer what arrives there",
                        channels.max_combined
                    ),
                    fix,
                )
            })
        },
    },
    Trap {
        drivers: &["mlx5_core"],
        what: "before Linux 6.1 zero-copy sockets have queue numbers of their own, behind the others",
        source: "commit 3db4c85cde7a, \"net/mlx5e: xsk: Use queue indices starting from 0 for XSK queues\"",
        applies: |facts, _, _| {
            let kernel = facts.kernel();
            (kernel != (0, 0) && kernel < (6, 1)).then(|| {
                (
                    Level::Warn,
                    "with this kernel, zero-copy is only for queues that get no packets: copy mode is used".to_owned(),
                    Fix::advice("use Linux 6.1 or newer"),
                )
            })
        },
    },
    Trap {
        drivers: &["veth"],
        what: "a pair has one queue in use unless it was made with more; attaching is refused if the peer sends from more queues than this end receives on",
        source: "`drivers/net/veth.c`, `veth_init_queues`, `veth_xdp_set`",
        applies: |facts, nic, details| {
            let cores = facts.config.xdp.cpus.len();
            let most = details.channels.as_ref().map_or(1, Channels::most) as usize;
            (nic.rx_queues == 1 && cores > 1).then(|| {
                let fix = match most.min(cores) {
                    0 | 1 => Fix::Advice(format!(
                        "make the pair with `numrxqueues {cores} numtxqueues {cores}` at both ends"
                    )),
                    most => Fix::command(&format!("ethtool -L {} rx {most} tx {most}", nic.name)),
                };
                (
                    Level::Warn,
                    "one queue: one core answers everything".to_owned(),
                    fix,
                )
            })
        },
    },
    Trap {
        drivers: &["tun"],
        what: "packets of a tap come from a program of this host, one queue for each file that it has opened; there is no zero-copy",
        source: "`drivers/net/tun.c`, `tun_xdp_set`, `IFF_MULTI_QUEUE`",
        applies: |_, _, _| {
            Some((
                Level::Warn,
                "a tap: its packets come from a program of this host".to_owned(),
                Fix::advice("serve the NIC that queries arrive on, or use --backend socket"),
            ))
        },
    },
    Trap {
        drivers: &["hv_netvsc", "mlx5_core"],
        what: "attaching is refused while LRO (RSC) is on",
        source: "`Documentation/networking/device_drivers/ethernet/microsoft/netvsc.rst`; `drivers/net/ethernet/mellanox/mlx5/core/en_main.c`, `mlx5e_xdp_allowed`",
        applies: |_, nic, details| {
            details.offloads.as_ref()?.lro.then(|| {
                let finding = format!("LRO is on, with which {} runs no XDP program", nic.driver());
                let fix = Fix::command(&format!("ethtool -K {} lro off", nic.name));
                (Level::Bad, finding, fix)
            })
        },
    },
    Trap {
        drivers: &["ice"],
        what: "with fewer queues for XDP than cores, senders share them under a lock",
        source: "`drivers/net/ethernet/intel/ice/ice_main.c`, `ice_xdp_locking_key`",
        applies: |facts, _, details| {
            let channels = details.channels.as_ref()?;
            let cores = possible_cores(facts)?;
            // As many queues for XDP as there are cores, of those that the device has left.
            (channels.combined + cores > channels.max_combined).then(|| {
                (
                    Level::Good,
                    "may have fewer queues for XDP than cores, which then share them under a lock"
                        .to_owned(),
                    Fix::None,
                )
            })
        },
    },
    Trap {
        drivers: &["i40e"],
        what: "attaching and detaching reset the rings: traffic of the interface stops for a moment",
        source: "`drivers/net/ethernet/intel/i40e/i40e_main.c`, `i40e_xdp_setup` (`need_reset`)",
        applies: |_, _, _| {
            Some((
                Level::Good,
                "its rings are reset when a server starts and stops".to_owned(),
                Fix::None,
            ))
        },
    },
    Trap {
        drivers: &["igb", "igc"],
        what: "AF_XDP sends on the queues of the kernel's stack, under their lock",
        source: "`drivers/net/ethernet/intel/igc/igc_main.c`, `igc_xdp_xmit_zc`; `igb/igb_main.c`, `igb_xdp_xmit` (\"we share it with the slow path\")",
        applies: |_, nic, _| {
            (nic.count() > 0).then(|| {
                (
                    Level::Good,
                    "replies share the queues of the kernel's stack: other traffic of the host delays them".to_owned(),
                    Fix::None,
                )
            })
        },
    },
];
