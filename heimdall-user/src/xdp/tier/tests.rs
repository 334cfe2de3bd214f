//! The maps over ordinary memory.
#![allow(clippy::unwrap_used)]

use heimdall_ebpf::tier::Key;

use super::*;

fn maps() -> TierMaps {
    TierMaps::in_memory(TierSize::new(10))
}

fn entry(name: &[u8]) -> Entry {
    Entry {
        generation: 1,
        key: Key::new(name, 0).unwrap(),
        ..Entry::EMPTY
    }
}

#[test]
fn an_entry_is_found_while_a_slot_leads_to_it() {
    let mut maps = maps();
    let entry = entry(b"\x01a\0\0\x01\0\x01");
    let hash = entry.key.hash(7);
    let bucket = heimdall_ebpf::tier::bucket_of(hash, maps.size().buckets());
    maps.write(9, &entry);
    assert_eq!(maps.find(hash), None);
    maps.publish(bucket, SLOTS - 1, Slot::new(hash, 9));
    assert_eq!(maps.find(hash), Some((9, entry)));
    maps.publish(bucket, SLOTS - 1, Slot::EMPTY);
    assert_eq!(maps.find(hash), None);
}

#[test]
fn what_is_beyond_the_memory_is_not_written() {
    let mut maps = maps();
    let buckets = maps.size().buckets();
    maps.write(10, &entry(b"\x01a\0\0\x01\0\x01"));
    maps.publish(buckets, 0, Slot(u64::MAX));
    for bucket in 0..buckets {
        maps.publish(bucket, SLOTS, Slot(u64::MAX));
    }
    for hash in 0..u64::from(buckets) {
        assert_eq!(maps.find(u64::MAX << 32 | hash), None);
    }
    assert_eq!(maps.hits(10), 0);
}

#[test]
fn hits_are_summed_over_the_cpus_and_begin_with_the_entry() {
    let mut maps = maps();
    maps.add_hits(0, 3, 5);
    maps.add_hits(1, 3, 7);
    maps.add_hits(1, 4, 1);
    assert_eq!([2, 3, 4, 5].map(|index| maps.hits(index)), [0, 12, 1, 0]);
    maps.write(3, &Entry::EMPTY);
    assert_eq!([2, 3, 4, 5].map(|index| maps.hits(index)), [0, 0, 1, 0]);
}

#[test]
fn all_of_the_configuration_is_written() {
    let maps = maps();
    assert_eq!(maps.config().generation, Config::OFF);
    let config = Config {
        generation: 1,
        flags: 2,
        seed: 3,
        clock_zero: 4,
        mtu: 5,
        udp_size: 6,
        zero: [0; 4],
    };
    maps.set_config(&config);
    assert_eq!(maps.config(), config);
}

#[test]
fn buckets_have_three_answers_at_most_on_average() {
    for answers in [0, 1, 2, 3, 10, 1000, 10_000, 65_536] {
        let size = TierSize::new(answers);
        assert!(size.buckets().is_power_of_two());
        assert!(size.buckets() * 3 >= answers, "{answers}");
    }
}
