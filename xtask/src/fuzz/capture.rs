//! The corpus, from real traffic: what clients, Heimdall and an upstream say to each other in the
//! lab, and frames and messages that are wrong on purpose.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use crate::workspace;
use anyhow::{Context, Result, bail};
use lab::{Frames, Heimdall, Kdig, Knot, Lab, Process, QueryFrame, SERVER_V4, SERVER_V6, UPSTREAM};
use nix::sys::signal::Signal;

use crate::setup;

/// Questions as kdig takes them.
const QUESTIONS: &[&str] = &[
    "example.com A",
    "example.com AAAA +dnssec",
    "example.com MX +edns +bufsize=512",
    "www.example.com A +cookie",
    "text.example.com TXT +nsid",
    "_dns._udp.example.com SRV +subnet=192.0.2.0/24",
    "big.example.com TXT +bufsize=4096 +ignore",
    "nowhere.example.com A +padding=64",
    "n1.example.com TYPE65280 +edns=1",
    "n2.example.com ANY +cd +ad",
    "example.com AXFR +notcp",
    "version.bind TXT CH +norec",
    "id.server TXT CH +nsid",
    ". NS +dnssec +cookie=1122334455667788",
    "1.0.18.198.in-addr.arpa PTR",
    "eXaMpLe.CoM A +norec",
];

fn capture(lab: &Lab, corpus: &Path) -> Result<()> {
    let _knot = Knot::upstream(lab)?;
    let program = setup::build_heimdall()?;
    let directory = tempfile::tempdir()?;
    let snapshot = directory.path().join("snapshot").display().to_string();
    let arguments = ["--upstream", UPSTREAM, "--snapshot", &snapshot];
    let mut heimdall = Heimdall::on_xdp(lab, &program, &arguments)?;
    let (outside, inside) = (directory.path().join("veth"), directory.path().join("lo"));
    let mut dumps = [
        tcpdump(lab.on_client("tcpdump"), &lab.client_if, &outside)?,
        tcpdump(lab.on_server("tcpdump"), "lo", &inside)?,
    ];
    for question in QUESTIONS {
        for server in [SERVER_V4, SERVER_V6] {
            let server = format!("@{server}");
            let words: Vec<&str> = question.split(' ').collect();
            // Not all are answered.
            let _ = Kdig::ask(
                lab,
                &[&[server.as_str(), "+timeout=1"], &words[..]].concat(),
            );
        }
    }
    let frames = Frames::open(lab)?;
    for (_, frame) in named_frames(&frames) {
        frames.send(&frame)?;
    }
    std::thread::sleep(Duration::from_millis(500));
    for dump in &mut dumps {
        dump.signal(Signal::SIGINT)?;
        dump.wait(Duration::from_secs(10))?;
    }
    heimdall.process.signal(Signal::SIGTERM)?;
    heimdall.process.wait(Duration::from_secs(10))?;
    snapshots(corpus, &fs::read(&snapshot)?)?;
    let seen = pcap(&outside)?;
    let responses: Vec<Vec<u8>> = pcap(&inside)?
        .iter()
        .filter_map(|frame| message(frame))
        .filter(|message| message.get(2).is_some_and(|flags| flags & 0x80 != 0))
        .collect();
    let queries: Vec<Vec<u8>> = seen.iter().filter_map(|frame| message(frame)).collect();
    write(corpus, "packet_view", "captured", &seen)?;
    write(corpus, "dns_view", "captured", &queries)?;
    write(corpus, "upstream_answer", "captured", &responses)?;
    for (name, frame) in named_frames(&frames) {
        fs::write(corpus.join("packet_view").join(name), frame)?;
    }
    for (name, message) in named_messages() {
        fs::write(corpus.join("dns_view").join(name), &message)?;
    }
    for (name, response) in named_responses() {
        fs::write(corpus.join("upstream_answer").join(name), response)?;
    }
    texts(corpus)
}

/// Makes the whole corpus anew.
pub(super) fn run(corpus: &Path) -> Result<()> {
    for target in super::TARGETS {
        let directory = corpus.join(target);
        // What is gone is no error.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
    }
    capture(&Lab::new()?, corpus)?;
    for target in super::TARGETS {
        let count = fs::read_dir(corpus.join(target))?.count();
        println!("{target}: {count} inputs");
    }
    Ok(())
}

