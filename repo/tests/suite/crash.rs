//! The store is stopped at every call that changes something: what was acknowledged is whole, the rest not visible.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use repo::clock::{ManualClock, UnixNanoseconds};
use repo::disk::{Access, Caching, Disk, Effect, Fault, Operation, SimulatedDisk};
use repo::{
    ImageBase, ImageSpec, PointKind, PointName, RepoError, Repository, SimulatedIndex, VerifyScope,
};

use crate::support::{Mode, noise, read_all, workload};

const SIZE: usize = 640 * 1024 + 512;

/// What the scenario was told, and may therefore rely on.
#[derive(Debug, Default, Clone)]
struct Acknowledged {
    created: bool,
    points: Vec<(PointName, Vec<u8>)>,
    /// The step that was not answered: its point may be there, whole, or not.
    pending: Option<Vec<u8>>,
    expiring: Option<PointName>,
}

fn open(disk: &SimulatedDisk, mode: Mode) -> Result<Repository, RepoError> {
    let clock = Arc::new(ManualClock::new(UnixNanoseconds(1_000)));
    Repository::open_on(
        Arc::new(disk.clone()),
        Path::new("simulated"),
        clock,
        &mode.options(),
    )
}

/// Backups of three kinds, an expiry and a reopening, until something fails.
fn scenario(disk: &SimulatedDisk, mode: Mode, told: &mut Acknowledged) -> Result<(), RepoError> {
    let clock = ManualClock::new(UnixNanoseconds(1_000));
    Repository::create_on(disk, Path::new("simulated"), &clock, &mode.create_options())?;
    told.created = true;
    let repository = open(disk, mode)?;
    let mut content = noise(1, SIZE);
    back_up(&repository, told, &content, &[(0, content.clone())])?;
    let change = noise(2, 1024);
    content[200_704..][..1024].copy_from_slice(&change);
    back_up(&repository, told, &content, &[(200_704, change)])?;
    repository.close()?;
    drop(repository);
    let repository = open(disk, mode)?;
    content[..65_536].fill(0);
    back_up(&repository, told, &content, &[(0, vec![0; 65_536])])?;
    let first = told.points[0].0.clone();
    told.expiring = Some(first.clone());
    repository.expire(&first)?;
    told.expiring = None;
    told.points.remove(0);
    seal(&repository, told, &mut content)?;
    // What would be done when the last clone is dropped, where nobody hears of errors.
    repository.close()
}

fn back_up(
    repository: &Repository,
    told: &mut Acknowledged,
    content: &[u8],
    writes: &[(u64, Vec<u8>)],
) -> Result<(), RepoError> {
    told.pending = Some(content.to_vec());
    let mut backup = repository.begin(&workload(), PointKind::Incremental)?;
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: SIZE as u64,
        base: ImageBase::Parent,
    };
    let mut writer = backup.image(&spec)?;
    for (offset, bytes) in writes {
        writer.write(*offset, Bytes::copy_from_slice(bytes))?;
    }
    backup.finish_image(writer)?;
    let point = backup.commit()?;
    told.pending = None;
    told.points.push((point.name.clone(), content.to_vec()));
    Ok(())
}

/// Writes to an overlay over the newest point and makes it the next one.
fn seal(
    repository: &Repository,
    told: &mut Acknowledged,
    content: &mut [u8],
) -> Result<(), RepoError> {
    let point = repository.latest(&workload()).unwrap();
    let overlay = repository.create_overlay(&point, 0)?;
    let bytes = noise(3, 8192);
    overlay.write(65_536 - 4096, &[Bytes::from(bytes.clone())], false)?;
    overlay.discard(300 * 1024, 128 * 1024, false)?;
    overlay.copy(524_288, 131_072 + 512, 65_536, false)?;
    content[65_536 - 4096..][..8192].copy_from_slice(&bytes);
    content.copy_within(131_072 + 512..196_608 + 512, 524_288);
    content[300 * 1024..][..128 * 1024].fill(0);
    told.pending = Some(content.to_vec());
    let mut backup = repository.begin(&workload(), PointKind::Sealed)?;
    backup.seal_overlay(&overlay, "disk-0")?;
    let sealed = backup.commit()?;
    told.pending = None;
    told.points.push((sealed.name.clone(), content.to_vec()));
    repository.discard_overlay(overlay.id())
}

