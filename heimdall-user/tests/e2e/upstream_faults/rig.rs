//! A server, upstreams and a client of one case.

use std::{
    collections::HashMap,
    fs,
    net::UdpSocket,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lab::{Authority, CLIENT_V4, Heimdall, Lab, Received, SERVER_V4, ScriptedUpstream, Step};
use tempfile::TempDir;

use super::{
    ATTEMPTS, After, Case, Over, Sees, TIMEOUT_MS,
    script::{Query, Script, good},
};
use crate::{client::NOTHING, program, scenarios::language};

/// The name in the upstreams' certificates.
pub(super) const NAME: &str = "dns.example";

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a case has.
pub(super) struct Rig<'a> {
    pub(super) lab: &'a Lab,
    pub(super) authority: &'a Authority,
    pub(super) over: Over,
    case: &'a Case,
    number: u16,
    late: AtomicBool,
}

/// A running server, and its settings.
pub(super) struct Server {
    pub(super) heimdall: Heimdall,
    port: u16,
    _settings: TempDir,
}

impl<'a> Rig<'a> {
    pub(super) fn new(
        lab: &'a Lab,
        authority: &'a Authority,
        number: usize,
        case: &'a Case,
        over: Over,
    ) -> Self {
        Self {
            lab,
            authority,
            over,
            case,
            number: number as u16,
            late: AtomicBool::new(false),
        }
    }

    /// Whether a reply was right, but late.
    pub(super) fn was_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// The time that an upstream of this transport has to respond.
    pub(super) fn timeout(&self) -> Duration {
        let factor = match self.over {
            Over::Udp => 1,
            Over::Tcp => 2,
            Over::Tls => 3,
        };
        Duration::from_millis(factor * TIMEOUT_MS)
    }

    /// A port for an upstream of this case: there are ten.
    pub(super) fn port(&self, which: u16) -> u16 {
        assert!(which < 10, "ports 1 to 9");
        20_000 + 10 * self.number + which
    }

    /// Where the case's upstream with this number listens.
    pub(super) fn address(&self, which: u16) -> String {
        format!("127.0.0.1:{}", self.port(which))
    }

    /// An address as `upstream` takes it, for this transport.
    pub(super) fn setting(&self, address: &str) -> String {
        match self.over {
            Over::Udp => address.to_owned(),
            Over::Tcp => format!("tcp://{address}"),
            Over::Tls => format!("tls://{NAME}@{address}"),
        }
    }

    /// Starts an upstream with the case's transport and number 1.
    pub(super) fn upstream(&self, script: Script) -> ScriptedUpstream {
        self.upstream_at(&self.address(1), script)
    }

    /// Starts one at an address in the server's namespace.
    pub(super) fn upstream_at(&self, address: &str, script: Script) -> ScriptedUpstream {
        let sessions = match self.over {
            Over::Tls => vec![self.authority.issue(NAME).server()],
            _ => Vec::new(),
        };
        let steps = self.steps(script);
        ScriptedUpstream::over_tls(self.lab, address, sessions, steps).unwrap()
    }

    /// A script as the lab's upstream takes it.
    pub(super) fn steps(
        &self,
        script: Script,
    ) -> impl Fn(&Received) -> Vec<Step> + Send + Sync + use<> {
        let counts: Mutex<HashMap<String, usize>> = Mutex::default();
        let timeout = self.timeout();
        move |received| {
            let (message, name) = (received.message().unwrap(), received.name().unwrap());
            let mut counts = counts.lock().unwrap();
            let nth = counts.entry(name.clone()).or_default();
            *nth += 1;
            script(&Query {
                received,
                message,
                name,
                nth: *nth,
                timeout,
            })
        }
    }

    /// Starts the second upstream, which has number 2 and answers over UDP; how it is written in the settings.
    pub(super) fn second(&self) -> (ScriptedUpstream, String) {
        let address = self.address(2);
        let steps = self.steps(|query| vec![good(query)]);
        let upstream = ScriptedUpstream::with_script(self.lab, &address, steps).unwrap();
        (upstream, address)
    }

