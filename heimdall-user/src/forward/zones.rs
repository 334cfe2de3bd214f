//! Zones below which no name can be resolved (RFC 9520 section 3.2).
//!
//! The servers of a zone that is dead answer for none of its names, and each new name costs a
//! look-up that takes all its time. So failures are counted for the ancestors of a name, too. When
//! [so many](THRESHOLD) different names directly below one have failed, or names below those, and
//! nothing below it was answered since the first of them, but something else was, new names below it
//! fail at once. Then one
//! look-up at a time is let through as a probe, after a time that each probe that fails doubles. Any
//! answer below the zone ends this.
//!
//! Names with a stale answer do not take part: they were answered once, so they are looked up whatever
//! the state of the zone, at the pace that failures of their own allow. So a flood of names that fail
//! below a zone of which a part works cannot keep its known names from being refreshed.
//!
//! Failures of address, HTTPS and other queries are counted apart: some servers, and firewalls in
//! front of them, drop queries for types that they do not know (RFC 4074, RFC 8906 section 3.1.2), and
//! the addresses of their names can be resolved all the same.
//!
//! One dead child counts once, however many names below it fail, so it never condemns its parent.
//! The root, the top-level domains and what looks like the second level of [a registry](is_registry)
//! are never condemned: what is below them has no server in common, and whoever knows enough lame
//! domains could have all the others fail.

use std::time::{Duration, Instant};

use hashbrown::{HashTable, hash_table::Entry};

use super::{Request, failures::BOUNDS, shed::last_labels};
use crate::dns::{KEY_FLAG_CD, NameHasher, name::eq_ignore_case, rrtype};

/// Different children that have to fail.
const THRESHOLD: usize = 16;

/// Zones that one thread knows of: a megabyte or two at most.
const CAPACITY: usize = 4096;

/// Labels of the deepest zone that is kept, which bounds what a long name can cost. The reverse zone of
/// an IPv6 /32 has as many; those of sites are known by that.
const MAX_LABELS: usize = 10;

#[derive(Debug)]
struct Zone {
    hash: u64,
    name: Box<[u8]>,
    /// By [`kind`] of query.
    states: [State; KINDS],
    /// When it was last of use, in [`Zones::uses`].
    used: u64,
}

/// What became of queries of one kind below a zone.
#[derive(Debug, Default)]
struct State {
    /// Hashes of the names directly below it that failed, or have names below them that did.
    failed: Vec<u64>,
    /// Only look-ups that began after this one count: it was the last one when the first failed, when
    /// one was answered, or when the zone was put off. 0: none has failed yet.
    since: u64,
    back_off: Option<BackOff>,
}

#[derive(Clone, Copy, Debug)]
struct BackOff {
    /// When the next probe may be made.
    until: Instant,
    seconds: u32,
}

/// What is known of zones. Serial numbers are those of look-ups.
#[derive(Debug)]
pub(super) struct Zones {
    table: HashTable<Zone>,
    hasher: NameHasher,
    capacity: usize,
    /// Seconds between probes, at most.
    max: u32,
    /// Time that a probe takes.
    probe: Duration,
    /// States with a back-off.
    dead: usize,
    /// The last look-up that had begun when one was answered, below any zone.
    answered: u64,
    uses: u64,
}

impl Zones {
    /// Knows nothing. Between probes, which take the time `probe`, are at most `max` seconds.
    pub(super) fn new(max: u32, probe: Duration, hasher: NameHasher) -> Self {
        Self {
            table: HashTable::new(),
            hasher,
            capacity: CAPACITY,
            max: max.clamp(BOUNDS.0, BOUNDS.1),
            probe,
            dead: 0,
            answered: 0,
            uses: 0,
        }
    }

