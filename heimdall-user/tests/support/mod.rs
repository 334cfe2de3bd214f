//! What the tests that need a kernel share.

use std::io::Write as _;

/// May this test load BPF programs and make network namespaces? If not, it says so on the
/// terminal, past the harness, and fails in CI.
pub(crate) fn privileged(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} needs root, and CI must not skip it"
    );
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs root");
    false
}
