//! Frames sent and received as they are, from the lab's client: VLAN tags, padding, fragments and
//! options that no ordinary client sends.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

use super::{CLIENT_V4, CLIENT_V6, Lab, SERVER_V4, SERVER_V6, message};

/// A packet socket on the client's interface.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    /// The server's and the client's link addresses: the first octets of a frame to the server.
    pub macs: [u8; 12],
}

impl Frames {
    /// Opens one.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(lab: &Lab) -> Result<Self> {
        let client = lab.in_client(|| link(&lab.client_if))??;
        let server = lab.in_server(|| link(&lab.server_if))??;
        let open = || -> Result<OwnedFd> {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            // The address names no protocol, so the socket's stays: all (packet(7)).
            bind(socket.as_raw_fd(), &client)?;
            setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 200_000))?;
            Ok(socket)
        };
        let socket = lab.in_client(open)??;
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&server.addr().context("no server address")?);
        macs[6..].copy_from_slice(&client.addr().context("no client address")?);
        Ok(Self { socket, macs })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Err(nix::errno::Errno::ENOBUFS) => thread::sleep(Duration::from_millis(1)),
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// The next frame, sent ones included; `None` if none comes for 200 ms. The kernel takes the
    /// outer VLAN tag out.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        let len = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }
}

/// The link address of an interface in the thread's namespace.
fn link(interface: &str) -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|address| address.interface_name == interface)
        .find_map(|address| address.address?.as_link_addr().copied())
        .with_context(|| format!("no link address: {interface}"))
}

/// A DNS query in a frame from the lab's client to its server.
#[derive(Debug, Clone)]
pub struct QueryFrame {
    /// Link addresses, [`Frames::macs`].
    pub macs: [u8; 12],
    /// VLAN tag protocol identifiers, outermost first.
    pub tags: Vec<[u8; 2]>,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// The client's port.
    pub port: u16,
    /// The query's ID.
    pub id: u16,
    /// The queried name, `.` for the root.
    pub name: String,
    /// The queried type.
    pub qtype: u16,
    /// EDNS payload size; `None`: no OPT record.
    pub udp_size: Option<u16>,
    /// Fill the frame up to this length.
    pub padded_to: usize,
    /// IPv4 options, a multiple of four octets; over IPv6 the options of a Destination Options
    /// header (RFC 8200, section 4.6), six octets or eight more than that, and so on.
    pub options: Vec<u8>,
}

impl QueryFrame {
    /// A plain query.
    pub fn new(macs: [u8; 12], name: &str, qtype: u16) -> Self {
        let name = name.to_owned();
        Self {
            macs,
            tags: vec![],
            v6: false,
            port: 40_000,
            id: 1,
            name,
            qtype,
            udp_size: Some(1232),
            padded_to: 0,
            options: vec![],
        }
    }

    /// The DNS message.
    pub fn dns(&self) -> Vec<u8> {
        let mut query = message::query(self.id, &self.name, self.qtype.into());
        query.edns = self.udp_size.map(message::edns);
        message::octets(&query)
    }

    /// The UDP datagram.
    fn datagram(&self) -> Vec<u8> {
        let dns = self.dns();
        let len = (8 + dns.len()) as u16;
        let mut datagram = [
            self.port.to_be_bytes(),
            53u16.to_be_bytes(),
            len.to_be_bytes(),
            [0; 2],
        ]
        .concat();
        datagram.extend_from_slice(&dns);
        let addresses = if self.v6 {
            v6_addresses()
        } else {
            v4_addresses()
        };
        let sum = checksum(&[&addresses[..], &[0, 17], &len.to_be_bytes(), &datagram].concat());
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        datagram
    }

    /// An IPv4 packet that carries a part of the datagram.
    fn ipv4(&self, part: &[u8], fragment: u16) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let len = ((words * 4 + part.len()) as u16).to_be_bytes();
        let mut packet = vec![0x40 | words as u8, 0, len[0], len[1], 0x12, self.id as u8];
        packet.extend_from_slice(&fragment.to_be_bytes());
        packet.extend_from_slice(&[64, 17, 0, 0]);
        packet.extend_from_slice(&v4_addresses());
        packet.extend_from_slice(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(part);
        packet
    }

    /// An IPv6 packet that carries the datagram, or a part of it behind a Fragment header with this
    /// offset and flag (RFC 8200, section 4.5).
    fn ipv6(&self, part: &[u8], fragment: Option<u16>) -> Vec<u8> {
        let (mut next, mut payload) = (17, part.to_vec());
        if let Some(fragment) = fragment {
            let id = u32::from(self.id).to_be_bytes();
            payload = [&[next, 0][..], &fragment.to_be_bytes(), &id, &payload].concat();
            next = 44;
        }
        if !self.options.is_empty() {
            let units = (self.options.len() + 2) / 8 - 1;
            payload = [&[next, units as u8][..], &self.options, &payload].concat();
            next = 60;
        }
        let len = (payload.len() as u16).to_be_bytes();
        let header = [0x60, 0, 0, 0, len[0], len[1], next, 64];
        [&header[..], &v6_addresses(), &payload].concat()
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let mut frame = self.macs.to_vec();
        for tpid in &self.tags {
            frame.extend_from_slice(tpid);
            frame.extend_from_slice(&[0, 7]);
        }
        frame.extend_from_slice(if self.v6 { &[0x86, 0xdd] } else { &[8, 0] });
        frame.extend_from_slice(packet);
        if frame.len() < self.padded_to {
            frame.resize(self.padded_to, 0xaa);
        }
        frame
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let datagram = self.datagram();
        self.frame(&if self.v6 {
            self.ipv6(&datagram, None)
        } else {
            self.ipv4(&datagram, 0x4000)
        })
    }

    /// The query in two fragments.
    pub fn fragments(&self) -> [Vec<u8>; 2] {
        let datagram = self.datagram();
        // Offsets count units of eight octets; IPv6 has its flag, more fragments, below them.
        let (first, second) = datagram.split_at(16);
        if self.v6 {
            [(first, 1), (second, 2 << 3)]
                .map(|(part, field)| self.frame(&self.ipv6(part, Some(field))))
        } else {
            [(first, 0x2000), (second, 2)].map(|(part, field)| self.frame(&self.ipv4(part, field)))
        }
    }
}

/// Source and destination address of a query.
fn v4_addresses() -> Vec<u8> {
    let octets = |text: &str| text.parse().map(|address: Ipv4Addr| address.octets());
    [CLIENT_V4, SERVER_V4]
        .into_iter()
        .flat_map(octets)
        .flatten()
        .collect()
}

fn v6_addresses() -> Vec<u8> {
    let octets = |text: &str| text.parse().map(|address: Ipv6Addr| address.octets());
    [CLIENT_V6, SERVER_V6]
        .into_iter()
        .flat_map(octets)
        .flatten()
        .collect()
}

/// RFC 1071, the plain way.
fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 = data
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
