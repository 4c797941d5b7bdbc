//! Restore points that somebody looks into, kept open for a while.
//!
//! To find what lies on a disk takes milliseconds to seconds, and whoever looks into a folder will look into the next.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use export::Timestamp;
use guestworker::WorkerOptions;
use parking_lot::Mutex;
use repo::{Point, PointName, RepoError, Repository};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{BrowsedDisk, DiskTree};
use crate::exports::{EarlierPoints, PointDisk};

/// Trees of restore points. Few are open at once, and none for long after its last use: the space of a point that is open
/// is not given back.
pub(crate) struct OpenedPoints {
    repository: Repository,
    options: WorkerOptions,
    open: Mutex<Vec<Opened>>,
    /// Each who looks has a thread.
    turns: Arc<Semaphore>,
}

struct Opened {
    point: PointName,
    tree: Arc<DiskTree>,
    last_used: Instant,
}

impl OpenedPoints {
    /// None is open. Inside a runtime, which closes those that are not used.
    pub(crate) fn new(repository: &Repository, options: WorkerOptions) -> Arc<Self> {
        let points = Arc::new(Self {
            repository: repository.clone(),
            options,
            open: Mutex::default(),
            turns: Arc::new(Semaphore::new(READERS)),
        });
        tokio::spawn(close_idle(Arc::downgrade(&points)));
        points
    }

    /// Waits for a turn to look; none if there are too many who wait.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let waiting = Arc::clone(&self.turns).acquire_owned();
        tokio::time::timeout(TURN_LIMIT, waiting).await.ok()?.ok()
    }

    /// What lies on the disks of a point.
    pub(crate) fn tree(&self, point: &Point) -> Result<Arc<DiskTree>, RepoError> {
        let now = Instant::now();
        let mut open = self.open.lock();
        if let Some(opened) = open.iter_mut().find(|opened| opened.point == point.name) {
            opened.last_used = now;
            return Ok(Arc::clone(&opened.tree));
        }
        // Nothing is read yet, so that the others do not wait.
        let tree = Arc::new(self.open_tree(point)?);
        while open.len() >= OPEN_MAX {
            let oldest =
                (0..open.len()).min_by_key(|at| open.get(*at).map(|opened| opened.last_used));
            match oldest {
                Some(oldest) => drop(open.swap_remove(oldest)),
                None => break,
            }
        }
        open.push(Opened {
            point: point.name.clone(),
            tree: Arc::clone(&tree),
            last_used: now,
        });
        Ok(tree)
    }

    fn open_tree(&self, point: &Point) -> Result<DiskTree, RepoError> {
        let mut disks = Vec::new();
        for number in 0..point.images.len() {
            let image = self.repository.image(point, number)?;
            let earlier = EarlierPoints::new(self.repository.clone(), point, number)?;
            let identity = [0; 16];
            disks.push(BrowsedDisk {
                number,
                disk: Arc::new(PointDisk::new(image, earlier, identity)),
            });
        }
        let seconds = point.created.0 / 1_000_000_000;
        let time = Timestamp {
            seconds,
            nanoseconds: 0,
        };
        Ok(DiskTree::new(disks, &[], time, self.options.clone()))
    }

    fn close_those_idle_since(&self, then: Instant) {
        self.open.lock().retain(|opened| opened.last_used > then);
    }
}

async fn close_idle(points: Weak<OpenedPoints>) {
    loop {
        tokio::time::sleep(IDLE_MAX / 10).await;
        let Some(points) = points.upgrade() else {
            return;
        };
        if let Some(then) = Instant::now().checked_sub(IDLE_MAX) {
            points.close_those_idle_since(then);
        }
    }
}

impl fmt::Debug for OpenedPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedPoints")
            .field("open", &self.open.lock().len())
            .finish_non_exhaustive()
    }
}

/// Those who look at once.
const READERS: usize = 16;
/// How long somebody waits for others to end.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// Points that are open at once.
const OPEN_MAX: usize = 8;
/// How long a point stays open that nobody looks into.
const IDLE_MAX: Duration = Duration::from_secs(600);
