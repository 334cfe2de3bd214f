//! Every rule of docs/protocol.md as a line in a table, through the answer core, over AF_XDP, over
//! a kernel UDP socket and over TCP. The replies have to be the same.

pub(crate) mod language;
mod table;
mod upstream;

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use heimdall_user::{
    answer::{Client, Core, Transport, Verdict},
    cache::{Cache, MIN_BYTES},
    clock::Now,
    config::{Config, Flags, Host},
    dns::{Answer, NameHasher, TtlLimits, reply::Server},
    server::PolicyLoader,
};
use lab::{CLIENT_V4, FakeUpstream, Heimdall, Lab, SERVER_V4, UPSTREAM};
use tempfile::TempDir;

use crate::{lab, program};
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

/// Puts every scenario that goes `over` this transport to `ask`, twice: for a look-up that finds
/// nothing, and for one that finds what the first has left.
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

/// The answer core with a forwarder in miniature.
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
                let cd = if query.checking_disabled() { 0x10 } else { 0 };
                let dnssec_ok = if query.dnssec_ok() { 0x80 } else { 0 };
                let mut sent = vec![0, 1, 1, cd, 0, 1, 0, 0, 0, 0, 0, 1];
                sent.extend_from_slice(&question);
                sent.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, dnssec_ok, 0, 0, 0]);
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
    let policy = PolicyLoader::default().load(&config.policy).unwrap();
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
            Server::new(config.max_udp_size, config.forward.trust_ad),
            Arc::clone(&policy),
            Arc::default(),
            Arc::default(),
        );
        run(CORE, over, |msg, _| ask_core(&mut core, msg, transport));
    }
}

fn upstream(lab: &Lab) -> FakeUpstream {
    FakeUpstream::answering(lab, UPSTREAM, |query, over_tcp| {
        upstream::respond(query, over_tcp).into_iter().collect()
    })
    .unwrap()
}

fn ask_udp(socket: &UdpSocket, msg: &[u8], expected: bool) -> Option<Vec<u8>> {
    let patience = if expected { 5000 } else { 200 };
    socket
        .set_read_timeout(Some(Duration::from_millis(patience)))
        .unwrap();
    socket.send(msg).unwrap();
    let mut buf = vec![0; 65_535];
    let len = socket.recv(&mut buf).ok()?;
    buf.truncate(len);
    Some(buf)
}

fn ask_tcp(server: SocketAddr, msg: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let len = (msg.len() as u16).to_be_bytes();
    stream.write_all(&[&len[..], msg].concat()).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut reply).ok()?;
    Some(reply)
}

#[test]
fn scenarios_over_af_xdp_and_tcp() {
    let Some(lab) = lab("scenarios_over_af_xdp_and_tcp") else {
        return;
    };
    let _upstream = upstream(&lab);
    let (_directory, path) = settings();
    let server: SocketAddr = (SERVER_V4.parse::<std::net::IpAddr>().unwrap(), 53).into();
    {
        let heimdall = Heimdall::on_xdp(&lab, program(), &["--config", &path]).unwrap();
        lab.in_client(|| {
            let socket = UdpSocket::bind((CLIENT_V4, 0)).unwrap();
            socket.connect(server).unwrap();
            run("AF_XDP", Over::Udp, |msg, expected| {
                ask_udp(&socket, msg, expected)
            });
        })
        .unwrap();
        let stats = heimdall.stats().unwrap();
        let left = &stats["sockets"]["udp_received"];
        assert_eq!(
            left, 4,
            "XDP leaves responses and runts to the kernel, and nothing else"
        );
    }
    let _heimdall = Heimdall::on_xdp(&lab, program(), &["--config", &path]).unwrap();
    lab.in_client(|| run("TCP", Over::Tcp, |msg, _| ask_tcp(server, msg)))
        .unwrap();
}

#[test]
fn scenarios_over_a_kernel_socket() {
    let Some(lab) = lab("scenarios_over_a_kernel_socket") else {
        return;
    };
    let _upstream = upstream(&lab);
    let (_directory, path) = settings();
    let listen = format!("{SERVER_V4}:53");
    let arguments = [
        "--backend",
        "socket",
        "--listen",
        &listen,
        "--config",
        &path,
    ];
    let _heimdall = Heimdall::start(lab.on_server(program()), program(), &arguments).unwrap();
    lab.in_client(|| {
        let socket = UdpSocket::bind((CLIENT_V4, 0)).unwrap();
        socket.connect(&listen).unwrap();
        run("socket", Over::Udp, |msg, expected| {
            ask_udp(&socket, msg, expected)
        });
    })
    .unwrap();
}
