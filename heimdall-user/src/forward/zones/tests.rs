#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;
use crate::{
    dns::{DnsPacketView, Query},
    forward::testing::question,
};

/// Zones, and look-ups that begin and end in turn.
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
        // A look says the same, and changes nothing.
        let left = self.zones.dead_zone(&request, self.now);
        let left = left.map(|(_, left)| left);
        let admitted = self.zones.admit(&request, self.now);
        assert_eq!(admitted.err(), left, "{name}");
        left.is_none()
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

#[test]
fn many_failed_children_make_a_zone_dead_and_no_other() {
    for below in ["", "a.", "a.b.", "a.b.c.d.e.f.g.h.i.j.k.l.m."] {
        let mut bench = Bench::new();
        let died: Vec<_> = (0..=THRESHOLD)
            .map(|i| bench.fail(&format!("{below}r{i}.dead.example")))
            .collect();
        // The first failure only starts the count.
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
fn one_dead_child_does_not_make_its_parent_dead() {
    let mut bench = Bench::new();
    for i in 0..200 {
        bench.fail(&format!("r{i}.dead.zone.example"));
    }
    assert!(!bench.is_admitted("new.dead.zone.example"));
    assert!(bench.is_admitted("good.zone.example"));
}

#[test]
fn the_root_and_registries_are_never_dead() {
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
fn an_answer_clears_failures_before_it_and_of_look_ups_begun_before_it() {
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
fn one_probe_at_a_time_with_growing_pauses() {
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
fn failures_with_and_without_cd_are_separate() {
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
fn an_upstream_that_fails_everything_makes_no_zone_dead() {
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
fn failures_of_one_type_do_not_count_for_others() {
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
fn the_table_is_bounded_and_keeps_used_zones() {
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
