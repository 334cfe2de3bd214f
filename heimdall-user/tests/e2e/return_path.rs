//! The return path: replies by the kernel's routes (`xdp.route-check`), and paths whose MTU is smaller than the interface's.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use etherparse::{
    Icmpv4Type, Icmpv6Type, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    icmpv4,
};
use lab::{
    CLIENT_V4, CLIENT_V6, Frames, Heimdall, Lab, QueryFrame, SERVER_V4, SERVER_V6,
    ScriptedUpstream, UPSTREAM, message, run,
};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::{
    client::{DnsClient, Settings, TIMEOUT},
    lab, program,
    scenarios::language,
    tier::{OFTEN, hits, settle},
};

/// Clients behind a router, and the server's address of their kind.
const CLIENTS: [(&str, &str); 2] = [("10.77.0.9", SERVER_V4), ("fd77::9", SERVER_V6)];

/// The router to which the server's routes to them lead, which is not the one that their queries come from.
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 0x20];

fn shell(lab: &Lab, script: &str) {
    run(lab.on_server("sh").args(["-c", script])).unwrap();
}

/// Has the server's kernel let programs look up routes.
fn enable_forwarding(lab: &Lab) {
    shell(
        lab,
        "for f in ipv4 ipv6; do echo 1 > /proc/sys/net/$f/conf/lo/forwarding; done",
    );
}

/// Has the server's kernel take packets from senders to whom it has another route.
fn accept_all_senders(lab: &Lab) {
    shell(
        lab,
        "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
    );
}

/// Routes to [`CLIENTS`] by [`NEXT_HOP`].
fn add_routes(lab: &Lab) {
    for (prefix, router) in [("10.77.0.0/16", "10.53.0.20"), ("fd77::/16", "fd53::20")] {
        lab.server_ip(&format!("route add {prefix} via {router}"))
            .unwrap();
        lab.server_ip(&format!(
            "neigh add {router} lladdr 02:00:00:00:00:20 dev {}",
            lab.server_if
        ))
        .unwrap();
    }
}

fn start(lab: &Lab, more: &[&str]) -> Heimdall {
    let arguments = [&["--upstream", UPSTREAM], more].concat();
    Heimdall::on_xdp(lab, program(), &arguments).unwrap()
}

/// Sends a query for an address of `name`, whoever `client` is, in a frame of the lab's client.
fn send(frames: &Frames, client: &str, server: &str, id: u16, name: &str) {
    let query = QueryFrame {
        id,
        ..QueryFrame::new(frames.macs, name, 1)
    };
    let [to, from] = [&frames.macs[..6], &frames.macs[6..]].map(|mac| mac.try_into().unwrap());
    let ethernet = PacketBuilder::ethernet2(from, to);
    let ip = match (client.parse().unwrap(), server.parse().unwrap()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            ethernet.ipv4(client.octets(), server.octets(), 64)
        }
        (IpAddr::V6(client), IpAddr::V6(server)) => {
            ethernet.ipv6(client.octets(), server.octets(), 64)
        }
        mixed => panic!("{mixed:?}"),
    };
    let mut frame = Vec::new();
    ip.udp(40_000, 53).write(&mut frame, &query.dns()).unwrap();
    frames.send(&frame).unwrap();
}

/// The MAC address to which a frame with a reply is sent, and the reply's destination and ID.
fn read_reply(frame: &[u8]) -> Option<([u8; 6], IpAddr, u16)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(ethernet)) = packet.link else {
        return None;
    };
    let to = match packet.net? {
        NetSlice::Ipv4(ip) => IpAddr::V4(ip.header().destination_addr()),
        NetSlice::Ipv6(ip) => IpAddr::V6(ip.header().destination_addr()),
        _ => return None,
    };
    let Some(TransportSlice::Udp(udp)) = packet.transport else {
        return None;
    };
    let [high, low, ..] = udp.payload() else {
        return None;
    };
    let id = u16::from_be_bytes([*high, *low]);
    (udp.source_port() == 53).then_some((ethernet.destination(), to, id))
}

/// The MAC address to which the reply to a query is sent, if one comes.
fn ask(frames: &Frames, client: &str, server: &str, id: u16, name: &str) -> Option<[u8; 6]> {
    send(frames, client, server, id, name);
    let client: IpAddr = client.parse().unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let Some(frame) = frames.receive() else {
            continue;
        };
        if let Some((mac, to, of)) = read_reply(&frame)
            && (to, of) == (client, id)
        {
            return Some(mac);
        }
    }
    None
}

