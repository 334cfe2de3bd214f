//! `cargo xtask vm`: Heimdall on stock kernels of Debian, over NICs whose drivers have zero-copy AF_XDP.
//!
//! On the host, [`tools`] and [`kernel`] are what [`packages`] downloads, and [`machine`] boots them; in the guest, [`guest`]
//! runs the scenarios and tells [`report`] what came of them. The guest has the host's file system, with a layer
//! in memory over it, so that what was built here runs there.

mod guest;
mod initramfs;
mod kernel;
mod machine;
mod packages;
mod report;
mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
pub(crate) use guest::Guest;
use kernel::{Kernel, Series};
use machine::{Machine, Nic};
use report::{Message, Results, Scenario, summarize};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tools::Tools;

use crate::{
    setup::{self, BUILD, GUEST, LAB, Setup, cargo},
    stop::Stop,
    workspace,
};

#[derive(Args)]
#[command(after_help = "\
Each guest has two NICs that are connected to each other, each in a network namespace of its own, as in
the tests' lab. It sees this machine's file system; what it writes there is lost when it ends. Its
processor is emulated unless this one has VMX or SVM and there is /dev/kvm.

The first run downloads qemu (16 MB), and each kernel when it is first used (70 to 120 MB), as Debian's
packages into target/vm; nothing is installed of that. Remove target/vm to get newer ones. Consoles are
in target/vm/run. Needs root, Debian 12 or 13 on x86-64, and /dev/net/tun for virtio.

Examples:
  cargo xtask vm                                          everything, on all kernels: some ten minutes
  cargo xtask vm --nic igb --kernel backports             one guest
  cargo xtask vm --kernel 6.1 --scenario programs         the XDP program on Debian 12's kernel
  cargo xtask vm --shell 'ip netns exec $SERVER ethtool -i eth0'")]
pub(crate) struct Vm {
    /// The guest's NICs; each kind in turn, unless given
    #[arg(long, value_enum)]
    nic: Vec<Nic>,

    /// The guest's kernel; each in turn, unless given
    #[arg(long, value_enum)]
    kernel: Vec<Series>,

    /// What to run; all, unless given
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,

    /// Run this heimdall, instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,

    /// Run this command of sh in the guest, in place of the scenarios. $CLIENT and $SERVER are the network
    /// namespaces, where the NICs are eth0
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["scenario", "captures"])]
    shell: Option<String>,

    /// Write what `heimdall doctor` prints in the guests to docs/doctor-igb.txt and docs/doctor-virtio.txt
    #[arg(long)]
    captures: bool,
}

/// What a guest is to do; it reads this from a file of its initramfs.
#[derive(Serialize, Deserialize)]
struct Plan {
    nic: Nic,
    /// Whether Heimdall's sockets are in zero-copy mode.
    zero_copy: bool,
    /// The kernel's modules.
    modules: PathBuf,
    /// Where commands run.
    directory: PathBuf,
    task: Task,
}

#[derive(Clone, Serialize, Deserialize)]
enum Task {
    Shell(String),
    Scenarios {
        scenarios: Vec<Scenario>,
        /// `heimdall`.
        program: PathBuf,
        /// Those that the scenarios need.
        tests: Vec<TestProgram>,
    },
}

/// A test target of heimdall-user, built.
#[derive(Clone, Serialize, Deserialize)]
struct TestProgram {
    name: String,
    path: PathBuf,
}

