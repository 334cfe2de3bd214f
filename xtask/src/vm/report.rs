//! What a guest tells, a line of JSON each, and the results of all.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::{Deserialize, Serialize};

use super::machine::Nic;

/// The guest's second serial port.
const PORT: &str = "/dev/ttyS1";

/// What is run in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(super) enum Scenario {
    /// A server on AF_XDP, without the hot tier and with it: questions, load, changes of the interface, kill -9
    Server,
    /// What `heimdall doctor` says of the NIC, compared with what ip and ethtool say
    Doctor,
    /// Packet vectors through the XDP program
    Programs,
    /// The end-to-end tests with bonds, VLANs, VRFs and teams
    Layers,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Doctor => "doctor",
            Self::Programs => "programs",
            Self::Layers => "layers",
        }
    }

    /// Whether it is about the guest's NICs.
    pub(super) fn needs_nics(self) -> bool {
        matches!(self, Self::Server | Self::Doctor)
    }
}

/// What a guest tells.
#[derive(Serialize, Deserialize)]
pub(super) enum Message {
    /// It has booted, in so many seconds.
    Booted(f64),
    /// A line of the output of the shell's command.
    Line(String),
    /// A check was made.
    Check(Check),
    /// What `heimdall doctor` prints.
    Doctor(String),
    /// A scenario was run, with so many checks.
    Ran(Scenario, usize),
    /// All was run.
    End,
}

/// A check's result.
#[derive(Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) scenario: Scenario,
    name: String,
    pub(super) passed: bool,
    /// What was found; what is wrong.
    text: String,
    seconds: f64,
}

impl Check {
    pub(super) fn print(&self) {
        let (level, scenario) = (
            if self.passed { "ok    " } else { "FAILED" },
            self.scenario.name(),
        );
        let separator = if self.text.is_empty() { "" } else { ": " };
        // Several lines are the output of a program.
        let text = self.text.replace('\n', "\n          ");
        println!(
            "  {level}  {scenario}: {}{separator}{text} ({:.1} s)",
            self.name, self.seconds
        );
    }
}

/// A guest's side: what it tells is sent to the host.
pub(super) struct Reporter {
    port: File,
    scenario: Scenario,
    /// Checks that the scenario made.
    checks: usize,
}

impl Reporter {
    pub(super) fn open() -> Result<Self> {
        let port = OpenOptions::new().write(true).open(PORT);
        Ok(Self {
            port: port.context(PORT)?,
            scenario: Scenario::Server,
            checks: 0,
        })
    }

    /// Checks belong to this one from now on.
    pub(super) fn begin(&mut self, scenario: Scenario) {
        self.scenario = scenario;
        self.checks = 0;
    }

    /// The scenario was run.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.send(&Message::Ran(self.scenario, self.checks))
    }

    pub(super) fn send(&mut self, message: &Message) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        Ok(self.port.write_all(&line)?)
    }

    /// Makes a check, whose text says what was found.
    pub(super) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) {
        self.judge(name, || check().map(|text| ((), text)));
    }

    /// Makes a check whose value what follows needs.
    pub(super) fn step<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        self.judge(name, || step().map(|value| (value, String::new())))
    }

    fn judge<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Option<T> {
        let start = Instant::now();
        let (value, passed, text) = match work() {
            Ok((value, text)) => (Some(value), true, text),
            Err(error) => (None, false, format!("{error:#}")),
        };
        let check = Check {
            scenario: self.scenario,
            name: name.to_owned(),
            passed,
            text,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.checks += 1;
        // The host would miss it.
        self.send(&Message::Check(check))
            .expect("the serial port works");
        value
    }
}