fn verdict(stats: &Value, name: &str) -> u64 {
    stats["interfaces"][0]["verdicts"][name].as_u64().unwrap()
}

#[test]
fn replies_follow_the_routes_and_not_the_senders_mac_address() {
    let Some(lab) = lab("replies_follow_the_routes") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    accept_all_senders(&lab);
    enable_forwarding(&lab);
    add_routes(&lab);
    let frames = Frames::open(&lab).unwrap();
    let sender: [u8; 6] = frames.macs[6..].try_into().unwrap();
    {
        let _without = start(&lab, &["--tier", "off"]);
        for (client, server) in CLIENTS {
            let to = ask(&frames, client, server, 1, "a.example");
            assert_eq!(to, Some(sender), "{client}, without the check");
        }
    }
    let heimdall = start(&lab, &["--route-check", "on"]);
    let mut id = 0;
    let mut ask_often = |times: usize| {
        for _ in 0..times {
            for (client, server) in CLIENTS {
                id += 1;
                let to = ask(&frames, client, server, id, "a.example");
                assert_eq!(to, Some(NEXT_HOP), "{client}, query {id}");
            }
        }
    };
    ask_often(OFTEN);
    settle(&heimdall);
    let before = hits(&heimdall);
    ask_often(50);
    let stats = heimdall.stats().unwrap();
    assert!(hits(&heimdall) > before, "none by the hot tier: {stats:#}");
    assert!(verdict(&stats, "steered") > 0 && verdict(&stats, "answered") > 0);
    // The first query for each next hop, and one every five seconds, went to the sockets.
    assert!(verdict(&stats, "neighbour") >= 2, "{stats:#}");
    assert_eq!(verdict(&stats, "other_route"), 0);
    assert_eq!(
        stats["sockets"]["udp_answered"],
        verdict(&stats, "neighbour")
    );
}

