//! The checks: what each one looks at, why that matters, and what fixes it. docs/doctor.md is made from
//! this table.

/// A check.
#[derive(Debug)]
pub(crate) struct Check {
    /// Stable, with the area before the dot.
    pub(crate) id: &'static str,
    /// What it looks at.
    pub(super) examines: &'static str,
    /// Why that matters.
    pub(crate) why: &'static str,
    /// What fixes it, in general; a finding has the commands.
    pub(super) fixes: &'static str,
}

/// Defines the checks, and the list of them all.
macro_rules! checks {
    ($($name:ident: $id:literal, $examines:literal, $why:literal, $fixes:literal;)+) => {
        $(pub(super) static $name: Check = Check {
            id: $id,
            examines: $examines,
            why: $why,
            fixes: $fixes,
        };)+

        /// All checks, in the order of the documentation.
        pub(super) static ALL: &[&Check] = &[$(&$name),+];
    };
}

checks! {
    SETTINGS: "settings",
        "the settings file and the flags",
        "a server with bad settings does not start; doctor then judges by the defaults",
        "correct what is named; `heimdall check` tells more";
    KERNEL_VERSION: "kernel.version",
        "the kernel's version, and the features that it lacks",
        "AF_XDP is used from Linux 5.9 on, busy polling from 5.11 on",
        "a newer kernel";
    KERNEL_AF_XDP: "kernel.af-xdp",
        "whether an AF_XDP socket can be opened",
        "without it only the kernel's sockets answer",
        "`RestrictAddressFamilies=` of the unit, CAP_NET_RAW, or another kernel";
    BPF_CALL: "bpf.call",
        "whether this process may use the system call `bpf`",
        "without it no XDP program can be loaded",
        "`SystemCallFilter=@system-service bpf` in the unit";
    BPF_JIT: "bpf.jit",
        "`net.core.bpf_jit_enable`",
        "the XDP program runs for every packet of the interface; interpreted, it costs several times as much",
        "`sysctl -w net.core.bpf_jit_enable=1`";
    BPF_UNPRIVILEGED: "bpf.unprivileged",
        "`kernel.unprivileged_bpf_disabled`",
        "programs of unprivileged users are a risk for the host; Heimdall does not need them",
        "`sysctl -w kernel.unprivileged_bpf_disabled=2`";
    CAPABILITIES: "privilege.capabilities",
        "the effective capabilities of this process, against the ports and interfaces of the settings",
        "a server without them cannot bind its ports, or answers by the kernel's sockets only",
        "`AmbientCapabilities=` of the unit, or root";
    MEMORY_LOCK: "privilege.memory-lock",
        "CAP_IPC_LOCK, or the soft limit on locked memory against the frames of all queues; before Linux 5.11 BPF maps, too",
        "the kernel locks each queue's frames; beyond the limit AF_XDP sockets cannot be made",
        "`LimitMEMLOCK=infinity` in the unit, or `ulimit -l`";
    SANDBOX: "privilege.sandbox",
        "`privileges.sandbox`, and in a running server what of it is in force",
        "a flaw in the server would have all privileges that the process has",
        "`sandbox = \"auto\"`, and a kernel with Landlock (Linux 5.13, `lsm=`) and seccomp";
    VIEW: "privilege.view",
        "what this process may not see",
        "a finding may be missing",
        "run `heimdall doctor` as root";
    MEMORY_ROOM: "memory.room",
        "what caches, frames and the hot tier take, against the memory that the host and the control group have left",
        "all of it is allocated in the first seconds; if it did not fit, the kernel would kill a process, so a server does not start",
        "a smaller `cache.size`, fewer `xdp.frames`, or fewer queues";
    HUGE_PAGES: "memory.huge-pages",
        "transparent huge pages",
        "with plain pages each look-up in a cache misses the TLB, too",
        "`madvise`, which Heimdall asks for";
    HUGE_PAGE_POOL: "memory.huge-page-pool",
        "reserved huge pages of 2 MiB (`hugepages-2048kB/nr_hugepages`), if there are any, against the caches",
        "pages that are reserved and not used are lost to the host",
        "as many pages as the caches take, and a `cache.size` that is a multiple of 16M";
    CPU_QUOTA: "cpu.quota",
        "the CPU time of the control group (`cpu.max`, or `cpu.cfs_quota_us`) against the threads of the settings",
        "a thread that has used it up stops for the rest of the period, and queries wait or are lost",
        "cores of its own (`AllowedCPUs=`) instead of a quota";
    ISOLATED: "cpu.isolated",
        "cores that the kernel keeps free (`isolcpus`), against the cores of workers",
        "isolated cores run nothing that is not pinned to them: they would stand idle",
        "`xdp.cpus`";
    SMT: "cpu.smt",
        "workers on one core, or on two threads of one",
        "they share the core's execution units and caches: two of them answer little more than one",
        "`xdp.cpus`, `xdp.workers`";
    GOVERNOR: "cpu.governor",
        "the frequency governor of the workers' cores",
        "a worker that sleeps between packets looks idle, and is kept at a low frequency",
        "the governor `performance`";
    DESCRIPTORS: "files.limit",
        "the hard limit on open files, against the sockets, connections and queues of the settings",
        "below it fewer clients are connected over TCP at a time",
        "`LimitNOFILE=` in the unit, or `ulimit -Hn`";
    PORTS: "net.ports",
        "`net.ipv4.ip_local_port_range`",
        "queries to upstreams leave from random ports: the fewer there are, the easier are answers to forge",
        "the kernel's default, `32768 60999`, or more";
    BUFFERS: "net.buffers",
        "`net.core.rmem_default` and `wmem_default`, which all of Heimdall's sockets have but those that receive clients' datagrams",
        "a burst of queries waits in the socket's buffer while its thread works",
        "the kernel's default, 212992, or more";
    UDP_LOST: "net.lost",
        "datagrams that the kernel dropped because a socket's buffer was full (RcvbufErrors), over IPv4 and IPv6",
        "a lost query costs its client a timeout",
        "more `socket.threads`, or larger buffers";
    SOCKET_BUSY_POLL: "net.busy-poll",
        "`net.core.busy_poll` and `busy_read`",
        "each wait of a socket thread, a forwarder thread or a worker then polls the NIC first, which costs CPU time",
        "0: `xdp.idle = \"busy-poll\"` does it where it is wanted";
    TLS_CERTIFICATE: "tls.certificate",
        "the file of `tls.certificate`: whether it can be read, its dates, its names",
        "clients that check it do not connect while it is expired, or for another name; without it TLS is not served",
        "a newer certificate, and `heimdall reload`";
    TLS_KEY: "tls.key",
        "the file of `tls.key`: whether it can be read, whether it fits the certificate, who may read it",
        "without the key TLS is not served; whoever has it can pass for this server",
        "the key of that certificate, readable for the server alone";
    NIC_USABLE: "nic.usable",
        "whether AF_XDP can serve the interface: its kind, its queues, its MTU, and whether what is configured above it is up",
        "if not, the kernel's sockets answer, and with `backend = \"xdp\"` the server does not start",
        "what the finding says: the ports of a bridge, a smaller MTU";
    NIC_DRIVER: "nic.driver",
        "the driver, its version and the firmware",
        "for reports of bugs, and to compare hosts",
        "nothing";
    NIC_NATIVE: "nic.native",
        "whether the driver runs XDP programs (native mode)",
        "generic mode works everywhere, and is hardly faster than sockets",
        "another NIC, or a newer kernel";
    NIC_ZERO_COPY: "nic.zero-copy",
        "whether the driver has zero-copy AF_XDP sockets",
        "in copy mode the kernel copies each packet into and out of the frames",
        "a newer kernel, or another NIC";
    NIC_TIER: "nic.tier",
        "whether the hot tier's replies leave by the interface: the kernel, the driver, and a veth's peer",
        "without the tier a worker is woken for popular questions, too; replies that a veth's peer does not take are late or lost",
        "`tier.mode`, an XDP program on a veth's peer, or a newer kernel";
    NIC_RETURN_PATH: "nic.return-path",
        "by which interface replies leave: the kernel's routes, `xdp.route-check`, and `net.ipv4.conf.lo.forwarding` (and of ipv6), which that needs",
        "AF_XDP sends a reply to the MAC address that its query came from, which is wrong where the return path is another one",
        "`xdp.route-check`, `sysctl -w net.ipv4.conf.lo.forwarding=1`";
    NIC_TRAP: "nic.trap",
        "what is known to go wrong with the driver, below",
        "native XDP is refused, or slower than it could be",
        "what the finding says";
    NIC_LINK: "nic.link",
        "whether the interface is up and has a carrier, its speed and duplex",
        "no queries arrive, or fewer than the host could answer",
        "the cable, the switch, `ip link set dev … up`";
    NIC_COUNTERS: "nic.counters",
        "packets with errors and lost ones, since the interface exists: one in ten thousand is too many",
        "a lost query costs its client a timeout",
        "`ethtool -S` tells which they are: larger rings, more queues, another cable";
    NIC_PROGRAM: "nic.program",
        "XDP programs that are attached, and whose",
        "there can be one: Heimdall does not replace another program, and that of another Heimdall only where it takes over from it",
        "the command that removes it";
    NIC_ABOVE: "nic.above",
        "the bond, team or bridge that the interface is a member of",
        "what arrives on the interface goes there: it is served with the addresses of the bond or bridge, unless it is a backup or blocked",
        "a bond instead of a team with a backup";
    NIC_VLAN: "nic.vlan",
        "VLANs on top, while the NIC strips their tags",
        "the tag would be missing from replies",
        "`ethtool -K … rxvlan off` (for 802.1ad `rx-vlan-stag-hw-parse off`); some NICs restart their queues for it";
    NIC_LRO: "nic.lro",
        "large receive offload",
        "packets merged by the NIC do not fit into frames, so drivers refuse XDP",
        "`ethtool -K … lro off`; some NICs restart their queues for it";
    NIC_QUEUES: "nic.queues",
        "the number of receive queues, against that of workers, and which worker serves which",
        "with fewer queues than cores some cores have no worker; more share the workers, and each takes memory for its frames",
        "`ethtool -L`, which resets the link of some NICs";
    NIC_SERVED: "nic.served",
        "queues that get packets and that the settings leave out",
        "queries in them are answered by the sockets, at their speed",
        "all queues, or `ethtool -X … equal N`";
    NIC_RINGS: "nic.rings",
        "descriptors in each queue's rings",
        "packets that arrive while the kernel's thread does not run wait there; those that do not fit are lost",
        "`ethtool -G`, which resets the link of some NICs";
    NIC_HASH: "nic.hash",
        "whether the ports of UDP take part in the hash that chooses a queue",
        "without them all queries of one resolver, or of many behind one address, get into one queue",
        "`ethtool -N … rx-flow-hash udp4 sdfn`, and udp6";
    NIC_KEY: "nic.key",
        "the key of the hash, and how many queues are in the indirection table",
        "with a key of zeros every packet has the same hash",
        "`ethtool -X … hkey`";
    NIC_RULES: "nic.rules",
        "rules that choose queues before the hash does (ntuple, `ethtool -n`)",
        "a rule can keep queries from the workers' queues, or put all into one",
        "`ethtool -N … delete N`";
    NIC_INTERRUPTS: "nic.interrupts",
        "the cores that the interrupts of the queues go to",
        "the kernel handles a queue's packets on the core of its interrupt: if all go to one core, it limits all",
        "`/proc/irq/…/smp_affinity_list`";
    NIC_NODE: "nic.node",
        "the NUMA node of the NIC, against the workers' cores",
        "each packet then crosses the link between the nodes",
        "`xdp.cpus` on the NIC's node";
    NIC_DEFERRAL: "nic.deferral",
        "`napi_defer_hard_irqs`, `gro_flush_timeout` and threaded NAPI, against `xdp.idle`",
        "busy polling needs deferred interrupts; a worker that sleeps is woken by them, and waits if they are deferred",
        "the two files of the interface in /sys/class/net";
}
