//! The snapshot of the forwarder's caches: taken up at the start, written from time to time and
//! at the end.

use std::{
    io,
    path::Path,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tracing::{info, warn};

use crate::{
    config::SnapshotConfig,
    exit::OnExit,
    forward::Prepared,
    maintenance::Caches,
    snapshot::{Snapshot, SnapshotError, Writer},
};

/// Gives the forwarder what an earlier process left in the file. Whatever is wrong with that, the
/// start goes on without it. Whether the file is ours to write.
pub(super) fn restore(config: &SnapshotConfig, forwarder: &mut Prepared) -> bool {
    let begin = Instant::now();
    let path = config.path.display();
    match Snapshot::open(&config.path, unix_now()) {
        Ok(Some(snapshot)) => {
            let snapshot = snapshot.contents();
            let away = snapshot.away();
            forwarder.restore(snapshot.records(), away);
            info!(
                "snapshot: {} answers from {path}, {away} s old, taken up in {} ms",
                snapshot.count(),
                begin.elapsed().as_millis()
            );
        }
        Ok(None) => info!("snapshot: {path} is not there yet; starting cold"),
        // Whatever it is (a device, somebody else's file), a snapshot renamed over it would destroy it.
        Err(error @ (SnapshotError::Foreign { .. } | SnapshotError::Unreadable { .. })) => {
            warn!(
                "snapshot: {error}; starting cold, and leaving that file alone: remove it, or give \
                 another path"
            );
            return false;
        }
        Err(error) => warn!("snapshot: {error}; starting cold"),
    }
    true
}

pub(super) fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The thread that writes snapshots.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(
        config: &SnapshotConfig,
        caches: Caches,
        on_exit: OnExit,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let SnapshotConfig { path, interval } = config.clone();
        let thread = thread::Builder::new()
            .name("snapshot".to_owned())
            .spawn(move || {
                let _on_exit = on_exit;
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    write(&path, &caches);
                }
                write(&path, &caches);
            })?;
        Ok(Self { stop, thread })
    }

    /// Writes the last snapshot. The forwarder still runs.
    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            warn!("the snapshot's thread had panicked");
        }
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
        Err(error) => warn!("no snapshot: {error}"),
    }
}