#[test]
fn queries_whose_replies_leave_by_another_interface_are_answered_by_the_sockets() {
    let Some(lab) = lab("queries_whose_replies_leave_by_another_interface") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let client = &lab.client;
    lab.server_ip(&format!(
        "link add other type veth peer name other netns {client}"
    ))
    .unwrap();
    for (address, other) in [
        ("10.54.0.1/24", "10.54.0.2/24"),
        ("fd54::1/64", "fd54::2/64"),
    ] {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        lab.server_ip(&format!("addr add {address} dev other{nodad}"))
            .unwrap();
        lab.client_ip(&format!("addr add {other} dev other{nodad}"))
            .unwrap();
    }
    lab.server_ip("link set other up").unwrap();
    lab.client_ip("link set other up").unwrap();
    accept_all_senders(&lab);
    enable_forwarding(&lab);
    for (client, router) in [("10.77.0.9", "10.54.0.2"), ("fd77::9", "fd54::2")] {
        let nodad = if client.contains(':') { " nodad" } else { "" };
        lab.server_ip(&format!("route add {client} via {router}"))
            .unwrap();
        lab.client_ip(&format!("addr add {client} dev other{nodad}"))
            .unwrap();
    }
    let heimdall = start(&lab, &["--route-check", "on"]);
    let frames = Frames::open(&lab).unwrap();
    for (client, server) in CLIENTS {
        let listen = || {
            let socket = UdpSocket::bind((client, 40_000)).unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            socket
        };
        let socket = lab.in_client(listen).unwrap();
        for id in 1..=3 {
            send(&frames, client, server, id, "a.example");
            let mut reply = [0; 512];
            let len = socket.recv(&mut reply).unwrap();
            assert_eq!(reply[..len][..2], id.to_be_bytes(), "{client}");
        }
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(verdict(&stats, "other_route"), 6, "{stats:#}");
    assert_eq!(stats["sockets"]["udp_answered"], 6);
}

#[test]
fn what_is_missing_for_the_check_is_said_and_the_sockets_answer() {
    let Some(lab) = lab("what_is_missing_for_the_check") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = start(&lab, &["--route-check", "on"]);
    let said = heimdall.process.output();
    for key in ["net.ipv4.conf.lo.forwarding", "net.ipv6.conf.lo.forwarding"] {
        assert!(said.contains(&format!("run `sysctl -w {key}=1`")), "{said}");
    }
    for client in [DnsClient::v4(&lab), DnsClient::v6(&lab)] {
        let reply = client.udp("www.example A rd");
        assert!(reply.contains("192.0.2.1"), "{reply}");
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(verdict(&stats, "other_route"), 2);
    assert_eq!(stats["sockets"]["udp_answered"], 2);
    // From then on AF_XDP answers.
    enable_forwarding(&lab);
    let end = Instant::now() + TIMEOUT;
    while verdict(&heimdall.stats().unwrap(), "steered") == 0 {
        DnsClient::v4(&lab).udp("www.example A rd");
        assert!(Instant::now() < end, "nothing is steered");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_interface_by_which_the_default_route_does_not_lead_is_said() {
    let Some(lab) = lab("an_interface_by_which_the_default_route") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    lab.server_ip("link add other type veth peer name peer")
        .unwrap();
    for name in ["other", "peer"] {
        lab.server_ip(&format!("link set {name} up")).unwrap();
    }
    lab.server_ip("addr add 10.54.0.1/24 dev other").unwrap();
    let default = |by: &str| lab.server_ip(&format!("route replace default {by}"));
    let said = "out of other; AF_XDP sends them back to the MAC address";
    default("via 10.53.0.2").unwrap();
    let heimdall = start(&lab, &["--tier", "off"]);
    assert!(!heimdall.process.output().contains(said));
    drop(heimdall);
    default("via 10.54.0.2").unwrap();
    let heimdall = start(&lab, &["--tier", "off"]);
    let output = heimdall.process.output();
    assert!(output.contains(said), "{output}");
    drop(heimdall);
    // A rule for what it sends from that address.
    lab.server_ip("route add default via 10.53.0.2 table 100")
        .unwrap();
    lab.server_ip("rule add from 10.53.0.1 lookup 100").unwrap();
    let heimdall = start(&lab, &["--tier", "off"]);
    assert!(!heimdall.process.output().contains(said));
}

#[test]
fn a_neighbour_that_changes_its_mac_address_silently_is_found_again() {
    let Some(lab) = lab("a_neighbour_that_changes_its_mac_address") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    enable_forwarding(&lab);
    // The kernel doubts a neighbour after about a second, and asks it after another.
    for family in ["ipv4", "ipv6"] {
        let keys = format!("/proc/sys/net/{family}/neigh/{}", lab.server_if);
        shell(
            &lab,
            &format!(
                "cd {keys}; echo 1000 > base_reachable_time_ms; echo 1 > delay_first_probe_time"
            ),
        );
    }
    let heimdall = start(&lab, &["--route-check", "on", "--tier", "off"]);
    for client in [DnsClient::v4(&lab), DnsClient::v6(&lab)] {
        assert!(client.udp("www.example A rd").contains("192.0.2.1"));
    }
    let frames = Frames::open(&lab).unwrap();
    let old: [u8; 6] = frames.macs[6..].try_into().unwrap();
    let clients = [(CLIENT_V4, SERVER_V4), (CLIENT_V6, SERVER_V6)];
    for (client, server) in clients {
        assert_eq!(ask(&frames, client, server, 7, "www.example"), Some(old));
    }
    let new = [2, 0, 0, 0, 0, 0x77];
    let set = format!("link set dev {} address 02:00:00:00:00:77", lab.client_if);
    lab.client_ip(&set).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let mut id = 100;
    for (client, server) in clients {
        loop {
            id += 1;
            // While the kernel asks for the neighbour, a reply of the sockets waits.
            match ask(&frames, client, server, id, "www.example") {
                Some(mac) if mac == new => break,
                other => assert!(other.is_none_or(|mac| mac == old), "{other:?}"),
            }
            assert!(Instant::now() < end, "{client}");
            thread::sleep(Duration::from_millis(50));
        }
    }
    assert!(verdict(&heimdall.stats().unwrap(), "neighbour") >= 4);
}

/// A host behind the lab's client, which is its router, over a link of MTU 1300.
struct Far {
    namespace: String,
}

/// The far host's addresses.
const FAR: [&str; 2] = ["10.79.0.2", "fd79::2"];

impl Far {
    fn new(lab: &Lab) -> Self {
        // The lab removes what is left of it by its name.
        let far = Self {
            namespace: format!("{}-far", lab.client),
        };
        let namespace = &far.namespace;
        let ip = |arguments: &str| run(std::process::Command::new("ip").args(arguments.split(' ')));
        ip(&format!("netns add {namespace}")).unwrap();
        lab.client_ip(&format!(
            "link add far type veth peer name near netns {namespace}"
        ))
        .unwrap();
        lab.client_ip("link set far mtu 1300 up").unwrap();
        ip(&format!("-n {namespace} link set near mtu 1300 up")).unwrap();
        for (router, host, bits, by, nodad) in [
            ("10.79.0.1", FAR[0], 24, CLIENT_V4, ""),
            ("fd79::1", FAR[1], 64, CLIENT_V6, " nodad"),
        ] {
            lab.client_ip(&format!("addr add {router}/{bits} dev far{nodad}"))
                .unwrap();
            ip(&format!(
                "-n {namespace} addr add {host}/{bits} dev near{nodad}"
            ))
            .unwrap();
            ip(&format!("-n {namespace} route add default via {router}")).unwrap();
            lab.server_ip(&format!("route add {host} via {by}"))
                .unwrap();
        }
        let forward = "for f in ipv4 ipv6; do echo 1 > /proc/sys/net/$f/conf/all/forwarding; done";
        run(lab.on_client("sh").args(["-c", forward])).unwrap();
        far
    }

    /// Does some work on a thread in its namespace.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.namespace);
        let enter = || setns(std::fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        let worked = thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter();
                    work()
                })
                .join()
        });
        worked.unwrap()
    }

    /// A socket that asks the server.
    fn client(&self, address: &str, server: &str) -> UdpSocket {
        self.within(|| {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            socket.connect((server, 53)).unwrap();
            socket
        })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = run(std::process::Command::new("ip").args(["netns", "del", &self.namespace]));
    }
}

