//! Where two replies differ.

use super::{
    exchange::Said,
    query::{AA, AD, CD, QR, Query, RD, TC, Z},
    reply::{Reply, same_records, ttl_gap},
};

/// A server that Heimdall is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Unbound,
    Dnsmasq,
}

/// An aspect in which two replies can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aspect {
    /// One server replied, the other did not.
    Silence,
    /// One reply cannot be read.
    Unreadable,
    /// Response code. The records are not compared then.
    Rcode,
    /// A field of the header's flags word.
    Flag(&'static str),
    /// The question section.
    Question,
    /// Records of the answer, authority or additional section: 0 to 2.
    Section(usize),
    /// TTLs, beyond what the time between the two queries explains.
    Ttl,
    /// OPT is in one reply only.
    Opt,
    /// The payload size in OPT.
    OptSize,
    /// Version or flags in OPT.
    OptFlags,
    /// Options in OPT.
    Options,
}

/// The fields of the flags word, except for the response code.
const FLAGS: [(&str, u16); 9] = [
    ("QR", QR),
    ("opcode", 0x7800),
    ("AA", AA),
    ("TC", TC),
    ("RD", RD),
    ("RA", 0x0080),
    ("Z", Z),
    ("AD", AD),
    ("CD", CD),
];

/// One difference, for the rules to explain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Difference<'a> {
    pub(super) query: &'a Query,
    pub(super) peer: Peer,
    pub(super) aspect: Aspect,
    /// Heimdall's reply, if there is one.
    pub(super) ours: Option<&'a Reply>,
    /// The peer's.
    pub(super) theirs: Option<&'a Reply>,
}

/// The differences between Heimdall's and a peer's replies. `slack` is how many seconds TTLs may
/// be apart.
pub(super) fn differences<'a>(
    query: &'a Query,
    peer: Peer,
    ours: &'a Said,
    theirs: &'a Said,
    slack: u32,
) -> Vec<Difference<'a>> {
    let (our_udp, their_udp) = (readable(&ours.udp), readable(&theirs.udp));
    let difference = |aspect| Difference {
        query,
        peer,
        aspect,
        ours: our_udp,
        theirs: their_udp,
    };
    let (our_udp, their_udp) = match (our_udp, their_udp) {
        _ if ours.udp.is_none() != theirs.udp.is_none() => {
            return vec![difference(Aspect::Silence)];
        }
        _ if ours.udp.is_none() => return vec![],
        (Some(ours), Some(theirs)) if ours.rcode != theirs.rcode => {
            // All the rest follows from this.
            return vec![difference(Aspect::Rcode)];
        }
        (Some(ours), Some(theirs)) => (ours, theirs),
        _ => return vec![difference(Aspect::Unreadable)],
    };
    let aspects = header_and_opt(our_udp, their_udp);
    let mut found: Vec<_> = aspects.into_iter().map(difference).collect();
    // A truncated reply need not hold anything; what counts is what TCP brings then.
    let ours = readable(&ours.tcp).unwrap_or(our_udp);
    let theirs = readable(&theirs.tcp).unwrap_or(their_udp);
    let whole = |aspect| Difference {
        ours: Some(ours),
        theirs: Some(theirs),
        ..difference(aspect)
    };
    let mut gap = 0;
    for (section, (ours, theirs)) in ours.sections.iter().zip(&theirs.sections).enumerate() {
        if same_records(ours, theirs) {
            gap = gap.max(ttl_gap(ours, theirs));
        } else {
            found.push(whole(Aspect::Section(section)));
        }
    }
    if gap > slack {
        found.push(whole(Aspect::Ttl));
    }
    found
}

fn readable(said: &Option<Result<Reply, String>>) -> Option<&Reply> {
    said.as_ref()?.as_ref().ok()
}

fn header_and_opt(ours: &Reply, theirs: &Reply) -> Vec<Aspect> {
    let differs = |(name, bits): (&'static str, u16)| {
        ((ours.flags ^ theirs.flags) & bits != 0).then_some(Aspect::Flag(name))
    };
    let mut aspects: Vec<_> = FLAGS.into_iter().filter_map(differs).collect();
    if ours.question != theirs.question {
        aspects.push(Aspect::Question);
    }
    match (&ours.opt, &theirs.opt) {
        (Some(our_opt), Some(their_opt)) => {
            if our_opt.max_payload() != their_opt.max_payload() {
                aspects.push(Aspect::OptSize);
            }
            if (our_opt.version(), our_opt.flags()) != (their_opt.version(), their_opt.flags()) {
                aspects.push(Aspect::OptFlags);
            }
            if ours.options() != theirs.options() {
                aspects.push(Aspect::Options);
            }
        }
        (None, None) => {}
        _ => aspects.push(Aspect::Opt),
    }
    aspects
}
