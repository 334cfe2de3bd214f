//! The maps of all interfaces: each interface's program has maps of its own, and every entry is in all of them.

use heimdall_ebpf::tier::{Config, Entry, Slot};
use tracing::{info, warn};

use super::handle::Client;
use crate::xdp::{Readers, TierCounts, TierMaps, XdpError};

/// An interface that is attached.
struct Interface {
    name: String,
    /// Largest IP packet that it sends, in octets.
    mtu: u32,
    maps: TierMaps,
    /// Why its program answers nothing: it does not have the clients.
    failure: Option<String>,
}

impl Interface {
    /// Replaces the prefixes of clients. If the kernel refuses that, for want of memory for example, the program answers
    /// nothing, after the next [`Interfaces::configure`], until a later call succeeds.
    fn set_clients(&mut self, clients: &[Client]) {
        let failure = self.maps.set_clients(clients).err();
        let failure = failure.map(|error| error.to_string());
        match (&failure, &self.failure) {
            (Some(why), before) if before.as_ref() != Some(why) => {
                warn!("{}: hot tier off until the next reload: {why}", self.name);
            }
            (None, Some(_)) => info!("{}: hot tier on again", self.name),
            _ => {}
        }
        self.failure = failure;
    }
}

#[derive(Default)]
pub(super) struct Interfaces {
    interfaces: Vec<Interface>,
    /// What the programs counted that were detached.
    detached: TierCounts,
}

impl Interfaces {
    /// Adds an interface, whose maps hold the entries.
    pub(super) fn add(&mut self, name: &str, mtu: u32, maps: TierMaps, clients: &[Client]) {
        let mut interface = Interface {
            name: name.to_owned(),
            mtu,
            maps,
            failure: None,
        };
        interface.set_clients(clients);
        self.interfaces.push(interface);
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
        let waited = maps.readers().wait();
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
        for interface in &self.interfaces {
            let generation = match interface.failure {
                None => config.generation,
                Some(_) => Config::OFF,
            };
            interface.maps.set_config(&Config {
                generation,
                mtu: interface.mtu,
                ..*config
            });
        }
    }

    /// Replaces the prefixes of clients, while no program answers.
    pub(super) fn set_clients(&mut self, clients: &[Client]) {
        for interface in &mut self.interfaces {
            interface.set_clients(clients);
        }
    }

    /// Why the program of this interface answers nothing, although others may.
    pub(super) fn failure(&self, name: &str) -> Option<&str> {
        let mut interfaces = self.interfaces.iter();
        let interface = interfaces.find(|interface| interface.name == name)?;
        interface.failure.as_deref()
    }

    /// The programs of all interfaces, to be waited for.
    pub(super) fn readers(&self) -> Readers {
        // Whoever's maps they are: it is all programs that are waited for.
        let first = self.interfaces.first();
        first.map_or_else(Readers::default, |interface| interface.maps.readers())
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

    /// Whether the program of an interface does not have the clients.
    pub(super) fn have_failed(&self) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|interface| interface.failure.is_some())
    }

    /// The maps of an interface, in the order in which they were added.
    #[cfg(test)]
    pub(super) fn nth(&self, number: usize) -> &TierMaps {
        &self.interfaces.get(number).expect("an interface").maps
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
