//! What an overlay costs beside plain calls of the same size on the same disk, in the same run.
//!
//! `cargo bench -p repo --bench overlay [-- calls|flushes|copies|open]`; the folder is `HOLDFAST_BENCH_DIR`, or one for temporary files of the build.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measuring tool"
)]
#![expect(clippy::cast_possible_truncation, reason = "figures fit")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use repo::clock::SystemClock;
use repo::disk::SystemDisk;
use repo::overlay::{MemoryPages, Overlay, OverlayKeys, OverlaySettings};
use repo::{CreateOptions, ImageBase, ImageSpec, OpenOptions, PointKind, Repository, WorkloadName};

const DISK_BYTES: u64 = 64 << 30;
const BLOCK: usize = 4096;

/// Turns of one second for each side.
const ROUNDS: u64 = 4;

fn main() {
    let folder = std::env::var_os("HOLDFAST_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let root = folder.path().join("repository");
    Repository::create(&root, &CreateOptions::default()).unwrap();
    let repository = Repository::open(&root, &OpenOptions::default()).unwrap();
    let mut backup = repository
        .begin(&WorkloadName::parse("bench").unwrap(), PointKind::Full)
        .unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: DISK_BYTES,
        base: ImageBase::Nothing,
    };
    let writer = backup.image(&spec).unwrap();
    backup.finish_image(writer).unwrap();
    let point = backup.commit().unwrap();
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == part);
    let started = Instant::now();
    let overlay = repository.create_overlay(&point, 0).unwrap();
    println!(
        "make an overlay of {} GiB: {:.1} ms",
        DISK_BYTES >> 30,
        milliseconds(started)
    );
    if wants("calls") {
        reads_and_writes(&overlay, folder.path());
    }
    repository.discard_overlay(overlay.id()).unwrap();
    for threads in [1, 8, 32].into_iter().filter(|_| wants("flushes")) {
        let overlay = repository.create_overlay(&point, 0).unwrap();
        flushes(&overlay, folder.path(), threads);
        repository.discard_overlay(overlay.id()).unwrap();
    }
    if wants("copies") {
        let overlay = repository.create_overlay(&point, 0).unwrap();
        copies(&overlay);
        repository.discard_overlay(overlay.id()).unwrap();
    }
    for records in [10_000, 100_000, 1_000_000]
        .into_iter()
        .filter(|_| wants("open"))
    {
        let overlay = repository.create_overlay(&point, 0).unwrap();
        reopening(&repository, overlay, records);
    }
}

/// A GiB that the point has, and a GiB that was written, shown elsewhere: in steps as EXTENDED COPY makes them.
fn copies(overlay: &Overlay) {
    const GIB: u64 = 1 << 30;
    const STEP: u64 = 16 << 20;
    let data = payload(1 << 20);
    for at in (0..GIB).step_by(1 << 20) {
        overlay
            .write(at, std::slice::from_ref(&data), false)
            .unwrap();
    }
    overlay.flush().unwrap();
    for (what, from, to) in [
        ("of the point", 10 * GIB, 20 * GIB),
        ("that was written", 0, 30 * GIB),
        ("that was copied", 30 * GIB, 40 * GIB + 4096),
    ] {
        let before = overlay.statistics().journal_bytes;
        let started = Instant::now();
        for at in (0..GIB).step_by(STEP as usize) {
            assert!(overlay.copy(to + at, from + at, STEP, false).unwrap());
        }
        let copied = milliseconds(started);
        overlay.flush().unwrap();
        println!(
            "copy of a GiB {what}: {copied:.1} ms, with a flush {:.1} ms, {} bytes of journal",
            milliseconds(started),
            overlay.statistics().journal_bytes - before
        );
    }
    let started = Instant::now();
    for at in (0..GIB).step_by(1 << 20) {
        let mut bytes = Vec::new();
        overlay.read(at, 1 << 20, &mut bytes).unwrap();
        overlay.write(50 * GIB + at, &bytes, false).unwrap();
    }
    overlay.flush().unwrap();
    println!("read and written instead: {:.1} ms", milliseconds(started));
}

