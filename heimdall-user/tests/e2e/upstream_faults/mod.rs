//! Every fault of an upstream that docs/forwarding.md has in its table: a server, an upstream that has the fault, a client,
//! what that got, and after how long.
//!
//! The cases run beside each other in one lab, each with a server and upstreams at ports of its own. The environment variable
//! `FAULT` selects those whose name contains its value. With `UPDATE=1` the table in docs/forwarding.md is written from the cases.

mod cases;
mod network;
mod rig;
mod script;
mod streams;

use std::{
    any::Any,
    env, fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use lab::{Authority, Lab};

use crate::lab;
use rig::Rig;
use script::Script;

/// `forward.timeout-ms` of the servers.
const TIMEOUT_MS: u64 = 600;

/// `forward.attempts` of the servers.
const ATTEMPTS: u32 = 3;

/// Cases that run at a time. Most of their time they wait.
const AT_ONCE: usize = 16;

/// How the upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
    Tls,
}

use Over::{Tcp, Tls, Udp};

const UDP: &[Over] = &[Udp];
const TCP: &[Over] = &[Tcp];
const TLS: &[Over] = &[Tls];
const STREAMS: &[Over] = &[Tcp, Tls];
const ALL: &[Over] = &[Udp, Tcp, Tls];

/// What the client gets.
#[derive(Clone, Copy, Debug)]
enum Sees {
    /// The answer: 192.0.2.1.
    Answer,
    /// SERVFAIL with this Extended DNS Error (RFC 8914).
    Servfail(u16),
    /// A reply with TC, which has it ask over TCP.
    Truncated,
    /// What the case checks by itself.
    Text(&'static str),
}

impl fmt::Display for Sees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer => f.write_str("the answer"),
            Self::Servfail(22) => f.write_str("SERVFAIL, EDE 22 (No Reachable Authority)"),
            Self::Servfail(23) => f.write_str("SERVFAIL, EDE 23 (Network Error)"),
            Self::Servfail(code) => write!(f, "SERVFAIL, EDE {code}"),
            Self::Truncated => f.write_str("TC"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// After how long, in time-outs of the transport: `forward.timeout-ms`, twice as long over TCP, three times over TLS.
#[derive(Clone, Copy, Debug)]
enum After {
    /// Before a time-out has passed.
    AtOnce,
    /// So many time-outs at least, and one more at most.
    Timeouts(u32),
    /// One and a half, and less than as much again.
    OneAndAHalf,
    /// Attempts that the settings allow, each for a time-out.
    AllAttempts,
    /// Before so many time-outs have passed.
    Within(u32),
    /// All attempts for some names, and others at once; the case checks it by itself.
    ByName,
    /// Seconds after the fault has ended, at most; the case checks it by itself.
    Seconds(u32),
}

impl After {
    /// The least and the most, in time-outs.
    fn bounds(self) -> Option<(f64, f64)> {
        let attempts = f64::from(ATTEMPTS);
        match self {
            Self::AtOnce => Some((0.0, 1.0)),
            Self::Timeouts(count) => Some((f64::from(count), f64::from(count) + 1.0)),
            Self::OneAndAHalf => Some((1.5, 3.0)),
            // A query without EDNS may follow.
            Self::AllAttempts => Some((attempts, attempts + 2.0)),
            Self::Within(count) => Some((0.0, count.into())),
            Self::ByName | Self::Seconds(_) => None,
        }
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtOnce => f.write_str("at once"),
            Self::Timeouts(1) => f.write_str("one time-out"),
            Self::Timeouts(count) => write!(f, "{count} time-outs"),
            Self::OneAndAHalf => f.write_str("when it comes, 1.5 time-outs"),
            Self::AllAttempts => f.write_str("a time-out for each attempt"),
            Self::Within(count) => write!(f, "less than {count} time-outs"),
            Self::ByName => f.write_str("a time-out for each attempt; others at once"),
            Self::Seconds(seconds) => write!(f, "within {seconds} s of its end"),
        }
    }
}

/// What a case does.
#[derive(Clone, Copy)]
enum How {
    /// The upstream follows a script, and a client asks once.
    One(Script),
    /// The same, and there is a second upstream, which answers over UDP.
    AndGood(Script),
    /// Something else.
    Own(fn(&Rig<'_>)),
}

/// A row of the table.
struct Case {
    name: &'static str,
    fault: &'static str,
    over: &'static [Over],
    sees: Sees,
    after: After,
    how: How,
}

/// All cases, in the order of the table.
fn cases() -> impl Iterator<Item = &'static Case> {
    [cases::CASES, streams::CASES, network::CASES]
        .into_iter()
        .flatten()
}

/// The text of a panic.
fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic".to_owned())
}

#[test]
fn clients_see_what_the_table_of_faults_says() {
    let Some(lab) = lab("clients_see_what_the_table_of_faults_says") else {
        return;
    };
    let selected = env::var("FAULT").unwrap_or_default();
    let mut runs: Vec<(&Case, Over)> = cases()
        .filter(|case| case.name.contains(&selected))
        .flat_map(|case| case.over.iter().map(move |over| (case, *over)))
        .collect();
    // The last ones take longest.
    runs.reverse();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let authority = Authority::new();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((case, over)) = runs.get(number) else {
                        return;
                    };
                    if let Err(error) = run(&lab, &authority, number, case, *over) {
                        let text = format!("{}, {over:?}: {error}", case.name);
                        failed.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        runs.len(),
        failed.join("\n")
    );
}

/// Runs a case. Where a reply only comes late, the machine may have been busy: it has another try.
fn run(
    lab: &Lab,
    authority: &Authority,
    number: usize,
    case: &Case,
    over: Over,
) -> Result<(), String> {
    let attempt = |number| {
        let rig = Rig::new(lab, authority, number, case, over);
        let ended = catch_unwind(AssertUnwindSafe(|| match case.how {
            How::One(script) => rig.ask_one(script, false),
            How::AndGood(script) => rig.ask_one(script, true),
            How::Own(own) => own(&rig),
        }));
        ended.map_err(|panic| (rig.was_late(), reason(panic.as_ref())))
    };
    match attempt(number) {
        Err((true, _)) => attempt(number + RETRIES).map_err(|(_, text)| text),
        result => result.map_err(|(_, text)| text),
    }
}

/// Numbers of cases that have another try are higher by this.
const RETRIES: usize = 500;

/// The table in Markdown.
fn table() -> String {
    let mut table = String::from(
        "| fault | asked by | the client gets | after | case |\n|---|---|---|---|---|\n",
    );
    for case in cases() {
        let over: Vec<&str> = (case.over.iter())
            .map(|over| match over {
                Udp => "UDP",
                Tcp => "TCP",
                Tls => "TLS",
            })
            .collect();
        table += &format!(
            "| {} | {} | {} | {} | `{}` |\n",
            case.fault,
            over.join(", "),
            case.sees,
            case.after,
            case.name
        );
    }
    table
}

#[test]
fn the_documentation_has_the_table_of_faults() {
    let mut names: Vec<&str> = cases().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases().count(), "each has a name of its own");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/forwarding.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text
        .split_once("| fault | asked by")
        .expect("a table of faults");
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let mut right = format!("{before}{}", table());
    if !after.is_empty() {
        right += &format!("\n{after}");
    }
    if env::var_os("UPDATE").is_some_and(|update| update == "1") {
        fs::write(&path, right).unwrap();
    } else {
        assert!(
            text == right,
            "docs/forwarding.md has another table of faults than the cases; after \
             UPDATE=1 cargo test -p heimdall-user --test e2e -- has_the_table_of_faults it has these"
        );
    }
}
