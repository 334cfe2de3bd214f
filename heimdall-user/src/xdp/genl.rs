//! The netdev family of generic netlink: which XDP features a driver has.
//!
//! See <https://docs.kernel.org/networking/netlink_spec/netdev.html>. Linux 6.3 and newer.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NLMSG_ERROR, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// Octets of `nlmsghdr` and of `genlmsghdr`.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// The family that knows the others (linux/genetlink.h).
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// linux/netdev.h.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;

const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_REDIRECT: u64 = 2;
const NETDEV_XDP_ACT_XSK_ZEROCOPY: u64 = 8;

/// What a driver can do with XDP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct XdpFeatures {
    /// It runs programs (native mode), and delivers what they redirect.
    pub(crate) native: bool,
    /// AF_XDP sockets can be zero-copy.
    pub(crate) zero_copy: bool,
    /// Buffers of one packet in zero-copy mode; 1 if the kernel does not say (before Linux 6.6).
    pub(crate) zero_copy_segments: u32,
}

/// The XDP features of the interface with this index.
///
/// # Errors
/// The kernel is older than 6.3, or there is no such interface.
pub(super) fn xdp_features(index: u32) -> io::Result<XdpFeatures> {
    let family = request(
        GENL_ID_CTRL,
        CTRL_CMD_GETFAMILY,
        CTRL_ATTR_FAMILY_NAME,
        b"netdev\0",
    )?;
    let family = attribute(&family, CTRL_ATTR_FAMILY_ID).ok_or(io::ErrorKind::NotFound)?;
    let family = u16::try_from(family).map_err(|_| io::ErrorKind::InvalidData)?;
    let device = request(
        family,
        NETDEV_CMD_DEV_GET,
        NETDEV_A_DEV_IFINDEX,
        &index.to_ne_bytes(),
    )?;
    let flags = attribute(&device, NETDEV_A_DEV_XDP_FEATURES).unwrap_or_default();
    let both = NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_REDIRECT;
    let segments = attribute(&device, NETDEV_A_DEV_XDP_ZC_MAX_SEGS);
    Ok(XdpFeatures {
        native: flags & both == both,
        zero_copy: flags & NETDEV_XDP_ACT_XSK_ZEROCOPY != 0,
        zero_copy_segments: segments.map_or(1, |segments| segments as u32),
    })
}

/// Sends a request with one attribute; the attributes of the reply.
fn request(family: u16, command: u8, kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message(family, command, kind, value), 0)?;
    let (reply, _) = socket.recv_from_full()?;
    attributes(&reply)
}

fn message(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let attribute = 4 + value.len();
    let length = HEADER + GENERIC_HEADER + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // The sequence number and the port: one request, one reply.
    message.extend([0; 8]);
    // The command, the family's version, and a reserved field.
    message.extend([command, 1, 0, 0]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(length, 0);
    message
}

/// The attributes of a reply.
///
/// # Errors
/// It is an error of the kernel, or cut off.
fn attributes(reply: &[u8]) -> io::Result<Vec<u8>> {
    let cut_off = io::ErrorKind::InvalidData;
    let (header, rest) = reply.split_at_checked(HEADER).ok_or(cut_off)?;
    let (_, kind) = header.split_first_chunk::<4>().ok_or(cut_off)?;
    let kind = kind.first_chunk().ok_or(cut_off)?;
    if u16::from_ne_bytes(*kind) == NLMSG_ERROR {
        let code = rest.first_chunk().ok_or(cut_off)?;
        let code = i32::from_ne_bytes(*code);
        return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
    }
    let (_, attributes) = rest.split_at_checked(GENERIC_HEADER).ok_or(cut_off)?;
    Ok(attributes.to_vec())
}

/// The number in the first attribute of this kind.
fn attribute(attributes: &[u8], kind: u16) -> Option<u64> {
    let mut all = NlasIterator::new(attributes).filter_map(Result::ok);
    let found = all.find(|attribute| attribute.kind() == kind)?;
    let value = found.value();
    match value.len() {
        2 => Some(u16::from_ne_bytes(*value.first_chunk()?).into()),
        4 => Some(u32::from_ne_bytes(*value.first_chunk()?).into()),
        8 => Some(u64::from_ne_bytes(*value.first_chunk()?)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_the_headers() {
        let sent = message(33, 1, 4, &7_u32.to_ne_bytes());
        let read = attributes(&sent).unwrap();
        assert_eq!(attribute(&read, 4), Some(7));
        assert_eq!(attribute(&read, 5), None);
        for cut in 0..sent.len() {
            // Never a panic; without its last octets the value is not there.
            let read = attributes(sent.get(..cut).unwrap());
            assert_eq!(read.ok().and_then(|read| attribute(&read, 4)), None);
        }
    }

    #[test]
    fn an_error_of_the_kernel_is_one() {
        let mut reply = message(NLMSG_ERROR, 0, 0, b"");
        reply.splice(HEADER..HEADER + 4, (-libc::ENOENT).to_ne_bytes());
        let error = attributes(&reply).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
