//! Runs all tests, several at a time, and those that failed once more, each alone.
//!
//! End-to-end tests measure what real servers do within seconds. On a machine of few cores, one of
//! hundreds may miss its time because of the others; alone, it has to pass.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::setup::{cargo, run};

/// More tests than this do not fail by accident.
const MOST: usize = 10;

const ALL: [&str; 3] = ["test", "--locked", "--workspace"];

/// What the test executables have printed.
#[derive(Default)]
struct Report {
    /// The tests that failed.
    failed: Vec<String>,
    /// Executables that began, and have not reported a result: more than none at the end if one crashed.
    unfinished: i32,
}

impl Report {
    fn read(&mut self, line: &str) {
        if line.starts_with("running ") && line.trim_end_matches('s').ends_with(" test") {
            self.unfinished += 1;
        } else if line.starts_with("test result: ") {
            self.unfinished -= 1;
        } else if let Some(test) = line.strip_prefix("---- ") {
            let test = test.strip_suffix(" stdout ----");
            self.failed.extend(test.map(str::to_owned));
        }
    }
}

/// Runs all tests of the workspace; the names of those that failed at first, and passed alone.
pub(crate) fn tests() -> Result<Vec<String>> {
    // End-to-end tests wait more than they compute.
    let threads = 2 * thread::available_parallelism()?.get();
    let mut all = cargo();
    all.args(ALL)
        .arg("--no-fail-fast")
        .env("RUST_TEST_THREADS", threads.to_string());
    let Some(report) = watched(&mut all)? else {
        return Ok(Vec::new());
    };
    if report.unfinished != 0 || !(1..=MOST).contains(&report.failed.len()) {
        bail!("{all:?} failed");
    }
    println!("\nonce more, one at a time: {}", report.failed.join(", "));
    run(cargo()
        .args(ALL)
        .args(["--quiet", "--", "--exact", "--test-threads", "1"])
        .args(&report.failed))?;
    Ok(report.failed)
}

/// Runs a command, and shows what it prints; what it reported if it failed.
fn watched(command: &mut Command) -> Result<Option<Report>> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let mut report = Report::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            report.read(&line);
        }
    }
    Ok((!child.wait()?.success()).then_some(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(output: &str) -> Report {
        let mut report = Report::default();
        output.lines().for_each(|line| report.read(line));
        report
    }

    #[test]
    fn failed_tests_are_named() {
        let report = report(
            "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED\n\nfailures:\n\n\
             ---- a::c stdout ----\nthread 'a::c' panicked\n\nfailures:\n    a::c\n\n\
             test result: FAILED. 1 passed; 1 failed\nrunning 1 test\ntest result: ok. 1 passed",
        );
        assert_eq!(report.failed, ["a::c"]);
        assert_eq!(report.unfinished, 0);
    }

    #[test]
    fn an_executable_that_crashes_is_noticed() {
        let report = report("running 2 tests\ntest a::b ... ok\nrunning 0 tests\ntest result: ok");
        assert_eq!(report.unfinished, 1);
    }
}
