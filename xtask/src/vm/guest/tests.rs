//! Test programs of heimdall-user that were built on the host.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::vm::{
    TestProgram,
    report::{Reporter, Scenario},
};

/// Kinds of interfaces that the end-to-end tests make.
const MODULES: [&str; 6] = ["8021q", "bonding", "dummy", "macvlan", "team", "vrf"];

/// Lines of a failed program's output.
const LINES: usize = 60;

/// The test targets that a scenario runs.
pub(in crate::vm) fn tests_of(scenario: Scenario) -> &'static [&'static str] {
    match scenario {
        Scenario::Programs => &["xdp_program", "tier_program"],
        Scenario::Layers => &["e2e"],
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
    for name in tests_of(scenario) {
        reporter.check(name, || {
            let program = tests.iter().find(|program| program.name == *name);
            test(program.context("it was not built")?)
        });
    }
    Some(())
}

/// Runs a test program to its end; how many tests passed.
fn test(program: &TestProgram) -> Result<String> {
    let arguments: &[&str] = match program.name.as_str() {
        "e2e" => &["guest::", "--ignored"],
        // The others go through millions of packets, which an emulated processor takes minutes for.
        "tier_program" => &["vectors::", "verifier::"],
        _ => &[],
    };
    let mut command = Command::new(&program.path);
    command
        .current_dir("heimdall-user")
        .args(arguments)
        // One at a time: they share two slow processors.
        .args(["--test-threads", "1"])
        // A test that is skipped fails.
        .env("CI", "true");
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
    ensure!(output.status.success(), "{}:\n{end}", output.status);
    let passed = text
        .split("test result: ok. ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let passed: usize = passed.context("no result")?.parse()?;
    ensure!(passed > 0, "there are no such tests");
    Ok(format!("{passed} tests"))
}
