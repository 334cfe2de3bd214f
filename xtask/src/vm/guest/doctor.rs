//! What `heimdall doctor` says of the guest's NICs, compared with what ip and ethtool say.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::{Lab, UPSTREAM};
use serde_json::Value;

use super::server::wait_for_carrier;
use crate::vm::{
    Plan,
    report::{Message, Reporter},
};

pub(super) fn run(reporter: &mut Reporter, lab: &Lab, plan: &Plan, program: &Path) -> Option<()> {
    let doctor = Doctor { lab, program };
    let text = reporter.step("output", || doctor.text())?;
    reporter.send(&Message::Doctor(text)).ok()?;
    reporter.check("driver", || {
        doctor.finds("nic.driver", "good", plan.nic.driver())
    });
    reporter.check("native XDP", || doctor.finds("nic.native", "good", ""));
    // Before Linux 6.3 the kernel does not tell; later the driver of Debian 13 may have it for one direction.
    if plan.zero_copy {
        reporter.check("zero-copy", || {
            doctor.finds("nic.zero-copy", "good", "zero-copy")
        });
    }
    reporter.check("queues", || doctor.finds("nic.queues", "good", "2"));
    if plan.nic.added_pairs() > 0 {
        reporter.check("spare pairs", || {
            doctor.finds("nic.trap", "warn", "2 more are turned on for XDP")
        });
    }
    reporter.check("rings", || doctor.rings());
    reporter.check("VLAN", || doctor.vlan());
    reporter.check("bond", || doctor.bond());
    Some(())
}

struct Doctor<'a> {
    lab: &'a Lab,
    program: &'a Path,
}

impl Doctor<'_> {
    fn output(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.lab.on_server(self.program);
        command.args(["doctor", "--interface", "eth0", "--upstream", UPSTREAM]);
        let output = command.args(arguments).output()?;
        ensure!(!output.stdout.is_empty(), "it prints nothing: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// All that it prints for people.
    fn text(&self) -> Result<String> {
        let output = self.output(&["--verbose"])?;
        Ok(format!(
            "\n$ heimdall doctor --interface eth0 --upstream {UPSTREAM} --verbose\n{output}"
        ))
    }

    /// Its finding on the NIC, which must have this level and these words.
    fn finds(&self, check: &str, level: &str, words: &str) -> Result<String> {
        let findings: Vec<Value> = serde_json::from_str(&self.output(&["--json"])?)?;
        let finding = findings
            .iter()
            .find(|one| one["check"] == check && one["subject"] == "eth0");
        let finding = finding.with_context(|| format!("no {check}"))?;
        let text = finding["finding"].as_str().unwrap_or_default();
        ensure!(
            finding["level"] == level && text.contains(words),
            "not {level} with {words:?}: {finding:#}"
        );
        Ok(text.to_owned())
    }

    /// Short rings are a warning, with the number that ethtool prints.
    fn rings(&self) -> Result<String> {
        let rings = lab::run(self.lab.on_server("ethtool").args(["-g", "eth0"]))?;
        let (most, now) = rings
            .split_once("Current hardware settings:")
            .context("no settings")?;
        let number = |text: &str, ring: &str| -> Result<u32> {
            let value = text.lines().find_map(|line| line.strip_prefix(ring));
            Ok(value
                .with_context(|| format!("no {ring}"))?
                .trim()
                .parse()?)
        };
        let mut level = "good";
        for ring in ["RX:", "TX:"] {
            let now = number(now, ring)?;
            if now < 512 && number(most, ring)? >= 2 * now {
                level = "warn";
            }
        }
        let now = number(now, "RX:")?;
        self.finds(
            "nic.rings",
            level,
            &format!("{now} descriptors to receive into"),
        )
    }

    /// A VLAN on top is a warning if the NIC strips its tags.
    fn vlan(&self) -> Result<String> {
        self.lab
            .server_ip("link add link eth0 name eth0.5 type vlan id 5")?;
        let features = lab::run(self.lab.on_server("ethtool").args(["-k", "eth0"]))?;
        let found = match features.contains("rx-vlan-offload: on") {
            true => self.finds("nic.vlan", "warn", "eth0.5"),
            false => self.finds("nic.vlan", "good", "tags stay"),
        };
        self.lab.server_ip("link del eth0.5")?;
        found
    }

    /// A bond that the NIC is a member of is named.
    fn bond(&self) -> Result<String> {
        self.lab
            .server_ip("link add bond0 type bond mode active-backup")?;
        self.lab.server_ip("link set eth0 down")?;
        self.lab.server_ip("link set eth0 master bond0")?;
        self.lab.server_ip("link set bond0 up")?;
        wait_for_carrier(self.lab)?;
        let findings = self.output(&["--json", "--listen", "10.53.0.1:53"])?;
        self.lab.server_ip("link del bond0")?;
        let findings: Vec<Value> = serde_json::from_str(&findings)?;
        let above = findings
            .iter()
            .find(|one| one["check"] == "nic.above" && one["subject"] == "eth0");
        let text = above
            .and_then(|one| one["finding"].as_str())
            .unwrap_or_default();
        ensure!(text.contains("bond0"), "not named: {findings:#?}");
        Ok(text.to_owned())
    }
}
