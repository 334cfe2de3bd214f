//! Every rule of docs/protocol.md as a line in a table, through the answer core, over AF_XDP, over
//! a kernel UDP socket and over TCP. The replies have to be the same.

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
use lab::{CLIENT_V4, Heimdall, Lab, ScriptedUpstream, UPSTREAM, message};
use tempfile::TempDir;

use crate::{client::DnsClient, lab, program};
use table::{FILES, Over, SCENARIOS, SETTINGS};

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

/// Runs every scenario of this transport twice, for a miss and a hit.
fn run(name: &str, over: Over, mut ask: impl FnMut(&[u8], bool) -> Option<Vec<u8>>) {
    let mut differences = String::new();
    let mut count = 0;
    for scenario in SCENARIOS {
        let applies = match scenario.over {
            Over::Any => true,
            Over::Path => name != CORE,
            other => other == over,
        };
        if !applies {
            continue;
        }
        let query = language::query(scenario.query);
        for round in ["cold", "warm"] {
            count += 1;
            let reply = ask(&query, scenario.reply != "nothing");
            let reply = reply.map_or("nothing".to_owned(), |reply| {
                language::reply(&reply, &query)
            });
            if reply != scenario.reply {
                let _ = writeln!(
                    differences,
                    "{}, {round}: {}\n  expected {}\n  got      {reply}",
                    scenario.rule, scenario.query, scenario.reply
                );
            }
        }
    }
    assert!(differences.is_empty(), "{name}:\n{differences}");
    assert!(count > 150, "{name}: the table is there");
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
fn scenarios_over_a_kernel_socket() {
    let Some(lab) = lab("scenarios_over_a_kernel_socket") else {
        return;
    };
    let _upstream = upstream(&lab);
    let (_directory, path) = settings();
    let _heimdall = Heimdall::on_sockets(&lab, program(), &["--config", &path]).unwrap();
    run_udp(&lab, "socket");
}
