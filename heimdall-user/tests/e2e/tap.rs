//! dnstap, read by programs that others wrote, the query log, and the popular names.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use lab::{CLIENT_V4, Disk, Heimdall, Lab, Process, ScriptedUpstream, UPSTREAM, run};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::{DnsClient, Settings, query},
    heimdall_without_tier, lab, program,
    recover::{TIMEOUT, wait_for},
};

const QUERY: &str = "www.example A rd edns";
const ANSWER: &str = "NOERROR qr rd ra | www.example. A | 300 A 192.0.2.1 | | | opt 1232";
const CONTENT: &str = "protobuf:dnstap.Dnstap";

/// A directory, and paths in it.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A reader that writes to a file what it is sent.
fn capture(socket: &Path, file: &Path) -> Process {
    let mut command = Command::new("fstrm_capture");
    command
        .args(["-t", CONTENT, "-u"])
        .arg(socket)
        .arg("-w")
        .arg(file);
    let mut reader = Process::start(&mut command).unwrap();
    reader.wait_for("opened output file", TIMEOUT).unwrap();
    reader
}

/// Ends a reader, which completes its file.
fn end(mut reader: Process) {
    reader.signal(Signal::SIGTERM).unwrap();
    reader.wait(TIMEOUT).unwrap();
}

