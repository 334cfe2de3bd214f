//! Faults of a host, and the findings that they lead to.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use super::fixture::Fixture;
use crate::{
    doctor::{Level, facts::capability},
    socket::testing::{Dates, Files, VALID, certificate},
    xdp::{AttachedProgram, Channels, StrippedVlans, UnusableQueues},
};

/// A fault, and the finding.
pub(super) struct Case {
    /// The check's id.
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// A part of the finding.
    pub(super) says: &'static str,
    /// A part of the fix.
    pub(super) fix: &'static str,
    /// Makes it.
    pub(super) fault: fn(&mut Fixture),
}

const GOOD: Level = Level::Good;
const WARN: Level = Level::Warn;
const BAD: Level = Level::Bad;

fn program(name: Option<&str>, generic: bool) -> AttachedProgram {
    AttachedProgram {
        id: 7,
        generic,
        name: name.map(str::to_owned),
        remedy: "run `bpftool link detach id 3`".to_owned(),
    }
}

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = host();
    cases.extend(tls());
    cases.extend(interface());
    cases.extend(tier());
    cases.extend(traps());
    cases
}

macro_rules! cases {
    ($($check:literal $level:ident $says:literal, $fix:literal: $fault:expr;)+) => {
        vec![$(Case { check: $check, level: $level, says: $says, fix: $fix, fault: $fault }),+]
    };
}

fn tls() -> Vec<Case> {
    cases! {
        "tls.certificate" GOOD "for dns.example, 192.0.2.1, until", "":
            |host| host.tls_settings(&certificate(&host.directory(), VALID));
        "tls.certificate" WARN "expires on", "renew it":
            |host| host.tls_settings(&certificate(&host.directory(), Dates(-80, 10)));
        "tls.certificate" BAD "has expired on", "renew it":
            |host| host.tls_settings(&certificate(&host.directory(), Dates(-90, -1)));
        "tls.certificate" BAD "is not valid before", "clock":
            |host| host.tls_settings(&certificate(&host.directory(), Dates(1, 90)));
        "tls.certificate" BAD "cannot read /none: No such file", "heimdall reload": |host| {
            let files = certificate(&host.directory(), VALID);
            host.tls_settings(&Files { certificate: "/none".into(), ..files });
        };
        "tls.key" GOOD "it fits the certificate", "":
            |host| host.tls_settings(&certificate(&host.directory(), VALID));
        "tls.key" BAD "does not fit the first certificate", "heimdall reload": |host| {
            let files = certificate(&host.directory(), VALID);
            let others = certificate(&host.directory().join("proc"), VALID);
            host.tls_settings(&Files { key: others.key, ..files });
        };
        "tls.key" WARN "all users of this host can read", "chmod o-rwx": |host| {
            let files = certificate(&host.directory(), VALID);
            fs::set_permissions(&files.key, Permissions::from_mode(0o644)).unwrap();
            host.tls_settings(&files);
        };
    }
}

