//! Frames sent and received as they are, from the lab's client: VLAN tags, padding, fragments and
//! options that no ordinary client sends.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, SlicedPacket, TransportSlice, UdpHeader};
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType,
            bind, recv, send, sendmmsg, setsockopt, socket, sockopt::ReceiveTimeout,
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
    pub fn open(lab: &Lab) -> Result<Self> {
        Self::with_protocol(lab, Some(SockProtocol::EthAll))
    }

    /// Opens one that receives nothing, to [send many](Self::send_all).
    pub fn sender(lab: &Lab) -> Result<Self> {
        Self::with_protocol(lab, None)
    }

    fn with_protocol(lab: &Lab, protocol: Option<SockProtocol>) -> Result<Self> {
        let client = lab.in_client(|| link(&lab.client_if))??;
        let server = lab.in_server(|| link(&lab.server_if))??;
        let open = || -> Result<OwnedFd> {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                protocol,
            )?;
            // The address names no protocol, so the socket's stays (packet(7)).
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
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Err(nix::errno::Errno::ENOBUFS) => thread::sleep(Duration::from_millis(1)),
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// Sends frames with as few system calls as the kernel allows.
    pub fn send_all<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        let slices: Vec<_> = frames.map(|frame| [IoSlice::new(frame)]).collect();
        let mut rest = &slices[..];
        while !rest.is_empty() {
            let mut headers = MultiHeaders::<()>::preallocate(rest.len(), None);
            let (to, flags) = (vec![None; rest.len()], MsgFlags::empty());
            let socket = self.socket.as_raw_fd();
            match sendmmsg(socket, &mut headers, rest.iter(), to, [], flags) {
                Ok(sent) => rest = &rest[sent.count()..],
                Err(nix::errno::Errno::ENOBUFS) => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next frame, sent ones included; `None` if none comes for 200 ms. The kernel takes the
    /// outer VLAN tag out.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 16_384];
        let len = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }

    /// Sends a query, and waits for the reply: its message. `None` if it does not come. What was received before is
    /// dropped.
    pub fn exchange(&self, query: &QueryFrame) -> Result<Option<Vec<u8>>> {
        while recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok() {}
        self.send(&query.bytes())?;
        let id = query.dns().first_chunk::<2>().copied();
        let reply = |frame: Vec<u8>| {
            let packet = SlicedPacket::from_ethernet(&frame).ok()?;
            let Some(TransportSlice::Udp(udp)) = packet.transport else {
                return None;
            };
            let is_reply = udp.source_port() == 53
                && udp.destination_port() == query.port
                && udp.payload().first_chunk() == id.as_ref();
            is_reply.then(|| udp.payload().to_vec())
        };
        Ok(std::iter::from_fn(|| self.receive()).find_map(reply))
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
    /// The whole DNS message, if it is not that of the fields above.
    pub message: Option<Vec<u8>>,
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
            message: None,
            padded_to: 0,
            options: vec![],
        }
    }

    /// The DNS message.
    pub fn dns(&self) -> Vec<u8> {
        if let Some(message) = &self.message {
            return message.clone();
        }
        let mut query = message::query(self.id, &self.name, self.qtype.into());
        query.edns = self.udp_size.map(message::edns);
        message::octets(&query)
    }

    /// The UDP datagram.
    fn datagram(&self) -> Vec<u8> {
        let dns = self.dns();
        let header = if self.v6 {
            UdpHeader::with_ipv6_checksum(self.port, 53, &ipv6(), &dns)
        } else {
            UdpHeader::with_ipv4_checksum(self.port, 53, &ipv4(), &dns)
        };
        [&header.unwrap().to_bytes()[..], &dns].concat()
    }

    /// A packet with the datagram, or a part of it at this offset in octets; whether more follows.
    fn packet(&self, part: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        if self.v6 {
            return self.ipv6(part, fragment);
        }
        let (offset, more) = fragment.unwrap_or_default();
        let mut header = ipv4();
        header.identification = self.id;
        header.dont_fragment = fragment.is_none();
        header.more_fragments = more;
        header.fragment_offset = (offset / 8).try_into().unwrap();
        header.options = self.options[..].try_into().unwrap();
        header.set_payload_len(part.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], part].concat()
    }

    fn ipv6(&self, part: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        let (mut next, mut payload) = (17, part.to_vec());
        if let Some((offset, more)) = fragment {
            // RFC 8200, section 4.5: the offset in units of eight octets, above three bits.
            let field = (offset | u16::from(more)).to_be_bytes();
            let id = u32::from(self.id).to_be_bytes();
            payload = [&[next, 0][..], &field, &id, &payload].concat();
            next = 44;
        }
        if !self.options.is_empty() {
            let units = (self.options.len() + 2) / 8 - 1;
            payload = [&[next, units as u8][..], &self.options, &payload].concat();
            next = 60;
        }
        let mut header = ipv6();
        header.next_header = next.into();
        header.payload_length = payload.len() as u16;
        [&header.to_bytes()[..], &payload].concat()
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
        self.frame(&self.packet(&self.datagram(), None))
    }

    /// The query in two fragments.
    pub fn fragments(&self) -> [Vec<u8>; 2] {
        let datagram = self.datagram();
        let (first, second) = datagram.split_at(16);
        [(first, (0, true)), (second, (16, false))]
            .map(|(part, fragment)| self.frame(&self.packet(part, Some(fragment))))
    }
}

/// A header from the lab's client to its server.
fn ipv4() -> Ipv4Header {
    let [source, destination] = [CLIENT_V4, SERVER_V4].map(|text| {
        let address: Ipv4Addr = text.parse().unwrap();
        address.octets()
    });
    Ipv4Header::new(0, 64, IpNumber::UDP, source, destination).unwrap()
}

fn ipv6() -> Ipv6Header {
    let [source, destination] = [CLIENT_V6, SERVER_V6].map(|text| {
        let address: Ipv6Addr = text.parse().unwrap();
        address.octets()
    });
    Ipv6Header {
        next_header: IpNumber::UDP,
        hop_limit: 64,
        source,
        destination,
        ..Ipv6Header::default()
    }
}
