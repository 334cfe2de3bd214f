//! Datagrams in and out, with the local address that they came to.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
    },
};

/// The address that a reply has to leave from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Local {
    /// The one that the socket is bound to.
    Bound,
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// A datagram's two ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) peer: SocketAddr,
    pub(super) local: Local,
}

/// Room for the one control message that was asked for.
#[derive(Debug)]
pub(super) struct Control(Vec<u8>);

impl Control {
    pub(super) fn new() -> Self {
        Self(cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo))
    }
}

/// Receives one datagram: its length, and where it came from and went to.
pub(super) fn receive(
    socket: &impl AsRawFd,
    buf: &mut [u8],
    control: &mut Control,
) -> io::Result<(usize, Path)> {
    let mut iov = [IoSliceMut::new(buf)];
    let msg = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut control.0),
        MsgFlags::empty(),
    )?;
    let peer = msg.address.as_ref().and_then(socket_address);
    let peer = peer.ok_or(io::ErrorKind::InvalidData)?;
    let local = msg
        .cmsgs()?
        .find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Local::V4(reply_from_v4(info))),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(reply_from_v6(info)),
            _ => None,
        })
        .unwrap_or(Local::Bound);
    Ok((msg.bytes, Path { peer, local }))
}

/// Sends a reply back along `path`.
pub(super) fn send(socket: RawFd, msg: &[u8], path: &Path) -> io::Result<()> {
    let iov = [IoSlice::new(msg)];
    let to = SockaddrStorage::from(path.peer);
    let flags = MsgFlags::empty();
    match &path.local {
        Local::Bound => sendmsg(socket, &iov, &[], flags, Some(&to)),
        Local::V4(info) => {
            let control = [ControlMessage::Ipv4PacketInfo(info)];
            sendmsg(socket, &iov, &control, flags, Some(&to))
        }
        Local::V6(info) => {
            let control = [ControlMessage::Ipv6PacketInfo(info)];
            sendmsg(socket, &iov, &control, flags, Some(&to))
        }
    }?;
    Ok(())
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    address
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::V6((*v6).into()))
}

/// `ipi_spec_dst` is the address of ours that the datagram came to (ip(7)). The route back is the
/// kernel's to choose, so no interface is named.
fn reply_from_v4(info: libc::in_pktinfo) -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: 0,
        ..info
    }
}

/// Link-local addresses exist on each interface: there, and only there, the interface is named.
/// A multicast address cannot be a source.
fn reply_from_v6(info: libc::in6_pktinfo) -> Local {
    let address = std::net::Ipv6Addr::from(info.ipi6_addr.s6_addr);
    if address.is_multicast() {
        return Local::Bound;
    }
    let ipi6_ifindex = if address.is_unicast_link_local() {
        info.ipi6_ifindex
    } else {
        0
    };
    Local::V6(libc::in6_pktinfo {
        ipi6_ifindex,
        ..info
    })
}
