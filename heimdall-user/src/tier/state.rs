//! The state of the tier, under one lock: what is promoted, and whether it answers.

use std::{fmt, sync::Arc};

use heimdall_ebpf::tier::{Config, Entry, Key};
use tracing::error;

use super::{
    candidates::{Candidates, WINDOW},
    entry,
    fruitless::Fruitless,
    handle::TierRules,
    interfaces::Interfaces,
    nominate::{Nomination, Nominations, Nominator},
    report::TierCounters,
    table::{Inserted, Retired, Table},
};
use crate::xdp::{Readers, TierMaps, XdpError};

/// Calls for each popular question, in wire form, with the hits since the last call.
pub(super) type CountHits = Box<dyn FnMut(&[u8], u64) + Send>;

pub(super) struct State {
    pub(super) interfaces: Interfaces,
    pub(super) table: Table,
    candidates: Candidates,
    fruitless: Fruitless,
    /// What does not change of the configuration.
    fixed: Config,
    /// `None`: they were not set yet, or are about to be set.
    rules: Option<TierRules>,
    /// Why the server wants it off.
    off: Option<String>,
    /// Why it cannot be used any more.
    failure: Option<String>,
    suspensions: u32,
    forgettings: u32,
    /// Whether the programs answer.
    answering: bool,
    /// Of the entries now.
    generation: u32,
    /// Its epoch is opened and closed here alone.
    nominations: Arc<Nominations>,
    /// The second of the last [`visit`](Self::visit).
    visited: u32,
    count_hits: CountHits,
    pub(super) counters: Arc<TierCounters>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// Creation, and whether it answers.
impl State {
    /// `fixed` is the part of the configuration that does not change.
    pub(super) fn new(
        fixed: Config,
        limit: u32,
        buckets: u32,
        nominations: Arc<Nominations>,
        count_hits: CountHits,
    ) -> Self {
        Self {
            interfaces: Interfaces::default(),
            table: Table::new(fixed.seed, limit, buckets),
            candidates: Candidates::new(limit),
            fruitless: Fruitless::new(limit),
            fixed,
            rules: None,
            off: None,
            failure: None,
            suspensions: 0,
            forgettings: 0,
            answering: false,
            generation: Config::OFF,
            nominations,
            visited: 0,
            count_hits,
            counters: Arc::default(),
        }
    }

    /// Why it does not answer, unless that is for a moment.
    pub(super) fn why_off(&self) -> Option<&str> {
        self.failure.as_deref().or(self.off.as_deref())
    }

    /// Brings the programs and the epoch in line with the conditions under which the tier answers.
    fn update(&mut self) {
        let answers = self.rules.is_some() && self.suspensions == 0 && self.why_off().is_none();
        match (self.answering, answers) {
            (false, true) => self.start(),
            (true, false) => self.stop(),
            _ => {}
        }
        self.set_open(self.answering && self.forgettings == 0);
    }

    fn start(&mut self) {
        self.answering = true;
        self.generation = next_generation(self.generation);
        self.configure();
    }

    /// No program answers from the return on, and the table is empty.
    fn stop(&mut self) {
        self.answering = false;
        self.configure();
        self.table.remove_all(|_| true, &mut self.interfaces);
        self.wait_and_reclaim();
    }

    /// Opens a new epoch unless one is open, or closes it.
    fn set_open(&self, open: bool) {
        match open {
            true if self.nominations.is_open() => {}
            true => self.nominations.open(),
            false => self.nominations.close(),
        }
    }

    /// Writes the configuration of all programs.
    fn configure(&self) {
        self.interfaces.configure(&self.config());
    }

    fn config(&self) -> Config {
        let Some(rules) = self.rules.as_ref().filter(|_| self.answering) else {
            return Config {
                generation: Config::OFF,
                ..self.fixed
            };
        };
        let flags = [
            (rules.verify_checksums, Config::VERIFY_CHECKSUMS),
            (rules.refuse_non_recursive, Config::PASS_NON_RECURSIVE),
            (rules.trust_ad, Config::TRUST_AD),
        ];
        let flags = flags.iter().filter(|(set, _)| *set);
        Config {
            generation: self.generation,
            flags: flags.fold(0, |all, (_, flag)| all | flag),
            udp_size: rules.udp_size.into(),
            ..self.fixed
        }
    }

