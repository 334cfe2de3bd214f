//! What runs in a guest: `xtask guest`, which the initramfs starts.

mod doctor;
mod load;
mod server;
mod tests;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lab::{Lab, run};
pub(super) use tests::tests_of;

use super::{
    Plan, Task,
    machine::{Nic, QUEUES},
    report::{Message, Reporter, Scenario},
};

/// The plan, where the initramfs puts it.
const PLAN: &str = "/run/heimdall-guest.json";

/// Only the initramfs of `cargo xtask vm` starts it.
#[derive(Args)]
pub(crate) struct Guest {}

impl Guest {
    pub(crate) fn run(self) -> Result<()> {
        let plan = fs::read(PLAN).context("this is not a guest of `cargo xtask vm`")?;
        let plan: Plan = serde_json::from_slice(&plan)?;
        let mut reporter = Reporter::open()?;
        let uptime = fs::read_to_string("/proc/uptime")?;
        let uptime = uptime.split(' ').next().unwrap_or_default().parse()?;
        reporter.send(&Message::Booted(uptime))?;
        std::env::set_current_dir(&plan.directory)?;
        // Where modprobe, and so the kernel itself, looks for modules.
        fs::create_dir_all("/lib/modules")?;
        let version = plan.modules.file_name().context("no version")?;
        let modules = Path::new("/lib/modules").join(version);
        if !modules.exists() {
            symlink(&plan.modules, modules)?;
        }
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        match &plan.task {
            Task::Shell(command) => shell(&mut reporter, &nics(plan.nic)?, command)?,
            Task::Scenarios {
                scenarios,
                program,
                tests,
            } => {
                let mut lab = None;
                for scenario in scenarios {
                    reporter.begin(*scenario);
                    if scenario.needs_nics() && lab.is_none() {
                        lab = reporter.step("two NICs", || nics(plan.nic));
                    }
                    let _ = match (scenario, &lab) {
                        (Scenario::Server, Some(lab)) => {
                            server::run(&mut reporter, lab, &plan, program)
                        }
                        (Scenario::Doctor, Some(lab)) => {
                            doctor::run(&mut reporter, lab, &plan, program)
                        }
                        (Scenario::Server | Scenario::Doctor, None) => None,
                        (Scenario::Programs | Scenario::Layers, _) => {
                            tests::run(&mut reporter, *scenario, tests)
                        }
                    };
                    reporter.finish()?;
                }
            }
        }
        reporter.send(&Message::End)
    }
}

/// A lab of the guest's two NICs.
fn nics(nic: Nic) -> Result<Lab> {
    run(Command::new("modprobe").arg(nic.driver()))?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let path = entry?.path();
        // Interfaces without hardware have no such link.
        if let (Ok(device), Some(name)) = (path.join("device").canonicalize(), path.file_name()) {
            found.push((device, name.to_string_lossy().into_owned()));
        }
    }
    found.sort();
    ensure!(
        found.len() == 2,
        "{} is not there twice: {found:?}",
        nic.driver()
    );
    let lab = Lab::with_nics(&found[0].1, &found[1].1)?;
    // The load's bursts: qemu's NICs do not take them apart.
    let ethtool = ["-K", "eth0", "tx-udp-segmentation", "off"];
    run(lab.on_client("ethtool").args(ethtool))?;
    server::set_queues(&lab, QUEUES)?;
    if nic == Nic::Igb {
        // Without ports in the hash one client has one queue.
        let ethtool = ["-N", "eth0", "rx-flow-hash", "udp4", "sdfn"];
        run(lab.on_server("ethtool").args(ethtool))?;
    }
    server::wait_for_carrier(&lab)?;
    Ok(lab)
}

/// Runs a command, and sends its output.
fn shell(reporter: &mut Reporter, lab: &Lab, command: &str) -> Result<()> {
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{command}")])
        .env("CLIENT", &lab.client)
        .env("SERVER", &lab.server)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        reporter.send(&Message::Line(line))?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command}: {status}");
    Ok(())
}
