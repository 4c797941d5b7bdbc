//! Damage within the share of parity is mended, on reads and by verification; beyond it, it is named to the byte, and
//! the next backup that brings the bytes heals it.

use std::io::IoSlice;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proptest::prelude::*;
use repo::clock::{ManualClock, UnixNanoseconds};
use repo::disk::{Access, Caching, Disk, Effect, Fault, SimulatedDisk};
use repo::{
    ImageBase, ImageSpec, OpenOptions, ParityShare, PointKind, Repair, Repository, VerifyOptions,
    VerifyReport, VerifyScope,
};

use crate::support::{Mode, noise, read_all, workload};
use crate::worn_disk::WornDisk;

/// 64 chunks of noise: a pack of about 4 MiB in two groups, which can lose 32 pages in a row.
const CHUNKS: usize = 64;
const CHUNK: usize = 65_536;
/// Bytes from one raw chunk's record to the next.
const RECORD: u64 = 65_664;
const PAGE: u64 = 4096;
const REPAIRABLE_PAGES: u64 = 32;

/// A repository with parity, and what its points must hold.
struct Made {
    disk: SimulatedDisk,
    contents: Vec<Vec<u8>>,
    stream: Vec<u8>,
    /// The pack of the chunks.
    pack: PathBuf,
    /// All packs and parity files as they are when nothing is hurt.
    sound: Vec<(PathBuf, Vec<u8>)>,
}

fn with_parity(mode: Mode) -> OpenOptions {
    OpenOptions {
        parity_share: ParityShare::default(),
        ..mode.options()
    }
}

fn open_on(mode: Mode, disk: impl Disk) -> Repository {
    let clock = Arc::new(ManualClock::new(UnixNanoseconds(1_000)));
    Repository::open_on(
        Arc::new(disk),
        Path::new("simulated"),
        clock,
        &with_parity(mode),
    )
    .unwrap()
}

fn verify(repository: &Repository, repair: Repair) -> VerifyReport {
    let options = VerifyOptions {
        scope: VerifyScope::All,
        rate: None,
        repair,
    };
    repository
        .verify_with(&options, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn make(mode: Mode) -> Made {
    let disk = SimulatedDisk::new();
    Repository::create_on(
        &disk,
        Path::new("simulated"),
        &ManualClock::new(UnixNanoseconds(1_000)),
        &mode.create_options(),
    )
    .unwrap();
    let first = noise(1, CHUNKS * CHUNK);
    let mut second = first.clone();
    second[10 * CHUNK..12 * CHUNK].copy_from_slice(&noise(2, 2 * CHUNK));
    let stream = noise(3, 900_000);
    let repository = open_on(mode, disk.clone());
    back_up(&repository, &first, &[]);
    back_up(&repository, &second, &stream);
    repository.close().unwrap();
    drop(repository);
    let repository = open_on(mode, disk.clone());
    let report = verify(&repository, Repair::Yes);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(
        (report.packs, report.parity_made, report.mended.len()),
        (2, 2, 0)
    );
    drop(repository);
    let sound = pack_files(&disk);
    assert_eq!(sound.len(), 4, "two packs and their parity");
    let largest = sound.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    Made {
        pack: largest.0.clone(),
        contents: vec![first, second],
        disk,
        stream,
        sound,
    }
}

fn back_up(repository: &Repository, content: &[u8], stream: &[u8]) {
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: content.len() as u64,
        base: ImageBase::Parent,
    };
    let mut writer = backup.image(&spec).unwrap();
    writer.write(0, Bytes::copy_from_slice(content)).unwrap();
    backup.finish_image(writer).unwrap();
    if !stream.is_empty() {
        let mut writer = backup.stream("piece").unwrap();
        writer.append(stream).unwrap();
        backup.finish_stream(writer).unwrap();
    }
    backup.commit().unwrap();
}

fn pack_files(disk: &dyn Disk) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in disk.list(Path::new("packs")).unwrap() {
        let folder = Path::new("packs").join(folder.name);
        for item in disk.list(&folder).unwrap() {
            let path = folder.join(item.name);
            let bytes = disk.read(&path, 1 << 30).unwrap();
            files.push((path, bytes));
        }
    }
    files.sort();
    files
}

