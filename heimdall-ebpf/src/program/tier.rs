//! The hot tier: answers plain queries for popular questions from entries that userspace has put into maps.
//!
//! A query is answered exactly as the workers would answer it, or left to them unchanged; why is counted by
//! [`Outcome`]. What most queries fail is checked first, what costs most last: looking up what is not held has to
//! be cheap. Layouts, and why no entry is ever seen half: [`heimdall_ebpf::tier`].
//!
//! Verifier: each `load` and `store` checks its bounds. They hold by then, so a failed check is an outcome only
//! because there has to be one. Lengths that decide how far a loop runs are read again after it
//! ([`Held::name_len`], [`Held::body_len`]): the verifier would otherwise follow all that comes after the loop once
//! for each number of rounds.

mod lookup;
mod query;
mod received;
mod reply;

use core::ptr;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::generated::{
        bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_xdp_adjust_tail,
    },
    macros::map,
    maps::{Array, LpmTrie, PerCpuArray},
    programs::XdpContext,
};
use heimdall_ebpf::tier::{
    Bucket, CLIENT_ANSWERED, COUNTERS, ClientKey, Config, Entry, MAX_CLIENT_PREFIXES, MIN_BODY,
    NANOSECONDS, Outcome, SAMPLE_INTERVAL, home_of,
};

use self::{lookup::Held, query::Query};
use super::{
    constant, count,
    frame::Frame,
    steering::Claimed,
    wire::{dns, opt},
};

// The loader sets the sizes of those with one value.
#[map]
static TIER_CONFIG: Array<Config> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TIER_BUCKETS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TIER_ENTRIES: Array<Entry> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TIER_HITS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TIER_CLIENTS: LpmTrie<ClientKey, u8> = LpmTrie::with_max_entries(MAX_CLIENT_PREFIXES, 0);
#[map]
static TIER_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS as u32, 0);

/// See `heimdall_ebpf::tier::TIER_BUCKETS_GLOBAL`.
#[unsafe(no_mangle)]
static TIER_BUCKET_COUNT: u32 = 0;

/// See `heimdall_ebpf::tier::TIER_ENTRIES_GLOBAL`.
#[unsafe(no_mangle)]
static TIER_ENTRY_COUNT: u32 = 0;

/// The hash of the question in a packet that may not be for Heimdall: the processor loads the hash's bucket, and the entry
/// that it probably leads to, while that is looked up. `None`: it is not a plain query.
#[inline(always)]
pub(super) fn hash(frame: Frame, packet: Claimed) -> Option<u64> {
    let buckets = constant(&TIER_BUCKET_COUNT);
    if buckets == 0 {
        return None;
    }
    let config = TIER_CONFIG.get(0)?;
    let query = Query::read(frame, packet).ok()?;
    let hash = lookup::hash(frame, &query, config.seed)?;
    lookup::touch_bucket(hash, buckets);
    let home = home_of(hash, constant(&TIER_ENTRY_COUNT));
    if let (Some(held), Some(hits)) = (Held::at(home), hits(home)) {
        touch_entry(held, hits);
    }
    Some(hash)
}

/// Answers the packet, of which this is the [`hash`], if the tier can: it is then the reply, to be sent back. `false`: it
/// is unchanged.
#[inline(always)]
pub(super) fn answer(ctx: &XdpContext, packet: Claimed, hash: Option<u64>) -> bool {
    let buckets = constant(&TIER_BUCKET_COUNT);
    if buckets == 0 {
        return false;
    }
    let (counter, answered) = match try_answer(ctx, packet, hash, buckets) {
        Ok(counter) => (counter, true),
        Err(outcome) => (outcome as u32, false),
    };
    count(TIER_COUNTERS.get_ptr_mut(counter));
    answered
}

