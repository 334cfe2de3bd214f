//! Packets that XDP passes to the kernel are answered over sockets, from the address that was asked;
//! and queries whose answers are too large for a packet are repeated over TCP.

use std::net::{Ipv4Addr, Ipv6Addr};

use lab::{
    Frames, Kdig, Knot, Lab, QueryFrame, SERVER_V4, SERVER_V6, ScriptedUpstream, UPSTREAM, run,
};
use nix::sys::signal::Signal;

use crate::{
    client::{DnsClient, Settings},
    heimdall, lab,
};

/// Waits for the reply to a query; its source port, if it comes from the server's address.
fn reply(frames: &Frames, query: &QueryFrame) -> Option<u16> {
    let (source, udp) = if query.v6 {
        let address: Ipv6Addr = SERVER_V6.parse().unwrap();
        (address.octets().to_vec(), 14 + 40)
    } else {
        let address: Ipv4Addr = SERVER_V4.parse().unwrap();
        (address.octets().to_vec(), 14 + 20)
    };
    // In both versions the addresses end the header.
    let source_at = udp - 2 * source.len();
    // Sent frames and those of the network come in between.
    for _ in 0..50 {
        let frame = frames.receive()?;
        let u16_at = |at: usize| {
            frame
                .get(at..at + 2)
                .map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
        };
        if frame.get(source_at..source_at + source.len()) == Some(&source)
            && u16_at(udp + 2) == Some(query.port)
            && u16_at(udp + 8) == Some(query.id)
        {
            assert_eq!(frame[udp + 10] & 0x80, 0x80, "a response");
            return u16_at(udp);
        }
    }
    None
}

#[test]
fn fragments_and_options_are_answered_over_sockets() {
    let Some(lab) = lab("fragments_and_options") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let frames = Frames::open(&lab).unwrap();

    // Neighbour discovery comes first, which may take IPv6 a second.
    let server = format!("@{SERVER_V6}");
    Kdig::ask(&lab, &[&server, "n1.example.com", "A"]).unwrap();
    let mut id = 70;
    for v6 in [false, true] {
        // Router alert, and PadN: options that change nothing for a host.
        let options = if v6 {
            vec![1, 4, 0, 0, 0, 0]
        } else {
            vec![0x94, 4, 0, 0]
        };
        for (shape, options, fragmented) in [
            ("in two fragments", vec![], true),
            ("with options", options, false),
            ("plain", vec![], false),
        ] {
            id += 1;
            let query = QueryFrame {
                id,
                v6,
                options,
                port: 41_000 + id,
                ..QueryFrame::new(frames.macs, &format!("n{id}.example.com"), 1)
            };
            if fragmented {
                for fragment in query.fragments() {
                    frames.send(&fragment).unwrap();
                }
            } else {
                frames.send(&query.bytes()).unwrap();
            }
            assert_eq!(reply(&frames, &query), Some(53), "{shape}, IPv6: {v6}");
        }
    }

    let stats = heimdall.stats().unwrap();
    let verdicts = &stats["interfaces"][0]["verdicts"];
    for (verdict, count) in [("fragment", 4), ("ipv4_options", 1), ("steered", 3)] {
        assert_eq!(verdicts[verdict], count, "{verdict}");
    }
    // The client's kernel sends multicast listener reports with a hop-by-hop option, too.
    assert!(verdicts["ipv6_extension"].as_u64().unwrap() >= 1);
    assert_eq!(stats["sockets"]["udp_answered"], 4);
}

#[test]
fn bad_queries_over_af_xdp_get_what_the_rfcs_say() {
    let Some(lab) = lab("bad_queries_over_af_xdp") else {
        return;
    };
    let _knot = Knot::upstream(&lab).unwrap();
    let heimdall = heimdall(&lab);
    let frames = Frames::open(&lab).unwrap();
    let base = QueryFrame {
        udp_size: None,
        ..QueryFrame::new(frames.macs, "n1.example.com", 1)
    };
    let sum_at = 14 + 20 + 6;
    let dns = 14 + 20 + 8;
    // Without a UDP checksum, which IPv4 allows, so that only the DNS message is wrong.
    let replied = |id: u16, port: u16, edit: &dyn Fn(&mut Vec<u8>)| {
        let query = QueryFrame {
            id,
            port,
            ..base.clone()
        };
        let mut frame = query.bytes();
        frame[sum_at..sum_at + 2].fill(0);
        edit(&mut frame);
        frames.send(&frame).unwrap();
        reply(&frames, &query).is_some()
    };
    let other_opcode = |frame: &mut Vec<u8>| frame[dns + 2] = 0x28;
    assert!(replied(1, 41_001, &other_opcode), "NOTIMP");
    let pointer_as_name = |frame: &mut Vec<u8>| frame[dns + 12] = 0xc0;
    assert!(replied(2, 41_002, &pointer_as_name), "FORMERR");
    let two_questions = |frame: &mut Vec<u8>| frame[dns + 5] = 2;
    assert!(replied(3, 41_003, &two_questions), "FORMERR");
    assert!(!replied(4, 53, &two_questions), "no error to port 53");
    let wrong_checksum = |frame: &mut Vec<u8>| frame[sum_at] = 0x55;
    assert!(!replied(5, 41_005, &wrong_checksum), "dropped");
    assert!(!replied(6, 0, &|_| {}), "source port 0: dropped");
    let stats = heimdall.stats().unwrap();
    let worker = &stats["workers"][0];
    assert_eq!(
        (&worker["rcodes"]["notimp"], &worker["rcodes"]["formerr"]),
        (&1.into(), &2.into())
    );
    let dropped = &worker["dropped"];
    assert_eq!(
        (
            &dropped["service_port"],
            &dropped["bad_checksum"],
            &dropped["bad_source"]
        ),
        (&1.into(), &1.into(), &1.into())
    );
}

