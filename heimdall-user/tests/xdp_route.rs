//! The check of the return path: queries through the real XDP program, in a network namespace with routes and neighbours
//! (BPF_PROG_TEST_RUN).
//!
//! `HEIMDALL_EBPF_OBJECT` names another object to test than the committed one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    fs,
    net::IpAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::{EbpfLoader, TestRunOptions, programs::TestRun as _};
use etherparse::PacketBuilder;
use heimdall_ebpf::{
    Disposition::{self, *},
    Link, MAX_NEIGHBOURS, MAX_ROUTES, NEIGHBOURS_MAP, ROUTE_CHECK_GLOBAL, ROUTES_MAP, Tags,
};
use lab::{BoundSocket, LoadedProgram, XDP_PASS, XDP_REDIRECT};
use nix::sched::{CloneFlags, sched_setaffinity, unshare};

/// The interface's own MAC address, and that of the sender of all queries.
const MAC: [u8; 6] = LoadedProgram::MAC;
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0x55];
/// `. IN NS`.
const QUERY: [u8; 17] = [0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Runs `test` in a network namespace of its own, with the interfaces `r0`, which is served, and `o0`. Everything runs on
/// one core, as the program keeps routes for each.
fn in_namespace(name: &str, test: fn()) {
    if !lab::available(name) {
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let mut core = nix::sched::CpuSet::new();
        core.set(0).unwrap();
        sched_setaffinity(nix::unistd::Pid::from_raw(0), &core).unwrap();
        ip("link set lo up");
        for name in ["r", "o"] {
            ip(&format!("link add {name}0 type veth peer name {name}1"));
            ip(&format!("link set {name}0 up"));
            ip(&format!("link set {name}1 up"));
        }
        ip("addr add 192.0.2.1/24 dev r0");
        ip("-6 addr add 2001:db8::1/64 dev r0 nodad");
        ip("addr add 10.9.0.1/24 dev o0");
        ip("-6 addr add fd09::1/64 dev o0 nodad");
        test();
    };
    thread::spawn(run).join().unwrap();
}

/// Has programs find routes as this host's own.
fn enable_forwarding() {
    for family in ["ipv4", "ipv6"] {
        fs::write(format!("/proc/sys/net/{family}/conf/lo/forwarding"), "1").unwrap();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// The program with a socket, on `r0`.
struct Kernel {
    program: LoadedProgram,
    interface: u32,
    _socket: BoundSocket,
}

impl Kernel {
    fn load(route_check: bool) -> Self {
        let mut loader = EbpfLoader::new();
        let checks = u32::from(route_check);
        loader.override_global(ROUTE_CHECK_GLOBAL, &checks, true);
        if route_check {
            loader
                .map_max_entries(ROUTES_MAP, MAX_ROUTES)
                .map_max_entries(NEIGHBOURS_MAP, MAX_NEIGHBOURS);
        }
        let mut program = LoadedProgram::load(&mut loader);
        let socket = program.open_socket();
        let mut kernel = Self {
            program,
            interface: index("r0"),
            _socket: socket,
        };
        kernel.set_link(Link::any_tags(MAC, index("r0")));
        kernel
    }

    /// Replaces the one link.
    fn set_link(&mut self, link: Link) {
        self.program.set_link(0, link);
    }

    /// Runs the program over a query of `client` that arrives on `r0`: what was counted, and the frame's source then.
    fn run(&self, client: &str) -> (Disposition, [u8; 6]) {
        self.run_frame(&frame(client))
    }

    /// The same for a frame.
    fn run_frame(&self, frame: &[u8]) -> (Disposition, [u8; 6]) {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, self.interface, 0, 0];
        let context: Vec<u8> = context
            .iter()
            .flat_map(|field| field.to_ne_bytes())
            .collect();
        let mut out = vec![0; 2048];
        let before = self.program.counters();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let action = self
            .program
            .program()
            .test_run(options)
            .unwrap()
            .return_value;
        let after = self.program.counters();
        let counted = Disposition::ALL
            .into_iter()
            .filter(|one| after[*one as usize] != before[*one as usize]);
        let counted: Vec<_> = counted.collect();
        let [disposition] = counted[..] else {
            panic!("{counted:?}");
        };
        let expected = if disposition == Steered {
            XDP_REDIRECT
        } else {
            XDP_PASS
        };
        assert_eq!(action, expected, "{disposition:?}");
        assert_eq!(out[..6], frame[..6], "the destination stays");
        assert_eq!(out[12..frame.len()], frame[12..], "so does the rest");
        let source = out[6..12].try_into().unwrap();
        if disposition != Steered {
            assert_eq!(source, SENDER, "what passes is unchanged");
        }
        (disposition, source)
    }

    /// As [`run`](Self::run), after the first packet for a next hop, which the kernel gets.
    #[track_caller]
    fn confirmed(&self, client: &str) -> (Disposition, [u8; 6]) {
        assert_eq!(self.run(client), (Neighbour, SENDER), "{client}");
        self.run(client)
    }
}

fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}

fn frame(client: &str) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(SENDER, MAC);
    let ip = match client.parse().unwrap() {
        IpAddr::V4(client) => ethernet.ipv4(client.octets(), [192, 0, 2, 1], 64),
        IpAddr::V6(client) => {
            let own: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
            ethernet.ipv6(client.octets(), own.octets(), 64)
        }
    };
    let mut frame = Vec::new();
    ip.udp(40_000, 53).write(&mut frame, &QUERY).unwrap();
    frame
}

fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

#[test]
fn without_the_check_replies_go_to_the_sender() {
    in_namespace("without_the_check_replies_go_to_the_sender", || {
        let kernel = Kernel::load(false);
        for client in ["192.0.2.99", "203.0.113.7", "2001:db8::99", "2001:db8:7::7"] {
            assert_eq!(kernel.run(client), (Steered, SENDER), "{client}");
        }
    });
}

#[test]
fn replies_go_to_the_next_hop_of_the_route() {
    in_namespace("replies_go_to_the_next_hop_of_the_route", || {
        enable_forwarding();
        let kernel = Kernel::load(true);
        ip("neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev r0");
        ip("neigh add 2001:db8::99 lladdr 02:00:00:00:00:96 dev r0");
        ip("route add 203.0.113.0/24 via 192.0.2.254");
        ip("neigh add 192.0.2.254 lladdr 02:00:00:00:00:04 dev r0");
        ip("-6 route add 2001:db8:7::/48 via fe80::254 dev r0");
        ip("neigh add fe80::254 lladdr 02:00:00:00:00:06 dev r0");
        // Over an IPv6 gateway (RFC 5549).
        ip("route add 198.18.0.0/24 via inet6 fe80::254 dev r0");
        for (client, next_hop) in [
            ("192.0.2.99", 0x99),
            ("203.0.113.7", 4),
            ("2001:db8::99", 0x96),
            ("2001:db8:7::7", 6),
        ] {
            assert_eq!(kernel.confirmed(client), (Steered, mac(next_hop)));
            assert_eq!(kernel.run(client), (Steered, mac(next_hop)), "kept");
        }
        // Their next hops have been confirmed.
        assert_eq!(kernel.run("203.0.113.8"), (Steered, mac(4)));
        assert_eq!(kernel.run("2001:db8:7::8"), (Steered, mac(6)));
        assert_eq!(kernel.run("198.18.0.7"), (Steered, mac(6)));
        // A link-local address is on the link that it came from.
        assert_eq!(kernel.run("fe80::99"), (Steered, SENDER));
        assert_eq!(kernel.run("febf::1"), (Steered, SENDER));
    });
}

#[test]
fn what_leaves_elsewhere_or_nowhere_is_left_to_the_kernel() {
    in_namespace("what_leaves_elsewhere_or_nowhere", || {
        enable_forwarding();
        let kernel = Kernel::load(true);
        ip("neigh add 10.9.0.7 lladdr 02:00:00:00:00:09 dev o0");
        ip("neigh add fd09::7 lladdr 02:00:00:00:00:09 dev o0");
        for (client, kind) in [
            ("203.0.113.1", "blackhole"),
            ("203.0.113.2", "unreachable"),
            ("203.0.113.3", "prohibit"),
            ("2001:db8:7::1", "blackhole"),
            ("2001:db8:7::2", "unreachable"),
            ("2001:db8:7::3", "prohibit"),
        ] {
            ip(&format!("route add {kind} {client}"));
            assert_eq!(kernel.run(client), (OtherRoute, SENDER), "{kind} {client}");
        }
        for client in [
            // Out of o0, whether the next hop is known or not.
            "10.9.0.7",
            "10.9.0.8",
            "fd09::7",
            "fd09::8",
            // No route.
            "198.51.100.7",
            "2001:db8:8::7",
            // This host itself.
            "192.0.2.1",
            "10.9.0.1",
            "2001:db8::1",
        ] {
            for _ in 0..2 {
                assert_eq!(kernel.run(client), (OtherRoute, SENDER), "{client}");
            }
        }
    });
}

