//! The `heimdall` command.
fn main() {}
