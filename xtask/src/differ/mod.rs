//! `cargo xtask differ`: the same queries to Heimdall and to two other resolvers, and where their
//! replies differ.
//!
//! [`generate`] makes the queries and [`query`] writes them; [`exchange`] sends them; [`reply`]
//! reads the replies; [`compare`] finds what differs, and [`rules`] knows why. A difference that
//! no rule explains is an error: a bug, or a rule that has to be written, and then told in
//! docs/differences.md.

mod compare;
mod exchange;
mod generate;
mod query;
pub(crate) mod reply;
mod rules;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use compare::{Difference, Peer, differences};
use exchange::Said;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lab::{DNSMASQ_PORT, Heimdall, Knot, Lab, SERVER_V4, UNBOUND_PORT, UPSTREAM};
use query::Query;
use reply::Reply;
use rules::{RULES, explain};

use crate::setup::{self, BUILD, LAB, PEERS, Setup};

/// Unexplained differences that are shown in full.
const SHOWN: usize = 20;

#[derive(Args)]
#[command(after_help = "\
The queries are generated: right and malformed ones, many of them twice. They go to heimdall on
AF_XDP, to unbound and to dnsmasq, in network namespaces; the upstream of all three is one Knot DNS.
What differs is counted by class (docs/differences.md says why each is as it is); a difference that
belongs to none is shown with the query and both replies, and makes this fail. Needs root.")]
pub(crate) struct Differ {
    /// Queries to send
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..))]
    queries: u16,

    /// Seed of the queries: the same seed, the same queries
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Show so many examples of each class
    #[arg(long, default_value_t = 0)]
    examples: usize,

    /// Test this heimdall, not one built from here
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,

    #[command(flatten)]
    setup: Setup,
}

impl Differ {
    /// What `cargo xtask test` runs: fewer queries, the same rules.
    pub(crate) fn brief(setup: Setup) -> Self {
        Self {
            queries: 2_000,
            seed: 1,
            examples: 0,
            program: None,
            setup,
        }
    }

    pub(crate) fn run(self) -> Result<()> {
        if !lab::available("differ") {
            return Ok(());
        }
        self.setup.packages(&[BUILD, LAB, PEERS])?;
        let program = match &self.program {
            Some(program) => program.clone(),
            None => setup::build_heimdall()?,
        };
        println!("{} queries, seed {}", self.queries, self.seed);
        let queries = generate::queries(self.queries.into(), self.seed);
        let start = Instant::now();
        let said = ask(&program, &queries)?;
        // Entries are filled at different moments, by as much as the whole run took.
        let slack = start.elapsed().as_secs() as u32 + 2;
        let mut tally = Tally::new(self.examples);
        for (at, query) in queries.iter().enumerate() {
            for (peer, theirs) in [(Peer::Unbound, &said[1][at]), (Peer::Dnsmasq, &said[2][at])] {
                let found = differences(query, peer, &said[0][at], theirs, slack);
                tally.count(query, peer, &found);
            }
        }
        println!("done in {} s", start.elapsed().as_secs());
        tally.report(queries.len())
    }
}

/// What Heimdall, unbound and dnsmasq said to each query.
fn ask(program: &Path, queries: &[Query]) -> Result<Vec<Vec<Said>>> {
    let lab = Lab::new()?;
    let _upstream = Knot::rich_upstream(&lab)?;
    let heimdall = Heimdall::on_xdp(&lab, program, &["--upstream", UPSTREAM])?;
    let _unbound = lab::Peer::unbound(&lab)?;
    let _dnsmasq = lab::Peer::dnsmasq(&lab)?;
    let servers = [
        ("heimdall", 53),
        ("unbound", UNBOUND_PORT),
        ("dnsmasq", DNSMASQ_PORT),
    ];
    let messages: Vec<Vec<u8>> = queries.iter().map(Query::wire).collect();

    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("  {msg:16} [{bar:40}] {pos}/{len} {elapsed}")?;
    let said = thread::scope(|scope| {
        let clients = servers.map(|(title, port)| {
            let bar = bars.add(ProgressBar::new(messages.len() as u64));
            bar.set_style(style.clone());
            bar.set_message(title);
            let (lab, messages) = (&lab, &messages);
            scope.spawn(move || -> Result<Vec<Said>> {
                let server = format!("{SERVER_V4}:{port}").parse()?;
                let said =
                    lab.in_client(|| exchange::ask_all(server, messages, || bar.inc(1)))??;
                bar.finish();
                Ok(said)
            })
        });
        clients.map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    });
    let stats = heimdall.stats()?;
    println!(
        "heimdall: {} received over AF_XDP, {} hits",
        lab::sum(&stats, "received"),
        lab::sum(&stats, "hits"),
    );
    said.into_iter().collect()
}

/// Differences by class.
struct Tally {
    /// Queries of each rule, by peer.
    counts: Vec<[usize; 2]>,
    /// Queries whose replies are the same, by peer.
    same: [usize; 2],
    unexplained: usize,
    examples: usize,
}

impl Tally {
    fn new(examples: usize) -> Self {
        Self {
            counts: vec![[0; 2]; RULES.len()],
            same: [0; 2],
            unexplained: 0,
            examples,
        }
    }

    /// Counts the differences of one query, and shows those that are to be shown.
    fn count(&mut self, query: &Query, peer: Peer, found: &[Difference<'_>]) {
        if found.is_empty() {
            self.same[peer as usize] += 1;
        }
        let mut rules = BTreeSet::new();
        for difference in found {
            let Some(rule) = explain(difference) else {
                self.unexplained += 1;
                if self.unexplained <= SHOWN {
                    show("UNEXPLAINED", query, difference);
                }
                continue;
            };
            if rules.insert(rule) {
                let count = &mut self.counts[rule][peer as usize];
                *count += 1;
                if *count <= self.examples {
                    show(RULES[rule].0, query, difference);
                }
            }
        }
    }

    fn report(&self, queries: usize) -> Result<()> {
        println!("\n{:<44} {:>8} {:>8}", "queries", "unbound", "dnsmasq");
        println!(
            "{:<44} {:>8} {:>8}",
            "same reply", self.same[0], self.same[1]
        );
        for ((name, _), [unbound, dnsmasq]) in RULES.iter().zip(&self.counts) {
            println!("{name:<44} {unbound:>8} {dnsmasq:>8}");
        }
        println!("{:<44} {:>17}", "unexplained", self.unexplained);
        if self.unexplained > 0 {
            bail!(
                "{} unexplained differences among {queries} queries",
                self.unexplained
            );
        }
        Ok(())
    }
}

fn show(title: &str, query: &Query, difference: &Difference<'_>) {
    let Difference { aspect, peer, .. } = difference;
    let Query {
        name,
        qtype,
        qclass,
        flags,
        opt,
        defect,
        ..
    } = query;
    let text =
        |reply: Option<&Reply>| reply.map_or("none that can be read".to_owned(), Reply::text);
    println!(
        "\n{title}: {aspect:?} of {peer:?} for {} {qtype} class {qclass}\n  flags {flags:#06x}, {opt:?}, defect {defect:?}\n  query {}\n  heimdall: {}\n  {peer:?}: {}",
        name.escape_ascii(),
        query.wire().escape_ascii(),
        text(difference.ours),
        text(difference.theirs),
    );
}
