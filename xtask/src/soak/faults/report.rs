//! What the faults cost: which queries each explains, and the process after each.

use std::time::Duration;

use anyhow::{Result, bail};
use comfy_table::{Table, presets::ASCII_MARKDOWN};

use super::{
    super::{
        POOL,
        clients::{Count, Failure, Kind, Tally},
        report::{MAX_GROWTH, print_tallies},
        watch::Sample,
    },
    Fault,
};

/// How long a query may wait for its answer: one sent that long before a fault may still wait when the fault begins.
const WAIT: Duration = Duration::from_millis(250);
/// The same of a name whose upstream may be silent.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// A fault, and what became of the queries of its time.
#[derive(Debug)]
pub(super) struct Window {
    fault: Fault,
    /// Since the ledger's start: until all was as before.
    from: Duration,
    until: Duration,
    asked: u64,
    lost: u64,
    wrong: u64,
    failed: u64,
    /// The first that it may not cost.
    first: Option<Failure>,
    /// The process some time afterwards, before the next fault.
    after: Option<Sample>,
}

impl Window {
    pub(super) fn new(fault: Fault, from: Duration, until: Duration, asked: u64) -> Self {
        Self {
            fault,
            from,
            until,
            asked,
            lost: 0,
            wrong: 0,
            failed: 0,
            first: None,
            after: None,
        }
    }

    /// Whether a query was sent in its time, or waited when that began.
    fn explains(&self, failure: &Failure) -> bool {
        let wait = match failure.kind {
            Kind::Flaky => LONG_WAIT,
            _ => WAIT,
        };
        (self.from.saturating_sub(wait)..=self.until).contains(&failure.sent)
    }

    fn add(&mut self, failure: &Failure) {
        let (count, fault) = (failure.count, self.fault);
        let may_be = match count {
            Count::Lost => fault.may_lose(),
            Count::Failed => fault.may_fail(),
            _ => false,
        };
        if !may_be {
            self.first.get_or_insert(*failure);
        }
        match count {
            Count::Lost => self.lost += 1,
            Count::Failed => self.failed += 1,
            _ => self.wrong += 1,
        }
    }

    fn problem(&self) -> Option<String> {
        let first = self.first?;
        Some(format!(
            "{}, at {} s: {} lost, {} failed, {} wrong; the first, sent at {:.1} s: {:?}, {:?}",
            self.fault.title(),
            self.from.as_secs(),
            self.lost,
            self.failed,
            self.wrong,
            first.sent.as_secs_f32(),
            first.kind,
            first.count
        ))
    }
}

/// All that was seen.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// By kind of client.
    pub(super) tallies: [Tally; 5],
    pub(super) windows: Vec<Window>,
    /// Names of the first process's threads.
    pub(super) threads: Vec<String>,
    /// The longest that a reply took which a client did not wait for.
    pub(super) latest: Duration,
    /// The first wrong replies, counters that are never so, and queries that no fault explains.
    pub(super) problems: Vec<String>,
}

impl Report {
    /// Notes the process in the quiet after the last fault.
    pub(super) fn note(&mut self, sample: Sample) {
        if self.threads.is_empty() {
            self.threads = sample.threads.clone();
        }
        if let Some(last) = self.windows.last_mut() {
            last.after = Some(sample);
        }
    }

    /// Counts each failure at the first fault that explains it.
    pub(super) fn attribute(&mut self, failures: &[Failure]) {
        let mut unexplained = Vec::new();
        for failure in failures {
            let mut windows = self.windows.iter_mut();
            match windows.find(|window| window.explains(failure)) {
                Some(window) => window.add(failure),
                None => unexplained.push(failure),
            }
        }
        if let Some(first) = unexplained.first() {
            self.problems.push(format!(
                "{} queries without a right answer that no fault explains; the first, sent at {:.1} s: {:?}, {:?}",
                unexplained.len(),
                first.sent.as_secs_f32(),
                first.kind,
                first.count
            ));
        }
    }

