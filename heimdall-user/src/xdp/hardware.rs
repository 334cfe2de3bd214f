//! What the driver tells of an interface over the ethtool ioctl (linux/ethtool.h): for `doctor`.
//!
//! Nothing here needs a privilege, and nothing is changed.

use std::{collections::BTreeSet, io};

use super::ethtool::ioctl;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GRSSH: u32 = 0x46;

const ETH_FLAG_LRO: u32 = 1 << 15;

/// Flow types of UDP over IPv4 and over IPv6.
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// Both ports take part in the hash (RXH_L4_B_0_1, RXH_L4_B_2_3).
const RXH_PORTS: u64 = 1 << 6 | 1 << 7;

/// Entries of an indirection table and octets of a key that are read; larger ones are not known.
const MAX_TABLE: usize = 4096;
const MAX_KEY: usize = 256;

/// The driver of an interface (`ethtool -i`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Driver {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Empty if the device has none.
    pub(crate) firmware: String,
}

/// Numbers of queues, and the largest ones (`ethtool -l`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Those for both directions.
    pub(crate) combined: u32,
    pub(crate) max_rx: u32,
    pub(crate) max_combined: u32,
}

impl Channels {
    /// Those of an interface.
    ///
    /// # Errors
    /// EOPNOTSUPP if the driver does not tell, ENODEV.
    pub(crate) fn read(interface: &str) -> io::Result<Self> {
        // cmd; max_rx, max_tx, max_other, max_combined; rx, tx, other, combined
        let mut numbers = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the command fills in an `ethtool_channels`, nine numbers.
        unsafe { ioctl(interface, &mut numbers) }?;
        let [_, max_rx, _, _, max_combined, _, _, _, combined] = numbers;
        Ok(Self {
            combined,
            max_rx,
            max_combined,
        })
    }

    /// Whether virtio_net, used with so many queue pairs, turns on more of them while an XDP program is attached: one for each
    /// possible CPU, unless fewer are left (`virtnet_xdp_set`, drivers/net/virtio_net.c).
    pub(crate) fn adds_pairs(&self, pairs: u32, cpus: u32) -> bool {
        pairs.saturating_add(cpus) <= self.max_combined
    }

    /// With how many pairs, at least, it does not.
    pub(crate) fn pairs_that_leave_few(&self, cpus: u32) -> u32 {
        (self.max_combined + 1).saturating_sub(cpus).max(1)
    }

    /// Receive queues that there could be.
    pub(crate) fn most(&self) -> u32 {
        self.max_rx.max(self.max_combined)
    }
}

/// Descriptors of each queue's rings, and the largest numbers (`ethtool -g`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingSizes {
    pub(crate) rx: u32,
    pub(crate) max_rx: u32,
    pub(crate) tx: u32,
    pub(crate) max_tx: u32,
}

/// Offloads that are on (`ethtool -k`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offloads {
    /// Segments are merged by the device.
    pub(crate) lro: bool,
    /// Segments are merged by the kernel.
    pub(crate) gro: bool,
}

/// How received packets are spread over the queues (`ethtool -x`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rss {
    /// The queues in the indirection table.
    pub(crate) queues: BTreeSet<u32>,
    /// All octets of the hash's key are zero.
    pub(crate) zero_key: bool,
}

#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    rest: [u8; 96],
}

pub(super) fn driver(interface: &str) -> io::Result<Driver> {
    let mut info = DriverInfo {
        cmd: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        rest: [0; 96],
    };
    // SAFETY: the command fills in an `ethtool_drvinfo`: these fields, and in `rest` 64 octets of text,
    // 12 reserved ones and five numbers.
    unsafe { ioctl(interface, &mut info) }?;
    Ok(Driver {
        name: text(&info.driver),
        version: text(&info.version),
        firmware: text(&info.firmware),
    })
}

/// The text up to the first zero; what drivers write for "none" is none.
fn text(octets: &[u8]) -> String {
    let text = octets.split(|octet| *octet == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).trim().to_owned();
    match text.as_str() {
        "N/A" | "n/a" => String::new(),
        _ => text,
    }
}

