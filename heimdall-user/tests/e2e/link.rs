//! Properties of the interface: MAC addresses, MTU, senders with odd addresses, many addresses,
//! many queues, and devices on which AF_XDP does not work.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{Map, MapData, MapInfo, XskMap},
    programs::loaded_programs,
};
use heimdall_ebpf::SOCKETS_MAP;
use lab::{Frames, Heimdall, Kdig, Lab, QueryFrame, SERVER_V4, ScriptedUpstream, run, sum};

use crate::{lab, layers::port, program};

const UPSTREAM: &str = "127.0.0.1:5304";

/// A query for an address over IPv4.
fn query(frames: &Frames, id: u16) -> QueryFrame {
    QueryFrame {
        id,
        ..QueryFrame::new(frames.macs, &format!("n{id}.example"), 1)
    }
}

/// The DNS message of the reply with this ID over IPv4, if one comes.
fn reply(frames: &Frames, id: u16) -> Option<Vec<u8>> {
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let Some(frame) = frames.receive() else {
            continue;
        };
        let is_reply = frame.get(34..36) == Some(&[0, 53]);
        if is_reply && frame.get(42..44) == Some(&id.to_be_bytes()) {
            return Some(frame[42..].to_vec());
        }
    }
    None
}

/// The same frame from another address, without a UDP checksum.
fn from(source: [u8; 4], mut frame: Vec<u8>) -> Vec<u8> {
    frame[26..30].copy_from_slice(&source);
    frame[24..26].fill(0);
    frame[40..42].fill(0);
    let words = frame[14..34].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn verdict(heimdall: &Heimdall, name: &str) -> u64 {
    heimdall.stats().unwrap()["interfaces"][0]["verdicts"][name]
        .as_u64()
        .unwrap()
}

fn ip(lab: &Lab, arguments: &str) {
    run(lab.on_server("ip").args(arguments.split(' '))).unwrap();
}

/// Waits until `done` returns true.
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn frames_to_other_mac_addresses_are_left_to_the_kernel() {
    let Some(lab) = lab("frames_to_other_mac_addresses") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    ip(&lab, &format!("link set {} promisc on", lab.server_if));
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", UPSTREAM]).unwrap();
    let frames = Frames::open(&lab).unwrap();
    let own: [u8; 6] = frames.macs[..6].try_into().unwrap();
    let mut id = 0;
    let mut ask = |mac: [u8; 6]| {
        id += 1;
        let mut query = query(&frames, id);
        query.macs[..6].copy_from_slice(&mac);
        frames.send(&query.bytes()).unwrap();
        reply(&frames, id).is_some()
    };
    assert!(ask(own));
    assert!(!ask([2, 0, 0, 0, 0, 0x99]), "another host's");
    assert!(
        ask([3, 0xbf, 10, 53, 0, 1]),
        "a group's: the stack takes it"
    );
    assert_eq!(
        (
            verdict(&heimdall, "steered"),
            verdict(&heimdall, "other_mac")
        ),
        (1, 2)
    );
    assert_eq!(heimdall.stats().unwrap()["sockets"]["udp_answered"], 1);

    // The address changes while it runs.
    let new = [2, 0, 0, 0, 0, 0x77];
    ip(
        &lab,
        &format!("link set {} address 02:00:00:00:00:77", lab.server_if),
    );
    wait("the new address is steered", || {
        let before = verdict(&heimdall, "steered");
        assert!(ask(new), "by AF_XDP or the sockets");
        verdict(&heimdall, "steered") > before
    });
    assert!(!ask(own), "the previous address");
}

/// Whether a query from there gets a reply, over AF_XDP or a socket.
const SENDERS: [([u8; 4], bool); 12] = [
    ([10, 53, 0, 2], true),
    ([240, 1, 2, 3], true),
    ([255, 255, 255, 254], true),
    ([0, 1, 2, 3], true),
    // The lowest address of a prefix is a host's (Linux 5.14).
    ([10, 53, 0, 0], true),
    ([0, 0, 0, 0], false),
    ([255, 255, 255, 255], false),
    ([127, 0, 0, 9], false),
    ([224, 0, 0, 9], false),
    // The prefix's broadcast address; the lab's addresses have no `brd`.
    ([10, 53, 0, 255], false),
    // The server's own, on the interface and elsewhere.
    ([10, 53, 0, 1], false),
    ([10, 53, 0, 9], false),
];

#[test]
fn senders_get_what_they_get_from_a_kernel_socket() {
    let Some(lab) = lab("senders_get_what_they_get") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let frames = Frames::open(&lab).unwrap();
    let octets: Vec<String> = frames.macs[6..]
        .iter()
        .map(|o| format!("{o:02x}"))
        .collect();
    for (source, _) in SENDERS.iter().filter(|(_, answered)| *answered) {
        let source = Ipv4Addr::from(*source);
        let neighbour = format!("neigh replace {source} lladdr {}", octets.join(":"));
        ip(
            &lab,
            &format!("route replace {source}/32 dev {}", lab.server_if),
        );
        ip(&lab, &format!("{neighbour} dev {}", lab.server_if));
    }
    ip(&lab, "addr add 10.53.0.9/32 dev lo");
    let arguments = ["--upstream", UPSTREAM, "--allow", "0.0.0.0/0"];
    let mut id = 0;
    for steered in [false, true] {
        let start = if steered {
            Heimdall::on_xdp
        } else {
            Heimdall::on_sockets
        };
        let heimdall = start(&lab, program(), &arguments).unwrap();
        for (source, answered) in SENDERS {
            id += 1;
            let frame = query(&frames, id).bytes();
            frames.send(&from(source, frame)).unwrap();
            let got = reply(&frames, id).is_some();
            assert_eq!(got, answered, "{source:?}, AF_XDP: {steered}");
        }
        let stats = heimdall.stats().unwrap();
        if steered {
            let refused = SENDERS.iter().filter(|(_, answered)| !answered).count();
            assert_eq!(sum(&stats, "dropped/bad_source"), refused as u64);
            assert_eq!(stats["sockets"]["udp_received"], 0);
        }
    }
}

#[test]
fn a_lowered_mtu_bounds_replies() {
    let Some(lab) = lab("a_lowered_mtu") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", UPSTREAM]).unwrap();
    let frames = Frames::open(&lab).unwrap();
    let mut id = 0;
    let mut truncated = |len: u16| {
        id += 1;
        let query = QueryFrame {
            id,
            ..QueryFrame::new(frames.macs, &format!("len-{len}.x"), 16)
        };
        frames.send(&query.bytes()).unwrap();
        reply(&frames, id).unwrap()[2] & 2 != 0
    };
    assert!(!truncated(1200));
    ip(&lab, &format!("link set {} mtu 900", lab.server_if));
    wait("replies are bounded", || truncated(1200));
    assert!(!truncated(872), "28 octets of headers fit");
    assert!(truncated(873));
    ip(&lab, &format!("link set {} mtu 1500", lab.server_if));
    wait("and no longer bounded", || !truncated(1200));
    assert_eq!(heimdall.stats().unwrap()["sockets"]["udp_received"], 0);
}

#[test]
fn more_than_a_thousand_addresses_are_served() {
    let Some(lab) = lab("more_than_a_thousand_addresses") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let mut batch = lab.on_server("ip");
    batch.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut batch = batch.spawn().unwrap();
    let mut input = batch.stdin.take().unwrap();
    for n in 0..1_100 {
        let (high, low) = (n / 256, n % 256);
        writeln!(
            input,
            "addr add 10.60.{high}.{low}/32 dev {}",
            lab.server_if
        )
        .unwrap();
    }
    drop(input);
    assert!(batch.wait().unwrap().success());
    let route = ["route", "add", "10.60.0.0/16", "dev", &lab.client_if];
    run(lab.on_client("ip").args(route)).unwrap();
    let heimdall =
        Heimdall::on_xdp_at(&lab, program(), &["0.0.0.0:53"], &["--upstream", UPSTREAM]).unwrap();
    for server in ["@10.60.0.0", "@10.60.4.75", &format!("@{SERVER_V4}")] {
        let got = Kdig::ask(&lab, &[server, "plain.example"]).unwrap();
        assert_eq!(got.status, "NOERROR", "{server}");
    }
    assert_eq!(verdict(&heimdall, "steered"), 3);
}

/// Makes the program redirect packets to a socket at which none arrives.
fn break_steering(heimdall: &Heimdall) -> OwnedFd {
    let id = heimdall.stats().unwrap()["interfaces"][0]["program_id"].as_u64();
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| Some(program.id().into()) == id)
        .unwrap();
    let maps = program.map_ids().unwrap().unwrap();
    let sockets = maps
        .into_iter()
        .find(|id| MapInfo::from_id(*id).unwrap().name_as_str() == Some(SOCKETS_MAP))
        .unwrap();
    let map = MapData::from_id(sockets).unwrap();
    let mut sockets = XskMap::try_from(Map::XskMap(map)).unwrap();
    // SAFETY: no pointers are passed.
    let fd = unsafe {
        nix::libc::socket(
            nix::libc::AF_XDP,
            nix::libc::SOCK_RAW | nix::libc::SOCK_CLOEXEC,
            0,
        )
    };
    assert!(fd >= 0);
    // SAFETY: `fd` is open, and nothing else owns it.
    let unbound = unsafe { OwnedFd::from_raw_fd(fd) };
    sockets.set(0, unbound.as_raw_fd(), 0).unwrap();
    unbound
}