/// The disk after the end holds what was acknowledged, and nothing half.
fn check(disk: &SimulatedDisk, mode: Mode, told: &Acknowledged, place: &str) {
    let place = &format!("{mode:?}, {place}");
    let repository = match open(disk, mode) {
        Ok(repository) => repository,
        Err(RepoError::NotARepository { .. } | RepoError::Disk(_)) if !told.created => return,
        Err(error) => panic!("{place}: the repository does not open: {error}"),
    };
    for (name, content) in &told.points {
        if told.expiring.as_ref() == Some(name) {
            continue;
        }
        let point = repository
            .point(name)
            .unwrap_or_else(|error| panic!("{place}: {name} was acknowledged: {error}"));
        let found = read_all(&repository.image(&point, 0).unwrap());
        assert!(found == *content, "{place}: {name} is not what it was");
    }
    for point in repository.points(None) {
        let known = told.points.iter().any(|(name, _)| *name == point.name);
        let found = read_all(&repository.image(&point, 0).unwrap());
        let pending = told
            .pending
            .as_ref()
            .is_some_and(|pending| *pending == found);
        assert!(
            known || pending,
            "{place}: {} was never acknowledged and is not whole",
            point.name
        );
    }
    let report = repository
        .verify(&VerifyScope::All, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(report.is_sound(), "{place}: {:?}", report.damaged);
    // Life goes on: what a crash left behind must not mislead the next backup.
    let last = told
        .points
        .last()
        .map_or_else(|| noise(1, SIZE), |(_, content)| content.clone());
    let mut more = Acknowledged::default();
    back_up(&repository, &mut more, &last, &[(0, last.clone())]).unwrap();
    back_up(
        &repository,
        &mut more,
        &noise(1, SIZE),
        &[(0, noise(1, SIZE))],
    )
    .unwrap();
    repository.close().unwrap();
    drop(repository);
    let repository = open(disk, mode).unwrap();
    for (name, content) in &more.points {
        let image = repository
            .image(&repository.point(name).unwrap(), 0)
            .unwrap();
        assert!(
            read_all(&image) == *content,
            "{place}: {name}, made after the crash, is wrong"
        );
    }
}

fn operations_of_scenario(mode: Mode) -> u64 {
    let disk = SimulatedDisk::new();
    scenario(&disk, mode, &mut Acknowledged::default()).unwrap();
    disk.operations()
}

#[test]
fn acknowledged_points_survive_a_stop_at_every_call() {
    Mode::each(stop_at_every_call);
}

fn stop_at_every_call(mode: Mode) {
    let operations = operations_of_scenario(mode);
    assert!(operations > 30, "{operations}");
    for at in 0..operations {
        for effect in [Effect::Nothing, Effect::Half, Effect::Whole] {
            let disk = SimulatedDisk::new();
            disk.inject(Fault::StopAt {
                operation: at,
                effect,
            });
            let mut told = Acknowledged::default();
            assert!(
                scenario(&disk, mode, &mut told).is_err(),
                "{at}: the world stopped and nobody noticed"
            );
            check(
                &disk.fork().kill(),
                mode,
                &told,
                &format!("killed at {at} ({effect:?})"),
            );
            for seed in 0..2 {
                check(
                    &disk.fork().crash(seed),
                    mode,
                    &told,
                    &format!("power failed at {at} ({effect:?}), seed {seed}"),
                );
            }
        }
    }
}

#[test]
fn a_failed_write_or_sync_is_an_error_and_hurts_nothing() {
    Mode::each(fail_writes_and_syncs);
}

fn fail_writes_and_syncs(mode: Mode) {
    for operation in [
        Operation::Write,
        Operation::Sync,
        Operation::Create,
        Operation::Publish,
    ] {
        for nth in 0..120 {
            let disk = SimulatedDisk::seeded(nth);
            disk.inject(match nth % 2 {
                0 => Fault::Fail {
                    operation,
                    nth: nth / 2,
                },
                _ => Fault::NoSpace {
                    operation,
                    nth: nth / 2,
                },
            });
            let mut told = Acknowledged::default();
            let ended = scenario(&disk, mode, &mut told);
            disk.clear_faults();
            for seed in 0..2 {
                check(
                    &disk.fork().crash(seed),
                    mode,
                    &told,
                    &format!("{operation:?} {nth} failed, seed {seed}"),
                );
            }
            if ended.is_ok() && nth % 2 == 1 {
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_is_a_clean_error_and_room_is_enough_to_go_on() {
    Mode::each(fill_the_disk);
}

fn fill_the_disk(mode: Mode) {
    let whole = {
        let disk = SimulatedDisk::new();
        scenario(&disk, mode, &mut Acknowledged::default()).unwrap();
        disk.list(Path::new("packs/01")).unwrap()[0].length_bytes
    };
    for step in 0..40 {
        let disk = SimulatedDisk::new();
        disk.inject(Fault::FullAfter {
            bytes: whole * 2 * step / 40,
        });
        let mut told = Acknowledged::default();
        if let Err(error) = scenario(&disk, mode, &mut told) {
            assert!(error.is_full(), "step {step}: {error}");
        }
        disk.clear_faults();
        check(
            &disk.fork().kill(),
            mode,
            &told,
            &format!("full at step {step}"),
        );
    }
}

#[test]
fn once_there_is_room_again_the_same_process_goes_on() {
    Mode::each(make_room_again);
}

fn make_room_again(mode: Mode) {
    for bytes in [8_192, 300_000, 5_000_000] {
        let disk = SimulatedDisk::new();
        let clock = ManualClock::new(UnixNanoseconds(1_000));
        Repository::create_on(
            &disk,
            Path::new("simulated"),
            &clock,
            &mode.create_options(),
        )
        .unwrap();
        let repository = open(&disk, mode).unwrap();
        let mut told = Acknowledged::default();
        let first = noise(1, SIZE);
        back_up(&repository, &mut told, &first, &[(0, first.clone())]).unwrap();
        disk.inject(Fault::FullAfter { bytes });
        let mut full = false;
        for seed in 10..30 {
            let other = noise(seed, SIZE);
            if let Err(error) = back_up(&repository, &mut told, &other, &[(0, other.clone())]) {
                assert!(error.is_full(), "{error}");
                full = true;
                break;
            }
        }
        assert!(full, "{bytes}: the disk never became full");
        disk.clear_faults();
        let next = noise(50, SIZE);
        back_up(&repository, &mut told, &next, &[(0, next.clone())]).unwrap();
        told.created = true;
        drop(repository);
        check(&disk.fork().crash(1), mode, &told, "after room was made");
    }
}

/// A commit that was not answered may be there. Once it was shown, somebody builds on it, so it must stay.
#[test]
fn a_point_that_was_shown_does_not_go_again() {
    let mut shown = 0;
    for seed in 0..12 {
        let disk = SimulatedDisk::new();
        let mut told = Acknowledged::default();
        let before = {
            let disk = SimulatedDisk::new();
            let repository = fresh_on(&disk);
            let content = noise(1, SIZE);
            back_up(&repository, &mut told, &content, &[(0, content.clone())]).unwrap();
            disk.operations()
        };
        let repository = fresh_on(&disk);
        // The last call of a commit publishes the manifest.
        disk.inject(Fault::StopAt {
            operation: before - 1,
            effect: Effect::Whole,
        });
        let content = noise(1, SIZE);
        back_up(&repository, &mut told, &content, &[(0, content.clone())]).unwrap_err();
        let disk = disk.kill();
        let points = open(&disk, Mode::Plain).unwrap().points(None).len();
        let later = open(&disk.crash(seed), Mode::Plain).unwrap();
        assert_eq!(later.points(None).len(), points, "seed {seed}");
        shown += points;
    }
    assert_eq!(shown, 12, "the manifest was named when the process ended");
}

/// The process ends between writing a pack's table and its sync; what the next one reads may be in memory only.
#[test]
fn a_table_that_was_not_synced_is_synced_before_it_is_believed() {
    for seed in 0..30 {
        let disk = SimulatedDisk::new();
        let repository = fresh_on(&disk);
        let mut told = Acknowledged::default();
        let content = noise(1, SIZE);
        back_up(&repository, &mut told, &content, &[(0, content.clone())]).unwrap();
        let writes = disk.operations();
        // Closing writes the table of the first pack, and stops at its sync.
        disk.inject(Fault::StopAt {
            operation: writes + 1,
            effect: Effect::Nothing,
        });
        repository.close().unwrap_err();
        let disk = disk.kill();
        let index = SimulatedIndex::new();
        drop(open_knowing(&disk, &index));
        let disk = disk.crash(seed);
        let repository = open_knowing(&disk, &index);
        let report = repository
            .verify(&VerifyScope::All, &mut |_| {
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        assert!(report.is_sound(), "seed {seed}: {:?}", report.damaged);
    }
}

/// A pack whose name goes with the power must not lend what the index was told of it to another.
#[test]
fn the_number_of_a_pack_that_got_lost_is_not_given_again() {
    let mut lost = 0;
    for seed in 0..30 {
        let disk = SimulatedDisk::new();
        drop(fresh_on(&disk));
        // A process that ended before it made the name of its first pack durable.
        let path = Path::new("packs/01/00000001.00000001");
        disk.create_directory(Path::new("packs/01")).unwrap();
        drop(disk.create(path, Caching::Direct).unwrap());
        let index = SimulatedIndex::new();
        drop(open_knowing(&disk, &index));
        let disk = disk.crash(seed);
        lost += usize::from(disk.open(path, Access::Read, Caching::Direct).is_err());
        let repository = open_knowing(&disk, &index);
        let mut told = Acknowledged::default();
        let content = noise(1, SIZE);
        back_up(&repository, &mut told, &content, &[(0, content.clone())]).unwrap();
        let disk = disk.crash(seed);
        let report = open_knowing(&disk, &index)
            .verify(&VerifyScope::All, &mut |_| {
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        assert!(report.is_sound(), "seed {seed}: {:?}", report.damaged);
    }
    assert!(lost > 0, "no seed took the name");
}

fn fresh_on(disk: &SimulatedDisk) -> Repository {
    let clock = ManualClock::new(UnixNanoseconds(1_000));
    let options = Mode::Plain.create_options();
    Repository::create_on(disk, Path::new("simulated"), &clock, &options).unwrap();
    open(disk, Mode::Plain).unwrap()
}

fn open_knowing(disk: &SimulatedDisk, index: &SimulatedIndex) -> Repository {
    Repository::open_with(
        Arc::new(disk.clone()),
        Path::new("simulated"),
        Arc::new(ManualClock::new(UnixNanoseconds(1_000))),
        index,
        &Mode::Plain.options(),
    )
    .unwrap()
}
