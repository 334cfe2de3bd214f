//! Where two replies differ.

use std::fmt;

use super::{
    normal::{Reply, same_records, ttl_gap},
    wire::{AD, CD, QR, Query, RD, TC, Z},
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
    /// A bit of the header's flags word.
    Flag(u16),
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

/// AA in the header's flags word.
pub(super) const AA: u16 = 0x0400;
/// RA.
pub(super) const RA: u16 = 0x0080;

/// Opcode, as one bit pattern.
pub(super) const OPCODE: u16 = 0x7800;

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silence => "silence",
            Self::Unreadable => "unreadable",
            Self::Rcode => "rcode",
            Self::Flag(QR) => "QR",
            Self::Flag(OPCODE) => "opcode",
            Self::Flag(AA) => "AA",
            Self::Flag(TC) => "TC",
            Self::Flag(RD) => "RD",
            Self::Flag(RA) => "RA",
            Self::Flag(Z) => "Z",
            Self::Flag(AD) => "AD",
            Self::Flag(_) => "CD",
            Self::Question => "question",
            Self::Section(0) => "answer",
            Self::Section(1) => "authority",
            Self::Section(_) => "additional",
            Self::Ttl => "TTL",
            Self::Opt => "OPT",
            Self::OptSize => "OPT size",
            Self::OptFlags => "OPT flags",
            Self::Options => "OPT options",
        })
    }
}

/// What one server said to a query: nothing, something unreadable, or a reply, over UDP and, if
/// any server truncated its UDP reply, over TCP.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) udp: Option<Result<Reply, String>>,
    pub(super) tcp: Option<Result<Reply, String>>,
}

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
    let (our_reply, their_reply) = (read(&ours.udp), read(&theirs.udp));
    let whole = |said: &'a Said| said.tcp.as_ref().and_then(|reply| reply.as_ref().ok());
    let difference = |aspect| Difference {
        query,
        peer,
        aspect,
        ours: our_reply,
        theirs: their_reply,
    };
    if ours.udp.is_none() != theirs.udp.is_none() {
        return vec![difference(Aspect::Silence)];
    }
    let (Some(our_reply), Some(their_reply)) = (our_reply, their_reply) else {
        let silent = ours.udp.is_none();
        return if silent {
            Vec::new()
        } else {
            vec![difference(Aspect::Unreadable)]
        };
    };
    if our_reply.rcode != their_reply.rcode {
        // All the rest follows from this.
        return vec![difference(Aspect::Rcode)];
    }
    let mut found: Vec<_> = header_and_opt(our_reply, their_reply)
        .into_iter()
        .map(difference)
        .collect();
    // A truncated reply need not hold anything; what counts is what TCP brings then.
    let (our_records, their_records) = match (whole(ours), whole(theirs)) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        _ => (our_reply, their_reply),
    };
    let mut gap = 0;
    for (section, (ours, theirs)) in our_records
        .sections
        .iter()
        .zip(&their_records.sections)
        .enumerate()
    {
        if same_records(ours, theirs) {
            gap = gap.max(ttl_gap(ours, theirs));
        } else {
            found.push(Difference {
                ours: Some(our_records),
                theirs: Some(their_records),
                ..difference(Aspect::Section(section))
            });
        }
    }
    if gap > slack {
        found.push(Difference {
            ours: Some(our_records),
            theirs: Some(their_records),
            ..difference(Aspect::Ttl)
        });
    }
    found
}

fn read(said: &Option<Result<Reply, String>>) -> Option<&Reply> {
    said.as_ref().and_then(|reply| reply.as_ref().ok())
}

fn header_and_opt(ours: &Reply, theirs: &Reply) -> Vec<Aspect> {
    let mut aspects = Vec::new();
    for flag in [QR, OPCODE, AA, TC, RD, RA, Z, AD, CD] {
        if (ours.flags ^ theirs.flags) & flag != 0 {
            aspects.push(Aspect::Flag(flag));
        }
    }
    if ours.question != theirs.question {
        aspects.push(Aspect::Question);
    }
    match (&ours.opt, &theirs.opt) {
        (Some(ours), Some(theirs)) => {
            if ours.size != theirs.size {
                aspects.push(Aspect::OptSize);
            }
            if (ours.version, ours.flags) != (theirs.version, theirs.flags) {
                aspects.push(Aspect::OptFlags);
            }
            if ours.options != theirs.options {
                aspects.push(Aspect::Options);
            }
        }
        (None, None) => {}
        _ => aspects.push(Aspect::Opt),
    }
    aspects
}
