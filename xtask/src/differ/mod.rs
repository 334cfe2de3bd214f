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
    iter,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use compare::{Difference, Peer, differences};
use exchange::Said;
use lab::{Heimdall, Knot, Lab, Resolver, SERVER_V4, UPSTREAM, wait_for_answer};
use query::{CD, DO, Query};
use reply::Reply;
use rules::{RULES, explain};

use crate::setup::{self, BUILD, LAB, PEERS, Setup};

/// Unexplained differences that are shown in full.
const SHOWN: usize = 20;

#[derive(Args)]
#[command(after_help = "\
The queries are generated: right and malformed ones, many of them twice. They go to heimdall on
AF_XDP, to unbound and to dnsmasq, in network namespaces; the upstream of all three is one Knot DNS. Then the
plain ones go to heimdall so often that its hot tier takes their answers, and all of them once more.
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

    /// Run this heimdall, instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

const UNBOUND: Resolver = Resolver {
    program: "unbound",
    package: "unbound",
    arguments: &["-d", "-p", "-c", "FILE"],
    port_separator: "@",
    file: "unbound.conf",
    configuration: include_str!("peers/unbound.conf"),
};
const UNBOUND_PORT: u16 = 5301;

const DNSMASQ: Resolver = Resolver {
    program: "dnsmasq",
    package: "dnsmasq-base",
    arguments: &["--keep-in-foreground", "--conf-file=FILE"],
    port_separator: "#",
    file: "dnsmasq.conf",
    configuration: include_str!("peers/dnsmasq.conf"),
};
const DNSMASQ_PORT: u16 = 5302;

impl Differ {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        if !lab::available("differ") {
            return Ok(());
        }
        setup.packages(&[BUILD, LAB, PEERS])?;
        let program = setup::heimdall(self.program.as_deref())?;
        let queries = generate::queries(self.queries.into(), self.seed);
        let start = Instant::now();
        let said = ask(&program, &queries)?;
        // Entries are filled at different moments, by as much as the whole run took.
        let slack = start.elapsed().as_secs() as u32 + 2;
        let mut tally = Tally::new(self.examples);
        for (at, query) in queries.iter().enumerate() {
            for (peer, theirs) in [
                (Peer::Unbound, &said.unbound[at]),
                (Peer::Dnsmasq, &said.dnsmasq[at]),
            ] {
                let mut found = differences(query, peer, &said.heimdall[at], theirs, slack);
                found.extend(differences(query, peer, &said.popular[at], theirs, slack));
                tally.count(query, peer, &found);
            }
        }
        tally.report(queries.len())
    }
}

/// What was said to each query.
struct Answers {
    heimdall: Vec<Said>,
    /// Heimdall again, after the questions had become popular: now many are in the hot tier.
    popular: Vec<Said>,
    unbound: Vec<Said>,
    dnsmasq: Vec<Said>,
}

/// How often a question is asked to be popular: a worker offers one hit in 32 to the hot tier.
const OFTEN: usize = 100;

/// Asks all three.
fn ask(program: &Path, queries: &[Query]) -> Result<Answers> {
    let lab = Lab::new()?;
    let _upstream = Knot::rich_upstream(&lab)?;
    let heimdall = Heimdall::on_xdp(&lab, program, &["--upstream", UPSTREAM])?;
    let mut peers = Vec::new();
    for (resolver, port) in [(UNBOUND, UNBOUND_PORT), (DNSMASQ, DNSMASQ_PORT)] {
        let peer = resolver.start(lab.on_server(resolver.program))?;
        wait_for_answer(&lab, port, &peer)?;
        peers.push(peer);
    }
    let messages: Vec<Vec<u8>> = queries.iter().map(Query::wire).collect();
    let ask_all = |port: u16, messages: &[Vec<u8>]| -> Result<Vec<Said>> {
        let server = format!("{SERVER_V4}:{port}").parse()?;
        lab.in_client(|| exchange::ask_all(server, messages))?
    };
    let said = thread::scope(|scope| {
        let clients = [53, UNBOUND_PORT, DNSMASQ_PORT].map(|port| {
            let (ask_all, messages) = (&ask_all, &messages);
            scope.spawn(move || ask_all(port, messages))
        });
        clients.map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    });
    let [said, unbound, dnsmasq] = said;
    let said = said?;
    let plain = distinct(queries)
        .into_iter()
        .filter(|at| said[*at].udp.is_some());
    let plain: Vec<&[u8]> = plain.map(|at| messages[at].as_slice()).collect();
    let server = format!("{SERVER_V4}:53").parse()?;
    lab.in_client(|| exchange::repeat(server, &plain, OFTEN))??;
    // The hot tier takes what it was offered.
    thread::sleep(Duration::from_secs(1));
    let in_tier = || heimdall.stats().map(|stats| stats["tier"]["hits"].as_u64());
    let before = in_tier()?.unwrap_or_default();
    let popular = ask_all(53, &messages)?;
    let answered = in_tier()?.unwrap_or_default() - before;
    let stats = heimdall.stats()?;
    println!(
        "heimdall: {} received over AF_XDP, {} hits; {answered} of the last {} answered by the hot tier",
        lab::sum(&stats, "received"),
        lab::sum(&stats, "hits"),
        messages.len(),
    );
    ensure!(answered > 0, "the hot tier answers nothing");
    Ok(Answers {
        heimdall: said,
        popular,
        unbound: unbound?,
        dnsmasq: dnsmasq?,
    })
}

/// The index of a query for each question that the hot tier may have.
fn distinct(queries: &[Query]) -> Vec<usize> {
    let mut known = BTreeSet::new();
    let mut is_new = |query: &Query| {
        let dnssec_ok = query.opt.as_ref().map_or(0, |opt| opt.flags & DO);
        let name = query.name.to_ascii_lowercase();
        known.insert((name, u16::from(query.qtype), query.flags & CD, dnssec_ok))
    };
    (0..queries.len())
        .filter(|at| queries[*at].is_plain() && is_new(&queries[*at]))
        .collect()
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
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN);
        table.set_header(["queries", "unbound", "dnsmasq"]);
        let names = iter::once("same reply").chain(RULES.iter().map(|(name, _)| *name));
        for (name, [unbound, dnsmasq]) in names.zip(iter::once(&self.same).chain(&self.counts)) {
            table.add_row([name, &unbound.to_string(), &dnsmasq.to_string()]);
        }
        println!("{table}\nunexplained: {}", self.unexplained);
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
    let text =
        |reply: Option<&Reply>| reply.map_or("none that can be read".to_owned(), Reply::text);
    println!(
        "\n{title}: {aspect:?} of {peer:?}\n  {query:?}\n  as sent: {}\n  heimdall: {}\n  {peer:?}: {}",
        query.wire().escape_ascii(),
        text(difference.ours),
        text(difference.theirs),
    );
}
