//! `cargo xtask bench --tls`: DNS over TLS towards an upstream and towards clients, beside unbound and dnsdist.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use lab::{
    Authority, Certified, ClosedLoop, Heimdall, Lab, Process, Resolver, SERVER_V4, run,
    wait_for_answer,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{
    Cores, Sample,
    contestants::{DNSDIST, Programs, Server, UNBOUND},
    cpu::Meter,
    loads::{Closed, Names},
    report::{self, Median},
    turn::KEEPS_UP,
};
use crate::stop::Stop;

/// The name in all certificates.
const NAME: &str = "dns.example";

/// Where the upstream listens, in the server's namespace.
const UPSTREAM: &str = "127.0.0.1:853";

/// Those that are measured.
const CONTESTANTS: [Contestant; 3] = [
    Contestant::Heimdall,
    Contestant::Unbound,
    Contestant::Dnsdist,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Heimdall,
    Unbound,
    Dnsdist,
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Heimdall => "heimdall",
            Self::Unbound => "unbound",
            Self::Dnsdist => "dnsdist",
        }
    }

    /// Another server, with TLS towards both sides.
    fn resolver(self) -> Option<Resolver> {
        match self {
            Self::Heimdall => None,
            Self::Unbound => Some(Resolver {
                configuration: include_str!("peers/unbound-tls.conf"),
                ..UNBOUND
            }),
            Self::Dnsdist => Some(Resolver {
                configuration: include_str!("peers/dnsdist-tls.conf"),
                ..DNSDIST
            }),
        }
    }
}

/// What the upstream does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// It keeps them.
    Keeps,
    /// It closes each after one response, and resumes sessions.
    Resumes,
    /// It closes each after one response, and every handshake is a full one.
    Forgets,
}

impl Upstream {
    const ALL: [Self; 3] = [Self::Keeps, Self::Resumes, Self::Forgets];

    fn title(self) -> &'static str {
        match self {
            Self::Keeps => "Misses over TLS, 200 outstanding, connections that are kept",
            Self::Resumes => {
                "Misses over TLS, 16 outstanding, a connection for each, sessions resumed"
            }
            Self::Forgets => {
                "Misses over TLS, 16 outstanding, a connection for each, full handshakes"
            }
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Keeps => &[],
            Self::Resumes => &["--close"],
            Self::Forgets => &["--close", "--no-resumption"],
        }
    }
}

const FORWARDING: &[&str] = &[
    "answers/s",
    "lost %",
    "p50 ms",
    "p99",
    "connections an answer",
    "CPU µs an answer",
];

const QUERIES: &str = "Hits over TLS: 10 clients of dnsperf, each with a connection";
const QUERY_COLUMNS: &[&str] = &["answers/s", "lost %", "p50 ms", "p99", "CPU µs an answer"];

const HANDSHAKES: [(&str, bool); 2] = [
    (
        "Handshakes: 8 clients, a connection for each hit, full",
        false,
    ),
    (
        "Handshakes: 8 clients, a connection for each hit, resumed",
        true,
    ),
];
const HANDSHAKE_COLUMNS: &[&str] = &["handshakes/s", "resumed %", "CPU µs a handshake"];

/// Titles and columns of the tables.
fn tables() -> Vec<(&'static str, &'static [&'static str])> {
    let forwarding = Upstream::ALL.map(|upstream| (upstream.title(), FORWARDING));
    let handshakes = HANDSHAKES.map(|(title, _)| (title, HANDSHAKE_COLUMNS));
    [&forwarding[..], &[(QUERIES, QUERY_COLUMNS)], &handshakes].concat()
}

/// What all turns share.
pub(super) struct Rig<'a> {
    pub(super) programs: &'a Programs,
    pub(super) cores: &'a Cores,
    pub(super) names: &'a Names,
    pub(super) rounds: usize,
    pub(super) quick: bool,
    pub(super) stop: &'a Stop,
}

