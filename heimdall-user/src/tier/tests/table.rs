//! The table against a simple model.

use std::collections::{HashMap, HashSet};

use heimdall_ebpf::tier::{SLOTS, bucket_of, home_of};
use proptest::prelude::*;

use super::*;
use crate::{
    tier::{
        interfaces::Interfaces,
        table::{Inserted, Retired, Table},
    },
    xdp::TierSize,
};

const LIMIT: u32 = 14;
/// Few, so that they are full now and then.
const BUCKETS: u32 = 2;
const KEYS: u8 = 40;

#[derive(Clone, Copy, Debug)]
enum Change {
    /// Inserts or replaces the entry of a key, with so many hits expected.
    Put(u8, u64),
    Remove(u8),
    /// Removes the entries of the keys with this remainder.
    RemoveAll(u8),
    RemoveColdest,
    MoveHome(u8),
    /// Begins or ends the wait for a grace period.
    Reclaim,
}

fn arb_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => (0..KEYS, 1..20u64).prop_map(|(key, expected)| Change::Put(key, expected)),
        2 => (0..KEYS).prop_map(Change::Remove),
        1 => (0..5u8).prop_map(Change::RemoveAll),
        1 => Just(Change::RemoveColdest),
        2 => (0..KEYS).prop_map(Change::MoveHome),
        2 => Just(Change::Reclaim),
    ]
}

fn key(number: u8) -> Key {
    Key::new(&question(&format!("n{number}")), 0).unwrap()
}

fn number(entry: &Entry) -> u8 {
    (0..KEYS).find(|number| key(*number) == entry.key).unwrap()
}

struct Tested {
    table: Table,
    maps: Interfaces,
    /// What is waited for.
    retired: Option<Retired>,
    /// The live entries, by their keys' numbers: what tells one from another, and the hits expected.
    model: HashMap<u8, (u32, u64)>,
    made: u32,
}

impl Tested {
    fn new() -> Self {
        let mut maps = Interfaces::default();
        // More buckets than are used.
        let size = TierSize::new(LIMIT);
        maps.add("eth0", 1500, TierMaps::in_memory(size), &[]);
        Self {
            table: Table::new(SEED, LIMIT, BUCKETS),
            maps,
            retired: None,
            model: HashMap::new(),
            made: 0,
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Put(number, expected) => self.put(number, expected),
            Change::Remove(number) => {
                if let Some(index) = self.table.find(&key(number)) {
                    self.table.remove(index, &mut self.maps);
                }
                self.model.remove(&number);
            }
            Change::RemoveAll(remainder) => {
                let which = |number: u8| number % 5 == remainder;
                let removed = self
                    .table
                    .remove_all(|entry| which(number(entry)), &mut self.maps);
                let before = self.model.len();
                self.model.retain(|number, _| !which(*number));
                assert_eq!(removed as usize, before - self.model.len());
            }
            Change::RemoveColdest => {
                let coldest = self.table.coldest(&self.maps);
                assert_eq!(coldest.is_some(), !self.model.is_empty());
                if let Some(index) = coldest {
                    let number = number(&self.table.cell(index).unwrap().entry);
                    self.table.remove(index, &mut self.maps);
                    assert!(self.model.remove(&number).is_some(), "it was live");
                }
            }
            Change::MoveHome(number) => {
                if let Some(index) = self.table.find(&key(number)) {
                    self.table.move_home(index, &mut self.maps);
                }
            }
            Change::Reclaim => match self.retired.take() {
                // Others are retired before these are freed.
                None => self.retired = Some(self.table.retired()),
                Some(retired) => self.table.reclaim(&retired),
            },
        }
    }

