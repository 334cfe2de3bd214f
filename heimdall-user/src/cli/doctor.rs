//! `heimdall doctor`: what on this host costs speed, or keeps the server from working.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, IsTerminal},
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::{
    print,
    view::{Reading, format::clean},
};
use crate::{
    config::{Config, Flags, Host},
    doctor::{self, Finding, Level, Step, System},
    log,
};

const EXAMPLES: &str = "\
Examples:
  heimdall doctor --config /etc/heimdall/heimdall.toml
  heimdall doctor --interface eth0 --verbose
  heimdall doctor --json | jq '.[] | select(.level == \"bad\")'
  heimdall doctor --fix

It takes the settings and flags of `heimdall run`, and looks at the kernel, at privileges and limits, at memory and
cores, and at each interface: those of the settings, or all that could be served if there are none. It changes
nothing, and may run beside a server. Run it as root to see whose XDP programs are attached. --checks
describes what is looked at.

--fix applies settings that interrupt no traffic (sysctl, sysfs, the fields of the hash), and asks before each; they
last until the next boot. It does not run without a terminal, unless --yes is given.

Exit codes: 0 all is good, 1 there are warnings, 2 something is bad, or doctor could not do its work; wrong usage is 2,
too, with nothing on stdout.";

/// Examine the host for what slows the server down or keeps it from working
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    #[command(flatten)]
    flags: Flags,

    /// Print the findings as JSON: an array of objects with check, level, subject, finding, why and fix
    #[arg(long, conflicts_with_all = ["verbose", "fix"])]
    json: bool,

    /// Show what is good, too, and why each finding matters
    #[arg(long, short)]
    verbose: bool,

    /// Describe all checks, and examine nothing
    #[arg(long)]
    checks: bool,

    /// Apply the fixes that interrupt no traffic, after asking for each
    #[arg(long)]
    fix: bool,

    /// Apply them without asking
    #[arg(long, requires = "fix")]
    yes: bool,
}

impl Doctor {
    pub(super) fn execute(self) -> ExitCode {
        match self.examine() {
            Ok(Level::Good) => ExitCode::SUCCESS,
            Ok(Level::Warn) => ExitCode::from(1),
            Ok(Level::Bad) => ExitCode::from(2),
            Err(error) => {
                log::print_error(&format!("heimdall: {error}"));
                ExitCode::from(2)
            }
        }
    }

    /// Prints the findings; the level of the worst one that is left.
    fn examine(self) -> anyhow::Result<Level> {
        if self.checks {
            print(&doctor::describe())?;
            return Ok(Level::Good);
        }
        let (config, settings) = doctor::load(&self.flags, Host::read())?;
        let look = |config: &Config| {
            let mut findings = vec![settings.clone()];
            let programs = Reading::programs(&config.control);
            findings.extend(doctor::findings(config, programs));
            findings
        };
        let mut findings = look(&config);
        if self.json {
            let all: Vec<Value> = findings.iter().map(Finding::json).collect();
            print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
            return Ok(worst(&findings));
        }
        print(&render(&findings, self.verbose))?;
        if self.fix {
            fix(&findings, self.yes)?;
            findings = look(&config);
        }
        Ok(worst(&findings))
    }
}

fn worst(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.max().unwrap_or(Level::Good)
}

/// The findings, the worst first, with what to do indented; at the end how many are good.
fn render(findings: &[Finding], verbose: bool) -> String {
    let mut text = String::new();
    for level in [Level::Bad, Level::Warn, Level::Good] {
        if level == Level::Good && !verbose {
            continue;
        }
        for finding in findings.iter().filter(|finding| finding.level == level) {
            let (name, check) = (level.name(), finding.check);
            text.push_str(&format!(
                "{name:<5} {}: {}",
                clean(&finding.subject),
                clean(&finding.finding)
            ));
            text.push_str(&format!(" [{}]\n", check.id));
            if verbose && level != Level::Good {
                text.push_str(&format!("      why: {}\n", check.why));
            }
            for line in finding.fix.lines() {
                text.push_str(&format!("      {}\n", clean(&line)));
            }
        }
    }
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.level).or_insert(0_usize) += 1;
    }
    let count = |level| counts.get(&level).copied().unwrap_or_default();
    let warnings = count(Level::Warn);
    text.push_str(&format!(
        "{} bad, {warnings} warning{}, {} good{}\n",
        count(Level::Bad),
        if warnings == 1 { "" } else { "s" },
        count(Level::Good),
        if verbose {
            ""
        } else {
            " (--verbose shows them)"
        },
    ));
    text
}

/// Applies the safe fixes, after asking for each unless `yes`.
fn fix(findings: &[Finding], yes: bool) -> anyhow::Result<()> {
    if !yes && !io::stdin().is_terminal() {
        bail!(
            "--fix asks before each change, and there is no terminal to ask on; give --yes to apply all"
        );
    }
    let failed = apply(findings, &System::host(), |step| {
        if yes {
            return Ok(true);
        }
        print(&format!("  {}   apply? [y/N] ", clean(&step.to_string())))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
    })?;
    match failed.len() {
        0 => Ok(()),
        count => bail!("{count} fixes could not be applied{}", hint(&failed)),
    }
}

