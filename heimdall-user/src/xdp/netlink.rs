//! Requests to the kernel over rtnetlink: links and addresses.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkMessage},
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
    let socket = send(RouteNetlinkMessage::GetLink(query), NLM_F_REQUEST)?;
    let (reply, _) = socket.recv_from_full()?;
    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match reply.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
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

/// All messages of the reply to a dump request. Messages that the library cannot parse, because the
/// kernel is newer, are skipped.
fn dump(message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let socket = send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut messages = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(length) = rest.first_chunk() {
            let length = u32::from_ne_bytes(*length) as usize;
            let one = rest.get(..length).filter(|one| one.len() >= HEADER);
            let one = one.ok_or(io::ErrorKind::InvalidData)?;
            match NetlinkMessage::deserialize(one).map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => messages.push(message),
                Ok(NetlinkPayload::Done(_)) => return Ok(messages),
                Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
