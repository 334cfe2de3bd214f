//! The snapshot of the forwarder's caches: restored at the start, written from time to time and at the
//! end; and the one in a memory file that a successor gets.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tracing::{info, warn};

use crate::{
    config::SnapshotConfig,
    exit::{OnExit, OwnedThread},
    forward::{ForwarderBuilder, Plans},
    heartbeat,
    maintenance::Caches,
    snapshot::{MemoryWriter, Snapshot, SnapshotError, Writer},
};

/// Restores the forwarder's caches from the file. An error is logged, and the start continues. Returns
/// whether a snapshot may be written to that path.
pub(super) fn restore(config: &SnapshotConfig, forwarder: &mut ForwarderBuilder) -> bool {
    let begin = Instant::now();
    let path = config.path.display();
    match Snapshot::open(&config.path, unix_now()) {
        Ok(Some(snapshot)) => {
            let snapshot = snapshot.contents();
            let origin = snapshot.origin();
            if origin.is_some_and(|origin| origin != forwarder.origin()) {
                info!(
                    "snapshot: {path} has the answers of other upstreams or routes; starting with an empty cache"
                );
                return true;
            }
            forwarder.restore(snapshot.records(), snapshot.elapsed());
            info!(
                "snapshot: {} answers from {path}, {} s old, restored in {} ms",
                snapshot.count(),
                snapshot.away(),
                begin.elapsed().as_millis()
            );
        }
        Ok(None) => info!("snapshot: {path} does not exist yet; starting with an empty cache"),
        // It may be a device or another program's file, which a snapshot renamed over it would destroy.
        Err(error @ (SnapshotError::Foreign { .. } | SnapshotError::Unreadable { .. })) => {
            warn!(
                "snapshot: {error}; starting with an empty cache, and not overwriting that file: remove it, or give \
                 another path"
            );
            return false;
        }
        Err(error) => warn!("snapshot: {error}; starting with an empty cache"),
    }
    true
}

/// Restores the forwarder's caches from a predecessor's snapshot. Without it the start continues with empty caches, and the
/// log says why.
pub(super) fn inherit(cache: OwnedFd, forwarder: &mut ForwarderBuilder) {
    let begin = Instant::now();
    match Snapshot::from_memory(cache, unix_now()) {
        Ok(snapshot) if snapshot.contents().origin() != Some(forwarder.origin()) => info!(
            "take-over: the predecessor has other upstreams or routes; starting with an empty cache"
        ),
        Ok(snapshot) => {
            let contents = snapshot.contents();
            forwarder.restore(contents.records(), contents.elapsed());
            info!(
                "take-over: {} answers of the predecessor's cache restored in {} ms",
                contents.count(),
                begin.elapsed().as_millis()
            );
        }
        Err(error) => warn!("take-over: {error}; starting with an empty cache"),
    }
}

/// A snapshot of the forwarder's caches for a successor. `None`: a reload has changed upstreams or routes meanwhile, so some
/// answers may be of others.
///
/// # Errors
/// There is no memory for it.
pub(super) fn offer(caches: &Caches, plans: &Plans) -> io::Result<Option<OwnedFd>> {
    let change = plans.changes();
    let mut writer = MemoryWriter::create(unix_now(), plans.current().origin())?;
    caches.copy_forwarder(|records, count| writer.append(records, count))?;
    let unchanged = change.is_some() && plans.changes() == change;
    unchanged.then(|| writer.finish()).transpose()
}

pub(super) fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Whether a snapshot may be written to this path: what is there is no other program's file. For a server whose caches a
/// predecessor has filled; otherwise [`restore`] says so.
pub(super) fn may_write(config: &SnapshotConfig) -> bool {
    match Snapshot::open(&config.path, unix_now()) {
        Err(error @ (SnapshotError::Foreign { .. } | SnapshotError::Unreadable { .. })) => {
            warn!("snapshot: {error}; not overwriting that file: remove it, or give another path");
            false
        }
        _ => true,
    }
}

/// The thread that writes snapshots: from time to time, and a last one when this is dropped, which
/// has to be before the forwarder ends.
#[derive(Debug)]
pub(super) struct SnapshotWriter {
    /// No last one is to be written.
    abandoned: Arc<AtomicBool>,
    _thread: OwnedThread,
}

impl SnapshotWriter {
    pub(super) fn start(
        config: &SnapshotConfig,
        caches: Caches,
        plans: Plans,
        on_exit: OnExit,
    ) -> io::Result<Self> {
        let (end, ended) = channel();
        let SnapshotConfig { path, interval } = config.clone();
        let stop = move || {
            // The receiver is gone if the thread has ended already.
            let _ = end.send(());
        };
        let abandoned = Arc::new(AtomicBool::new(false));
        let without = Arc::clone(&abandoned);
        let thread = OwnedThread::start("snapshot", on_exit, stop, move || {
            let mut written = Instant::now();
            loop {
                heartbeat::beat();
                let left = interval.saturating_sub(written.elapsed());
                match ended.recv_timeout(left.min(heartbeat::MAX_SLEEP)) {
                    Err(RecvTimeoutError::Timeout) if written.elapsed() < interval => {}
                    Err(RecvTimeoutError::Timeout) => {
                        write(&path, &caches, &plans);
                        written = Instant::now();
                    }
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                        if !without.load(Ordering::SeqCst) {
                            write(&path, &caches, &plans);
                        }
                        return;
                    }
                }
            }
        })?;
        Ok(Self {
            abandoned,
            _thread: thread,
        })
    }

    /// Ends the thread without a last snapshot: a successor writes them.
    pub(super) fn abandon(self) {
        // Dropping this stops and joins the thread.
        self.abandoned.store(true, Ordering::SeqCst);
    }
}

fn write(path: &Path, caches: &Caches, plans: &Plans) {
    let (begin, change) = (Instant::now(), plans.changes());
    let mut answers = 0;
    let written =
        Writer::create(path, unix_now(), plans.current().origin()).and_then(|mut writer| {
            caches.copy_forwarder(|records, count| {
                answers += count;
                heartbeat::beat();
                writer.append(records, count)
            })?;
            // Else some may be of other upstreams or routes.
            match change.is_some() && plans.changes() == change {
                true => writer.finish().map(Some),
                false => Ok(None),
            }
        });
    match written {
        Ok(None) => {
            info!("snapshot: not written, as a reload changed upstreams or routes meanwhile")
        }
        Ok(Some(octets)) => info!(
            "snapshot: {answers} answers, {octets} octets to {} in {} ms",
            path.display(),
            begin.elapsed().as_millis()
        ),
        Err(error) => warn!("cannot write the snapshot: {error}"),
    }
}
