//! Load while servers change: clients that check every reply, and dnsperf.

use std::{
    fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    ops::AddAssign,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, Process, SERVER_V4, SERVER_V6, message};
use nix::sys::signal::Signal;

use crate::{client::query, recover::Off};

/// The server's address on the link that AF_XDP does not serve.
pub(crate) const OTHER: &str = "10.54.0.1";

/// How long a reply is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Adds a link between the two hosts that AF_XDP does not serve: its queries come by the sockets.
pub(crate) fn second_link(lab: &Lab) {
    let add = format!(
        "link add other type veth peer name other netns {}",
        lab.client
    );
    lab.server_ip(&add).unwrap();
    lab.server_ip("addr add 10.54.0.1/24 dev other").unwrap();
    lab.client_ip("addr add 10.54.0.2/24 dev other").unwrap();
    lab.server_ip("link set other up").unwrap();
    lab.client_ip("link set other up").unwrap();
}

/// What a client saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    /// Queries without a reply, and why.
    pub(crate) lost: Vec<String>,
    /// Replies to other queries, or with another answer.
    pub(crate) wrong: Vec<String>,
    /// Connections that the server closed while no query waited.
    pub(crate) closed: u64,
    /// The longest time that a reply took.
    pub(crate) longest: Duration,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.asked += other.asked;
        self.lost.extend(other.lost);
        self.wrong.extend(other.wrong);
        self.closed += other.closed;
        self.longest = self.longest.max(other.longest);
    }
}

impl Tally {
    /// That it asked, and no query was lost or answered wrongly.
    pub(crate) fn assert_complete(&self, what: &str) {
        assert!(self.asked > 0, "{what}: {self:?}");
        assert!(
            self.lost.is_empty() && self.wrong.is_empty(),
            "{what}: {self:?}"
        );
    }
}

/// Queries for names that are cached after the first time, and for names that are asked for once.
struct Queries {
    number: u32,
    /// Distinguishes the names of clients.
    client: u32,
}

impl Queries {
    /// The next query, and the address in the answer to it.
    fn next(&mut self) -> (Vec<u8>, [u8; 4]) {
        self.number += 1;
        let (name, address) = match self.number % 4 {
            0 => {
                let name = format!("{}-{}.wild.example.com", self.client, self.number);
                (name, [192, 0, 2, 4])
            }
            _ => {
                let host = self.number % 500;
                (
                    format!("n{host}.example.com"),
                    [10, 0, (host / 256) as u8, host as u8],
                )
            }
        };
        (query(self.number as u16, &name), address)
    }
}

/// Whether a reply is the right one.
fn is_right(reply: &[u8], query: &[u8], address: [u8; 4]) -> bool {
    let no_error = reply.get(3).is_some_and(|flags| flags & 0x0f == 0);
    no_error
        && reply[..2] == query[..2]
        && reply.get(12..query.len()) == query.get(12..)
        && reply.ends_with(&address)
}

/// A client that asks over UDP, one query after another, for as long as `on` is set.
fn udp(server: &str, client: u32, on: &AtomicBool) -> Tally {
    let server = SocketAddr::new(server.parse::<IpAddr>().unwrap(), 53);
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut queries = Queries { number: 0, client };
    let mut tally = Tally::default();
    let mut buf = [0; 4096];
    while on.load(Ordering::Relaxed) {
        let (query, address) = queries.next();
        tally.asked += 1;
        let sent = Instant::now();
        let received = socket.send(&query).and_then(|_| socket.recv(&mut buf));
        tally.longest = tally.longest.max(sent.elapsed());
        match received {
            Ok(len) if is_right(&buf[..len], &query, address) => {}
            Ok(len) => tally.wrong.push(format!("{:?} to {query:?}", &buf[..len])),
            Err(error) => tally
                .lost
                .push(format!("{server} {}: {error}", queries.number)),
        }
        thread::sleep(Duration::from_micros(300));
    }
    tally
}