    /// Turns the tier off for good: what programs may still read is not known.
    fn fail(&mut self, error: &XdpError) {
        if self.failure.is_none() {
            let why = format!("cannot wait until the XDP program has ended: {error}");
            error!("the hot tier is off until a restart: {why}");
            self.failure = Some(why);
        }
        self.update();
    }
}

/// What the server says.
impl State {
    pub(super) fn attach(&mut self, name: &str, mtu: u32, mut maps: TierMaps) {
        self.detach(name);
        self.table.write_to(&mut maps);
        let clients = self.rules.as_ref().map(|rules| rules.clients.as_slice());
        let clients = clients.unwrap_or_default();
        self.interfaces.add(name, mtu, maps, clients);
        self.read_hits_again();
        self.configure();
    }

    pub(super) fn detach(&mut self, name: &str) {
        if let Err(error) = self.interfaces.remove(name) {
            self.fail(&error);
        }
        self.read_hits_again();
    }

    pub(super) fn set_mtu(&mut self, name: &str, mtu: u32) {
        if self.interfaces.set_mtu(name, mtu) {
            self.configure();
        }
    }

    pub(super) fn set_rules(&mut self, rules: TierRules) {
        if self.rules.as_ref() == Some(&rules) && !self.interfaces.have_failed() {
            return;
        }
        // No program answers while they change: in between, a client might be allowed that is so neither
        // before nor after.
        self.rules = None;
        self.update();
        self.interfaces.set_clients(&rules.clients);
        self.rules = Some(rules);
        self.update();
    }

    pub(super) fn set_off(&mut self, off: Option<String>) {
        self.off = off;
        self.update();
    }

    pub(super) fn suspend(&mut self) {
        self.suspensions += 1;
        self.update();
    }

    pub(super) fn resume(&mut self) {
        self.suspensions -= 1;
        self.update();
    }

    /// Removes the entries of the questions, in wire form and lower case, that `which` is true of.
    pub(super) fn begin_forgetting(&mut self, which: impl Fn(&[u8]) -> bool) {
        self.forgettings += 1;
        self.update();
        let which = |entry: &Entry| which(&entry::question(&entry.key));
        self.table.remove_all(which, &mut self.interfaces);
        if self.retired().is_some() {
            self.wait_and_reclaim();
        }
    }

    pub(super) fn end_forgetting(&mut self) {
        self.forgettings -= 1;
        self.update();
    }
}

/// What the promoter does.
impl State {
    /// The retired cells, which [`reclaim`](Self::reclaim) frees, and the programs to wait for before. `None`: there are
    /// none.
    pub(super) fn retired(&self) -> Option<(Retired, Readers)> {
        let retired = self.table.retired();
        (!retired.cells.is_empty()).then(|| (retired, self.interfaces.readers()))
    }

    /// Frees retired cells, if they were waited for; else they stay retired.
    pub(super) fn reclaim(&mut self, retired: &Retired, waited: Result<(), XdpError>) {
        if let Err(error) = waited {
            return self.fail(&error);
        }
        if self.table.are_retired(retired) {
            for index in &retired.cells {
                self.read_hits(*index);
            }
            self.table.reclaim(retired);
        }
    }

    fn wait_and_reclaim(&mut self) {
        let retired = self.table.retired();
        let waited = self.interfaces.readers().wait();
        self.reclaim(&retired, waited);
    }

