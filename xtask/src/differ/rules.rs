//! The differences that are understood: who does what, and why Heimdall's way is right.

use hickory_proto::rr::{
    RData, RecordType,
    RecordType::{ANY, CNAME, HINFO, NS, NSEC, NSEC3, RRSIG, SOA},
};

use super::{
    compare::{Aspect, Difference, Peer},
    query::{AA, Defect, RD, TC, Z},
    reply::Reply,
};

/// A class of differences: its name, as in docs/differences.md, and whether a difference belongs to
/// it. It says what Heimdall must do, not only what the peer does.
pub(super) type Rule = (&'static str, fn(&Difference<'_>) -> bool);

const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const BADVERS: u16 = 16;

const IN: u16 = 1;
/// First of the types that RFC 6895 sets aside for questions.
const FIRST_META: u16 = 128;

const EDE: u16 = 15;
const COOKIE: u16 = 10;

/// Heimdall's default `cache.max-ttl`.
const MAX_TTL: u32 = 86_400;

/// The rules; the first that fits explains a difference.
pub(super) const RULES: &[Rule] = &[
    ("messages that break the rules", |it| {
        it.our_rcode(FORMERR) && is_broken(it)
    }),
    ("other opcodes", |it| {
        it.our_rcode(NOTIMP) && it.query.opcode() != 0
    }),
    ("EDNS version above 0", |it| {
        let version = it.query.opt.as_ref().map_or(0, |opt| opt.version);
        it.our_rcode(BADVERS) && version > 0
    }),
    ("meta types and other classes", |it| {
        it.our_rcode(REFUSED) && is_not_forwarded(it)
    }),
    ("queries without RD", |it| {
        it.our_rcode(REFUSED) && !it.asked(RD)
    }),
    ("ANY", |it| {
        // RFC 8482: one HINFO record instead of all.
        let minimal = |ours: &Reply| all(ours, 0, |rtype| rtype == HINFO);
        it.query.qtype == ANY && it.our_rcode(NOERROR) && it.ours(minimal)
    }),
    ("queries that a peer cannot read", |it| {
        // TC in a query, types that are not assigned, records and octets behind the question.
        let defects = matches!(
            it.query.defect,
            Defect::ExtraRecord | Defect::AnswerRecord | Defect::Trailing(_)
        );
        let odd = it.asked(TC) || u16::from(it.query.qtype) == FIRST_META || defects;
        it.aspect == Aspect::Rcode && it.their_rcode(FORMERR) && odd
    }),
    ("UDP sizes below 512", |it| {
        // RFC 6891 section 6.2.3: they mean 512, and the query is answered.
        let is_small = it.query.opt.as_ref().is_some_and(|opt| opt.size < 512);
        let is_answered = it.our_rcode(NOERROR) || it.our_rcode(NXDOMAIN);
        it.aspect == Aspect::Rcode && it.their_rcode(FORMERR) && is_small && is_answered
    }),
    ("names that the upstream refuses", |it| {
        it.aspect == Aspect::Rcode && it.our_rcode(SERVFAIL) && it.their_rcode(REFUSED)
    }),
    ("aliases in a circle", |it| {
        it.aspect == Aspect::Rcode
            && it.peer == Peer::Dnsmasq
            && it.our_rcode(SERVFAIL)
            && it.theirs(is_circle)
    }),
    ("aliases whose end the upstream refuses", |it| {
        it.aspect == Aspect::Rcode
            && it.peer == Peer::Dnsmasq
            && it.our_rcode(SERVFAIL)
            && it.theirs(|theirs| all(theirs, 0, |rtype| rtype == CNAME))
    }),
    ("aliases that the upstream does not follow", |it| {
        it.peer == Peer::Unbound && is_about_an_alias(it)
    }),
    ("aliases that dnsmasq answers from its cache", |it| {
        it.peer == Peer::Dnsmasq && is_about_an_alias(it)
    }),
    ("referrals", |it| {
        let referral =
            |ours: &Reply| ours.sections[0].is_empty() && any(ours, 1, |rtype| rtype == NS);
        matches!(it.aspect, Aspect::Section(_)) && it.ours(referral)
    }),
    ("denials that dnsmasq has without proof", |it| {
        let proof = |reply: &Reply| any(reply, 1, |rtype| matches!(rtype, RRSIG | NSEC | NSEC3));
        let ours = match it.aspect {
            Aspect::Section(1) => it.ours(proof),
            // With the proof it may be too large for the client.
            Aspect::Flag("TC") => it.ours(|ours| ours.has(TC)),
            _ => false,
        };
        ours && it.peer == Peer::Dnsmasq && it.query.dnssec_ok() && !it.theirs(proof)
    }),
    ("RD", |it| {
        let echoed = |ours: &Reply| ours.has(RD) == it.asked(RD);
        it.aspect == Aspect::Flag("RD") && it.peer == Peer::Unbound && it.ours(echoed)
    }),
    ("AA", |it| {
        let clear = |ours: &Reply| !ours.has(AA);
        it.aspect == Aspect::Flag("AA") && it.peer == Peer::Dnsmasq && it.ours(clear)
    }),
    ("Z", |it| {
        it.aspect == Aspect::Flag("Z") && it.ours(|ours| !ours.has(Z))
    }),
    ("options in the reply", |it| {
        it.aspect == Aspect::Options && options_are_ours(it)
    }),
    ("dnsmasq's SOA records from negative answers", |it| {
        it.aspect == Aspect::Ttl
            && it.peer == Peer::Dnsmasq
            && it.query.qtype == SOA
            && longest_ttl(it.ours, ..1) > longest_ttl(it.theirs, ..1)
    }),
    ("the question of another client", |it| {
        let echoed = |ours: &Reply| {
            ours.question.starts_with(&it.query.name) && ours.has(RD) == it.asked(RD)
        };
        matches!(it.aspect, Aspect::Question | Aspect::Flag("RD" | "CD"))
            && it.peer == Peer::Dnsmasq
            && it.ours(echoed)
    }),
    ("TTLs over a day", |it| {
        it.aspect == Aspect::Ttl
            && longest_ttl(it.ours, ..3) <= MAX_TTL
            && longest_ttl(it.theirs, ..3) > MAX_TTL
    }),
    ("additional records", |it| {
        let count = |reply: Option<&Reply>| reply.map_or(0, |reply| reply.sections[2].len());
        it.aspect == Aspect::Section(2) && count(it.ours) > count(it.theirs)
    }),
];

