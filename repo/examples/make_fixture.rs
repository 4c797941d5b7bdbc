//! Makes the repositories that `tests/fixtures` holds, and says what must be read from them. With `ENCRYPTED=1` in the
//! environment it makes an encrypted one.
//!
//! ```text
//! cargo run -p repo --example make_fixture -- FOLDER
//! tar --sort=name --owner=0 --group=0 -czf repository-vN.tar.gz -C FOLDER repository expected.json
//! ```
//!
//! A fixture shows what the program of its day wrote. So a stored one is never made again: when a format gets a new
//! version, this makes a new file beside the old ones.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a tool for developers fails by panicking and prints what it did"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use repo::{
    CHUNK_BYTES, CreateOptions, Image, ImageBase, ImageSpec, KdfSettings, Lock, LockMode,
    NewKeySlot, OpenOptions, Point, PointKind, Repository, Secret, UnixNanoseconds, WorkloadName,
};
use serde_json::{Value, json};

/// What opens the encrypted fixture.
const PASSPHRASE: &str = "correct horse battery staple";
const KEY: &str =
    "HFKEY1-00010203-04050607-08090a0b-0c0d0e0f-10111213-14151617-18191a1b-1c1d1e1f-e38c";

const MIB: u64 = 1 << 20;
/// Deep enough for three levels of map, with almost nothing in it.
const DEEP_BYTES: u64 = 65 << 30;

/// When locks end: late enough for whoever reads this.
const LOCKED_UNTIL: UnixNanoseconds = UnixNanoseconds(4_000_000_000_000_000_000);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("the first argument is a folder"));
    let repository = folder.join("repository");
    match arguments.next().as_deref() {
        None => drive(&folder, &repository),
        Some("closed") => closed(&repository),
        Some("killed") => killed(&repository, 1),
        Some("killed-again") => killed(&repository, 2),
        Some("expectations") => expectations(&folder, &repository),
        Some(other) => panic!("there is no phase {other}"),
    }
}

/// Runs each phase as a process of its own, so that ending without closing is what a kill is.
fn drive(folder: &Path, repository: &Path) {
    fs::create_dir_all(folder).unwrap();
    let key_slots = match is_encrypted() {
        false => Vec::new(),
        true => vec![
            slot("office", Secret::passphrase(PASSPHRASE).unwrap()),
            slot("recovery", Secret::from_key_file(KEY.as_bytes()).unwrap()),
        ],
    };
    Repository::create(repository, &CreateOptions { key_slots }).unwrap();
    for phase in ["closed", "killed", "killed-again"] {
        run_phase(folder, phase);
    }
    // The expectations come from a copy: opening mends, and the fixture is to stay as the kill left it.
    let copy = folder.join("copy");
    fs::create_dir_all(&copy).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(repository)
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    run_phase(&copy, "expectations");
    fs::copy(copy.join("expected.json"), folder.join("expected.json")).unwrap();
    fs::remove_dir_all(&copy).unwrap();
    fs::remove_dir_all(repository.join("index")).unwrap();
    fs::remove_file(repository.join("lock")).unwrap();
    println!("made {}", repository.display());
}

fn run_phase(folder: &Path, phase: &str) {
    let myself = std::env::current_exe().unwrap();
    let status = Command::new(myself)
        .arg(folder)
        .arg(phase)
        .status()
        .unwrap();
    assert!(status.success(), "phase {phase}");
}

fn is_encrypted() -> bool {
    std::env::var_os("ENCRYPTED").is_some()
}

/// A slot that costs little to open.
fn slot(name: &str, secret: Secret) -> NewKeySlot {
    NewKeySlot {
        name: name.to_owned(),
        secret,
        kdf: KdfSettings {
            memory_kibibytes: 64,
            passes: 2,
            lanes: 1,
        },
    }
}

