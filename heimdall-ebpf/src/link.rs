//! An entry of the links map: by which MAC address and VLAN tags a frame belongs to an interface of the IP stack.

/// An interface of the IP stack, as frames to it look on the wire.
///
/// The interface on which frames arrive may have several: itself, VLANs and macvlans on top of it, the bond or the
/// bridge that it is a member of. One that accepts two MAC addresses has two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Link {
    /// The destination MAC address, as a [`mac_word`](crate::mac_word). Never 0 in an entry that is in use.
    pub mac: u64,
    /// The VLAN tags.
    pub tags: Tags,
    /// The interface's index, 1 or more.
    pub interface: u32,
    /// The index of the VRF that it is in; 1, that of the loopback interface, if it is in none.
    pub vrf: u32,
    /// Padding, always 0.
    pub zero: u32,
}

const _: () = assert!(size_of::<Link>() == Link::SIZE);

impl Link {
    /// Size of the entry in bytes.
    pub const SIZE: usize = 24;

    /// Frames of the interface with this index and MAC address, whatever their tags.
    pub const fn any_tags(mac: [u8; 6], interface: u32) -> Self {
        Self {
            mac: crate::mac_word(mac),
            tags: Tags::ANY,
            interface,
            vrf: 1,
            zero: 0,
        }
    }

    /// The entry as the kernel sees it, to write into the map from userspace.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let numbers = [self.tags.0, self.interface, self.vrf, self.zero];
        let numbers = numbers.into_iter().flat_map(u32::to_ne_bytes);
        let fields = self.mac.to_ne_bytes().into_iter().chain(numbers);
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        bytes
    }
}

/// The VLAN tags of a frame, without priority and drop eligibility: at most two.
///
/// Sixteen bits for each tag, the innermost one in the low half: `1000 0000 0000 0000`, the bit for 802.1ad (0x4000) and
/// the VLAN's number, 12 bits; 0 for no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Tags(u32);

impl Tags {
    /// An untagged frame.
    pub const NONE: Self = Self(0);
    /// Of a link: whatever tags a frame has. No frame has these bits.
    pub const ANY: Self = Self(u32::MAX);
    /// Most tags of a frame.
    pub const MAX: usize = 2;

    const TAG: u32 = 0x8000;
    const SERVICE: u32 = 0x4000;
    const ID: u16 = 0x0fff;

    /// These tags, and one inside of them: `service` if its protocol is 802.1ad (0x88a8), not 802.1Q (0x8100); of `control`,
    /// the tag's last two octets, the VLAN's number counts. With more than [`MAX`](Self::MAX) the outermost is lost.
    #[inline(always)]
    #[must_use]
    pub const fn push(self, service: bool, control: u16) -> Self {
        let protocol = if service { Self::SERVICE } else { 0 };
        let tag = Self::TAG | protocol | (control & Self::ID) as u32;
        Self(self.0 << 16 | tag)
    }

    /// How many there are, of a frame.
    pub const fn count(self) -> usize {
        (self.0 & Self::TAG != 0) as usize + (self.0 >> 16 & Self::TAG != 0) as usize
    }

    /// Whether a link with these tags takes a frame with those.
    #[inline(always)]
    pub const fn accept(self, frame: Self) -> bool {
        self.0 == frame.0 || self.0 == Self::ANY.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_laid_out_as_the_struct_is() {
        let link = Link {
            mac: crate::mac_word([2, 0, 0, 0, 0, 7]),
            tags: Tags::NONE.push(false, 5),
            interface: 3,
            vrf: 1,
            zero: 0,
        };
        let bytes = link.to_bytes();
        assert_eq!(bytes[..6], [2, 0, 0, 0, 0, 7]);
        assert_eq!(bytes[8..12], 0x8005_u32.to_ne_bytes());
        assert_eq!(
            bytes[12..20],
            [3_u32.to_ne_bytes(), 1_u32.to_ne_bytes()].concat()[..]
        );
        for (field, at) in [
            (core::mem::offset_of!(Link, mac), 0),
            (core::mem::offset_of!(Link, tags), 8),
            (core::mem::offset_of!(Link, interface), 12),
            (core::mem::offset_of!(Link, vrf), 16),
        ] {
            assert_eq!(field, at);
        }
    }

    #[test]
    fn tags_differ_by_number_protocol_order_and_count() {
        let none = Tags::NONE;
        let all = [
            none,
            none.push(false, 0),
            none.push(false, 5),
            none.push(true, 5),
            none.push(false, 5).push(false, 6),
            none.push(false, 6).push(false, 5),
            none.push(true, 5).push(false, 6),
            none.push(true, 0xfff).push(true, 0xfff),
        ];
        for (one, tags) in all.iter().enumerate() {
            for (other, frame) in all.iter().enumerate() {
                assert_eq!(tags.accept(*frame), one == other);
            }
            assert!(Tags::ANY.accept(*tags));
            assert!(!tags.accept(Tags::ANY));
        }
        assert_eq!(all.map(Tags::count), [0, 1, 1, 1, 2, 2, 2, 2]);
    }

    #[test]
    fn priority_and_drop_eligibility_do_not_count() {
        assert_eq!(Tags::NONE.push(false, 0xf005), Tags::NONE.push(false, 5));
    }
}
