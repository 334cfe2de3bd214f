//! The observer: the thread that takes the samples of all others.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{
    dnstap::Encoder,
    file_output::FileOutput,
    options::{DnstapOptions, DnstapTarget, TapOptions},
    output::{Output, OutputStatus},
    popular::Popular,
    query_log,
    rate::{DNSTAP, LOG, POPULAR},
    ring::SAMPLES,
    sample::Sample,
    socket_output::SocketOutput,
    taps::Taps,
    wall_clock::WallClock,
};
use crate::{
    exit::{OnExit, OwnedThread},
    heartbeat,
};

/// The time between two looks at the rings: it is halved when one was nearly full, and doubled when all were nearly
/// empty.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(64);

/// The longest while records wait for a reader: a socket's buffer has less space than comes in [`LONGEST`].
const BLOCKED: Duration = Duration::from_millis(4);

/// What is observed: the observer writes it, the statistics read it, and fronts get their samplers of it.
#[derive(Debug)]
pub(crate) struct Observations {
    taps: Taps,
    popular: Mutex<Popular>,
    dnstap: Arc<OutputStatus>,
    query_log: Arc<OutputStatus>,
}

impl Observations {
    pub(crate) fn new(options: &TapOptions) -> Self {
        let rates = options.rates();
        Self {
            taps: Taps::new(rates),
            popular: Mutex::new(Popular::new(rates.popular, Instant::now())),
            dnstap: Arc::default(),
            query_log: Arc::default(),
        }
    }

    /// The samplers.
    pub(crate) fn taps(&self) -> &Taps {
        &self.taps
    }

    /// Counts so many queries that no front saw, for a question in wire form and lower case, among the popular ones.
    pub(crate) fn add_unsampled(&self, question: &[u8], queries: u64) {
        let now = Instant::now();
        self.popular().add_unsampled(question, queries, now);
    }

    /// Adds `popular`, `dnstap` and `query_log` to the statistics.
    pub(crate) fn insert_into(&self, fields: &mut Map<String, Value>) {
        let dropped = |consumer| self.taps.dropped(consumer);
        let popular = self.popular().json(dropped(POPULAR), Instant::now());
        fields.insert("popular".to_owned(), popular);
        fields.insert("dnstap".to_owned(), self.dnstap.json(dropped(DNSTAP)));
        fields.insert("query_log".to_owned(), self.query_log.json(dropped(LOG)));
    }

    /// The outputs by name: records written, and dropped.
    pub(crate) fn outputs(&self) -> [(&'static str, u64, u64); 2] {
        [
            ("dnstap", &self.dnstap, DNSTAP),
            ("query_log", &self.query_log, LOG),
        ]
        .map(|(name, output, consumer)| {
            let (written, dropped) = output.counts();
            (name, written, dropped + self.taps.dropped(consumer))
        })
    }

    fn popular(&self) -> MutexGuard<'_, Popular> {
        self.popular.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running observer. Dropping it takes the samples that are left, writes what can be written within half a second,
/// and ends the thread.
#[derive(Debug)]
pub(crate) struct Observer {
    _thread: OwnedThread,
}

impl Observer {
    /// Starts the thread.
    ///
    /// # Errors
    /// It cannot be started. What cannot be opened is tried again.
    pub(crate) fn start(
        options: &TapOptions,
        observations: Arc<Observations>,
        on_exit: OnExit,
    ) -> io::Result<Self> {
        let dnstap = options.dnstap.as_ref().map(|options| {
            let output = dnstap_output(options, Arc::clone(&observations.dnstap));
            (Encoder::new(options), output)
        });
        let log = options.query_log.as_ref().map(|options| {
            let (path, status) = (options.file.clone(), Arc::clone(&observations.query_log));
            FileOutput::new("query log", path, false, status)
        });
        let mut outputs = Outputs { dnstap, log };
        let (stop, stopped) = channel();
        let stop = move || {
            // The receiver is gone if the thread has ended already.
            let _ = stop.send(());
        };
        let thread = OwnedThread::start("observer", on_exit, stop, move || {
            let mut pause = LONGEST;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                heartbeat::beat();
                let now = Instant::now();
                // First room for what comes.
                if outputs.are_blocked() {
                    outputs.for_each(|output| output.tick(now));
                }
                let most = observe(&observations, &mut outputs, now);
                outputs.for_each(|output| output.tick(now));
                pause = next_pause(pause, most, outputs.are_blocked());
            }
            observe(&observations, &mut outputs, Instant::now());
            outputs.for_each(|output| output.close());
        })?;
        Ok(Self { _thread: thread })
    }
}

/// The pause after one, when so many samples waited in the fullest ring, and whether records wait for a reader.
fn next_pause(pause: Duration, most: usize, blocked: bool) -> Duration {
    let longest = if blocked { BLOCKED } else { LONGEST };
    let next = if most > SAMPLES / 4 {
        (pause / 2).max(SHORTEST)
    } else if most < SAMPLES / 16 {
        pause * 2
    } else {
        pause
    };
    next.min(longest)
}

fn dnstap_output(options: &DnstapOptions, status: Arc<OutputStatus>) -> Box<dyn Output> {
    match options.target.clone() {
        DnstapTarget::Socket(path) => Box::new(SocketOutput::new("dnstap", path, status)),
        DnstapTarget::File(path) => Box::new(FileOutput::new("dnstap", Some(path), true, status)),
    }
}

struct Outputs {
    dnstap: Option<(Encoder, Box<dyn Output>)>,
    log: Option<FileOutput>,
}

impl Outputs {
    fn for_each(&mut self, mut act: impl FnMut(&mut dyn Output)) {
        if let Some((_, output)) = &mut self.dnstap {
            act(output.as_mut());
        }
        if let Some(output) = &mut self.log {
            act(output);
        }
    }

    /// Whether records wait for one of the readers.
    fn are_blocked(&mut self) -> bool {
        let mut blocked = false;
        self.for_each(|output| blocked |= output.is_blocked());
        blocked
    }

    fn push(&mut self, sample: &Sample, clock: &WallClock) {
        if sample.consumers & DNSTAP != 0
            && let Some((encoder, output)) = &mut self.dnstap
        {
            encoder.encode(sample, clock, |frame| output.push(frame));
        }
        if sample.consumers & LOG != 0
            && let Some(output) = &mut self.log
        {
            output.push(query_log::line(sample, clock).as_bytes());
        }
    }
}

/// Takes the samples that wait. Returns the most that waited in one ring.
fn observe(observations: &Observations, outputs: &mut Outputs, now: Instant) -> usize {
    let clock = WallClock::read();
    observations.taps.drain(|sample| {
        if sample.consumers & POPULAR != 0 {
            // Not held while outputs encode: the statistics wait for it.
            observations.popular().add(sample, now);
        }
        outputs.push(sample, &clock);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_load() {
        let ms = Duration::from_millis;
        for (pause, most, blocked, next) in [
            (64, 0, false, 64),
            (64, 40, false, 64),
            (64, 200, false, 32),
            (1, 512, false, 1),
            (1, 0, false, 2),
            (64, 0, true, 4),
            (2, 200, true, 1),
        ] {
            let after = next_pause(ms(pause), most, blocked);
            assert_eq!(after, ms(next), "{pause}, {most}, {blocked}");
        }
    }
}
