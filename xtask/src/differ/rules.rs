//! The differences that are understood: who does what, and why Heimdall's way is right.

use super::{
    compare::{AA, Aspect, Difference, Peer},
    wire::{CD, Oddity, RD, TC, Z},
};

/// A class of differences.
pub(super) struct Rule {
    /// Its name, as in docs/differences.md.
    pub(super) name: &'static str,
    /// Whether a difference belongs to it. It says what Heimdall must do, not only what the peer
    /// does.
    pub(super) fits: fn(&Difference<'_>) -> bool,
}

const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const BADVERS: u16 = 16;

const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const HINFO: u16 = 13;
const RRSIG: u16 = 46;
const NSEC: u16 = 47;
const NSEC3: u16 = 50;
const ANY: u16 = 255;
/// First of the types that RFC 6895 sets aside for questions.
const FIRST_META: u16 = 128;
const IN: u16 = 1;

const EDE: u16 = 15;
const COOKIE: u16 = 10;
const CLIENT_SUBNET: u16 = 8;

/// Heimdall's default `cache.max-ttl`.
const MAX_TTL: u32 = 86_400;

/// The rules; the first that fits explains a difference.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "messages that break the rules",
        fits: |it| our_rcode(it) == Some(FORMERR) && is_broken(it),
    },
    Rule {
        name: "other opcodes",
        fits: |it| our_rcode(it) == Some(NOTIMP) && it.query.opcode() != 0,
    },
    Rule {
        name: "EDNS version above 0",
        fits: |it| our_rcode(it) == Some(BADVERS) && version(it) > 0,
    },
    Rule {
        name: "meta types and other classes",
        fits: |it| our_rcode(it) == Some(REFUSED) && is_not_forwarded(it),
    },
    Rule {
        name: "queries without RD",
        fits: |it| our_rcode(it) == Some(REFUSED) && !asked(it, RD),
    },
    Rule {
        name: "ANY",
        fits: |it| {
            let minimal = |rr: &super::normal::Rr| rr.rtype == HINFO;
            it.query.qtype == ANY
                && our_rcode(it) == Some(NOERROR)
                && it
                    .ours
                    .is_some_and(|ours| ours.sections[0].iter().all(minimal))
        },
    },
    Rule {
        name: "queries that a peer cannot read",
        fits: |it| {
            // TC in a query, types that are not assigned, records and octets behind the question.
            let oddities = matches!(
                it.query.oddity,
                Oddity::ExtraRecord | Oddity::AnswerRecord | Oddity::Trailing(_)
            );
            let odd = asked(it, TC) || it.query.qtype == FIRST_META || oddities;
            it.aspect == Aspect::Rcode && their_rcode(it) == Some(FORMERR) && odd
        },
    },
    Rule {
        name: "names that the upstream refuses",
        fits: |it| {
            it.aspect == Aspect::Rcode
                && our_rcode(it) == Some(SERVFAIL)
                && their_rcode(it) == Some(REFUSED)
        },
    },
    Rule {
        name: "aliases in a circle",
        fits: |it| {
            it.aspect == Aspect::Rcode
                && it.peer == Peer::Dnsmasq
                && our_rcode(it) == Some(SERVFAIL)
                && it.theirs.is_some_and(|theirs| is_circle(it, theirs))
        },
    },
    Rule {
        name: "aliases that the upstream does not follow",
        fits: |it| it.peer == Peer::Unbound && is_about_an_alias(it),
    },
    Rule {
        name: "aliases that dnsmasq answers from its cache",
        fits: |it| it.peer == Peer::Dnsmasq && is_about_an_alias(it),
    },
    Rule {
        name: "referrals",
        fits: |it| {
            let referral = |ours: &super::normal::Reply| {
                let [answers, authorities, _] = &ours.sections;
                answers.is_empty() && authorities.iter().any(|rr| rr.rtype == NS)
            };
            matches!(it.aspect, Aspect::Section(_)) && it.ours.is_some_and(referral)
        },
    },
    Rule {
        name: "denials that dnsmasq has without proof",
        fits: |it| {
            let proof = |reply: &super::normal::Reply| {
                reply.sections[1]
                    .iter()
                    .any(|rr| matches!(rr.rtype, RRSIG | NSEC | NSEC3))
            };
            // With the proof it may be too large for the client.
            let ours = match it.aspect {
                Aspect::Section(1) => it.ours.is_some_and(proof),
                Aspect::Flag(TC) => it.ours.is_some_and(|ours| ours.has(TC)),
                _ => false,
            };
            ours && it.peer == Peer::Dnsmasq
                && it.query.dnssec_ok()
                && !it.theirs.is_some_and(proof)
        },
    },
    Rule {
        name: "RD",
        fits: |it| {
            it.aspect == Aspect::Flag(RD)
                && it.peer == Peer::Unbound
                && it.ours.is_some_and(|ours| ours.has(RD) == asked(it, RD))
        },
    },
    Rule {
        name: "AA",
        fits: |it| {
            it.aspect == Aspect::Flag(AA)
                && it.peer == Peer::Dnsmasq
                && it.ours.is_some_and(|ours| !ours.has(AA))
        },
    },
    Rule {
        name: "Z",
        fits: |it| it.aspect == Aspect::Flag(Z) && it.ours.is_some_and(|ours| !ours.has(Z)),
    },
    Rule {
        name: "options in the reply",
        fits: |it| it.aspect == Aspect::Options && options_are_ours(it),
    },
    Rule {
        name: "dnsmasq's SOA records from negative answers",
        fits: |it| {
            let lower = |ours: &super::normal::Reply, theirs: &super::normal::Reply| {
                ours.sections[0].iter().map(|rr| rr.ttl).max()
                    > theirs.sections[0].iter().map(|rr| rr.ttl).max()
            };
            it.aspect == Aspect::Ttl
                && it.peer == Peer::Dnsmasq
                && it.query.qtype == SOA
                && matches!((it.ours, it.theirs), (Some(ours), Some(theirs)) if lower(ours, theirs))
        },
    },
    Rule {
        name: "the question of another client",
        fits: |it| {
            let echoed = |ours: &super::normal::Reply| {
                ours.question.starts_with(&it.query.name) && ours.has(RD) == asked(it, RD)
            };
            matches!(it.aspect, Aspect::Question | Aspect::Flag(RD | CD))
                && it.peer == Peer::Dnsmasq
                && it.ours.is_some_and(echoed)
        },
    },
    Rule {
        name: "TTLs over a day",
        fits: |it| {
            let ttls = |reply: Option<&super::normal::Reply>| {
                let sections = reply.into_iter().flat_map(|reply| &reply.sections);
                sections
                    .flatten()
                    .map(|rr| rr.ttl)
                    .max()
                    .unwrap_or_default()
            };
            it.aspect == Aspect::Ttl && ttls(it.ours) <= MAX_TTL && ttls(it.theirs) > MAX_TTL
        },
    },
    Rule {
        name: "additional records",
        fits: |it| {
            let count = |reply: Option<&super::normal::Reply>| {
                reply.map_or(0, |reply| reply.sections[2].len())
            };
            it.aspect == Aspect::Section(2) && count(it.ours) > count(it.theirs)
        },
    },
];

