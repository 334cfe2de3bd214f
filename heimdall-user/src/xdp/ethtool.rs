//! The ethtool ioctl: number of queues, VLAN offload, statistics of the driver.
//!
//! It works in every network namespace; `/sys/class/net` shows the namespace in which it was mounted.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use memmap2::MmapMut;

/// linux/ethtool.h.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETH_SS_STATS: u32 = 1;
const ETH_GSTRING_LEN: usize = 32;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// Number of receive queues in use, as `ethtool -l` shows.
///
/// # Errors
///
/// EOPNOTSUPP if the driver does not implement it, ENODEV.
pub(super) fn rx_queues(interface: &str) -> io::Result<u32> {
    let mut channels = Channels {
        cmd: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    // SAFETY: ETHTOOL_GCHANNELS fills in an `ethtool_channels`.
    unsafe { ioctl(interface, &mut channels) }?;
    Ok(channels.rx + channels.combined)
}

/// Whether the NIC strips VLAN tags of received frames (`ethtool -k`: rx-vlan-offload) before the XDP
/// program runs.
///
/// # Errors
///
/// ENODEV.
pub(super) fn strips_vlan_tags(interface: &str) -> io::Result<bool> {
    let mut flags = Value {
        cmd: ETHTOOL_GFLAGS,
        data: 0,
    };
    // SAFETY: ETHTOOL_GFLAGS fills in an `ethtool_value`.
    unsafe { ioctl(interface, &mut flags) }?;
    Ok(flags.data & ETH_FLAG_RXVLAN != 0)
}

/// Memory for the answers to ETHTOOL_GSTRINGS and ETHTOOL_GSTATS, in octets.
///
/// The kernel asks the driver how much there is and writes that, however much room there is. So there is room for
/// half a million statistics; the largest drivers have some ten thousand. Pages that are not written cost nothing.
const STATISTICS_ROOM: usize = 16 << 20;

/// Octets before the list in `struct ethtool_gstrings` (command, set, length), and in `struct ethtool_stats`
/// (command, length).
const STRINGS_HEADER: usize = 12;
const STATS_HEADER: usize = 8;

/// The driver's statistics, as `ethtool -S` shows.
///
/// # Errors
///
/// EOPNOTSUPP if the driver has none, ENODEV.
pub(super) fn statistics(interface: &str) -> io::Result<Vec<(String, u64)>> {
    let mut names = MmapMut::map_anon(STATISTICS_ROOM)?;
    let fields = [ETHTOOL_GSTRINGS, ETH_SS_STATS].map(u32::to_ne_bytes);
    names
        .iter_mut()
        .zip(fields.concat())
        .for_each(|(to, field)| *to = field);
    // SAFETY: ETHTOOL_GSTRINGS fills in an `ethtool_gstrings`, for which there is room.
    unsafe { ioctl(interface, &mut *names) }?;
    let mut values = MmapMut::map_anon(STATISTICS_ROOM)?;
    let field = ETHTOOL_GSTATS.to_ne_bytes();
    values
        .iter_mut()
        .zip(field)
        .for_each(|(to, field)| *to = field);
    // SAFETY: ETHTOOL_GSTATS fills in an `ethtool_stats`, for which there is room.
    unsafe { ioctl(interface, &mut *values) }?;
    Ok(pairs(&names, &values))
}

/// The names and values in what the kernel has written.
fn pairs(names: &[u8], values: &[u8]) -> Vec<(String, u64)> {
    let number = |octets: &[u8], at: usize| -> usize {
        let field = octets.get(at..).and_then(<[u8]>::first_chunk);
        field.map_or(0, |field| u32::from_ne_bytes(*field) as usize)
    };
    let count = number(names, 8).min(number(values, 4));
    let (names, _) = names
        .get(STRINGS_HEADER..)
        .unwrap_or_default()
        .as_chunks::<ETH_GSTRING_LEN>();
    let (values, _) = values
        .get(STATS_HEADER..)
        .unwrap_or_default()
        .as_chunks::<8>();
    let name = |octets: &[u8; ETH_GSTRING_LEN]| {
        let name = CStr::from_bytes_until_nul(octets).map(CStr::to_bytes);
        String::from_utf8_lossy(name.unwrap_or(octets)).into_owned()
    };
    let pairs = names.iter().zip(values).take(count);
    pairs
        .map(|(octets, value)| (name(octets), u64::from_ne_bytes(*value)))
        .collect()
}

/// Executes the command that `data` begins with; the kernel fills `data` in.
///
/// # Safety
///
/// `data` is, or has room for, the structure that belongs to the command (linux/ethtool.h).
pub(super) unsafe fn ioctl<T: ?Sized>(interface: &str, data: &mut T) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };

    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        // A char is signed on x86-64, and not on aarch64.
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut *data).cast(),
        },
    };
    // SAFETY: the request's data points to a live structure, which by this function's contract is
    // the one that the command fills in; the name ends with a zero.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_paired_however_they_are_cut() {
        let mut names = [ETHTOOL_GSTRINGS, ETH_SS_STATS, 2]
            .map(u32::to_ne_bytes)
            .concat();
        for name in ["rx_dropped", "a_name_of_thirty_two_octets_in_all"] {
            let mut field = [0; ETH_GSTRING_LEN];
            field
                .iter_mut()
                .zip(name.bytes())
                .for_each(|(to, from)| *to = from);
            names.extend(field);
        }
        let mut values = [ETHTOOL_GSTATS, 2].map(u32::to_ne_bytes).concat();
        values.extend([7, u64::MAX].map(u64::to_ne_bytes).concat());
        let expected = [
            ("rx_dropped".to_owned(), 7),
            ("a_name_of_thirty_two_octets_in_a".to_owned(), u64::MAX),
        ];
        assert_eq!(pairs(&names, &values), expected);
        for cut in 0..names.len() {
            let names = names.get(..cut).unwrap_or_default();
            assert!(pairs(names, &values).len() < 2);
        }
        for cut in 0..values.len() {
            let values = values.get(..cut).unwrap_or_default();
            assert!(pairs(&names, values).len() < 2);
        }
    }

    #[test]
    fn loopback_has_no_statistics() {
        let error = statistics("lo").expect_err("it has no driver");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
