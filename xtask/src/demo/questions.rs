//! The questions that the demo asks, and the answers that it expects.

use anyhow::{Context, Result, bail};
use lab::Kdig;

use crate::stop::Stop;

/// A question for one of the two servers, and the expected answer.
pub(super) struct Question {
    /// 0 or 1: over IPv4 or IPv6.
    server: usize,
    arguments: &'static [&'static str],
    status: &'static str,
    /// A part of a record of the answer.
    record: &'static str,
}

const fn question(
    server: usize,
    arguments: &'static [&'static str],
    status: &'static str,
    record: &'static str,
) -> Question {
    Question {
        server,
        arguments,
        status,
        record,
    }
}

/// Questions about the zones of Knot DNS in the lab (`lab::Knot`).
pub(super) const ZONES: &[Question] = &[
    question(0, &["example.com", "A"], "NOERROR", "A 192.0.2.1"),
    question(0, &["www.example.com", "A", "+dnssec"], "NOERROR", "CNAME"),
    question(1, &["example.com", "MX"], "NOERROR", "MX 10 mail"),
    question(
        0,
        &["n4711.example.com", "A", "+tcp"],
        "NOERROR",
        "10.0.18.103",
    ),
    question(0, &["nowhere.example.com", "A"], "NXDOMAIN", ""),
    question(0, &["big.example.com", "TXT"], "NOERROR", "TXT \"59 "),
    question(
        1,
        &["n4712.example.com", "A", "+tcp"],
        "NOERROR",
        "10.0.18.104",
    ),
];

/// Questions that the built-in upstream (`lab::FakeUpstream`) has answers for.
pub(super) const BUILT_IN: &[Question] = &[
    question(0, &["host.example.com", "A"], "NOERROR", "A 192.0.2.1"),
    question(1, &["host6.example.com", "A"], "NOERROR", "A 192.0.2.1"),
    question(
        0,
        &["tcp.example.com", "A", "+tcp"],
        "NOERROR",
        "A 192.0.2.1",
    ),
    question(1, &["truncate.example.com", "TXT"], "NOERROR", "TXT"),
    question(0, &["servfail.example.com", "A"], "SERVFAIL", ""),
];

/// Asks each question twice and prints the answers; fails at a wrong one.
pub(super) fn ask_all(
    ask: impl Fn(&[&str]) -> Result<Kdig>,
    servers: [&str; 2],
    questions: &[Question],
    stop: &Stop,
) -> Result<()> {
    println!("\nQuestions (kdig):");
    for question in questions {
        let server = servers[question.server];
        for round in ["cold", "warm"] {
            stop.check()?;
            let at = format!("@{server}");
            let reply = ask(&[&[at.as_str()], question.arguments].concat())
                .with_context(|| format!("no answer for {:?} from {server}", question.arguments))?;
            let answer = match reply.answer.as_slice() {
                [] => String::new(),
                [one] => brief(one),
                [first, rest @ ..] => format!("{} … and {} more", brief(first), rest.len()),
            };
            println!(
                "  {round} {:3} {server:9} {:28} {:8} {:6.2} ms  {answer}",
                reply.transport,
                question.arguments[..2].join(" "),
                reply.status,
                reply.time,
            );
            let found = reply
                .answer
                .iter()
                .any(|record| record.contains(question.record));
            if reply.status != question.status || !(found || question.record.is_empty()) {
                bail!(
                    "a wrong answer: expected {} {}",
                    question.status,
                    question.record
                );
            }
        }
    }
    Ok(())
}

/// As much of a record as fits in a line.
fn brief(record: &str) -> String {
    record.chars().take(60).collect()
}
