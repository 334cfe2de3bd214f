//! The return path: whether the reply to a packet leaves where the packet came from, and to which MAC address.
//!
//! Without this check a reply goes to the MAC address that the query came from. With it, the kernel's routes decide
//! (bpf-helpers(7), `bpf_fib_lookup`): the reply is sent to the next hop that they give, and what they send out of another
//! interface, or do not know, is left to the kernel.
//!
//! The look-up is that of a packet which this host sends, policy rules included: its input interface is `lo`, or the VRF's
//! device. The helper is made for forwarding, so it wants that enabled on this interface
//! (`net.ipv4.conf.lo.forwarding`), else it finds nothing. No packet that could be forwarded ever enters by `lo`.
//!
//! The kernel has to see some packets: whether a neighbour still has its MAC address it finds out only when it sends to it
//! itself. So the first packet for each next hop is left to it, and then one in each [`CONFIRM_INTERVAL`].

use core::mem;

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup},
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{LruHashMap, PerCpuArray},
    programs::XdpContext,
};
use heimdall_ebpf::{
    Disposition, Link, MAX_ROUTES,
    tier::{NANOSECONDS, mix},
};

use super::{
    constant,
    frame::Frame,
    steering::Claimed,
    wire::{ethernet, ipv4, ipv6, udp},
};

// The loader makes them small if routes are not looked up.
#[map]
static ROUTES: PerCpuArray<Route> = PerCpuArray::with_max_entries(1, 0);
#[map]
static NEIGHBOURS: LruHashMap<Neighbour, u64> = LruHashMap::with_max_entries(1, 0);

/// See `heimdall_ebpf::ROUTE_CHECK_GLOBAL`.
#[unsafe(no_mangle)]
static ROUTE_CHECK: u32 = 0;

/// How long a route is used without another look-up, in nanoseconds.
const ROUTE_LIFE: u64 = NANOSECONDS;

/// How often a packet for a next hop is left to the kernel, in nanoseconds.
const CONFIRM_INTERVAL: u64 = 5 * NANOSECONDS;

/// `AF_INET` and `AF_INET6` of Linux.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where the reply to a packet is sent: the word of a MAC address, or 0 for the packet's sender.
#[derive(Clone, Copy)]
pub(super) struct NextHop(u64);

impl NextHop {
    const SENDER: Self = Self(0);

    /// Makes it the sender of a packet that is to be answered: whoever answers swaps the addresses.
    #[inline(always)]
    pub(super) fn set_source(self, ctx: &XdpContext) {
        self.write(ctx, ethernet::SOURCE);
    }

    /// Makes it the destination of a reply.
    #[inline(always)]
    pub(super) fn set_destination(self, ctx: &XdpContext) {
        self.write(ctx, ethernet::DESTINATION);
    }

    #[inline(always)]
    fn write(self, ctx: &XdpContext, at: usize) {
        if self.0 != 0 {
            let frame = Frame::of(ctx);
            // The frame has a header: it was read.
            let _ = frame.store(at, self.0 as u32);
            let _ = frame.store(at + 4, (self.0 >> 32) as u16);
        }
    }
}

/// What a route depends on. IPv4 addresses have the first four octets.
#[derive(Clone, Copy)]
#[repr(C)]
struct Key {
    /// The client's address as on the wire, in words.
    client: [u64; 2],
    /// The served address: the reply's source, by which policy rules may choose.
    own: [u64; 2],
    /// Index of the link that the packet belongs to.
    interface: u32,
    /// The served port as on the wire.
    port: u16,
    /// `AF_INET` or `AF_INET6`.
    family: u16,
}

/// A route, as it was looked up.
#[repr(C)]
struct Route {
    key: Key,
    /// Until when it is used, on the coarse clock.
    until: u64,
    /// The word of the next hop's MAC address; [`OTHER`](Self::OTHER): not by this interface.
    next_hop: u64,
}

impl Route {
    const OTHER: u64 = u64::MAX;
}

/// An entry of the kernel's neighbour table.
#[repr(C)]
struct Neighbour {
    /// Its address as on the wire, in words of four octets.
    address: [u32; 4],
    interface: u32,
    family: u32,
}

/// Where the reply to a packet of a link is sent. `Err`: the packet is left to the kernel.
#[inline(always)]
pub(super) fn next_hop(
    ctx: &XdpContext,
    frame: Frame,
    packet: Claimed,
    link: &Link,
) -> Result<NextHop, Disposition> {
    if constant(&ROUTE_CHECK) == 0 {
        return Ok(NextHop::SENDER);
    }
    let key = Key::read(frame, packet, link.interface).ok_or(Disposition::BadLength)?;
    if key.is_link_local() {
        // They are on this link by definition, and the helper knows no route to them.
        return Ok(NextHop::SENDER);
    }
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let route = ROUTES
        .get_ptr_mut(key.place())
        .ok_or(Disposition::OtherRoute)?;
    // SAFETY: the pointer is to a value of this CPU's, and XDP runs to its end on one CPU.
    let route = unsafe { &mut *route };
    if route.until <= now || !route.key.is(&key) {
        route.next_hop = look_up(ctx, &key, link.vrf, now)?;
        route.key = key;
        route.until = now + ROUTE_LIFE;
    }
    match route.next_hop {
        Route::OTHER => Err(Disposition::OtherRoute),
        mac => Ok(NextHop(mac)),
    }
}