/// What a run gives, as it goes into the JSON file.
#[derive(Serialize)]
pub(super) struct Measured {
    machine: String,
    versions: BTreeMap<&'static str, String>,
    /// Of each contestant, the figures of each round.
    rounds: BTreeMap<&'static str, Vec<Sample>>,
}

impl Rig<'_> {
    /// Measures.
    pub(super) fn run(&self) -> Result<Measured> {
        let mut rounds: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for round in 1..=self.rounds {
            for who in CONTESTANTS {
                println!("round {round} of {}: {}", self.rounds, who.name());
                let mut sample = Sample::new();
                for upstream in Upstream::ALL {
                    self.stop.check()?;
                    if let Err(error) = self.turn(who, upstream, &mut sample) {
                        self.stop.check()?;
                        println!("  {}: left out: {error:#}", upstream.title());
                    }
                }
                rounds.entry(who.name()).or_default().push(sample);
            }
        }
        let versions = CONTESTANTS.map(|who| (who.name(), version(who)));
        Ok(Measured {
            machine: report::machine(),
            versions: versions.into(),
            rounds,
        })
    }

    /// A contestant's turn with one upstream. With the one that keeps connections, its clients over TLS are measured, too.
    fn turn(&self, who: Contestant, upstream: Upstream, sample: &mut Sample) -> Result<()> {
        let running = self.start(who, upstream)?;
        running.meter.settle()?;
        let (names, clients) = match upstream {
            Upstream::Keeps => (self.part(100_000)?, 200),
            Upstream::Resumes | Upstream::Forgets => (self.part(4_000)?, 16),
        };
        let values = self.forwarding(&running, &names.path, clients)?;
        record(sample, upstream.title(), FORWARDING, &values);
        if upstream == Upstream::Keeps {
            let names = self.part(10_000)?;
            // Those who serve TLS may have a cache of their own.
            self.queries(&running, &names.path, 2)?;
            let values = self.queries(&running, &names.path, self.seconds())?;
            record(sample, QUERIES, QUERY_COLUMNS, &values);
            for (title, resumes) in HANDSHAKES {
                self.stop.check()?;
                let values = self.handshakes(&running, resumes)?;
                record(sample, title, HANDSHAKE_COLUMNS, &values);
            }
        }
        Ok(())
    }

    fn seconds(&self) -> u64 {
        if self.quick { 2 } else { 5 }
    }

    /// So many names that are in no cache before; fewer if it has to be quick.
    fn part(&self, count: usize) -> Result<Part> {
        let count = if self.quick { count / 4 } else { count };
        let text = fs::read_to_string(&self.names.distinct)?;
        let lines: Vec<&str> = text.lines().take(count).collect();
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("names");
        fs::write(&path, lines.join("\n") + "\n")?;
        Ok(Part {
            path,
            _directory: directory,
        })
    }

    fn start(&self, who: Contestant, upstream: Upstream) -> Result<Running> {
        let lab = Lab::with_queues(self.cores.queues)?;
        lab.receive_xdp_tx()?;
        let authority = Authority::new();
        let certified = authority.issue(NAME);
        let files = tempfile::tempdir()?;
        write_files(&authority, &certified, files.path())?;
        let file = |name: &str| files.path().join(name).display().to_string();
        let pinned = |cores: &[usize], program: &Path| {
            let mut command = lab.on_server("taskset");
            command.args(["-c", &Cores::list(cores)]).arg(program);
            command
        };

        let mut responder = pinned(&self.cores.client, &self.programs.dot);
        responder.args(["respond", "--listen", UPSTREAM]);
        responder.args([
            "--certificate",
            &file("certificate.pem"),
            "--key",
            &file("key.pem"),
        ]);
        responder.args(upstream.options());
        let mut responder = Process::start(&mut responder)?;
        responder.wait_for("ready", Duration::from_secs(5))?;

        let server = match who.resolver() {
            Some(resolver) => {
                let command = pinned(&self.cores.server, Path::new(resolver.program));
                let prepare = |place: &Path| write_files(&authority, &certified, place);
                Server::Other(resolver.start_with(command, prepare)?)
            }
            None => {
                let settings = format!(
                    "upstream = [\"tls://{NAME}@{UPSTREAM}\"]\nlisten = [\"{SERVER_V4}:53\"]\n\
                     listen-tls = [\"{SERVER_V4}:853\"]\ninterface = [\"{}\"]\n\
                     [forward]\ntls-roots = \"{}\"\n\
                     [tls]\ncertificate = \"{}\"\nkey = \"{}\"\n[tier]\nmode = \"off\"\n",
                    lab.server_if,
                    file("roots.pem"),
                    file("certificate.pem"),
                    file("key.pem")
                );
                let config = file("heimdall.toml");
                fs::write(&config, settings)?;
                let program = &self.programs.heimdall;
                let command = pinned(&self.cores.server, program);
                let arguments = ["--backend", "xdp", "--config", &config];
                Server::Heimdall(Heimdall::start(command, program, &arguments)?)
            }
        };
        wait_for_answer(&lab, 53, server.process())
            .with_context(|| format!("{} does not start", who.name()))?;
        Ok(Running {
            meter: Meter {
                process: server.process().pid(),
                napi: Vec::new(),
                cores: self.cores.server.clone(),
            },
            _server: server,
            _upstream: responder,
            files,
            lab,
        })
    }

    /// Clients on AF_XDP ask for each name once, over UDP.
    fn forwarding(&self, running: &Running, names: &Path, clients: u32) -> Result<Vec<f64>> {
        let load = Closed {
            lab: &running.lab,
            cores: self.cores,
            names,
            clients,
            rate: None,
            seconds: 30,
            once: true,
        };
        let before = running.connections()?;
        let run = || load.on_xdp(&self.programs.clients);
        let (load, spent) = running.meter.during(run)?;
        let answers = (load.sent - load.lost).max(1) as f64;
        let mut values = closed(&load);
        values.push((running.connections()? - before) as f64 / answers);
        if answers >= KEEPS_UP * load.sent as f64 {
            values.push(1e6 * spent.process / answers);
        }
        Ok(values)
    }

    /// dnsperf asks over TLS.
    fn queries(&self, running: &Running, names: &Path, seconds: u64) -> Result<Vec<f64>> {
        let mut command = self.client(&running.lab, Path::new("dnsperf"));
        command.args(["-m", "dot", "-c", "10", "-q", "100", "-T", "1"]);
        let run = || ClosedLoop::ask(command, SERVER_V4, names, seconds);
        let (load, spent) = running.meter.during(run)?;
        let mut values = closed(&load);
        values.push(1e6 * spent.process / (load.sent - load.lost).max(1) as f64);
        Ok(values)
    }

    /// Clients connect, ask once and close.
    fn handshakes(&self, running: &Running, resumes: bool) -> Result<Vec<f64>> {
        /// What the program `dot` prints.
        #[derive(Deserialize)]
        struct Done {
            answers: u64,
            resumed: u64,
            seconds: f64,
        }
        let question = fs::read_to_string(&self.names.distinct)?;
        let question = question.split_whitespace().next();
        let mut command = self.client(&running.lab, &self.programs.dot);
        command.args(["handshakes", "--server", &format!("{SERVER_V4}:853")]);
        command.args(["--name", NAME, "--roots"]);
        command.arg(running.files.path().join("roots.pem"));
        command.args(["--seconds", &self.seconds().to_string(), "--question"]);
        command.arg(question.context("there are no names")?);
        if !resumes {
            command.arg("--no-resumption");
        }
        let (output, spent) = running.meter.during(|| run(&mut command))?;
        let done: Done = serde_json::from_str(&output)?;
        if done.answers == 0 {
            bail!("no handshake");
        }
        let count = done.answers as f64;
        Ok(vec![
            count / done.seconds,
            100.0 * done.resumed as f64 / count,
            1e6 * spent.process / count,
        ])
    }

    /// A command on the clients' cores.
    fn client(&self, lab: &Lab, program: &Path) -> Command {
        let mut command = lab.on_client("taskset");
        command.args(["-c", &Cores::list(&self.cores.client)]);
        command.arg(program);
        command
    }
}

