//! The size of packets: replies as large as MTU and frame allow, and packets that do not fit a frame.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use lab::{Frames, Heimdall, Lab, QueryFrame, ScriptedUpstream, UPSTREAM};
use serde_json::Value;

use crate::{lab, layers, program};

const TXT: u16 = 16;
/// Octets in front of the DNS message in an IP packet.
const HEADERS: [(bool, usize); 2] = [(false, 28), (true, 48)];
/// Room for an IP packet without tags in a frame of 4 KiB, behind XDP's headroom and the Ethernet header.
const ROOM: usize = 4096 - 256 - 14;

/// A client that takes replies of 4,096 octets.
struct Client<'a> {
    lab: &'a Lab,
    frames: Frames,
    asked: u16,
}

impl<'a> Client<'a> {
    fn new(lab: &'a Lab) -> Self {
        Self {
            lab,
            frames: Frames::open(lab).unwrap(),
            asked: 0,
        }
    }

    /// A query for a reply of so many octets.
    fn query(&mut self, v6: bool, len: usize) -> QueryFrame {
        self.asked += 1;
        QueryFrame {
            v6,
            id: self.asked,
            udp_size: Some(4096),
            ..QueryFrame::new(self.frames.macs, &format!("len-{len}.x"), TXT)
        }
    }

    /// Octets of the reply; `None`: it is truncated. What is in the socket of a worker that starts again is lost, so it asks
    /// three times.
    fn reply(&self, query: &QueryFrame) -> Option<usize> {
        let reply = (0..3).find_map(|_| self.frames.exchange(query).unwrap());
        let reply = reply.unwrap_or_else(|| panic!("no reply to {query:?}"));
        let is_truncated = reply[2] & 2 != 0;
        (!is_truncated).then_some(reply.len())
    }

    /// Whether a reply of so many octets is whole.
    fn is_whole(&mut self, v6: bool, len: usize) -> bool {
        let query = self.query(v6, len);
        let reply = self.reply(&query);
        assert!(reply.is_none_or(|octets| octets == len), "{reply:?}, {len}");
        reply.is_some()
    }

    fn set_mtu(&self, mtu: usize) {
        // The client first, which has to receive it.
        let client = format!("link set {} mtu {mtu}", self.lab.client_if);
        self.lab.client_ip(&client).unwrap();
        let server = format!("link set {} mtu {mtu}", self.lab.server_if);
        self.lab.server_ip(&server).unwrap();
    }
}

/// A server whose replies may have 4,096 octets.
fn start(lab: &Lab) -> Heimdall {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "max-udp-size = 4096\n").unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = ["--upstream", UPSTREAM, "--config", path];
    Heimdall::on_xdp(lab, program(), &arguments).unwrap()
}

fn of_interface(stats: &Value, what: &str) -> Value {
    stats["interfaces"][0][what].clone()
}