#[test]
fn if_nothing_that_is_steered_arrives_the_sockets_answer() {
    let Some(lab) = lab("if_nothing_that_is_steered_arrives") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--upstream", UPSTREAM]).unwrap();
    let frames = Frames::open(&lab).unwrap();
    let mut id = 0;
    let mut ask = || {
        id += 1;
        frames.send(&query(&frames, id).bytes()).unwrap();
        reply(&frames, id).is_some()
    };
    // An idle time does not count, nor does a single lost query.
    assert!(ask());
    thread::sleep(Duration::from_secs(4));
    assert!(ask());
    assert_eq!(verdict(&heimdall, "steered"), 2);

    let _socket = break_steering(&heimdall);
    assert!(!ask(), "the fault is there");
    wait("the sockets answer", &mut ask);
    let output = heimdall.process.output();
    assert!(output.contains("reached an AF_XDP socket"), "{output}");
    // A change of the interface does not start the steering again.
    let steered = verdict(&heimdall, "steered");
    ip(
        &lab,
        &format!("addr add 10.53.0.77/24 dev {}", lab.server_if),
    );
    thread::sleep(Duration::from_millis(300));
    assert!(ask());
    assert_eq!(verdict(&heimdall, "steered"), steered);
}

#[test]
fn loopback_is_answered_by_the_sockets_with_a_reason() {
    let Some(lab) = lab("loopback_is_answered") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let arguments = ["--interface", "lo", "--upstream", UPSTREAM];
    let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    let output = heimdall.process.output();
    assert!(
        output.contains("WARN")
            && output.contains("AF_XDP cannot serve lo")
            && output.contains("AF_XDP is not in use now"),
        "{output}"
    );
    let got = Kdig::ask(&lab, &[&format!("@{SERVER_V4}"), "plain.example"]).unwrap();
    assert_eq!(got.status, "NOERROR");
}