    fn put(&mut self, number: u8, expected: u64) {
        self.made += 1;
        let entry = Entry {
            received: self.made,
            key: key(number),
            ..Entry::EMPTY
        };
        let used = self.table.live() + self.table.retired().cells.len() as u32;
        let free = TierSize::new(LIMIT).entries() - used;
        if let Some(index) = self.table.find(&entry.key) {
            let replaced = self.table.replace(index, &entry, &mut self.maps);
            assert_eq!(replaced, free > 0);
            if replaced {
                let (made, expected) = self.model.get_mut(&number).unwrap();
                *made = self.made;
                // No entry is ever hit here.
                *expected /= 2;
            }
            return;
        }
        if self.table.is_full() {
            return;
        }
        let bucket = |number: u8| bucket_of(key(number).hash(SEED), BUCKETS);
        let others = self
            .model
            .iter()
            .filter(|(other, _)| bucket(**other) == bucket(number));
        let others: Vec<_> = others.map(|(other, (_, hits))| (*hits, *other)).collect();
        let least = others
            .iter()
            .map(|(hits, _)| *hits)
            .min()
            .unwrap_or_default();
        let is_colder = |hits| hits < expected;
        let inserted = self
            .table
            .insert(&entry, expected, is_colder, &mut self.maps);
        let wanted = match () {
            () if others.len() < SLOTS && free > 0 => Inserted::Yes,
            () if others.len() == SLOTS && least < expected && free > 0 => Inserted::Displacing,
            () => Inserted::No,
        };
        assert_eq!(inserted, wanted);
        if inserted == Inserted::Displacing {
            // One of those with the least hits.
            let mut gone = others
                .iter()
                .filter(|(_, other)| self.table.find(&key(*other)).is_none());
            let (hits, displaced) = gone.next().unwrap();
            assert_eq!((*hits, gone.next()), (least, None));
            self.model.remove(displaced);
        }
        if inserted != Inserted::No {
            self.model.insert(number, (self.made, expected));
        }
    }