/// Fragments that the server's kernel has made so far.
fn fragments(lab: &Lab) -> u64 {
    let v4 = run(lab.on_server("cat").arg("/proc/net/snmp")).unwrap();
    let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, counts) = (lines.next().unwrap(), lines.next().unwrap());
    let v4 = names
        .split(' ')
        .zip(counts.split(' '))
        .find(|(name, _)| *name == "FragCreates");
    let v6 = run(lab.on_server("cat").arg("/proc/net/snmp6")).unwrap();
    let v6 = v6
        .lines()
        .find_map(|line| line.strip_prefix("Ip6FragCreates"));
    v4.unwrap().1.parse::<u64>().unwrap() + v6.unwrap().trim().parse::<u64>().unwrap()
}

/// Replies of these sizes, that fit into packets of 1280 octets or do not.
fn whole_or_truncated(lab: &Lab, backend: &str) {
    for (client, headers) in [(DnsClient::v4(lab), 20 + 8), (DnsClient::v6(lab), 40 + 8)] {
        for (size, fits) in [
            (1280 - headers, true),
            (1281 - headers, false),
            (2000, false),
            (4000, false),
        ] {
            let name = format!("len-{size}.example");
            let query = format!("{name} TXT rd edns=4096");
            for round in ["cold", "warm"] {
                let reply = client.udp(&query);
                let cut = format!("NOERROR qr tc rd ra | {name}. TXT | | | | opt 4096");
                assert_eq!(reply == cut, !fits, "{backend}, {size}, {round}: {reply}");
                assert!(reply.contains(&name), "{backend}, {size}, {round}: {reply}");
            }
            let whole = client.tcp(&query);
            let expected = format!("NOERROR qr rd ra | {name}. TXT | 300 TXT (");
            assert!(whole.starts_with(&expected), "{backend}, {size}: {whole}");
        }
    }
}

#[test]
fn replies_are_never_fragmented() {
    let Some(lab) = lab("replies_are_never_fragmented") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("max-udp-size = 4096");
    let ip = |arguments: &[&str]| {
        run(lab.on_server("ip").args(arguments)).unwrap();
    };
    {
        // Somewhere on the path, packets have to be smaller than on the interface.
        for client in ["10.53.0.2/32", "fd53::2/128"] {
            ip(&["route", "add", client, "dev", &lab.server_if, "mtu", "1280"]);
        }
        let heimdall = settings.on_sockets(&lab);
        whole_or_truncated(&lab, "sockets");
        let stats = heimdall.stats().unwrap();
        assert_eq!(stats["sockets"]["udp_send_failed"], 0);
        for client in ["10.53.0.2/32", "fd53::2/128"] {
            ip(&["route", "del", client, "dev", &lab.server_if]);
        }
    }
    ip(&["link", "set", &lab.server_if, "mtu", "1280"]);
    let heimdall = settings.on_xdp(&lab);
    whole_or_truncated(&lab, "AF_XDP");
    assert_eq!(heimdall.stats().unwrap()["sockets"]["udp_received"], 0);
    assert_eq!(fragments(&lab), 0);
}

#[test]
fn replies_too_large_for_the_path_among_others() {
    let Some(lab) = lab("replies_too_large_for_the_path_among_others") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let settings = Settings::new("max-udp-size = 4096");
    for client in ["10.53.0.2/32", "fd53::2/128"] {
        let route = ["route", "add", client, "dev", &lab.server_if, "mtu", "1280"];
        run(lab.on_server("ip").args(route)).unwrap();
    }
    let heimdall = settings.on_sockets(&lab);
    let askers = [DnsClient::v4(&lab), DnsClient::v6(&lab)];
    let sizes = [100, 2000, 1200, 600, 4000, 1232];
    let query = |size: usize| format!("len-{size}.example TXT rd edns=4096");
    for size in sizes {
        askers[0].udp(&query(size));
    }
    // They all wait when the server runs again: more than one batch.
    let burst = || sizes.iter().cycle().take(80).copied();
    heimdall.process.pause().unwrap();
    for size in burst() {
        for client in &askers {
            client.udp_send(&query(size));
        }
    }
    heimdall.process.signal(Signal::SIGCONT).unwrap();
    for size in burst() {
        for client in &askers {
            let reply = client.udp_reply(&query(size));
            let name = format!("len-{size}.example.");
            let cut = format!("NOERROR qr tc rd ra | {name} TXT | | | | opt 4096");
            assert_eq!(reply == cut, size > 1232, "{size}: {reply}");
            assert!(
                reply.contains(&format!("| {name} TXT |")),
                "{size}: {reply}"
            );
        }
    }
    let sockets = &heimdall.stats().unwrap()["sockets"];
    assert_eq!(sockets["udp_received"], 6 + 2 * 80);
    assert_eq!(sockets["udp_answered"], 6 + 2 * 80);
    assert_eq!(sockets["udp_send_failed"], 0);
    assert_eq!(fragments(&lab), 0);
}