fn open(repository: &Path) -> Repository {
    let secret = || Secret::passphrase(PASSPHRASE).unwrap();
    let options = OpenOptions {
        workers: 1,
        secret: is_encrypted().then(secret),
        protect_files: false,
        ..OpenOptions::default()
    };
    Repository::open(repository, &options).unwrap()
}

/// Points in packs that are sealed in good order: disks of every depth, streams of two, an expired point, and one whose
/// expiry was cut off after the tombstone.
fn closed(folder: &Path) {
    let repository = open(folder);
    let web = WorkloadName::parse("web").unwrap();
    let mut backup = repository.begin(&web, PointKind::Full).unwrap();
    let mut root = backup
        .image(&spec("disk-0", 66 * MIB, ImageBase::Nothing))
        .unwrap();
    root.write(0, text(1, 200_192)).unwrap();
    root.write(65 * MIB, noise(2, 70_144)).unwrap();
    let mut data = backup
        .image(&spec("disk-1", 512 * 1_001, ImageBase::Nothing))
        .unwrap();
    data.write(512, noise(3, 30_208)).unwrap();
    data.write(512 * 1_000, text(4, 512)).unwrap();
    backup.finish_image(root).unwrap();
    backup.finish_image(data).unwrap();
    backup.set_configuration(json!({ "cpus": 2, "name": "web — front" }));
    backup.commit().unwrap();

    let mut backup = repository.begin(&web, PointKind::Incremental).unwrap();
    let mut root = backup
        .image(&spec("disk-0", 66 * MIB, ImageBase::Parent))
        .unwrap();
    root.write(100_352, text(5, 4_096)).unwrap();
    root.exclude(MIB, 20 * MIB).unwrap();
    root.exclude(30 * MIB + 512, 1024).unwrap();
    root.write_zeroes(65 * MIB, 65_536).unwrap();
    backup.finish_image(root).unwrap();
    backup.keep_image("disk-1").unwrap();
    backup.commit().unwrap();

    let database = WorkloadName::parse("Database_01.example").unwrap();
    let mut backup = repository.begin(&database, PointKind::Full).unwrap();
    let mut piece = backup.stream("piece-1").unwrap();
    piece.append(&noise(6, 90_001)).unwrap();
    for _ in 0..300 {
        piece.append(&vec![0; 1 << 20]).unwrap();
    }
    piece.append(&text(7, 500_000)).unwrap();
    backup.finish_stream(piece).unwrap();
    let empty = backup.stream("empty").unwrap();
    backup.finish_stream(empty).unwrap();
    let mut deep = backup
        .image(&spec("deep", DEEP_BYTES, ImageBase::Nothing))
        .unwrap();
    deep.write(DEEP_BYTES - 512, text(8, 512)).unwrap();
    backup.finish_image(deep).unwrap();
    let blank = backup
        .image(&spec("blank", 512, ImageBase::Nothing))
        .unwrap();
    backup.finish_image(blank).unwrap();
    backup.commit().unwrap();

    let mut backup = repository.begin(&web, PointKind::Incremental).unwrap();
    let mut root = backup
        .image(&spec("disk-0", 70 * MIB, ImageBase::Parent))
        .unwrap();
    root.write(69 * MIB, noise(9, 5_120)).unwrap();
    backup.finish_image(root).unwrap();
    let third = backup.commit().unwrap();
    repository.expire(&third.name).unwrap();
    let [first, second] = ["web@1", "web@2"].map(|name| name.parse().unwrap());
    repository.star(&first).unwrap();
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let until = UnixNanoseconds(LOCKED_UNTIL.0 - u64::from(mode == LockMode::Compliance));
        repository.lock(&second, Lock { mode, until }).unwrap();
    }
    repository.close().unwrap();
    let workloads = fs::read_dir(folder.join("points")).unwrap();
    for workload in workloads.map(|entry| entry.unwrap().path()) {
        if workload.join("00000000000000000002.00000001").exists() {
            fs::write(workload.join("00000000000000000002.expired"), b"").unwrap();
        }
    }
}

