//! The `heimdall` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    heimdall_user::cli::main()
}
