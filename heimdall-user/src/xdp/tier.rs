//! The maps of the hot tier, from which the XDP program answers popular questions itself.
//!
//! What is in them, and in which order it may be changed, is described in [`heimdall_ebpf::tier`]. This module
//! knows the memory alone: which answers are in the tier is up to its caller.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering, fence},
    },
};

use aya::{
    Ebpf,
    maps::{
        Map, MapData, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    util::nr_cpus,
};
use heimdall_ebpf::tier::{
    Bucket, CLIENT_ANSWERED, CLIENT_PASSED, ClientKey, Config, Entry, Outcome, SLOTS, Slot,
    TIER_BUCKETS_MAP, TIER_CLIENTS_MAP, TIER_CONFIG_MAP, TIER_COUNTERS_MAP, TIER_ENTRIES_MAP,
    TIER_HITS_MAP, TYPES, hit_counter,
};
use memmap2::{MmapOptions, MmapRaw};

use super::{
    XdpError,
    grace::GracePeriod,
    program::{missing, take_map},
};

/// How large the tier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierSize {
    answers: u32,
}

impl TierSize {
    /// A tier of so many answers, at least 1.
    pub fn new(answers: u32) -> Self {
        Self {
            answers: answers.max(1),
        }
    }

    /// The number of entries; each takes 512 octets, and 8 for each possible CPU. They are twice as many as the answers, so
    /// that most find the one free that the program loads ahead ([`heimdall_ebpf::tier::home_of`]), and some more, so
    /// that answers of a small tier can be replaced without waiting for a grace period each.
    pub fn entries(self) -> u32 {
        self.answers.saturating_mul(2).saturating_add(64)
    }

    /// Octets of the maps of one program, without what they take for each CPU.
    pub(crate) fn octets(self) -> u64 {
        let buckets = u64::from(self.buckets()) * size_of::<Bucket>() as u64;
        u64::from(self.entries()) * size_of::<Entry>() as u64 + buckets
    }

    /// The number of buckets, a power of two: a bucket of eight slots gets three answers at most on
    /// average, and more than eight with probability 0.004.
    pub fn buckets(self) -> u32 {
        (self.answers / 3 + 1).next_power_of_two()
    }
}

/// What the program has counted since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TierCounts {
    /// Queries passed on to the worker, by [`Outcome`].
    pub(crate) passed: [u64; Outcome::COUNT],
    /// Replies, by the type's index ([`hit_counter`]): NOERROR, NXDOMAIN.
    pub(crate) hits: [[u64; 2]; TYPES],
}

/// The maps of one interface's program. What they hold remains in use as long as the program is attached.
pub(crate) struct TierMaps {
    size: TierSize,
    cpus: usize,
    config: Shared<Config>,
    buckets: Shared<Bucket>,
    entries: Shared<Entry>,
    /// By CPU, then by entry.
    hits: Shared<u64>,
    /// `None` in tests over ordinary memory.
    kernel: Option<Kernel>,
}

/// What is changed by system calls.
struct Kernel {
    clients: LpmTrie<MapData, [u32; 5], u8>,
    /// What is in `clients`.
    prefixes: BTreeMap<(u32, ClientKey), u8>,
    counters: PerCpuArray<MapData, u64>,
    grace: Arc<GracePeriod>,
}

