//! The disks of one guest, read by a worker that is started when somebody looks.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use export::BlockExport;
use guestworker::{GuestVolume, Refusal, Worker, WorkerOptions};
use parking_lot::Mutex;

use super::volumes::Volumes;

/// Disks that belong together, and what lies on them.
pub(super) struct Guest {
    disks: Vec<Arc<dyn BlockExport>>,
    options: WorkerOptions,
    seen: Mutex<Option<Arc<Seen>>>,
}

/// What was seen at some moment.
struct Seen {
    at: Instant,
    volumes: Result<Vec<Box<dyn GuestVolume>>, Refusal>,
    /// Opened, by disk.
    opened: Vec<OnceLock<Arc<Volumes>>>,
}

impl Guest {
    pub(super) fn new(disks: Vec<Arc<dyn BlockExport>>, options: WorkerOptions) -> Self {
        Self {
            disks,
            options,
            seen: Mutex::default(),
        }
    }

    /// What lies on the disk at `place` among them.
    pub(super) fn volumes(&self, place: usize) -> Arc<Volumes> {
        let seen = self.seen();
        let open = || Arc::new(Volumes::open(&seen.volumes, place));
        match seen.opened.get(place) {
            Some(opened) => Arc::clone(opened.get_or_init(open)),
            None => open(),
        }
    }

    /// On disks that are written meanwhile it is looked for anew now and then, as what was replayed and remembered of
    /// them grows old.
    fn seen(&self) -> Arc<Seen> {
        let mut seen = self.seen.lock();
        let are_written = self.disks.iter().any(|disk| !disk.properties().read_only);
        let young = seen.as_ref().filter(|seen| {
            seen.at.elapsed() < FRESH || !are_written && !seen.may_be_otherwise_soon()
        });
        if let Some(young) = young {
            return Arc::clone(young);
        }
        // The worker lives as long as its volumes do.
        let worker = Worker::start(self.disks.clone(), self.options.clone());
        let found = Arc::new(Seen {
            volumes: worker.and_then(|worker| worker.volumes()),
            opened: self.disks.iter().map(|_| OnceLock::new()).collect(),
            at: Instant::now(),
        });
        *seen = Some(Arc::clone(&found));
        found
    }
}

impl Seen {
    fn may_be_otherwise_soon(&self) -> bool {
        let of_the_way = self.volumes.as_ref().err();
        of_the_way.is_some_and(Refusal::is_of_the_way)
            || self
                .opened
                .iter()
                .filter_map(OnceLock::get)
                .any(|volumes| volumes.may_change())
    }
}

/// For how long what lies on a disk is believed that others write, or that could not be reached.
const FRESH: Duration = Duration::from_secs(2);