#[test]
fn policy_rules_are_followed() {
    in_namespace("policy_rules_are_followed", || {
        enable_forwarding();
        let kernel = Kernel::load(true);
        for (number, family) in [(4, ""), (6, "-6 ")] {
            let (client, own, other, gateway) = match number {
                4 => ("203.0.113", "192.0.2.1", "10.9.0.9", "192.0.2.253"),
                _ => ("2001:db8:7:", "2001:db8::1", "fd09::9", "2001:db8::253"),
            };
            let dot = if number == 4 { "." } else { ":" };
            let prefix = match number {
                4 => "203.0.113.0/24",
                _ => "2001:db8:7::/48",
            };
            ip(&format!("{family}route add {prefix} via {other}"));
            ip(&format!(
                "{family}route add {prefix} via {gateway} table 100"
            ));
            ip(&format!(
                "neigh add {gateway} lladdr 02:00:00:00:00:0{number} dev r0"
            ));
            let client = |last: u8| format!("{client}{dot}{last}");
            assert_eq!(kernel.run(&client(7)), (OtherRoute, SENDER));
            // By the reply's source, and as packets of this host.
            ip(&format!(
                "{family}rule add from {own} iif lo to {} table 100",
                client(8)
            ));
            assert_eq!(kernel.confirmed(&client(8)), (Steered, mac(number)));
            // By the served port, which is the reply's source port.
            ip(&format!(
                "{family}rule add to {} ipproto udp sport 53 table 100",
                client(9)
            ));
            assert_eq!(kernel.run(&client(9)), (Steered, mac(number)));
            ip(&format!("{family}rule add to {} blackhole", client(10)));
            assert_eq!(kernel.run(&client(10)), (OtherRoute, SENDER));
            // Not those of packets that arrive.
            ip(&format!(
                "{family}rule add iif r0 to {} table 100",
                client(11)
            ));
            assert_eq!(kernel.run(&client(11)), (OtherRoute, SENDER));
        }
    });
}

#[test]
fn a_next_hop_that_is_not_known_is_left_to_the_kernel_until_it_is() {
    in_namespace("a_next_hop_that_is_not_known", || {
        enable_forwarding();
        let kernel = Kernel::load(true);
        for (client, next_hop) in [("192.0.2.98", 8), ("2001:db8::98", 9)] {
            for _ in 0..3 {
                assert_eq!(kernel.run(client), (Neighbour, SENDER), "{client}");
            }
            // As older kernels give one that is being looked for.
            ip(&format!(
                "neigh replace {client} lladdr 00:00:00:00:00:00 dev r0"
            ));
            for _ in 0..3 {
                assert_eq!(kernel.run(client), (Neighbour, SENDER), "{client}");
            }
            ip(&format!(
                "neigh replace {client} lladdr 02:00:00:00:00:0{next_hop} dev r0"
            ));
            assert_eq!(kernel.confirmed(client), (Steered, mac(next_hop)));
        }
    });
}

#[test]
fn while_forwarding_from_lo_is_off_everything_is_left_to_the_kernel() {
    in_namespace("while_forwarding_from_lo_is_off", || {
        let kernel = Kernel::load(true);
        ip("neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev r0");
        ip("neigh add 2001:db8::99 lladdr 02:00:00:00:00:99 dev r0");
        for client in ["192.0.2.99", "2001:db8::99"] {
            assert_eq!(kernel.run(client), (OtherRoute, SENDER), "{client}");
        }
        // What was found is kept for a second.
        enable_forwarding();
        for client in ["192.0.2.99", "2001:db8::99"] {
            wait(|| kernel.run(client) == (Steered, mac(0x99)));
        }
    });
}

#[test]
fn a_change_of_routes_is_followed_within_seconds() {
    in_namespace("a_change_of_routes_is_followed", || {
        enable_forwarding();
        let kernel = Kernel::load(true);
        ip("neigh add 192.0.2.11 lladdr 02:00:00:00:00:11 dev r0");
        ip("neigh add 192.0.2.12 lladdr 02:00:00:00:00:12 dev r0");
        ip("route add 203.0.113.7 via 192.0.2.11");
        assert_eq!(kernel.confirmed("203.0.113.7"), (Steered, mac(0x11)));
        ip("route replace 203.0.113.7 via 192.0.2.12");
        wait(|| kernel.run("203.0.113.7") == (Steered, mac(0x12)));
        ip("route replace 203.0.113.7 via 10.9.0.9");
        wait(|| kernel.run("203.0.113.7") == (OtherRoute, SENDER));
        ip("route replace 203.0.113.7 via 192.0.2.11");
        wait(|| kernel.run("203.0.113.7") == (Steered, mac(0x11)));
    });
}

#[test]
fn the_kernel_gets_a_packet_for_each_next_hop_again_and_again() {
    in_namespace("the_kernel_gets_a_packet_for_each_next_hop", || {
        enable_forwarding();
        let kernel = Kernel::load(true);
        ip("neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev r0");
        let begun = Instant::now();
        assert_eq!(kernel.confirmed("192.0.2.99"), (Steered, mac(0x99)));
        let mut steered = 0;
        wait(|| match kernel.run("192.0.2.99") {
            (Neighbour, _) => true,
            other => {
                assert_eq!(other, (Steered, mac(0x99)));
                steered += 1;
                false
            }
        });
        assert!(steered > 1, "{steered}");
        // The coarse clock lags by a tick.
        assert!(begun.elapsed() > Duration::from_millis(4900));
        assert_eq!(kernel.run("192.0.2.99"), (Steered, mac(0x99)));
    });
}