/// More points and an overlay, then an end without closing: packs stay open, the journal has no checkpoint. The second
/// time, packs of the first are sealed by recovery.
fn killed(folder: &Path, round: u64) {
    let repository = open(folder);
    let web = WorkloadName::parse("web").unwrap();
    let mut backup = repository.begin(&web, PointKind::Incremental).unwrap();
    let mut root = backup
        .image(&spec("disk-0", 66 * MIB, ImageBase::Parent))
        .unwrap();
    root.write(round * 10 * MIB, noise(20 + round, 66_048))
        .unwrap();
    backup.finish_image(root).unwrap();
    let mut log = backup.stream("log").unwrap();
    log.append(&text(30 + round, 40_000)).unwrap();
    backup.finish_stream(log).unwrap();
    let point = backup.commit().unwrap();
    write_overlay(&repository, &point, round);

    // Records that no point needs: a backup that was never committed.
    let mut abandoned = repository.begin(&web, PointKind::Full).unwrap();
    let mut root = abandoned
        .image(&spec("disk-0", MIB, ImageBase::Nothing))
        .unwrap();
    root.write(0, noise(60 + round, 20_480)).unwrap();
    abandoned.finish_image(root).unwrap();
    drop(abandoned);
    std::process::exit(0);
}

fn write_overlay(repository: &Repository, point: &Point, round: u64) {
    let overlay = repository.create_overlay(point, 0).unwrap();
    overlay
        .write(MIB - 512, &[noise(40 + round, 70_144)], false)
        .unwrap();
    overlay
        .write(MIB, &[text(50 + round, 8_192)], true)
        .unwrap();
    overlay
        .write_zeroes(65 * MIB, 131_072, true, false)
        .unwrap();
    overlay.discard(2 * MIB, 65_536, false).unwrap();
    // What was written, across it and the point, and the point's whole chunks.
    for (to, from, length) in [
        (5 * MIB, MIB, 8_192),
        (6 * MIB + 512, MIB - 4_096, 131_072),
        (30 * MIB, 0, MIB),
    ] {
        assert!(overlay.copy(to, from, length, false).unwrap());
    }
    let other = repository.create_overlay(point, 0).unwrap();
    assert!(other.copy_from(MIB, &overlay, 0, 8 * MIB, true).unwrap());
    overlay.flush().unwrap();
}

/// What must be read from the fixture, by reading it once.
fn expectations(folder: &Path, repository: &Path) {
    let repository = open(repository);
    let mut points = Vec::new();
    for point in repository.points(None) {
        let disks: Vec<Value> = (0..point.images.len())
            .map(|disk| {
                let image = repository.image(&point, disk).unwrap();
                let excluded = repository.excluded(&point, disk).unwrap();
                let excluded = excluded.ranges().iter();
                json!({
                    "name": point.images[disk].name,
                    "size_bytes": image.size_bytes(),
                    "blake3": whole_hash(&image),
                    "data_blake3": data_hash(&image),
                    "excluded": excluded.map(|range| [range.start, range.end]).collect::<Vec<_>>(),
                })
            })
            .collect();
        points.push(json!({
            "point": point.name.to_string(),
            "configuration": point.configuration,
            "disks": disks,
            "streams": streams(&repository, &point),
        }));
    }
    let overlays: Vec<Value> = repository
        .overlays()
        .unwrap()
        .into_iter()
        .map(|record| {
            let overlay = repository.open_overlay(record.id).unwrap();
            let mut hasher = blake3::Hasher::new();
            for offset in (0..record.size_bytes).step_by(CHUNK_BYTES) {
                let length = (record.size_bytes - offset).min(CHUNK_BYTES as u64);
                let mut pieces = Vec::new();
                overlay
                    .read(offset, u32::try_from(length).unwrap(), &mut pieces)
                    .unwrap();
                hasher.update(&pieces.concat());
            }
            json!({
                "overlay": record.id.to_string(),
                "point": record.point.to_string(),
                "disk": record.disk,
                "blake3": hasher.finalize().to_string(),
            })
        })
        .collect();
    let secrets = is_encrypted().then(|| json!({ "passphrase": PASSPHRASE, "key": KEY }));
    let expected = json!({
        "repository": repository.uuid().to_string(),
        "secrets": secrets,
        "expired": ["web@3"],
        "marks": marks(),
        "points": points,
        "overlays": overlays,
    });
    let text = serde_json::to_string_pretty(&expected).unwrap();
    fs::write(folder.join("expected.json"), text + "\n").unwrap();
}

