//! Nobody who reads the catalog waits for the storage of somebody who changes it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use repo::clock::SystemClock;
use repo::disk::{Access, Caching, DirectoryItem, Disk, DiskError, DiskFile, SimulatedDisk, Space};
use repo::{CreateOptions, ImageBase, PointName, Repository};

use super::support;

/// A disk on which every call that makes a file of a restore point stands still until it is told to go on.
#[derive(Debug)]
struct Held {
    disk: SimulatedDisk,
    gate: Mutex<Option<Gate>>,
}

#[derive(Debug)]
struct Gate {
    arrived: SyncSender<()>,
    go_on: Receiver<()>,
}

impl Held {
    /// Holds the next such call: tells of its arrival, and waits for a word.
    fn hold(&self) -> (Receiver<()>, SyncSender<()>) {
        let (arrived, arrival) = sync_channel(1);
        let (word, go_on) = sync_channel(1);
        *self.gate.lock() = Some(Gate { arrived, go_on });
        (arrival, word)
    }
}

impl Disk for Held {
    fn publish(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        if path.starts_with("points")
            && let Some(gate) = self.gate.lock().take()
        {
            gate.arrived.send(()).unwrap();
            gate.go_on.recv_timeout(LONG).unwrap();
        }
        self.disk.publish(path, content)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.create_directory(path)
    }

    fn create(&self, path: &Path, caching: Caching) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.disk.create(path, caching)
    }

    fn open(
        &self,
        path: &Path,
        access: Access,
        caching: Caching,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.disk.open(path, access, caching)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        self.disk.replace(path, content)
    }

    fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, DiskError> {
        self.disk.read(path, limit_bytes)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirectoryItem>, DiskError> {
        self.disk.list(path)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>, DiskError> {
        self.disk.lock(path)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.disk.space()
    }

    fn local_root(&self) -> Option<&Path> {
        self.disk.local_root()
    }
}

#[test]
fn readers_do_not_wait_for_a_commit_or_an_expiry() {
    let disk = Arc::new(Held {
        disk: SimulatedDisk::new(),
        gate: Mutex::new(None),
    });
    let root = Path::new("held");
    Repository::create_on(&*disk, root, &SystemClock, &CreateOptions::default()).unwrap();
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as _;
    let clock = Arc::new(SystemClock);
    let repository = Repository::open_on(shared, root, clock, &support::options()).unwrap();
    let back_up = {
        let repository = repository.clone();
        move || {
            let bytes = vec![(0, support::noise(1, 65_536))];
            support::back_up(&repository, 65_536, ImageBase::Nothing, &bytes)
        }
    };
    let first = back_up().name.clone();

    let (arrival, word) = disk.hold();
    let committing = std::thread::spawn(back_up);
    arrival.recv_timeout(LONG).unwrap();
    assert_eq!(names_within(&repository), std::slice::from_ref(&first));
    word.send(()).unwrap();
    let second = committing.join().unwrap().name.clone();
    assert_eq!(names_within(&repository), [first.clone(), second.clone()]);

    let (arrival, word) = disk.hold();
    let expiring = {
        let (repository, first) = (repository.clone(), first.clone());
        std::thread::spawn(move || repository.expire(&first))
    };
    arrival.recv_timeout(LONG).unwrap();
    assert_eq!(names_within(&repository), [first, second.clone()]);
    word.send(()).unwrap();
    expiring.join().unwrap().unwrap();
    assert_eq!(names_within(&repository), [second]);
}

/// The names of all points, read by a thread that must not stand still.
fn names_within(repository: &Repository) -> Vec<PointName> {
    let (answer, names) = sync_channel(1);
    let repository = repository.clone();
    std::thread::spawn(move || {
        let points = repository.points(Some(&support::workload()));
        let names = points.iter().map(|point| point.name.clone()).collect();
        answer.send(names)
    });
    names
        .recv_timeout(LONG)
        .expect("a reader waits for the storage")
}

/// Longer than anything here takes on the busiest machine.
const LONG: Duration = Duration::from_secs(20);