/// Changes bytes of a file behind everybody's back.
fn overwrite(disk: &dyn Disk, path: &Path, offset: u64, bytes: &[u8]) {
    let file = disk.open(path, Access::ReadWrite, Caching::Cached).unwrap();
    file.write_at(offset, &[IoSlice::new(bytes)]).unwrap();
    file.sync().unwrap();
}

fn cut(disk: &dyn Disk, path: &Path, length: u64) {
    let file = disk.open(path, Access::ReadWrite, Caching::Cached).unwrap();
    file.set_length(length).unwrap();
    file.sync().unwrap();
}

/// All points read back equal.
fn check_points(repository: &Repository, made: &Made) {
    let points = repository.points(None);
    for (point, content) in points.iter().zip(&made.contents) {
        assert!(
            read_all(&repository.image(point, 0).unwrap()) == *content,
            "{} differs",
            point.name
        );
    }
    let mut reader = repository.stream(&points[1], "piece").unwrap();
    let mut stream = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        stream.extend_from_slice(&chunk);
    }
    assert!(stream == made.stream);
}

/// Damage of one kind, in one file, that its parity can take.
#[derive(Debug, Clone)]
enum Harm {
    Flips(Vec<(u64, u8)>),
    Zeroes(Range<u64>),
    Cut(u64),
    Unreadable(Range<u64>),
}

impl Harm {
    fn apply(&self, disk: &WornDisk, path: &Path, length: u64) {
        match self {
            Self::Flips(bits) => {
                let bytes = disk.read(path, 1 << 30).unwrap();
                for (byte, bit) in bits {
                    let at = byte % length;
                    let flipped = bytes[usize::try_from(at).unwrap()] ^ (1 << bit);
                    overwrite(disk, path, at, &[flipped]);
                }
            }
            Self::Zeroes(range) => {
                let start = range.start % length;
                let count = (range.end - range.start).min(length - start);
                overwrite(disk, path, start, &vec![0; usize::try_from(count).unwrap()]);
            }
            Self::Cut(bytes) => cut(disk, path, length - bytes.min(&length)),
            Self::Unreadable(range) => {
                let start = range.start % length;
                disk.wear(path, start..(start + range.end - range.start).min(length));
            }
        }
    }
}

fn harms() -> impl Strategy<Value = Harm> {
    let stretch = (any::<u32>(), 1..(REPAIRABLE_PAGES - 1) * PAGE)
        .prop_map(|(start, length)| u64::from(start)..u64::from(start) + length);
    prop_oneof![
        // One group can lose 16 pages; all flips may hit the same.
        prop::collection::vec((any::<u32>().prop_map(u64::from), 0..8_u8), 1..16)
            .prop_map(Harm::Flips),
        stretch.clone().prop_map(Harm::Zeroes),
        (1..(REPAIRABLE_PAGES - 1) * PAGE).prop_map(Harm::Cut),
        stretch.prop_map(Harm::Unreadable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_within_the_share_is_read_past_and_mended(harm in harms(), target in 0..4_usize, which in 0..2_usize) {
        let mode = Mode::BOTH[which];
        let made = made(mode);
        let (path, bytes) = &made.sound[target];
        // Parity files lose what they lose: they are made again from the pack.
        let disk = WornDisk::new(made.disk.fork());
        harm.apply(&disk, path, bytes.len() as u64);
        let repository = open_on(mode, disk.clone());
        check_points(&repository, made);
        let looked = verify(&repository, Repair::No);
        prop_assert!(looked.damaged.is_empty(), "{:?}", looked.damaged);
        let report = verify(&repository, Repair::Yes);
        prop_assert!(report.is_sound(), "{report:?}");
        let again = verify(&repository, Repair::Yes);
        prop_assert!(again.is_sound() && again.mended.is_empty(), "{again:?}");
        prop_assert_eq!(again.parity_made, 0);
        check_points(&repository, made);
        prop_assert!(pack_files(&disk) == made.sound, "files are as before");
    }

    #[test]
    fn hostile_parity_does_not_panic(
        pages in 0..40_u32,
        groups in 0..5_u32,
        data in 0..40_u32,
        parity in 0..40_u32,
        rest in prop::collection::vec(any::<u8>(), 0..20_000),
    ) {
        let mut bytes: Vec<u8> = [pages * 4096, groups, data, parity]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        bytes.extend(rest);
        repo::fuzz::fuzz_parity(&bytes);
    }
}

/// The repository that tests damage copies of.
fn made(mode: Mode) -> &'static Made {
    static PLAIN: std::sync::OnceLock<Made> = std::sync::OnceLock::new();
    static ENCRYPTED: std::sync::OnceLock<Made> = std::sync::OnceLock::new();
    let made = match mode {
        Mode::Plain => &PLAIN,
        Mode::Encrypted => &ENCRYPTED,
    };
    made.get_or_init(|| make(mode))
}

/// Byte ranges of a disk whose chunks are named by `hurt`, neighbours together.
fn extents(hurt: &[usize]) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for chunk in hurt {
        let start = (chunk * CHUNK) as u64;
        match found.last_mut() {
            Some((offset, length)) if *offset + *length == start => *length += CHUNK as u64,
            _ => found.push((start, CHUNK as u64)),
        }
    }
    found
}

