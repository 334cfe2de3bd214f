//! The ethtool ioctl: number of queues, features, statistics of the driver.
//!
//! It works in every network namespace; `/sys/class/net` shows the namespace in which it was mounted.

use std::{
    borrow::Cow,
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use memmap2::MmapMut;

/// linux/ethtool.h.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_STATS: u32 = 1;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// Words of features that are read, of 32 each. Kernels have some 64 features.
const FEATURE_WORDS: usize = 8;

/// `struct ethtool_gfeatures`.
#[repr(C)]
struct Features {
    cmd: u32,
    size: u32,
    words: [FeatureWord; FEATURE_WORDS],
}

/// `struct ethtool_get_features_block`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FeatureWord {
    available: u32,
    requested: u32,
    active: u32,
    never_changed: u32,
}

/// Whether a NIC strips the outermost VLAN tag of received frames before the XDP program runs: if it is of 802.1Q, and if it
/// is of 802.1ad.
pub(super) type Stripping = [bool; 2];

/// The kernel's names of the two features, as `ethtool -k` shows the second. The first is `rx-vlan-offload` there.
const STRIPPING: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];

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

/// Which VLAN tags the NIC strips.
///
/// # Errors
///
/// ENODEV.
pub(super) fn vlan_stripping(interface: &str) -> io::Result<Stripping> {
    let names = strings(interface, ETH_SS_FEATURES)?;
    let mut features = Features {
        cmd: ETHTOOL_GFEATURES,
        size: FEATURE_WORDS as u32,
        words: [FeatureWord::default(); FEATURE_WORDS],
    };
    // SAFETY: ETHTOOL_GFEATURES fills in an `ethtool_gfeatures` with as many words as `size` says, or fewer.
    unsafe { ioctl(interface, &mut features) }?;
    Ok(STRIPPING.map(|name| is_active(&names, &features.words, name)))
}

/// Whether the feature with this name is on, among those that `names`, as ETHTOOL_GSTRINGS fills it in, numbers.
fn is_active(names: &[u8], words: &[FeatureWord], name: &str) -> bool {
    let Some(number) = texts(names).position(|known| known == name) else {
        return false;
    };
    let word = words.get(number / 32);
    word.is_some_and(|word| word.active & (1 << (number % 32)) != 0)
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
    let names = strings(interface, ETH_SS_STATS)?;
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

/// The names of a set (`ETH_SS_…`), as ETHTOOL_GSTRINGS fills them in.
fn strings(interface: &str, set: u32) -> io::Result<MmapMut> {
    let mut names = MmapMut::map_anon(STATISTICS_ROOM)?;
    let fields = [ETHTOOL_GSTRINGS, set].map(u32::to_ne_bytes);
    names
        .iter_mut()
        .zip(fields.concat())
        .for_each(|(to, field)| *to = field);
    // SAFETY: ETHTOOL_GSTRINGS fills in an `ethtool_gstrings`, for which there is room.
    unsafe { ioctl(interface, &mut *names) }?;
    Ok(names)
}

/// A number in a structure of the kernel's.
fn number(octets: &[u8], at: usize) -> usize {
    let field = octets.get(at..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u32::from_ne_bytes(*field) as usize)
}

/// The names that the kernel has written.
fn texts(names: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    let (texts, _) = names
        .get(STRINGS_HEADER..)
        .unwrap_or_default()
        .as_chunks::<ETH_GSTRING_LEN>();
    texts.iter().take(number(names, 8)).map(|octets| {
        let text = CStr::from_bytes_until_nul(octets).map(CStr::to_bytes);
        String::from_utf8_lossy(text.unwrap_or(octets))
    })
}

/// The names and values that the kernel has written.
fn pairs(names: &[u8], values: &[u8]) -> Vec<(String, u64)> {
    let (counts, _) = values
        .get(STATS_HEADER..)
        .unwrap_or_default()
        .as_chunks::<8>();
    let counts = counts.iter().take(number(values, 4));
    texts(names)
        .zip(counts)
        .map(|(name, count)| (name.into_owned(), u64::from_ne_bytes(*count)))
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
    fn features_are_found_by_their_names() {
        let mut names = [ETHTOOL_GSTRINGS, ETH_SS_FEATURES, 40]
            .map(u32::to_ne_bytes)
            .concat();
        for number in 0..40 {
            let mut field = [0; ETH_GSTRING_LEN];
            let name = format!("feature-{number}");
            field
                .iter_mut()
                .zip(name.bytes())
                .for_each(|(to, from)| *to = from);
            names.extend(field);
        }
        let word = |active| FeatureWord {
            active,
            requested: u32::MAX,
            ..FeatureWord::default()
        };
        let words = [word(1 << 3), word(1 << 7)];
        for (name, expected) in [
            ("feature-3", true),
            ("feature-39", true),
            ("feature-7", false),
            ("feature-38", false),
            ("feature-40", false),
        ] {
            assert_eq!(is_active(&names, &words, name), expected, "{name}");
        }
        assert!(
            !is_active(&names, &words[..1], "feature-39"),
            "no such word"
        );
        assert_eq!(size_of::<Features>(), 8 + 16 * FEATURE_WORDS);
    }

    #[test]
    fn loopback_has_no_statistics() {
        let error = statistics("lo").expect_err("it has no driver");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
