//! Maintenance of caches by workers that have nothing else to do.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use lab::{Heimdall, Received, ScriptedUpstream, UPSTREAM};

use crate::{client::DnsClient, heimdall, lab};

/// The response to a query whose only question is at offset 12: one record, with the owner name's
/// pointer to the question.
fn response(query: &Received, rtype: u8, rdata: &[u8]) -> Vec<u8> {
    let query = &query.msg;
    let name = query[12..].iter().position(|octet| *octet == 0).unwrap();
    let mut response = query[..12 + name + 1 + 4].to_vec();
    response[2..4].copy_from_slice(&[0x81, 0x80]);
    response[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    response.extend_from_slice(&[0xc0, 12, 0, rtype, 0, 1, 0, 0, 14, 16]);
    response.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
    response.extend_from_slice(rdata);
    response
}

/// Has the answers for `n0.example` to `n{names - 1}.example` cached by the worker and the forwarder.
fn fill(client: &DnsClient<'_>, names: usize, rtype: &str) {
    for number in 0..names {
        let reply = client.udp(&format!("n{number}.example {rtype} rd edns"));
        assert!(reply.starts_with("NOERROR "), "{reply}");
    }
}

#[test]
fn an_idle_worker_flushes_at_once() {
    const NAMES: usize = 640;
    let Some(lab) = lab("an_idle_worker_flushes_at_once") else {
        return;
    };
    let answer = |query: &Received| vec![response(query, 1, &[192, 0, 2, 1])];
    let _upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, answer).unwrap();
    let heimdall = heimdall(&lab);
    fill(&DnsClient::v4(&lab), NAMES, "A");
    // The worker sleeps, and so it did after each step of a flush: 64 entries a second.
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    let output = heimdall.command(&["flush", "--zone", "example"]).unwrap();
    let took = begin.elapsed();
    let expected = format!("{} answers flushed\n", 2 * NAMES);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(took < Duration::from_secs(8), "{took:?}");
}

/// The number of times that the worker went to sleep.
fn sleeps(heimdall: &Heimdall) -> u64 {
    heimdall.stats().unwrap()["workers"][0]["sleeps"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_worker_sleeps_and_answers_while_a_dump_is_not_read() {
    /// With a kilobyte each, many times the octets of the chunks and the socket's buffer.
    const NAMES: usize = 3000;
    /// While the server waits for the reader, for half a second or longer, the worker sleeps for a
    /// millisecond each time. A worker that spins meanwhile sleeps twice.
    const SLEEPS: u64 = 25;
    let Some(lab) = lab("a_worker_sleeps_while_a_dump_is_not_read") else {
        return;
    };
    // Strings of 254 octets.
    let text = [&[254][..], &[b'x'; 254]].concat().repeat(4);
    let answer = move |query: &Received| vec![response(query, 16, &text)];
    let _upstream = ScriptedUpstream::with_script(&lab, UPSTREAM, answer).unwrap();
    let heimdall = heimdall(&lab);
    let client = DnsClient::v4(&lab);
    fill(&client, NAMES, "TXT");

    let mut dump = UnixStream::connect(heimdall.control()).unwrap();
    dump.write_all(b"{\"command\":\"dump\",\"all\":true}\n")
        .unwrap();
    // The worker's cache is the last one.
    let mut dump = BufReader::new(dump);
    let worker = "\"cache\":\"worker-0\"";
    let mut line = String::new();
    while !line.contains(worker) {
        line.clear();
        assert_ne!(dump.read_line(&mut line).unwrap(), 0, "no {worker}");
    }
    let before = sleeps(&heimdall);
    for _ in 0..5 {
        assert!(client.udp("n7.example TXT rd edns").starts_with("NOERROR "));
    }
    // Until the server has closed the connection: it waits half a second, twice if it wrote a part.
    thread::sleep(Duration::from_secs(3));
    let slept = sleeps(&heimdall) - before;
    assert!(slept >= SLEEPS, "{slept}");
    let mut rest = Vec::new();
    let _ = dump.read_to_end(&mut rest);
    assert!(
        !String::from_utf8_lossy(&rest).contains("\"entries\""),
        "the dump ended early"
    );
}
