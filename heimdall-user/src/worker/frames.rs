//! Queries in frames, answered in place.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::{QueueCounters, rings::Rings};
use crate::{
    answer::{Client, Transport, Verdict},
    dns::{Query, reply::Reply},
    front::Messages,
    packet::Layout,
    path_mtu::PathMtus,
    xdp::xsk::Frame,
};

/// The messages of one queue.
pub(super) struct Frames {
    pub(super) rings: Rings,
    /// The interface's MTU in octets: no reply is larger.
    pub(super) mtu: Arc<AtomicU32>,
    /// What of it fits on the paths to some clients.
    pub(super) paths: Arc<PathMtus>,
    pub(super) counters: Arc<QueueCounters>,
    /// The position of the queue among those of its worker.
    pub(super) slot: usize,
    /// Frames whose queries wait for the forwarder.
    pub(super) parked: usize,
}

/// A query in its frame.
#[derive(Debug)]
pub(super) struct FrameMessage {
    pub(super) frame: Frame,
    pub(super) layout: Layout,
}

/// A query that waits for the forwarder. It stays in its frame.
#[derive(Debug)]
pub(super) struct ParkedFrame {
    pub(super) message: FrameMessage,
    /// The position that its queue had. Another one may be there when the outcome arrives, to whose rings the frame does
    /// not belong.
    pub(super) slot: usize,
}

impl Frames {
    /// Frames that are nowhere: 0, or there is a bug.
    pub(super) fn missing(&self) -> usize {
        self.rings.missing(self.parked)
    }

    /// Updates the gauges of frames and the kernel's counters.
    pub(super) fn account(&self) {
        self.rings.account(self.parked);
    }
}

impl Messages for Frames {
    type Message = FrameMessage;
    type Parked = ParkedFrame;

    fn received_len(&self, message: &FrameMessage) -> usize {
        message.layout.dns_len()
    }

    #[inline(always)]
    fn edit(
        &mut self,
        message: &mut FrameMessage,
        write: impl FnOnce(&mut [u8], Client) -> Verdict,
    ) -> Verdict {
        let mut verdict = Verdict::Drop;
        let mtu = self.mtu.load(Ordering::Relaxed) as usize;
        let FrameMessage { frame, layout } = message;
        self.rings.edit(frame, |octets| {
            let len;
            let mtu = self.paths.limit(|| layout.source(octets), mtu);
            (verdict, len) = edit_frame(layout, octets, mtu, write);
            len
        });
        verdict
    }

    #[inline(always)]
    fn reply(&mut self, message: FrameMessage, _: Option<&Query>) {
        self.rings.send(message.frame);
    }

    #[inline(always)]
    fn discard(&mut self, message: FrameMessage) {
        self.rings.free(message.frame);
    }

    fn park(&mut self, message: FrameMessage, _: &Query) -> ParkedFrame {
        self.parked += 1;
        ParkedFrame {
            message,
            slot: self.slot,
        }
    }

    fn resume(&mut self, parked: ParkedFrame) -> FrameMessage {
        self.parked -= 1;
        parked.message
    }

    fn count_overflow(&self) {
        self.counters.overflow.add(1);
    }
}

/// [`Messages::edit`] for a query in a frame, of which `layout` was read. With the verdict, returns
/// the length of the frame if it holds a reply now.
#[inline(always)]
pub fn edit_frame(
    layout: &Layout,
    octets: &mut [u8],
    mtu: usize,
    write: impl FnOnce(&mut [u8], Client) -> Verdict,
) -> (Verdict, Option<usize>) {
    let Some(packet) = layout.open(octets, mtu) else {
        return (Verdict::Drop, None);
    };
    let source_port = packet.source_port();
    let client = Client::new(packet.source(), Transport::Udp { source_port });
    let verdict = write(packet.buf, client);
    let Verdict::Reply {
        reply: Reply { len, sum },
        ..
    } = verdict
    else {
        return (verdict, None);
    };
    match packet.into_reply(len, sum) {
        Some(len) => (verdict, Some(len)),
        None => (Verdict::Drop, None),
    }
}
