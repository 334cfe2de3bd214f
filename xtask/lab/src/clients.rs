//! Real clients: kdig, kxdpgun, dnsperf.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Lab, knot::HOSTS, process::die_with_parent, run};

/// What kdig got.
#[derive(Debug, Clone, PartialEq)]
pub struct Kdig {
    /// Response code, as `NOERROR`.
    pub status: String,
    /// Flags, as `qr rd ra`.
    pub flags: String,
    /// The answer section, a record a line, blanks squeezed.
    pub answer: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
    /// `UDP` or `TCP`.
    pub transport: String,
    /// Who answered, as kdig writes it.
    pub from: String,
    /// Milliseconds.
    pub time: f64,
}

impl Kdig {
    /// Asks from the lab's client: `["@10.53.0.1", "example.com", "MX", "+dnssec"]`.
    ///
    /// # Errors
    /// kdig (Debian: `knot-dnsutils`) is missing or got no reply.
    pub fn ask(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        Self::run(lab.on_client("kdig"), arguments)
    }

    /// Runs `command`, which is to run kdig.
    pub fn run(mut command: Command, arguments: &[&str]) -> Result<Self> {
        command.args(["+timeout=5", "+retry=0"]).args(arguments);
        Self::read(&run(&mut command)?)
    }

    /// Reads kdig's output: the last reply, if it asked again with the cookie that it was given.
    fn read(text: &str) -> Result<Self> {
        let text = &text[text.rfind(";; ->>HEADER<<-").unwrap_or_default()..];
        let after = |mark: &str| {
            text.split(mark)
                .nth(1)
                .map(|rest| rest.lines().next().unwrap_or_default().trim())
        };
        let status = after("status: ").and_then(|rest| rest.split(';').next());
        let Some(status) = status else {
            bail!("kdig got no reply:\n{text}")
        };
        let section = |title: &str| -> Vec<String> {
            let Some(rest) = text.split(title).nth(1) else {
                return Vec::new();
            };
            let lines = rest
                .lines()
                .skip(1)
                .take_while(|line| !line.is_empty() && !line.starts_with(";;"));
            lines
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect()
        };
        let from = after(";; From ").unwrap_or_default();
        Ok(Self {
            status: status.to_owned(),
            flags: after(";; Flags: ")
                .and_then(|rest| rest.split(';').next())
                .unwrap_or_default()
                .to_owned(),
            answer: section(";; ANSWER SECTION:"),
            authority: section(";; AUTHORITY SECTION:"),
            transport: if from.contains("(TCP)") { "TCP" } else { "UDP" }.to_owned(),
            from: from.split('(').next().unwrap_or_default().to_owned(),
            time: from
                .split(" in ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next()?.parse().ok())
                .unwrap_or_default(),
        })
    }
}

/// A file of queries for every host of the upstream's zone.
fn queries() -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("queries");
    let queries = (0..HOSTS).map(|i| format!("n{i}.example.com. A\n"));
    fs::write(&path, queries.collect::<String>())?;
    Ok((directory, path))
}

/// Runs a client to its end, and reads what it measured.
///
/// The status alone does not show a failure: if kxdpgun cannot bind its queue, for instance because
/// the kernel has not yet destroyed the previous run's socket, it exits with success, and reports it on
/// standard error only.
fn measure<T>(command: &mut Command, read: fn(&str) -> Option<T>) -> Result<T> {
    die_with_parent(command);
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}; is it installed?"))?;
    read_output(&output, read).with_context(|| format!("{command:?}"))
}

fn read_output<T>(output: &Output, read: fn(&str) -> Option<T>) -> Result<T> {
    let text = String::from_utf8_lossy(&output.stdout);
    let measured = output.status.success().then(|| read(&text)).flatten();
    measured.with_context(|| {
        // dnsperf writes a line for each query.
        let end = |octets: &[u8]| {
            let end = &octets[octets.len().saturating_sub(2000)..];
            String::from_utf8_lossy(end).into_owned()
        };
        let (stdout, stderr) = (end(&output.stdout), end(&output.stderr));
        format!("it measured nothing ({}): {stdout}{stderr}", output.status)
    })
}

