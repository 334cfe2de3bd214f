//! The log of a thread that panics.
#![allow(clippy::unwrap_used)]

use std::{env, process::Command, thread};

use heimdall_user::log::{self, LogFormat};
use tracing_subscriber::EnvFilter;

/// Set for the process in which a thread is to panic.
const CHILD: &str = "HEIMDALL_LOG_CHILD";

#[test]
fn a_panic_is_a_line_of_the_log() {
    if env::var_os(CHILD).is_some() {
        let _flush = log::start(EnvFilter::new("info"), LogFormat::Brief).unwrap();
        for message in ["first", "second"] {
            let thread = thread::Builder::new().name("victim".to_owned());
            let victim = thread.spawn(move || panic!("the {message} reason"));
            victim.unwrap().join().unwrap_err();
        }
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_panic_is_a_line_of_the_log", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    for message in ["first", "second"] {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("the {message} reason")));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains("ERROR thread victim panicked at "), "{line}");
        assert!(
            line.ends_with("; this is a bug, please report it"),
            "{line}"
        );
    }
}
