//! The program in the kernel, and its maps.

use std::{cell::RefCell, net::IpAddr, time::Duration};

use aya::{
    EbpfLoader, Pod, TestRunOptions,
    maps::{
        Array, MapData, PerCpuArray,
        lpm_trie::{Key as Prefix, LpmTrie},
    },
    programs::TestRun as _,
};
use heimdall_ebpf::{
    Disposition, ROUTE_CHECK_GLOBAL,
    tier::{
        Bucket, COUNTERS, ClientKey, Config, Entry, Outcome, SLOTS, Slot, TIER_BUCKETS_GLOBAL,
        TIER_BUCKETS_MAP, TIER_CLIENTS_MAP, TIER_CONFIG_MAP, TIER_COUNTERS_MAP,
        TIER_ENTRIES_GLOBAL, TIER_ENTRIES_MAP, TIER_HITS_MAP, bucket_of,
    },
};
use lab::{BoundSocket, LoadedProgram, XDP_REDIRECT, XDP_TX};
use nix::time::{ClockId, clock_gettime};

pub(crate) const ENTRIES: u32 = 16;
pub(crate) const BUCKETS: u32 = 4;
pub(crate) const SEED: u64 = 0x0123_4567_89ab_cdef;
/// The time, if it is not set.
pub(crate) const NOW: u32 = 1 << 28;

/// A value of a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value<T>(T);

// SAFETY: the layouts have no padding, and each is used with the map that it is for.
unsafe impl<T: Copy + 'static> Pod for Value<T> {}

/// What the program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// The reply, and the counter of its type and response code.
    Answered(Vec<u8>, u32),
    /// Left unchanged to the worker.
    Passed(Outcome),
}

impl Run {
    #[track_caller]
    pub(crate) fn reply(self) -> Vec<u8> {
        match self {
            Self::Answered(reply, _) => reply,
            Self::Passed(outcome) => panic!("passed on: {outcome:?}"),
        }
    }
}

/// The loaded program with a socket. Its clock stands still.
pub(crate) struct Kernel {
    program: LoadedProgram,
    config: RefCell<Array<MapData, Value<Config>>>,
    settings: Config,
    now: u32,
    buckets: Array<MapData, Value<Bucket>>,
    entries: Array<MapData, Value<Entry>>,
    hits: Array<MapData, u64>,
    clients: LpmTrie<MapData, [u32; 5], u8>,
    counters: PerCpuArray<MapData, u64>,
    _socket: BoundSocket,
}

impl Kernel {
    /// A tier of [`ENTRIES`] that answers all clients.
    pub(crate) fn load() -> Self {
        let mut kernel = Self::load_sized(ENTRIES, BUCKETS);
        kernel.set_client("0.0.0.0", 0, Some(1));
        kernel.set_client("::", 0, Some(1));
        kernel.set_config(&config());
        kernel
    }

    /// A tier that is off, and has no clients.
    pub(crate) fn load_sized(entries: u32, buckets: u32) -> Self {
        Self::load_with(entries, buckets, false)
    }

    /// The same, which looks routes up or not.
    pub(crate) fn load_with(entries: u32, buckets: u32, route_check: bool) -> Self {
        let cpus = aya::util::nr_cpus().unwrap() as u32;
        let checks = u32::from(route_check);
        let mut loader = EbpfLoader::new();
        loader
            .override_global(TIER_BUCKETS_GLOBAL, &buckets, true)
            .override_global(TIER_ENTRIES_GLOBAL, &entries, true)
            .override_global(ROUTE_CHECK_GLOBAL, &checks, true)
            .map_max_entries(TIER_BUCKETS_MAP, buckets.max(1))
            .map_max_entries(TIER_ENTRIES_MAP, entries.max(1))
            .map_max_entries(TIER_HITS_MAP, (entries * cpus).max(1));
        let mut program = LoadedProgram::load(&mut loader);
        let socket = program.open_socket();
        let mut take = |name| program.ebpf.take_map(name).unwrap();
        Self {
            config: RefCell::new(take(TIER_CONFIG_MAP).try_into().unwrap()),
            settings: Config::default(),
            now: NOW,
            buckets: take(TIER_BUCKETS_MAP).try_into().unwrap(),
            entries: take(TIER_ENTRIES_MAP).try_into().unwrap(),
            hits: take(TIER_HITS_MAP).try_into().unwrap(),
            clients: take(TIER_CLIENTS_MAP).try_into().unwrap(),
            counters: take(TIER_COUNTERS_MAP).try_into().unwrap(),
            program,
            _socket: socket,
        }
    }

    pub(crate) fn set_config(&mut self, config: &Config) {
        self.settings = *config;
    }

    pub(crate) fn set_time(&mut self, second: u32) {
        self.now = second;
    }

    /// Writes the configuration, with a clock that is in the middle of the second.
    fn write_config(&self) {
        let clock = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
        let start = Duration::from(clock) - Duration::from_millis(500);
        let config = Config {
            clock_zero: Config::clock_zero(start.as_nanos() as u64, self.now),
            ..self.settings
        };
        let mut map = self.config.borrow_mut();
        map.set(0, Value(config), 0).unwrap();
    }