/// The number that follows `mark`.
fn number_after(text: &str, mark: &str) -> Option<f64> {
    text.split(mark)
        .nth(1)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// What kxdpgun sent and got: an open loop at a given rate.
#[derive(Debug, Clone, Copy)]
pub struct Kxdpgun {
    /// Queries sent.
    pub queries: u64,
    /// Replies received.
    pub replies: u64,
    /// Replies of NOERROR.
    pub noerror: u64,
    /// Seconds that it sent for.
    pub seconds: f64,
}

impl Kxdpgun {
    /// Sends `server` queries for the upstream's hosts, `rate` a second, for `seconds`.
    ///
    /// # Errors
    /// kxdpgun (Debian: `knot-dnsutils`) is missing or fails.
    pub fn run(lab: &Lab, server: &str, rate: u64, seconds: u64) -> Result<Self> {
        let (_directory, path) = queries()?;
        Self::ask(lab, server, &path, rate, seconds)
    }

    /// Sends `server` the queries of a file in a loop.
    pub fn ask(lab: &Lab, server: &str, queries: &Path, rate: u64, seconds: u64) -> Result<Self> {
        let mut command = lab.on_client("kxdpgun");
        command.args(["-t", &seconds.to_string(), "-Q", &rate.to_string()]);
        command.args(["-I", &lab.client_if, "-i"]);
        command.arg(queries).arg(server);
        // The kernel destroys the previous run's socket asynchronously.
        lab.with_generator(|| {
            for _ in 0..10 {
                match measure(&mut command, Self::read) {
                    Err(error) if format!("{error:#}").contains("resource is busy") => {
                        thread::sleep(Duration::from_millis(200));
                    }
                    result => return result,
                }
            }
            measure(&mut command, Self::read)
        })
    }

    fn read(text: &str) -> Option<Self> {
        let number = |mark| number_after(text, mark);
        Some(Self {
            queries: number("total queries:")? as u64,
            replies: number("total replies:")? as u64,
            noerror: number("responded NOERROR:").unwrap_or_default() as u64,
            seconds: number("duration:")?,
        })
    }

    /// Replies for each query, 0 to 1.
    pub fn answered(&self) -> f64 {
        self.replies as f64 / self.queries.max(1) as f64
    }
}

/// What a closed loop of clients measured; the program `clients` of `benches` prints it as JSON.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
pub struct ClosedLoop {
    /// Queries a second.
    pub rate: f64,
    /// Queries that got no reply, or none of NOERROR from `clients`.
    pub lost: u64,
    /// Queries sent.
    pub sent: u64,
    /// Mean latency in seconds.
    pub mean: f64,
    /// 50th, 99th and 99.9th percentile of the latency, in seconds.
    pub percentiles: [f64; 3],
}

impl ClosedLoop {
    /// Runs `command`, which is to run dnsperf, with `clients` clients against `server` for `seconds`.
    ///
    /// # Errors
    /// dnsperf is missing or fails.
    pub fn run(mut command: Command, server: &str, clients: u32, seconds: u64) -> Result<Self> {
        let (_directory, path) = queries()?;
        command.args(["-c", &clients.to_string(), "-T", "2"]);
        Self::ask(command, server, &path, seconds)
    }

    /// Runs `command`, which is dnsperf with some options already, with the file `queries`.
    pub fn ask(mut command: Command, server: &str, queries: &Path, seconds: u64) -> Result<Self> {
        command
            .args(["-s", server, "-l", &seconds.to_string(), "-v", "-d"])
            .arg(queries);
        measure(&mut command, Self::read)
    }

    /// Runs `command`, which is the program `clients` of `benches` with some options already, with
    /// the file `queries`: clients that are on AF_XDP themselves.
    pub fn on_xdp(
        lab: &Lab,
        mut command: Command,
        server: &str,
        queries: &Path,
        seconds: u64,
    ) -> Result<Self> {
        command
            .env("RUST_BACKTRACE", "0")
            .args(["--interface", &lab.client_if, "--server", server])
            .args(["--seconds", &seconds.to_string(), "--names"])
            .arg(queries);
        lab.with_generator(|| measure(&mut command, |text| serde_json::from_str(text).ok()))
    }

    /// With `-v` every query has a line: `> NOERROR n1.example.com A 0.000123`.
    fn read(text: &str) -> Option<Self> {
        let number = |mark| number_after(text, mark);
        let mut latencies = Histogram::<u64>::new(3).ok()?;
        let seconds = |line: &str| {
            line.strip_prefix("> ")?
                .rsplit(' ')
                .next()?
                .parse::<f64>()
                .ok()
        };
        for seconds in text.lines().filter_map(seconds) {
            latencies += (seconds * 1e9) as u64;
        }
        Some(Self {
            rate: number("Queries per second:")?,
            ..Self::new(&latencies, number("Queries lost:")? as u64, 1.0)
        })
    }

    /// From latencies in nanoseconds that were measured in `seconds`.
    pub fn new(latencies: &Histogram<u64>, lost: u64, seconds: f64) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e9;
        Self {
            rate: latencies.len() as f64 / seconds,
            lost,
            sent: latencies.len() + lost,
            mean: latencies.mean() / 1e9,
            percentiles: [0.5, 0.99, 0.999].map(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;

    #[test]
    fn reads_kdig() {
        let text = "\
;; ->>HEADER<<- opcode: QUERY; status: NOERROR; id: 4322
;; Flags: qr rd ra; QUERY: 1; ANSWER: 2; AUTHORITY: 0; ADDITIONAL: 1

;; EDNS PSEUDOSECTION:
;; Version: 0; flags: ; UDP size: 1232 B; ext-rcode: NOERROR

;; QUESTION SECTION:
;; www.example.com.    \t\tIN\tA

;; ANSWER SECTION:
www.example.com.    \t3600\tIN\tCNAME\texample.com.
example.com.        \t3600\tIN\tA\t192.0.2.1

;; Received 75 B
;; Time 2026-01-01 00:00:00 UTC
;; From fd53::1@53(TCP) in 5.7 ms
";
        let reply = Kdig::read(text).unwrap();
        assert_eq!(
            reply,
            Kdig {
                status: "NOERROR".into(),
                flags: "qr rd ra".into(),
                answer: vec![
                    "www.example.com. 3600 IN CNAME example.com.".into(),
                    "example.com. 3600 IN A 192.0.2.1".into(),
                ],
                authority: vec![],
                transport: "TCP".into(),
                from: "fd53::1@53".into(),
                time: 5.7,
            }
        );
        assert!(Kdig::read(";; WARNING: response timeout").is_err());
    }

    #[test]
    fn reads_kxdpgun() {
        let text = "\
using interface hdc0, XDP threads 1, UDP, native mode
thread#00: sent 40010, received 40000
total queries:     40010 (20005 pps)
total replies:     40000 (20000 pps) (99%)
average DNS reply size: 48 B
average Ethernet reply rate: 14403600 bps (14.40 Mbps)
responded NOERROR:   39990
responded SERVFAIL:   10
duration: 2 s
";
        let load = Kxdpgun::read(text).unwrap();
        assert_eq!(
            (load.queries, load.replies, load.noerror),
            (40_010, 40_000, 39_990)
        );
        assert_eq!(load.seconds, 2.0);
        assert!(load.answered() > 0.999 && load.answered() < 1.0);
        assert!(Kxdpgun::read("error: cannot load BPF program").is_none());
    }

    #[test]
    fn a_client_that_measures_nothing_is_an_error_with_its_output() {
        let output = |status, stdout: &str, stderr: &str| Output {
            status: ExitStatus::from_raw(status),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        let read = |text: &str| text.parse::<u64>().ok();
        assert_eq!(read_output(&output(0, "5", "noise"), read).unwrap(), 5);
        for (status, stdout) in [(0, ""), (0, "five"), (1 << 8, "5")] {
            let error = read_output(&output(status, stdout, "error: busy\n"), read).unwrap_err();
            assert!(format!("{error:#}").contains("error: busy"), "{error:#}");
        }
    }

    #[test]
    fn reads_dnsperf() {
        let mut text =
            String::from("Statistics:\n  Queries lost: 3\n  Queries per second: 500.0\n");
        for number in (1..=1000).rev() {
            text += &format!(
                "> NOERROR n{number}.example.com A {:.6}\n",
                f64::from(number) / 1e3
            );
        }
        let load = ClosedLoop::read(&text).unwrap();
        for (got, right) in load.percentiles.into_iter().zip([0.5, 0.99, 0.999]) {
            assert!((got / right - 1.0).abs() < 0.001, "{got} for {right}");
        }
        assert!((load.mean / 0.5005 - 1.0).abs() < 0.001);
        assert_eq!((load.rate, load.lost, load.sent), (500.0, 3, 1003));
    }
}