#[test]
fn damage_beyond_the_share_is_named_to_the_byte_and_healed_by_the_next_backup() {
    Mode::each(damage_beyond_the_share_is_named_to_the_byte_and_healed_by_the_next_backup_in);
}

fn damage_beyond_the_share_is_named_to_the_byte_and_healed_by_the_next_backup_in(mode: Mode) {
    let made = made(mode);
    let disk = made.disk.fork();
    // Records of the first point's chunks lie one after the other behind the header. Half a MiB and some bytes.
    let lost = 4096 + 20 * RECORD + 100..4096 + 29 * RECORD + 50;
    let zeroes = vec![0; usize::try_from(lost.end - lost.start).unwrap()];
    overwrite(&disk, &made.pack, lost.start, &zeroes);
    let hurt: Vec<usize> = (0..CHUNKS)
        .filter(|chunk| {
            let start = 4096 + *chunk as u64 * RECORD;
            // Pages hurt in part are lost whole only if their group has lost too much, as here; but the sound part of
            // them stays as it is.
            start < lost.end && lost.start < start + 64 + CHUNK as u64
        })
        .collect();
    assert_eq!(hurt, (20..30).collect::<Vec<_>>());
    let repository = open_on(mode, disk.clone());
    for repair in [Repair::No, Repair::Yes] {
        let report = verify(&repository, repair);
        assert!(!report.is_sound());
        assert_eq!(report.lost_records, hurt.len() as u64);
        for point in repository.points(None) {
            let named: Vec<_> = report
                .damaged
                .iter()
                .filter(|damage| damage.point.as_ref() == Some(&point.name))
                .map(|damage| {
                    assert_eq!(damage.part.as_deref(), Some("disk-0"));
                    (damage.offset.unwrap(), damage.length.unwrap())
                })
                .collect();
            assert_eq!(named, extents(&hurt), "{}", point.name);
            let image = repository.image(&point, 0).unwrap();
            let index = usize::try_from(point.name.sequence).unwrap() - 1;
            for (chunk, expected) in made.contents[index].chunks(CHUNK).enumerate() {
                let mut pieces = Vec::new();
                let read = image.read((chunk * CHUNK) as u64, 65_536, &mut pieces);
                assert_eq!(read.is_err(), hurt.contains(&chunk), "chunk {chunk}");
                assert!(read.is_err() || pieces.concat() == expected);
            }
        }
    }
    // Heal on ingest: the same bytes come again, and all points have them.
    back_up(&repository, &made.contents[1], &[]);
    check_points(&repository, made);
    let report = verify(&repository, Repair::Yes);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.replaced_records, hurt.len() as u64);
    drop(repository);
    check_points(&open_on(mode, disk), made);
}

#[test]
fn a_mend_that_is_cut_off_anywhere_makes_nothing_worse() {
    Mode::each(a_mend_that_is_cut_off_anywhere_makes_nothing_worse_in);
}