fn tcpdump(mut command: std::process::Command, interface: &str, file: &Path) -> Result<Process> {
    command
        .args(["--immediate-mode", "-U", "-s", "0", "-i", interface, "-w"])
        .arg(file)
        .args(["udp", "or", "vlan"]);
    let mut dump = Process::start(&mut command)?;
    dump.wait_for("listening on", Duration::from_secs(10))?;
    Ok(dump)
}

/// The frames of a capture: a header of 24 octets, then each frame after 16 octets, of which 8 to 11
/// are its length (pcap-savefile(5)).
fn pcap(file: &Path) -> Result<Vec<Vec<u8>>> {
    let octets = fs::read(file)?;
    if octets.get(..4) != Some(&0xa1b2_c3d4u32.to_ne_bytes()) {
        bail!("{} is no capture of this machine", file.display());
    }
    let mut frames = Vec::new();
    let mut rest = octets.get(24..).context("a short capture")?;
    while let Some((head, after)) = rest.split_first_chunk::<16>() {
        let len = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some((frame, after)) = after.split_at_checked(len) else {
            break;
        };
        frames.push(frame.to_vec());
        rest = after;
    }
    Ok(frames)
}

/// The DNS message in a frame, if it holds a UDP packet without options.
fn message(frame: &[u8]) -> Option<Vec<u8>> {
    let at = match frame.get(12..14)? {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => return None,
    };
    Some(frame.get(at + 8..)?.to_vec()).filter(|message| !message.is_empty())
}

/// Writes each of the inputs once, at most 200 of them, and not those that only an ID tells apart.
fn write(corpus: &Path, target: &str, name: &str, inputs: &[Vec<u8>]) -> Result<()> {
    let mut lengths = BTreeSet::new();
    let mut number = 0;
    for input in inputs {
        if number < 200
            && lengths.insert((
                input.len(),
                input.iter().map(|o| u64::from(*o)).sum::<u64>() / 64,
            ))
        {
            fs::write(
                corpus.join(target).join(format!("{name}-{number:03}")),
                input,
            )?;
            number += 1;
        }
    }
    Ok(())
}

fn named_frames(frames: &Frames) -> Vec<(&'static str, Vec<u8>)> {
    let plain = QueryFrame::new(frames.macs, "n1.example.com", 1);
    let with = |change: &dyn Fn(&mut QueryFrame)| {
        let mut frame = plain.clone();
        change(&mut frame);
        frame.bytes()
    };
    let bytes = plain.bytes();
    let mut bad_sum = bytes.clone();
    bad_sum[40] ^= 1;
    let mut multicast = bytes.clone();
    multicast[26..30].copy_from_slice(&[224, 0, 0, 1]);
    let [first, second] = plain.fragments();
    vec![
        ("plain", bytes.clone()),
        ("ipv6", with(&|frame| frame.v6 = true)),
        ("vlan", with(&|frame| frame.tags = vec![[0x81, 0]])),
        (
            "qinq",
            with(&|frame| frame.tags = vec![[0x88, 0xa8], [0x81, 0]]),
        ),
        ("padded", with(&|frame| frame.padded_to = 120)),
        (
            "ip-options",
            with(&|frame| frame.options = vec![0x94, 4, 0, 0]),
        ),
        ("edns", with(&|frame| frame.udp_size = Some(1232))),
        ("root", QueryFrame::new(frames.macs, ".", 2).bytes()),
        ("fragment-first", first),
        ("fragment-second", second),
        ("runt", bytes[..30].to_vec()),
        ("bad-checksum", bad_sum),
        ("multicast-source", multicast),
    ]
}

/// A query for `a.`, with so many additional records and what follows.
fn query(additional: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![
        0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional, 1, b'a', 0, 0, 1, 0, 1,
    ];
    message.extend_from_slice(rest);
    message
}

fn opt(options: &[u8]) -> Vec<u8> {
    let len = (options.len() as u16).to_be_bytes();
    [&[0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0], &len[..], options].concat()
}