/// Answers a second, the percentage lost, and latencies in milliseconds.
fn closed(load: &ClosedLoop) -> Vec<f64> {
    let [p50, p99, _] = load.percentiles.map(|seconds| 1e3 * seconds);
    let lost = 100.0 * load.lost as f64 / load.sent.max(1) as f64;
    vec![load.rate, lost, p50, p99]
}

fn write_files(authority: &Authority, certified: &Certified, place: &Path) -> std::io::Result<()> {
    certified.write(place)?;
    fs::write(place.join("roots.pem"), authority.roots())
}

fn record(sample: &mut Sample, title: &str, columns: &[&str], values: &[f64]) {
    println!("  {title}: {values:.2?}");
    for (column, value) in columns.iter().zip(values) {
        sample.insert(format!("{title}, {column}"), *value);
    }
}

fn version(who: Contestant) -> String {
    let Some(resolver) = who.resolver() else {
        return env!("CARGO_PKG_VERSION").to_owned();
    };
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Version}", resolver.package]);
    run(&mut query).unwrap_or_else(|_| "unknown".to_owned())
}

/// A file with some names.
struct Part {
    path: PathBuf,
    _directory: TempDir,
}

/// A contestant that answers, and its upstream.
struct Running {
    meter: Meter,
    _server: Server,
    _upstream: Process,
    /// Certificates.
    files: TempDir,
    // Last, so that the namespaces are still there when processes stop in them.
    lab: Lab,
}

