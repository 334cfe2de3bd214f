//! Heimdall's own tools.
// A tool may stop at once when something is wrong with it.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod anycast;
mod bench;
mod book;
mod captures;
mod checks;
mod demo;
mod differ;
mod dist;
mod ebpf;
mod fuzz;
mod instructions;
mod questions;
mod rerun;
mod screenshots;
mod search;
mod setup;
mod soak;
mod stop;
mod test;
mod vm;
mod zipf;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use setup::Setup;

/// Heimdall's own tools
///
/// Each does the set-up that is missing, as root with apt-get, and says what it installs;
/// --no-install makes it name the packages instead.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(flatten)]
    setup: Setup,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// See Heimdall work: a server on AF_XDP, an upstream, questions, load, and a table
    Demo(demo::Demo),
    /// Measure Heimdall beside an echo and other servers: rates, latencies, CPU, memory
    Bench(bench::Bench),
    /// Build the book of docs/ into target/book with mdBook, and check its links
    Book(book::Book),
    /// Write the terminals that docs/ shows: docs/top.txt
    Captures(captures::Captures),
    /// Run everything that CI runs: format, lints, all tests, documentation
    Test(test::Test),
    /// Run the fuzz targets
    Fuzz(fuzz::Fuzz),
    /// Compare Heimdall's replies with those of unbound and dnsmasq, for 10,000 generated queries
    Differ(differ::Differ),
    /// Put a server with a small cache under mixed load for a while, and check all that it does
    Soak(soak::Soak),
    /// Run Heimdall on Debian's kernels in guests, over NICs whose drivers have zero-copy AF_XDP
    Vm(vm::Vm),
    /// Announce an address from three nodes with BIRD and FRR, and drain, upgrade and kill them under load
    Anycast(anycast::AnycastLab),
    /// What `vm` runs in a guest
    #[command(hide = true)]
    Guest(vm::Guest),
    /// Count the instructions that a hit takes, and compare them with the baseline
    Instructions(instructions::Instructions),
    /// Run the tests of the cache and of the socket batch under Miri (needs a nightly toolchain)
    Miri(checks::Miri),
    /// Check licences, sources and duplicates of all dependencies with cargo-deny
    Deny(checks::Deny),
    /// Check that Heimdall compiles with the minimum Rust version and for aarch64 (needs rustup)
    Portability(checks::Portability),
    /// Make the pictures of the status page in docs/
    Screenshots(screenshots::Screenshots),
    /// Make what is published: tarball, Debian package, image, bill of materials, checksums
    Dist(dist::Dist),
    /// Rebuild the XDP programs' committed objects from their sources
    Ebpf(ebpf::Ebpf),
}

impl Command {
    fn run(self, setup: Setup) -> Result<()> {
        match self {
            Self::Anycast(lab) => lab.run(setup),
            Self::Bench(bench) => bench.run(setup),
            Self::Book(book) => book.run(setup),
            Self::Captures(captures) => captures.run(setup),
            Self::Demo(demo) => demo.run(setup),
            Self::Differ(differ) => differ.run(setup),
            Self::Dist(dist) => dist.run(setup),
            Self::Test(test) => test.run(setup),
            Self::Fuzz(fuzz) => fuzz.run(setup),
            Self::Instructions(instructions) => instructions.run(setup),
            Self::Screenshots(screenshots) => screenshots.run(setup),
            Self::Soak(soak) => soak.run(setup),
            Self::Vm(vm) => vm.run(setup),
            Self::Guest(guest) => guest.run(),
            Self::Miri(miri) => miri.run(),
            Self::Deny(deny) => deny.run(setup),
            Self::Portability(portability) => portability.run(setup),
            Self::Ebpf(ebpf) => ebpf.run(setup),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.run(cli.setup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}