/// A client with one TCP connection, on which two queries wait at a time, and the second comes in two pieces.
fn tcp(server: &str, client: u32, on: &AtomicBool) -> Tally {
    let server = SocketAddr::new(server.parse::<IpAddr>().unwrap(), 53);
    let connect = || -> io::Result<TcpStream> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    };
    let mut queries = Queries { number: 0, client };
    let mut tally = Tally::default();
    let mut stream = connect().unwrap();
    while on.load(Ordering::Relaxed) {
        if is_closed(&stream) {
            tally.closed += 1;
            match connect() {
                Ok(next) => stream = next,
                Err(error) => {
                    tally.lost.push(format!("{server}: connect: {error}"));
                    continue;
                }
            }
        }
        let pair = [queries.next(), queries.next()];
        tally.asked += 2;
        let sent = Instant::now();
        let exchanged = exchange(&mut stream, &pair);
        tally.longest = tally.longest.max(sent.elapsed());
        match exchanged {
            Ok(true) => {}
            Ok(false) => tally.wrong.push(format!("{pair:?}")),
            Err(error) => {
                tally
                    .lost
                    .push(format!("{server} {}: {error}", queries.number));
                if let Ok(next) = connect() {
                    stream = next;
                }
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    tally
}

/// Whether the server has closed the connection, while nothing waits on it.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether both queries get the right replies.
fn exchange(stream: &mut TcpStream, pair: &[(Vec<u8>, [u8; 4]); 2]) -> io::Result<bool> {
    let framed: Vec<u8> = pair
        .iter()
        .flat_map(|(query, _)| [&(query.len() as u16).to_be_bytes()[..], query].concat())
        .collect();
    let (first, second) = framed.split_at(framed.len() - 9);
    stream.write_all(first)?;
    thread::sleep(Duration::from_millis(2));
    stream.write_all(second)?;
    let mut right = true;
    for _ in pair {
        let reply = message::read_framed(stream)?;
        let asked = pair.iter().find(|(query, _)| query[..2] == reply[..2]);
        right &= asked.is_some_and(|(query, address)| is_right(&reply, query, *address));
    }
    Ok(right)
}

/// Runs `work` under the load of clients of all kinds: by AF_XDP, by the sockets of a link that it does not serve, over
/// TCP on both. Returns what they saw, in this order, the two over TCP together; and what `work` returns.
pub(crate) fn checked<T>(lab: &Lab, work: impl FnOnce() -> T) -> ([Tally; 3], T) {
    let on = &AtomicBool::new(true);
    thread::scope(|scope| {
        let mut number = 0;
        let mut start = |client: fn(&str, u32, &AtomicBool) -> Tally, server: &'static str| {
            number += 1;
            scope.spawn(move || lab.in_client(|| client(server, number, on)).unwrap())
        };
        let clients = [
            (0, start(udp, SERVER_V4)),
            (0, start(udp, SERVER_V6)),
            (1, start(udp, OTHER)),
            (2, start(tcp, SERVER_V4)),
            (2, start(tcp, OTHER)),
        ];
        let result = {
            // They end in any case.
            let _off = Off(on);
            work()
        };
        let mut tallies = [(); 3].map(|()| Tally::default());
        for (path, client) in clients {
            tallies[path] += client.join().unwrap();
        }
        (tallies, result)
    })
}

/// Waits until a server answers by every path.
pub(crate) fn assert_answers(lab: &Lab) {
    for server in [SERVER_V4, SERVER_V6, OTHER] {
        for transport in ["+notcp", "+tcp"] {
            let at = format!("@{server}");
            let arguments = [&at, "n1.example.com", transport, "+retry=3"];
            let reply = lab::Kdig::ask(lab, &arguments).unwrap();
            assert_eq!(reply.status, "NOERROR", "{server} {transport}");
        }
    }
}

/// A running dnsperf, at a steady rate.
pub(crate) struct Dnsperf {
    process: Process,
    what: String,
    begin: Instant,
}

impl Dnsperf {
    /// Starts one that asks `server` for the hosts in `queries`, `rate` times a second.
    pub(crate) fn start(lab: &Lab, server: &str, mode: &str, queries: &Path, rate: u64) -> Self {
        let mut command = lab.on_client("dnsperf");
        // As many sockets as it takes for their buffers to hold what comes while it waits for a core: a reply that they have
        // no room for looks like a lost query.
        command
            .args(["-s", server, "-m", mode, "-Q", &rate.to_string()])
            .args(["-c", "40", "-T", "1", "-q", "1000", "-l", "3600", "-d"])
            .arg(queries);
        Self {
            process: Process::start(&mut command).unwrap(),
            what: format!("dnsperf {mode} {server}"),
            begin: Instant::now(),
        }
    }

    /// Writes a file of queries for hosts of the upstream.
    pub(crate) fn queries(path: &Path) {
        let queries = (0..2000).map(|host| format!("n{host}.example.com. A\n"));
        fs::write(path, queries.collect::<String>()).unwrap();
    }

    /// Ends it, and asserts that every query got NOERROR.
    pub(crate) fn assert_complete(mut self) {
        self.process.signal(Signal::SIGINT).unwrap();
        self.process.wait(Duration::from_secs(30)).unwrap();
        let (what, output) = (&self.what, self.process.output());
        let number = |mark: &str| -> u64 {
            let rest = output
                .split(mark)
                .nth(1)
                .unwrap_or_else(|| panic!("{what}: {output}"));
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        let completed = number("Queries completed:");
        assert!(completed > 0, "{what}: {output}");
        assert_eq!(number("Queries lost:"), 0, "{what}: {output}");
        assert_eq!(
            number("Response codes:       NOERROR"),
            completed,
            "{what}: {output}"
        );
        let seconds = self.begin.elapsed().as_secs_f64();
        eprintln!(
            "{what}: {completed} queries, {:.0} a second",
            completed as f64 / seconds
        );
    }
}