fn host() -> Vec<Case> {
    cases! {
        "kernel.version" BAD "cannot hold an XDP program", "Linux 5.9":
            |host| host.write("proc/sys/kernel/osrelease", "5.4.0-1");
        "kernel.version" WARN "no busy polling", "idle": |host| {
            host.write("proc/sys/kernel/osrelease", "5.10.0");
            host.and_settings("[xdp]\nidle = \"busy-poll\"");
        };
        "kernel.version" GOOD "MADV_POPULATE_WRITE", "":
            |host| host.write("proc/sys/kernel/osrelease", "5.10.0");
        "kernel.af-xdp" BAD "a filter of system calls forbids it", "RestrictAddressFamilies":
            |host| host.facts.af_xdp = Some(libc::EAFNOSUPPORT);
        "kernel.af-xdp" BAD "built without it", "CONFIG_XDP_SOCKETS": |host| {
            host.facts.af_xdp = Some(libc::EAFNOSUPPORT);
            host.write("proc/net/protocols", "protocol\nUDP 1\n");
        };
        "kernel.af-xdp" BAD "no permission", "CAP_NET_RAW":
            |host| host.facts.af_xdp = Some(libc::EPERM);
        "kernel.af-xdp" BAD "no socket can be opened", "dmesg":
            |host| host.facts.af_xdp = Some(libc::ENOMEM);
        "bpf.call" BAD "in spite of its capabilities", "SystemCallFilter":
            |host| host.facts.bpf = Some(libc::EPERM);
        "bpf.call" BAD "no system call bpf", "CONFIG_BPF_SYSCALL":
            |host| host.facts.bpf = Some(libc::ENOSYS);
        "bpf.jit" BAD "interpreted", "sysctl -w net.core.bpf_jit_enable=1":
            |host| host.write("proc/sys/net/core/bpf_jit_enable", "0");
        "bpf.jit" WARN "interpreted", "sysctl -w net.core.bpf_jit_enable=1": |host| {
            host.settings("upstream = [\"192.0.2.53\"]");
            host.write("proc/sys/net/core/bpf_jit_enable", "0");
        };
        "bpf.jit" WARN "kernel's log", "bpf_jit_enable=1":
            |host| host.write("proc/sys/net/core/bpf_jit_enable", "2");
        "bpf.unprivileged" WARN "every user", "kernel.unprivileged_bpf_disabled=2":
            |host| host.write("proc/sys/kernel/unprivileged_bpf_disabled", "0");
        "privilege.capabilities" BAD "it lacks CAP_NET_BIND_SERVICE", "run as root":
            |host| host.without_capabilities(&[capability::NET_BIND_SERVICE]);
        "privilege.capabilities" GOOD "it has the capabilities", "": |host| {
            host.write("proc/sys/net/ipv4/ip_unprivileged_port_start", "53");
            host.without_capabilities(&[capability::NET_BIND_SERVICE]);
        };
        "privilege.capabilities" BAD "it lacks CAP_NET_BIND_SERVICE", "run as root": |host| {
            host.and_settings("listen = [\"192.0.2.1:5353\"]\n[metrics]\nlisten = \"127.0.0.1:80\"");
            host.without_capabilities(&[capability::NET_BIND_SERVICE]);
        };
        "privilege.capabilities" GOOD "it has the capabilities", "": |host| {
            host.and_settings("listen = [\"192.0.2.1:5353\"]\n[metrics]\nlisten = \"127.0.0.1:8080\"");
            host.without_capabilities(&[capability::NET_BIND_SERVICE]);
        };
        "privilege.capabilities" BAD "CAP_NET_ADMIN CAP_NET_RAW", "": |host|
            host.without_capabilities(&[capability::NET_ADMIN, capability::NET_RAW]);
        "privilege.capabilities" GOOD "it has the capabilities", "":
            |host| host.without_capabilities(&[capability::BPF, capability::PERFMON]);
        "privilege.capabilities" BAD "it lacks CAP_BPF", "AmbientCapabilities= of heimdall.service": |host| {
            host.write("proc/self/cgroup", "0::/system.slice/heimdall.service");
            host.without_capabilities(&[capability::BPF, capability::SYS_ADMIN]);
        };
        "privilege.capabilities" WARN "not known", "/proc":
            |host| host.write("proc/self/status", "Name:\tx\n");
        "privilege.memory-lock" BAD "8192 KiB, and the frames of 4 queues take 65536 KiB", "ulimit -l":
            |host| host.without_capabilities(&[capability::IPC_LOCK]);
        "privilege.memory-lock" BAD "the frames of 4 queues take 131072 KiB", "ulimit -l": |host| {
            host.without_capabilities(&[capability::IPC_LOCK]);
            host.nic().frame_size = 4096;
        };
        "privilege.memory-lock" BAD "KiB", "LimitMEMLOCK=infinity in heimdall.service": |host| {
            host.write("proc/self/cgroup", "0::/system.slice/heimdall.service");
            host.without_capabilities(&[capability::IPC_LOCK]);
        };
        "privilege.memory-lock" BAD "8192 KiB, and the frames", "ulimit -l": |host| {
            host.without_capabilities(&[capability::IPC_LOCK]);
            host.write("proc/self/limits", "Max locked memory 8388608 unlimited bytes\n");
        };
        "privilege.memory-lock" WARN "8192 KiB, and before Linux 5.11 BPF maps", "ulimit -l unlimited":
            |host| host.write("proc/sys/kernel/osrelease", "5.10.0");
        "privilege.memory-lock" WARN "97656 KiB, and before Linux 5.11 BPF maps", "ulimit -l unlimited": |host| {
            host.without_capabilities(&[capability::IPC_LOCK]);
            host.write("proc/sys/kernel/osrelease", "5.10.0");
            host.write("proc/self/limits", "Max locked memory 100000000 unlimited bytes\n");
        };
        "privilege.memory-lock" GOOD "there is no limit", "": |host| {
            host.write("proc/sys/kernel/osrelease", "5.10.0");
            host.write("proc/self/limits", "Max locked memory unlimited unlimited bytes\n");
        };
        "privilege.memory-lock" GOOD "room for the frames", "": |host| {
            host.without_capabilities(&[capability::IPC_LOCK]);
            host.write("proc/self/limits", "Max locked memory unlimited unlimited bytes\n");
        };
        "privilege.sandbox" WARN "it is off", "--sandbox auto":
            |host| host.and_settings("privileges.sandbox = \"off\"");
        "privilege.sandbox" WARN "files are not restricted: no Landlock", "lsm=":
            |host| host.facts.unrestricted = vec!["files are not restricted: no Landlock".to_owned()];
        "privilege.view" WARN "cannot be seen", "as root":
            |host| host.details().programs = vec![program(None, false)];
        "privilege.view" WARN "the limits of the control group /a cannot be seen", "mount -t cgroup2": |host| {
            host.remove("sys/fs/cgroup/cgroup.controllers");
            host.write("proc/self/cgroup", "0::/a\n");
        };
        "memory.room" WARN "caches of 4 workers, 1 socket thread and 1 forwarder thread (384 MiB), frames of 4 queues (64 MiB)", "lower cache.size":
            |host| host.write("proc/meminfo", "MemAvailable: 614400 kB\n");
        "memory.room" WARN "a server that runs already is counted twice", "lower cache.size":
            |host| host.write("proc/meminfo", "MemAvailable: 614400 kB\n");
        "memory.room" GOOD "frames of 4 queues (64 MiB), the hot tier", "": |_| ();
        // Without the hot tier.
        "memory.room" GOOD "frames of 4 queues (64 MiB) take 448 MiB", "": |host| host.driver("veth");
        "memory.room" GOOD "frames of 4 queues", "": |host| {
            host.facts.server = Some(Vec::new());
            host.write("proc/meminfo", "MemAvailable: 614400 kB\n");
            host.write("proc/self/status", "CapEff:\t000001ffffffffff\nVmRSS:\t  614400 kB\n");
        };
        "memory.room" GOOD "and 984 MiB of memory are available", "": |host| {
            // The caches are in reserved huge pages.
            host.write("proc/meminfo", "MemAvailable: 614400 kB\n");
            host.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1000\n");
        };
        "memory.room" BAD "frames of 4 queues", "lower cache.size":
            |host| host.write("sys/fs/cgroup/system.slice/memory.max", "104857600\n");
        "memory.huge-pages" WARN "never used", "echo madvise > /sys/kernel/mm":
            |host| host.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]");
        "memory.huge-page-pool" WARN "10 pages are reserved, and 6 caches take 192", "echo 192 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":
            |host| host.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "10");
        "memory.huge-page-pool" GOOD "192 pages", "":
            |host| host.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "192");
        "memory.huge-page-pool" WARN "do not use them", "multiple of 16M": |host| {
            host.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512");
            host.and_settings("[cache]\nsize = \"10M\"");
        };
        "cpu.quota" WARN "the time of 1.5 cores, for 6 threads", "cpu.max":
            |host| host.write("sys/fs/cgroup/system.slice/cpu.max", "150000 100000");
        "cpu.quota" WARN "cores", "remove CPUQuota= from heimdall.service": |host| {
            host.write("proc/self/cgroup", "0::/system.slice/heimdall.service");
            host.write("sys/fs/cgroup/system.slice/heimdall.service/cpu.max", "100000 100000");
        };
        "cpu.quota" GOOD "8.0 cores", "":
            |host| host.write("sys/fs/cgroup/system.slice/cpu.max", "800000 100000");
        "cpu.quota" WARN "the time of 0.5 cores, for 6 threads", "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": |host| {
            host.write("proc/self/cgroup", "3:cpu,cpuacct:/a/b\n0::/\n");
            host.write("sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "-1");
            host.write("sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us", "100000");
            host.write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000");
            host.write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000");
        };
        "cpu.isolated" WARN "cores 2-3 are isolated, and workers use 0-1", "cpus = [2, 3]": |host| {
            host.and_settings("[xdp]\ncpus = [0, 1]");
            host.write("sys/devices/system/cpu/isolated", "2-3");
        };
        "cpu.isolated" GOOD "isolated cores: 2-3", "":
            |host| host.write("sys/devices/system/cpu/isolated", "2-3");
        "cpu.smt" WARN "4 workers share 2 cores", "set it to 2": |host|
            host.and_settings("[xdp]\nworkers = 4\ncpus = [0, 1]");
        "cpu.smt" WARN "0,2 are threads of one core", "cpus = [0, 1]": |host| {
            for core in 0..4 {
                let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
                host.write(&path, &format!("{},{}", core % 2, core % 2 + 2));
            }
        };
        "cpu.governor" WARN "governor is powersave", "echo performance > /sys/devices/system/cpu/cpu3": |host| {
            for core in 0..4 {
                let path = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
                host.write(&path, "powersave");
            }
        };
        "cpu.governor" GOOD "governor is powersave", "": |host| {
            for core in 0..4 {
                let directory = format!("sys/devices/system/cpu/cpu{core}/cpufreq");
                host.write(&format!("{directory}/scaling_governor"), "powersave");
                host.write(&format!("{directory}/scaling_driver"), "intel_pstate");
            }
        };
        "files.limit" WARN "the hard limit is 1024, and these settings need", "ulimit -Hn":
            |host| host.write("proc/self/limits", "Max open files 1024 1024 files\n");
        "files.limit" WARN "the hard limit is 1024", "LimitNOFILE=": |host| {
            host.write("proc/self/limits", "Max open files 1024 1024 files\n");
            host.write("proc/self/cgroup", "1:cpu:/\n0::/system.slice/heimdall.service");
        };
        "net.ports" WARN "1001 ports", "net.ipv4.ip_local_port_range=\"32768 60999\"":
            |host| host.write("proc/sys/net/ipv4/ip_local_port_range", "40000 41000");
        "net.buffers" WARN "65536 octets", "sysctl -w net.core.rmem_default=212992":
            |host| host.write("proc/sys/net/core/rmem_default", "65536");
        "net.buffers" WARN "4096 octets", "sysctl -w net.core.wmem_default=212992":
            |host| host.write("proc/sys/net/core/wmem_default", "4096");
        "net.lost" WARN "900 of 100000 datagrams", "socket.threads": |host|
            host.write("proc/net/snmp", "Udp: InDatagrams RcvbufErrors\nUdp: 100000 900\n");
        "net.lost" WARN "401 of 101000 datagrams", "socket.threads": |host| host.write(
            "proc/net/snmp6",
            "Ip6InReceives  7\nUdp6InDatagrams  1000\nUdp6NoPorts  3\nUdp6RcvbufErrors  400\n",
        );
        "net.busy-poll" WARN "50 µs", "sysctl -w net.core.busy_poll=0":
            |host| host.write("proc/sys/net/core/busy_poll", "50");
        "net.busy-poll" WARN "50 µs", "sysctl -w net.core.busy_read=0":
            |host| host.write("proc/sys/net/core/busy_read", "50");
    }
}

