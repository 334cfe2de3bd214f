//! Questions to a server in the lab, and the answers that are expected.

use anyhow::{Context, Result, bail};
use lab::Kdig;

use crate::stop::Stop;

/// About the zones of Knot DNS in the lab (`lab::Knot`). A line a question: over IPv4 or IPv6, what kdig is
/// given, the expected response code, and a part of a record.
pub(crate) const QUESTIONS: &str = "\
v4 example.com A = NOERROR A 192.0.2.1
v4 www.example.com A +dnssec = NOERROR CNAME
v6 example.com MX = NOERROR MX 10 mail
v4 n4711.example.com A +tcp = NOERROR 10.0.18.103
v4 nowhere.example.com A = NXDOMAIN
v4 big.example.com TXT = NOERROR TXT \"59\u{20}
v6 n4712.example.com A +tcp = NOERROR 10.0.18.104";

/// Asks the servers, by IPv4 and by IPv6, each question twice, and prints the answers; fails at a wrong one.
pub(crate) fn ask_all(
    questions: &str,
    ask: impl Fn(&[&str]) -> Result<Kdig>,
    servers: [&str; 2],
    stop: &Stop,
) -> Result<()> {
    println!("\nQuestions (kdig):");
    for line in questions.lines() {
        let (question, expected) = line.split_once(" = ").context("no answer expected")?;
        let (family, question) = question.split_once(' ').context("no question")?;
        let (status, record) = expected.split_once(' ').unwrap_or((expected, ""));
        let server = servers[usize::from(family == "v6")];
        let at = format!("@{server}");
        let arguments: Vec<&str> = [at.as_str()]
            .into_iter()
            .chain(question.split(' '))
            .collect();
        for round in ["cold", "warm"] {
            stop.check()?;
            let reply = ask(&arguments)
                .with_context(|| format!("no answer for {question} from {server}"))?;
            let answer = match reply.answer.as_slice() {
                [] => String::new(),
                [one] => brief(one),
                [first, rest @ ..] => format!("{} … and {} more", brief(first), rest.len()),
            };
            println!(
                "  {round} {:3} {server:9} {:28} {:8} {:6.2} ms  {answer}",
                reply.transport,
                arguments[1..3].join(" "),
                reply.status,
                reply.time,
            );
            let found = reply.answer.iter().any(|one| one.contains(record));
            if reply.status != status || !(found || record.is_empty()) {
                bail!("a wrong answer: expected {expected}");
            }
        }
    }
    Ok(())
}

/// As much of a record as fits in a line.
fn brief(record: &str) -> String {
    record.chars().take(60).collect()
}
