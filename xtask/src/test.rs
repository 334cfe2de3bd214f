//! `cargo xtask test`: everything that has to hold before a change lands.

use std::{process::Command, time::Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
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
        self.setup.packages(&[BUILD, LAB, PEERS, CAPTURE, COUNT])?;
        self.setup.ebpf_toolchain()?;
        let step = |title: &str, command: &mut Command| {
            println!("\n==> {title} ({} s)", start.elapsed().as_secs());
            run(command).with_context(|| format!("{title} failed"))
        };
        step("format", cargo().args(["fmt", "--all", "--check"]))?;
        step(
            "lints",
            cargo().args([
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ]),
        )?;
        step(
            "unit, property and end-to-end tests",
            cargo().args(["test", "--locked", "--workspace"]),
        )?;
        println!(
            "\n==> the XDP programs, rebuilt ({} s)",
            start.elapsed().as_secs()
        );
        let object = ebpf::build()?.join("heimdall.bpf.o");
        step(
            "packet vectors through the rebuilt XDP program",
            cargo().env("HEIMDALL_EBPF_OBJECT", object).args([
                "test",
                "--locked",
                "--package",
                "heimdall-user",
                "--test",
                "xdp_program",
            ]),
        )?;
        step(
            "documentation",
            cargo().env("RUSTDOCFLAGS", "--deny=warnings").args([
                "doc",
                "--locked",
                "--workspace",
                "--no-deps",
            ]),
        )?;
        println!(
            "\n==> fuzz targets, briefly ({} s)",
            start.elapsed().as_secs()
        );
        fuzz::brief()?;
        println!(
            "\n==> beside other resolvers ({} s)",
            start.elapsed().as_secs()
        );
        Differ::brief(self.setup).run()?;
        println!("\n==> instructions a hit ({} s)", start.elapsed().as_secs());
        Instructions::check(self.setup).run()?;
        println!("\n==> a short soak ({} s)", start.elapsed().as_secs());
        Soak::brief(self.setup).run()?;
        println!("\neverything passed in {} s", start.elapsed().as_secs());
        Ok(())
    }
}
