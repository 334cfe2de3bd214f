#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    sync::mpsc::{self, Receiver},
    thread,
};

use super::*;
use crate::{
    cache::{Key, Record},
    dns::{Answer, NameHasher},
};

const NOW: u32 = 1000;

/// A thread with a cache of so many names below `zone`, that looks after it.
struct Keeper {
    desk: Arc<Desk>,
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<(u64, Vec<Scope>)>,
}

impl Keeper {
    fn start(zone: &str, names: usize) -> Self {
        let hasher = NameHasher::default();
        // So large that no bucket of its index gets full, however the names hash.
        let mut cache = Cache::new(32 << 20).unwrap();
        for i in 0..names {
            let mut question = match Scope::name(&format!("n{i}.{zone}")).unwrap() {
                Scope::Name(name) => name.into_vec(),
                _ => unreachable!(),
            };
            question.extend_from_slice(&[0, 1, 0, 1]);
            let key = Key::new(&hasher, &question, 0);
            cache.insert(&key, &Answer::failure(0, None, 100), NOW);
        }
        let (stop, stopped): (_, Receiver<()>) = mpsc::channel();
        let mut upkeep = Upkeep::new(|| {});
        let desk = upkeep.desk();
        let thread = thread::spawn(move || {
            let mut scopes = Vec::new();
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                while upkeep.has_work() {
                    upkeep.step(&mut cache, NOW, |scope| scopes.push(scope.clone()));
                }
                thread::yield_now();
            }
            (cache.entries(), scopes)
        });
        Self { desk, stop, thread }
    }

    fn finish(self) -> (u64, Vec<Scope>) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

#[test]
fn orders_reach_every_cache() {
    let keepers: Vec<_> = (0..3).map(|_| Keeper::start("example", 5000)).collect();
    let caches = Caches {
        forwarder: vec![keepers[0].desk.clone()],
        fronts: vec![
            ("q0".into(), keepers[1].desk.clone()),
            ("sockets".into(), keepers[2].desk.clone()),
        ],
    };
    let count = |scope: Scope| {
        let mut counts = Vec::new();
        let copied = caches.copy(scope, |name, mut records| {
            let mut count = 0;
            while let Some(record) = Record::take(&mut records) {
                assert_eq!(record.age, 0);
                count += 1;
            }
            assert!(records.is_empty());
            match counts.last_mut() {
                Some((last, sum)) if last == name => *sum += count,
                _ => counts.push((name.to_owned(), count)),
            }
            Ok::<_, ()>(())
        });
        copied.unwrap();
        counts
    };
    let all = |count| ["forwarder", "q0", "sockets"].map(|name| (name.to_owned(), count));
    assert_eq!(count(Scope::All), all(5000));
    assert_eq!(count(Scope::zone("n7.example").unwrap()), all(1));
    assert_eq!(caches.flush(Scope::name("n7.example").unwrap()), 3);
    assert_eq!(caches.flush(Scope::name("n7.example").unwrap()), 0);
    assert_eq!(count(Scope::All), all(4999));
    assert_eq!(caches.flush(Scope::zone("other").unwrap()), 0);
    assert_eq!(caches.flush(Scope::zone("example").unwrap()), 3 * 4999);
    let (entries, scopes) = keepers.into_iter().map(Keeper::finish).next().unwrap();
    assert_eq!((entries, scopes.len()), (0, 4));
}

#[test]
fn everything_is_forgotten_at_once() {
    let keeper = Keeper::start("example", 5000);
    let caches = Caches {
        forwarder: vec![keeper.desk.clone()],
        fronts: Vec::new(),
    };
    let mut counted = 0;
    let mut count = |_: &[u8], count| {
        counted += count;
        Ok::<_, ()>(())
    };
    caches.copy_forwarder(&mut count).unwrap();
    assert_eq!(caches.flush(Scope::All), 5000);
    caches.copy_forwarder(&mut count).unwrap();
    assert_eq!(counted, 5000);
    keeper.finish();
}

#[test]
fn nobody_waits_for_a_thread_that_has_ended() {
    let keeper = Keeper::start("example", 10);
    let caches = Caches {
        forwarder: vec![keeper.desk.clone()],
        fronts: Vec::new(),
    };
    keeper.finish();
    assert_eq!(caches.flush(Scope::All), 0);
}

#[test]
fn a_taker_that_fails_ends_the_copy() {
    let keeper = Keeper::start("example", 20_000);
    let caches = Caches {
        forwarder: vec![keeper.desk.clone()],
        fronts: Vec::new(),
    };
    assert_eq!(caches.copy(Scope::All, |_, _| Err(7)), Err(7));
    // The thread is free for the next.
    assert_eq!(caches.flush(Scope::All), 20_000);
    keeper.finish();
}

#[test]
fn a_receiver_that_stands_still_delays_no_other() {
    let keeper = Keeper::start("example", 20_000);
    let caches = Caches {
        forwarder: vec![keeper.desk.clone()],
        fronts: Vec::new(),
    };
    let copy = |take: &mut dyn FnMut()| {
        let mut octets = 0;
        let copied = caches.copy(Scope::All, |_, records| {
            take();
            octets += records.len();
            Ok::<_, ()>(())
        });
        copied.unwrap();
        octets
    };
    let whole = copy(&mut || {});
    assert!(
        whole > (MAX_PORTIONS + 2) * PORTION,
        "a receiver has to take some"
    );
    // While one receiver has taken one portion and stands still, others get all of theirs.
    let mut once = false;
    let slow = copy(&mut || {
        if !std::mem::replace(&mut once, true) {
            assert_eq!(copy(&mut || {}), whole);
            assert_eq!(caches.flush(Scope::name("n7.example").unwrap()), 1);
        }
    });
    assert!(slow <= whole, "{slow}");
    assert_eq!(keeper.finish().0, 19_999);
}