/// Asks the kernel for the route of a packet that enters by the interface `from`: the value of [`Route::next_hop`]. `Err`: the
/// kernel is to find the next hop's MAC address, or to confirm it.
#[inline(always)]
fn look_up(ctx: &XdpContext, key: &Key, from: u32, now: u64) -> Result<u64, Disposition> {
    let words = |[first, second]: [u64; 2]| {
        [
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ]
    };
    // SAFETY: it consists of integers, for which zero is a valid value.
    let mut lookup: FibLookup = unsafe { mem::zeroed() };
    lookup.family = key.family as u8;
    lookup.l4_protocol = udp::PROTOCOL;
    // The client's port is left out: a route is kept for all its ports.
    lookup.sport = key.port;
    lookup.ifindex = from;
    lookup.__bindgen_anon_3.ipv6_src = words(key.own);
    lookup.__bindgen_anon_4.ipv6_dst = words(key.client);
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: context and structure are live, and this is the structure's size.
    let found = unsafe { bpf_fib_lookup(ctx.ctx.cast(), &raw mut lookup, size, 0) };
    let is_here = lookup.ifindex == key.interface;
    let mac = found_mac(&lookup);
    if found == BPF_FIB_LKUP_RET_NO_NEIGH.into() && is_here {
        return Err(Disposition::Neighbour);
    }
    if found != BPF_FIB_LKUP_RET_SUCCESS.into() || !is_here {
        return Ok(Route::OTHER);
    }
    let neighbour = Neighbour {
        // SAFETY: all octets of the union have been set.
        address: unsafe { lookup.__bindgen_anon_4.ipv6_dst },
        interface: key.interface,
        family: lookup.family.into(),
    };
    // Before Linux 6.3 the helper also gives neighbours that have not answered yet.
    if mac == 0 || needs_confirmation(&neighbour, now) {
        return Err(Disposition::Neighbour);
    }
    Ok(mac)
}

/// The word of the MAC address that was found, the last six octets of the structure. Of a field that is not aligned to four
/// octets the compiler would load them as one number, which the verifier does not permit on the stack.
#[inline(always)]
fn found_mac(lookup: &FibLookup) -> u64 {
    const { assert!(size_of::<FibLookup>() == 64 && mem::offset_of!(FibLookup, dmac) == 58) };
    // SAFETY: the structure is 16 words long and aligned to words, and has no padding.
    let words: &[u32; 16] = unsafe { &*core::ptr::from_ref(lookup).cast() };
    u64::from(words[14] >> 16) | u64::from(words[15]) << 16
}

/// Whether the kernel has not got a packet for this neighbour for a while. Then it gets the present one.
#[inline(always)]
fn needs_confirmation(neighbour: &Neighbour, now: u64) -> bool {
    if let Some(last) = NEIGHBOURS.get_ptr(neighbour) {
        // SAFETY: the pointer is to a value of the map, in memory that stays while the program runs. The value of another
        // neighbour in its place would be a time, too.
        let last = unsafe { last.read_volatile() };
        if now < last + CONFIRM_INTERVAL {
            return false;
        }
    }
    // If there is no room, the next packet tries again.
    let _ = NEIGHBOURS.insert(neighbour, &now, 0);
    true
}

impl Key {
    #[inline(always)]
    fn read(frame: Frame, packet: Claimed, interface: u32) -> Option<Self> {
        let word = |at: usize| frame.load::<u64>(packet.ip + at);
        let (client, own, family) = if packet.v4 {
            let address = |at: usize| frame.load::<u32>(packet.ip + at).map(u64::from);
            let client = address(ipv4::SOURCE)?;
            ([client, 0], [address(ipv4::DESTINATION)?, 0], AF_INET)
        } else {
            let client = [word(ipv6::SOURCE)?, word(ipv6::SOURCE + 8)?];
            let own = [word(ipv6::DESTINATION)?, word(ipv6::DESTINATION + 8)?];
            (client, own, AF_INET6)
        };
        Some(Self {
            client,
            own,
            interface,
            port: frame.load(packet.udp() + udp::DESTINATION_PORT)?,
            family: family.into(),
        })
    }

    /// Whether the client has a link-local address of IPv6 (fe80::/10, RFC 4291 section 2.5.6).
    #[inline(always)]
    fn is_link_local(&self) -> bool {
        let [first, second, ..] = self.client[0].to_ne_bytes();
        self.family == AF_INET6.into() && first == 0xfe && second & 0xc0 == 0x80
    }

    /// Whether they are equal, word by word: of arrays the compiler would make a call.
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        self.client[0] == other.client[0]
            && self.client[1] == other.client[1]
            && self.own[0] == other.own[0]
            && self.own[1] == other.own[1]
            && self.interface == other.interface
            && self.port == other.port
            && self.family == other.family
    }

    /// Its index in the map.
    #[inline(always)]
    fn place(&self) -> u32 {
        let hash = mix(mix(0, self.client[0]), self.client[1]);
        (hash >> 32) as u32 & (MAX_ROUTES - 1)
    }
}