/// The reply to a query as text, if one comes.
fn exchange(socket: &UdpSocket, query: &str) -> Option<String> {
    let query = language::query(query);
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    socket.send(&query).unwrap();
    let mut reply = vec![0; 4096];
    let len = socket.recv(&mut reply).ok()?;
    Some(language::reply(&reply[..len], &query))
}

/// The far host asks for what does not fit on its link, until it gets a truncated reply; then by TCP. And for what fits.
fn asks_from_afar(far: &Far, backend: &str) {
    for (address, server, headers) in [(FAR[0], SERVER_V4, 20 + 8), (FAR[1], SERVER_V6, 40 + 8)] {
        let client = far.client(address, server);
        let ask = |size: usize| exchange(&client, &format!("len-{size}.example TXT rd edns=4096"));
        let cut = |size: usize| {
            Some(format!(
                "NOERROR qr tc rd ra | len-{size}.example. TXT | | | | opt 4096"
            ))
        };
        // Neighbours are found first, which may take IPv6 some seconds.
        let found = (0..10).any(|_| ask(100).is_some());
        assert!(found, "{backend}: {address}");
        let lost = (0..5).take_while(|_| ask(1400) != cut(1400)).count();
        // On its way back the first one is lost, and the router says so.
        assert!(
            (1..5).contains(&lost),
            "{backend}: {lost} replies to {address} until one is truncated"
        );
        for size in [1301 - headers, 1400] {
            assert_eq!(ask(size), cut(size), "{backend}: {address}, {size}");
        }
        for size in [100, 1300 - headers] {
            let whole = ask(size).unwrap_or_else(|| panic!("{backend}: {address}, {size}"));
            assert!(whole.starts_with("NOERROR qr rd ra |"), "{whole}");
        }
        let query = language::query("len-1400.example TXT rd edns=4096");
        let over_tcp = far.within(|| {
            let mut stream = TcpStream::connect((server, 53)).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            message::exchange(&mut stream, &query).unwrap()
        });
        assert_eq!(over_tcp.len(), 1400);
    }
}

#[test]
fn a_path_with_a_smaller_mtu_is_learnt_as_the_sockets_learn_it() {
    let Some(lab) = lab("a_path_with_a_smaller_mtu") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let far = Far::new(&lab);
    let settings = Settings::new("max-udp-size = 4096");
    {
        let _heimdall = settings.on_sockets(&lab);
        asks_from_afar(&far, "sockets");
    }
    // The kernel knows the path by now; AF_XDP learns it by itself.
    let heimdall = settings.on_xdp(&lab);
    asks_from_afar(&far, "AF_XDP");
    let stats = heimdall.stats().unwrap();
    let path_mtu = &stats["path_mtu"];
    assert_eq!(path_mtu["entries"], 2, "{path_mtu}");
    assert!(path_mtu["learnt"].as_u64() >= Some(2), "{path_mtu}");
    assert_eq!(stats["sockets"]["udp_received"], 0);
    // Another client's path is not concerned.
    let whole = DnsClient::v4(&lab).udp("len-1400.example TXT rd edns=4096");
    assert!(whole.starts_with("NOERROR qr rd ra |"), "{whole}");
}