fn milliseconds(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

/// Microseconds of each of many calls, as (median, 99th percentile).
fn time_each(count: u64, mut call: impl FnMut(u64)) -> (f64, f64) {
    let mut times: Vec<Duration> = (0..count)
        .map(|number| {
            let started = Instant::now();
            call(number);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |place: usize| times[place].as_secs_f64() * 1e6;
    (at(times.len() / 2), at(times.len() * 99 / 100))
}

fn block_of(number: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % (DISK_BYTES / BLOCK as u64) * BLOCK as u64
}

fn payload(length: usize) -> Bytes {
    (0..length).map(|at| (at * 131 % 251) as u8).collect()
}

fn reads_and_writes(overlay: &Overlay, folder: &Path) {
    let raw = File::create(folder.join("raw")).unwrap();
    for (length, count) in [(BLOCK, 30_000_u64), (65536, 4_000)] {
        let data = payload(length);
        let plain = time_each(count, |number| {
            raw.write_all_at(&data, number * length as u64).unwrap()
        });
        raw.sync_data().unwrap();
        let mut waits = 0;
        let ours = time_each(count, |number| {
            let offset = block_of(number) / length as u64 * length as u64;
            let data = [data.clone()];
            match overlay.try_write(offset, &data) {
                Some(done) => done.unwrap(),
                None => {
                    waits += 1;
                    overlay.write(offset, &data, false).unwrap();
                }
            }
        });
        overlay.flush().unwrap();
        println!(
            "write {length:>6} B: plain append {:.1} us (p99 {:.0}), overlay {:.1} us (p99 {:.0}), ratio {:.2}, {waits} of {count} could wait",
            plain.0,
            plain.1,
            ours.0,
            ours.1,
            ours.0 / plain.0
        );
    }
    let mut out = Vec::new();
    for number in 29_000..30_000 {
        out.clear();
        overlay
            .read(block_of(number), BLOCK as u32, &mut out)
            .unwrap();
    }
    let mut misses = 0;
    let hot = time_each(200_000, |number| {
        out.clear();
        misses += u64::from(!overlay.read_cached(
            block_of(29_000 + number % 1000),
            BLOCK as u32,
            &mut out,
        ));
    });
    println!(
        "read 4 KiB, hot: {:.2} us (p99 {:.2}), {misses} of 200000 not in memory",
        hot.0, hot.1
    );
    let far = time_each(20_000, |number| {
        out.clear();
        overlay
            .read(block_of(number), BLOCK as u32, &mut out)
            .unwrap();
    });
    println!(
        "read 4 KiB of 30000, journal in the page cache: {:.2} us (p99 {:.2})",
        far.0, far.1
    );
    let below = time_each(20_000, |number| {
        out.clear();
        overlay
            .read(block_of(number + 1_000_000), BLOCK as u32, &mut out)
            .unwrap();
    });
    println!(
        "read 4 KiB of the point, zero there: {:.2} us (p99 {:.2})",
        below.0, below.1
    );
    println!("{:?}", overlay.statistics());
}

/// Each thread writes 4 KiB and makes it durable, over and over. Both take turns, as other work on the machine comes
/// and goes.
fn flushes(overlay: &Overlay, folder: &Path, threads: usize) {
    let raw = File::create(folder.join("raw")).unwrap();
    let (end, data) = (AtomicU64::new(0), payload(BLOCK));
    let number = AtomicU64::new(0);
    let (mut plain, mut ours) = (0, 0);
    for _ in 0..ROUNDS {
        plain += count_calls(threads, || {
            raw.write_all_at(&data, end.fetch_add(BLOCK as u64, Ordering::Relaxed))
                .unwrap();
            raw.sync_data().unwrap();
        });
        ours += count_calls(threads, || {
            let offset = block_of(number.fetch_add(1, Ordering::Relaxed));
            overlay
                .write(offset, std::slice::from_ref(&data), false)
                .unwrap();
            overlay.flush().unwrap();
        });
    }
    println!(
        "write and flush 4 KiB, {threads:>2} threads: plain {}/s, overlay {}/s, ratio {:.2}; {} writes in a sync",
        plain / ROUNDS,
        ours / ROUNDS,
        ours as f64 / plain as f64,
        ours / overlay.statistics().syncs
    );
}

/// How many calls all threads finish in a second.
fn count_calls(threads: usize, call: impl Fn() + Sync) -> u64 {
    let count = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < end {
                    call();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    count.into_inner()
}

fn reopening(repository: &Repository, overlay: Arc<Overlay>, records: u64) {
    let data = payload(BLOCK);
    let started = Instant::now();
    for number in 0..records {
        overlay
            .write(block_of(number), std::slice::from_ref(&data), false)
            .unwrap();
    }
    let wrote = milliseconds(started);
    overlay.flush().unwrap();
    let statistics = overlay.statistics();
    let id = overlay.id();
    let source = Arc::new(repository.image(&repository.points(None)[0], 0).unwrap());
    assert_eq!(source.size_bytes(), overlay.size_bytes());
    drop(overlay);
    let started = Instant::now();
    let again = repository.open_overlay(id).unwrap();
    let tail = milliseconds(started);
    let mut out = Vec::new();
    let read = time_each(2000, |number| {
        out.clear();
        again
            .read(block_of(number * 7919 % records), BLOCK as u32, &mut out)
            .unwrap();
    });
    drop(again);
    let started = Instant::now();
    let disk = Arc::new(SystemDisk::new(repository.root()));
    let pages = Arc::new(MemoryPages::new());
    let settings = OverlaySettings {
        map_cache_bytes: 1 << 30,
        ..OverlaySettings::default()
    };
    let whole = Overlay::open(
        disk,
        &OverlayKeys::none(),
        Arc::new(SystemClock),
        pages,
        source,
        settings,
        id,
    )
    .unwrap();
    let all = milliseconds(started);
    assert_eq!(whole.statistics().live_bytes, statistics.live_bytes);
    drop(whole);
    println!(
        "{records} writes of 4 KiB ({wrote:.0} ms; map {} KiB): open from checkpoint {tail:.1} ms, from the journal alone {all:.0} ms; read {:.1} us (p99 {:.0})",
        statistics.map_bytes >> 10,
        read.0,
        read.1
    );
    repository.discard_overlay(id).unwrap();
}
