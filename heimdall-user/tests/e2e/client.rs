//! A client whose queries are texts (`scenarios/language.rs`), and a configuration file that can be
//! changed while a server runs.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use hickory_proto::rr::RecordType;
use lab::{CLIENT_V4, CLIENT_V6, Heimdall, Lab, SERVER_V4, SERVER_V6, UPSTREAM, message};
use tempfile::TempDir;

use crate::{program, scenarios::language};

/// Stands for a reply that did not come.
pub(crate) const NOTHING: &str = "nothing";
/// Stands for a connection that the server closed.
pub(crate) const CLOSED: &str = "closed";

/// How long a reply is waited for.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// A query for A records of `name`.
pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
    message::octets(&message::query(id, name, RecordType::A))
}

/// A client in the lab with one UDP socket.
pub(crate) struct DnsClient<'a> {
    lab: &'a Lab,
    server: &'static str,
    udp: UdpSocket,
}

impl<'a> DnsClient<'a> {
    /// One that asks over IPv4.
    pub(crate) fn v4(lab: &'a Lab) -> Self {
        Self::new(lab, CLIENT_V4, SERVER_V4)
    }

    /// One that asks over IPv6.
    pub(crate) fn v6(lab: &'a Lab) -> Self {
        Self::new(lab, CLIENT_V6, SERVER_V6)
    }

    /// One that asks this address, over IPv4.
    pub(crate) fn of(lab: &'a Lab, server: &'static str) -> Self {
        Self::new(lab, CLIENT_V4, server)
    }

    fn new(lab: &'a Lab, client: &str, server: &'static str) -> Self {
        // A socket stays in the namespace that it was made in.
        let connect = || {
            let socket = UdpSocket::bind((client, 0)).unwrap();
            socket.connect((server, 53)).unwrap();
            socket
        };
        let udp = lab.in_client(connect).unwrap();
        Self { lab, server, udp }
    }

    /// Sends a query over UDP: the reply as text, or [`NOTHING`].
    pub(crate) fn udp(&self, query: &str) -> String {
        let query = language::query(query);
        match self.udp_octets(&query, TIMEOUT) {
            Some(reply) => language::reply(&reply, &query),
            None => NOTHING.to_owned(),
        }
    }

    /// Sends a message over UDP, and waits for the reply.
    pub(crate) fn udp_octets(&self, msg: &[u8], timeout: Duration) -> Option<Vec<u8>> {
        self.udp.send(msg).unwrap();
        self.receive(timeout)
    }

    /// Sends a query over UDP, and does not wait for the reply.
    pub(crate) fn udp_send(&self, query: &str) {
        self.udp.send(&language::query(query)).unwrap();
    }

    /// The next reply, taken as one to this query: as text, or [`NOTHING`].
    pub(crate) fn udp_reply(&self, query: &str) -> String {
        let reply = self.receive(TIMEOUT);
        reply.map_or(NOTHING.to_owned(), |reply| {
            language::reply(&reply, &language::query(query))
        })
    }

    /// Sends a query over UDP that should get no reply; what comes within 200 ms, as text.
    pub(crate) fn udp_in_vain(&self, query: &str) -> String {
        let query = language::query(query);
        let reply = self.udp_octets(&query, Duration::from_millis(200));
        reply.map_or(NOTHING.to_owned(), |reply| language::reply(&reply, &query))
    }

    /// Sends a query `times` times at once: the replies, as text.
    pub(crate) fn udp_at_once(&self, query: &str, times: usize) -> Vec<String> {
        let query = language::query(query);
        for _ in 0..times {
            self.udp.send(&query).unwrap();
        }
        std::iter::from_fn(|| self.receive(Duration::from_millis(500)))
            .take(times)
            .map(|reply| language::reply(&reply, &query))
            .collect()
    }

    /// Sends a query so many times, some at once, and waits for the replies without looking at them.
    pub(crate) fn udp_often(&self, query: &[u8], times: usize) {
        /// Fewer than a ring or a socket holds.
        const AT_ONCE: usize = 64;
        for _ in 0..times.div_ceil(AT_ONCE) {
            for _ in 0..AT_ONCE {
                self.udp.send(query).unwrap();
            }
            for _ in 0..AT_ONCE {
                if self.receive(Duration::from_millis(500)).is_none() {
                    break;
                }
            }
        }
    }

    /// Asks over UDP with this COOKIE option, in hex: that of the reply. A valid server cookie comes back as it is.
    pub(crate) fn cookie(&self, given: &str) -> String {
        let query = language::query(&format!("www.example A rd edns option=10:{given}"));
        language::cookie(&self.udp_octets(&query, TIMEOUT).unwrap()).unwrap()
    }

    fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.udp.set_read_timeout(Some(timeout)).unwrap();
        let mut buf = vec![0; 65_535];
        let len = self.udp.recv(&mut buf).ok()?;
        buf.truncate(len);
        Some(buf)
    }

    /// Sends a query over a new connection: the reply as text, or [`NOTHING`] or [`CLOSED`].
    pub(crate) fn tcp(&self, query: &str) -> String {
        let query = language::query(query);
        match self.tcp_octets(&query) {
            Ok(reply) => language::reply(&reply, &query),
            Err(error) if error.kind() == ErrorKind::WouldBlock => NOTHING.to_owned(),
            Err(_) => CLOSED.to_owned(),
        }
    }

    /// Sends a message over a new connection, and waits for the reply.
    pub(crate) fn tcp_octets(&self, msg: &[u8]) -> io::Result<Vec<u8>> {
        let connect = || TcpStream::connect((self.server, 53));
        let mut stream = self.lab.in_client(connect).unwrap()?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        message::exchange(&mut stream, msg)
    }
}

/// A configuration file.
pub(crate) struct Settings {
    directory: TempDir,
    path: String,
}

impl Settings {
    /// One with this text.
    pub(crate) fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("heimdall.toml").display().to_string();
        let settings = Self { directory, path };
        settings.write(text);
        settings
    }

    /// Replaces the text atomically.
    pub(crate) fn write(&self, text: &str) {
        let new = self.directory.path().join("new.toml");
        fs::write(&new, text).unwrap();
        fs::rename(new, Path::new(&self.path)).unwrap();
    }

    /// Its path.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Starts a server with it, on AF_XDP and with the lab's upstream.
    pub(crate) fn on_xdp(&self, lab: &Lab) -> Heimdall {
        Heimdall::on_xdp(lab, program(), &self.arguments()).unwrap()
    }

    /// The same on sockets alone.
    pub(crate) fn on_sockets(&self, lab: &Lab) -> Heimdall {
        Heimdall::on_sockets(lab, program(), &self.arguments()).unwrap()
    }

    fn arguments(&self) -> [&str; 4] {
        ["--upstream", UPSTREAM, "--config", &self.path]
    }
}
