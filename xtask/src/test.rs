//! `cargo xtask test`: all checks that a change has to pass.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    checks::Deny,
    differ::Differ,
    ebpf, fuzz,
    instructions::Instructions,
    setup::{BUILD, CAPTURE, COUNT, LAB, PEERS, Setup, cargo, run},
    soak::Soak,
};

#[derive(Args)]
#[command(after_help = "\
Tests that need root say SKIPPED without it; with CI set in the environment, they fail instead.")]
pub(crate) struct Test {
    #[command(flatten)]
    setup: Setup,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        let title = |title: &str| println!("\n==> {title} ({} s)", start.elapsed().as_secs());
        let step = |what: &str, arguments: &str, environment: &[(&str, &str)]| {
            title(what);
            let mut cargo = cargo();
            cargo
                .args(arguments.split(' '))
                .envs(environment.iter().copied());
            run(&mut cargo).with_context(|| format!("{what} failed"))
        };
        self.setup.packages(&[BUILD, LAB, PEERS, CAPTURE, COUNT])?;
        self.setup.ebpf_toolchain()?;
        step("format", "fmt --all --check", &[])?;
        let lints = "clippy --locked --workspace --all-targets -- --deny warnings";
        step("lints", lints, &[])?;
        title("dependencies");
        Deny::offline(self.setup).run()?;
        let tests = "test --locked --workspace";
        step("unit, property and end-to-end tests", tests, &[])?;
        title("the XDP programs, rebuilt");
        let object = ebpf::build()?.join("heimdall.bpf.o").display().to_string();
        step(
            "packet vectors through the rebuilt XDP program",
            "test --locked --package heimdall-user --test xdp_program",
            &[("HEIMDALL_EBPF_OBJECT", &object)],
        )?;
        let warnings = [("RUSTDOCFLAGS", "--deny=warnings")];
        step(
            "documentation",
            "doc --locked --workspace --no-deps",
            &warnings,
        )?;
        title("fuzz targets, briefly");
        fuzz::brief()?;
        title("comparison with other resolvers");
        Differ::brief(self.setup).run()?;
        title("instructions a hit");
        Instructions::check(self.setup).run()?;
        title("a short soak");
        Soak::brief(self.setup).run()?;
        println!("\neverything passed in {} s", start.elapsed().as_secs());
        Ok(())
    }
}
