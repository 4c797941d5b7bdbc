//! What it costs to give the space of one point back, as the number of points grows.
//!
//! `cargo bench -p repo --bench space [-- POINTS CHUNKS [FOLDER]]`: a disk of CHUNKS chunks and that many points over
//! it, each with some changed chunks, so that the store has POINTS times CHUNKS references. Chunks are small once
//! compressed; maps and counts are what they would be. At 100, 300, 1000 points and so on, and at the end, points from
//! the middle are asked for what they hold, expired and collected. The repository is made in FOLDER, or where the
//! system keeps temporary files, and removed at the end.
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

/// References that an audit follows in seconds.
const AUDITED_MAX: u64 = 3_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let number = |at: usize, default: u64| {
        let argument = arguments.get(at);
        argument.map_or(default, |text| text.parse().unwrap())
    };
    let (points, chunks) = (number(0, 10_000), number(1, 3_000));
    let folder = match arguments.get(2) {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let path = folder.path().join("repository");
    Repository::create(&path, &CreateOptions::default()).unwrap();
    let repository = Repository::open(&path, &OpenOptions::default()).unwrap();
    println!("{chunks} chunks in the disk, {CHANGED} changed by each point");
    println!(
        "{:>7} {:>13} {:>10} {:>10} {:>11} {:>11} {:>11} {:>11} {:>8} {:>7}",
        "points",
        "references",
        "stored MiB",
        "statistics",
        "ask for 1",
        "ask for 100",
        "collect 1",
        "back up 1",
        "RSS MiB",
        "after s"
    );
    let started = Instant::now();
    for made in 1..=points {
        let took = time(|| back_up(&repository, made - 1, chunks));
        if is_step(made) || made == points {
            measure(&repository, made, chunks, took, started);
        }
    }
    if points * chunks <= AUDITED_MAX {
        audit(&repository);
    }
}

/// 100, 300, 1000, 3000 and so on.
fn is_step(points: u64) -> bool {
    let mut size = 100;
    while size * 10 <= points {
        size *= 10;
    }
    points == size || points == 3 * size
}

fn audit(repository: &Repository) {
    let started = Instant::now();
    let audit = repository
        .audit(&mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(audit.is_sound(), "{audit:?}");
    println!(
        "an audit followed {} references in {:.1} s",
        audit.references,
        started.elapsed().as_secs_f64()
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

fn measure(repository: &Repository, points: u64, chunks: u64, back_up: Duration, started: Instant) {
    repository.settle_account(&mut || true).unwrap();
    let statistics = time(|| {
        repository.statistics().unwrap();
        repository.space_statistics().unwrap();
    });
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
        "{points:>7} {:>13} {:>10} {:>7.2} ms {:>8.2} ms {:>8.1} ms {:>8.1} ms {:>8.1} ms {:>8} {:>7.0}",
        points * chunks,
        repository.statistics().unwrap().stored_bytes >> 20,
        milliseconds(statistics),
        milliseconds(median(ask)),
        milliseconds(ask_many),
        milliseconds(median(collect)),
        milliseconds(back_up),
        resident_mebibytes(),
        started.elapsed().as_secs_f64(),
    );
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
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
