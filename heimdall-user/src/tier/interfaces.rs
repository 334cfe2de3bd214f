//! The maps of all interfaces: each interface's program has maps of its own, and every entry is in all of them.

use std::{fmt, net::IpAddr};

use heimdall_ebpf::tier::{COUNTERS, Config, Entry, Slot};

use super::table::Publish;
use crate::xdp::{TierMaps, XdpError};

/// A prefix of clients' addresses, and whether the program may answer them.
pub(crate) type Client = ((IpAddr, u8), bool);

/// The program's counters of an interface, or their sums: `heimdall_ebpf::tier` says which is which.
pub(super) type Counts = [u64; COUNTERS];

/// The maps of one interface's program, or what stands for them in tests.
pub(super) trait Maps: Publish + fmt::Debug + Send {
    /// Writes the configuration, its generation last.
    fn set_config(&mut self, config: &Config);
    /// Replaces the prefixes of clients.
    fn set_clients(&mut self, clients: &[Client]) -> Result<(), XdpError>;
    /// Waits until all programs that run now, on any interface, have ended.
    fn wait_for_readers(&self) -> Result<(), XdpError>;
    /// An entry's hits so far.
    fn hits(&self, index: u32) -> u64;
    /// The program's counters.
    fn counters(&self) -> Result<Counts, XdpError>;
}

/// An interface that is attached.
#[derive(Debug)]
struct Interface {
    name: String,
    mtu: u32,
    maps: Box<dyn Maps>,
}

#[derive(Debug)]
pub(super) struct Interfaces {
    interfaces: Vec<Interface>,
    /// What the interfaces counted that were detached.
    detached: Counts,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            detached: [0; COUNTERS],
        }
    }
}

impl Interfaces {
    /// Adds an interface, whose maps hold what they have to.
    pub(super) fn add(&mut self, name: &str, mtu: u32, maps: Box<dyn Maps>) {
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
        let at = self.interfaces.iter().position(|interface| interface.name == name);
        let Some(mut removed) = at.map(|at| self.interfaces.swap_remove(at)) else {
            return Ok(());
        };
        removed.maps.set_config(&Config::default());
        let waited = removed.maps.wait_for_readers();
        if let Ok(counts) = removed.maps.counters() {
            add(&mut self.detached, &counts);
        }
        waited
    }

    /// Sets the largest IP packet that an interface sends. It is used with the next [`configure`](Self::configure).
    pub(super) fn set_mtu(&mut self, name: &str, mtu: u32) {
        let mut interfaces = self.interfaces.iter_mut();
        if let Some(interface) = interfaces.find(|interface| interface.name == name) {
            interface.mtu = mtu;
        }
    }

    /// Writes the configuration of all programs, each with its interface's MTU.
    pub(super) fn configure(&mut self, config: &Config) {
        for interface in &mut self.interfaces {
            interface.maps.set_config(&Config {
                mtu: interface.mtu,
                ..*config
            });
        }
    }

    /// Replaces the prefixes of clients.
    ///
    /// # Errors
    /// The first.
    pub(super) fn set_clients(&mut self, clients: &[Client]) -> Result<(), XdpError> {
        let mut maps = self.interfaces.iter_mut().map(|interface| &mut interface.maps);
        maps.try_for_each(|maps| maps.set_clients(clients))
    }

    /// Waits until all programs that run now have ended.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn wait_for_readers(&self) -> Result<(), XdpError> {
        // Whoever's it is: all are waited for.
        let first = self.interfaces.first();
        first.map_or(Ok(()), |interface| interface.maps.wait_for_readers())
    }

    /// An entry's hits so far, on all interfaces.
    pub(super) fn hits(&self, index: u32) -> u64 {
        self.interfaces.iter().map(|interface| interface.maps.hits(index)).sum()
    }

    /// The programs' counters, of those that were detached, too.
    pub(super) fn counters(&self) -> Counts {
        let mut sums = self.detached;
        for interface in &self.interfaces {
            if let Ok(counts) = interface.maps.counters() {
                add(&mut sums, &counts);
            }
        }
        sums
    }
}

impl Publish for Interfaces {
    fn write(&mut self, index: u32, entry: &Entry) {
        for interface in &mut self.interfaces {
            interface.maps.write(index, entry);
        }
    }

    fn publish(&mut self, bucket: u32, slot: usize, value: Slot) {
        for interface in &mut self.interfaces {
            interface.maps.publish(bucket, slot, value);
        }
    }
}

fn add(sums: &mut Counts, counts: &Counts) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count;
    }
}