    /// Starts a server with these upstreams, as they are written in the settings.
    pub(super) fn server(&self, upstreams: &[String]) -> Server {
        let port = self.port(0);
        let settings = tempfile::tempdir().unwrap();
        let path = settings.path().join("heimdall.toml");
        let roots = settings.path().join("roots.pem");
        fs::write(&roots, self.authority.roots()).unwrap();
        let text = format!(
            "upstream = {upstreams:?}\n[cache]\nsize = \"1M\"\n[forward]\ntimeout-ms = {TIMEOUT_MS}\n\
             attempts = {ATTEMPTS}\ntls-roots = {roots:?}\n"
        );
        fs::write(&path, text).unwrap();
        let listen = format!("{SERVER_V4}:{port}");
        let config = path.display().to_string();
        let arguments = [
            "--backend",
            "socket",
            "--listen",
            &listen,
            "--config",
            &config,
        ];
        let command = self.lab.on_server(program());
        let heimdall = Heimdall::start(command, program(), &arguments).unwrap();
        Server {
            heimdall,
            port,
            _settings: settings,
        }
    }

    /// What most cases are: the case's upstream follows a script, and a client asks once.
    pub(super) fn ask_one(&self, script: Script, and_good: bool) {
        let _upstream = self.upstream(script);
        self.ask_server_of(self.setting(&self.address(1)), and_good);
    }

    /// Starts a server with this upstream, and perhaps a good one, and asks it.
    pub(super) fn ask_server_of(&self, upstream: String, and_good: bool) {
        let second = and_good.then(|| self.second());
        let second_setting = second.as_ref().map(|(_, setting)| setting.clone());
        let upstreams: Vec<String> = [upstream].into_iter().chain(second_setting).collect();
        self.expect(&self.server(&upstreams), "a.example");
    }

    /// Asks for the address of a name. The reply as text, and the time it took.
    pub(super) fn ask(&self, server: &Server, name: &str, words: &str) -> (String, Duration) {
        let query = language::query(&format!("{name} A rd edns {words}"));
        let connect = || {
            let socket = UdpSocket::bind((CLIENT_V4, 0)).unwrap();
            socket.connect((SERVER_V4, server.port)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let socket = self.lab.in_client(connect).unwrap();
        let begin = Instant::now();
        socket.send(&query).unwrap();
        let mut buffer = [0; 4096];
        let reply = socket.recv(&mut buffer);
        let took = begin.elapsed();
        let reply = reply.map_or(NOTHING.to_owned(), |len| {
            language::reply(&buffer[..len], &query)
        });
        (reply, took)
    }

    /// Asks for a name, and has the case's reply in the case's time.
    pub(super) fn expect(&self, server: &Server, name: &str) {
        self.expect_as(server, name, "", self.case.sees, self.case.after);
    }

    /// Asks for a name that is answered at once.
    pub(super) fn expect_answer(&self, server: &Server, name: &str) {
        self.expect_as(server, name, "", Sees::Answer, After::AtOnce);
    }

    /// Asks for a name with more words of the language; the reply has to be this, in this time.
    pub(super) fn expect_as(
        &self,
        server: &Server,
        name: &str,
        words: &str,
        sees: Sees,
        after: After,
    ) {
        let (reply, took) = self.ask(server, name, words);
        let log = || server.heimdall.process.output();
        assert!(is(&reply, name, sees), "{reply}\nnot {sees}\n{}", log());
        if let Some((least, most)) = after.bounds() {
            let took = took.as_secs_f64() / self.timeout().as_secs_f64();
            self.late.store(took >= most, Ordering::Relaxed);
            // The clocks of two processes may differ by a tick.
            let is_in_time = took >= least - 0.05 && took < most;
            assert!(
                is_in_time,
                "{name}: after {took:.2} time-outs, not {after}\n{}",
                log()
            );
        }
    }
}

/// Whether a reply is as a case says.
pub(super) fn is(reply: &str, name: &str, sees: Sees) -> bool {
    match sees {
        Sees::Answer => {
            let (code, rest) = reply.split_once(" | ").unwrap_or_default();
            // With any TTL: without EDNS it is lower for clients that want DNSSEC records.
            let (question, answer) = rest.split_once(" | ").unwrap_or_default();
            let is_address = answer.contains(" A 192.0.2.1");
            code == "NOERROR qr rd ra" && question == format!("{name}. A") && is_address
        }
        Sees::Servfail(code) => {
            reply.starts_with("SERVFAIL qr rd ra") && reply.ends_with(&format!("ede={code}"))
        }
        Sees::Truncated => reply.starts_with("NOERROR qr tc rd ra"),
        Sees::Text(_) => panic!("the case has no check of its own"),
    }
}