/// What dnstap-ldns shows of a file: a line a message.
fn messages(file: &Path) -> Vec<String> {
    let mut command = Command::new("dnstap-ldns");
    let text = run(command.args(["-q", "-r"]).arg(file)).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Waits until this is a count of an output.
fn wait_for_count(heimdall: &Heimdall, output: &str, count: &str, at_least: u64) -> Value {
    wait_for(heimdall, count, |stats| {
        stats[output][count].as_u64() >= Some(at_least)
    })
}

fn dnstap(lab: &Lab, socket: &Path, more: &str) -> Heimdall {
    let settings = Settings::new(&format!(
        "[identity]\nserver-id = \"ams-1\"\n[dnstap]\noutput = \"unix:{}\"\nsample = \"1/1\"\n{more}",
        socket.display()
    ));
    settings.on_xdp(lab)
}

#[test]
fn dnstap_is_read_by_a_program_that_others_wrote() {
    let Some(lab) = lab("dnstap_is_read") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let files = Files::new();
    let (socket, file) = (files.path("socket"), files.path("captured"));
    let reader = capture(&socket, &file);
    let heimdall = dnstap(&lab, &socket, "");
    wait_for(&heimdall, "connected", |stats| {
        stats["dnstap"]["state"] == "open"
    });
    let (v4, v6) = (DnsClient::v4(&lab), DnsClient::v6(&lab));
    // A miss on the worker, a hit there, and one of the sockets.
    assert_eq!(v4.udp(QUERY), ANSWER);
    assert_eq!(v6.udp(QUERY), ANSWER);
    assert_eq!(v4.tcp(QUERY), ANSWER);
    let stats = wait_for_count(&heimdall, "dnstap", "written", 8);
    assert_eq!(stats["dnstap"]["dropped"], 0);
    drop(heimdall);
    end(reader);
    let messages = messages(&file);
    let with = |parts: &[&str]| {
        let all = |line: &&String| parts.iter().all(|part| line.contains(part));
        messages.iter().filter(all).count()
    };
    let name = "\"www.example.\" IN A";
    for (parts, count) in [
        (&["CQ", CLIENT_V4, "UDP"][..], 1),
        (&["CR", CLIENT_V4, "UDP"], 1),
        (&["CQ", "fd53::2", "UDP"], 1),
        (&["CR", "fd53::2", "UDP"], 1),
        (&["CQ", CLIENT_V4, "TCP"], 1),
        (&["CR", CLIENT_V4, "TCP"], 1),
        (&["FQ", "127.0.0.1", "UDP"], 1),
        (&["FR", "127.0.0.1", "UDP"], 1),
        (&[name], 8),
    ] {
        assert_eq!(with(parts), count, "{parts:?} in {messages:#?}");
    }
    let yaml = run(Command::new("dnstap-ldns").arg("-y").arg("-r").arg(&file)).unwrap();
    assert!(yaml.contains("identity: \"ams-1\""), "{yaml}");
    assert!(yaml.contains("192.0.2.1"), "the records: {yaml}");
    // Every message can be read.
    let frames = run(Command::new("fstrm_dump").arg(&file)).unwrap();
    assert_eq!(
        frames
            .lines()
            .filter(|line| line.starts_with(" \""))
            .count(),
        8,
        "{frames}"
    );
}

#[test]
fn a_dnstap_file_is_a_whole_stream_and_an_old_one_is_kept() {
    let Some(lab) = lab("a_dnstap_file") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let files = Files::new();
    let file = files.path("stream");
    let settings = Settings::new(&format!(
        "[dnstap]\noutput = \"file:{}\"\nsample = \"1/1\"\nmessages = [\"client-response\"]",
        file.display()
    ));
    for queries in [2, 1] {
        let heimdall = settings.on_sockets(&lab);
        for _ in 0..queries {
            assert_eq!(DnsClient::v4(&lab).udp(QUERY), ANSWER);
        }
        // It writes what it has when it stops.
        drop(heimdall);
        let messages = messages(&file);
        assert_eq!(messages.len(), queries, "{messages:#?}");
        assert!(
            messages.iter().all(|line| line.contains(" CR ")),
            "{messages:#?}"
        );
    }
    assert_eq!(messages(&files.path("stream.old")).len(), 2);
}

#[test]
fn a_reader_that_is_gone_is_found_again_when_it_is_back() {
    let Some(lab) = lab("a_reader_that_is_gone") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let files = Files::new();
    let socket = files.path("socket");
    let heimdall = dnstap(&lab, &socket, "messages = [\"client-query\"]");
    let client = DnsClient::v4(&lab);
    let mut dropped = 0;
    for round in 0..3 {
        // Without a reader.
        assert_eq!(client.udp(QUERY), ANSWER);
        dropped += 1;
        let stats = wait_for_count(&heimdall, "dnstap", "dropped", dropped);
        assert_eq!(
            (&stats["dnstap"]["state"], &stats["dnstap"]["dropped"]),
            (&"waiting".into(), &dropped.into())
        );
        let file = files.path(&format!("captured{round}"));
        let reader = capture(&socket, &file);
        wait_for(&heimdall, "connected", |stats| {
            stats["dnstap"]["state"] == "open"
        });
        assert_eq!(client.udp(QUERY), ANSWER);
        wait_for_count(&heimdall, "dnstap", "written", round + 1);
        if round == 1 {
            // Killed: its file is not complete.
            reader.signal(Signal::SIGKILL).unwrap();
            drop(reader);
        } else {
            end(reader);
            assert_eq!(messages(&file).len(), 1);
        }
        wait_for(&heimdall, "alone", |stats| {
            stats["dnstap"]["state"] == "waiting"
        });
    }
    let log = heimdall.process.output();
    // Once for each time, not once a second.
    assert_eq!(log.matches("dnstap to ").count(), 7, "{log}");
}

#[test]
fn a_reader_that_does_not_read_delays_nobody() {
    let Some(lab) = lab("a_reader_that_does_not_read") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let files = Files::new();
    let socket = files.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let accepting = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // READY; ACCEPT with any content.
        stream.read_exact(&mut [0; 42]).unwrap();
        stream.write_all(b"\0\0\0\0\0\0\0\x04\0\0\0\x01").unwrap();
        stream
    });
    let mut heimdall = dnstap(&lab, &socket, "");
    let _stream: UnixStream = accepting.join().unwrap();
    wait_for(&heimdall, "connected", |stats| {
        stats["dnstap"]["state"] == "open"
    });
    let client = DnsClient::v4(&lab);
    assert_eq!(client.udp(QUERY), ANSWER);
    let octets = query(7, "www.example");
    let mut asked = 0;
    let end = Instant::now() + 3 * TIMEOUT;
    loop {
        for _ in 0..500 {
            // Each is answered, whatever becomes of its frames.
            assert!(client.udp_octets(&octets, TIMEOUT).is_some());
        }
        asked += 500;
        let stats = heimdall.stats().unwrap();
        if stats["dnstap"]["dropped"].as_u64() > Some(0) {
            assert_eq!(stats["dnstap"]["state"], "open");
            break;
        }
        assert!(
            Instant::now() < end,
            "{asked} queries fill no buffer: {}",
            stats["dnstap"]
        );
    }
    heimdall.process.signal(Signal::SIGTERM).unwrap();
    let status = heimdall.process.wait(TIMEOUT).unwrap();
    assert!(status.success(), "{}", heimdall.process.output());
}

