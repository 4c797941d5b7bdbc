//! The same tree read in this process and through a worker: what the way costs.
//!
//! Makes an ext4 image with `mke2fs`, reads it both ways in turns, and prints the best of five rounds each.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a bench says by panicking that something failed"
)]
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, Durability, ExportError, Extent, FileExport, FileId, Segments,
    ZeroMode,
};
use guestworker::{GuestReader, Reader as _, Worker, WorkerOptions, worker};

/// One way to the files.
type Open<'a> = &'a dyn Fn() -> (Arc<dyn FileExport>, Option<Worker>);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("guest-worker") {
        let inner = arguments.next();
        let inner = inner.and_then(|inner| inner.strip_prefix("--inner=")?.parse().ok());
        return worker::run(inner, GuestReader).unwrap_or(ExitCode::FAILURE);
    }
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path());
    let disk = || Arc::new(Image(File::open(&image).unwrap())) as Arc<dyn BlockExport>;
    let here = || {
        let volumes = GuestReader.open(&[disk()]).unwrap();
        (volumes.first().unwrap().files().unwrap(), None)
    };
    let there = || {
        let worker = Worker::start(vec![disk()], WorkerOptions::default()).unwrap();
        let tree = worker.volumes().unwrap().first().unwrap().files().unwrap();
        (tree, Some(worker))
    };
    compare(&here, &there);
    ExitCode::SUCCESS
}

fn compare(here: Open<'_>, there: Open<'_>) {
    println!(
        "{:<44}{:>14}{:>14}{:>8}",
        "", "in process", "worker", "ratio"
    );
    let compare = |what, work: &dyn Fn(&dyn FileExport)| measure(what, here, there, work);
    compare("open the first folder", &|_| {});
    compare("list 20,000 names with attributes", &|tree| {
        let many = tree.lookup(tree.root(), b"many").unwrap();
        assert_eq!(tree.list(many, 0, usize::MAX).unwrap().len(), 20_000);
    });
    compare("20,000 lookups, attributes, reads of a file", &|tree| {
        let many = tree.lookup(tree.root(), b"many").unwrap();
        for number in 0..20_000 {
            let name = number.to_string();
            let file = tree.lookup(many, name.as_bytes()).unwrap();
            tree.attributes(file).unwrap();
            assert_eq!(tree.read(file, 0, 100).unwrap().data.len(), name.len());
        }
    });
    compare("read 256 MiB, 1 MiB at a time", &|tree| {
        sequential(tree, 1 << 20);
    });
    compare("read 256 MiB, 128 KiB at a time", &|tree| {
        sequential(tree, 128 << 10);
    });
    compare("10,000 reads of 4 KiB anywhere in it", &|tree| {
        random(tree, 1, 10_000);
    });
    compare("the same by 4 threads, 2,500 each", &|tree| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || random(tree, thread, 2500));
            }
        });
    });
}

/// The best of five rounds each, in turns, each with a tree that was opened anew; opening is measured with the first.
fn measure(what: &str, here: Open<'_>, there: Open<'_>, work: &dyn Fn(&dyn FileExport)) {
    let is_open = what.starts_with("open");
    let round = |open: Open<'_>| {
        let began = Instant::now();
        let (tree, worker) = open();
        let opened = Instant::now();
        work(&*tree);
        let done = if is_open {
            opened - began
        } else {
            opened.elapsed()
        };
        drop((tree, worker));
        done
    };
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        best = (best.0.min(round(here)), best.1.min(round(there)));
    }
    let ratio = best.1.as_secs_f64() / best.0.as_secs_f64();
    println!(
        "{what:<44}{:>14}{:>14}{ratio:>8.1}",
        show(best.0),
        show(best.1)
    );
}

fn show(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn big(tree: &dyn FileExport) -> FileId {
    tree.lookup(tree.root(), b"big").unwrap()
}

fn sequential(tree: &dyn FileExport, step: u32) {
    let big = big(tree);
    let mut offset = 0;
    while offset < BIG_BYTES {
        offset += tree.read(big, offset, step).unwrap().data.len() as u64;
    }
}

fn random(tree: &dyn FileExport, mut place: u64, rounds: usize) {
    let big = big(tree);
    for _ in 0..rounds {
        place = place
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let offset = (place >> 33) % (BIG_BYTES / 4096) * 4096;
        let read = tree.read(big, offset, 4096).unwrap();
        assert_eq!(read.data.len(), 4096);
    }
}

fn make(folder: &Path) -> PathBuf {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("many")).unwrap();
    for number in 0..20_000 {
        fs::write(tree.join(format!("many/{number}")), number.to_string()).unwrap();
    }
    let big: Vec<u8> = (0..BIG_BYTES / 8).flat_map(u64::to_le_bytes).collect();
    fs::write(tree.join("big"), big).unwrap();
    let image = folder.join("disk.ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg("512M")
        .status();
    assert!(made.unwrap().success());
    image
}

/// The image, in the page cache.
struct Image(File);

impl BlockExport for Image {
    fn properties(&self) -> BlockProperties {
        BlockProperties {
            size_bytes: 512 << 20,
            block_size_bytes: 512,
            preferred_size_bytes: 4096,
            read_only: true,
            identity: [0; 16],
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

const BIG_BYTES: u64 = 256 << 20;
