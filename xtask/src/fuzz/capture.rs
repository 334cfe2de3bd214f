//! The part of the corpus that comes from real traffic: what clients, Heimdall and an upstream send each
//! other in the lab, a snapshot, and the lines of the example configuration. Inputs with other names,
//! which are malformed on purpose, are kept as files.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{Heimdall, Kdig, Knot, Lab, Process, SERVER_V4, SERVER_V6, UPSTREAM};
use nix::sys::signal::Signal;

use crate::{setup, workspace};

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

/// Captures the inputs again.
pub(super) fn run(corpus: &Path) -> Result<()> {
    let lab = Lab::new()?;
    let _knot = Knot::upstream(&lab)?;
    let program = setup::build_heimdall()?;
    let directory = tempfile::tempdir()?;
    let snapshot = directory.path().join("snapshot").display().to_string();
    let arguments = ["--upstream", UPSTREAM, "--snapshot", &snapshot];
    let mut heimdall = Heimdall::on_xdp(&lab, &program, &arguments)?;
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
                &lab,
                &[&[server.as_str(), "+timeout=1"], &words[..]].concat(),
            );
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    for dump in &mut dumps {
        dump.signal(Signal::SIGINT)?;
        dump.wait(Duration::from_secs(10))?;
    }
    heimdall.process.signal(Signal::SIGTERM)?;
    heimdall.process.wait(Duration::from_secs(10))?;

    let seen = pcap(&outside)?;
    let upstream = pcap(&inside)?;
    let responses = upstream.iter().filter_map(|frame| message(frame));
    let responses =
        responses.filter(|message| message.get(2).is_some_and(|flags| flags & 0x80 != 0));
    write(corpus, "packet_view", "captured", seen.iter().cloned())?;
    let queries = seen.iter().filter_map(|frame| message(frame));
    write(corpus, "dns_view", "captured", queries)?;
    write(corpus, "upstream_answer", "captured", responses)?;
    snapshots(&corpus.join("snapshot"), &fs::read(&snapshot)?)?;
    configurations(corpus)
}

fn tcpdump(mut command: Command, interface: &str, file: &Path) -> Result<Process> {
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
    let magic = 0xa1b2_c3d4u32.to_ne_bytes();
    ensure!(
        octets.starts_with(&magic),
        "{} is no capture of this machine",
        file.display()
    );
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

/// Replaces a target's inputs whose names begin with `name` by at most 200 of these; those that differ
/// in their ID alone are written once.
fn write(
    corpus: &Path,
    target: &str,
    name: &str,
    inputs: impl Iterator<Item = Vec<u8>>,
) -> Result<()> {
    let directory = corpus.join(target);
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(name) {
            fs::remove_file(entry.path())?;
        }
    }
    let mut kinds = BTreeSet::new();
    let kind = |input: &Vec<u8>| {
        (
            input.len(),
            input.iter().map(|octet| u64::from(*octet)).sum::<u64>() / 64,
        )
    };
    let inputs = inputs.filter(|input| kinds.insert(kind(input)));
    for (number, input) in inputs.take(200).enumerate() {
        fs::write(directory.join(format!("{name}-{number:03}")), input)?;
    }
    Ok(())
}

/// A snapshot, and what a crash could leave of it: half of it, its first record, its header alone.
fn snapshots(directory: &Path, whole: &[u8]) -> Result<()> {
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
        fs::write(directory.join(name), octets)?;
    }
    Ok(())
}

/// The example configuration: as it is, with all that it has in comments, and line by line.
fn configurations(corpus: &Path) -> Result<()> {
    let example = fs::read_to_string(workspace().join("deploy/heimdall.toml"))?;
    let plain: Vec<&str> = example
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .map(|line| line.strip_prefix("#= ").unwrap_or(line))
        .collect();
    let all: Vec<&str> = example
        .lines()
        .map(|line| line.trim_start_matches("#= ").trim_start_matches("# "))
        .filter(|line| line.contains('=') || line.starts_with('['))
        .collect();
    for (name, lines) in [("example", &plain), ("everything", &all)] {
        fs::write(corpus.join("config").join(name), lines.join("\n") + "\n")?;
    }
    let lines = plain
        .iter()
        .map(|line| format!("upstream = [\"192.0.2.1\"]\n{line}\n"));
    write(corpus, "config", "line", lines.map(String::into_bytes))
}