fn interface() -> Vec<Case> {
    cases! {
        "nic.usable" BAD "AF_XDP cannot serve eth0", "use --interface eth1": |host| {
            let error = "AF_XDP cannot serve eth0: packets of the VLAN arrive on eth1; use --interface eth1";
            host.nic().queues = Err(error.to_owned());
        };
        "nic.usable" BAD "there is no interface", "use one of": |host| {
            host.nic().queues = Err("there is no interface eth0; use one of: lo".to_owned());
            host.nic().details = None;
        };
        "nic.usable" BAD "mv0 is down: its queries get no reply", "ip link set dev mv0 up": |host| {
            host.nic().idle = Some("mv0 is down".to_owned());
            host.nic().down = Some("mv0".to_owned());
        };
        "nic.usable" GOOD "AF_XDP can serve it", "":
            |host| host.nic().idle = Some("eth0 is a backup, or blocked, in bond0".to_owned());
        "nic.driver" GOOD "examplenic, version 6.18.1, firmware 4.40", "": |_| {};
        "nic.driver" GOOD "does not tell its name", "": |host| host.details().driver = None;
        "nic.native" WARN "generic mode", "another NIC":
            |host| host.details().xdp.as_mut().unwrap().native = false;
        "nic.native" WARN "the peer sends from more queues than the 4 that", "ethtool -L PEER tx 4": |host| {
            host.driver("veth");
            host.details().xdp.as_mut().unwrap().native = false;
        };
        "nic.native" GOOD "does not tell", "": |host| host.details().xdp = None;
        "nic.zero-copy" WARN "no zero-copy", "newer kernel":
            |host| host.details().xdp.as_mut().unwrap().zero_copy = false;
        "nic.zero-copy" GOOD "copy mode", "": |host| {
            host.driver("veth");
            host.details().xdp.as_mut().unwrap().zero_copy = false;
        };
        "nic.link" BAD "it is down", "ip link set dev eth0 up": |host| host.details().up = false;
        "nic.link" BAD "no carrier", "cable": |host| host.details().carrier = false;
        "nic.link" WARN "100 Mbit/s", "ethtool eth0":
            |host| host.write("sys/class/net/eth0/speed", "100");
        "nic.link" WARN "half duplex", "ethtool eth0":
            |host| host.write("sys/class/net/eth0/duplex", "half");
        "nic.link" GOOD "up", "": |host| host.write("sys/class/net/eth0/ifindex", "9");
        "nic.counters" WARN "101 of 1000000 packets received", "ethtool -S eth0":
            |host| host.details().counters.rx_lost = 101;
        "nic.counters" WARN "101 of 1000000 sent", "":
            |host| host.details().counters.tx_lost = 101;
        "nic.program" BAD "another XDP program (7, xdp_drop)", "bpftool link detach id 3":
            |host| host.details().programs = vec![program(Some("xdp_drop"), false)];
        "nic.program" WARN "an XDP program (7) is attached; its name cannot be read", "run `heimdall doctor` as root":
            |host| host.details().programs = vec![program(None, false)];
        "nic.program" GOOD "Heimdall's program (7)", "": |host| {
            host.facts.server = Some(vec![7]);
            host.details().programs = vec![program(None, false)];
        };
        "privilege.view" GOOD "all that is looked at", "": |host| {
            host.facts.server = Some(vec![7]);
            host.details().programs = vec![program(None, false)];
        };
        "nic.program" WARN "an XDP program (7)", "as root": |host| {
            host.facts.server = Some(vec![8]);
            host.details().programs = vec![program(None, false)];
        };
        "nic.program" GOOD "Heimdall's program (7)", "":
            |host| host.details().programs = vec![program(Some("heimdall"), false)];
        "nic.program" BAD "the program (7) of another Heimdall", "--control": |host| {
            host.facts.beside = Some(vec![8]);
            host.details().programs = vec![program(Some("heimdall"), false)];
        };
        "nic.program" BAD "the program (7) of another Heimdall", "stop it": |host| {
            host.facts.beside = Some(Vec::new());
            host.details().programs = vec![program(Some("heimdall"), true)];
        };
        "nic.program" GOOD "Heimdall's program (7)", "": |host| {
            host.facts.beside = Some(vec![7]);
            host.details().programs = vec![program(None, false)];
        };
        "nic.program" WARN "generic mode", "log":
            |host| host.details().programs = vec![program(Some("heimdall"), true)];
        "nic.above" WARN "a port of the team team0", "use a bond":
            |host| host.details().master = Some(("team0".to_owned(), "team".to_owned()));
        "nic.above" GOOD "a member of the bond bond0", "":
            |host| host.details().master = Some(("bond0".to_owned(), "bond".to_owned()));
        "nic.return-path" WARN "from 192.0.2.1 to clients beyond its networks out of eth1", "route-check": |host|
            host.details().elsewhere = Some(([192, 0, 2, 1].into(), "eth1".to_owned()));
        "nic.return-path" BAD "all queries over IPv4", "sysctl -w net.ipv4.conf.lo.forwarding=1":
            |host| host.and_settings("[xdp]\nroute-check = \"on\"");
        "nic.return-path" BAD "all queries over IPv6", "sysctl -w net.ipv6.conf.lo.forwarding=1": |host| {
            host.and_settings("[xdp]\nroute-check = \"on\"");
            host.write("proc/sys/net/ipv4/conf/lo/forwarding", "1");
        };
        "nic.return-path" BAD "net.ipv4.conf.blue.forwarding is 0", "net.ipv4.conf.blue.forwarding=1": |host| {
            host.and_settings("[xdp]\nroute-check = \"on\"");
            host.write("proc/sys/net/ipv4/conf/blue/forwarding", "0");
            host.details().vrfs = vec!["lo".to_owned(), "blue".to_owned()];
        };
        "nic.return-path" BAD "Linux 5.10 cannot look up routes", "Linux 5.11": |host| {
            host.and_settings("[xdp]\nroute-check = \"on\"");
            host.write("proc/sys/kernel/osrelease", "5.10.0");
        };
        "nic.return-path" GOOD "next hop of the kernel's route", "": |host| {
            host.and_settings("[xdp]\nroute-check = \"on\"");
            host.write("proc/sys/net/ipv4/conf/lo/forwarding", "1");
            host.write("proc/sys/net/ipv6/conf/lo/forwarding", "1");
            host.details().elsewhere = Some(([192, 0, 2, 1].into(), "eth1".to_owned()));
        };
        "nic.vlan" WARN "removes the VLAN tags of eth0.5 before", "ethtool -K eth0 rxvlan off": |host| {
            host.details().vlans = vec!["eth0.5".to_owned(), "eth0.6".to_owned()];
            host.details().stripped = StrippedVlans {
                links: vec![5],
                names: vec!["eth0.5".to_owned()],
                command: "ethtool -K eth0 rxvlan off".to_owned(),
            };
        };
        "nic.vlan" GOOD "tags stay", "": |host| host.details().vlans = vec!["eth0.5".to_owned()];
        "nic.lro" WARN "LRO is on", "ethtool -K eth0 lro off":
            |host| host.details().offloads.as_mut().unwrap().lro = true;
        "nic.queues" GOOD "in use: 8; worker-0 on core 0: 0,4; worker-1 on core 1: 1,5; worker-2", "": |host| {
            host.nic().queues = Ok((0..8).collect());
            host.nic().rx_queues = 8;
        };
        "nic.queues" GOOD "in use: 4; worker-0 on core 0: 0,2; worker-1 on core 1: 1,3", "":
            |host| host.and_settings("xdp.workers = 2");
        "nic.queues" GOOD "in use: 4; worker-0 on core 0: 1; worker-1 on core 1: 0; worker-2", "": |host| {
            let table = "40: 1 0 PCI-MSI 1-edge eth0-TxRx-1\n41: 1 0 PCI-MSI 2-edge eth0-TxRx-0\n";
            host.write("proc/interrupts", table);
        };
        "nic.queues" GOOD "the kernel refuses fewer (ethtool -L) until the server stops", "":
            |host| host.details().programs = vec![program(Some("heimdall"), false)];
        "nic.queues" WARN "300 queues, of which AF_XDP can serve 256", "ethtool -L eth0 combined 256":
            |host| host.nic().rx_queues = 300;
        "nic.queues" WARN "300 queues", "ethtool -L eth0 rx 256 tx 256": |host| {
            let channels = host.details().channels.as_mut().unwrap();
            (channels.max_rx, channels.max_combined) = (512, 0);
            host.nic().rx_queues = 300;
        };
        "nic.queues" WARN "one queue of 8", "ethtool -L eth0 rx 4 tx 4": |host| {
            let channels = host.details().channels.as_mut().unwrap();
            (channels.max_rx, channels.max_combined) = (8, 0);
            host.nic().queues = Ok(vec![0]);
            host.nic().rx_queues = 1;
        };
        "nic.queues" WARN "one queue of 64", "ethtool -L eth0 combined 4": |host| {
            host.nic().queues = Ok(vec![0]);
            host.nic().rx_queues = 1;
        };
        "nic.served" WARN "queues 2-3, to which packets go", "ethtool -X eth0 equal 2":
            |host| host.nic().queues = Ok(vec![0, 1]);
        "nic.served" WARN "queues 0,2", "--interface eth0":
            |host| host.nic().queues = Ok(vec![1, 3]);
        "nic.served" WARN "no worker serves queue 3,", "ethtool -X eth0 equal 3": |host| {
            host.details().rss = None;
            host.nic().queues = Ok(vec![0, 1, 2]);
        };
        "nic.served" GOOD "have workers", "": |host| {
            host.details().rss.as_mut().unwrap().queues = [0, 1].into();
            host.nic().queues = Ok(vec![0, 1]);
        };
        "nic.rings" WARN "256 descriptors", "ethtool -G eth0 rx 1024":
            |host| host.details().rings.as_mut().unwrap().rx = 256;
        "nic.rings" WARN "descriptors", "ethtool -G eth0 rx 512 tx 1024": |host| {
            let rings = host.details().rings.as_mut().unwrap();
            (rings.rx, rings.max_rx, rings.tx) = (128, 512, 64);
        };
        "nic.rings" GOOD "256 descriptors", "": |host| {
            let rings = host.details().rings.as_mut().unwrap();
            (rings.rx, rings.max_rx) = (256, 256);
        };
        "nic.hash" WARN "udp4: hashed by addresses only", "ethtool -N eth0 rx-flow-hash udp4 sdfn":
            |host| host.details().hashes_ports = [Some(false), Some(true)];
        "nic.hash" WARN "udp4 and udp6: hashed", "rx-flow-hash udp6 sdfn": |host| {
            host.details().hashes_ports = [Some(false); 2];
            host.driver("bnxt_en");
        };
        "nic.key" WARN "the key of the hash is zero", "hkey":
            |host| host.details().rss.as_mut().unwrap().zero_key = true;
        "nic.key" GOOD "spread over 4 queues", "": |host| {
            host.driver("ena");
            host.details().rss.as_mut().unwrap().zero_key = true;
        };
        "nic.rules" WARN "2 rules", "ethtool -n eth0":
            |host| host.details().steering_rules = Some(2);
        "nic.interrupts" WARN "all its interrupts go to core 0, and 4 queues", "smp_affinity_list":
            |host| host.write("proc/irq/41/effective_affinity_list", "0");
        "nic.interrupts" GOOD "cores 0,2", "": |host| {
            host.write("proc/irq/41/effective_affinity_list", "");
            host.write("proc/irq/41/smp_affinity_list", "2");
        };
        "nic.node" WARN "NUMA node 1, and workers on cores 0-1 are not", "cpus = [2, 3]": |host| {
            host.write("sys/class/net/eth0/device/numa_node", "1");
            host.write("sys/devices/system/node/node1/cpulist", "2-3");
        };
        "nic.deferral" WARN "deferred by up to 200 µs", "echo 0 > /sys/class/net/eth0/gro_flush_timeout": |host| {
            host.write("sys/class/net/eth0/napi_defer_hard_irqs", "2");
            host.write("sys/class/net/eth0/gro_flush_timeout", "200000");
        };
        "nic.deferral" WARN "without busy polling", "echo 2 > /sys/class/net/eth0/napi_defer_hard_irqs":
            |host| host.and_settings("[xdp]\nidle = \"busy-poll\"");
        "nic.deferral" GOOD "as busy polling needs", "": |host| {
            host.and_settings("[xdp]\nidle = \"busy-poll\"");
            host.write("sys/class/net/eth0/napi_defer_hard_irqs", "2");
            host.write("sys/class/net/eth0/gro_flush_timeout", "200000");
        };
        "nic.deferral" GOOD "threads of its own", "":
            |host| host.write("sys/class/net/eth0/threaded", "1");
    }
}