impl Vm {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "run it as root: the guest gets this machine's whole file system, and virtio NICs need taps"
        );
        ensure!(
            cfg!(target_arch = "x86_64") && Path::new("/usr/bin/apt-get").exists(),
            "qemu and the kernels are Debian's packages for x86-64, which apt-get downloads: run it on Debian 12 or 13"
        );
        let stop = Stop::on_signals()?;
        setup.packages(&[BUILD, LAB, GUEST])?;
        let directory = workspace().join("target/vm");
        let tools = Tools::get(&directory)?;
        let guests = self.guests();
        let tasks = self.tasks(&guests)?;
        let mut all = Vec::new();
        for ((series, nic), task) in guests.into_iter().zip(tasks) {
            let kernel = Kernel::get(series, &directory)?;
            println!("\n==> Linux {}, {}", kernel.version, nic.name());
            let plan = Plan {
                nic,
                zero_copy: series.has_zero_copy(),
                modules: kernel.modules(),
                directory: workspace(),
                task,
            };
            let machine = Machine {
                tools: &tools,
                kernel: &kernel,
                nic,
                directory: directory
                    .join("run")
                    .join(format!("{}-{}", kernel.version, nic.name())),
            };
            all.push(self.boot(&machine, &plan, &stop)?);
        }
        match (
            &self.shell,
            all.first().and_then(|results| results.failure.as_ref()),
        ) {
            (Some(_), Some(failure)) => bail!("{failure}"),
            (Some(_), None) => Ok(()),
            (None, _) => summarize(&all),
        }
    }

    /// Boots one guest, and prints what it tells.
    fn boot(&self, machine: &Machine<'_>, plan: &Plan, stop: &Stop) -> Result<Results> {
        let start = Instant::now();
        let (mut checks, mut ran_scenarios, mut captured) = (Vec::new(), Vec::new(), None);
        let ran = machine.run(plan, stop, |message| match message {
            Message::Booted(seconds) => println!("  booted in {seconds:.0} s"),
            Message::Line(line) => println!("{line}"),
            Message::Check(check) => {
                check.print();
                checks.push(check);
            }
            Message::Ran(scenario, checks) => ran_scenarios.push((scenario, checks)),
            Message::Doctor(text) => captured = Some(text),
            Message::End => {}
        });
        stop.check()?;
        let failure = ran.err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            println!("  FAILED  {failure}");
        }
        let is_shown = self.captures && plan.zero_copy && plan.nic.added_pairs() == 0;
        if let Some(text) = captured.filter(|_| is_shown) {
            let path = workspace().join(format!("docs/doctor-{}.txt", plan.nic.name()));
            let title = format!(
                "Made by `cargo xtask vm --captures`: Linux {} in a guest with two processors.\n",
                machine.kernel.version
            );
            fs::write(&path, title + &text).with_context(|| path.display().to_string())?;
            println!("  wrote {}", path.display());
        }
        Ok(Results {
            kernel: machine.kernel.version.clone(),
            nic: plan.nic,
            checks,
            ran: ran_scenarios,
            expected: match &plan.task {
                Task::Shell(_) => Vec::new(),
                Task::Scenarios { scenarios, .. } => scenarios.clone(),
            },
            failure,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// What is to be booted.
    fn guests(&self) -> Vec<(Series, Nic)> {
        if self.shell.is_some() {
            let series = self.kernel.first().copied().unwrap_or(Series::Backports);
            return vec![(series, self.nic.first().copied().unwrap_or(Nic::Virtio))];
        }
        let nics = or_all(&self.nic);
        let kernels = or_all(&self.kernel).into_iter();
        // The pairs that are to spare matter most to the newest driver.
        let differs = |(series, nic): &(Series, Nic)| {
            series.has_zero_copy() || nic.added_pairs() == 0 || !self.nic.is_empty()
        };
        kernels
            .flat_map(|series| nics.iter().map(move |nic| (series, *nic)))
            .filter(differs)
            .collect()
    }

    /// What each of them is to do. What is not about the NICs is done once for a kernel.
    fn tasks(&self, guests: &[(Series, Nic)]) -> Result<Vec<Task>> {
        if let Some(command) = &self.shell {
            return Ok(vec![Task::Shell(command.clone())]);
        }
        let scenarios = or_all(&self.scenario);
        let program = match scenarios.iter().any(|scenario| scenario.needs_nics()) {
            true => setup::heimdall(self.program.as_deref())?,
            false => PathBuf::new(),
        };
        let tests = test_programs(&scenarios)?;
        let task = |at| Task::Scenarios {
            scenarios: self.scenarios_of(guests, at),
            program: program.clone(),
            tests: tests.clone(),
        };
        Ok((0..guests.len()).map(task).collect())
    }

    /// What is run in one of them.
    fn scenarios_of(&self, guests: &[(Series, Nic)], at: usize) -> Vec<Scenario> {
        let (series, _) = guests[at];
        let is_first = guests[..at].iter().all(|(other, _)| *other != series);
        let mut scenarios = or_all(&self.scenario);
        scenarios.retain(|scenario| is_first || scenario.needs_nics());
        scenarios
    }
}

/// These, or all there are.
fn or_all<T: ValueEnum>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() {
        T::value_variants()
    } else {
        chosen
    }
    .to_vec()
}

/// Builds the tests that these scenarios run.
fn test_programs(scenarios: &[Scenario]) -> Result<Vec<TestProgram>> {
    let names: Vec<&str> = scenarios
        .iter()
        .flat_map(|scenario| guest::tests_of(*scenario))
        .copied()
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut build = cargo();
    build
        .args(["test", "--locked", "--workspace", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .args(names.iter().flat_map(|name| ["--test", *name]))
        .stderr(Stdio::inherit());
    let output = build.output().context("cargo")?;
    ensure!(output.status.success(), "{build:?}: {}", output.status);
    let built = String::from_utf8(output.stdout)?;
    let messages = built
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs = messages.filter_map(|message| {
        let name = message["target"]["name"].as_str()?.to_owned();
        let path = message["executable"].as_str()?.into();
        names
            .contains(&name.as_str())
            .then_some(TestProgram { name, path })
    });
    Ok(programs.collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        vm: Vm,
    }

    fn parse(arguments: &str) -> Vm {
        let arguments = std::iter::once("vm").chain(arguments.split_whitespace());
        Cli::try_parse_from(arguments).unwrap().vm
    }

    #[test]
    fn what_is_not_about_nics_is_run_once_for_a_kernel() {
        let vm = parse("--scenario layers --scenario server --kernel 6.1 --kernel backports");
        let guests = vm.guests();
        let counts = (0..guests.len()).map(|at| vm.scenarios_of(&guests, at).len());
        assert_eq!(counts.collect::<Vec<_>>(), [2, 1, 2, 1, 1]);
        assert_eq!(parse("").guests().len(), 7);
        let guests = parse("--shell true").guests();
        assert_eq!(guests, [(Series::Backports, Nic::Virtio)]);
        let guests = parse("--shell true --nic igb --kernel 6.12").guests();
        assert_eq!(guests, [(Series::Debian13, Nic::Igb)]);
    }
}