    /// Whether the request's name may be looked up. If it is below a zone whose time has come, its
    /// look-up is the probe.
    ///
    /// # Errors
    /// The time left until the next probe.
    pub(super) fn admit(&mut self, request: &Request, now: Instant) -> Result<(), Duration> {
        if self.dead == 0 {
            return Ok(());
        }
        self.uses += 1;
        let mut left = Duration::ZERO;
        for labels in 2..=MAX_LABELS {
            if let Some(back_off) = self.back_off(request, labels) {
                left = left.max(back_off.until.saturating_duration_since(now));
            }
        }
        if !left.is_zero() {
            return Err(left);
        }
        let probe = self.probe;
        for labels in 2..=MAX_LABELS {
            if let Some(back_off) = self.back_off(request, labels) {
                back_off.until = now + probe;
            }
        }
        Ok(())
    }

    /// Notes that the look-up with the number `serial` failed, when `last` was the last one begun.
    /// The zone that is found dead by this, if one is: its name in wire form.
    pub(super) fn failed<'a>(
        &mut self,
        request: &'a Request,
        serial: u64,
        last: u64,
        now: Instant,
    ) -> Option<&'a [u8]> {
        let mut died = None;
        self.uses += 1;
        let (uses, max, answered) = (self.uses, self.max, self.answered);
        for labels in 2..=MAX_LABELS {
            let Some((name, child)) = zone_and_child(request, labels) else {
                break;
            };
            if is_registry(name, labels) {
                continue;
            }
            let hash = self.hash(name, request);
            let child = self.hash(child, request);
            self.make_room();
            let entry = self
                .table
                .entry(hash, |zone| zone.is(hash, name), |zone| zone.hash);
            let zone = match entry {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry
                    .insert(Zone {
                        hash,
                        name: name.into(),
                        states: Default::default(),
                        used: uses,
                    })
                    .into_mut(),
            };
            zone.used = uses;
            let Some(state) = zone.states.get_mut(kind(request)) else {
                break;
            };
            if state.since == 0 {
                state.since = last;
                continue;
            }
            if serial <= state.since {
                continue;
            }
            if !state.failed.contains(&child) && state.failed.len() < THRESHOLD {
                state.failed.push(child);
            }
            if state.failed.len() < THRESHOLD {
                continue;
            }
            // Upstreams that fail every question say nothing about the zone.
            let is_outage = answered <= state.since;
            let seconds = match state.back_off {
                None if is_outage => continue,
                Some(back_off) if is_outage => back_off.seconds,
                None => {
                    self.dead += 1;
                    died = Some(name);
                    BOUNDS.0
                }
                Some(back_off) => back_off.seconds.saturating_mul(2).min(max),
            };
            state.since = last;
            state.back_off = Some(BackOff {
                until: now + Duration::from_secs(seconds.into()),
                seconds,
            });
        }
        died
    }

    /// Notes that a look-up was answered, when `last` was the last one begun.
    pub(super) fn answered(&mut self, request: &Request, last: u64) {
        self.answered = last;
        if self.table.is_empty() {
            return;
        }
        let mut revived = 0;
        for labels in 2..=MAX_LABELS {
            let zone = self.find(request, labels);
            for state in zone.into_iter().flat_map(|zone| &mut zone.states) {
                state.failed.clear();
                state.since = last;
                revived += usize::from(state.back_off.take().is_some());
            }
        }
        self.dead -= revived;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.dead = 0;
    }

    /// The zone of so many labels above the request's name, if it is known.
    fn find(&mut self, request: &Request, labels: usize) -> Option<&mut Zone> {
        let (name, _) = zone_and_child(request, labels)?;
        let hash = self.hash(name, request);
        let uses = self.uses;
        let zone = self.table.find_mut(hash, |zone| zone.is(hash, name))?;
        zone.used = uses;
        Some(zone)
    }

    /// The back-off of the zone of so many labels above the request's name.
    fn back_off(&mut self, request: &Request, labels: usize) -> Option<&mut BackOff> {
        let state = self.find(request, labels)?.states.get_mut(kind(request))?;
        state.back_off.as_mut()
    }

    /// What is resolved with CD set may not be without.
    fn hash(&self, name: &[u8], request: &Request) -> u64 {
        self.hasher.hash(name, (request.flags & KEY_FLAG_CD).into())
    }

    /// Drops the half that was not of use for longest, if there is no room for another zone.
    fn make_room(&mut self) {
        if self.table.len() < self.capacity {
            return;
        }
        let mut uses: Vec<_> = self.table.iter().map(|zone| zone.used).collect();
        let (_, &mut median, _) = uses.select_nth_unstable(self.capacity / 2);
        self.table.retain(|zone| zone.used > median);
        let states = self.table.iter().flat_map(|zone| &zone.states);
        self.dead = states.filter(|state| state.back_off.is_some()).count();
    }
}

