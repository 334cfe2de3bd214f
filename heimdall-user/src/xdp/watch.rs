//! Notification of changes of interfaces and their addresses.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::XdpError;

/// Reports that an interface of this network namespace, or an address of one, was added, removed or
/// changed (MAC address, MTU, offloads, VLANs). It does not report which.
pub struct LinkWatch {
    socket: Socket,
}

impl LinkWatch {
    /// Starts to watch. Changes from now on are reported, so read the interfaces after this.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the kernel has no rtnetlink.
    pub fn new() -> Result<Self, XdpError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            for group in [
                libc::RTNLGRP_LINK,
                libc::RTNLGRP_IPV4_IFADDR,
                libc::RTNLGRP_IPV6_IFADDR,
            ] {
                socket.add_membership(group)?;
            }
            Ok(Self { socket })
        };
        open().map_err(|error| XdpError::system("watch interfaces over netlink", error))
    }

    /// Discards all pending reports; true if there were any. Never blocks.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the socket fails.
    pub fn drain(&self) -> Result<bool, XdpError> {
        let mut changed = false;
        let mut sink = [0; 4096];
        loop {
            match self.socket.recv(&mut sink.as_mut_slice(), 0) {
                Ok(_) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The socket's buffer overflowed; the messages in it can still be read.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) => return Err(XdpError::system("watch interfaces over netlink", error)),
            }
        }
    }
}

impl AsFd for LinkWatch {
    /// Readable when there are reports to [`drain`](LinkWatch::drain).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
