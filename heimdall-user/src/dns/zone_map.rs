//! A table of zones, in which a name finds the one that it belongs to.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::{
    name::{MAX_NAME, lower_case, parent},
    rrtype,
};

/// Values by zone. Of the zones that a name is in, the one with the most labels decides. The caller bounds their number.
#[derive(Clone, Debug)]
pub(crate) struct ZoneMap<T> {
    /// By the zone's name in wire form and lower case.
    zones: HashMap<Box<[u8]>, T, RandomState>,
    /// Octets of the longest of these names.
    longest: usize,
}

impl<T> Default for ZoneMap<T> {
    fn default() -> Self {
        Self {
            zones: HashMap::default(),
            longest: 0,
        }
    }
}

impl<T> ZoneMap<T> {
    /// Inserts a zone, whose name is in wire form and lower case. Returns the value that it had.
    pub(crate) fn insert(&mut self, zone: Box<[u8]>, value: T) -> Option<T> {
        self.longest = self.longest.max(zone.len());
        self.zones.insert(zone, value)
    }

    /// The value of exactly this zone, in lower case.
    pub(crate) fn get(&self, zone: &[u8]) -> Option<&T> {
        self.zones.get(zone)
    }

    /// How many zones there are.
    pub(crate) fn len(&self) -> usize {
        self.zones.len()
    }

    /// The zones and their values, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &T)> {
        self.zones.iter().map(|(zone, value)| (&**zone, value))
    }

    /// The zone that a question belongs to, by its name (wire form, any case) and its type: the DS records of a zone are
    /// its parent's (RFC 4035 section 3.1.4.1).
    pub(crate) fn find(&self, name: &[u8], qtype: u16) -> Option<(&[u8], &T)> {
        if self.zones.is_empty() {
            return None;
        }
        let mut lower = [0; MAX_NAME];
        let mut name = lower_case(name, &mut lower)?;
        if qtype == rrtype::DS {
            name = parent(name).unwrap_or(name);
        }
        loop {
            if name.len() <= self.longest
                && let Some((zone, value)) = self.zones.get_key_value(name)
            {
                return Some((zone, value));
            }
            name = parent(name)?;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::dns::rrtype::{A, DS};

    /// A name in wire form.
    fn wire(labels: &[String]) -> Box<[u8]> {
        let octets = labels.iter().flat_map(|label| {
            let len = [label.len() as u8];
            [&len, label.as_bytes()].concat()
        });
        octets.chain([0]).collect()
    }

    fn zones(list: &[&[&str]]) -> ZoneMap<usize> {
        let mut zones = ZoneMap::default();
        for (value, labels) in list.iter().enumerate() {
            let labels: Vec<_> = labels.iter().map(|label| (*label).to_owned()).collect();
            zones.insert(wire(&labels), value);
        }
        zones
    }

    #[test]
    fn the_zone_with_the_most_labels_decides() {
        let zones = zones(&[&["example"], &["b", "example"], &["c", "b", "example"]]);
        for (name, expected) in [
            (&b"\x07example\0"[..], Some(0)),
            (b"\x01A\x07EXAMPLE\0", Some(0)),
            (b"\x01x\x01B\x07example\0", Some(1)),
            (b"\x01x\x01c\x01b\x07example\0", Some(2)),
            (b"\x02cb\x07example\0", Some(0)),
            (b"\x03com\0", None),
            (b"\0", None),
            // A length octet in a label begins no label.
            (b"\x09x\x07example\0", None),
        ] {
            assert_eq!(zones.find(name, A).map(|(_, value)| *value), expected);
        }
        assert!(ZoneMap::<()>::default().find(b"\x01a\0", A).is_none());
    }

    #[test]
    fn the_ds_records_of_a_zone_are_in_the_zone_above() {
        let mut zones = zones(&[&["example"], &["b", "example"]]);
        let find = |zones: &ZoneMap<usize>, name: &[u8]| zones.find(name, DS).map(|(_, v)| *v);
        assert_eq!(find(&zones, b"\x01b\x07example\0"), Some(0));
        assert_eq!(find(&zones, b"\x01a\x01b\x07example\0"), Some(1));
        assert_eq!(find(&zones, b"\x07example\0"), None);
        assert_eq!(find(&zones, b"\0"), None);
        zones.insert(b"\0".as_slice().into(), 7);
        assert_eq!(find(&zones, b"\x07example\0"), Some(7));
        assert_eq!(find(&zones, b"\0"), Some(7), "the root has no parent");
    }

    fn name() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[abAB]|ab", 0..5)
    }

    proptest! {
        /// The oracle compares labels, from the last one on, with those of every zone.
        #[test]
        fn it_finds_what_a_comparison_with_every_zone_finds(
            zones in proptest::collection::vec(name(), 0..12),
            name in name(),
            ds: bool,
        ) {
            let zones: Vec<Vec<String>> = zones.into_iter().map(|labels| {
                labels.into_iter().map(|label| label.to_lowercase()).collect()
            }).collect();
            let mut map = ZoneMap::default();
            for zone in &zones {
                map.insert(wire(zone), zone.len());
            }
            let lower: Vec<String> = name.iter().map(|label| label.to_lowercase()).collect();
            let asked = if ds { lower.get(1..).unwrap_or_default() } else { &lower };
            let expected = zones.iter().filter(|zone| asked.ends_with(zone)).map(Vec::len).max();
            let found = map.find(&wire(&name), if ds { DS } else { A });
            prop_assert_eq!(found.map(|(_, labels)| *labels), expected);
            if let Some((zone, labels)) = found {
                prop_assert_eq!(zone, &*wire(&asked[asked.len() - labels..]));
            }
        }
    }
}
