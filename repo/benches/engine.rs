//! One engine task in a process of its own, so that `peers.py` can measure it like the peers'.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measuring tool"
)]
#![expect(clippy::cast_possible_truncation, reason = "figures fit")]

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use repo::{
    ChunkSource as _, CreateOptions, ImageBase, ImageSpec, KdfSettings, NewKeySlot, OpenOptions,
    ParityShare, PointKind, Repository, Secret, VerifyScope, WorkloadName,
};

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ingest", root, file] => ingest(root, file, None),
        ["ingest", root, file, extents] => ingest(root, file, Some(extents)),
        ["restore", root, file] => restore(root, file),
        ["verify", root] => verify(root),
        ["parity", root] => parity(root),
        ["limit", file] => limit(file),
        ["read", root, length, count, mode] => random_reads(root, length, count, mode),
        ["points", root, count] => points(root, count),
        ["disk", root, workload, size] => disk(root, workload, size),
        _ => println!("run repo/benches/peers.py, which runs this"),
    }
}

/// Opens or makes the repository in `root`: an encrypted one if `ENCRYPTED` is set when it is made. `PARITY=none` has
/// no parity made, `PARITY=wait` has a backup wait for it.
fn open(root: &str) -> Repository {
    let root = Path::new(root);
    let key = Secret::from_key_file(&[7; 32]).unwrap();
    if !root.join("superblock").exists() {
        let slot = std::env::var_os("ENCRYPTED").map(|_| NewKeySlot {
            name: "key".to_owned(),
            secret: key.clone(),
            kdf: KdfSettings::default(),
        });
        let key_slots = slot.into_iter().collect();
        Repository::create(root, &CreateOptions { key_slots }).unwrap();
    }
    let mut options = OpenOptions {
        secret: root.join("keys").exists().then_some(key),
        ..OpenOptions::default()
    };
    if std::env::var_os("PARITY").is_some_and(|parity| parity == "none") {
        options.parity_share = ParityShare::NONE;
    }
    Repository::open(root, &options).unwrap()
}

fn ingest(root: &str, path: &str, extents: Option<&str>) {
    let repository = open(root);
    let file = File::open(path).unwrap();
    let size_bytes = file.metadata().unwrap().len();
    let ranges = extents.map_or_else(|| one(0..size_bytes), read_extents);
    let started = Instant::now();
    let mut backup = repository
        .begin(
            &WorkloadName::parse("bench").unwrap(),
            PointKind::Incremental,
        )
        .unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes,
        base: ImageBase::Parent,
    };
    let mut writer = backup.image(&spec).unwrap();
    writer
        .copy_file(&file, &ranges, &[], &mut |_| ControlFlow::Continue(()))
        .unwrap();
    backup.finish_image(writer).unwrap();
    let read = started.elapsed();
    let point = backup.commit().unwrap();
    let image = &point.images[0];
    let commit_ms = (started.elapsed() - read).as_millis();
    println!(
        "{{\"seconds\": {:.3}, \"commit_ms\": {commit_ms}, \"sent\": {}, \"stored\": {}, \"new_chunks\": {}}}",
        started.elapsed().as_secs_f64(),
        image.sent_bytes,
        image.stored_bytes,
        image.new_chunks
    );
    repository.close().unwrap();
    if std::env::var_os("PARITY").is_some_and(|parity| parity == "wait") {
        drop(repository);
        parity(root);
    }
}

