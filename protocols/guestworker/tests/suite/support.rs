//! Disks and workers for tests.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, Durability, ExportError, Extent, FileExport, FileId, MemoryDisk,
    Segments, ZeroMode,
};
use guestworker::{Worker, WorkerOptions};

/// An image as a disk that nobody writes.
pub(crate) struct ImageDisk(File);

impl ImageDisk {
    pub(crate) fn open(path: &Path) -> Arc<dyn BlockExport> {
        Arc::new(Self(File::open(path).unwrap()))
    }
}

impl BlockExport for ImageDisk {
    fn properties(&self) -> BlockProperties {
        BlockProperties {
            size_bytes: self.0.metadata().unwrap().len(),
            block_size_bytes: 512,
            preferred_size_bytes: 4096,
            read_only: true,
            identity: [7; 16],
        }
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        let mut bytes = vec![0; length as usize];
        self.0.read_exact_at(&mut bytes, offset).unwrap();
        Ok(Bytes::from(bytes).into())
    }

    fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroMode, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
        Err(ExportError::ReadOnly)
    }

    fn flush(&self) -> Result<(), ExportError> {
        Ok(())
    }

    fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, ExportError> {
        Err(ExportError::NotSupported)
    }
}

/// The program of `examples/faults.rs`, which cargo builds beside the tests.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().unwrap().parent().unwrap();
    let program = profile.join("examples/faults");
    assert!(
        program.exists(),
        "{} is there after `cargo build -p guestworker --example faults`",
        program.display()
    );
    program
}

pub(crate) fn options(mode: &str) -> WorkerOptions {
    WorkerOptions {
        program: program(),
        arguments: vec![mode.into()],
        ..WorkerOptions::default()
    }
}

/// A worker with the readers that everybody has.
pub(crate) fn plain(disk: Arc<dyn BlockExport>) -> Worker {
    Worker::start(vec![disk], options("plain")).unwrap()
}

/// A worker that does on purpose what it should not, and is given time for it.
pub(crate) fn faulty() -> Worker {
    faulty_for(Duration::from_secs(30))
}

/// The same with so long for each request.
pub(crate) fn faulty_for(patience: Duration) -> Worker {
    faulty_with(patience, b"fine")
}

/// The same with a word in the disk's second sector.
pub(crate) fn faulty_with(patience: Duration, word: &[u8]) -> Worker {
    let disk = MemoryDisk::new(1 << 20);
    let data = [Bytes::from(
        [b"disk".repeat(128), word.repeat(128)].concat(),
    )];
    disk.write(0, &data, Durability::Unstable).unwrap();
    let options = WorkerOptions {
        patience,
        memory_bytes: 256 << 20,
        ..options("faults")
    };
    Worker::start(vec![Arc::new(disk)], options).unwrap()
}

/// The files of a volume of it.
pub(crate) fn files(worker: &Worker, volume: usize) -> Arc<dyn FileExport> {
    worker.volumes().unwrap()[volume].files().unwrap()
}

/// Has a faulty worker do something.
pub(crate) fn act(tree: &dyn FileExport, act: &str) -> Result<String, ExportError> {
    let file = tree.lookup(tree.root(), act.as_bytes())?;
    let read = tree.read(file, 0, 4096)?;
    Ok(String::from_utf8(read.data.to_vec()).unwrap())
}

pub(crate) fn object(tree: &dyn FileExport, name: &str) -> FileId {
    tree.lookup(tree.root(), name.as_bytes()).unwrap()
}
