//! The tier over maps in ordinary memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod coherence;
mod handle;
mod popularity;
mod reply;
mod table;
mod torn;

use std::sync::{Arc, Mutex};

use heimdall_ebpf::tier::{Config, Entry, Key};

use super::{
    handle::{Shared, TierRules, TierSettings},
    nominate::{Nominator, Offer},
    promoter,
};
use crate::{
    clock::Clock,
    dns::{Answer, answer::AnswerFields},
    xdp::TierMaps,
};

/// The seed of the keys' hash.
const SEED: u64 = 0x1234_5678_9abc_def0;

/// The second at which tests begin.
const BEGIN: u32 = 1 << 28;

/// A tier of so many entries, with one interface, that answers. Its promoter is run by hand.
struct Fixture {
    shared: Arc<Shared>,
    /// Hits that were counted, by the first octet of the name.
    counted: Arc<Mutex<Vec<(u8, u64)>>>,
}

impl Fixture {
    fn new(entries: u32) -> Self {
        let fixed = Config {
            seed: SEED,
            ..Config::default()
        };
        let settings = TierSettings { entries };
        let counted = Arc::<Mutex<Vec<_>>>::default();
        let count = Arc::clone(&counted);
        let count_hits = move |question: &[u8], hits| {
            count.lock().unwrap().push((question[1], hits));
        };
        let shared = Shared::new(settings, fixed, Clock::start(), Box::new(count_hits));
        shared.state().set_rules(rules());
        shared
            .state()
            .attach("eth0", 1500, TierMaps::in_memory(settings.size()));
        Self {
            shared: Arc::new(shared),
            counted,
        }
    }

    fn nominator(&self) -> Nominator {
        self.shared.nominations.nominator()
    }

    fn round(&self, now: u32) {
        promoter::round(&self.shared, now);
    }

    /// The entry that the program finds and uses for a question at this second, with its index.
    fn find(&self, question: &[u8], now: u32) -> Option<(u32, Entry)> {
        let key = Key::new(question, 0).unwrap();
        let state = self.shared.state();
        let maps = state.interfaces.nth(0);
        let generation = maps.config().generation;
        maps.find(key.hash(SEED)).filter(|(_, entry)| {
            entry.key == key
                && generation != Config::OFF
                && entry.generation == generation
                && now < entry.until
        })
    }

    fn has(&self, question: &[u8], now: u32) -> bool {
        self.find(question, now).is_some()
    }

    /// Counts hits of a question that is in the tier.
    fn hit(&self, question: &[u8], now: u32, hits: u64) {
        let (index, _) = self.find(question, now).unwrap();
        self.shared
            .state()
            .interfaces
            .nth(0)
            .add_hits(1, index, hits);
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.shared.state().counters.list();
        counters.iter().find(|(found, _)| *found == name).unwrap().1
    }
}

fn rules() -> TierRules {
    TierRules {
        clients: vec![(([0; 4].into(), 0), true)],
        refuse_non_recursive: false,
        trust_ad: true,
        udp_size: 1232,
        verify_checksums: true,
    }
}

/// A question of type A with a name of one label.
fn question(label: &str) -> Vec<u8> {
    let mut question = vec![label.len() as u8];
    question.extend_from_slice(label.as_bytes());
    question.extend_from_slice(b"\0\0\x01\0\x01");
    question
}

/// An answer with one address, and a TTL of 300 seconds.
fn answer(address: [u8; 4]) -> Answer {
    let mut body = b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04".to_vec();
    body.extend_from_slice(&address);
    Answer::new(&AnswerFields {
        counts: [1, 0, 0],
        body: &body,
        ttl_offsets: &[6],
        ttl: 300,
        ..AnswerFields::default()
    })
}

/// Nominates an answer that was received at this second.
fn nominate(nominator: &Nominator, question: &[u8], answer: &Answer, received: u32) {
    nominator.nominate(received, || Some(offer(question, answer, received)));
}

fn offer<'a>(question: &'a [u8], answer: &'a Answer, received: u32) -> Offer<'a> {
    Offer {
        question,
        flags: 0,
        answer: answer.as_ref(),
        received,
        refresh: received + 270,
    }
}
