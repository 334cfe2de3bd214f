//! Requests to the kernel over rtnetlink: links, addresses and routes.
//!
//! Each opens a socket of its own, so any thread may make them, and none while packets are waiting for it.

use std::{io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{libc, net::if_::if_indextoname};

/// Octets of a netlink message's header; the message's length is in its first four.
const HEADER: usize = 16;

/// The name of the interface with this index, if there is one.
pub(crate) fn name_of(index: u32) -> Option<String> {
    // nix 0.31 takes the null pointer that stands for an error as success, with an empty name.
    let name = if_indextoname(index).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}

/// Attributes of the link called `name`.
///
/// # Errors
///
/// ENODEV if there is none in this network namespace.
pub(crate) fn link(name: &str) -> io::Result<LinkMessage> {
    let mut query = LinkMessage::default();
    query
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    match request(RouteNetlinkMessage::GetLink(query))? {
        RouteNetlinkMessage::NewLink(link) => Ok(link),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// All links of this network namespace.
///
/// # Errors
///
/// The kernel does not list them.
pub(crate) fn links() -> io::Result<Vec<LinkMessage>> {
    let messages = dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let links = messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    Ok(links.collect())
}

/// All addresses of this network namespace, of both families.
///
/// # Errors
///
/// The kernel does not list them.
pub(crate) fn addresses() -> io::Result<Vec<AddressMessage>> {
    let messages = dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let addresses = messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    });
    Ok(addresses.collect())
}

/// The interface by which the kernel sends a packet with these addresses, the first of which is this host's.
///
/// # Errors
///
/// ENETUNREACH or another error: there is no route.
pub(crate) fn route(from: IpAddr, to: IpAddr) -> io::Result<u32> {
    let mut query = RouteMessage::default();
    let (family, bits) = family(to);
    query.header.address_family = family;
    query.header.destination_prefix_length = bits;
    query.header.source_prefix_length = bits;
    query.attributes = vec![
        RouteAttribute::Destination(to.into()),
        RouteAttribute::Source(from.into()),
    ];
    match request(RouteNetlinkMessage::GetRoute(query))? {
        RouteNetlinkMessage::NewRoute(route) => {
            let mut attributes = route.attributes.into_iter();
            let interface = attributes.find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(index),
                _ => None,
            });
            interface.ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether packets to an address are for this host itself.
///
/// # Errors
///
/// ENETUNREACH or another error: there is no route.
pub(crate) fn is_local(ip: IpAddr) -> io::Result<bool> {
    let mut query = RouteMessage::default();
    let (family, bits) = family(ip);
    query.header.address_family = family;
    query.header.destination_prefix_length = bits;
    query.attributes = vec![RouteAttribute::Destination(ip.into())];
    match request(RouteNetlinkMessage::GetRoute(query))? {
        RouteNetlinkMessage::NewRoute(route) => Ok(route.header.kind == RouteType::Local),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Makes an interface of the kind dummy, which is up.
///
/// # Errors
///
/// EEXIST: there is an interface of this name. EOPNOTSUPP: the kernel has no such interfaces. EPERM: it takes CAP_NET_ADMIN.
pub(crate) fn make_dummy(name: &str) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
    ];
    change(
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Gives the interface with this index an address that is a host by itself (/32, /128). It is valid at once: no other
/// host is asked whether it has the address, too (RFC 4862 section 5.4).
///
/// # Errors
///
/// EEXIST: it has the address. EPERM: it takes CAP_NET_ADMIN.
pub(crate) fn add_address(interface: u32, ip: IpAddr) -> io::Result<()> {
    change(
        RouteNetlinkMessage::NewAddress(host_address(interface, ip)),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Takes such an address away.
///
/// # Errors
///
/// EADDRNOTAVAIL: it has no such address. EPERM: it takes CAP_NET_ADMIN.
pub(crate) fn remove_address(interface: u32, ip: IpAddr) -> io::Result<()> {
    change(
        RouteNetlinkMessage::DelAddress(host_address(interface, ip)),
        0,
    )
}

fn host_address(interface: u32, ip: IpAddr) -> AddressMessage {
    let (family, bits) = family(ip);
    let mut message = AddressMessage::default();
    message.header.family = family;
    message.header.prefix_len = bits;
    message.header.index = interface;
    message.header.scope = AddressScope::Universe;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(ip),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    message
}

/// The number that tells routes of Heimdall from those of others (`rtm_protocol`): the port of DNS, which no program that
/// iproute2 knows has.
const ROUTE_PROTOCOL: u8 = 53;

/// Where the kernel prefers its own route to a local address, which has metric 0.
const ROUTE_METRIC: u32 = 1000;

/// Has the kernel deliver packets to an address, and lets sockets send from it, although no interface has it: a route in
/// the table `local`.
///
/// # Errors
///
/// EEXIST: there is such a route. EPERM: it takes CAP_NET_ADMIN.
pub(crate) fn add_local_route(ip: IpAddr) -> io::Result<()> {
    change(
        RouteNetlinkMessage::NewRoute(local_route(ip)?),
        // Beside that of an interface which has the address.
        NLM_F_CREATE | NLM_F_APPEND,
    )
}

/// Removes the route of [`add_local_route`].
///
/// # Errors
///
/// ESRCH: there is none. EPERM: it takes CAP_NET_ADMIN.
pub(crate) fn remove_local_route(ip: IpAddr) -> io::Result<()> {
    change(RouteNetlinkMessage::DelRoute(local_route(ip)?), 0)
}

fn local_route(ip: IpAddr) -> io::Result<RouteMessage> {
    let (family, bits) = family(ip);
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message.header.table = libc::RT_TABLE_LOCAL;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.kind = RouteType::Local;
    message.header.scope = match ip {
        IpAddr::V4(_) => RouteScope::Host,
        IpAddr::V6(_) => RouteScope::Universe,
    };
    message.attributes = vec![
        RouteAttribute::Destination(ip.into()),
        RouteAttribute::Oif(link("lo")?.header.index),
        RouteAttribute::Priority(ROUTE_METRIC),
    ];
    Ok(message)
}

fn family(ip: IpAddr) -> (AddressFamily, u8) {
    match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}

/// Sends a request for a change, and reads whether it was made.
fn change(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let reply = exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
    match reply {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends a request, and reads the one message of its reply.
fn request(message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
    match exchange(message, NLM_F_REQUEST)? {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends a request with these flags. Returns the payload of the reply.
fn exchange(
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    let socket = send(message, flags)?;
    let (reply, _) = socket.recv_from_full()?;
    NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map(|reply| reply.payload)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Sends a request. Returns the socket from which to read the reply.
fn send(message: RouteNetlinkMessage, flags: u16) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// How often a dump is repeated that something changed under.
const MAX_DUMPS: usize = 8;

/// All messages of the reply to a dump request. Messages that the library cannot parse, because the
/// kernel is newer, are skipped.
fn dump(message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    for _ in 0..MAX_DUMPS {
        if let Some(messages) = dump_once(message.clone())? {
            return Ok(messages);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// As [`dump`]. `None`: something changed meanwhile, so that some may be missing (NLM_F_DUMP_INTR).
fn dump_once(message: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
    let socket = send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut messages = Vec::new();
    let mut interrupted = false;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(length) = rest.first_chunk() {
            let length = u32::from_ne_bytes(*length) as usize;
            let one = rest.get(..length).filter(|one| one.len() >= HEADER);
            let one = one.ok_or(io::ErrorKind::InvalidData)?;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one);
            if let Ok(message) = &message {
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            }
            match message.map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => messages.push(message),
                Ok(NetlinkPayload::Done(_)) => return Ok((!interrupted).then_some(messages)),
                Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