/// Returns the counter of the answer.
#[inline(always)]
fn try_answer(
    ctx: &XdpContext,
    packet: Claimed,
    hash: Option<u64>,
    buckets: u32,
) -> Result<u32, Outcome> {
    let frame = Frame::of(ctx);
    let config = TIER_CONFIG.get(0).ok_or(Outcome::Off)?;
    let generation = config.generation;
    if generation == Config::OFF {
        return Err(Outcome::Off);
    }
    let query = Query::read(frame, packet)?;
    let hash = hash.ok_or(Outcome::NotPlain)?;
    let (held, index) = lookup::find(hash, buckets).ok_or(Outcome::NotHeld)?;
    let hits = hits(index).ok_or(Outcome::NotHeld)?;
    // What the entry does not matter to comes first, while its cache lines are being loaded.
    touch_entry(held, hits);
    let now = seconds(config);
    let client = check_client(frame, packet);
    let frame = Frame::of(ctx);
    let question_sum = held.matches(frame, &query).ok_or(Outcome::NotHeld)?;
    let frame = Frame::of(ctx);
    if held.entry.generation != generation {
        return Err(Outcome::Outdated);
    }
    if now >= held.entry.until {
        return Err(Outcome::Due);
    }
    if config.flags & Config::PASS_NON_RECURSIVE != 0 && query.flags & dns::RD == 0 {
        return Err(Outcome::NonRecursive);
    }
    client.ok_or(Outcome::Client)?;
    let addresses = received::addresses_sum(frame, packet).ok_or(Outcome::Checksum)?;
    if config.flags & Config::VERIFY_CHECKSUMS != 0 {
        received::check(frame, packet, &query, held, addresses, question_sum)
            .ok_or(Outcome::Checksum)?;
    }
    let message_len = reply_len(&query, held).ok_or(Outcome::NotHeld)?;
    let limit = query.payload_size().min(config.udp_size as usize);
    let ip_len = packet.dns() - packet.ip + message_len;
    if message_len > limit || ip_len > config.mtu as usize {
        return Err(Outcome::TooLarge);
    }
    if is_sampled() {
        return Err(Outcome::Sampled);
    }
    resize(ctx, frame.len(), packet.dns() + message_len)?;
    // From here on the packet is the reply: nothing fails any more.
    // SAFETY: the word is this CPU's alone, and XDP runs to its end on one CPU.
    unsafe { *hits += 1 };
    let sums = reply::Sums {
        addresses,
        question: question_sum,
    };
    let age = now.saturating_sub(held.entry.received);
    reply::write(ctx, packet, &query, held, config, age, sums).ok_or(Outcome::NoTailroom)?;
    Ok(held.entry.counter.into())
}

/// The clock's seconds. The coarse clock lags by a tick, some milliseconds, and costs a quarter of the exact one.
#[inline(always)]
fn seconds(config: &Config) -> u32 {
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    (now.wrapping_sub(config.clock_zero) / NANOSECONDS) as u32
}

/// `None`: the sender is not answered here.
#[inline(always)]
fn check_client(frame: Frame, packet: Claimed) -> Option<()> {
    let key = received::client(frame, packet)?;
    let answered = TIER_CLIENTS.get(&*key)?;
    (*answered == CLIENT_ANSWERED && received::source_port(frame, packet)? != 0).then_some(())
}

/// Whether this hit is for the cache behind. By chance, as a count would have to reach the interval on one CPU within
/// the life of an entry.
#[inline(always)]
fn is_sampled() -> bool {
    // SAFETY: the helper takes nothing.
    let random = unsafe { bpf_get_prandom_u32() };
    random % SAMPLE_INTERVAL == 0
}

/// Has the processor load what an answer needs of its entry, and the counter of its hits, which is in a map.
#[inline(always)]
fn touch_entry(held: Held, hits: *mut u64) {
    held.touch();
    // SAFETY: it is a counter in a map.
    touch(unsafe { &*hits });
}

/// Has the processor load a cache line that is needed soon.
#[inline(always)]
fn touch<T>(line: &T) {
    // SAFETY: the octet is the first one of a reference.
    let _ = unsafe { ptr::read_volatile(ptr::from_ref(line).cast::<u8>()) };
}

/// This CPU's hits of the entry at `index`.
#[inline(always)]
fn hits(index: u32) -> Option<*mut u64> {
    // SAFETY: the helper takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    TIER_HITS.get_ptr_mut(
        cpu.wrapping_mul(constant(&TIER_ENTRY_COUNT))
            .wrapping_add(index),
    )
}

/// Octets of the reply's DNS message. `None`: the body is shorter than a body can be, too short to be copied.
#[inline(always)]
fn reply_len(query: &Query, held: Held) -> Option<usize> {
    let opt = if query.opt.is_some() { opt::LEN } else { 0 };
    let body_len = held.body_len()?;
    (body_len >= MIN_BODY).then_some(dns::LEN + held.name_len() + dns::KIND_LEN + body_len + opt)
}

/// Gives the packet the reply's length, without padding. On veth it can grow by some 47 octets, as the kernel made
/// the frame from a buffer that just held it.
#[inline(always)]
fn resize(ctx: &XdpContext, len: usize, wanted: usize) -> Result<(), Outcome> {
    let growth = wanted as i32 - len as i32;
    // SAFETY: it is the program's context.
    if growth != 0 && unsafe { bpf_xdp_adjust_tail(ctx.ctx, growth) } != 0 {
        return Err(Outcome::NoTailroom);
    }
    Ok(())
}