#[test]
fn replies_are_whole_up_to_what_mtu_and_frame_hold_while_the_mtu_changes() {
    let Some(lab) = lab("replies_are_whole_up_to_what_mtu") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = start(&lab);
    let mut client = Client::new(&lab);
    for mtu in [
        1500, 1770, 1771, 3818, 9000, 1770, 9000, 3826, 3827, 1771, 1500,
    ] {
        client.set_mtu(mtu);
        let largest = mtu.min(ROOM);
        let end = Instant::now() + Duration::from_secs(20);
        let [(v6, headers), _] = HEADERS;
        while !client.is_whole(v6, largest - headers) || client.is_whole(v6, largest - headers + 1)
        {
            assert!(
                Instant::now() < end,
                "MTU {mtu}: {}",
                heimdall.process.output()
            );
            thread::sleep(Duration::from_millis(50));
        }
        for (v6, headers) in HEADERS {
            for len in [512, 1232, 1700, largest - headers - 1, largest - headers] {
                let expected = len + headers <= largest;
                assert_eq!(client.is_whole(v6, len), expected, "MTU {mtu}, {len}, {v6}");
            }
            for len in [largest - headers + 1, largest - headers + 2, 4096] {
                assert!(!client.is_whole(v6, len), "MTU {mtu}, {len}, {v6}");
            }
        }
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(of_interface(&stats, "attach"), "native");
    assert_eq!(stats["workers"][0]["frames"]["missing"], 0, "{stats:#}");
}

#[test]
fn replies_of_every_size_around_the_ends_of_frames_are_right() {
    let Some(lab) = lab("replies_of_every_size_around") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let mut client = Client::new(&lab);
    for mtu in [1770, 9000] {
        client.set_mtu(mtu);
        let heimdall = start(&lab);
        assert_eq!(of_interface(&heimdall.stats().unwrap(), "attach"), "native");
        for (v6, headers) in HEADERS {
            // Beside its MTU a veth carries one tag.
            let one_more = (mtu > ROOM).then(|| vec![[0x88, 0xa8], [0x81, 0]]);
            for tags in [vec![], vec![[0x81, 0]]].into_iter().chain(one_more) {
                // A tag takes room in the frame, and none of the MTU.
                let largest = mtu.min(ROOM - 4 * tags.len()) - headers;
                for len in (1700..=1800).chain(3700..=3900) {
                    let query = QueryFrame {
                        tags: tags.clone(),
                        ..client.query(v6, len)
                    };
                    let expected = (len <= largest).then_some(len);
                    let what = format!("MTU {mtu}, {len}, IPv6: {v6}, {} tags", tags.len());
                    assert_eq!(client.reply(&query), expected, "{what}");
                }
            }
        }
        let stats = heimdall.stats().unwrap();
        assert_eq!(stats["sockets"]["udp_received"], 0, "{stats:#}");
    }
}

#[test]
fn packets_that_do_not_fit_a_frame_are_answered_by_the_sockets() {
    let Some(lab) = lab("packets_that_do_not_fit_a_frame") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let mut client = Client::new(&lab);
    client.set_mtu(9000);
    let heimdall = start(&lab);
    // Of 4,000 octets and more it has two buffers on a veth, and of 8,000 three.
    let lengths = [100, 1792, 1793, 3000, 4000, 8000, 9000];
    for (number, len) in lengths.into_iter().enumerate() {
        for (v6, headers) in HEADERS {
            // Each name is asked for once, so the hot tier has none.
            let octets = 200 + 50 * number + headers;
            let query = QueryFrame {
                padded_to: len,
                ..client.query(v6, octets)
            };
            assert_eq!(client.reply(&query), Some(octets), "{len}");
        }
    }
    let stats = heimdall.stats().unwrap();
    let verdicts = of_interface(&stats, "verdicts");
    let too_long = 2 * lengths.iter().filter(|len| **len > 1792).count();
    assert_eq!(verdicts["too_long"], too_long, "{verdicts:#}");
    assert_eq!(stats["sockets"]["udp_received"], too_long, "{stats:#}");
    assert_eq!(
        verdicts["steered"],
        2 * lengths.len() - too_long,
        "{verdicts:#}"
    );
}

#[test]
fn the_hot_tier_answers_at_a_large_mtu() {
    let Some(lab) = lab("the_hot_tier_answers_at_a_large_mtu") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let mut client = Client::new(&lab);
    client.set_mtu(9000);
    let heimdall = start(&lab);
    let end = Instant::now() + Duration::from_secs(20);
    let mut query = client.query(false, 0);
    query.name = "popular.x".to_owned();
    query.qtype = 1;
    while of_interface(&heimdall.stats().unwrap(), "verdicts")["answered"] == 0 {
        assert!(Instant::now() < end, "{}", heimdall.process.output());
        for _ in 0..100 {
            assert!(client.reply(&query).is_some());
        }
    }
    // The same query, padded to a packet of several buffers.
    let verdict = |name| of_interface(&heimdall.stats().unwrap(), "verdicts")[name].as_u64();
    let before = verdict("answered");
    query.padded_to = 8000;
    assert!(client.reply(&query).is_some());
    assert_eq!(
        (verdict("answered"), verdict("too_long")),
        (before, Some(1))
    );
}

#[test]
fn frames_are_for_the_mtu_of_the_nic_whatever_that_of_a_link_on_it() {
    let Some(lab) = lab("frames_are_for_the_mtu_of_the_nic") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, layers::UPSTREAM).unwrap();
    let below = lab.server_if.as_str();
    for command in [
        &format!("link add mv0 link {below} type macvlan mode bridge"),
        "addr add 10.60.0.1/24 dev mv0",
        "link set mv0 up",
    ] {
        lab.server_ip(command).unwrap();
    }
    lab.client_ip(&format!("addr add 10.60.0.2/24 dev {}", lab.client_if))
        .unwrap();
    let heimdall = layers::serve(&lab, &["mv0"], &["0.0.0.0:53"]);
    // The macvlan's stays at 1500.
    Client::new(&lab).set_mtu(9000);
    let resized = || {
        let log = heimdall.process.output();
        log.matches("frames of 4096 octets from now on").count()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while resized() == 0 {
        assert!(Instant::now() < end, "{}", heimdall.process.output());
        thread::sleep(Duration::from_millis(50));
    }
    layers::wait_steered(&lab, &heimdall, "10.60.0.1", below);
    // After each of these all interfaces are looked at.
    for change in ["add", "del", "add", "del"] {
        let command = format!("addr {change} 10.61.0.1/24 dev lo");
        lab.server_ip(&command).unwrap();
        thread::sleep(Duration::from_millis(200));
    }
    layers::wait_steered(&lab, &heimdall, "10.60.0.1", below);
    assert_eq!(resized(), 1, "{}", heimdall.process.output());
}
