//! The cores that are near a queue: that of its interrupt, and those of the NIC's NUMA node.

use std::collections::{BTreeMap, BTreeSet};

use crate::{doctor::system::System, worker::QueueCores};

/// The cores that are near each of these queues of an interface, as far as the kernel tells: for a server, which
/// places them.
pub(crate) fn queue_cores(interface: &str, index: u32, queues: &[u32]) -> Vec<QueueCores> {
    let system = System::host();
    let directory = sysfs(&system, interface, index);
    near(&system, interface, directory.as_deref(), queues)
}

/// The interface's directory in sysfs, which may show the interfaces of another network namespace.
pub(in crate::doctor) fn sysfs(system: &System, interface: &str, index: u32) -> Option<String> {
    let directory = format!("/sys/class/net/{interface}");
    let shown = system.number(&format!("{directory}/ifindex"))?;
    (shown == u64::from(index)).then_some(directory)
}

/// As [`queue_cores`], with the interface's directory in sysfs.
pub(in crate::doctor) fn near(
    system: &System,
    interface: &str,
    directory: Option<&str>,
    queues: &[u32],
) -> Vec<QueueCores> {
    let Some(directory) = directory else {
        return vec![QueueCores::default(); queues.len()];
    };
    let node = node(system, directory).unwrap_or_default();
    let bound = bound(system, interface, directory);
    let near = |queue: &u32| QueueCores {
        interrupt: bound.get(queue).copied(),
        node: node.clone(),
    };
    queues.iter().map(near).collect()
}

/// The cores of the NUMA node that the device is attached to, on a host with several.
fn node(system: &System, directory: &str) -> Option<BTreeSet<usize>> {
    let nodes = "/sys/devices/system/node";
    if system.list(&format!("{nodes}/online"))?.len() < 2 {
        return None;
    }
    // -1: the device has none.
    let node = system.number(&format!("{directory}/device/numa_node"))?;
    system.list(&format!("{nodes}/node{node}/cpulist"))
}

/// The queues whose interrupt is bound to one core, with that.
fn bound(system: &System, interface: &str, directory: &str) -> BTreeMap<u32, usize> {
    let own: BTreeSet<String> = interrupts(system, directory).into_iter().collect();
    let mut bound = BTreeMap::new();
    let Some(table) = system.read("/proc/interrupts").filter(|_| !own.is_empty()) else {
        return bound;
    };
    for line in table.lines() {
        let Some((irq, rest)) = line.split_once(':') else {
            continue;
        };
        let irq = irq.trim();
        let action = rest.split_whitespace().last().unwrap_or_default();
        if let Some(queue) = queue_of(action, interface).filter(|_| own.contains(irq))
            && let Some(core) = core(system, irq)
        {
            bound.entry(queue).or_insert(core);
        }
    }
    bound
}

/// Numbers of the device's interrupts. Those of a virtio device belong to the bus device above it.
pub(super) fn interrupts(system: &System, directory: &str) -> Vec<String> {
    let of_device = system.names(&format!("{directory}/device/msi_irqs"));
    match of_device.is_empty() {
        true => system.names(&format!("{directory}/device/../msi_irqs")),
        false => of_device,
    }
}

/// The cores that an interrupt goes to, or may go to.
pub(super) fn cores(system: &System, irq: &str) -> Option<BTreeSet<usize>> {
    let list = |file: &str| system.list(&format!("/proc/irq/{irq}/{file}"));
    let effective = list("effective_affinity_list").filter(|cores| !cores.is_empty());
    effective.or_else(|| list("smp_affinity_list"))
}

/// The core that an interrupt is bound to, if it is to one.
fn core(system: &System, irq: &str) -> Option<usize> {
    let cores = cores(system, irq)?;
    cores.first().copied().filter(|_| cores.len() == 1)
}

/// The receive queue that an interrupt is for, by its name in /proc/interrupts: drivers number them, as in `eth0-TxRx-3`,
/// `virtio0-input.3` and `mlx5_comp3@pci:0000:01:00.0`.
fn queue_of(action: &str, interface: &str) -> Option<u32> {
    let name = action.split('@').next()?;
    if name == interface {
        return None;
    }
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name.get(kind.len()..)?.parse().ok()?;
    let kind = kind.to_ascii_lowercase();
    let others = ["output", "async", "config", "fdir", "ntfy", "ctrl"];
    let sends_only = kind.contains("tx") && !kind.contains("rx");
    (!sends_only && !others.iter().any(|other| kind.contains(other))).then_some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn interrupts_are_named_after_queues_in_many_ways() {
        for (action, queue) in [
            ("eth0-TxRx-3", Some(3)),
            ("i40e-eth0-TxRx-11", Some(11)),
            ("eth0-Tx-Rx-1", Some(1)),
            ("eth0-rxtx-0", Some(0)),
            ("eth0-rx-1", Some(1)),
            ("eth0-tx-1", None),
            ("virtio0-input.2", Some(2)),
            ("virtio0-output.2", None),
            ("virtio0-config", None),
            ("mlx5_comp4@pci:0000:01:00.0", Some(4)),
            ("mlx5_async0@pci:0000:01:00.0", None),
            ("ena-mgmnt@pci:0000:00:05.0", None),
            ("eth0", None),
            ("timer", None),
            ("eth0-TxRx-99999999999", None),
            ("", None),
        ] {
            assert_eq!(queue_of(action, "eth0"), queue, "{action}");
        }
    }

    #[test]
    fn the_kernels_files_tell_what_is_near() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let table = "           CPU0       CPU1\n  0:   10   0   IO-APIC   2-edge   timer\n \
                     40:   1   0   PCI-MSI 524288-edge   eth0-TxRx-0\n \
                     41:   0   1   PCI-MSI 524289-edge   eth0-TxRx-1\n \
                     42:   0   1   PCI-MSI 524290-edge   eth0-TxRx-2\n \
                     50:   0   1   PCI-MSI 524291-edge   eth1-TxRx-3\n";
        write("proc/interrupts", table);
        write("sys/class/net/eth0/ifindex", "7\n");
        for irq in [40, 41, 42] {
            write(
                &format!("sys/class/net/eth0/device/msi_irqs/{irq}"),
                "msix\n",
            );
        }
        write("proc/irq/40/effective_affinity_list", "3\n");
        // A kernel that tells only what is allowed.
        write("proc/irq/41/effective_affinity_list", "\n");
        write("proc/irq/41/smp_affinity_list", "2\n");
        write("proc/irq/42/smp_affinity_list", "0-3\n");
        write("proc/irq/50/smp_affinity_list", "1\n");
        let system = System::at(root.path());
        let near = |index| {
            near(
                &system,
                "eth0",
                sysfs(&system, "eth0", index).as_deref(),
                &[0, 1, 2, 3],
            )
        };
        let interrupts =
            |index| -> Vec<_> { near(index).into_iter().map(|near| near.interrupt).collect() };
        assert_eq!(interrupts(7), [Some(3), Some(2), None, None]);
        // That of another network namespace.
        assert_eq!(interrupts(8), [None; 4]);
        let node = || near(7).pop().unwrap().node;
        write("sys/class/net/eth0/device/numa_node", "1\n");
        write("sys/devices/system/node/node1/cpulist", "2-3\n");
        write("sys/devices/system/node/online", "0\n");
        assert_eq!(node(), BTreeSet::new(), "there is one node");
        write("sys/devices/system/node/online", "0-1\n");
        assert_eq!(node(), BTreeSet::from([2, 3]));
        write("sys/class/net/eth0/device/numa_node", "-1\n");
        assert_eq!(node(), BTreeSet::new());
    }
}
