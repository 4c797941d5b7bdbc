//! What it costs to give the space of one point back, as the number of points grows.
//!
//! `cargo bench -p repo --bench space [-- POINTS CHUNKS]`: a disk of CHUNKS chunks and that many points over it, each
//! with some changed chunks, so that the store has POINTS times CHUNKS references. Chunks are small once compressed;
//! maps and counts are what they would be. At each power of ten, and at the end, points from the middle are asked for
//! what they hold, expired and collected.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use repo::{
    CollectOptions, CreateOptions, ImageBase, ImageSpec, OpenOptions, PointKind, PointName,
    Repository, WorkloadName,
};

const CHUNK: usize = 65_536;

/// Chunks that each point changes, in neighbouring pairs all over the disk.
const CHANGED: u64 = 32;

/// Points that are expired one by one at each step.
const SAMPLES: usize = 5;

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let points = numbers.first().copied().unwrap_or(10_000);
    let chunks = numbers.get(1).copied().unwrap_or(3_000);
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = folder.path().join("repository");
    Repository::create(&path, &CreateOptions::default()).unwrap();
    let repository = Repository::open(&path, &OpenOptions::default()).unwrap();
    println!("{chunks} chunks in the disk, {CHANGED} changed by each point");
    println!(
        "{:>7} {:>12} {:>11} {:>13} {:>13} {:>13} {:>10}",
        "points", "references", "stored MiB", "ask for 1", "ask for 100", "collect 1", "RSS MiB"
    );
    let started = Instant::now();
    let mut made = 0;
    let mut next_step = 10;
    while made < points {
        back_up(&repository, made, chunks);
        made += 1;
        if made == next_step || made == points {
            next_step *= 10;
            measure(&repository, made, chunks);
        }
    }
    println!("made in {:.0} s", started.elapsed().as_secs_f64());
    let again = Instant::now();
    let audit = repository
        .audit(&mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(audit.is_sound(), "{audit:?}");
    println!(
        "an audit followed {} references in {:.1} s",
        audit.references,
        again.elapsed().as_secs_f64()
    );
}

fn back_up(repository: &Repository, number: u64, chunks: u64) {
    let workload = WorkloadName::parse("bench").unwrap();
    let mut backup = repository.begin(&workload, PointKind::Incremental).unwrap();
    let mut writer = backup
        .image(&ImageSpec {
            name: "disk-0".to_owned(),
            size_bytes: chunks * CHUNK as u64,
            base: ImageBase::Parent,
        })
        .unwrap();
    let changed: Vec<u64> = match number {
        0 => (0..chunks).collect(),
        _ => changed(number, chunks),
    };
    for chunk in changed {
        let content = content(number, chunk);
        writer.write(chunk * CHUNK as u64, content).unwrap();
    }
    backup.finish_image(writer).unwrap();
    backup.commit().unwrap();
}

/// Different chunks for different points, ascending.
fn changed(number: u64, chunks: u64) -> Vec<u64> {
    let step = chunks / (CHANGED / 2);
    (0..CHANGED)
        .map(|which| (which / 2 * step + number * 7 % step.max(2) + which % 2).min(chunks - 1))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// A chunk like no other that takes next to no room.
fn content(number: u64, chunk: u64) -> Bytes {
    let mut bytes = vec![0; CHUNK];
    bytes[..8].copy_from_slice(&(number + 1).to_le_bytes());
    bytes[8..16].copy_from_slice(&chunk.to_le_bytes());
    Bytes::from(bytes)
}

fn measure(repository: &Repository, points: u64, chunks: u64) {
    repository.settle_account(&mut || true).unwrap();
    let names: Vec<PointName> = repository
        .points(None)
        .iter()
        .map(|point| point.name.clone())
        .collect();
    let middle = names.len() / 3;
    let chosen = &names[middle..(middle + SAMPLES).min(names.len() - 1)];
    let many = &names[..100.min(names.len() - 1)];
    let ask_many = time(|| {
        repository.space_of(many).unwrap();
    });
    let mut ask = Vec::new();
    let mut collect = Vec::new();
    let options = CollectOptions {
        grace: Duration::ZERO,
        reserve_bytes: 0,
        ..CollectOptions::default()
    };
    for name in chosen {
        let mut said = 0;
        ask.push(time(|| {
            said = repository
                .space_of(std::slice::from_ref(name))
                .unwrap()
                .bytes;
        }));
        repository.expire(name).unwrap();
        collect.push(time(|| {
            let report = repository
                .collect(&options, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            assert_eq!((report.points, report.dead_bytes), (1, said));
        }));
    }
    println!(
        "{points:>7} {:>12} {:>11} {:>10.2} ms {:>10.1} ms {:>10.1} ms {:>10}",
        points * chunks,
        repository.statistics().unwrap().stored_bytes >> 20,
        median(ask).as_secs_f64() * 1000.0,
        ask_many.as_secs_f64() * 1000.0,
        median(collect).as_secs_f64() * 1000.0,
        resident_mebibytes(),
    );
}

fn time(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn resident_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) / 1024
}