fn tier() -> Vec<Case> {
    cases! {
        "nic.tier" WARN "only while it has an XDP program", "mode = ": |host| {
            host.driver("veth");
            host.and_settings("[tier]\nmode = \"on\"");
        };
        "nic.tier" GOOD "off on a veth", "": |host| host.driver("veth");
        "nic.tier" GOOD "off in zero-copy mode", "": |host| {
            host.driver("virtio_net");
            host.details().xdp.as_mut().unwrap().zero_copy = true;
        };
        "nic.tier" WARN "Linux 5.10 has no hot tier", "5.11":
            |host| host.write("proc/sys/kernel/osrelease", "5.10.0");
        "nic.tier" GOOD "off in generic mode", "":
            |host| host.details().xdp.as_mut().unwrap().native = false;
        "nic.tier" GOOD "not checked: whether the driver sends", "": |_| ();
        "nic.tier" GOOD "does not tell", "": |host| host.details().xdp = None;
        "nic.tier" GOOD "off by the settings", "": |host| {
            host.write("proc/sys/kernel/osrelease", "5.10.0");
            host.and_settings("[tier]\nmode = \"off\"");
        };
        "nic.tier" GOOD "off by the settings", "": |host| host.and_settings("[tier]\nentries = 0");
        "nic.tier" WARN "tier.entries is 0", "entries": |host| {
            host.and_settings("[tier]\nmode = \"on\"\nentries = 0");
        };
        "nic.tier" WARN "off: rate-limit.responses-per-second is set", "leave that out": |host| {
            host.and_settings("[rate-limit]\nresponses-per-second = 5");
        };
    }
}