pub(super) fn rings(interface: &str) -> io::Result<RingSizes> {
    // cmd; the largest rx, rx_mini, rx_jumbo, tx; then those in use
    let mut numbers = [ETHTOOL_GRINGPARAM, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the command fills in an `ethtool_ringparam`, nine numbers.
    unsafe { ioctl(interface, &mut numbers) }?;
    let [_, max_rx, _, _, max_tx, rx, _, _, tx] = numbers;
    Ok(RingSizes {
        rx,
        max_rx,
        tx,
        max_tx,
    })
}

pub(super) fn offloads(interface: &str) -> io::Result<Offloads> {
    let flags = value(interface, ETHTOOL_GFLAGS)?;
    Ok(Offloads {
        lro: flags & ETH_FLAG_LRO != 0,
        gro: value(interface, ETHTOOL_GGRO)? != 0,
    })
}

fn value(interface: &str, cmd: u32) -> io::Result<u32> {
    let mut value = [cmd, 0];
    // SAFETY: both commands that are passed fill in an `ethtool_value`, two numbers.
    unsafe { ioctl(interface, &mut value) }?;
    let [_, data] = value;
    Ok(data)
}

/// `struct ethtool_rxnfc` without the list at its end.
#[repr(C)]
#[derive(Default)]
struct Classification {
    cmd: u32,
    flow_type: u32,
    data: u64,
    flow: [u64; 21],
    rule_count: u32,
    padding: u32,
}

impl Classification {
    fn read(interface: &str, cmd: u32, flow_type: u32) -> io::Result<Self> {
        let mut info = Self {
            cmd,
            flow_type,
            ..Self::default()
        };
        // SAFETY: both commands that are passed fill in an `ethtool_rxnfc` up to its list, whose 168 octets
        // of `ethtool_rx_flow_spec` are `flow`.
        unsafe { ioctl(interface, &mut info) }?;
        Ok(info)
    }
}

/// Whether the ports take part in the hash of UDP packets over IPv4 and over IPv6.
pub(super) fn hashes_ports(interface: &str) -> [Option<bool>; 2] {
    [UDP_V4_FLOW, UDP_V6_FLOW].map(|flow| {
        let info = Classification::read(interface, ETHTOOL_GRXFH, flow).ok()?;
        Some(info.data & RXH_PORTS == RXH_PORTS)
    })
}

/// Rules that choose the queue before the hash does (`ethtool -n`).
pub(super) fn steering_rules(interface: &str) -> io::Result<u32> {
    Ok(Classification::read(interface, ETHTOOL_GRXCLSRLCNT, 0)?.rule_count)
}

/// `struct ethtool_rxfh`, with room for a table and a key.
#[repr(C)]
struct Spread {
    cmd: u32,
    context: u32,
    table_len: u32,
    key_len: u32,
    function: [u8; 4],
    reserved: u32,
    config: [u32; MAX_TABLE + MAX_KEY / 4],
}

pub(super) fn rss(interface: &str) -> io::Result<Rss> {
    let mut spread = Box::new(Spread {
        cmd: ETHTOOL_GRSSH,
        context: 0,
        table_len: 0,
        key_len: 0,
        function: [0; 4],
        reserved: 0,
        config: [0; MAX_TABLE + MAX_KEY / 4],
    });
    // SAFETY: the command fills in an `ethtool_rxfh`: with lengths of zero, the fields before `config`.
    unsafe { ioctl(interface, &mut *spread) }?;
    let (table, key) = (spread.table_len as usize, spread.key_len as usize);
    if table > MAX_TABLE || key > MAX_KEY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel fills in a table and a key of exactly the lengths in the structure, or none if
    // they are no longer the device's (`ethtool_get_rxfh`); `config` has room for them.
    unsafe { ioctl(interface, &mut *spread) }?;
    let (queues, rest) = spread.config.split_at(table.min(spread.config.len()));
    let mut octets = rest.iter().flat_map(|word| word.to_ne_bytes()).take(key);
    Ok(Rss {
        queues: queues.iter().copied().collect(),
        zero_key: key > 0 && octets.all(|octet| octet == 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_those_of_the_kernel() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<Classification>(), 192);
        assert_eq!(std::mem::offset_of!(Classification, rule_count), 184);
        assert_eq!(std::mem::offset_of!(Spread, config), 24);
    }

    #[test]
    fn virtio_net_adds_pairs_for_all_cpus_or_none() {
        for (most, pairs, cpus, adds, few) in [
            (2, 2, 2, false, 1),
            (2, 1, 2, false, 1),
            (4, 2, 2, true, 3),
            (4, 3, 2, false, 3),
            (4, 1, 8, false, 1),
            (9, 1, 8, true, 2),
            (0, 0, 4, false, 1),
        ] {
            let channels = Channels {
                max_combined: most,
                ..Channels::default()
            };
            assert_eq!(
                channels.adds_pairs(pairs, cpus),
                adds,
                "{most} {pairs} {cpus}"
            );
            assert_eq!(channels.pairs_that_leave_few(cpus), few, "{most} {cpus}");
            assert!(!channels.adds_pairs(few, cpus));
        }
    }

    #[test]
    fn a_driver_without_firmware_has_an_empty_text() {
        assert_eq!(text(b"5.10 \0rest"), "5.10");
        assert_eq!(text(b"N/A\0\0"), "");
        assert_eq!(text(b""), "");
    }
}