fn a_mend_that_is_cut_off_anywhere_makes_nothing_worse_in(mode: Mode) {
    let made = made(mode);
    let hurt = made.disk.fork();
    overwrite(&hurt, &made.pack, 4096 + 3 * RECORD, &noise(9, 20_000));
    let length = made
        .sound
        .iter()
        .find(|(path, _)| *path == made.pack)
        .unwrap()
        .1
        .len();
    cut(&hurt, &made.pack, length as u64 - 5000);
    let whole = hurt.fork();
    let start = whole.operations();
    let repository = open_on(mode, whole.clone());
    verify(&repository, Repair::Yes);
    drop(repository);
    let steps = whole.operations() - start;
    assert!(steps > 4, "{steps}");
    for step in start..start + steps {
        for (effect, seed) in [
            (Effect::Nothing, 1),
            (Effect::Half, 2),
            (Effect::Half, 3),
            (Effect::Whole, 4),
        ] {
            let disk = hurt.fork();
            disk.inject(Fault::StopAt {
                operation: step,
                effect,
            });
            let clock = Arc::new(ManualClock::new(UnixNanoseconds(1_000)));
            let opened = Repository::open_on(
                Arc::new(disk.clone()),
                Path::new("simulated"),
                clock,
                &with_parity(mode),
            );
            if let Ok(repository) = opened {
                let options = VerifyOptions {
                    scope: VerifyScope::All,
                    rate: None,
                    repair: Repair::Yes,
                };
                drop(repository.verify_with(&options, &mut |_| ControlFlow::Continue(())));
            }
            let after = disk.crash(seed);
            let repository = open_on(mode, after.clone());
            check_points(&repository, made);
            let report = verify(&repository, Repair::Yes);
            assert!(report.is_sound(), "step {step} {effect:?}: {report:?}");
            drop(repository);
            assert!(pack_files(&after) == made.sound, "step {step} {effect:?}");
        }
    }
}

#[test]
fn a_read_repairs_on_the_fly_and_counts_it() {
    Mode::each(a_read_repairs_on_the_fly_and_counts_it_in);
}

fn a_read_repairs_on_the_fly_and_counts_it_in(mode: Mode) {
    let made = made(mode);
    let disk = made.disk.fork();
    overwrite(&disk, &made.pack, 4096 + 5 * RECORD + 1000, &[0; 4096]);
    let repository = open_on(mode, disk.clone());
    check_points(&repository, made);
    let counters = repository.repair_counters();
    // Twice if the cache is too small to keep the chunk until the second point asks for it.
    assert!(matches!(
        counters.rebuilt_reads.load(Ordering::Relaxed),
        1 | 2
    ));
    assert_eq!(counters.lost_reads.load(Ordering::Relaxed), 0);
    // The pack waits to be mended: any repair takes it along.
    let options = VerifyOptions {
        scope: VerifyScope::Oldest { packs: 0 },
        rate: None,
        repair: Repair::Yes,
    };
    let report = repository
        .verify_with(&options, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!((report.mended.len(), report.mended_pages), (1, 2));
    assert!(pack_files(&disk) == made.sound);
}

#[test]
fn parity_that_is_missing_or_of_another_pack_is_made_again() {
    Mode::each(parity_that_is_missing_or_of_another_pack_is_made_again_in);
}

fn parity_that_is_missing_or_of_another_pack_is_made_again_in(mode: Mode) {
    let made = made(mode);
    let parities: Vec<_> = made
        .sound
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|end| end == "parity"))
        .collect();
    for replacement in [None, Some(&parities[1].1), Some(&vec![0x55; 30_000])] {
        let disk = made.disk.fork();
        disk.remove(&parities[0].0).unwrap();
        if let Some(content) = replacement {
            disk.publish(&parities[0].0, content).unwrap();
        }
        let repository = open_on(mode, disk.clone());
        check_points(&repository, made);
        assert_eq!(verify(&repository, Repair::Yes).parity_made, 1);
        assert!(pack_files(&disk) == made.sound);
    }
    // Parity with the right name that was made of other bytes spoils nothing.
    let other = make(mode);
    let disk = made.disk.fork();
    let own = parities[0].0.clone();
    let wrong = other.sound.iter().find(|(path, _)| *path == own).unwrap();
    disk.replace(&own, &wrong.1).unwrap();
    let repository = open_on(mode, disk.clone());
    let report = verify(&repository, Repair::Yes);
    assert!(report.is_sound() && report.mended.is_empty(), "{report:?}");
    check_points(&repository, made);
    assert!(pack_files(&disk) == made.sound);
}

#[test]
fn nothing_is_made_if_the_share_is_none_and_all_is_found_again_when_it_is_not() {
    Mode::each(nothing_is_made_if_the_share_is_none_and_all_is_found_again_when_it_is_not_in);
}