fn named_messages() -> Vec<(&'static str, Vec<u8>)> {
    let cookie = [&[0, 10, 0, 8][..], &[9; 8]].concat();
    let full = [&[0, 10, 0, 24][..], &[9; 24]].concat();
    let mut response = query(0, &[]);
    response[2] |= 0x80;
    let mut update = query(0, &[]);
    update[2] = 5 << 3;
    let mut two = query(0, &[1, b'b', 0, 0, 1, 0, 1]);
    two[5] = 2;
    let mut none = query(0, &[]);
    none[5] = 0;
    let mut pointer = query(0, &[]);
    pointer[12..14].copy_from_slice(&[0xc0, 12]);
    let bare = [&[0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &opt(&cookie)].concat();
    let labels = [&[62u8][..], &[b'x'; 62]].concat().repeat(4);
    let longest = [
        &[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
        &labels,
        &[1, b'y', 0, 0, 1, 0, 1],
    ]
    .concat();
    vec![
        ("runt", query(0, &[])[..11].to_vec()),
        ("response", response),
        ("update", update),
        ("two-questions", two),
        ("no-question", none),
        ("pointer-question", pointer),
        ("longest-name", longest),
        ("trailing", query(0, &[1, 2, 3])),
        ("cookie", query(1, &opt(&cookie))),
        ("cookie-full", query(1, &opt(&full))),
        ("cookie-short", query(1, &opt(&[0, 10, 0, 3, 1, 2, 3]))),
        ("cookie-only", bare),
        ("nsid", query(1, &opt(&[0, 3, 0, 0]))),
        ("ecs", query(1, &opt(&[0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]))),
        ("many-opt", query(3, &opt(&[]).repeat(3))),
        ("opt-cut", query(1, &opt(&[0, 10, 0, 9, 1]))),
        ("opt-owner", query(1, &[&[1, b'o'][..], &opt(&[])].concat())),
    ]
}

/// Responses to `www.example.com A` and to `a.`.
fn named_responses() -> Vec<(&'static str, Vec<u8>)> {
    let response = |flags: [u8; 2], counts: [u8; 3], records: &[u8]| {
        let [a, n, r] = counts;
        let mut message = vec![0, 7, flags[0], flags[1], 0, 1, 0, a, 0, n, 0, r];
        message.extend_from_slice(b"\x03www\x07example\x03com\0\0\x01\0\x01");
        message.extend_from_slice(records);
        message
    };
    let record = |owner: &[u8], rtype: u8, data: &[u8]| {
        let fixed = [0, rtype, 0, 1, 0, 0, 1, 44, 0, data.len() as u8];
        [owner, &fixed, data].concat()
    };
    let own: &[u8] = &[0xc0, 12];
    let address = record(own, 1, &[192, 0, 2, 1]);
    let signature = record(
        own,
        46,
        &[0, 1, 8, 3, 0, 0, 1, 44, 0, 0, 0, 9, 0, 0, 0, 1, 0, 7, 0, 1],
    );
    // Name and mailbox compressed.
    let soa = [&[0xc0, 16, 1, b'm', 0xc0, 16][..], &[0; 20]].concat();
    let soa = record(&[0xc0, 16], 6, &soa);
    let opt = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 6, 0, 15, 0, 2, 0, 6];
    let looped = record(&[0xc0, 33], 1, &[192, 0, 2, 1]);
    let alias = record(own, 5, &[1, b't', 0xc0, 16]);
    let foreign = [
        record(b"\x04bank\0", 1, &[192, 0, 2, 66]),
        address.clone(),
        record(own, 16, b"\x04text"),
        record(&[0xc0, 16], 2, b"\x02ns\xc0\x10"),
        record(b"\x04bank\0", 2, b"\x04evil\0"),
        record(b"\x02ns\xc0\x10", 1, &[192, 0, 2, 53]),
        record(b"\x04evil\0", 1, &[192, 0, 2, 66]),
    ];
    // Each points to the one before.
    let row: Vec<u8> = (0..20u8)
        .flat_map(|i| [0xc0, if i == 0 { 12 } else { 43 + 2 * i }])
        .collect();
    let row = [
        record(own, 99, &row),
        record(&[0xc0, 83], 1, &[192, 0, 2, 1]),
    ];
    vec![
        ("alias-alone", response([0x81, 0x80], [1, 0, 0], &alias)),
        (
            "alias-denied",
            response([0x81, 0x83], [1, 1, 0], &[&alias[..], &soa].concat()),
        ),
        (
            "alias-circle",
            response([0x81, 0x80], [1, 0, 0], &record(own, 5, own)),
        ),
        (
            "foreign",
            response([0x81, 0x80], [3, 2, 2], &foreign.concat()),
        ),
        (
            "twice",
            response([0x81, 0x80], [2, 0, 0], &address.repeat(2)),
        ),
        (
            "pointer-row",
            response([0x81, 0x80], [2, 0, 0], &row.concat()),
        ),
        (
            "short",
            response([0x81, 0x80], [1, 0, 0], &record(own, 1, &[192, 0, 2])),
        ),
        (
            "yxdomain",
            response(
                [0x81, 0x86],
                [1, 0, 0],
                &record(&[0xc0, 16], 39, b"\x04long\0"),
            ),
        ),
        ("address", response([0x81, 0x80], [1, 0, 0], &address)),
        (
            "signed",
            response(
                [0x81, 0xa0],
                [2, 0, 0],
                &[&address[..], &signature].concat(),
            ),
        ),
        ("nxdomain", response([0x81, 0x83], [0, 1, 0], &soa)),
        (
            "nodata",
            response([0x81, 0x80], [0, 1, 1], &[&soa[..], &opt].concat()),
        ),
        ("servfail-ede", response([0x81, 0x82], [0, 0, 1], &opt)),
        ("truncated", response([0x83, 0x80], [0, 0, 0], &[])),
        (
            "compression-loop",
            response([0x81, 0x80], [1, 0, 0], &looped),
        ),
        (
            "opt-first",
            response([0x81, 0x80], [0, 0, 2], &[&opt[..], &address].concat()),
        ),
        ("cut", response([0x81, 0x80], [1, 0, 0], &address[..9])),
    ]
}

/// A snapshot, and what could become of it: its start, its first record, its header alone.
fn snapshots(corpus: &Path, whole: &[u8]) -> Result<()> {
    let header = 64;
    let first = whole.get(header..header + 4).context("a record")?;
    let first = u32::from_le_bytes(first.try_into()?) as usize;
    for (name, len) in [
        ("whole", whole.len()),
        ("half", whole.len() / 2),
        ("one", header + first),
        ("none", header),
    ] {
        let octets = whole.get(..len).context("a whole record")?;
        fs::write(corpus.join("snapshot").join(name), octets)?;
    }
    Ok(())
}

/// Settings and lists: the example, and pieces of it.
fn texts(corpus: &Path) -> Result<()> {
    let example = fs::read_to_string(workspace().join("deploy/heimdall.toml"))?;
    let plain: String = example
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .flat_map(|line| [line.strip_prefix("#= ").unwrap_or(line), "\n"])
        .collect();
    let all: String = example
        .lines()
        .map(|line| line.trim_start_matches("#= ").trim_start_matches("# "))
        .filter(|line| line.contains('=') || line.starts_with('['))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (name, text) in [("example", &plain), ("everything", &all)] {
        fs::write(corpus.join("config").join(name), text)?;
    }
    for (number, line) in plain.lines().enumerate() {
        let text = format!("upstream = [\"192.0.2.1\"]\n{line}\n");
        fs::write(
            corpus.join("config").join(format!("line-{number:02}")),
            text,
        )?;
    }
    for (name, text) in [
        (
            "hosts",
            "127.0.0.1 localhost\n10.0.0.5 nas.lan nas # disks\nfd00::5 nas.lan\n",
        ),
        (
            "domains",
            "! list\nads.example\n*.tracker.example\n0.0.0.0 one.example two.example\n",
        ),
        (
            "records",
            "a.lan. 300 IN A 10.0.0.1\nb.lan. CNAME a.lan.\nc.lan. TXT \"x y\" z\n",
        ),
        (
            "types",
            "a.lan. MX 10 b.lan.\na.lan. HTTPS 1 . alpn=h2\na.lan. TYPE65280 \\# 2 0102\n",
        ),
    ] {
        fs::write(corpus.join("lists").join(name), text)?;
    }
    Ok(())
}
