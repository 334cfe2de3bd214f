//! The snapshot of the forwarder's caches: restored at the start, written from time to time and at the
//! end.

use std::{
    io,
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tracing::{info, warn};

use crate::{
    config::SnapshotConfig,
    exit::{OnExit, OwnedThread},
    forward::ForwarderBuilder,
    maintenance::Caches,
    snapshot::{Snapshot, SnapshotError, Writer},
};

/// Restores the forwarder's caches from the file. An error is logged, and the start continues. Returns
/// whether a snapshot may be written to that path.
pub(super) fn restore(config: &SnapshotConfig, forwarder: &mut ForwarderBuilder) -> bool {
    let begin = Instant::now();
    let path = config.path.display();
    match Snapshot::open(&config.path, unix_now()) {
        Ok(Some(snapshot)) => {
            let snapshot = snapshot.contents();
            let away = snapshot.away();
            forwarder.restore(snapshot.records(), away);
            info!(
                "snapshot: {} answers from {path}, {away} s old, restored in {} ms",
                snapshot.count(),
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

pub(super) fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The thread that writes snapshots: from time to time, and a last one when this is dropped, which
/// has to be before the forwarder ends.
#[derive(Debug)]
pub(super) struct SnapshotWriter {
    _thread: OwnedThread,
}

impl SnapshotWriter {
    pub(super) fn start(
        config: &SnapshotConfig,
        caches: Caches,
        on_exit: OnExit,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let SnapshotConfig { path, interval } = config.clone();
        let stop = move || {
            // The receiver is gone if the thread has ended already.
            let _ = stop.send(());
        };
        let thread = OwnedThread::start("snapshot", on_exit, stop, move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                write(&path, &caches);
            }
            write(&path, &caches);
        })?;
        Ok(Self { _thread: thread })
    }
}

fn write(path: &Path, caches: &Caches) {
    let begin = Instant::now();
    let mut answers = 0;
    let written = Writer::create(path, unix_now()).and_then(|mut writer| {
        caches.copy_forwarder(|records, count| {
            answers += count;
            writer.append(records, count)
        })?;
        writer.finish()
    });
    match written {
        Ok(octets) => info!(
            "snapshot: {answers} answers, {octets} octets to {} in {} ms",
            path.display(),
            begin.elapsed().as_millis()
        ),
        Err(error) => warn!("cannot write the snapshot: {error}"),
    }
}