fn traps() -> Vec<Case> {
    cases! {
        "nic.trap" BAD "4 of 6 queues are in use, and ena", "ethtool -L eth0 combined 3": |host| {
            host.driver("ena");
            host.details().channels.as_mut().unwrap().max_combined = 6;
        };
        "nic.trap" BAD "4 of 6 queues are in use, and ena", "stop the server, whose AF_XDP sockets keep": |host| {
            host.driver("ena");
            host.details().channels.as_mut().unwrap().max_combined = 6;
            host.details().programs = vec![program(Some("heimdall"), false)];
        };
        "nic.trap" BAD "ixgbe refuses native XDP with 256", "nr_cpus": |host| {
            host.driver("ixgbe");
            host.write("sys/devices/system/cpu/possible", "0-255");
        };
        "nic.trap" WARN "96 possible cores share 64 queues", "nr_cpus": |host| {
            host.driver("ixgbe");
            host.write("sys/devices/system/cpu/possible", "0-95");
        };
        "nic.trap" BAD "native XDP is refused", "guest_csum": |host| {
            host.driver("virtio_net");
            host.write("sys/class/net/eth0/device/features", "1100000110100000");
        };
        "nic.trap" GOOD "XDP shares its 4 queue pairs with the kernel's stack", "": |host| {
            host.driver("virtio_net");
            host.details().channels.as_mut().unwrap().max_combined = 7;
        };
        "nic.trap" BAD "XDP wants 8 queue pairs, and the host gives 7", "queues=8 on the host": |host| {
            host.driver("virtio_net");
            host.write("proc/sys/kernel/osrelease", "5.10.0");
            host.details().channels.as_mut().unwrap().max_combined = 7;
        };
        "nic.trap" WARN "with 4 of 8 queue pairs in use, 4 more are turned on", "ethtool -L eth0 combined 5": |host| {
            host.driver("virtio_net");
            host.details().channels.as_mut().unwrap().max_combined = 8;
        };
        "nic.trap" WARN "with 4 of 8 queue pairs in use, 4 more are turned on", "stop the server, and run": |host| {
            host.driver("virtio_net");
            let details = host.details();
            *details.channels.as_mut().unwrap() = Channels { combined: 8, max_rx: 0, max_combined: 8 };
            details.programs = vec![program(Some("heimdall"), false)];
        };
        "nic.trap" WARN "with 4 of 8 queue pairs in use, 4 more are turned on", "Linux 5.13": |host| {
            host.driver("virtio_net");
            host.write("proc/sys/kernel/osrelease", "5.10.0");
            host.details().channels.as_mut().unwrap().max_combined = 8;
        };
        "nic.served" WARN "queues 4-7 are left to the sockets", "ethtool -L eth0 combined 5": |host| {
            host.nic().rx_queues = 8;
            host.nic().unusable_queues = Some(UnusableQueues {
                effect: "queues 4-7 are left to the sockets".to_owned(),
                remedy: "run `ethtool -L eth0 combined 5` before the start".to_owned(),
            });
        };
        "nic.trap" WARN "zero-copy is only for queues that get no packets", "6.1": |host| {
            host.driver("mlx5_core");
            host.write("proc/sys/kernel/osrelease", "5.15.0");
        };
        "nic.trap" BAD "with which mlx5_core runs no XDP", "lro off": |host| {
            host.driver("mlx5_core");
            host.details().offloads.as_mut().unwrap().lro = true;
        };
        "nic.trap" WARN "one queue: one core", "numrxqueues 4": |host| {
            host.driver("veth");
            host.details().channels = None;
            host.nic().rx_queues = 1;
            host.nic().queues = Ok(vec![0]);
        };
        "nic.trap" WARN "one queue: one core", "ethtool -L eth0 rx 4 tx 4": |host| {
            host.driver("veth");
            host.nic().rx_queues = 1;
            host.nic().queues = Ok(vec![0]);
        };
        "nic.trap" WARN "a tap", "--backend socket": |host| host.driver("tun");
        "nic.trap" BAD "with which hv_netvsc runs no XDP", "lro off": |host| {
            host.driver("hv_netvsc");
            host.details().offloads.as_mut().unwrap().lro = true;
        };
        "nic.trap" GOOD "fewer queues for XDP than cores", "": |host| {
            host.driver("ice");
            host.details().channels.as_mut().unwrap().max_combined = 6;
        };
        "nic.trap" GOOD "its rings are reset", "": |host| host.driver("i40e");
        "nic.trap" GOOD "share the queues of the kernel's stack", "": |host| host.driver("igc");
    }
}