    /// What is found is what the model has, in the table and by the program.
    fn check(&self) {
        assert_eq!(self.table.live() as usize, self.model.len());
        assert!(self.table.live() <= LIMIT);
        let retired = self.table.retired().cells;
        let mut indices: HashSet<u32> = retired.iter().copied().collect();
        assert_eq!(indices.len(), retired.len());
        for number in 0..KEYS {
            let key = key(number);
            let found = self.table.find(&key);
            assert_eq!(
                found.is_some(),
                self.model.contains_key(&number),
                "{number}"
            );
            let Some(index) = found else {
                continue;
            };
            assert!(indices.insert(index), "{index} is live twice, or retired");
            let cell = self.table.cell(index).unwrap();
            assert_eq!((cell.entry.received, cell.recent), self.model[&number]);
        }
        let live: HashSet<u32> = self.table.live_cells(0, 1).collect();
        assert_eq!(live.len(), self.model.len());
        let parts: HashSet<u32> = (0..16)
            .flat_map(|part| self.table.live_cells(part, 16))
            .collect();
        assert_eq!(parts, live);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn it_agrees_with_a_simple_model(changes in prop::collection::vec(arb_change(), 0..200)) {
        let mut tested = Tested::new();
        for change in changes {
            // A retired entry may be read until the grace period is over, so it is not written.
            let retired: Vec<_> = match change {
                Change::Reclaim => Vec::new(),
                _ => tested.table.retired().cells,
            };
            let before: Vec<_> = retired.iter().map(|index| tested.table.cell(*index).unwrap().entry).collect();
            tested.change(change);
            let after: Vec<_> = retired.iter().map(|index| tested.table.cell(*index).unwrap().entry).collect();
            prop_assert_eq!(before, after);
            tested.check();
        }
    }
}

#[test]
fn cells_that_were_freed_meanwhile_are_not_freed_again() {
    let mut tested = Tested::new();
    let use_and_retire = |tested: &mut Tested| {
        tested.change(Change::Put(0, 1));
        tested.change(Change::Remove(0));
        tested.table.retired()
    };
    let early = use_and_retire(&mut tested);
    let others = tested.table.retired();
    tested.table.reclaim(&others);
    let late = use_and_retire(&mut tested);
    assert_eq!(late.cells, early.cells);
    tested.table.reclaim(&early);
    assert_eq!(tested.table.retired().cells, late.cells);
    tested.table.reclaim(&late);
    assert!(tested.table.retired().cells.is_empty());
}

/// Whoever knows such names can ask for them: the popular one must not stay behind the other one's slot, at which the
/// program stops.
#[test]
fn of_names_with_the_same_hash_the_hotter_one_is_found() {
    let size = TierSize::new(LIMIT);
    let mut maps = Interfaces::default();
    maps.add("eth0", 1500, TierMaps::in_memory(size), &[]);
    let mut table = Table::new(SEED, LIMIT, size.buckets());
    let [popular, other] = ["cdn-assets", "cdn\rassets"].map(|name| Entry {
        key: Key::new(&question(name), 0).unwrap(),
        ..Entry::EMPTY
    });
    assert_ne!(popular.key, other.key);
    let hash = popular.key.hash(SEED);
    assert_eq!(hash, other.key.hash(SEED));
    let found = |maps: &Interfaces| maps.nth(0).find(hash).map(|(_, entry)| entry);
    let is_colder = |warmth| warmth < 20;
    let mut insert = |entry: &Entry, expected, maps: &mut Interfaces| {
        let inserted = table.insert(entry, expected, is_colder, maps);
        (inserted, table.live())
    };
    assert_eq!(insert(&other, 10, &mut maps), (Inserted::Yes, 1));
    assert_eq!(found(&maps), Some(other));
    assert_eq!(insert(&popular, 20, &mut maps), (Inserted::Displacing, 1));
    assert_eq!(found(&maps), Some(popular));
    assert_eq!(insert(&other, 10, &mut maps), (Inserted::No, 1));
    assert_eq!(found(&maps), Some(popular));
}

#[test]
fn answers_are_at_home_or_move_there() {
    let size = TierSize::new(LIMIT);
    let mut maps = Interfaces::default();
    maps.add("eth0", 1500, TierMaps::in_memory(size), &[]);
    let mut table = Table::new(SEED, LIMIT, size.buckets());
    let home = |number| home_of(key(number).hash(SEED), size.entries());
    let first = 0;
    // Another question with the same home.
    let second = (1..KEYS)
        .find(|number| home(*number) == home(first))
        .unwrap();
    for number in [first, second] {
        let entry = Entry {
            key: key(number),
            ..Entry::EMPTY
        };
        assert_eq!(table.insert(&entry, 7, |_| false, &mut maps), Inserted::Yes);
    }
    let index = |table: &Table, number| table.find(&key(number)).unwrap();
    assert_eq!(index(&table, first), home(first));
    let away = index(&table, second);
    assert_ne!(away, home(second), "it is taken");
    table.move_home(away, &mut maps);
    assert_eq!(index(&table, second), away);
    table.remove(home(first), &mut maps);
    table.move_home(away, &mut maps);
    assert_eq!(index(&table, second), away, "its home may still be read");
    table.reclaim(&table.retired());
    table.move_home(away, &mut maps);
    assert_eq!(index(&table, second), home(second));
    assert_eq!(table.cell(home(second)).unwrap().recent, 7);
    assert_eq!((table.live(), table.retired().cells), (1, vec![away]));
    let found = maps.nth(0).find(key(second).hash(SEED)).unwrap();
    assert_eq!((found.0, found.1.key), (home(second), key(second)));
}

/// The buckets of the maps are as many here, so what the program finds can be asked for.
#[test]
fn the_program_finds_what_the_table_has() {
    let size = TierSize::new(LIMIT);
    let mut maps = Interfaces::default();
    maps.add("eth0", 1500, TierMaps::in_memory(size), &[]);
    let mut table = Table::new(SEED, LIMIT, size.buckets());
    let find = |maps: &Interfaces, number| maps.nth(0).find(key(number).hash(SEED));
    for number in 0..8 {
        let entry = Entry {
            received: number.into(),
            key: key(number),
            ..Entry::EMPTY
        };
        assert_eq!(table.insert(&entry, 1, |_| false, &mut maps), Inserted::Yes);
        assert_eq!(
            find(&maps, number),
            table.find(&entry.key).map(|index| (index, entry))
        );
    }
    let index = table.find(&key(3)).unwrap();
    let newer = Entry {
        received: 99,
        key: key(3),
        ..Entry::EMPTY
    };
    maps.nth(0).add_hits(0, index, 5);
    assert!(table.replace(index, &newer, &mut maps));
    let (other, found) = find(&maps, 3).unwrap();
    assert_ne!(other, index, "the old one may still be read");
    assert_eq!((found.received, maps.hits(other)), (99, 0));
    assert_eq!(maps.hits(index), 5);
    table.remove(other, &mut maps);
    assert_eq!(find(&maps, 3), None);
    // Another interface's maps.
    let mut later = TierMaps::in_memory(size);
    table.write_to(&mut later);
    for number in 0..8 {
        assert_eq!(
            later.find(key(number).hash(SEED)),
            find(&maps, number),
            "{number}"
        );
    }
}