impl Running {
    /// Connections that were opened in the server's namespace so far.
    fn connections(&self) -> Result<u64> {
        let text = run(self.lab.on_server("cat").arg("/proc/net/snmp"))?;
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = lines.next().zip(lines.next()).context("no TCP counters")?;
        let mut fields = names.split(' ').zip(values.split(' '));
        let opened = fields.find(|(name, _)| *name == "ActiveOpens");
        Ok(opened.context("no ActiveOpens")?.1.parse()?)
    }
}

impl Measured {
    /// The tables in Markdown: medians of the rounds, the lowest and the highest.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (title, columns) in tables() {
            let mut table = Table::new();
            table.load_preset(ASCII_MARKDOWN);
            table.set_header([""].iter().chain(columns));
            for (who, rounds) in CONTESTANTS
                .iter()
                .filter_map(|who| self.rounds.get_key_value(who.name()))
            {
                let cell = |column: &&str| {
                    let figure = format!("{title}, {column}");
                    let values = rounds.iter().filter_map(|sample| sample.get(&figure));
                    let median = Median::of(values.copied().collect());
                    median.map_or("–".to_owned(), Median::text)
                };
                let cells = columns.iter().map(cell);
                table.add_row([(*who).to_owned()].into_iter().chain(cells));
            }
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            let _ = writeln!(text, "**{title}**\n\n{table}\n");
        }
        let versions = self
            .versions
            .iter()
            .map(|(who, version)| format!("{who} {version}"));
        let versions: Vec<String> = versions.collect();
        let _ = writeln!(
            text,
            "Machine: {}\nVersions: {}",
            self.machine,
            versions.join(", ")
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_what_was_measured() {
        let mut sample = Sample::new();
        record(&mut sample, QUERIES, QUERY_COLUMNS, &[90_000.0, 0.0, 1.0]);
        let measured = Measured {
            machine: "a machine".to_owned(),
            versions: BTreeMap::from([("heimdall", "1".to_owned())]),
            rounds: BTreeMap::from([("heimdall", vec![sample])]),
        };
        let text = measured.text();
        assert!(text.contains("90,000"), "{text}");
        assert_eq!(text.matches("| heimdall").count(), 6, "{text}");
        assert!(text.ends_with("Versions: heimdall 1\n"), "{text}");
    }
}
