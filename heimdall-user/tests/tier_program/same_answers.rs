//! Random queries and answers: the tier's reply is the worker's, octet for octet.

use std::cell::{Cell, RefCell};

use heimdall_ebpf::tier::{Config, Entry, MAX_BODY, MIN_BODY, Outcome};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config as Settings, TestRunner},
};

use crate::{
    frames::{Opt, TAGGINGS, V4, V6, datagram, make_partial, query, tag, udp_checksum_at},
    kernel::{Kernel, Run, config},
    worker::{self, Content, NOERROR, NXDOMAIN},
};

#[derive(Clone, Copy, Debug)]
enum Sum {
    Right,
    Absent,
    Partial,
}

#[derive(Clone, Debug)]
struct Case {
    /// In lower case.
    question: Vec<u8>,
    /// Which letters of the query are in upper case.
    upper: u64,
    flags: u16,
    opt: Option<Opt>,
    content: Content,
    v6: bool,
    tags: &'static [u16],
    padding: usize,
    sum: Sum,
    mtu: u32,
    /// Whether the answer is held for another DO or CD.
    other_key: bool,
}

fn questions() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![
        6 => prop::char::range('a', 'z').prop_map(|letter| letter as u8),
        1 => any::<u8>(),
    ];
    let labels = prop::collection::vec(prop::collection::vec(octet, 1..=62), 0..=6);
    let types = prop_oneof![
        Just(1u16),
        Just(28),
        Just(65),
        Just(97),
        1..41u16,
        42..249u16
    ];
    (labels, types).prop_map(|(labels, qtype)| {
        let mut question = Vec::new();
        for label in labels {
            // No name that the policy answers ends with a label as short, or holds such octets.
            if question.len() + label.len() + 2 <= 64 {
                question.push(label.len() as u8);
                question.extend(label.to_ascii_lowercase());
            }
        }
        question.push(0);
        question.extend(qtype.to_be_bytes());
        question.extend([0, 1]);
        question
    })
}

fn contents() -> impl Strategy<Value = Content> {
    (
        prop::collection::vec(any::<u8>(), MIN_BODY..=MAX_BODY),
        prop::collection::vec(any::<Index>(), 0..=8),
        any::<[u16; 3]>(),
        prop::bool::ANY,
        prop::bool::ANY,
        prop_oneof![Just(0), 1..100u32, 1..900_000u32],
        any::<bool>(),
    )
        .prop_map(
            |(mut body, offsets, counts, nxdomain, authentic, age, short)| {
                let mut ttl_offsets: Vec<u16> = (offsets.iter())
                    .map(|index| index.index(body.len() - 3) as u16)
                    .collect();
                ttl_offsets.sort_unstable();
                // TTLs do not overlap.
                ttl_offsets.dedup_by(|next, last| *next < *last + 4);
                if short {
                    // TTLs as they are, rather than of years.
                    for offset in &ttl_offsets {
                        body[usize::from(*offset)..][..2].fill(0);
                    }
                }
                Content {
                    body,
                    ttl_offsets,
                    // One more is added for the OPT record.
                    counts: counts.map(|count| count & 0x7f),
                    rcode: if nxdomain { NXDOMAIN } else { NOERROR },
                    authentic,
                    age,
                }
            },
        )
}

fn cases() -> impl Strategy<Value = Case> {
    let opt = (any::<u16>(), any::<[u8; 4]>()).prop_map(|(size, [rcode, _, first, second])| Opt {
        size,
        fields: [rcode, 0, first, second],
    });
    (
        (
            questions(),
            any::<u64>(),
            any::<u16>(),
            prop::option::of(opt),
        ),
        contents(),
        (
            any::<bool>(),
            prop::sample::select(&TAGGINGS[..]),
            0..600usize,
        ),
        prop_oneof![4 => Just(Sum::Right), 1 => Just(Sum::Absent), 1 => Just(Sum::Partial)],
        prop_oneof![3 => Just(1500), 1 => 100..600u32],
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |((question, upper, flags, opt), content, (v6, tags, padding), sum, mtu, other_key)| {
                Case {
                    question,
                    upper,
                    // No response, opcode QUERY.
                    flags: flags & 0x07ff,
                    opt,
                    content,
                    v6,
                    tags,
                    padding,
                    sum,
                    mtu,
                    other_key,
                }
            },
        )
}

impl Case {
    fn frame(&self) -> Vec<u8> {
        let mut asked = self.question.clone();
        let name = asked.len() - 4;
        for (at, octet) in asked[..name].iter_mut().enumerate() {
            if self.upper >> (at % 64) & 1 != 0 {
                octet.make_ascii_uppercase();
            }
        }
        let message = query(self.flags, &asked, self.opt);
        let mut frame = datagram(if self.v6 { V6 } else { V4 }, &message);
        match self.sum {
            Sum::Absent if !self.v6 => {
                let at = udp_checksum_at(&frame);
                frame[at..at + 2].fill(0);
            }
            Sum::Partial => make_partial(&mut frame),
            _ => {}
        }
        let mut frame = tag(&frame, self.tags);
        frame.resize(frame.len() + self.padding.saturating_sub(300), 0x5a);
        frame
    }

    fn key_flags(&self) -> u8 {
        let dnssec_ok = self.opt.is_some_and(|opt| opt.fields[2] & 0x80 != 0);
        u8::from(dnssec_ok) | u8::from(self.flags & 0x10 != 0) << 1
    }

    fn entry(&self) -> Entry {
        let flags = self.key_flags() ^ u8::from(self.other_key);
        self.content.entry(&self.question, flags)
    }

    /// Whether the reply is small enough.
    fn fits(&self) -> bool {
        let opt = if self.opt.is_some() { 11 } else { 0 };
        let message = 12 + self.question.len() + self.content.body.len() + opt;
        let limit = self.opt.map_or(512, |opt| opt.size.max(512)).min(1232);
        let headers = if self.v6 { 48 } else { 28 };
        message <= usize::from(limit) && message + headers <= self.mtu as usize
    }
}

#[test]
fn the_tier_replies_as_the_worker_does() {
    if !lab::available("the_tier_replies_as_the_worker_does") {
        return;
    }
    let kernel = RefCell::new(Kernel::load());
    let answered = Cell::new(0);
    let settings = Settings {
        cases: 3000,
        failure_persistence: None,
        ..Settings::default()
    };
    TestRunner::new(settings)
        .run(&cases(), |case| {
            let mut kernel = kernel.borrow_mut();
            kernel.clear();
            kernel.put(0, 0, &case.entry());
            kernel.set_config(&Config {
                mtu: case.mtu,
                ..config()
            });
            let frame = case.frame();
            match kernel.run(&frame) {
                Run::Answered(reply, _) => {
                    prop_assert!(!case.other_key && case.fits());
                    prop_assert_eq!(reply, worker::reply(&frame, &case.content, 1500));
                    answered.set(answered.get() + 1);
                }
                Run::Passed(Outcome::NotHeld) => prop_assert!(case.other_key),
                Run::Passed(Outcome::TooLarge) => prop_assert!(!case.fits()),
                Run::Passed(outcome) => prop_assert!(false, "{:?}", outcome),
            }
            Ok(())
        })
        .unwrap();
    // The other outcomes have a part in the cases, but not more.
    assert!(answered.get() > 1500, "{}", answered.get());
}