    /// Prints the tables.
    ///
    /// # Errors
    /// Something is wrong.
    pub(super) fn print(&self) -> Result<()> {
        print_tallies(&self.tallies);
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN);
        table.set_header([
            "fault", "at s", "took s", "asked", "lost", "SERVFAIL", "wrong", "RSS KiB", "files",
            "threads",
        ]);
        for window in &self.windows {
            let after = window.after.clone().unwrap_or_default();
            table.add_row([
                window.fault.title().to_owned(),
                window.from.as_secs().to_string(),
                format!("{:.2}", (window.until - window.from).as_secs_f32()),
                window.asked.to_string(),
                window.lost.to_string(),
                window.failed.to_string(),
                window.wrong.to_string(),
                after.rss.to_string(),
                after.files.to_string(),
                after.threads.len().to_string(),
            ]);
        }
        println!("\n{table}");
        if !self.latest.is_zero() {
            println!(
                "\nThe latest reply to a lost query: {:?} after it",
                self.latest
            );
        }
        let mut problems = self.problems.clone();
        problems.extend(self.unasked());
        problems.extend(self.changed_threads());
        problems.extend(self.windows.iter().filter_map(Window::problem));
        problems.extend(self.growth());
        if !problems.is_empty() {
            bail!("{}", problems.join("\n       "));
        }
        Ok(())
    }

    /// Clients that asked nothing, or not in the time of a fault.
    fn unasked(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.windows.is_empty() {
            problems.push("there was no fault".to_owned());
        }
        for (kind, tally) in self.tallies.iter().enumerate() {
            if tally[Count::Asked as usize] == 0 || tally[Count::Right as usize] == 0 {
                problems.push(format!("clients of kind {kind}: no query, or no answer"));
            }
        }
        let unasked = self.windows.iter().filter(|window| window.asked == 0);
        problems.extend(unasked.map(|window| {
            let at = window.from.as_secs();
            format!("{}, at {at} s: nobody asked", window.fault.title())
        }));
        problems
    }

    /// Where other threads run after a fault than in the first process.
    fn changed_threads(&self) -> Vec<String> {
        let windows = self.windows.iter();
        let looked = windows.filter_map(|window| Some((window, window.after.as_ref()?)));
        let changed = looked.filter(|(_, after)| after.threads != self.threads);
        changed
            .map(|(window, after)| {
                let at = window.from.as_secs();
                format!(
                    "{}, at {at} s: the threads {:?} became {:?}",
                    window.fault.title(),
                    self.threads,
                    after.threads
                )
            })
            .collect()
    }

    /// How the process has grown from a fault to the next one of its kind.
    fn growth(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for fault in Fault::ALL {
            let windows = self.windows.iter().filter(|window| window.fault == fault);
            let mut samples = windows.filter_map(|window| window.after.as_ref());
            let Some(first) = samples.next() else {
                continue;
            };
            for later in samples {
                if later.rss > first.rss + MAX_GROWTH || later.files > first.files + POOL {
                    problems.push(format!("{}: {first:?} became {later:?}", fault.title()));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f32) -> Duration {
        Duration::from_secs_f32(seconds)
    }

    fn failure(kind: Kind, count: Count, sent: f32) -> Failure {
        let sent = seconds(sent);
        Failure { kind, count, sent }
    }

    fn report() -> Report {
        let windows = [(Fault::TakeOver, 10.0, 11.0), (Fault::Kill, 20.0, 21.0)];
        let windows = windows
            .map(|(fault, from, until)| Window::new(fault, seconds(from), seconds(until), 1000));
        Report {
            windows: windows.into(),
            tallies: [[1; 7]; 5],
            ..Report::default()
        }
    }

    #[test]
    fn a_run_in_which_nobody_asks_or_nothing_happens_fails() {
        assert!(report().print().is_ok());
        let mut silent = report();
        silent.tallies[2][Count::Asked as usize] = 0;
        assert!(silent.print().is_err());
        let mut silent = report();
        silent.windows[1].asked = 0;
        assert!(silent.print().is_err());
        let mut idle = report();
        idle.windows.clear();
        assert!(idle.print().is_err());
    }

    #[test]
    fn a_process_with_other_threads_than_the_first_fails_the_run() {
        for (name, passes) in [("worker-0", true), ("worker-1", false)] {
            let sample = |name: &str| Sample {
                threads: vec![name.to_owned()],
                ..Sample::default()
            };
            let mut report = report();
            report.note(sample("worker-0"));
            report.windows.extend(self::report().windows);
            report.note(sample(name));
            assert_eq!(report.print().is_ok(), passes);
        }
    }

    #[test]
    fn a_lost_query_is_the_faults_in_whose_time_it_was_sent_or_waited() {
        for (kind, sent, explained) in [
            (Kind::Popular, 20.5, true),
            (Kind::Popular, 19.9, true),
            (Kind::Popular, 19.0, false),
            (Kind::Popular, 21.1, false),
            (Kind::Flaky, 16.0, true),
            (Kind::Flaky, 14.0, false),
        ] {
            let mut report = report();
            report.attribute(&[failure(kind, Count::Lost, sent)]);
            assert_eq!(
                report.windows[1].lost,
                u64::from(explained),
                "{kind:?} at {sent}"
            );
            assert_eq!(report.problems.is_empty(), explained);
            assert_eq!(report.print().is_ok(), explained);
        }
    }

    #[test]
    fn a_fault_that_may_cost_nothing_fails_the_run_if_it_does() {
        for (count, sent, passes) in [
            (Count::Lost, 10.5, false),
            (Count::Failed, 10.5, false),
            (Count::Lost, 20.5, true),
            (Count::Failed, 20.5, false),
            (Count::Wrong, 20.5, false),
        ] {
            let mut report = report();
            report.attribute(&[failure(Kind::Tail, count, sent)]);
            assert_eq!(report.print().is_ok(), passes, "{count:?} at {sent}");
        }
    }

    #[test]
    fn a_process_that_grows_from_one_round_to_the_next_fails_the_run() {
        let sample = |rss, files| Sample {
            rss,
            files,
            ..Sample::default()
        };
        for (rss, files, passes) in [
            (50_000, 80, true),
            (50_000 + MAX_GROWTH + 1, 80, false),
            (50_000, 80 + POOL + 1, false),
        ] {
            let mut report = report();
            report.note(sample(50_000, 80));
            report.windows.extend(self::report().windows);
            report.note(sample(rss, files));
            assert_eq!(report.print().is_ok(), passes, "{rss} {files}");
        }
    }
}