#[test]
fn an_address_on_loopback_is_served_where_it_arrives_if_it_is_named() {
    let Some(lab) = lab("an_address_on_loopback") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    ip(&lab, "addr add 203.0.113.53/32 dev lo");
    let route = ["route", "add", "203.0.113.53", "via", SERVER_V4];
    run(lab.on_client("ip").args(route)).unwrap();
    for (listen, steered) in [("0.0.0.0:53", 0), ("203.0.113.53:53", 1)] {
        let arguments = [
            "--backend",
            "xdp",
            "--interface",
            &lab.server_if,
            "--listen",
            listen,
            "--upstream",
            UPSTREAM,
        ];
        let heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
        let got = Kdig::ask(&lab, &["@203.0.113.53", "plain.example"]).unwrap();
        assert_eq!(got.status, "NOERROR");
        assert_eq!(verdict(&heimdall, "steered"), steered, "{listen}");
        let output = heimdall.process.output();
        let warned = output.contains("the sockets alone serve 203.0.113.53 (lo)");
        assert_eq!(warned, steered == 0, "{listen}: {output}");
    }
}

#[test]
fn an_interface_without_addresses_is_reported_and_served_once_it_has_one() {
    let Some(lab) = lab("an_interface_without_addresses") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    ip(
        &lab,
        &format!("addr del {SERVER_V4}/24 dev {}", lab.server_if),
    );
    let heimdall =
        Heimdall::on_xdp_at(&lab, program(), &["0.0.0.0:53"], &["--upstream", UPSTREAM]).unwrap();
    let output = heimdall.process.output();
    assert!(output.contains("no address to serve"), "{output}");
    ip(
        &lab,
        &format!("addr add {SERVER_V4}/24 dev {}", lab.server_if),
    );
    wait("its address is steered", || {
        let got = Kdig::ask(&lab, &[&format!("@{SERVER_V4}"), "plain.example"]).unwrap();
        assert_eq!(got.status, "NOERROR");
        verdict(&heimdall, "steered") > 0
    });
}

#[test]
fn an_interface_that_fails_leaves_the_others_to_af_xdp() {
    let Some(lab) = lab("an_interface_that_fails") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let listen = format!("{SERVER_V4}:53");
    let start = |interfaces: &[&str]| {
        let fixed = [
            "--backend",
            "auto",
            "--listen",
            &listen,
            "--upstream",
            UPSTREAM,
        ];
        let interfaces = interfaces.iter().flat_map(|name| ["--interface", *name]);
        let flags: Vec<_> = fixed.into_iter().chain(interfaces).collect();
        Heimdall::start(lab.on_server(program()), program(), &flags).unwrap()
    };
    let heimdall = start(&["nope0", &lab.server_if]);
    let got = Kdig::ask(&lab, &[&format!("@{SERVER_V4}"), "a.example", "A"]).unwrap();
    assert_eq!(got.answer.len(), 1);
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["backend"], "xdp");
    let state = |name: &str| port(&stats, name).unwrap()["state"].clone();
    assert_eq!([state(&lab.server_if), state("nope0")], ["up", "gone"]);
    assert_eq!(sum(&stats, "answered"), 1);
    drop(heimdall);
    // Without any interface, only the sockets serve.
    assert_eq!(start(&["nope0"]).stats().unwrap()["backend"], "socket");
}
