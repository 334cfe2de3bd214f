//! A worker whose frames are in memory instead of rings: what benches, tests and fuzz targets run
//! the production engine with. Other crates include this file.
#![allow(clippy::unwrap_used)]

use std::{ops::Range, sync::Arc};

use heimdall_user::{
    answer::{Client, Core, Verdict},
    clock::Clock,
    dns::Query,
    forward::{Handle, Mailbox},
    front::{BATCH, Batch, Engine, Messages, Resources},
    maintenance::Maintenance,
    packet::{Layout, SourceFilter},
    tap::Tap,
    tier::Nominator,
    worker::edit_frame,
};

/// Octets of a frame behind XDP's headroom.
pub const FRAME: usize = 1792;

/// Largest IP packet.
const MTU: usize = 1500;

/// A frame, and the octets of the packet in it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The packet, and unused octets.
    pub octets: [u8; FRAME],
    /// Octets of the packet.
    pub len: usize,
}

/// Frames, and what became of the messages in them.
#[derive(Debug)]
pub struct Frames {
    /// The frames of a batch.
    pub frames: Vec<Frame>,
    /// The indices of frames with replies.
    pub replied: Vec<usize>,
    /// Those of frames without.
    pub discarded: Vec<usize>,
}

/// A query in a frame.
#[derive(Debug)]
pub struct Message {
    index: usize,
    layout: Layout,
}

impl Messages for Frames {
    type Message = Message;
    type Parked = Message;

    fn received_len(&self, message: &Message) -> usize {
        message.layout.dns_len()
    }

    #[inline(always)]
    fn edit(
        &mut self,
        message: &mut Message,
        write: impl FnOnce(&mut [u8], Client) -> Verdict,
    ) -> Verdict {
        let Some(frame) = self.frames.get_mut(message.index) else {
            return Verdict::Drop;
        };
        let (verdict, len) = edit_frame(&message.layout, &mut frame.octets, MTU, write);
        if let Some(len) = len {
            frame.len = len;
        }
        verdict
    }

    #[inline(always)]
    fn reply(&mut self, message: Message, _: Option<&Query>) {
        self.replied.push(message.index);
    }

    #[inline(always)]
    fn discard(&mut self, message: Message) {
        self.discarded.push(message.index);
    }

    fn park(&mut self, message: Message, _: &Query) -> Message {
        message
    }

    fn resume(&mut self, parked: Message) -> Message {
        parked
    }

    fn count_overflow(&self) {}
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    engine: Engine<Message>,
    batch: Batch<Message>,
    sources: SourceFilter,
    verify_checksums: bool,
    /// Its frames.
    pub memory: Frames,
}

impl Worker {
    /// A worker with `frames` frames, and `mailbox` for the outcomes of `forwarder`, with which it
    /// has the number 0. It is at 10.0.0.1.
    pub fn new(
        core: Core,
        forwarder: Handle,
        mailbox: Arc<Mailbox>,
        frames: usize,
        verify_checksums: bool,
        tap: Tap,
    ) -> Self {
        let frame = Frame {
            octets: [0; FRAME],
            len: 0,
        };
        Self {
            engine: Engine::new(Resources {
                core,
                maintenance: Maintenance::new(|| {}),
                forwarder,
                mailbox,
                front: 0,
                clock: Clock::start(),
                latency: Arc::default(),
                tap,
            }),
            batch: Batch::new(),
            sources: SourceFilter::new([[10, 0, 0, 1].into()]),
            verify_checksums,
            memory: Frames {
                frames: vec![frame; frames],
                replied: Vec::with_capacity(frames.max(BATCH)),
                discarded: Vec::with_capacity(frames.max(BATCH)),
            },
        }
    }

    /// One without a forwarder, whose misses get SERVFAIL.
    pub fn disconnected(core: Core, frames: usize, verify_checksums: bool, tap: Tap) -> Self {
        let mailbox = Arc::new(Mailbox::new(frames).unwrap());
        Self::new(
            core,
            Handle::disconnected(),
            mailbox,
            frames,
            verify_checksums,
            tap,
        )
    }

    /// Has popular answers nominated for the hot tier. To be called before the first round.
    pub fn nominate_to(&mut self, nominator: Nominator) {
        self.engine.nominate_to(nominator);
    }

    /// Begins a round of the engine.
    pub fn begin(&mut self) {
        self.engine.begin();
        self.memory.replied.clear();
        self.memory.discarded.clear();
    }

    /// Answers the packets in these frames.
    #[inline]
    pub fn answer(&mut self, frames: Range<usize>) {
        let batch = self.memory.frames.iter().enumerate().take(frames.end);
        for (index, frame) in batch.skip(frames.start) {
            let packet = frame.octets.get(..frame.len).unwrap();
            let Ok(layout) = Layout::read(packet, &self.sources, self.verify_checksums) else {
                self.memory.discarded.push(index);
                continue;
            };
            let query = self.engine.read(layout.query(packet));
            self.batch.push(Message { index, layout }, query);
        }
        self.engine.answer(&mut self.batch, &mut self.memory);
        self.engine.sent();
    }

    /// Ends a round, after outcomes have been completed. Returns how many there were.
    pub fn complete(&mut self) -> usize {
        let completed = self.engine.complete(&mut self.memory);
        self.engine.end();
        self.engine.sent();
        completed
    }

    /// Queries that wait for the forwarder.
    pub fn waiting(&self) -> usize {
        self.engine.waiting()
    }
}
