//! The disks of one guest, read by a worker that is started when somebody looks.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use export::BlockExport;
use guestworker::{Assembly, GuestVolume, Refusal, Worker, WorkerOptions};
use parking_lot::Mutex;

use super::ids::ASSEMBLED;
use super::volumes::{Slots, Volumes};

/// Disks that belong together, and what lies on them.
pub(super) struct Guest {
    disks: Vec<Arc<dyn BlockExport>>,
    options: WorkerOptions,
    seen: Mutex<Option<Arc<Seen>>>,
    /// By folder: the disks, then what is put together.
    slots: Vec<Mutex<Slots>>,
}

/// What was seen at some moment.
pub(super) struct Seen {
    at: Instant,
    pub(super) volumes: Result<Vec<Box<dyn GuestVolume>>, Refusal>,
    pub(super) assembly: Result<Assembly, Refusal>,
    /// Opened, by folder.
    opened: Vec<OnceLock<Arc<Volumes>>>,
}

impl Guest {
    pub(super) fn new(disks: Vec<Arc<dyn BlockExport>>, options: WorkerOptions) -> Self {
        Self {
            slots: (0..=disks.len()).map(|_| Mutex::default()).collect(),
            disks,
            options,
            seen: Mutex::default(),
        }
    }

    /// What the folder of a disk has, or that of what is put together.
    pub(super) fn volumes(&self, folder: usize) -> Arc<Volumes> {
        let seen = self.seen();
        let place = match folder {
            ASSEMBLED => self.disks.len(),
            disk => disk,
        };
        let (Some(opened), Some(slots)) = (seen.opened.get(place), self.slots.get(place)) else {
            return Arc::default();
        };
        let opened = opened.get_or_init(|| {
            let slots = &mut slots.lock();
            Arc::new(match folder {
                ASSEMBLED => Volumes::assembled(&seen, slots),
                disk => Volumes::on_disk(&seen, disk, slots),
            })
        });
        Arc::clone(opened)
    }

    /// Whether anything is put together, or cannot be. No filesystem is opened for that.
    pub(super) fn has_assembled(&self) -> bool {
        let seen = self.seen();
        match (&seen.assembly, &seen.volumes) {
            (Ok(assembly), _) => !assembly.volumes.is_empty(),
            (Err(_), found) => found.is_ok(),
        }
    }

    /// On disks that are written meanwhile it is looked for anew now and then, as what was replayed and remembered of
    /// them grows old.
    fn seen(&self) -> Arc<Seen> {
        let mut seen = self.seen.lock();
        let are_written = self.disks.iter().any(|disk| !disk.properties().read_only);
        let appliance = self.options.appliance.as_ref();
        let fresh = match appliance.is_some_and(|appliance| appliance.is_used()) {
            true => FRESH_IN_MACHINE,
            false => FRESH,
        };
        let young = seen.as_ref().filter(|seen| {
            seen.at.elapsed() < fresh || !are_written && !seen.may_be_otherwise_soon()
        });
        if let Some(young) = young {
            return Arc::clone(young);
        }
        let found = Arc::new(Seen::look(&self.disks, &self.options));
        *seen = Some(Arc::clone(&found));
        found
    }
}

impl Seen {
    /// Starts a worker, which lives as long as the volumes do.
    pub(super) fn look(disks: &[Arc<dyn BlockExport>], options: &WorkerOptions) -> Self {
        let (volumes, assembly) = match Worker::start(disks.to_vec(), options.clone()) {
            Ok(worker) => (worker.volumes(), worker.assemble()),
            Err(refusal) => (Err(refusal.clone()), Err(refusal)),
        };
        Self::of(volumes, assembly, disks.len())
    }

    pub(super) fn of(
        volumes: Result<Vec<Box<dyn GuestVolume>>, Refusal>,
        assembly: Result<Assembly, Refusal>,
        disks: usize,
    ) -> Self {
        Self {
            at: Instant::now(),
            volumes,
            assembly,
            opened: (0..=disks).map(|_| OnceLock::new()).collect(),
        }
    }

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
/// The same where a small machine would have to be started for every look.
const FRESH_IN_MACHINE: Duration = Duration::from_secs(30);