/// What must be read from the streams of a point.
fn streams(repository: &Repository, point: &Point) -> Vec<Value> {
    point
        .streams
        .iter()
        .map(|stream| {
            let mut hasher = blake3::Hasher::new();
            let mut reader = repository.stream(point, &stream.name).unwrap();
            std::io::copy(&mut reader, &mut hasher).unwrap();
            json!({
                "name": stream.name,
                "size_bytes": stream.size_bytes,
                "blake3": hasher.finalize().to_string(),
            })
        })
        .collect()
}

/// What keeps points.
fn marks() -> Value {
    json!({
        "web@1": { "starred": true, "locks": [] },
        "web@2": { "starred": false, "locks": [
            { "mode": "governance", "until_unix_nanoseconds": LOCKED_UNTIL.0 },
            { "mode": "compliance", "until_unix_nanoseconds": LOCKED_UNTIL.0 - 1 },
        ] },
        "web@4": { "starred": false, "locks": [] },
    })
}

/// BLAKE3 of the whole disk; none for one that is too large to be read whole.
fn whole_hash(image: &Image) -> Option<String> {
    (image.size_bytes() <= 1 << 30).then(|| {
        let mut hasher = blake3::Hasher::new();
        chunks(image, &mut |_, chunk| {
            hasher.update(chunk);
        });
        hasher.finalize().to_string()
    })
}

/// BLAKE3 of every chunk that is not zero, each behind its number (u64, little-endian).
fn data_hash(image: &Image) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |index: u64, chunk: &[u8]| {
        if chunk.iter().any(|byte| *byte != 0) {
            hasher.update(&index.to_le_bytes());
            hasher.update(chunk);
        }
    };
    if image.size_bytes() <= 1 << 30 {
        chunks(image, &mut add);
    } else {
        let chunk = CHUNK_BYTES as u64;
        image
            .restore(0..image.size_bytes(), &mut |offset, bytes| {
                for (number, part) in bytes.chunks(CHUNK_BYTES).enumerate() {
                    add(offset / chunk + number as u64, part);
                }
                Ok(())
            })
            .unwrap();
    }
    hasher.finalize().to_string()
}

fn chunks(image: &Image, visit: &mut dyn FnMut(u64, &[u8])) {
    let chunk = CHUNK_BYTES as u64;
    for index in 0..image.size_bytes().div_ceil(chunk) {
        let length = (image.size_bytes() - index * chunk).min(chunk);
        let mut pieces = Vec::new();
        image
            .read(index * chunk, u32::try_from(length).unwrap(), &mut pieces)
            .unwrap();
        visit(index, &pieces.concat());
    }
}

fn spec(name: &str, size_bytes: u64, base: ImageBase) -> ImageSpec {
    ImageSpec {
        name: name.to_owned(),
        size_bytes,
        base,
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Bytes that compress well.
fn text(seed: u64, length: usize) -> Bytes {
    let lines = (0_u64..).flat_map(|line| {
        format!("line {line} of text {seed}: {:x}\n", line * line * seed).into_bytes()
    });
    lines.take(length).collect::<Vec<u8>>().into()
}
