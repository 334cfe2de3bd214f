//! What XDP leaves to the kernel is answered over sockets, from the address that was asked.

use xtask::lab::{Frames, Knot, QueryFrame, SERVER_V4};

use crate::{heimdall, lab};

/// Waits for the reply to a query with this ID and port; its source port.
fn reply(frames: &Frames, id: u16, port: u16) -> Option<u16> {
    // Some frames of our own and of the network's come in between.
    for _ in 0..50 {
        let frame = frames.receive()?;
        let u16_at = |at: usize| {
            frame
                .get(at..at + 2)
                .map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
        };
        let from_server =
            frame.get(26..30) == Some(&SERVER_V4.parse::<std::net::Ipv4Addr>().unwrap().octets());
        if from_server && u16_at(36) == Some(port) && u16_at(42) == Some(id) {
            assert_eq!(frame[44] & 0x80, 0x80, "a response");
            return u16_at(34);
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

    let query = QueryFrame {
        id: 77,
        port: 41_077,
        ..QueryFrame::new(frames.macs, "n7.example.com", 1)
    };
    for fragment in query.fragments() {
        frames.send(&fragment).unwrap();
    }
    assert_eq!(reply(&frames, 77, 41_077), Some(53), "in two fragments");

    // Router alert.
    let options = vec![0x94, 4, 0, 0];
    let query = QueryFrame {
        id: 78,
        port: 41_078,
        options,
        ..QueryFrame::new(frames.macs, "n8.example.com", 1)
    };
    frames.send(&query.bytes()).unwrap();
    assert_eq!(reply(&frames, 78, 41_078), Some(53), "with options");

    let query = QueryFrame {
        id: 79,
        port: 41_079,
        ..QueryFrame::new(frames.macs, "n9.example.com", 1)
    };
    frames.send(&query.bytes()).unwrap();
    assert_eq!(reply(&frames, 79, 41_079), Some(53), "plain");

    let stats = heimdall.stats().unwrap();
    let verdicts = &stats["interfaces"][0]["verdicts"];
    assert_eq!(
        (&verdicts["fragment"], &verdicts["ipv4_options"]),
        (&2.into(), &1.into())
    );
    assert_eq!(verdicts["steered"], 1);
    assert_eq!(stats["sockets"]["udp_answered"], 2);
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
    // The UDP checksum is left out, which IPv4 allows, so that only the DNS is wrong.
    let send = |id: u16, port: u16, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = QueryFrame {
            id,
            port,
            ..base.clone()
        }
        .bytes();
        frame[sum_at..sum_at + 2].fill(0);
        edit(&mut frame);
        frames.send(&frame).unwrap();
    };
    send(1, 41_001, &|frame| frame[dns + 2] = 0x28);
    assert!(
        reply(&frames, 1, 41_001).is_some(),
        "another opcode: NOTIMP"
    );
    send(2, 41_002, &|frame| frame[dns + 12] = 0xc0);
    assert!(
        reply(&frames, 2, 41_002).is_some(),
        "a pointer as name: FORMERR"
    );
    send(3, 41_003, &|frame| frame[dns + 5] = 2);
    assert!(
        reply(&frames, 3, 41_003).is_some(),
        "two questions: FORMERR"
    );
    send(4, 53, &|frame| frame[dns + 5] = 2);
    assert!(reply(&frames, 4, 53).is_none(), "no error to port 53");
    send(5, 41_005, &|frame| frame[sum_at] = 0x55);
    assert!(reply(&frames, 5, 41_005).is_none(), "a wrong checksum");
    send(6, 0, &|_| {});
    assert!(reply(&frames, 6, 0).is_none(), "source port 0");
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