fn nothing_is_made_if_the_share_is_none_and_all_is_found_again_when_it_is_not_in(mode: Mode) {
    let made = made(mode);
    let disk = made.disk.fork();
    for (path, _) in &made.sound {
        if path.extension().is_some_and(|end| end == "parity") {
            disk.remove(path).unwrap();
        }
    }
    let none = OpenOptions {
        parity_share: ParityShare::NONE,
        ..mode.options()
    };
    let clock = Arc::new(ManualClock::new(UnixNanoseconds(1_000)));
    let repository =
        Repository::open_on(Arc::new(disk.clone()), Path::new("simulated"), clock, &none).unwrap();
    assert_eq!(verify(&repository, Repair::Yes).parity_made, 0);
    assert_eq!(pack_files(&disk).len(), 2);
    drop(repository);
    verify(&open_on(mode, disk.clone()), Repair::Yes);
    assert!(pack_files(&disk) == made.sound);
}

#[test]
fn what_is_durable_of_an_open_pack_gets_parity_by_a_verification() {
    Mode::each(what_is_durable_of_an_open_pack_gets_parity_by_a_verification_in);
}

fn what_is_durable_of_an_open_pack_gets_parity_by_a_verification_in(mode: Mode) {
    let made = made(mode);
    let disk = made.disk.fork();
    let repository = open_on(mode, disk.clone());
    let third = noise(50, CHUNKS * CHUNK);
    back_up(&repository, &third, &[]);
    let report = verify(&repository, Repair::Yes);
    assert!(report.parity_made >= 1, "{report:?}");
    let open = pack_files(&disk)
        .into_iter()
        .filter(|(path, _)| path.extension().is_none_or(|end| end != "parity"))
        .filter(|(path, _)| !made.sound.iter().any(|(old, _)| old == path))
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    overwrite(&disk, &open.0, 4096 + 7 * RECORD, &vec![0; 70_000]);
    let point = repository.latest(&workload()).unwrap();
    assert!(read_all(&repository.image(&point, 0).unwrap()) == third);
    let after = disk.crash(7);
    drop(repository);
    let repository = open_on(mode, after);
    let point = repository.latest(&workload()).unwrap();
    assert!(read_all(&repository.image(&point, 0).unwrap()) == third);
}

#[test]
fn the_packs_proven_longest_ago_come_first() {
    Mode::each(the_packs_proven_longest_ago_come_first_in);
}

fn the_packs_proven_longest_ago_come_first_in(mode: Mode) {
    let made = made(mode);
    let disk = made.disk.fork();
    let clock = Arc::new(ManualClock::new(UnixNanoseconds(1_000)));
    let shared: Arc<dyn repo::clock::Clock> = clock.clone();
    let repository = Repository::open_on(
        Arc::new(disk),
        Path::new("simulated"),
        shared,
        &with_parity(mode),
    )
    .unwrap();
    assert_eq!(repository.proofs().never, 2);
    let sample = VerifyOptions {
        scope: VerifyScope::OneIn { parts: 2 },
        rate: None,
        repair: Repair::No,
    };
    for expected in [1, 0] {
        let report = repository
            .verify_with(&sample, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!((report.packs, repository.proofs().never), (1, expected));
        clock.advance(1_000);
    }
    assert_eq!(repository.proofs().oldest, Some(UnixNanoseconds(1_000)));
    repository
        .verify_with(&sample, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(repository.proofs().oldest, Some(UnixNanoseconds(2_000)));
    assert_eq!(repository.examined_since(UnixNanoseconds(3_000)), 1);
}

/// Parity of a pack that has the same name in a copy of the repository which went its own way: the copy was taken while the pack
/// was open, and sealed it where it stood.
struct Diverged {
    /// The original, all closed.
    disk: SimulatedDisk,
    /// What it holds.
    contents: Vec<Vec<u8>>,
    /// Packs and parity of the original and of the copy.
    original: Vec<(PathBuf, Vec<u8>)>,
    copy: Vec<(PathBuf, Vec<u8>)>,
    copied: SimulatedDisk,
}

fn diverged(mode: Mode) -> Diverged {
    let disk = SimulatedDisk::new();
    Repository::create_on(
        &disk,
        Path::new("simulated"),
        &ManualClock::new(UnixNanoseconds(1_000)),
        &mode.create_options(),
    )
    .unwrap();
    let first = noise(1, CHUNKS * CHUNK);
    // Fewer pages behind the copy's end than parity could give back, and more.
    let mut second = first.clone();
    second[..4 * CHUNK].copy_from_slice(&noise(2, 4 * CHUNK));
    let repository = open_on(mode, disk.clone());
    back_up(&repository, &first, &[]);
    let copied = disk.fork();
    back_up(&repository, &second, &[]);
    repository.close().unwrap();
    drop(repository);
    let finished = |disk: &SimulatedDisk| {
        let repository = open_on(mode, disk.clone());
        let report = verify(&repository, Repair::Yes);
        assert!(report.is_sound(), "{report:?}");
        repository.close().unwrap();
        drop(repository);
        pack_files(disk)
    };
    let copy = finished(&copied);
    let original = finished(&disk);
    let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
        files.iter().map(|(path, _)| path.clone()).collect()
    };
    assert_eq!(names(&copy), names(&original));
    Diverged {
        disk,
        contents: vec![first, second],
        original,
        copy,
        copied,
    }
}

/// Puts parity files of `files` in place of those that are there.
fn put_parity(disk: &dyn Disk, files: &[(PathBuf, Vec<u8>)]) {
    let parity = files
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|end| end == "parity"));
    for (path, bytes) in parity {
        disk.replace(path, bytes).unwrap();
    }
}

