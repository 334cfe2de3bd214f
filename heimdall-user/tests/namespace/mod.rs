//! Network namespaces of a test's own. Several test programs include this file.

use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a new network namespace, which goes away with its thread, after these commands of `ip`. `/sys` shows another
/// namespace, as it does after `unshare -n`.
pub(crate) fn run(name: &str, commands: &[&str], test: fn()) {
    if !lab::available(name) {
        return;
    }
    thread::scope(|scope| {
        let within = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for command in commands {
                ip(command);
            }
            test();
        };
        scope.spawn(within).join().unwrap();
    });
}

/// Runs `ip` with these arguments: what it says.
pub(crate) fn ip(arguments: &str) -> String {
    lab::run(Command::new("ip").args(arguments.split(' '))).unwrap()
}