/// A router's report that a reply to `client` is too large, as an attacker would forge it.
fn forged(frames: &Frames, client: IpAddr, mtu: u16) -> Vec<u8> {
    let [to, from] = [&frames.macs[..6], &frames.macs[6..]].map(|mac| mac.try_into().unwrap());
    let ethernet = PacketBuilder::ethernet2(from, to);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (mut quoted, mut frame) = (Vec::new(), Vec::new());
    match (address(SERVER_V4), address(SERVER_V6), client) {
        (IpAddr::V4(server), _, IpAddr::V4(client)) => {
            PacketBuilder::ipv4(server.octets(), client.octets(), 64)
                .udp(53, 40_000)
                .write(&mut quoted, &[0x80; 1400])
                .unwrap();
            let needed = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            ethernet
                .ipv4(Ipv4Addr::new(10, 53, 0, 9).octets(), server.octets(), 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(needed))
                .write(&mut frame, &quoted[..64])
                .unwrap();
        }
        (_, IpAddr::V6(server), IpAddr::V6(client)) => {
            PacketBuilder::ipv6(server.octets(), client.octets(), 64)
                .udp(53, 40_000)
                .write(&mut quoted, &[0x80; 1400])
                .unwrap();
            let router: Ipv6Addr = "fd53::9".parse().unwrap();
            ethernet
                .ipv6(router.octets(), server.octets(), 64)
                .icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() })
                .write(&mut frame, &quoted[..64])
                .unwrap();
        }
        _ => unreachable!(),
    }
    frame
}

#[test]
fn forged_reports_cost_a_client_no_more_than_truncated_replies() {
    let Some(lab) = lab("forged_reports_cost_a_client") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = Settings::new("max-udp-size = 4096").on_xdp(&lab);
    let frames = Frames::open(&lab).unwrap();
    let learnt = || heimdall.stats().unwrap()["path_mtu"].clone();
    let wait = |entries: u64| {
        let end = Instant::now() + TIMEOUT;
        while learnt()["entries"] != entries {
            assert!(Instant::now() < end, "{}", learnt());
            thread::sleep(Duration::from_millis(20));
        }
    };
    let askers = [
        (DnsClient::v4(&lab), CLIENT_V4, 552 - 28),
        (DnsClient::v6(&lab), CLIENT_V6, 1280 - 48),
    ];
    let is_whole = |client: &DnsClient<'_>, size: usize| {
        let reply = client.udp(&format!("len-{size}.example TXT rd edns=4096"));
        assert!(reply.contains(&format!("len-{size}.example.")), "{reply}");
        !reply.contains(" tc ")
    };
    for (entries, (client, address, size)) in (1..).zip(&askers) {
        assert!(is_whole(client, 1400), "{address}, before");
        let address: IpAddr = address.parse().unwrap();
        // A reply that would have fitted was not dropped for its size.
        for mtu in [1500, 0] {
            frames.send(&forged(&frames, address, mtu)).unwrap();
        }
        wait(entries);
        assert!(is_whole(client, *size), "{address}");
        assert!(!is_whole(client, size + 1), "{address}");
        assert!(!is_whole(client, 1400), "{address}");
    }
    let before = learnt();
    assert_eq!(
        (&before["learnt"], &before["ignored"]),
        (&2.into(), &2.into())
    );
    // A flood of them fills the table, and no more.
    let flood: Vec<Vec<u8>> = (0..20_000_u32)
        .map(|number| {
            let client = Ipv4Addr::from(0x0a80_0000 | number);
            forged(&frames, client.into(), 600)
        })
        .collect();
    frames.send_all(flood.iter().map(Vec::as_slice)).unwrap();
    let after = learnt();
    let entries = after["entries"].as_u64().unwrap();
    assert!((2..=4096).contains(&entries), "{after}");
    for (client, address, _) in &askers {
        assert!(is_whole(client, 500), "{address}");
    }
}