/// What to do about fixes that failed, where more privileges would help.
fn hint(failed: &[io::Error]) -> &'static str {
    let mut kinds = failed.iter().map(io::Error::kind);
    // EPERM and EACCES.
    match kinds.any(|kind| kind == io::ErrorKind::PermissionDenied) {
        true => "; run it as root",
        false => "",
    }
}

/// Applies the steps of safe fixes that `wanted` says to, and prints what it did. Returns the errors.
fn apply(
    findings: &[Finding],
    system: &System,
    mut wanted: impl FnMut(&Step) -> anyhow::Result<bool>,
) -> anyhow::Result<Vec<io::Error>> {
    let (mut done, mut failed) = (0, Vec::new());
    for finding in findings {
        let Some(steps) = finding.fix.safe() else {
            continue;
        };
        print(&format!(
            "\n{}: {}\n",
            clean(&finding.subject),
            clean(&finding.finding)
        ))?;
        for step in steps {
            let shown = clean(&step.to_string());
            if !wanted(step)? {
                print(&format!("  left as it is: {shown}\n"))?;
                continue;
            }
            match step.apply(system) {
                Ok(()) => {
                    done += 1;
                    print(&format!("  done: {shown}\n"))?;
                }
                Err(error) => {
                    let why = clean(&error.to_string());
                    print(&format!("  FAILED: {shown}: {why}\n"))?;
                    failed.push(error);
                }
            }
        }
    }
    let end = match (done, failed.len()) {
        (0, 0) => "\nNothing was changed. --fix leaves alone what may interrupt traffic.\n",
        _ => {
            "\nChanges last until the next boot: to keep them, write them to /etc/sysctl.d/, or have a unit of \
             your own make them.\n"
        }
    };
    print(end)?;
    Ok(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;
    use crate::doctor::example_findings;

    #[test]
    fn the_worst_come_first_and_good_ones_are_counted() {
        let findings = example_findings();
        let text = render(&findings, false);
        let expected = "\
bad   eth0: it is down: no queries arrive on it [nic.link]
      ip link set dev eth0 up
warn  net.core.busy_poll: each wait of a socket polls the NIC for 50 µs first [net.busy-poll]
      sysctl -w net.core.busy_poll=0
1 bad, 1 warning, 1 good (--verbose shows them)
";
        assert_eq!(text, expected);
        let text = render(&findings, true);
        assert!(text.contains("      why: "), "{text}");
        assert!(text.contains("good  net.core.bpf_jit_enable: "), "{text}");
        assert_eq!(worst(&findings), Level::Bad);
        assert_eq!(worst(&[]), Level::Good);
    }

    #[test]
    fn findings_do_not_control_the_terminal() {
        let mut findings = example_findings();
        for finding in &mut findings {
            finding.subject.push('\x1b');
            finding.finding.push_str("\x1b[2J\n\u{202e}µ");
        }
        let text = render(&findings, true);
        let good =
            "net.core.bpf_jit_enable\\027: BPF programs are compiled\\027[2J\\010\\226\\128\\174µ";
        assert!(text.contains(good), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    }

    #[test]
    fn a_finding_as_json_has_the_fields_of_the_schema() {
        for finding in example_findings() {
            let json = finding.json();
            let keys: BTreeSet<&str> = json
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            let expected = ["check", "finding", "fix", "level", "subject", "why"];
            assert_eq!(keys, expected.into());
            assert!(json.as_object().unwrap().values().all(Value::is_string));
        }
    }

    #[test]
    fn only_what_is_safe_and_wanted_is_applied() {
        let root = tempfile::tempdir().unwrap();
        let system = System::at(root.path());
        let file = root.path().join("proc/sys/net/core/busy_poll");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "50").unwrap();
        let mut asked = Vec::new();
        let failed = apply(&example_findings(), &system, |step| {
            asked.push(step.to_string());
            Ok(false)
        });
        assert_eq!(
            (
                failed.unwrap().len(),
                fs::read_to_string(&file).unwrap().as_str()
            ),
            (0, "50")
        );
        // The command that sets the link up is not safe.
        assert_eq!(asked, ["sysctl -w net.core.busy_poll=0"]);
        assert!(
            apply(&example_findings(), &system, |_| Ok(true))
                .unwrap()
                .is_empty()
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "0");
        fs::remove_file(&file).unwrap();
        let failed = apply(&example_findings(), &system, |_| Ok(true)).unwrap();
        // The file does not exist: root would not help.
        assert_eq!((failed.len(), hint(&failed)), (1, ""));
        let denied = [libc::EPERM, libc::EACCES].map(io::Error::from_raw_os_error);
        for error in denied {
            assert_eq!(hint(&[error]), "; run it as root");
        }
    }
}