impl Zone {
    fn is(&self, hash: u64, name: &[u8]) -> bool {
        self.hash == hash && eq_ignore_case(&self.name, name)
    }
}

/// Whether names directly below this one, which has so many labels, are likely to belong to
/// different people: `co.uk` and the like, and the reverse zones that are larger than an IPv4 /16 or an
/// IPv6 /32.
/// A zone that is taken for a registry by mistake still has its quota of look-ups.
fn is_registry(zone: &[u8], labels: usize) -> bool {
    let Some(top) = last_labels(zone, 1) else {
        return true;
    };
    if eq_ignore_case(top, b"\x04arpa\0") {
        let is_ip6 = last_labels(zone, 2)
            .is_some_and(|reverse| eq_ignore_case(reverse, b"\x03ip6\x04arpa\0"));
        return labels < if is_ip6 { 10 } else { 4 };
    }
    // Its length, two letters, and the root.
    let is_country = top.len() == 4;
    labels == 2 && is_country && zone.first().is_some_and(|len| *len <= 3)
}

/// Kinds of queries of which a zone can be dead for one and not for another.
const KINDS: usize = 4;

/// Which queries those are that `request` is one of, in words.
pub(super) fn queries(request: &Request) -> &'static str {
    const NAMES: [&str; KINDS] = ["A", "AAAA", "HTTPS", "other"];
    NAMES.get(kind(request)).copied().unwrap_or_default()
}

/// The kind of a query, below [`KINDS`].
fn kind(request: &Request) -> usize {
    match request.qtype() {
        rrtype::A => 0,
        rrtype::AAAA => 1,
        rrtype::HTTPS => 2,
        _ => 3,
    }
}

