//! Workers that hang, die, are killed, or lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, Durability, ExportError, Extent, MemoryDisk, Segments, ZeroMode,
};
use guestworker::{Worker, WorkerOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{act, faulty, faulty_for, files, object, options};

fn told(done: Result<String, ExportError>) -> String {
    done.unwrap_err().to_string()
}

#[test]
fn who_hangs_is_refused_and_others_go_on() {
    let worker = faulty_for(Duration::from_secs(3));
    let tree = files(&worker, 0);
    let first = worker.process().unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| act(&*tree, "hang"));
        let mut rounds = 0;
        while !hanging.is_finished() {
            assert_eq!(act(&*tree, "fine").unwrap(), "fine");
            rounds += 1;
        }
        assert!(rounds > 10);
        let why = told(hanging.join().unwrap());
        assert!(
            why.contains("object 101 of p1 took longer than 3s"),
            "{why}"
        );
    });
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_ne!(worker.process().unwrap(), first);
    let again = Instant::now();
    let why = told(act(&*tree, "hang"));
    assert!(why.contains("not read any more"), "{why}");
    assert!(again.elapsed() < Duration::from_secs(3));
    assert_eq!(act(&*tree, "disk").unwrap(), "disk");
}

#[test]
fn a_panic_and_too_much_memory_are_told_as_such() {
    let worker = faulty();
    let tree = files(&worker, 0);
    let why = told(act(&*tree, "panic"));
    assert!(why.contains("object 102 of p1 ended"), "{why}");
    assert_eq!(act(&*tree, "fine").unwrap(), "fine");
    // It was tried twice, so one more death is the third.
    let why = told(act(&*tree, "eat"));
    assert!(why.contains("3 times"), "{why}");
    let why = told(act(&*tree, "fine"));
    assert!(
        why.contains("the process that reads it has ended 3 times"),
        "{why}"
    );
    // The other volume is none the worse for it.
    let other = files(&worker, 1);
    assert_eq!(act(&*other, "fine").unwrap(), "fine");
    let why = told(act(&*other, "eat"));
    assert!(why.contains("it gave up"), "{why}");
    assert_eq!(act(&*other, "fine").unwrap(), "fine");
}

#[test]
fn a_worker_that_is_killed_is_not_noticed() {
    let worker = faulty();
    let tree = files(&worker, 0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while !over.load(Ordering::SeqCst) || rounds < 10 {
                        assert_eq!(act(&*tree, "disk").unwrap(), "disk");
                        rounds += 1;
                    }
                })
            })
            .collect();
        let first = worker.process().unwrap();
        let process = Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
        kill_process(process, Signal::KILL).unwrap();
        while worker.process().is_ok_and(|process| process == first) {
            std::thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn nonsense_is_not_believed() {
    let worker = faulty();
    let tree = files(&worker, 0);
    let long = object(&*tree, "long");
    let why = tree.read(long, 0, 4096).unwrap_err().to_string();
    assert!(why.contains("a read of another length"), "{why}");
    let worker = faulty();
    let tree = files(&worker, 0);
    let name = object(&*tree, "name");
    let why = tree.list(name, 0, 10).unwrap_err().to_string();
    assert!(why.contains("a name that is a path"), "{why}");
    assert_eq!(tree.list(tree.root(), 0, 100).unwrap().len(), 15);
}

#[test]
fn a_worker_gets_what_lies_on_its_disks_and_nothing_more() {
    let worker = faulty();
    let told = act(&*files(&worker, 0), "out").unwrap();
    assert!(told.contains("OutOfRange"), "{told}");
}

/// A disk that takes its time.
struct Slow(MemoryDisk);

impl BlockExport for Slow {
    fn properties(&self) -> BlockProperties {
        self.0.properties()
    }

    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        std::thread::sleep(Duration::from_millis(1500));
        self.0.read(offset, length)
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

#[test]
fn a_slow_disk_is_not_blamed_on_the_worker() {
    let disk = Arc::new(Slow(MemoryDisk::new(1 << 20)));
    let options = WorkerOptions {
        patience: Duration::from_millis(700),
        ..options("faults")
    };
    let worker = Worker::start(vec![disk], options).unwrap();
    let tree = files(&worker, 0);
    assert_eq!(act(&*tree, "disk").unwrap(), "\0\0\0\0");
}

#[test]
fn a_program_that_is_no_worker_is_told() {
    let start = |program: &str| {
        let options = WorkerOptions {
            program: program.into(),
            ..WorkerOptions::default()
        };
        let disk = Arc::new(MemoryDisk::new(1 << 20));
        Worker::start(vec![disk], options).unwrap_err().to_string()
    };
    let why = start("/bin/false");
    assert!(
        why.starts_with("the process that reads guests' disks does not start"),
        "{why}"
    );
    let why = start("/nowhere/at/all");
    assert!(why.contains("No such file"), "{why}");
}

#[test]
fn nothing_is_left_of_a_worker_that_is_dropped() {
    let worker = faulty();
    let process = Pid::from_raw(i32::try_from(worker.process().unwrap()).unwrap()).unwrap();
    let tree = files(&worker, 0);
    drop(worker);
    assert_eq!(act(&*tree, "fine").unwrap(), "fine");
    drop(tree);
    assert!(rustix::process::test_kill_process(process).is_err());
}
