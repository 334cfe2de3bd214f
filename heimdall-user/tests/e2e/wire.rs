//! Replies of every length and with every framing, checked by an independent dissector.

use std::time::Duration;

use lab::{Frames, Heimdall, Process, QueryFrame, ScriptedUpstream, run, sum};
use nix::sys::signal::Signal;

use crate::{lab, program};

const UPSTREAM: &str = "127.0.0.1:5303";

/// The shortest reply repeats a question for the root and no more.
const ROOT: u16 = 17;
/// From this length on a TXT record fills the reply; below, the name in the question does.
const SHORTEST_TEXT: u16 = 54;
/// The EDNS limit.
const LONGEST: u16 = 1232;

/// Every length that a reply can have. No name is two octets long, so no reply is 18.
fn lengths() -> impl Iterator<Item = u16> {
    std::iter::once(ROOT).chain(ROOT + 2..=LONGEST)
}

/// A question for TXT whose reply has this length.
fn question(macs: [u8; 12], len: u16) -> QueryFrame {
    let (name, udp_size) = match len {
        ROOT => (".".to_owned(), None),
        ..SHORTEST_TEXT => ("a".repeat(usize::from(len - ROOT - 1)), None),
        _ => (format!("len-{len}.x"), Some(LONGEST)),
    };
    QueryFrame {
        id: len,
        port: 20_000 + len,
        udp_size,
        ..QueryFrame::new(macs, &name, 16)
    }
}

#[test]
fn a_dissector_finds_nothing_wrong_with_any_reply() {
    let Some(lab) = lab("a_dissector_finds_nothing_wrong") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall =
        Heimdall::on_xdp(&lab, program(), &["--upstream", UPSTREAM, "--tier", "off"]).unwrap();
    let frames = Frames::open(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    // tcpdump may drop its privileges before it opens the file.
    let capture = directory.path().join("replies.pcap");
    let mut tcpdump = Process::start(
        lab.on_client("tcpdump")
            .args([
                "-Z",
                "root",
                "-U",
                "--immediate-mode",
                "-B",
                "65536",
                "-s",
                "0",
                "-Q",
                "in",
                "-i",
                &lab.client_if,
                "-w",
            ])
            .arg(&capture),
    )
    .unwrap();
    tcpdump
        .wait_for("listening on", Duration::from_secs(10))
        .unwrap();

    let tag_sets: [Vec<[u8; 2]>; 3] = [vec![], vec![[0x81, 0]], vec![[0x88, 0xa8], [0x81, 0]]];
    let mut asked = 0u64;
    let mut ask = |query: QueryFrame| {
        for v6 in [false, true] {
            for tags in &tag_sets {
                for padded_to in [0, 120] {
                    let frame = QueryFrame {
                        v6,
                        tags: tags.clone(),
                        padded_to,
                        ..query.clone()
                    };
                    frames.send(&frame.bytes()).unwrap();
                    asked += 1;
                }
            }
        }
        asked
    };
    let mut sent = 0;
    for (i, name) in [".", "a"].into_iter().enumerate() {
        for udp_size in [None, Some(1232)] {
            sent = ask(QueryFrame {
                id: i as u16,
                udp_size,
                ..QueryFrame::new(frames.macs, name, 1)
            });
        }
    }
    for len in lengths() {
        sent = ask(question(frames.macs, len));
        // At a rate that an unoptimised build can follow.
        while sum(&heimdall.stats().unwrap(), "answered") + 500 < sent {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while sum(&heimdall.stats().unwrap(), "answered") < sent && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    tcpdump.signal(Signal::SIGINT).unwrap();
    tcpdump.wait(Duration::from_secs(10)).unwrap();

    let dissect = |filter: &str| -> Vec<String> {
        let mut tshark = std::process::Command::new("tshark");
        tshark
            .args([
                "-o",
                "ip.check_checksum:TRUE",
                "-o",
                "udp.check_checksum:TRUE",
                "-r",
            ])
            .arg(&capture);
        tshark.args([
            "-Y",
            filter,
            "-T",
            "fields",
            "-e",
            "frame.number",
            "-e",
            "dns.id",
            "-e",
            "udp.length",
        ]);
        run(&mut tshark)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let replies = dissect("dns.flags.response == 1 && udp.srcport == 53");
    assert_eq!(
        replies.len() as u64,
        sent,
        "{}\n{}",
        tcpdump.output(),
        heimdall.stats_text().unwrap()
    );
    let bad = dissect(
        "udp.srcport == 53 && (ip.checksum.status != 1 || udp.checksum.status != 1 || _ws.malformed || _ws.expert.severity >= error)",
    );
    let bad: Vec<_> = bad.into_iter().filter(|line| !line.is_empty()).collect();
    assert!(
        bad.is_empty(),
        "{} bad replies, such as {:?}",
        bad.len(),
        bad.first()
    );
    // Every length came, with all twelve framings.
    let texts = dissect("udp.srcport == 53 && dns.qry.type == 16");
    for len in lengths() {
        let of_len = texts
            .iter()
            .filter(|line| line.ends_with(&format!("\t{}", len + 8)))
            .count();
        assert_eq!(of_len, 12, "replies of {len} octets");
    }
    for (tags, count) in [("!vlan && !ieee8021ad", 1), ("vlan.id == 7", 2)] {
        let tagged = dissect(&format!("udp.srcport == 53 && {tags}")).len() as u64;
        assert_eq!(tagged, sent / 3 * count, "{tags}");
    }
}