/// The rule that explains a difference, by its place in [`RULES`].
pub(super) fn explain(difference: &Difference<'_>) -> Option<usize> {
    RULES.iter().position(|rule| (rule.fits)(difference))
}

fn our_rcode(it: &Difference<'_>) -> Option<u16> {
    it.ours.map(|ours| ours.rcode)
}

fn their_rcode(it: &Difference<'_>) -> Option<u16> {
    it.theirs.map(|theirs| theirs.rcode)
}

fn asked(it: &Difference<'_>, flag: u16) -> bool {
    it.query.flags & flag != 0
}

fn version(it: &Difference<'_>) -> u8 {
    it.query.opt.as_ref().map_or(0, |opt| opt.version)
}

/// Whether the query must not be answered: it breaks a rule of the wire format, or has a cookie of
/// a length that no cookie has.
fn is_broken(it: &Difference<'_>) -> bool {
    let options = it.query.opt.iter().flat_map(|opt| &opt.options);
    let mut cookies = options.filter(|(code, _)| *code == COOKIE);
    it.query.oddity != Oddity::None || cookies.any(|(_, data)| !matches!(data.len(), 8 | 16..=40))
}

/// Types that stand for no records, and classes but IN.
fn is_not_forwarded(it: &Difference<'_>) -> bool {
    it.query.qclass != IN || matches!(it.query.qtype, 0 | 41 | 249..=254)
}

/// Whether records differ in an answer that has an alias.
fn is_about_an_alias(it: &Difference<'_>) -> bool {
    let alias = |ours: &super::normal::Reply| ours.sections[0].iter().any(|rr| rr.rtype == CNAME);
    matches!(it.aspect, Aspect::Rcode | Aspect::Section(_) | Aspect::Ttl)
        && it.ours.is_some_and(alias)
}

/// Whether the aliases of the queried name never come to an end.
fn is_circle(it: &Difference<'_>, reply: &super::normal::Reply) -> bool {
    let [answers, ..] = &reply.sections;
    let mut name = it.query.name.to_ascii_lowercase();
    for _ in 0..=answers.len() {
        let alias = (answers.iter()).find(|rr| rr.rtype == CNAME && rr.owner == name);
        match alias {
            Some(rr) => name.clone_from(&rr.data),
            None => return false,
        }
    }
    true
}

/// Whether Heimdall's options are those that it gives: an error's reason, and a cookie for a cookie;
/// and never the client's subnet or padding back.
fn options_are_ours(it: &Difference<'_>) -> bool {
    let sent = it.query.opt.iter().flat_map(|opt| &opt.options);
    let sent_cookie = sent.into_iter().any(|(code, _)| *code == COOKIE);
    let ours = it.ours.and_then(|ours| ours.opt.as_ref());
    ours.is_none_or(|opt| {
        opt.options.iter().all(|(code, _)| {
            *code != CLIENT_SUBNET && (*code == EDE || (*code == COOKIE && sent_cookie))
        })
    })
}