/// What came of one guest.
pub(super) struct Results {
    pub(super) kernel: String,
    pub(super) nic: Nic,
    pub(super) checks: Vec<Check>,
    /// Those that the guest has run, and how many checks each made.
    pub(super) ran: Vec<(Scenario, usize)>,
    /// Those that it was to run.
    pub(super) expected: Vec<Scenario>,
    /// Why it did not run to its end.
    pub(super) failure: Option<String>,
    pub(super) seconds: f64,
}

impl Results {
    /// How many checks of a scenario passed, of how many.
    fn count(&self, scenario: Scenario) -> String {
        let checks = || {
            self.checks
                .iter()
                .filter(|check| check.scenario == scenario)
        };
        match (
            checks().filter(|check| check.passed).count(),
            checks().count(),
        ) {
            (_, 0) => "–".to_owned(),
            (passed, all) if passed == all => format!("{all}"),
            (passed, all) => format!("{passed} of {all}"),
        }
    }

    fn failed(&self) -> usize {
        let failed = self.checks.iter().filter(|check| !check.passed).count();
        failed + self.incomplete().count() + usize::from(self.failure.is_some())
    }

    /// Scenarios that were not run to their end, made no check, or of which a check did not arrive.
    fn incomplete(&self) -> impl Iterator<Item = Scenario> {
        self.expected.iter().copied().filter(|scenario| {
            let checks = self.checks.iter();
            let received = checks.filter(|check| check.scenario == *scenario).count();
            received == 0 || !self.ran.contains(&(*scenario, received))
        })
    }
}

/// Prints a table of the checks that passed.
///
/// # Errors
/// One did not, or a guest did not run to its end.
pub(super) fn summarize(all: &[Results]) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let scenarios = Scenario::value_variants();
    let mut head = vec!["kernel", "NIC"];
    head.extend(scenarios.iter().map(|scenario| scenario.name()));
    head.extend(["end", "s"]);
    table.set_header(head);
    for results in all {
        let mut row = vec![results.kernel.clone(), results.nic.name().to_owned()];
        row.extend(scenarios.iter().map(|scenario| results.count(*scenario)));
        let end = if results.failure.is_some() {
            "FAILED"
        } else {
            "ok"
        };
        row.extend([end.to_owned(), format!("{:.0}", results.seconds)]);
        table.add_row(row);
    }
    println!("\nChecks that passed:\n\n{table}");
    for results in all {
        for scenario in results.incomplete() {
            let (nic, name) = (results.nic.name(), scenario.name());
            println!("not complete: {name} on Linux {}, {nic}", results.kernel);
        }
    }
    match all.iter().map(Results::failed).sum::<usize>() {
        0 => Ok(()),
        failed => bail!("{failed} failed; consoles are in target/vm/run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_and_fails() {
        let check = |scenario, passed| Check {
            scenario,
            name: String::new(),
            passed,
            text: String::new(),
            seconds: 0.0,
        };
        let mut results = Results {
            kernel: "7".to_owned(),
            nic: Nic::Igb,
            checks: vec![check(Scenario::Server, true), check(Scenario::Server, true)],
            ran: vec![(Scenario::Server, 2)],
            expected: vec![Scenario::Server],
            failure: None,
            seconds: 1.0,
        };
        assert_eq!(results.count(Scenario::Server), "2");
        assert_eq!(results.count(Scenario::Layers), "–");
        assert!(summarize(std::slice::from_ref(&results)).is_ok());
        // A check that is lost, and a scenario that is not run.
        results.ran = vec![(Scenario::Server, 3)];
        assert_eq!(results.failed(), 1);
        results.ran = vec![(Scenario::Server, 2)];
        results.expected.push(Scenario::Layers);
        assert_eq!(results.failed(), 1);
        results.expected.pop();
        results.checks.push(check(Scenario::Server, false));
        assert_eq!(results.count(Scenario::Server), "2 of 3");
        assert!(summarize(std::slice::from_ref(&results)).is_err());
        results.checks.clear();
        results.failure = Some("no kernel".to_owned());
        assert!(summarize(&[results]).is_err());
    }
}
