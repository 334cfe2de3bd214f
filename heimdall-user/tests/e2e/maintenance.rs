//! Maintenance of caches by workers that have nothing else to do.

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::{Received, ScriptedUpstream, UPSTREAM};

use crate::{
    asking::{Asker, Settings},
    lab,
};

#[test]
fn an_idle_worker_that_does_not_spin_flushes_at_once() {
    const NAMES: usize = 640;
    let Some(lab) = lab("an_idle_worker_flushes_at_once") else {
        return;
    };
    let answer = |query: &Received| {
        let query = &query.msg;
        let name = query[12..].iter().position(|octet| *octet == 0).unwrap();
        let mut reply = query[..12 + name + 1 + 4].to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x80]);
        reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1]);
        vec![reply]
    };
    let _upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, answer).unwrap();
    let heimdall = Settings::new("[xdp]\nspin-us = 0").on_xdp(&lab);
    let asker = Asker::v4(&lab);
    for number in 0..NAMES {
        let reply = asker.udp(&format!("n{number}.example A rd edns"));
        assert!(reply.starts_with("NOERROR "), "{reply}");
    }
    // The worker sleeps, and so it did after each step of a flush: 64 entries a second.
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    let output = heimdall.command(&["flush", "--zone", "example"]).unwrap();
    let took = begin.elapsed();
    let expected = format!("{} answers flushed\n", 2 * NAMES);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(took < Duration::from_secs(4), "{took:?}");
}