/// Waits until every pack has parity: what closing left is made after the next opening.
fn parity(root: &str) {
    let repository = open(root);
    let packs = usize::try_from(repository.statistics().unwrap().packs).unwrap();
    while parity_files(Path::new(root)) < packs {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn parity_files(root: &Path) -> usize {
    let folders = std::fs::read_dir(root.join("packs")).unwrap();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let names = files.map(|file| file.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".parity"))
        .count()
}

fn one(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

/// Lines of offset and length.
fn read_extents(path: &str) -> Vec<Range<u64>> {
    let text = std::fs::read_to_string(path).unwrap();
    let numbers = text.lines().map(|line| line.split_once(' ').unwrap());
    numbers
        .map(|(offset, length)| (offset.parse().unwrap(), length.parse().unwrap()))
        .map(range)
        .collect()
}

fn range((offset, length): (u64, u64)) -> Range<u64> {
    offset..offset + length
}

fn restore(root: &str, path: &str) {
    let repository = open(root);
    let point = repository.points(None).pop().unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    repository
        .image(&point, 0)
        .unwrap()
        .restore_to_file(&file)
        .unwrap();
}

/// Many points of one small disk, each with one changed chunk.
fn points(root: &str, count: &str) {
    let repository = open(root);
    let workload = WorkloadName::parse("many").unwrap();
    for number in 0..count.parse::<u64>().unwrap() {
        let mut backup = repository.begin(&workload, PointKind::Incremental).unwrap();
        let spec = ImageSpec {
            name: "disk-0".to_owned(),
            size_bytes: 1 << 30,
            base: ImageBase::Parent,
        };
        let mut writer = backup.image(&spec).unwrap();
        let chunk = number.to_le_bytes().repeat(65_536 / 8);
        writer
            .write(number % 16_384 * 65_536, chunk.into())
            .unwrap();
        backup.finish_image(writer).unwrap();
        backup.commit().unwrap();
    }
    repository.close().unwrap();
}

/// One point of a disk of any size, with a megabyte of data at its start, in its middle and at its end.
fn disk(root: &str, workload: &str, size: &str) {
    let repository = open(root);
    let size_bytes: u64 = size.parse().unwrap();
    let mut backup = repository
        .begin(&WorkloadName::parse(workload).unwrap(), PointKind::Full)
        .unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes,
        base: ImageBase::Nothing,
    };
    let mut writer = backup.image(&spec).unwrap();
    for place in [0, size_bytes / 2, size_bytes - (1 << 20)] {
        writer.write(place, vec![7; 1 << 20].into()).unwrap();
    }
    backup.finish_image(writer).unwrap();
    backup.commit().unwrap();
    repository.close().unwrap();
}

fn verify(root: &str) {
    let repository = open(root);
    let started = Instant::now();
    let report = repository
        .verify(&VerifyScope::All, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
    println!(
        "{{\"records\": {}, \"bytes\": {}, \"seconds\": {:.3}}}",
        report.records,
        report.read_bytes,
        started.elapsed().as_secs_f64()
    );
}

/// How fast two threads decompress the chunks of a file and hash them, with nothing to read and nowhere to look: what
/// no verification on two cores can exceed.
fn limit(file: &str) {
    let bytes = std::fs::read(file).unwrap();
    let chunks: Vec<&[u8]> = bytes
        .chunks(65_536)
        .filter(|chunk| chunk.iter().any(|byte| *byte != 0))
        .collect();
    let packed: Vec<Vec<u8>> = chunks
        .iter()
        .map(|chunk| zstd::bulk::compress(chunk, 1).unwrap())
        .collect();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut decoder = zstd::bulk::Decompressor::new().unwrap();
                let mut raw = vec![0; 65_536];
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(packed) = packed.get(number) else {
                        break;
                    };
                    // What saves little is stored as it is, as in a pack.
                    let content = match packed.len() * 16 > chunks[number].len() * 15 {
                        true => chunks[number],
                        false => {
                            let length = decoder.decompress_to_buffer(packed, &mut raw).unwrap();
                            &raw[..length]
                        }
                    };
                    std::hint::black_box(blake3::hash(content));
                }
            });
        }
    });
    println!("{{\"seconds\": {:.4}}}", started.elapsed().as_secs_f64());
}

/// Reads at random places that hold data: `cold` each place once, `hot` a few megabytes again and again.
fn random_reads(root: &str, length: &str, count: &str, mode: &str) {
    let repository = open(root);
    let point = repository.points(None).pop().unwrap();
    let image = repository.image(&point, 0).unwrap();
    let length: u32 = length.parse().unwrap();
    let count: usize = count.parse().unwrap();
    let chunks = image.size_bytes() / 65_536;
    let mut state = 42_u64;
    let mut places = Vec::new();
    while places.len() < count {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let index = (state >> 20) % chunks;
        if !image.is_zero(index).unwrap() {
            let within = (state >> 10) % (65_536 / u64::from(length)) * u64::from(length);
            places.push(index * 65_536 + within);
        }
    }
    if mode == "hot" {
        places = places
            .iter()
            .take(500)
            .cycle()
            .take(count)
            .copied()
            .collect();
    }
    let mut pieces = Vec::new();
    let mut nanoseconds = Vec::with_capacity(count);
    for place in places {
        pieces.clear();
        let started = Instant::now();
        if !image.read_cached(place, length, &mut pieces) {
            image.read(place, length, &mut pieces).unwrap();
        }
        nanoseconds.push(started.elapsed().as_nanos() as u64);
    }
    let mean = nanoseconds.iter().sum::<u64>() / count as u64;
    nanoseconds.sort_unstable();
    let at = |share: usize| nanoseconds[(count * share / 1000).min(count - 1)];
    println!(
        "{{\"mean\": {mean}, \"p50\": {}, \"p95\": {}, \"p99\": {}}}",
        at(500),
        at(950),
        at(990)
    );
}
