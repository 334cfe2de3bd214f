//! The maps of all interfaces: each interface's program has maps of its own, and every entry is in all of them.

use heimdall_ebpf::tier::{Config, Entry, Slot};

use super::handle::Client;
use crate::xdp::{TierCounts, TierMaps, XdpError};

/// An interface that is attached.
struct Interface {
    name: String,
    /// Largest IP packet that it sends, in octets.
    mtu: u32,
    maps: TierMaps,
}

#[derive(Default)]
pub(super) struct Interfaces {
    interfaces: Vec<Interface>,
    /// What the programs counted that were detached.
    detached: TierCounts,
}

impl Interfaces {
    /// Adds an interface, whose maps hold what they have to.
    pub(super) fn add(&mut self, name: &str, mtu: u32, maps: TierMaps) {
        self.interfaces.push(Interface {
            name: name.to_owned(),
            mtu,
            maps,
        });
    }

    /// Removes an interface. From the return on, its program answers nothing.
    ///
    /// # Errors
    /// That cannot be waited for.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), XdpError> {
        let mut interfaces = self.interfaces.iter();
        let Some(at) = interfaces.position(|interface| interface.name == name) else {
            return Ok(());
        };
        let Interface { maps, .. } = self.interfaces.swap_remove(at);
        maps.set_config(&Config::default());
        let waited = maps.wait_for_readers();
        add_counts(&mut self.detached, &maps);
        waited
    }

    /// Sets an interface's MTU, which the next [`configure`](Self::configure) writes. Returns whether it was another.
    pub(super) fn set_mtu(&mut self, name: &str, mtu: u32) -> bool {
        let mut interfaces = self.interfaces.iter_mut();
        let interface = interfaces.find(|interface| interface.name == name);
        interface.is_some_and(|interface| std::mem::replace(&mut interface.mtu, mtu) != mtu)
    }

    /// Writes the configuration of all programs, each with its interface's MTU.
    pub(super) fn configure(&self, config: &Config) {
        for Interface { mtu, maps, .. } in &self.interfaces {
            maps.set_config(&Config {
                mtu: *mtu,
                ..*config
            });
        }
    }

    /// Replaces the prefixes of clients.
    ///
    /// # Errors
    /// The first.
    pub(super) fn set_clients(&mut self, clients: &[Client]) -> Result<(), XdpError> {
        let mut interfaces = self.interfaces.iter_mut();
        interfaces.try_for_each(|interface| interface.maps.set_clients(clients))
    }

    /// Waits until all programs that run now have ended.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn wait_for_readers(&self) -> Result<(), XdpError> {
        // Whoever's maps they are: the programs of all interfaces are waited for.
        let first = self.interfaces.first();
        first.map_or(Ok(()), |interface| interface.maps.wait_for_readers())
    }

    /// Writes an entry that no slot leads to.
    pub(super) fn write(&mut self, index: u32, entry: &Entry) {
        for interface in &mut self.interfaces {
            interface.maps.write(index, entry);
        }
    }

    /// Stores a slot.
    pub(super) fn publish(&self, bucket: u32, slot: usize, value: Slot) {
        for interface in &self.interfaces {
            interface.maps.publish(bucket, slot, value);
        }
    }

    /// The hits of an entry since it was written.
    pub(super) fn hits(&self, index: u32) -> u64 {
        let interfaces = self.interfaces.iter();
        interfaces.map(|interface| interface.maps.hits(index)).sum()
    }

    /// What the programs have counted, those that were detached included.
    pub(super) fn counters(&self) -> TierCounts {
        let mut sums = self.detached;
        for interface in &self.interfaces {
            add_counts(&mut sums, &interface.maps);
        }
        sums
    }

    /// The maps of the first interface.
    #[cfg(test)]
    pub(super) fn first(&self) -> &TierMaps {
        &self.interfaces.first().expect("an interface").maps
    }
}

/// Adds what a program has counted, if it can be read.
fn add_counts(sums: &mut TierCounts, maps: &TierMaps) {
    let Ok(TierCounts { passed, hits }) = maps.counters() else {
        return;
    };
    let sums = sums.passed.iter_mut().chain(sums.hits.as_flattened_mut());
    let counts = passed.iter().chain(hits.as_flattened());
    for (sum, count) in sums.zip(counts) {
        *sum += count;
    }
}