    /// Promotes a nomination if that is worth it.
    pub(super) fn consider(&mut self, nomination: &Nomination, now: u32) {
        let counters = Arc::clone(&self.counters);
        counters.nominations.add(1);
        if !self.nominations.is_current(nomination) {
            counters.nominations_outdated.add(1);
            return;
        }
        let mut entry = nomination.entry;
        if now >= entry.until {
            return;
        }
        entry.generation = self.generation;
        if let Some(index) = self.table.find(&entry.key) {
            let is_known = self.table.cell(index).is_some_and(|cell| {
                let known = &cell.entry;
                let is_older = entry.received <= known.received;
                now < known.until && (is_older || entry::is_same_answer(known, &entry))
            });
            if !is_known && self.table.replace(index, &entry, &mut self.interfaces) {
                counters.replacements.add(1);
            }
            return;
        }
        let hash = entry.key.hash(self.fixed.seed);
        if self.fruitless.is_barred(hash, now) {
            return;
        }
        let nominations = self.candidates.count(hash, now).max(1);
        // By the nominations it gets so many hits in a window; twice the hits of what it displaces, so that two
        // of the same popularity do not displace one another in turn.
        let expected = u64::from(nominations) * u64::from(Nominator::ONE_IN);
        let is_colder = |warmth: u64| nominations > 1 && 2 * warmth < expected;
        let mut one_too_many = None;
        if self.table.is_full() {
            if nominations < 2 {
                // Most of a flood: the entries need not be looked at.
                return;
            }
            let coldest = self.table.coldest(&self.interfaces);
            let is_colder = |index: &u32| is_colder(self.table.warmth(*index, &self.interfaces));
            one_too_many = coldest.filter(is_colder);
            if one_too_many.is_none() {
                return;
            }
        }
        match self
            .table
            .insert(&entry, expected, is_colder, &mut self.interfaces)
        {
            Inserted::Yes => {
                counters.promotions.add(1);
                // Only now: a spare cell was free for the new one.
                if let Some(index) = one_too_many {
                    self.table.remove(index, &mut self.interfaces);
                    counters.demotions.add(1);
                }
            }
            Inserted::Displacing => {
                counters.promotions.add(1);
                counters.demotions.add(1);
            }
            Inserted::No => {}
        }
    }

    /// Brings the gauges, and the count of the nominations that were dropped, up to date.
    pub(super) fn count(&self) {
        let live = u64::from(self.table.live());
        self.counters.entries.set(live);
        self.counters.bytes.set(live * size_of::<Entry>() as u64);
        self.counters
            .nominations_dropped
            .set(self.nominations.dropped());
    }

    /// Looks at a part of the live entries, once a second at another one, so that each is looked at once in a
    /// [`WINDOW`]: demotes those that have expired or have had no hit, and counts the hits of the others, which it
    /// moves home.
    pub(super) fn visit(&mut self, now: u32) {
        if now == self.visited {
            return;
        }
        self.visited = now;
        let first = (now % WINDOW) as usize;
        let indices: Vec<u32> = self.table.live_cells(first, WINDOW as usize).collect();
        for index in indices {
            let hits = self.read_hits(index);
            let Some(cell) = self.table.cell_mut(index) else {
                continue;
            };
            let was_measured = std::mem::replace(&mut cell.measured, true);
            cell.recent = if was_measured {
                hits
            } else {
                cell.recent.max(hits)
            };
            if cell.recent > 0 && now < cell.entry.until {
                self.table.move_home(index, &mut self.interfaces);
            } else {
                let hash = cell.entry.key.hash(self.fixed.seed);
                let has_answered = cell.hits > 0;
                self.fruitless.demoted(hash, has_answered, now);
                self.table.remove(index, &mut self.interfaces);
                self.counters.demotions.add(1);
            }
        }
    }

    /// Reads an entry's hits. Returns those since they were read last, which are counted for its question.
    fn read_hits(&mut self, index: u32) -> u64 {
        let hits = self.interfaces.hits(index);
        let Some(cell) = self.table.cell_mut(index) else {
            return 0;
        };
        let new = hits.saturating_sub(std::mem::replace(&mut cell.hits, hits));
        if new > 0 {
            (self.count_hits)(&entry::question(&cell.entry.key), new);
        }
        new
    }

    /// Reads all entries' hits after an interface came or went, which changed their sums.
    fn read_hits_again(&mut self) {
        for (index, cell) in self.table.cells_mut() {
            cell.hits = self.interfaces.hits(index);
        }
    }
}

/// What is shown.
impl State {
    /// Whether the program answers a question with these flags at this second.
    pub(super) fn contains(&self, key: &Key, now: u32) -> bool {
        let cell = self
            .table
            .find(key)
            .and_then(|index| self.table.cell(index));
        cell.is_some_and(|cell| now < cell.entry.until)
    }
}

/// The generation after this one.
fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        Config::OFF => Config::OFF + 1,
        next => next,
    }
}
