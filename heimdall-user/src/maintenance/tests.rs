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

/// A thread that maintains a cache.
struct Owner {
    queue: Arc<CommandQueue>,
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<(u64, Vec<Scope>)>,
}

impl Owner {
    /// Starts one with a cache of `names` names below `zone`.
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
        let mut maintenance = Maintenance::new(|| {});
        let queue = maintenance.queue();
        let thread = thread::spawn(move || {
            let mut scopes = Vec::new();
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                while maintenance.has_work() {
                    while let Some(inquiry) = maintenance.next_inquiry() {
                        let allowance = Some(inquiry.subject.query.len() as u16);
                        inquiry.answer(ThreadState::Front(FrontState { allowance }));
                    }
                    maintenance.step(&mut cache, NOW, |scope| scopes.push(scope.clone()));
                }
                thread::yield_now();
            }
            (cache.entries(), scopes)
        });
        Self {
            queue,
            stop,
            thread,
        }
    }

    fn finish(self) -> (u64, Vec<Scope>) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

#[test]
fn commands_reach_every_cache() {
    let owners: Vec<_> = (0..3).map(|_| Owner::start("example", 5000)).collect();
    let caches = Caches {
        forwarder: vec![owners[0].queue.clone()],
        fronts: vec![
            ("q0".into(), owners[1].queue.clone()),
            ("sockets".into(), owners[2].queue.clone()),
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
    let (entries, scopes) = owners.into_iter().map(Owner::finish).next().unwrap();
    assert_eq!((entries, scopes.len()), (0, 4));
}

#[test]
fn a_flush_of_everything_takes_one_step() {
    let owner = Owner::start("example", 5000);
    let caches = Caches {
        forwarder: vec![owner.queue.clone()],
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
    owner.finish();
}

#[test]
fn commands_for_a_thread_that_has_ended_return_at_once() {
    let owner = Owner::start("example", 10);
    let caches = Caches {
        forwarder: vec![owner.queue.clone()],
        fronts: Vec::new(),
    };
    owner.finish();
    assert_eq!(caches.flush(Scope::All), 0);
}

#[test]
fn inquiries_are_answered_by_the_threads_that_run() {
    let [first, second, ended] = [(); 3].map(|()| Owner::start("example", 1));
    let caches = Caches {
        forwarder: vec![second.queue.clone()],
        fronts: vec![
            ("first".into(), first.queue.clone()),
            ("ended".into(), ended.queue.clone()),
        ],
    };
    ended.finish();
    let subject = || Subject {
        query: vec![0; 7].into(),
        client: None,
    };
    let state = ThreadState::Front(FrontState { allowance: Some(7) });
    let expected = ["first", "forwarder"].map(|name| (name, state.clone()));
    assert_eq!(caches.inquire(subject(), 0), expected);
    assert_eq!(caches.inquire(subject(), 1), expected[..1]);
    first.finish();
    second.finish();
}

#[test]
fn a_receiver_that_fails_ends_the_copy() {
    let owner = Owner::start("example", 20_000);
    let caches = Caches {
        forwarder: vec![owner.queue.clone()],
        fronts: Vec::new(),
    };
    assert_eq!(caches.copy(Scope::All, |_, _| Err(7)), Err(7));
    // The thread continues with the next command.
    assert_eq!(caches.flush(Scope::All), 20_000);
    owner.finish();
}

#[test]
fn a_receiver_that_does_not_read_delays_no_other() {
    let owner = Owner::start("example", 20_000);
    let caches = Caches {
        forwarder: vec![owner.queue.clone()],
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
        whole > (MAX_CHUNKS + 2) * CHUNK,
        "a receiver has to read some"
    );
    // While one receiver has read one chunk only, other commands complete.
    let mut once = false;
    let slow = copy(&mut || {
        if !std::mem::replace(&mut once, true) {
            assert_eq!(copy(&mut || {}), whole);
            assert_eq!(caches.flush(Scope::name("n7.example").unwrap()), 1);
        }
    });
    assert!(slow <= whole, "{slow}");
    assert_eq!(owner.finish().0, 19_999);
}
