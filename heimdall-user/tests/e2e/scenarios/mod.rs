//! Every rule of docs/protocol.md as a line in a table, through the answer core, over AF_XDP, through the
//! hot tier, over a kernel UDP socket and over TCP. The replies have to be the same.

pub(crate) mod language;
mod table;
mod upstream;

use std::{fmt::Write as _, fs, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use heimdall_user::{
    answer::{Client, Core, Transport, Verdict},
    cache::{Cache, MIN_BYTES},
    clock::Now,
    config::{Config, Flags, Host},
    dns::{Answer, NameHasher, TtlLimits, reply::ReplySettings},
    server::PolicyLoader,
};
use hickory_proto::op::Message;
use lab::{CLIENT_V4, Frames, Heimdall, Lab, QueryFrame, ScriptedUpstream, UPSTREAM, message};
use tempfile::TempDir;

use crate::{
    client::{DnsClient, NOTHING},
    lab, program, tier,
};
use table::{FILES, Over, SCENARIOS, SETTINGS, Scenario};

/// A directory with the settings of the table, and their path.
fn settings() -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in FILES {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let path = directory.path().join("heimdall.toml");
    let text = SETTINGS.replace("{directory}", &directory.path().display().to_string());
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

/// The run without a forwarder.
const CORE: &str = "the core";

/// The scenarios of a transport.
fn scenarios(name: &str, over: Over) -> Vec<&'static Scenario> {
    let applies = |scenario: &&Scenario| match scenario.over {
        Over::Any => true,
        Over::Path => name != CORE,
        other => other == over,
    };
    SCENARIOS.iter().filter(applies).collect()
}

/// Where replies differ from the table.
#[derive(Default)]
struct Differences {
    text: String,
    count: usize,
}

impl Differences {
    /// Compares the reply to a scenario's query.
    fn add(&mut self, scenario: &Scenario, round: &str, reply: Option<Vec<u8>>) {
        self.count += 1;
        let query = language::query(scenario.query);
        let reply = reply.map_or(NOTHING.to_owned(), |reply| language::reply(&reply, &query));
        if reply != scenario.reply {
            let _ = writeln!(
                self.text,
                "{}, {round}: {}\n  expected {}\n  got      {reply}",
                scenario.rule, scenario.query, scenario.reply
            );
        }
    }

    fn check(self, name: &str) {
        assert!(self.text.is_empty(), "{name}:\n{}", self.text);
        assert!(self.count > 150, "{name}: the table is there");
    }
}

/// Runs every scenario of this transport twice, for a miss and a hit.
fn run(name: &str, over: Over, mut ask: impl FnMut(&[u8], bool) -> Option<Vec<u8>>) {
    let mut differences = Differences::default();
    for scenario in scenarios(name, over) {
        let query = language::query(scenario.query);
        for round in ["cold", "warm"] {
            let reply = ask(&query, scenario.reply != NOTHING);
            differences.add(scenario, round, reply);
        }
    }
    differences.check(name);
}

/// The answer core with a forwarder that asks the scripted upstream directly.
fn ask_core(core: &mut Core, msg: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let client = Client::new(CLIENT_V4.parse().unwrap(), transport);
    let mut buf = msg.to_vec();
    buf.resize(65_535, 0);
    core.begin(Now {
        seconds: 1,
        unix: 1_800_000_000,
    });
    let verdict = match core.read(msg) {
        Err(malformed) => core.reject(malformed, &mut buf, client),
        Ok(query) => match core.answer(&query, &mut buf, client) {
            Verdict::Miss => {
                let question = msg[12..usize::from(query.question_end)].to_vec();
                let mut sent = message::response(&Message::from_vec(msg).unwrap());
                sent.edns = Some(message::edns(1232));
                sent.edns.as_mut().unwrap().set_dnssec_ok(query.dnssec_ok());
                let answer = upstream::respond(&sent, true).and_then(|response| {
                    let limits = TtlLimits::default();
                    Answer::from_response(&response, &question, query.key_flags(), &limits).ok()
                });
                let answer = answer.unwrap_or_else(|| Answer::failure(2, None, 1));
                core.insert(&query, &buf, &answer);
                core.complete(&query, &mut buf, client, &answer)
            }
            verdict => verdict,
        },
    };
    match verdict {
        Verdict::Reply { reply, .. } => Some(buf[..reply.len].to_vec()),
        Verdict::Drop | Verdict::Miss => None,
    }
}

#[test]
fn scenarios_through_the_answer_core() {
    let (_directory, path) = settings();
    let flags = Flags {
        config: Some(path.into()),
        ..Flags::default()
    };
    let host = Host {
        control: Some("/nowhere".into()),
        ..Host::default()
    };
    let config = Config::load(&flags, &host).unwrap();
    let policy = PolicyLoader::default().load(&config).unwrap();
    let policy = Arc::new(ArcSwap::from_pointee(policy));
    for (over, transport) in [
        (
            Over::Udp,
            Transport::Udp {
                source_port: 40_000,
            },
        ),
        (Over::Tcp, Transport::Tcp),
    ] {
        let mut core = Core::new(
            Cache::new(MIN_BYTES).unwrap(),
            NameHasher::default(),
            ReplySettings::new(config.max_udp_size, config.forward.trust_ad),
            Arc::clone(&policy),
            Arc::default(),
            Arc::default(),
        );
        run(CORE, over, |msg, _| ask_core(&mut core, msg, transport));
    }
}

fn upstream(lab: &Lab) -> ScriptedUpstream {
    ScriptedUpstream::with_script(lab, UPSTREAM, |query| {
        let response = upstream::respond(&query.message().unwrap(), query.tcp);
        response.into_iter().collect::<Vec<_>>()
    })
    .unwrap()
}

/// Runs the scenarios for UDP.
fn run_udp(lab: &Lab, name: &str) {
    let client = DnsClient::v4(lab);
    run(name, Over::Udp, |msg, expected| {
        let timeout = Duration::from_millis(if expected { 5000 } else { 200 });
        client.udp_octets(msg, timeout)
    });
}

#[test]
fn scenarios_over_af_xdp_and_tcp() {
    let Some(lab) = lab("scenarios_over_af_xdp_and_tcp") else {
        return;
    };
    let _upstream = upstream(&lab);
    let (_directory, path) = settings();
    {
        let heimdall = Heimdall::on_xdp(&lab, program(), &["--config", &path]).unwrap();
        run_udp(&lab, "AF_XDP");
        let stats = heimdall.stats().unwrap();
        let left = &stats["sockets"]["udp_received"];
        assert_eq!(
            left, 4,
            "XDP passes responses and runts to the kernel, and nothing else"
        );
    }
    let _heimdall = Heimdall::on_xdp(&lab, program(), &["--config", &path]).unwrap();
    let client = DnsClient::v4(&lab);
    run("TCP", Over::Tcp, |msg, _| client.tcp_octets(msg).ok());
}

#[test]
fn scenarios_through_the_tier() {
    /// Scenarios at a time: their answers are not to age by many seconds before the tier has them.
    const AT_ONCE: usize = 40;
    /// The least number of queries of the table that the tier answers.
    const ANSWERED: u64 = 50;
    let Some(lab) = lab("scenarios_through_the_tier") else {
        return;
    };
    let _upstream = upstream(&lab);
    let (_directory, path) = settings();
    let heimdall = Heimdall::on_xdp(&lab, program(), &["--config", &path]).unwrap();
    let (client, frames) = (DnsClient::v4(&lab), Frames::open(&lab).unwrap());
    let mut differences = Differences::default();
    let mut answered = 0;
    for part in scenarios("the tier", Over::Udp).chunks(AT_ONCE) {
        let queries = part.iter().map(|scenario| language::query(scenario.query));
        let queries: Vec<Vec<u8>> = queries.collect();
        for (scenario, query) in part.iter().zip(&queries) {
            let timeout = if scenario.reply == NOTHING { 200 } else { 5000 };
            let reply = client.udp_octets(query, Duration::from_millis(timeout));
            differences.add(scenario, "cold", reply);
            if scenario.reply.starts_with("NOERROR") || scenario.reply.starts_with("NXDOMAIN") {
                client.udp_often(query, tier::OFTEN);
            }
        }
        tier::settle(&heimdall);
        let before = tier::hits(&heimdall);
        for (scenario, query) in part.iter().zip(queries) {
            // Failures, and what is refused as it is not cached, are other ones the second time.
            if scenario.reply.starts_with("SERVFAIL") || scenario.reply.starts_with("REFUSED") {
                continue;
            }
            // A veth gives a frame hardly any room to grow: here it has enough from the start.
            let frame = QueryFrame {
                message: Some(query),
                padded_to: 700,
                ..QueryFrame::new(frames.macs, "", 0)
            };
            differences.add(scenario, "in the tier", frames.exchange(&frame).unwrap());
        }
        answered += tier::hits(&heimdall) - before;
    }
    differences.check("the tier");
    assert!(answered >= ANSWERED, "{answered} answered by the tier");
}

#[test]
fn scenarios_over_a_kernel_socket() {
    let Some(lab) = lab("scenarios_over_a_kernel_socket") else {
        return;
    };
    let _upstream = upstream(&lab);
    let (_directory, path) = settings();
    let _heimdall = Heimdall::on_sockets(&lab, program(), &["--config", &path]).unwrap();
    run_udp(&lab, "socket");
}
