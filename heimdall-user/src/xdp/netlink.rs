//! Requests to the kernel over rtnetlink: links, addresses and routes.

use std::{io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkMessage},
    route::{RouteAttribute, RouteMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Octets of a netlink message's header; the message's length is in its first four.
const HEADER: usize = 16;

/// Attributes of the link called `name`.
///
/// # Errors
///
/// ENODEV if there is none in this network namespace.
pub(super) fn link(name: &str) -> io::Result<LinkMessage> {
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
pub(super) fn links() -> io::Result<Vec<LinkMessage>> {
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
pub(super) fn addresses() -> io::Result<Vec<AddressMessage>> {
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
pub(super) fn route(from: IpAddr, to: IpAddr) -> io::Result<u32> {
    let mut query = RouteMessage::default();
    let (family, bits) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
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

/// Sends a request, and reads the one message of its reply.
fn request(message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
    let socket = send(message, NLM_F_REQUEST)?;
    let (reply, _) = socket.recv_from_full()?;
    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match reply.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
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
