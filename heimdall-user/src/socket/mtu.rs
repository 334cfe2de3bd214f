//! Replies are never fragmented (RFC 9715 section 3.1): fragments get lost, and can be forged.
//!
//! A reply that is larger than the path's MTU fails to be sent, and is truncated instead.

use std::{
    mem,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{errno::Errno, libc};

/// Makes a UDP socket, bound to an address of `address`'s kind, refuse to send datagrams that would have to
/// be fragmented: EMSGSIZE (ip(7), ipv6(7), IP_MTU_DISCOVER). nix does not know these options.
pub(super) fn never_fragment(socket: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    let (level, option, value) = match address {
        SocketAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        SocketAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    set(socket, level, option, value)
}

/// Sets an option that is an integer.
pub(super) fn set(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    let len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `len` octets at the pointer, which are those of the live `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    Errno::result(result).map(drop)
}

/// Reads an option that is an integer.
pub(super) fn get(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
) -> Result<libc::c_int, Errno> {
    let mut value: libc::c_int = 0;
    let mut len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` octets, which are those of the live `value`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &mut len,
        )
    };
    Errno::result(result).map(|_| value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::UdpSocket;

    use super::*;

    // That a reply larger than the path's MTU becomes TC is shown end to end, where the MTU can be
    // set: `e2e::sockets::replies_are_never_fragmented`.
    #[test]
    fn the_kernel_has_taken_the_option() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let receiver = UdpSocket::bind(address).unwrap();
            let sender = UdpSocket::bind(address).unwrap();
            let local = sender.local_addr().unwrap();
            let sender = OwnedFd::from(sender);
            never_fragment(&sender, local).unwrap();
            let sender = UdpSocket::from(sender);
            let to = receiver.local_addr().unwrap();
            assert!(sender.send_to(&[0; 1400], to).is_ok(), "{address}");
            let value = read_back(&sender, local);
            assert_eq!(value, 2, "IP_PMTUDISC_DO on {address}");
        }
    }

    fn read_back(socket: &UdpSocket, address: SocketAddr) -> libc::c_int {
        let (level, option) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        get(socket, level, option).unwrap()
    }
}
