//! `cargo xtask soak --faults`: the same load, and faults and hand-overs meanwhile, one every so often.
//!
//! A query that gets no right answer belongs to the fault in whose time it was sent. One of no fault's time, or of one that
//! may cost none, fails the run.

mod place;
mod report;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use lab::Lab;

use self::{
    place::Place,
    report::{Report, Window},
};
use super::{Soak, answers::Ledger, clients::World};
use crate::stop::Stop;

/// What is done to the server, or happens around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Another process takes over.
    TakeOver,
    /// A reload for which another server takes over in the same process.
    Successor,
    /// A reload that the running server applies.
    InPlace,
    Kill,
    LinkFlap,
    UpstreamGone,
    WorkerFails,
    FullDisk,
    ControlGone,
    /// A drain, and a start afterwards.
    Drain,
}

impl Fault {
    /// All, in their order.
    const ALL: [Self; 10] = [
        Self::TakeOver,
        Self::Successor,
        Self::InPlace,
        Self::Kill,
        Self::LinkFlap,
        Self::UpstreamGone,
        Self::WorkerFails,
        Self::FullDisk,
        Self::ControlGone,
        Self::Drain,
    ];

    /// Whether this machine can bring it about: a worker fails by the registers of x86-64.
    fn is_possible(self) -> bool {
        self != Self::WorkerFails || cfg!(target_arch = "x86_64")
    }

    fn title(self) -> &'static str {
        match self {
            Self::TakeOver => "take-over by another process",
            Self::Successor => "reload by a take-over",
            Self::InPlace => "reload in place",
            Self::Kill => "kill -9, and start",
            Self::LinkFlap => "link flap",
            Self::UpstreamGone => "upstream gone",
            Self::WorkerFails => "worker fails",
            Self::FullDisk => "disk of the snapshot full",
            Self::ControlGone => "control socket gone",
            Self::Drain => "drain, and start",
        }
    }

    /// Whether queries of its time may get no reply: nobody serves, there is no link, or what a worker held is lost.
    fn may_lose(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::LinkFlap | Self::WorkerFails | Self::Drain
        )
    }

    /// Whether they may get SERVFAIL.
    fn may_fail(self) -> bool {
        self == Self::UpstreamGone
    }
}

impl Soak {
    /// Soaks a server, which is replaced now and then.
    pub(super) fn soak_with_faults(&self, program: &Path) -> Result<()> {
        let lab = Lab::new()?;
        let ledger = Arc::new(Ledger::new());
        let world = World::new(Arc::clone(&ledger));
        let mut place = Place::new(&lab, program, &ledger)?;
        let command = place.commands();
        let mut report = self.load(&lab, &world, &command, || self.inflict(&mut place, &world))?;
        report.tallies = world.tallies();
        report.latest = Duration::from_millis(world.latest.load(Relaxed));
        report.problems.extend(world.wrong.into_inner()?);
        report.attribute(&world.failures.into_inner()?);
        report.print()
    }

    /// Brings about one fault after another until the end.
    fn inflict(&self, place: &mut Place<'_>, world: &World) -> Result<Report> {
        let stop = Stop::on_signals()?;
        let every = Duration::from_secs(self.every);
        let mut report = Report::default();
        let start = Instant::now();
        let end = start + Duration::from_secs(self.seconds);
        let possible = Fault::ALL.into_iter().filter(|fault| fault.is_possible());
        let mut due = start;
        for fault in possible.cycle() {
            // At least half of the time is without faults.
            due = (due + every).max(Instant::now() + every / 2);
            self.observe(place, world, &mut report, due.min(end), &stop)?;
            if due >= end {
                break;
            }
            eprintln!("{:5} s  {}", start.elapsed().as_secs(), fault.title());
            world.disturbed.store(true, Relaxed);
            let (from, asked) = (world.ledger.now(), world.asked());
            place.bring_about(fault)?;
            let (until, asked) = (world.ledger.now(), world.asked() - asked);
            world.disturbed.store(false, Relaxed);
            report.windows.push(Window::new(fault, from, until, asked));
        }
        Ok(report)
    }

    /// Looks at the server every second until something is due. Each fault happens in a flood, which begins before it and
    /// ends after it; in the quiet between two floods the process is looked at.
    fn observe(
        &self,
        place: &Place<'_>,
        world: &World,
        report: &mut Report,
        until: Instant,
        stop: &Stop,
    ) -> Result<()> {
        let quarter = Duration::from_secs(self.every) / 4;
        let begin = Instant::now();
        let mut looked = false;
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            stop.check()?;
            let before_next = until - now < quarter;
            if before_next && !looked {
                looked = true;
                report.note(place.sample()?);
            }
            world
                .flood
                .store(before_next || now - begin < quarter, Relaxed);
            place.forget_queries();
            report.problems.extend(place.broken()?);
            thread::sleep(
                Duration::from_secs(1).min(until.saturating_duration_since(Instant::now())),
            );
        }
    }
}
