//! `cargo xtask test`: all checks that a change has to pass.

use std::{env, iter, time::Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser as _};

use crate::{
    Cli, ebpf, rerun,
    setup::{
        BOOK, BROWSER, BUILD, CAPTURE, COUNT, DNSTAP, LAB, MANUAL, METRICS, PEERS, Setup,
        UPSTREAMS, cargo, run,
    },
    workspace,
};

#[derive(Args)]
#[command(after_help = "\
Tests that need root say SKIPPED without it; with CI set in the environment, they fail instead.
A test that fails beside others is run once more, alone; if it passes then, the last line names it.")]
pub(crate) struct Test {}

impl Test {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        let start = Instant::now();
        env::set_current_dir(workspace())?;
        let title = |title: &str| println!("\n==> {title} ({} s)", start.elapsed().as_secs());
        let step = |what: &str, arguments: &str, environment: &[(&str, &str)]| {
            title(what);
            let mut cargo = cargo();
            cargo
                .args(arguments.split(' '))
                .envs(environment.iter().copied());
            run(&mut cargo).with_context(|| format!("{what} failed"))
        };
        let tool = |what: &str, arguments: &str| {
            title(what);
            let arguments = iter::once("xtask").chain(arguments.split(' '));
            let command = Cli::try_parse_from(arguments)?.command;
            command.run(setup).with_context(|| format!("{what} failed"))
        };
        setup.packages(&[
            BUILD, BOOK, LAB, PEERS, UPSTREAMS, CAPTURE, DNSTAP, METRICS, MANUAL, BROWSER, COUNT,
        ])?;
        step("format", "fmt --all --check", &[])?;
        let lints = "clippy --locked --workspace --all-targets -- --deny warnings";
        step("lints", lints, &[])?;
        tool("dependencies", "deny")?;
        title("unit, property and end-to-end tests");
        let again = rerun::tests().context("unit, property and end-to-end tests failed")?;
        title("the XDP programs, rebuilt");
        let objects = ebpf::build(setup)?;
        let object = objects.join("heimdall.bpf.o").display().to_string();
        step(
            "packet vectors through the rebuilt XDP program",
            "test --locked --workspace --test xdp_program --test tier_program",
            &[("HEIMDALL_EBPF_OBJECT", &object)],
        )?;
        step(
            "documentation",
            "doc --locked --workspace --no-deps",
            &[("RUSTDOCFLAGS", "--deny=warnings")],
        )?;
        tool("fuzz targets, briefly", "fuzz --runs 2000")?;
        tool(
            "comparison with other resolvers",
            "differ --queries 2000 --program target/debug/heimdall",
        )?;
        tool("instructions a hit", "instructions")?;
        tool(
            "a short soak",
            "soak --seconds 18 --program target/debug/heimdall",
        )?;
        tool(
            "anycast, briefly",
            "anycast --rate 2000 --pause 1 --program target/debug/heimdall",
        )?;
        println!("\neverything passed in {} s", start.elapsed().as_secs());
        if !again.is_empty() {
            println!("but not at once: {}", again.join(", "));
        }
        Ok(())
    }
}