#[test]
fn clients_that_fall_into_one_place_do_not_get_each_others_next_hop() {
    in_namespace("clients_that_fall_into_one_place", || {
        enable_forwarding();
        let kernel = Kernel::load(true);
        ip("neigh add 192.0.2.11 lladdr 02:00:00:00:00:11 dev r0");
        ip("neigh add 192.0.2.12 lladdr 02:00:00:00:00:12 dev r0");
        ip("route add 10.64.0.0/11 via 192.0.2.11");
        ip("route add 10.96.0.0/11 via 192.0.2.12");
        assert_eq!(kernel.confirmed("10.64.0.0").0, Steered);
        assert_eq!(kernel.confirmed("10.96.0.0").0, Steered);
        // Twice as many as there are places.
        for number in 0..MAX_ROUTES {
            let [_, _, third, fourth] = number.to_be_bytes();
            for (second, next_hop) in [(64, 0x11), (96, 0x12)] {
                let client = format!("10.{second}.{third}.{fourth}");
                let found = kernel.run(&client);
                // Seconds have passed since the last one that the kernel got.
                if found.0 != Neighbour {
                    assert_eq!(found, (Steered, mac(next_hop)), "{client}");
                }
            }
        }
    });
}

/// A frame in a VLAN.
fn tagged(client: &str, vlan: u16) -> Vec<u8> {
    let mut frame = frame(client);
    let [high, low] = vlan.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    frame
}

#[test]
fn the_route_has_to_lead_out_of_the_link_that_the_packet_belongs_to() {
    in_namespace("the_route_has_to_lead_out_of_the_link", || {
        enable_forwarding();
        let mut kernel = Kernel::load(true);
        ip("neigh add 192.0.2.99 lladdr 02:00:00:00:00:99 dev r0");
        ip("neigh add 10.9.0.7 lladdr 02:00:00:00:00:09 dev o0");
        assert_eq!(kernel.confirmed("192.0.2.99"), (Steered, mac(0x99)));
        // As userspace sets it: tagged frames belong to other links.
        kernel.set_link(Link {
            tags: Tags::NONE,
            ..Link::any_tags(MAC, index("r0"))
        });
        assert_eq!(kernel.run("192.0.2.99"), (Steered, mac(0x99)));
        let in_vlan = tagged("192.0.2.99", 5);
        assert_eq!(kernel.run_frame(&in_vlan), (OtherMac, SENDER));
        // One for the VLAN's interface, which `o0` stands for.
        kernel.set_link(Link {
            tags: Tags::NONE.push(false, 5),
            ..Link::any_tags(MAC, index("o0"))
        });
        assert_eq!(kernel.run_frame(&in_vlan), (OtherRoute, SENDER));
        let in_vlan = tagged("10.9.0.7", 5);
        assert_eq!(kernel.run_frame(&in_vlan), (Neighbour, SENDER));
        assert_eq!(kernel.run_frame(&in_vlan), (Steered, mac(9)));
        let in_other = tagged("10.9.0.7", 6);
        assert_eq!(kernel.run_frame(&in_other), (OtherMac, SENDER));
    });
}

#[test]
fn the_look_up_begins_at_the_vrf_of_the_link() {
    in_namespace("the_look_up_begins_at_the_vrf", || {
        enable_forwarding();
        let mut kernel = Kernel::load(true);
        ip("route add 203.0.113.0/24 via 10.9.0.9");
        ip("route add 203.0.113.0/24 via 192.0.2.253 table 100");
        ip("neigh add 192.0.2.253 lladdr 02:00:00:00:00:03 dev r0");
        // The device of a VRF, which `o1` stands for.
        ip("rule add iif o1 table 100");
        assert_eq!(kernel.run("203.0.113.7"), (OtherRoute, SENDER));
        kernel.set_link(Link {
            vrf: index("o1"),
            ..Link::any_tags(MAC, index("r0"))
        });
        assert_eq!(
            kernel.run("203.0.113.8"),
            (OtherRoute, SENDER),
            "forwarding is off"
        );
        fs::write("/proc/sys/net/ipv4/conf/o1/forwarding", "1").unwrap();
        assert_eq!(kernel.confirmed("203.0.113.9"), (Steered, mac(3)));
    });
}

/// Waits until `is_so` returns true.
#[track_caller]
fn wait(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "in vain");
        thread::sleep(Duration::from_millis(100));
    }
}
