//! Queries in frames, answered in place.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::{Rings, WorkerCounters};
use crate::{
    answer::{Client, Transport, Verdict},
    dns::{Query, reply::Reply},
    front::Messages,
    packet::Layout,
    xdp::xsk::Frame,
};

/// The messages of a worker.
pub(super) struct Frames {
    pub(super) rings: Rings,
    /// The interface's MTU in octets: no reply is larger.
    pub(super) mtu: Arc<AtomicU32>,
    pub(super) counters: Arc<WorkerCounters>,
}

/// A query in its frame. While it waits for the forwarder, it stays there.
#[derive(Debug)]
pub(super) struct FrameMessage {
    pub(super) frame: Frame,
    pub(super) layout: Layout,
}

impl Messages for Frames {
    type Message = FrameMessage;
    type Parked = FrameMessage;

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

    fn park(&mut self, message: FrameMessage, _: &Query) -> FrameMessage {
        message
    }

    fn resume(&mut self, parked: FrameMessage) -> FrameMessage {
        parked
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
