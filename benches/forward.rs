//! From a front to the forwarder and back: `cargo bench -p benches --bench forward`.
//!
//! The forwarder's thread has the answer in its cache, so no upstream is asked. Both threads sleep until
//! the other one wakes them. A front's part is reported per request of a batch of 64.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    net::Ipv4Addr,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use benches::{
    batch::{self, BATCH},
    fixture::{answer, name, query},
};
use criterion::{Criterion, criterion_group, criterion_main};
use heimdall_user::{
    cache::Record,
    dns::{DnsPacketView, NameHasher, Query},
    forward::{ForwardOptions, Forwarder, ForwarderBuilder, Handle, Mailbox, Request},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

struct Front {
    handle: Handle,
    mailbox: Arc<Mailbox>,
    request: Request,
}

/// When a front finished each step.
struct Times {
    start: Instant,
    submitted: Instant,
    flushed: Instant,
    woken: Instant,
    taken: Instant,
}

impl Front {
    fn start() -> (Forwarder, Self) {
        let hasher = NameHasher::default();
        let message = query(&name(7), true);
        let query = Query::new(&DnsPacketView::parse(&message).unwrap(), &hasher);
        let request = Request::new(&query, &message, Ipv4Addr::LOCALHOST.into(), 0, 0).unwrap();
        let mailbox = Arc::new(Mailbox::new(BATCH).unwrap());
        let options = ForwardOptions {
            // Never asked.
            upstreams: vec![std::net::SocketAddr::from(([127, 0, 0, 1], 53)).into()],
            ..ForwardOptions::default()
        };
        let mut builder = ForwarderBuilder::new(&options, vec![mailbox.clone()], hasher).unwrap();
        let answer = answer(1);
        let known = Record {
            question: request.question(),
            flags: request.flags,
            age: 0,
            answer: answer.as_ref(),
        };
        builder.restore([known].into_iter(), 0);
        let forwarder = builder.start().unwrap();
        let handle = forwarder.handle();
        let front = Self {
            handle,
            mailbox,
            request,
        };
        (forwarder, front)
    }

    /// Has this many requests answered. The forwarder takes up to 64 at a time, and wakes the front, if it
    /// sleeps, after the last.
    fn ask(&mut self, requests: usize) -> Times {
        let start = Instant::now();
        for _ in 0..requests {
            self.handle.submit(self.request).unwrap();
        }
        let submitted = Instant::now();
        self.handle.flush();
        let flushed = Instant::now();
        self.sleep();
        let woken = Instant::now();
        for _ in 0..requests {
            while self.mailbox.take().is_none() {
                self.sleep();
            }
        }
        Times {
            start,
            submitted,
            flushed,
            woken,
            taken: Instant::now(),
        }
    }

    /// Sleeps until there are outcomes.
    fn sleep(&self) {
        if self.mailbox.prepare_to_sleep() {
            let mut ready = [PollFd::new(self.mailbox.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::NONE).unwrap();
            self.mailbox.clear_wakeup();
        }
        self.mailbox.awake();
    }
}

/// The time of one step.
type Part = fn(&Times) -> Duration;

fn way(c: &mut Criterion) {
    let (forwarder, mut front) = Front::start();
    let mut group = c.benchmark_group("forwarder");
    let parts: [(&str, Part); 4] = [
        ("submit", |times| times.submitted - times.start),
        ("flush, 1/64", |times| times.flushed - times.submitted),
        ("take", |times| times.taken - times.woken),
        ("there and back", |times| times.taken - times.start),
    ];
    for (what, part) in parts {
        group.bench_function(what, |b| {
            b.iter_custom(|requests| batch::time(requests, || part(&front.ask(BATCH))))
        });
    }
    group.bench_function("there and back, one alone", |b| b.iter(|| front.ask(1)));
    group.finish();
    drop(forwarder);
}

criterion_group!(benches, way);
criterion_main!(benches);
