//! The clients' queries, as frames to the server.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    path::Path,
};

use anyhow::{Context, Result, bail};
use etherparse::PacketBuilder;
use heimdall_user::checksum;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use nix::ifaddrs::getifaddrs;

use super::{Args, TIMEOUT};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// Where the UDP header begins.
pub(super) const UDP: usize = ETHERNET + IPV4;
/// Where the message begins.
pub(super) const DNS: usize = UDP + 8;

/// A query in a frame, except for its source port, its ID and its checksum.
pub(super) struct Template {
    pub(super) frame: Vec<u8>,
    /// The sum over the pseudo-header and the datagram, those fields being zero.
    pub(super) sum: u64,
    /// Whether its latency counts.
    pub(super) counts: bool,
}

/// A query for each name of the file.
pub(super) fn templates(args: &Args) -> Result<Vec<Template>> {
    let messages = messages(&args.names)?;
    let (first, _) = messages.first().context("there are no names")?;
    let route = Route::find(args, first)?;
    let template = |(msg, counts): &(Vec<u8>, bool)| route.template(msg, *counts);
    messages.iter().map(template).collect()
}

/// A message for each name of the file, and whether its latency counts.
fn messages(path: &Path) -> Result<Vec<(Vec<u8>, bool)>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let message = |(number, line)| {
        message(line).with_context(|| {
            let line = number + 1;
            format!("{}:{line}: not a name and a type", path.display())
        })
    };
    text.lines().enumerate().map(message).collect()
}

/// A query without EDNS, with ID 0 and recursion desired.
fn message(line: &str) -> Option<(Vec<u8>, bool)> {
    let mut words = line.split_whitespace();
    let (name, qtype) = (words.next()?, words.next()?);
    let qtype: RecordType = qtype.parse().ok()?;
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).ok()?, qtype));
    Some((message.to_vec().ok()?, words.next().is_none()))
}

/// From the clients to the server.
struct Route {
    client: Ipv4Addr,
    server: SocketAddrV4,
    /// The link addresses of both.
    links: [[u8; 6]; 2],
}

impl Route {
    /// Sends the server a first query over a socket: this resolves its link address, and shows that it
    /// answers.
    fn find(args: &Args, query: &[u8]) -> Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(args.server)?;
        socket.send(query)?;
        (socket.recv(&mut [0; 512])).with_context(|| format!("{} does not answer", args.server))?;
        let IpAddr::V4(client) = socket.local_addr()?.ip() else {
            bail!("an IPv4 socket has an IPv4 address");
        };
        let own = getifaddrs()?
            .filter(|address| address.interface_name == args.interface)
            .find_map(|address| address.address?.as_link_addr()?.addr())
            .with_context(|| format!("{} has no link address", args.interface))?;
        // proc_net(5): IP address, hardware type, flags, link address, …
        let neighbours = fs::read_to_string("/proc/net/arp")?;
        let ip = args.server.ip().to_string();
        let server = neighbours
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&ip.as_str()))
            .and_then(|fields| link_address(fields.get(3)?))
            .with_context(|| format!("{ip} is no neighbour"))?;
        Ok(Self {
            client,
            server: args.server,
            links: [own, server],
        })
    }

    fn template(&self, message: &[u8], counts: bool) -> Result<Template> {
        let [client, server] = [self.client, *self.server.ip()].map(|ip| ip.octets());
        let [own, peer] = self.links;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(own, peer)
            .ipv4(client, server, 64)
            .udp(0, self.server.port())
            .write(&mut frame, message)?;
        frame[UDP + 6..DNS].fill(0);
        let length = u16::try_from(8 + message.len())?;
        let pseudo = checksum::add(0, &[client, server].concat());
        let pseudo = checksum::add_u16(checksum::add_u16(pseudo, 17), length);
        let sum = checksum::add(pseudo, &frame[UDP..]);
        Ok(Template { frame, sum, counts })
    }
}

fn link_address(text: &str) -> Option<[u8; 6]> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets: Result<Vec<u8>, _> = octets.collect();
    octets.ok()?.try_into().ok()
}