#[test]
fn a_full_disk_costs_lines_of_the_query_log_and_nothing_else() {
    let Some(lab) = lab("a_full_disk") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let disk = Disk::new("16k").unwrap();
    let log = disk.path("log");
    let settings = Settings::new(&format!("[query-log]\nsample = \"1/1\"\nfile = {log:?}"));
    let heimdall = settings.on_sockets(&lab);
    let client = DnsClient::v4(&lab);
    assert_eq!(client.udp(QUERY), ANSWER);
    let octets = query(7, "www.example");
    let end = Instant::now() + 3 * TIMEOUT;
    while heimdall.stats().unwrap()["query_log"]["dropped"] == 0 {
        for _ in 0..500 {
            assert!(client.udp_octets(&octets, TIMEOUT).is_some());
        }
        assert!(Instant::now() < end);
    }
    let stats = heimdall.stats().unwrap();
    assert_eq!(stats["query_log"]["state"], "waiting");
    let reason = stats["query_log"]["reason"].as_str().unwrap();
    assert!(reason.contains("No space left"), "{reason}");
    // Room again: lines follow, each whole.
    disk.resize("4m").unwrap();
    let stats = wait_for(&heimdall, "written", |stats| {
        stats["query_log"]["state"] == "open"
    });
    let written = stats["query_log"]["written"].as_u64().unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count() as u64, written);
    for line in text.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(line["name"], "www.example.");
    }
    let output = heimdall.process.output();
    assert_eq!(output.matches("No space left").count(), 1, "{output}");
}

#[test]
fn queries_are_logged_with_what_they_got() {
    let Some(lab) = lab("queries_are_logged") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    let heimdall = Heimdall::on_xdp(
        &lab,
        program(),
        &["--upstream", UPSTREAM, "--log-queries", "1/1"],
    )
    .unwrap();
    let client = DnsClient::v4(&lab);
    assert_eq!(client.udp(QUERY), ANSWER);
    assert_eq!(client.udp(QUERY), ANSWER);
    client.udp("localhost A rd");
    client.tcp("www.example AXFR rd");
    client.udp_in_vain("www.example A qr");
    wait_for_count(&heimdall, "query_log", "written", 5);
    let output = heimdall.process.output();
    let lines: Vec<Value> = output
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let got: Vec<_> = ["how", "protocol", "name", "type", "rcode"]
        .map(|field| {
            lines
                .iter()
                .map(|line| line[field].as_str().unwrap_or("null"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .into();
    // The sockets' line may be anywhere.
    let count =
        |field: usize, word: &str| got[field].split(' ').filter(|other| *other == word).count();
    for (field, word, times) in [
        (0, "miss", 1),
        (0, "hit", 1),
        (0, "local", 1),
        (0, "server", 1),
        (0, "dropped", 1),
        (1, "tcp", 1),
        (2, "localhost.", 1),
        (2, "www.example.", 4),
        (3, "AXFR", 1),
        (4, "NOERROR", 3),
        (4, "null", 1),
    ] {
        assert_eq!(count(field, word), times, "{word}: {got:#?}");
    }
    for line in &lines {
        assert_eq!(line["client"], CLIENT_V4);
        assert_eq!(line["port"].is_null(), line["protocol"] == "tcp");
        assert_eq!(line["latency_us"].is_null(), line["how"] == "dropped");
    }
}

#[test]
fn popular_names_types_and_clients_are_in_the_statistics() {
    let Some(lab) = lab("popular_names") else {
        return;
    };
    let _upstream = ScriptedUpstream::start(&lab, UPSTREAM).unwrap();
    // Clients are known only of what workers answer.
    let heimdall = heimdall_without_tier(&lab);
    let client = DnsClient::v4(&lab);
    let often = query(1, "WWW.example");
    for number in 0..4000 {
        assert!(client.udp_octets(&often, TIMEOUT).is_some());
        if number % 4 == 0 {
            let seldom = query(2, &format!("n{number}.example"));
            assert!(client.udp_octets(&seldom, TIMEOUT).is_some());
        }
    }
    let stats = wait_for(&heimdall, "sampled", |stats| {
        stats["popular"]["sampled"].as_u64() > Some(8)
    });
    let popular = &stats["popular"];
    assert_eq!(popular["names"][0]["name"], "www.example.");
    let count = popular["names"][0]["count"].as_u64().unwrap();
    assert!((500..12_000).contains(&count), "{popular}");
    assert_eq!(popular["types"][0]["name"], "A");
    assert_eq!(popular["clients"][0]["name"], CLIENT_V4);
    assert_eq!(popular["clients"].as_array().unwrap().len(), 1);
}