fn check_images(repository: &Repository, contents: &[Vec<u8>]) {
    for (point, content) in repository.points(None).iter().zip(contents) {
        let image = repository.image(point, 0).unwrap();
        assert!(read_all(&image) == *content, "{} differs", point.name);
    }
}

#[test]
fn parity_of_another_pack_of_the_same_name_harms_nothing() {
    Mode::each(|mode| {
        let made = diverged(mode);
        let cases = [
            (&made.disk, &made.copy, &made.original, 2),
            (&made.copied, &made.original, &made.copy, 1),
        ];
        for (disk, others, own, points) in cases {
            let disk = disk.fork();
            put_parity(&disk, others);
            let repository = open_on(mode, disk.clone());
            let looked = verify(&repository, Repair::No);
            assert!(looked.is_sound(), "{looked:?}");
            let report = verify(&repository, Repair::Yes);
            assert!(report.is_sound() && report.mended.is_empty(), "{report:?}");
            assert!(report.parity_made > 0, "it is made again");
            assert_eq!(repository.points(None).len(), points);
            check_images(&repository, &made.contents);
            drop(repository);
            assert!(
                pack_files(&disk) == *own,
                "packs and parity are as they were"
            );
        }
    });
}

#[test]
fn parity_of_another_pack_is_of_no_use_to_a_damaged_one_and_does_it_no_harm() {
    Mode::each(|mode| {
        let made = diverged(mode);
        let disk = made.disk.fork();
        put_parity(&disk, &made.copy);
        let longest = made.original.iter().max_by_key(|(_, bytes)| bytes.len());
        let (pack, bytes) = longest.unwrap();
        // One record, and the end of the table: the pack does not say any more where it ends.
        overwrite(&disk, pack, 4096 + 5 * RECORD + 1000, &[0x5A; 16]);
        overwrite(&disk, pack, bytes.len() as u64 - 40, &[0x5A; 16]);
        let hurt = pack_files(&disk);
        let repository = open_on(mode, disk.clone());
        let report = verify(&repository, Repair::Yes);
        let points: Vec<_> = report.damaged.iter().map(|damage| &damage.point).collect();
        assert_eq!((points.len(), report.mended_pages), (2, 0), "{report:?}");
        drop(repository);
        for (before, after) in hurt.iter().zip(pack_files(&disk)) {
            let is_pack = before.0.extension().is_none_or(|end| end != "parity");
            let kept = after.1.get(..before.1.len()) == Some(&before.1[..]);
            assert!(!is_pack || kept, "not a byte is changed or cut off");
        }
        let repository = open_on(mode, disk);
        for (point, content) in repository.points(None).iter().zip(&made.contents) {
            let image = repository.image(point, 0).unwrap();
            for (chunk, expected) in content.chunks(CHUNK).enumerate() {
                let mut pieces = Vec::new();
                let read = image.read((chunk * CHUNK) as u64, 65_536, &mut pieces);
                assert_eq!(read.is_err(), chunk == 5, "chunk {chunk}");
                assert!(
                    read.is_err() || pieces.concat() == expected,
                    "chunk {chunk}"
                );
            }
        }
    });
}
