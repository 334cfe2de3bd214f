//! Interfaces and the attached program, on veth pairs in network namespaces of their own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod namespace;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use heimdall_ebpf::Disposition;
use heimdall_user::xdp::{
    Address, AttachMode, AttachPolicy, Interface, Layers, LinkWatch, Program, ProgramOptions,
    StrippedVlans, TierSize, XdpError, addresses_without_link,
};
use namespace::ip;
use nix::{
    poll::{PollFd, PollFlags, poll},
    sched::{CloneFlags, unshare},
};
use xsk_rs::{
    RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, LibxdpFlags, SocketConfig, UmemConfig},
};

/// `. IN NS`.
const QUERY: [u8; 17] = [0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Runs `test` in a new network namespace, which has a veth pair hde0, hde1 whose ends have `queues` queues.
fn in_namespace(name: &str, queues: u32, test: fn()) {
    let q = format!("numrxqueues {queues} numtxqueues {queues}");
    let pair = format!("link add hde0 {q} type veth peer name hde1 {q}");
    let commands = [
        &*pair,
        "addr add 192.0.2.1/24 dev hde0",
        "addr add 2001:db8::1/64 dev hde0 nodad",
        "link set hde0 up",
        "link set hde1 up",
    ];
    namespace::run(name, &commands, test);
}

/// Whether an interface of this kind could be made: not every kernel has every kind.
fn made(name: &str, kind: &str) -> bool {
    let arguments = format!("link add {kind}").replace(" type", &format!(" name {name} type"));
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.unwrap().status.success()
}

/// Id of the XDP program on hde0, as `ip` has it.
fn attached_id() -> Option<u64> {
    let links: serde_json::Value = serde_json::from_str(&ip("-d -j link show hde0")).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}

/// The program without options, in the best mode that the interface has.
fn attach(interface: &Interface) -> Program {
    let (policy, options) = (AttachPolicy::NativeThenGeneric, ProgramOptions::default());
    Program::attach(interface, policy, options).unwrap()
}

/// Drops the program, and waits until it is detached: a process that another test starts at that moment has this one's descriptors
/// until it executes its file.
fn detach(program: Program) {
    drop(program);
    let end = Instant::now() + Duration::from_secs(2);
    while attached_id().is_some() {
        assert!(Instant::now() < end, "something stays behind");
    }
}

#[test]
fn the_program_is_attached_as_long_as_it_lives() {
    in_namespace("the_program_is_attached_as_long_as_it_lives", 1, || {
        let interface = Interface::find("hde0").unwrap();
        for (policy, name) in [
            (AttachPolicy::NativeThenGeneric, "native"),
            (AttachPolicy::GenericOnly, "generic"),
        ] {
            let program = Program::attach(&interface, policy, ProgramOptions::default()).unwrap();
            assert_eq!(program.attach_mode().name(), name);
            assert_eq!(attached_id(), Some(program.id().into()));
            assert!(interface.wait_carrier(Duration::from_secs(2)).unwrap());

            let second = Program::attach(
                &interface,
                AttachPolicy::NativeThenGeneric,
                ProgramOptions::default(),
            );
            let Err(XdpError::Occupied {
                program: whose,
                remedy,
                ..
            }) = second
            else {
                panic!("a second program was not refused");
            };
            assert_eq!(whose, format!("{} (heimdall)", program.id()));
            assert!(remedy.contains("bpftool link detach id"), "{remedy}");
            assert_eq!(
                attached_id(),
                Some(program.id().into()),
                "the first one is still there"
            );

            detach(program);
        }
    });
}

#[test]
fn a_hot_tier_that_the_kernel_refuses_is_left_out() {
    in_namespace("a_hot_tier_that_the_kernel_refuses_is_left_out", 1, || {
        let interface = Interface::find("hde0").unwrap();
        let attach = |entries| {
            let options = ProgramOptions {
                tier: Some(TierSize::new(entries)),
                ..ProgramOptions::default()
            };
            Program::attach(&interface, AttachPolicy::NativeThenGeneric, options).unwrap()
        };
        let program = attach(1000);
        assert_eq!(program.why_no_tier(), None);
        detach(program);
        // Two terabytes.
        let program = attach(u32::MAX);
        let why = program.why_no_tier().unwrap();
        assert!(why.contains("map"), "{why}");
        assert!(!why.contains('\n'), "{why}");
        assert_eq!(attached_id(), Some(program.id().into()));
    });
}

#[test]
fn generic_mode_says_why() {
    in_namespace("generic_mode_says_why", 1, || {
        // veth takes no native XDP while it has fewer queues than its peer sends on.
        ip("link del hde0");
        ip(
            "link add hde0 numrxqueues 1 numtxqueues 1 type veth peer name hde1 numtxqueues 2 numrxqueues 1",
        );
        let interface = Interface::find("hde0").unwrap();
        let program = attach(&interface);
        let AttachMode::Generic { why } = program.attach_mode() else {
            panic!("{}", program.attach_mode());
        };
        assert!(why.contains("the peer sends from more queues"), "{why}");
    });
}

#[test]
fn a_large_mtu_is_served_in_native_mode_and_may_be_set_beside_the_program() {
    in_namespace("a_large_mtu_is_served_in_native_mode", 1, || {
        let attach = || {
            let interface = Interface::find("hde0").unwrap();
            let program = attach(&interface);
            assert_eq!(program.attach_mode(), &AttachMode::Native);
            program
        };
        let program = attach();
        ip("link set hde1 mtu 9000");
        ip("link set hde0 mtu 9000");
        detach(program);
        drop(attach());
    });
}

#[test]
fn served_addresses_can_change() {
    in_namespace("served_addresses_can_change", 1, || {
        let interface = Interface::find("hde0").unwrap();
        let mut program = attach(&interface);
        // The peer asks the first address.
        let [asked, other] =
            ["192.0.2.1:53", "[2001:db8::1]:53"].map(|address| address.parse().unwrap());
        let peer = Peer::start();
        for (served, disposition, count) in [
            (vec![asked, other], Disposition::NoSocket, 1),
            (vec![other], Disposition::NotServed, 1),
            (vec![other, asked], Disposition::NoSocket, 2),
        ] {
            let served = served.into_iter().map(|address| (address, 1)).collect();
            program.set_served(&served).unwrap();
            peer.ask();
            wait_for(&program, disposition, count);
        }
    });
}

#[test]
fn of_too_many_addresses_those_that_fit_are_served() {
    in_namespace("of_too_many_addresses", 1, || {
        let interface = Interface::find("hde0").unwrap();
        let mut program = attach(&interface);
        let addresses = |count: u32| -> BTreeMap<SocketAddr, u32> {
            let address = |n| (SocketAddr::from((Ipv4Addr::from_bits(n), 53)), 1);
            (1..=count).map(address).collect()
        };
        for (count, left_out) in [(2_000, 0), (65_536, 0), (65_539, 3), (1, 0), (65_537, 1)] {
            assert_eq!(program.set_served(&addresses(count)).unwrap(), left_out);
        }
    });
}

#[test]
fn other_links_and_addresses_take_effect() {
    in_namespace("other_links_and_addresses_take_effect", 1, || {
        let interface = Interface::find("hde0").unwrap();
        let mut program = attach(&interface);
        let served: BTreeMap<SocketAddr, u32> = [("192.0.2.1:53".parse().unwrap(), 1)].into();
        program.set_served(&served).unwrap();
        let peer = Peer::start();
        let ask = |program: &Program, disposition, count| {
            peer.ask();
            wait_for(program, disposition, count);
        };
        ask(&program, Disposition::NoSocket, 1);
        // Another MAC address of the same link takes effect as it is; another link needs its addresses again.
        let own = interface.link();
        let other = heimdall_ebpf::Link { mac: 1, ..own };
        program.set_links(&[other]).unwrap();
        ask(&program, Disposition::OtherMac, 1);
        program.set_links(&[own]).unwrap();
        ask(&program, Disposition::NoSocket, 2);
        let vlan = heimdall_ebpf::Link {
            interface: 99,
            ..other
        };
        program.set_links(&[vlan, own]).unwrap();
        ask(&program, Disposition::NotServed, 1);
        program.set_served(&served).unwrap();
        ask(&program, Disposition::OtherMac, 2);
        let second = served.keys().map(|address| (*address, 2)).collect();
        program.set_served(&second).unwrap();
        ask(&program, Disposition::NoSocket, 3);
    });
}

/// The ports of an interface, or why it has none.
fn ports(name: &str) -> Result<Vec<String>, XdpError> {
    let mut layers = Layers::read([name]).unwrap();
    match layers.refused.pop() {
        Some((_, error)) => Err(error),
        None => Ok(layers
            .ports
            .into_iter()
            .map(|port| port.interface.name)
            .collect()),
    }
}

#[test]
fn virtual_interfaces_have_ports_or_are_refused() {
    in_namespace("virtual_interfaces_have_ports_or_are_refused", 1, || {
        let refused = |name: &str, expected: &str| {
            let error = ports(name).unwrap_err();
            assert!(matches!(error, XdpError::Virtual { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(expected), "{name}: {text}");
        };
        assert_eq!(ports("hde0").unwrap(), ["hde0"]);
        refused("lo", "addresses of lo with --listen");
        if made("hdedummy", "type dummy") {
            refused("hdedummy", "addresses of hdedummy with --listen");
        }
        if made("hdebr", "type bridge") {
            refused("hdebr", "give its ports");
            ip("link set hde1 master hdebr");
            refused("hdebr", "use --interface hde1");
            assert_eq!(ports("hde1").unwrap(), ["hde1"]);
            ip("link set hde1 nomaster");
        }
        if made("hdebond", "type bond") {
            refused("hdebond", "it has no member");
            ip("link set hde1 down");
            ip("link set hde1 master hdebond");
            assert_eq!(ports("hdebond").unwrap(), ["hde1"]);
        }
        if made("hdevlan", "link hde0 type vlan id 5") {
            assert_eq!(ports("hdevlan").unwrap(), ["hde0"]);
        }
        if made("hdemac", "link hde0 type macvlan") {
            assert_eq!(ports("hdemac").unwrap(), ["hde0"]);
        }
        if made("hdevx", "link hde0 type vxlan id 5 dstport 4789") {
            refused("hdevx", "inside of others (vxlan)");
        }
    });
}

#[test]
fn vlans_are_stripped_if_the_offload_is_on() {
    in_namespace("vlans_are_stripped_if_the_offload_is_on", 1, || {
        let interface = Interface::find("hde0").unwrap();
        let stripped = || interface.stripped_vlans().unwrap();
        assert!(stripped().links.is_empty(), "no VLANs");
        if !made("hdevlan", "link hde0 type vlan id 5") {
            return;
        }
        made("hdeouter", "link hde0 type vlan proto 802.1ad id 100");
        made("hdeinner", "link hdeouter type vlan id 6");
        let index = |name| nix::net::if_::if_nametoindex(name).unwrap();
        let [vlan, outer, inner] = ["hdevlan", "hdeouter", "hdeinner"].map(index);
        let set = |customer: &str, service: &str| {
            let arguments = [
                "-K",
                "hde0",
                "rxvlan",
                customer,
                "rx-vlan-stag-hw-parse",
                service,
            ];
            assert!(
                Command::new("ethtool")
                    .args(arguments)
                    .status()
                    .unwrap()
                    .success()
            );
        };
        set("on", "off");
        assert_eq!(stripped().links, [vlan]);
        assert_eq!(stripped().command, "ethtool -K hde0 rxvlan off");
        set("off", "on");
        assert_eq!(stripped().links, [outer, inner]);
        let command = "ethtool -K hde0 rx-vlan-stag-hw-parse off";
        assert_eq!(stripped().command, command);
        set("on", "on");
        assert_eq!(stripped().links, [vlan, outer, inner]);
        let command = "ethtool -K hde0 rxvlan off rx-vlan-stag-hw-parse off";
        assert_eq!(stripped().command, command);
        let peer = Interface::find("hde1").unwrap();
        let of_peer = peer.stripped_vlans().unwrap();
        assert!(of_peer.links.is_empty(), "not its own");
        set("off", "off");
        assert_eq!(stripped(), StrippedVlans::default());
    });
}

#[test]
fn broadcast_addresses_are_those_of_the_kernel() {
    in_namespace("broadcast_addresses_are_those_of_the_kernel", 1, || {
        // hde0 has 192.0.2.1/24 without `brd`.
        ip("addr add 198.51.100.1/25 brd 198.51.100.99 dev hde0");
        ip("addr add 203.0.113.1/31 dev hde0");
        ip("addr add 203.0.113.9/32 dev hde0");
        ip("addr add 10.1.0.1 peer 10.2.0.1/16 dev hde0");
        let routes = ip("-4 route show table local type broadcast dev hde0");
        let mut known: Vec<IpAddr> = routes
            .lines()
            .map(|line| line.split(' ').nth(1).unwrap().parse().unwrap())
            .collect();
        known.sort_unstable();
        let all = Address::all().unwrap();
        let mut ours: Vec<IpAddr> = all.iter().flat_map(Address::broadcasts).collect();
        ours.sort_unstable();
        ours.dedup();
        assert_eq!(ours, known, "{routes}");
        assert!(ours.contains(&"192.0.2.255".parse().unwrap()), "{ours:?}");
    });
}

#[test]
fn addresses_that_a_wildcard_does_not_reach_are_listed() {
    in_namespace("addresses_that_a_wildcard_does_not_reach", 1, || {
        ip("link set lo up");
        assert_eq!(
            addresses_without_link().unwrap(),
            [],
            "127.0.0.1 is the host's"
        );
        ip("addr add 203.0.113.53/32 dev lo");
        ip("addr add 2001:db8:53::1/128 dev lo");
        let listed = addresses_without_link().unwrap();
        let expected = ["203.0.113.53", "2001:db8:53::1"]
            .map(|ip| (ip.parse::<IpAddr>().unwrap(), "lo".to_owned()));
        assert_eq!(listed, expected);
    });
}

/// The other end of the veth pair, in a namespace of its own.
struct Peer {
    queries: mpsc::Sender<()>,
}

impl Peer {
    fn start() -> Self {
        let (queries, asked) = mpsc::channel();
        let (say, ready) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            say.send(nix::unistd::gettid()).unwrap();
            asked.recv().unwrap();
            ip("addr add 192.0.2.2/24 dev hde1");
            ip("link set hde1 up");
            let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
            while asked.recv().is_ok() {
                socket.send_to(&QUERY, "192.0.2.1:53").unwrap();
            }
        });
        ip(&format!("link set hde1 netns {}", ready.recv().unwrap()));
        queries.send(()).unwrap();
        Self { queries }
    }

    fn ask(&self) {
        self.queries.send(()).unwrap();
    }
}

/// Waits until `count` packets have got `disposition`.
fn wait_for(program: &Program, disposition: Disposition, count: u64) {
    for _ in 0..200 {
        if program.counters().unwrap()[disposition as usize] == count {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!(
        "no {}: {:?}",
        disposition.name(),
        program.counters().unwrap()
    );
}

#[test]
fn a_query_goes_to_the_kernel_until_an_af_xdp_socket_takes_it() {
    in_namespace(
        "a_query_goes_to_the_kernel_until_an_af_xdp_socket_takes_it",
        1,
        || {
            let interface = Interface::find("hde0").unwrap();
            let mut program = attach(&interface);
            let kernel = UdpSocket::bind("192.0.2.1:53").unwrap();
            kernel
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            let peer = Peer::start();
            let mut buffer = [0; 64];

            peer.ask();
            assert_eq!(
                kernel.recv(&mut buffer).unwrap(),
                QUERY.len(),
                "not served: to the kernel"
            );
            wait_for(&program, Disposition::NotServed, 1);

            program
                .set_served(&[("192.0.2.1:53".parse().unwrap(), 1)].into())
                .unwrap();
            peer.ask();
            assert_eq!(
                kernel.recv(&mut buffer).unwrap(),
                QUERY.len(),
                "no socket: to the kernel"
            );
            wait_for(&program, Disposition::NoSocket, 1);

            let (_umem, tx, _rx) = bind(0).unwrap();
            // SAFETY: the socket exists as long as `tx`.
            let xsk = unsafe { BorrowedFd::borrow_raw(tx.fd().as_raw_fd()) };
            program.register(0, xsk).unwrap();
            peer.ask();
            wait_for(&program, Disposition::Steered, 1);
            kernel.set_nonblocking(true).unwrap();
            assert!(
                kernel.recv(&mut buffer).is_err(),
                "steered: not to the kernel"
            );
        },
    );
}

#[test]
fn a_queue_beyond_the_map_is_refused() {
    in_namespace("a_queue_beyond_the_map_is_refused", 1, || {
        let interface = Interface::find("hde0").unwrap();
        let mut program = Program::attach(
            &interface,
            AttachPolicy::GenericOnly,
            ProgramOptions::default(),
        )
        .unwrap();
        let no_socket = std::fs::File::open("/dev/null").unwrap();
        let error = program.register(256, no_socket.as_fd()).unwrap_err();
        assert!(matches!(error, XdpError::QueueOutOfRange { .. }), "{error}");
        let error = program.register(0, no_socket.as_fd()).unwrap_err();
        assert!(matches!(error, XdpError::System { .. }), "{error}");
    });
}

#[test]
fn rx_queues_bounds_what_the_kernel_binds() {
    in_namespace("rx_queues_bounds_what_the_kernel_binds", 4, || {
        assert_eq!(Interface::find("hde0").unwrap().rx_queues, 4);
        // Fewer in use than there could be.
        let set = Command::new("ethtool")
            .args(["-L", "hde0", "rx", "2", "tx", "2"])
            .status();
        if !set.is_ok_and(|status| status.success()) {
            return;
        }
        let queues = Interface::find("hde0").unwrap().rx_queues;
        assert_eq!(queues, 2);
        for queue in 0..queues {
            assert!(bind(queue).is_some(), "queue {queue} of {queues}");
        }
        assert!(bind(queues).is_none(), "queue {queues} of {queues}");
    });
}

/// Binds an AF_XDP socket to this queue of hde0.
fn bind(queue: u32) -> Option<(Umem, TxQueue, RxQueue)> {
    let (umem, _frames) = Umem::new(UmemConfig::default(), 64.try_into().unwrap(), false).unwrap();
    let config = SocketConfig::builder()
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_COPY)
        .build();
    let interface = "hde0".parse().unwrap();
    // SAFETY: the UMEM is new and shared with no other socket.
    let (tx, rx, _) = unsafe { Socket::new(config, &umem, &interface, queue) }.ok()?;
    Some((umem, tx, rx))
}

#[test]
fn an_interface_is_described_and_an_unknown_one_named() {
    in_namespace(
        "an_interface_is_described_and_an_unknown_one_named",
        1,
        || {
            let interface = Interface::find("hde0").unwrap();
            assert_eq!((interface.name.as_str(), interface.mtu), ("hde0", 1500));
            assert_ne!(interface.mac, [0; 6]);
            let addresses = interface.addresses().unwrap();
            for expected in ["192.0.2.1", "2001:db8::1"] {
                assert!(
                    addresses.contains(&expected.parse::<IpAddr>().unwrap()),
                    "{addresses:?}"
                );
            }
            for name in ["hde9", "", "a-name-longer-than-any-interface"] {
                let error = Interface::find(name).unwrap_err();
                assert!(
                    matches!(&error, XdpError::UnknownInterface { present, .. }
                if present.contains("hde0")),
                    "{name}: {error}"
                );
            }
        },
    );
}

#[test]
fn address_changes_are_noticed() {
    in_namespace("address_changes_are_noticed", 1, || {
        let interface = Interface::find("hde0").unwrap();
        let watch = LinkWatch::new().unwrap();
        for (change, present) in [("add", true), ("del", false)] {
            while watch.drain().unwrap() {}
            ip(&format!(
                "addr {change} 198.51.100.1/24 dev hde0 label hde0:more"
            ));
            let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, 1000_u16).unwrap(), 1, "{change}");
            assert!(watch.drain().unwrap());
            let address: IpAddr = "198.51.100.1".parse().unwrap();
            assert_eq!(interface.addresses().unwrap().contains(&address), present);
        }
    });
}

#[test]
fn link_changes_are_noticed() {
    in_namespace("link_changes_are_noticed", 1, || {
        let watch = LinkWatch::new().unwrap();
        for change in ["mtu 1400", "address 02:00:00:00:00:77"] {
            while watch.drain().unwrap() {}
            ip(&format!("link set hde0 {change}"));
            let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, 1000_u16).unwrap(), 1, "{change}");
            assert!(watch.drain().unwrap());
        }
        let interface = Interface::find("hde0").unwrap();
        assert_eq!(
            (interface.mtu, interface.mac),
            (1400, [2, 0, 0, 0, 0, 0x77])
        );
    });
}
