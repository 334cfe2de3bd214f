//! Test programs of heimdall-user that were built on the host.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::vm::{
    TestProgram,
    report::{Reporter, Scenario},
};

/// Kinds of interfaces that the end-to-end tests make.
const MODULES: [&str; 7] = [
    "8021q", "bonding", "bridge", "dummy", "macvlan", "team", "vrf",
];

/// Lines of a failed program's output.
const LINES: usize = 60;

/// The test targets that a scenario runs.
pub(in crate::vm) fn tests_of(scenario: Scenario) -> &'static [&'static str] {
    match scenario {
        Scenario::Programs => &["xdp_program", "tier_program"],
        Scenario::Layers => &["xdp_interface", "e2e"],
        Scenario::Server | Scenario::Doctor => &[],
    }
}

pub(super) fn run(
    reporter: &mut Reporter,
    scenario: Scenario,
    tests: &[TestProgram],
) -> Option<()> {
    if scenario == Scenario::Layers {
        let modules = || lab::run(Command::new("modprobe").arg("--all").args(MODULES));
        reporter.step("modules", modules)?;
    }
    for target in tests_of(scenario) {
        let program = tests.iter().find(|program| program.name == *target);
        let names = reporter.step(target, || {
            let program = program.context("it was not built")?;
            Ok((program, names(program)?))
        });
        let Some((program, names)) = names else {
            continue;
        };
        for name in names {
            reporter.check(&name, || test(program, &name));
        }
    }
    Some(())
}

fn command(program: &TestProgram) -> Command {
    let mut command = Command::new(&program.path);
    // A test that is skipped fails.
    command.current_dir("heimdall-user").env("CI", "true");
    command
}

/// The tests of a program that are to be run.
fn names(program: &TestProgram) -> Result<Vec<String>> {
    let arguments: &[&str] = match program.name.as_str() {
        "e2e" => &["guest::", "shared_hook::", "--include-ignored"],
        "xdp_interface" => &["vlans_"],
        // The others go through millions of packets, which an emulated processor takes minutes for.
        "tier_program" => &["vectors::", "verifier::"],
        _ => &[],
    };
    let list = lab::run(command(program).args(arguments).arg("--list"))?;
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "there are no such tests");
    Ok(names)
}

/// Runs one test, which must pass.
fn test(program: &TestProgram, name: &str) -> Result<String> {
    let mut command = command(program);
    command.args(["--exact", "--include-ignored", name]);
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
    ensure!(output.status.success(), "{}:\n{end}", output.status);
    ensure!(
        text.contains("test result: ok. 1 passed"),
        "not run:\n{end}"
    );
    ensure!(!text.contains("SKIPPED"), "{end}");
    Ok(String::new())
}