impl TierMaps {
    /// Maps the memory of a program's maps, which were made with this size.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        size: TierSize,
        grace: &Arc<GracePeriod>,
    ) -> Result<Self, XdpError> {
        let cpus = possible_cpus()?;
        let kernel = Kernel {
            clients: take_map(ebpf, TIER_CLIENTS_MAP)?,
            prefixes: BTreeMap::new(),
            counters: take_map(ebpf, TIER_COUNTERS_MAP)?,
            grace: Arc::clone(grace),
        };
        Ok(Self {
            size,
            cpus,
            config: Shared::of_map(ebpf, TIER_CONFIG_MAP, 1)?,
            buckets: Shared::of_map(ebpf, TIER_BUCKETS_MAP, size.buckets() as usize)?,
            entries: Shared::of_map(ebpf, TIER_ENTRIES_MAP, size.entries() as usize)?,
            hits: Shared::of_map(ebpf, TIER_HITS_MAP, hit_counters(size, cpus))?,
            kernel: Some(kernel),
        })
    }

    /// Replaces the configuration; the generation last. While it is being replaced, nothing is answered,
    /// except by programs that have begun before.
    pub(crate) fn set_config(&self, config: &Config) {
        let Config {
            generation,
            flags,
            seed,
            clock_zero,
            mtu,
            udp_size,
            zero: _,
        } = *config;
        let shared = self.config.first();
        let word32 = |at: usize| {
            // SAFETY: `at` is the offset of a field of four octets in the `Config` that the mapping holds; both sides
            // access it as a whole word.
            unsafe { AtomicU32::from_ptr(shared.wrapping_byte_add(at).cast()) }
        };
        let word64 = |at: usize| {
            // SAFETY: as above, of eight octets.
            unsafe { AtomicU64::from_ptr(shared.wrapping_byte_add(at).cast()) }
        };
        let current = word32(offset_of!(Config, generation));
        current.store(Config::OFF, Ordering::Relaxed);
        fence(Ordering::Release);
        for (at, value) in [
            (offset_of!(Config, flags), flags),
            (offset_of!(Config, mtu), mtu),
            (offset_of!(Config, udp_size), udp_size),
        ] {
            word32(at).store(value, Ordering::Relaxed);
        }
        for (at, value) in [
            (offset_of!(Config, seed), seed),
            (offset_of!(Config, clock_zero), clock_zero),
        ] {
            word64(at).store(value, Ordering::Relaxed);
        }
        current.store(generation, Ordering::Release);
    }

    /// Writes the entry at `index`, below [`TierSize::entries`]. No slot may lead to it, and
    /// [`Readers::wait`] must have returned since the last that did was removed. Its hits
    /// begin at 0.
    pub(crate) fn write(&mut self, index: u32, entry: &Entry) {
        let Some(at) = self.entries.at(index as usize) else {
            return;
        };
        // SAFETY: `at` is an entry of the mapping. The program does not read it: no slot leads to it.
        unsafe { ptr::copy_nonoverlapping(entry, at, 1) };
        for hits in self.hits_of(index) {
            hits.store(0, Ordering::Relaxed);
        }
    }

    /// Stores a slot of a bucket. The entry that it leads to is seen whole.
    pub(crate) fn publish(&self, bucket: u32, slot: usize, value: Slot) {
        if slot >= SLOTS {
            return;
        }
        let Some(bucket) = self.buckets.at(bucket as usize) else {
            return;
        };
        let slots = bucket.cast::<u64>();
        // SAFETY: a bucket is `SLOTS` words, which both sides access as words alone.
        let word = unsafe { AtomicU64::from_ptr(slots.wrapping_add(slot)) };
        // After the entry's octets; the program reads them through the slot.
        word.store(value.0, Ordering::Release);
    }

    /// The programs that may be reading, to be waited for.
    pub(crate) fn readers(&self) -> Readers {
        Readers(self.kernel.as_ref().map(|kernel| Arc::clone(&kernel.grace)))
    }

    /// How often the entry at `index` has answered since it was written.
    pub(crate) fn hits(&self, index: u32) -> u64 {
        (self.hits_of(index))
            .map(|hits| hits.load(Ordering::Relaxed))
            .sum()
    }

    /// An entry's counters, one for each CPU.
    fn hits_of(&self, index: u32) -> impl Iterator<Item = &AtomicU64> {
        let entries = self.size.entries() as usize;
        let index = index as usize;
        (0..self.cpus)
            .filter(move |_| index < entries)
            .filter_map(move |cpu| self.hits.at(cpu * entries + index))
            // SAFETY: it is a word of the mapping, which both sides access as a word alone.
            .map(|word| unsafe { AtomicU64::from_ptr(word) })
    }

    /// What the program has counted, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`] if the map cannot be read.
    pub(crate) fn counters(&self) -> Result<TierCounts, XdpError> {
        let mut counts = TierCounts::default();
        let Some(kernel) = &self.kernel else {
            return Ok(counts);
        };
        for (outcome, count) in Outcome::ALL.into_iter().zip(&mut counts.passed) {
            *count = kernel.count(outcome as u32)?;
        }
        for (kind, [noerror, nxdomain]) in counts.hits.iter_mut().enumerate() {
            *noerror = kernel.count(hit_counter(kind, false).into())?;
            *nxdomain = kernel.count(hit_counter(kind, true).into())?;
        }
        Ok(counts)
    }

    /// Sets which clients the tier answers: of the prefixes that hold an address, the longest one decides, and
    /// without any the query is passed on. Only differences are written, one by one: nothing may be answered
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`], as when there are more than [`heimdall_ebpf::tier::MAX_CLIENT_PREFIXES`]. Some of the
    /// differences may have been written; nothing may be answered before a call succeeds.
    pub(crate) fn set_clients(&mut self, clients: &[((IpAddr, u8), bool)]) -> Result<(), XdpError> {
        match &mut self.kernel {
            Some(kernel) => kernel
                .set_clients(clients)
                .map_err(|error| XdpError::map("set which clients the hot tier answers", error)),
            None => Ok(()),
        }
    }
}

/// XDP programs that may be reading slots, entries, or the configuration: those of all interfaces, whichever tier they
/// belong to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers(Option<Arc<GracePeriod>>);

impl Readers {
    /// Returns when no program runs any more that can have read a slot, or the configuration, before the call: some
    /// 10 ms.
    ///
    /// # Errors
    ///
    /// [`XdpError::System`], [`XdpError::NoPrivilege`]: it is not known whether programs still read.
    pub(crate) fn wait(&self) -> Result<(), XdpError> {
        // Stores before the call are visible to programs that begin during it.
        fence(Ordering::SeqCst);
        match &self.0 {
            Some(grace) => (grace.wait())
                .map_err(|error| XdpError::system("wait for running XDP programs", error)),
            None => Ok(()),
        }
    }
}

impl Kernel {
    fn count(&self, counter: u32) -> Result<u64, XdpError> {
        let per_cpu = (self.counters.get(&counter, 0))
            .map_err(|error| XdpError::map("read the hot tier's counters", error))?;
        Ok(per_cpu.iter().sum())
    }

    fn set_clients(&mut self, clients: &[((IpAddr, u8), bool)]) -> Result<(), aya::maps::MapError> {
        let wanted: BTreeMap<_, _> = (clients.iter())
            .map(|((address, bits), answered)| {
                let key = match address {
                    IpAddr::V4(v4) => ClientKey::v4(v4.octets()),
                    IpAddr::V6(v6) => ClientKey::v6(v6.octets()),
                };
                let bits = ClientKey::VERSION_BITS + u32::from(*bits);
                let value = if *answered {
                    CLIENT_ANSWERED
                } else {
                    CLIENT_PASSED
                };
                ((bits, key), value)
            })
            .collect();
        let gone: Vec<_> = (self.prefixes.keys())
            .filter(|prefix| !wanted.contains_key(prefix))
            .copied()
            .collect();
        for (bits, key) in gone {
            self.clients.remove(&Key::new(bits, key.0))?;
            self.prefixes.remove(&(bits, key));
        }
        for ((bits, key), value) in wanted {
            if self.prefixes.get(&(bits, key)) != Some(&value) {
                self.clients.insert(&Key::new(bits, key.0), value, 0)?;
                self.prefixes.insert((bits, key), value);
            }
        }
        Ok(())
    }
}

/// CPUs for which the program counts hits. One with a higher number answers nothing.
pub(super) fn possible_cpus() -> Result<usize, XdpError> {
    nr_cpus().map_err(|(_, error)| XdpError::system("read /sys/devices/system/cpu/possible", error))
}

/// Words of the map of hits.
pub(super) fn hit_counters(size: TierSize, cpus: usize) -> usize {
    size.entries() as usize * cpus
}

/// Memory of so many `T`, which the program reads or writes at the same time.
struct Shared<T> {
    memory: MmapRaw,
    len: usize,
    values: std::marker::PhantomData<*mut T>,
}

// SAFETY: it is the address of memory that is unmapped with it; accesses are the business of those who make
// them.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The values of an array map that was made with BPF_F_MMAPABLE. The mapping keeps the map.
    fn of_map(ebpf: &mut Ebpf, name: &'static str, len: usize) -> Result<Self, XdpError> {
        let Some(Map::Array(map)) = ebpf.take_map(name) else {
            return Err(missing(name));
        };
        let fd = map.fd().as_fd().as_raw_fd();
        let memory = (MmapOptions::new().len(len * size_of::<T>()))
            .map_raw(fd)
            .map_err(|error| XdpError::system("map the hot tier's memory", error))?;
        Ok(Self::new(memory, len))
    }

    fn new(memory: MmapRaw, len: usize) -> Self {
        debug_assert!(memory.len() >= len * size_of::<T>());
        Self {
            memory,
            len,
            values: std::marker::PhantomData,
        }
    }

    /// The value at `index`: aligned, since mappings begin at pages and `T` is not aligned to more. `None`: it is
    /// beyond the end.
    fn at(&self, index: usize) -> Option<*mut T> {
        // SAFETY: `index` is within the mapping.
        (index < self.len).then(|| unsafe { self.memory.as_mut_ptr().cast::<T>().add(index) })
    }

    /// The only, or first, value; no mapping is empty.
    fn first(&self) -> *mut T {
        self.memory.as_mut_ptr().cast()
    }
}

#[cfg(test)]
impl TierMaps {
    /// Maps over ordinary memory, which no program reads.
    pub(crate) fn in_memory(size: TierSize) -> Self {
        fn memory<T>(len: usize) -> Shared<T> {
            let memory = MmapOptions::new().len(len * size_of::<T>()).map_anon();
            Shared::new(memory.expect("memory").into(), len)
        }
        let cpus = 2;
        Self {
            size,
            cpus,
            config: memory(1),
            buckets: memory(size.buckets() as usize),
            entries: memory(size.entries() as usize),
            hits: memory(hit_counters(size, cpus)),
            kernel: None,
        }
    }

    /// The number of entries and buckets.
    pub(crate) fn size(&self) -> TierSize {
        self.size
    }

    /// The configuration that a program would read.
    pub(crate) fn config(&self) -> Config {
        // SAFETY: no other thread writes in tests.
        unsafe { self.config.first().read() }
    }

    /// The entry that a program would find for a key with this hash.
    pub(crate) fn find(&self, hash: u64) -> Option<(u32, Entry)> {
        let bucket = heimdall_ebpf::tier::bucket_of(hash, self.size.buckets());
        let bucket = self.buckets.at(bucket as usize)?;
        // SAFETY: no other thread writes in tests.
        let Bucket(slots) = unsafe { bucket.read() };
        let slot = slots.into_iter().find(|slot| slot.has_tag_of(hash))?;
        let entry = self.entries.at(slot.index() as usize)?;
        // SAFETY: no other thread writes in tests.
        Some((slot.index(), unsafe { entry.read() }))
    }

    /// Counts hits as the program on a CPU would.
    pub(crate) fn add_hits(&self, cpu: usize, index: u32, hits: u64) {
        let counter = self.hits_of(index).nth(cpu).expect("a CPU and an entry");
        counter.fetch_add(hits, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