/// The rule that explains a difference, by its index in [`RULES`].
pub(super) fn explain(difference: &Difference<'_>) -> Option<usize> {
    RULES.iter().position(|(_, fits)| fits(difference))
}

impl Difference<'_> {
    fn ours(&self, test: impl FnOnce(&Reply) -> bool) -> bool {
        self.ours.is_some_and(test)
    }

    fn theirs(&self, test: impl FnOnce(&Reply) -> bool) -> bool {
        self.theirs.is_some_and(test)
    }

    fn our_rcode(&self, code: u16) -> bool {
        self.ours(|ours| ours.rcode == code)
    }

    fn their_rcode(&self, code: u16) -> bool {
        self.theirs(|theirs| theirs.rcode == code)
    }

    /// Whether the query has this flag.
    fn asked(&self, flag: u16) -> bool {
        self.query.flags & flag != 0
    }
}

fn any(reply: &Reply, section: usize, test: impl Fn(RecordType) -> bool) -> bool {
    reply.sections[section]
        .iter()
        .any(|rr| test(rr.record_type()))
}

fn all(reply: &Reply, section: usize, test: impl Fn(RecordType) -> bool) -> bool {
    !any(reply, section, |rtype| !test(rtype))
}

/// The longest TTL in some sections; 0 without any record.
fn longest_ttl(reply: Option<&Reply>, sections: std::ops::RangeTo<usize>) -> u32 {
    let sections = reply.iter().flat_map(|reply| &reply.sections[sections]);
    let ttls = sections.flatten().map(|rr| rr.ttl);
    ttls.max().unwrap_or_default()
}

/// Whether the query must not be answered: it breaks a rule of the wire format, or has a cookie of
/// a length that no cookie has.
fn is_broken(it: &Difference<'_>) -> bool {
    let options = it.query.opt.iter().flat_map(|opt| &opt.options);
    let mut cookies = options.filter(|(code, _)| *code == COOKIE);
    it.query.defect != Defect::None || cookies.any(|(_, data)| !matches!(data.len(), 8 | 16..=40))
}

/// Types that stand for no records, and classes but IN.
fn is_not_forwarded(it: &Difference<'_>) -> bool {
    it.query.qclass != IN || matches!(u16::from(it.query.qtype), 0 | 41 | 249..=254)
}

/// Whether records differ in an answer that has an alias.
fn is_about_an_alias(it: &Difference<'_>) -> bool {
    matches!(it.aspect, Aspect::Rcode | Aspect::Section(_) | Aspect::Ttl)
        && it.ours(|ours| any(ours, 0, |rtype| rtype == CNAME))
}

/// Whether every alias of the reply leads to another one.
fn is_circle(reply: &Reply) -> bool {
    let aliases = || {
        reply.sections[0]
            .iter()
            .filter(|rr| rr.record_type() == CNAME)
    };
    aliases().next().is_some()
        && aliases().all(|rr| match &rr.data {
            RData::CNAME(target) => aliases().any(|rr| rr.name == target.0),
            _ => false,
        })
}

/// Whether Heimdall's options are those that it gives: an error's reason, and a cookie for a cookie.
fn options_are_ours(it: &Difference<'_>) -> bool {
    let sent = it.query.opt.iter().flat_map(|opt| &opt.options);
    let sent_cookie = sent.into_iter().any(|(code, _)| *code == COOKIE);
    let ours = it.ours.map(Reply::options).unwrap_or_default();
    let given = |code| code == EDE || (code == COOKIE && sent_cookie);
    ours.iter().all(|(code, _)| given(*code))
}