    /// Sets a prefix of clients, or removes it.
    pub(crate) fn set_client(&mut self, address: &str, bits: u32, value: Option<u8>) {
        let key = match address.parse().unwrap() {
            IpAddr::V4(v4) => ClientKey::v4(v4.octets()),
            IpAddr::V6(v6) => ClientKey::v6(v6.octets()),
        };
        let prefix = Prefix::new(ClientKey::VERSION_BITS + bits, key.0);
        match value {
            Some(value) => self.clients.insert(&prefix, value, 0).unwrap(),
            None => self.clients.remove(&prefix).unwrap(),
        }
    }

    /// Writes an entry, which has no hits yet, and publishes it in a slot of its key's bucket.
    pub(crate) fn put(&mut self, index: u32, slot: usize, entry: &Entry) {
        self.set_hits(index, 0);
        let hash = entry.key.hash(SEED);
        self.entries.set(index, Value(*entry), 0).unwrap();
        self.set_slot(hash, slot, Slot::new(hash, index));
    }

    /// Stores a slot in the bucket for a hash.
    pub(crate) fn set_slot(&mut self, hash: u64, slot: usize, value: Slot) {
        let bucket = bucket_of(hash, BUCKETS);
        let Value(Bucket(mut slots)) = self.buckets.get(&bucket, 0).unwrap();
        slots[slot] = value;
        self.buckets.set(bucket, Value(Bucket(slots)), 0).unwrap();
    }

    /// Empties all buckets.
    pub(crate) fn clear(&mut self) {
        for bucket in 0..BUCKETS {
            let empty = Bucket([Slot::EMPTY; SLOTS]);
            self.buckets.set(bucket, Value(empty), 0).unwrap();
        }
    }

    /// An entry's hits on all CPUs.
    pub(crate) fn hits(&self, index: u32) -> u64 {
        let counters = (index..self.hits.len()).step_by(ENTRIES as usize);
        counters.map(|at| self.hits.get(&at, 0).unwrap()).sum()
    }

    /// Sets an entry's hits on all CPUs.
    pub(crate) fn set_hits(&mut self, index: u32, hits: u64) {
        for at in (index..self.hits.len()).step_by(ENTRIES as usize) {
            self.hits.set(at, hits, 0).unwrap();
        }
    }

    /// The verifier's count of instructions.
    pub(crate) fn verified_instructions(&self) -> Option<u32> {
        self.program
            .program()
            .info()
            .unwrap()
            .verified_instruction_count()
    }

    fn counts(&self) -> Vec<u64> {
        let count = |at| self.counters.get(&(at as u32), 0).unwrap().iter().sum();
        (0..COUNTERS).map(count).collect()
    }

    /// As [`run_once`](Self::run_once), until the packet is not chosen as a sample.
    #[track_caller]
    pub(crate) fn run(&self, frame: &[u8]) -> Run {
        loop {
            let run = self.run_once(frame);
            if run != Run::Passed(Outcome::Sampled) {
                return run;
            }
        }
    }

    /// Runs the program over a frame that it claims, and checks that it counts it once in each map, and changes only
    /// what it answers.
    #[track_caller]
    pub(crate) fn run_once(&self, frame: &[u8]) -> Run {
        let before = (self.counts(), self.program.counters());
        let (action, out) = self.run_uncounted(frame);
        let (counts, dispositions) = (self.counts(), self.program.counters());
        let counter = only_change(&before.0, &counts);
        let disposition = Disposition::ALL[only_change(&before.1, &dispositions)];
        match (action, disposition) {
            (XDP_TX, Disposition::Answered) => {
                assert!(counter >= Outcome::COUNT, "an outcome for an answer");
                Run::Answered(out, counter as u32)
            }
            (XDP_REDIRECT, Disposition::Steered) => {
                assert_eq!(out, frame, "a packet that is passed on is unchanged");
                Run::Passed(Outcome::ALL[counter])
            }
            other => panic!("{other:?}"),
        }
    }

    /// The reply to a frame, without a look at the counters.
    #[track_caller]
    pub(crate) fn reply(&self, frame: &[u8]) -> Vec<u8> {
        // Any of the first may be chosen as a sample.
        let mut runs = (0..8).map(|_| self.run_uncounted(frame));
        let answered = runs.find(|(action, _)| *action == XDP_TX);
        answered.expect("it is answered").1
    }

    /// Runs the program over a frame. Returns its action, and what it made of the frame.
    pub(crate) fn run_uncounted(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        self.write_config();
        let mut out = vec![0; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = self.program.program().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }
}

/// The only counter that has changed, and by 1.
#[track_caller]
fn only_change(before: &[u64], after: &[u64]) -> usize {
    let changes: Vec<_> = (0..before.len())
        .filter(|at| before[*at] != after[*at])
        .collect();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(after[changes[0]] - before[changes[0]], 1);
    changes[0]
}

/// A configuration that answers.
pub(crate) fn config() -> Config {
    Config {
        generation: 1,
        flags: Config::VERIFY_CHECKSUMS | Config::TRUST_AD,
        seed: SEED,
        mtu: 1500,
        udp_size: 1232,
        ..Config::default()
    }
}
