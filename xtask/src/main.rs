//! `cargo xtask`: Heimdall's own tools.

use clap::{Parser, Subcommand};
use xtask::ebpf;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Heimdall's own tools")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Rebuild the XDP program's committed object
    Ebpf(ebpf::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Ebpf(args) => ebpf::run(&args),
    }
}
