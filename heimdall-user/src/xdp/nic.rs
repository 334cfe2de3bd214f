//! Network interfaces, as the kernel describes them over netlink.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, State},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{ifaddrs::getifaddrs, net::if_::if_nameindex};
use thiserror::Error;

/// Why an interface cannot be used.
#[derive(Debug, Error)]
pub enum NicError {
    /// There is none of that name.
    #[error("no interface {name}; there are: {others}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those there are.
        others: String,
    },
    /// The kernel did not answer.
    #[error(
        "cannot ask the kernel about interface {name}: {source}; is netlink (AF_NETLINK) allowed here?"
    )]
    Netlink {
        /// The name asked for.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// An interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MTU in octets.
    pub mtu: u32,
    /// Receive queues that it has.
    pub queues: u32,
    /// Whether it can carry packets now.
    pub up: bool,
    /// The XDP program that is attached to it.
    pub xdp_program: Option<u32>,
}

impl Interface {
    /// Looks an interface up.
    ///
    /// # Errors
    /// [`NicError`]
    pub fn find(name: &str) -> Result<Self, NicError> {
        let index = nix::net::if_::if_nametoindex(name).map_err(|_| NicError::Unknown {
            name: name.to_owned(),
            others: names(),
        })?;
        let link = get_link(index).map_err(|source| NicError::Netlink {
            name: name.to_owned(),
            source,
        })?;
        let mut interface = Self {
            name: name.to_owned(),
            index,
            mtu: 1500,
            queues: 1,
            up: false,
            xdp_program: None,
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::NumRxQueues(queues) => interface.queues = *queues,
                LinkAttribute::OperState(state) => {
                    interface.up = matches!(state, State::Up | State::Unknown)
                }
                LinkAttribute::Xdp(xdp) => {
                    interface.xdp_program = xdp.iter().find_map(|attribute| match attribute {
                        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        // IFLA_NUM_RX_QUEUES counts the queues that there could be; those that there are have a
        // directory. (Of the network namespace in which /sys was mounted, which need not be ours.)
        if let Ok(entries) = std::fs::read_dir(format!("/sys/class/net/{name}/queues")) {
            let rx = entries
                .flatten()
                .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"rx-"));
            interface.queues = (rx.count() as u32).clamp(1, interface.queues.max(1));
        }
        Ok(interface)
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let Ok(all) = getifaddrs() else {
            return Vec::new();
        };
        all.filter(|entry| entry.interface_name == self.name)
            .filter_map(|entry| {
                let address = entry.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect()
    }

    /// Its subnets' broadcast addresses.
    pub fn broadcasts(&self) -> Vec<IpAddr> {
        let Ok(all) = getifaddrs() else {
            return Vec::new();
        };
        all.filter(|entry| entry.interface_name == self.name)
            .filter_map(|entry| Some(IpAddr::V4(entry.broadcast?.as_sockaddr_in()?.ip())))
            .collect()
    }

    /// Waits until it can carry packets, for at most `limit`: attaching a program resets some
    /// NICs' link. Returns whether it can.
    pub fn wait_carrier(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            if Self::find(&self.name).is_ok_and(|now| now.up) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Names of all interfaces.
fn names() -> String {
    let Ok(all) = if_nameindex() else {
        return "none that can be listed".to_owned();
    };
    let names: Vec<_> = all
        .iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect();
    names.join(", ")
}

/// RTM_GETLINK (rtnetlink(7)).
fn get_link(index: u32) -> io::Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(
        header,
        NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)),
    );
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let reply =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply).map_err(io::Error::other)?;
    match reply.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// Tells when the addresses of some interface have changed.
#[derive(Debug)]
pub struct AddressWatch(Socket);

impl AddressWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// No netlink socket is to be had.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let groups = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Reads what has come in; whether there was anything. What it said does not matter: the
    /// addresses are read anew, and so nothing is missed when the socket overflows.
    pub fn changed(&self) -> bool {
        let mut any = false;
        loop {
            match self.0.recv_from_full() {
                Ok(_) => any = true,
                // ENOBUFS: some were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the socket in `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