/// The zone of so many labels above the request's name, and the name directly below it.
fn zone_and_child(request: &Request, labels: usize) -> Option<(&[u8], &[u8])> {
    let child = last_labels(request.name(), labels + 1)?;
    Some((super::memory::parent(child)?, child))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::{
        dns::{DnsPacketView, Query},
        forward::testing::question,
    };

    /// Zones, and look-ups that begin and end one after another.
    struct Bench {
        zones: Zones,
        hasher: NameHasher,
        serial: u64,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let hasher = NameHasher::default();
            Self {
                zones: Zones::new(300, Duration::from_secs(3), hasher.clone()),
                hasher,
                serial: 0,
                now: Instant::now(),
            }
        }

        fn request(&self, name: &str) -> Request {
            self.request_of(&question(1, name))
        }

        fn request_of(&self, msg: &[u8]) -> Request {
            let query = Query::new(&DnsPacketView::parse(msg).unwrap(), &self.hasher);
            Request::new(&query, msg, [127, 0, 0, 1].into(), 0, 0).unwrap()
        }

        fn begin(&mut self) -> u64 {
            self.serial += 1;
            self.serial
        }

        /// A look-up that fails while another one is answered; whether a zone is found dead.
        fn fail(&mut self, name: &str) -> bool {
            let serial = self.begin();
            self.answer("www.elsewhere");
            self.fail_late(name, serial)
        }

        fn fail_late(&mut self, name: &str, serial: u64) -> bool {
            let request = self.request(name);
            let died = self.zones.failed(&request, serial, self.serial, self.now);
            died.is_some()
        }

        fn answer(&mut self, name: &str) {
            let request = self.request(name);
            self.begin();
            self.zones.answered(&request, self.serial);
        }

        fn is_admitted(&mut self, name: &str) -> bool {
            let request = self.request(name);
            self.zones.admit(&request, self.now).is_ok()
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn many_failed_children_condemn_a_zone_and_nothing_beside_it() {
        for below in ["", "a.", "a.b.", "a.b.c.d.e.f.g.h.i.j.k.l.m."] {
            let mut bench = Bench::new();
            let died: Vec<_> = (0..=THRESHOLD)
                .map(|i| bench.fail(&format!("{below}r{i}.dead.example")))
                .collect();
            // The first failure begins the time in which nothing may be answered.
            assert_eq!(died.iter().position(|died| *died), Some(THRESHOLD));
            for (name, admitted) in [
                ("new.dead.example", false),
                ("NEW.DEAD.EXAMPLE", false),
                ("x.y.z.dead.example", false),
                ("dead.example", true),
                ("example", true),
                ("good.example", true),
                ("x.good.example", true),
                ("notdead.example", true),
                ("r1.dead.test", true),
            ] {
                assert_eq!(bench.is_admitted(name), admitted, "{name} after {below}");
            }
        }
    }

    #[test]
    fn one_dead_child_does_not_condemn_its_parent() {
        let mut bench = Bench::new();
        for i in 0..200 {
            bench.fail(&format!("r{i}.dead.zone.example"));
        }
        assert!(!bench.is_admitted("new.dead.zone.example"));
        assert!(bench.is_admitted("good.zone.example"));
    }

    #[test]
    fn the_root_and_registries_are_never_condemned() {
        for registry in [
            "",
            ".example",
            ".co.uk",
            ".Com.AU",
            ".in-addr.arpa",
            ".10.IN-ADDR.ARPA",
            ".ip6.arpa",
            ".0.2.IP6.arpa",
            ".b.d.0.1.0.0.2.ip6.arpa",
        ] {
            let mut bench = Bench::new();
            for i in 0..200 {
                bench.fail(&format!("r{i}{registry}"));
                bench.fail(&format!("www.r{i}{registry}"));
            }
            assert!(bench.is_admitted(&format!("good{registry}")), "{registry}");
            assert!(
                bench.is_admitted(&format!("www.good{registry}")),
                "{registry}"
            );
        }
        for zone in [
            "dead.uk",
            "dead.co.uk",
            "co.example",
            "5.10.in-addr.arpa",
            "8.b.d.0.1.0.0.2.ip6.arpa",
        ] {
            let mut bench = Bench::new();
            for i in 0..=THRESHOLD {
                bench.fail(&format!("r{i}.{zone}"));
            }
            assert!(!bench.is_admitted(&format!("new.{zone}")), "{zone}");
        }
    }

    #[test]
    fn the_same_names_again_do_not_count() {
        let mut bench = Bench::new();
        for i in 0..200 {
            assert!(!bench.fail(&format!("r{}.dead.example", i % (THRESHOLD - 1))));
        }
        assert!(bench.is_admitted("new.dead.example"));
    }

    #[test]
    fn an_answer_clears_what_failed_before_and_meanwhile() {
        let mut bench = Bench::new();
        for i in 0..200 {
            let began = bench.begin();
            if i % 8 == 0 {
                bench.answer("x.y.half.example");
            }
            // It was under way when the answer came.
            assert!(!bench.fail_late(&format!("late{i}.half.example"), began));
            assert!(!bench.fail(&format!("r{i}.half.example")));
        }
        assert!(bench.is_admitted("new.half.example"));
    }

    #[test]
    fn one_probe_at_a_time_and_ever_later() {
        let mut bench = Bench::new();
        for i in 0..=THRESHOLD {
            bench.fail(&format!("r{i}.dead.example"));
        }
        let straggler = bench.serial;
        let mut pauses = Vec::new();
        for round in 0..10 {
            let mut pause = 0;
            while !bench.is_admitted(&format!("p{round}.dead.example")) {
                bench.wait(1);
                pause += 1;
            }
            pauses.push(pause);
            assert!(!bench.is_admitted("other.dead.example"), "beside the probe");
            // One that began before says nothing new.
            bench.fail_late("straggler.dead.example", straggler);
            bench.fail(&format!("p{round}.dead.example"));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        bench.wait(300);
        assert!(bench.is_admitted("lost.dead.example"));
        bench.wait(3);
        assert!(bench.is_admitted("next.dead.example"), "the probe was lost");
        bench.answer("next.dead.example");
        assert_eq!(bench.zones.dead, 0);
        for i in 0..10 {
            assert!(bench.is_admitted(&format!("n{i}.dead.example")));
        }
    }

    #[test]
    fn what_is_checked_and_what_is_not_are_apart() {
        let mut bench = Bench::new();
        for i in 0..=THRESHOLD {
            bench.fail(&format!("r{i}.bogus.example"));
        }
        let mut unchecked = bench.request("r1.bogus.example");
        unchecked.flags |= KEY_FLAG_CD;
        assert!(bench.zones.admit(&unchecked, bench.now).is_ok());
        bench.zones.answered(&unchecked, bench.serial);
        assert!(!bench.is_admitted("r1.bogus.example"));
    }

    #[test]
    fn an_upstream_that_fails_everything_condemns_no_zone() {
        let mut bench = Bench::new();
        bench.answer("www.zone.example");
        for i in 0..200 {
            let serial = bench.begin();
            assert!(!bench.fail_late(&format!("r{i}.zone.example"), serial));
        }
        assert!(bench.is_admitted("new.zone.example"));
        // One that was dead before is tried as often as before.
        bench.answer("www.zone.example");
        for i in 0..THRESHOLD {
            bench.fail(&format!("r{i}.zone.example"));
        }
        for round in 0..5 {
            assert!(!bench.is_admitted("new.zone.example"), "{round}");
            bench.wait(1);
            assert!(bench.is_admitted("new.zone.example"), "{round}");
            let serial = bench.begin();
            bench.fail_late("new.zone.example", serial);
        }
    }

    #[test]
    fn a_type_that_servers_drop_says_nothing_of_others() {
        const TYPES: [u16; 5] = [
            rrtype::A,
            rrtype::AAAA,
            rrtype::HTTPS,
            rrtype::TXT,
            rrtype::NS,
        ];
        let mut bench = Bench::new();
        let typed = |bench: &Bench, name: &str, qtype: u16| {
            let mut msg = question(1, name);
            let end = msg.len();
            msg[end - 4..end - 2].copy_from_slice(&qtype.to_be_bytes());
            bench.request_of(&msg)
        };
        for (dropped, others) in [(rrtype::HTTPS, 4), (rrtype::AAAA, 4), (rrtype::TXT, 3)] {
            for i in 0..=THRESHOLD {
                let request = typed(&bench, &format!("r{i}.half.example"), dropped);
                let serial = bench.begin();
                bench.answer("www.elsewhere");
                bench
                    .zones
                    .failed(&request, serial, bench.serial, bench.now);
            }
            let admitted = TYPES.iter().filter(|&&qtype| {
                let request = typed(&bench, "new.half.example", qtype);
                bench.zones.admit(&request, bench.now).is_ok()
            });
            assert_eq!(admitted.count(), others, "without {dropped}");
            // The servers are there.
            let request = typed(&bench, "www.half.example", rrtype::A);
            bench.begin();
            bench.zones.answered(&request, bench.serial);
            let request = typed(&bench, "new.half.example", dropped);
            assert!(bench.zones.admit(&request, bench.now).is_ok());
            assert_eq!(bench.zones.dead, 0);
        }
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_used() {
        let mut bench = Bench::new();
        bench.zones.capacity = 64;
        for i in 0..=THRESHOLD {
            bench.fail(&format!("r{i}.dead.example"));
        }
        for i in 0..1000 {
            bench.fail(&format!("a.b.r{i}.zone{i}.example"));
            assert!(!bench.is_admitted("new.dead.example"));
            assert!(bench.zones.table.len() <= 64);
        }
        assert_eq!(bench.zones.dead, 1);
        for i in 0..1000 {
            bench.fail(&format!("a.b.r{i}.other{i}.example"));
        }
        assert!(bench.is_admitted("new.dead.example"), "forgotten");
        assert_eq!(bench.zones.dead, 0);
    }
}
