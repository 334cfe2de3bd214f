//! A host without a fault: files below a directory, and an interface.

use std::{collections::BTreeSet, fs, path::PathBuf};

use tempfile::TempDir;

use crate::{
    config::{Config, Flags, Host},
    doctor::{
        Finding, System, examine,
        facts::{Facts, Nic},
    },
    socket::testing::Files,
    xdp::{
        Channels, Details, Driver, LinkCounters, Offloads, RingSizes, Rss, StrippedVlans,
        XdpFeatures,
    },
};

/// The host's files.
const FILES: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.18.1-generic\n"),
    ("proc/net/protocols", "protocol  size\nXDP       1152\n"),
    ("proc/sys/net/core/bpf_jit_enable", "1\n"),
    ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
    (
        "proc/self/status",
        "Name:\theimdall\nCapEff:\t000001ffffffffff\n",
    ),
    (
        "proc/self/limits",
        "Limit             Soft Limit  Hard Limit  Units\n\
         Max open files    1024        65536       files\n\
         Max locked memory 8388608     8388608     bytes\n",
    ),
    ("proc/self/cgroup", "0::/system.slice/session.scope\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
    (
        "proc/meminfo",
        "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "0\n",
    ),
    ("proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/conf/lo/forwarding", "0\n"),
    ("proc/sys/net/ipv6/conf/lo/forwarding", "0\n"),
    ("proc/sys/net/core/rmem_default", "212992\n"),
    ("proc/sys/net/core/wmem_default", "212992\n"),
    ("proc/sys/net/core/busy_poll", "0\n"),
    ("proc/sys/net/core/busy_read", "0\n"),
    (
        "proc/net/snmp",
        "Udp: InDatagrams NoPorts RcvbufErrors\nUdp: 100000 5 1\nUdpLite: InDatagrams\nUdpLite: 0\n",
    ),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/possible", "0-3\n"),
    ("sys/devices/system/node/node0/cpulist", "0-3\n"),
    ("sys/class/net/eth0/ifindex", "2\n"),
    ("sys/class/net/eth0/speed", "25000\n"),
    ("sys/class/net/eth0/duplex", "full\n"),
    ("sys/class/net/eth0/napi_defer_hard_irqs", "0\n"),
    ("sys/class/net/eth0/gro_flush_timeout", "0\n"),
    ("sys/class/net/eth0/threaded", "0\n"),
    ("sys/class/net/eth0/device/numa_node", "0\n"),
    ("sys/class/net/eth0/device/msi_irqs/40", "msix\n"),
    ("sys/class/net/eth0/device/msi_irqs/41", "msix\n"),
    ("proc/irq/40/effective_affinity_list", "0\n"),
    ("proc/irq/41/effective_affinity_list", "1\n"),
];

/// Facts that are changed to provoke a finding.
pub(super) struct Fixture {
    root: TempDir,
    pub(super) facts: Facts,
}

impl Fixture {
    /// A host without a fault: one NIC of four queues, on a host of four cores.
    pub(super) fn new() -> Self {
        // In memory: there are thousands of files in all.
        let memory = tempfile::tempdir_in("/dev/shm");
        let root = memory.or_else(|_| tempfile::tempdir()).unwrap();
        let facts = Facts {
            system: System::at(root.path()),
            config: config("upstream = [\"192.0.2.53\"]\ninterface = [\"eth0\"]"),
            nics: vec![Nic {
                name: "eth0".to_owned(),
                queues: Ok(vec![0, 1, 2, 3]),
                rx_queues: 4,
                usable_queues: 4,
                unusable_queues: None,
                frame_size: 2048,
                idle: None,
                down: None,
                details: Some(nic()),
            }],
            af_xdp: None,
            bpf: Some(libc::EINVAL),
            server: None,
            beside: None,
            unrestricted: Vec::new(),
        };
        let fixture = Self { root, facts };
        for (path, text) in FILES {
            fixture.write(path, text);
        }
        for core in 0..4 {
            let directory = format!("sys/devices/system/cpu/cpu{core}");
            fixture.write(
                &format!("{directory}/topology/thread_siblings_list"),
                &core.to_string(),
            );
            fixture.write(
                &format!("{directory}/cpufreq/scaling_governor"),
                "performance",
            );
        }
        fixture
    }

    /// Writes a file of the host.
    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Removes a file of the host.
    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.root.path().join(path)).unwrap();
    }

    /// Replaces the settings.
    pub(super) fn settings(&mut self, text: &str) {
        self.facts.config = config(text);
    }

    /// Adds settings to those that the host has.
    pub(super) fn and_settings(&mut self, text: &str) {
        self.settings(&format!(
            "upstream = [\"192.0.2.53\"]\ninterface = [\"eth0\"]\n{text}"
        ));
    }

    /// A directory of its own.
    pub(super) fn directory(&self) -> PathBuf {
        self.root.path().to_owned()
    }

    /// Adds settings that have a certificate for TLS.
    pub(super) fn tls_settings(&mut self, files: &Files) {
        self.and_settings(&format!(
            "[tls]\ncertificate = {:?}\nkey = {:?}",
            files.certificate, files.key
        ));
    }

    pub(super) fn nic(&mut self) -> &mut Nic {
        &mut self.facts.nics[0]
    }

    pub(super) fn details(&mut self) -> &mut Details {
        self.nic().details.as_mut().unwrap()
    }

    /// Gives the interface another driver.
    pub(super) fn driver(&mut self, name: &str) {
        self.details().driver.as_mut().unwrap().name = name.to_owned();
    }

    /// Takes capabilities away.
    pub(super) fn without_capabilities(&self, numbers: &[u32]) {
        let all = (1_u64 << 41) - 1;
        let left = numbers.iter().fold(all, |set, number| set & !(1 << number));
        self.write(
            "proc/self/status",
            &format!("Name:\tx\nCapEff:\t{left:016x}\n"),
        );
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        examine(&self.facts)
    }
}

fn config(text: &str) -> Config {
    let host = Host {
        cores: BTreeSet::from([0, 1, 2, 3]),
        control: Some("/run/heimdall/control.sock".into()),
        ..Host::default()
    };
    Config::from_text(&Flags::default(), text, &host).unwrap()
}

fn nic() -> Details {
    Details {
        name: "eth0".to_owned(),
        index: 2,
        up: true,
        carrier: true,
        driver: Some(Driver {
            name: "examplenic".to_owned(),
            version: "6.18.1".to_owned(),
            firmware: "4.40".to_owned(),
        }),
        channels: Some(Channels {
            combined: 4,
            max_rx: 0,
            max_combined: 64,
        }),
        rings: Some(RingSizes {
            rx: 2048,
            max_rx: 8160,
            tx: 1024,
            max_tx: 8160,
        }),
        offloads: Some(Offloads {
            lro: false,
            gro: true,
        }),
        hashes_ports: [Some(true); 2],
        rss: Some(Rss {
            queues: BTreeSet::from([0, 1, 2, 3]),
            zero_key: false,
        }),
        steering_rules: Some(0),
        xdp: Some(XdpFeatures {
            native: true,
            zero_copy: true,
            zero_copy_segments: 8,
        }),
        master: None,
        vlans: Vec::new(),
        stripped: StrippedVlans::default(),
        programs: Vec::new(),
        elsewhere: None,
        vrfs: vec!["lo".to_owned()],
        counters: LinkCounters {
            rx_packets: 1_000_000,
            rx_lost: 3,
            tx_packets: 1_000_000,
            tx_lost: 0,
        },
    }
}
