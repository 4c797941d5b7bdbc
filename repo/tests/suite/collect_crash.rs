//! The world is stopped at every call of a collection: every point is whole, and a later collection ends the work.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use repo::clock::{ManualClock, UnixNanoseconds};
use repo::disk::{Disk as _, Effect, Fault, Operation, SimulatedDisk};
use repo::{
    CollectOptions, CollectReport, ImageBase, ImageSpec, PointKind, PointName, RepoError,
    Repository, SimulatedIndex, VerifyScope,
};

use crate::support::{Mode, noise, read_all, workload};

const CHUNK: usize = 65_536;

fn open(mode: Mode, disk: &SimulatedDisk, index: &SimulatedIndex) -> Result<Repository, RepoError> {
    let clock = Arc::new(ManualClock::new(UnixNanoseconds(1_000)));
    let root = Path::new("simulated");
    Repository::open_with(Arc::new(disk.clone()), root, clock, index, &mode.options())
}

fn collect(repository: &Repository) -> Result<CollectReport, RepoError> {
    let options = CollectOptions {
        grace: Duration::ZERO,
        reserve_bytes: 0,
        samples: 8,
        ..CollectOptions::default()
    };
    repository.collect(&options, &mut |_| ControlFlow::Continue(()))
}

fn back_up(repository: &Repository, seeds: &[u64]) -> Result<PointName, RepoError> {
    let mut backup = repository.begin(&workload(), PointKind::Full)?;
    let mut writer = backup.image(&ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: (seeds.len() * CHUNK) as u64,
        base: ImageBase::Nothing,
    })?;
    writer.write(0, Bytes::from(content(seeds)))?;
    backup.finish_image(writer)?;
    Ok(backup.commit()?.name.clone())
}

fn content(seeds: &[u64]) -> Vec<u8> {
    seeds.iter().flat_map(|seed| noise(*seed, CHUNK)).collect()
}

/// The content of the points that stay, and of the one that goes.
const KEPT: [&[u64]; 3] = [&[1, 50, 2], &[60, 3, 61], &[1, 2, 3, 4]];
const DROPPED: [&[u64]; 2] = [&[10, 11, 12, 13, 14, 15, 16, 17], &[20, 21, 22, 2]];

/// A repository with something to collect.
struct Prepared {
    mode: Mode,
    disk: SimulatedDisk,
    index: SimulatedIndex,
    kept: Vec<(PointName, &'static [u64])>,
}

impl Prepared {
    /// An independent copy, open.
    fn open(&self) -> (SimulatedDisk, SimulatedIndex, Repository) {
        // All of the index was flushed, so that this loses nothing.
        let (disk, index) = (self.disk.fork(), self.index.crash(0));
        let repository = open(self.mode, &disk, &index).unwrap();
        (disk, index, repository)
    }
}

/// Points in packs of their own, so that some packs are dead in the end and some mostly.
fn prepare(mode: Mode) -> Prepared {
    let index = SimulatedIndex::new();
    let disk = SimulatedDisk::new();
    let clock = ManualClock::new(UnixNanoseconds(1_000));
    let root = Path::new("simulated");
    Repository::create_on(&disk, root, &clock, &mode.create_options()).unwrap();
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    for (turn, seeds) in KEPT.into_iter().enumerate() {
        let repository = open(mode, &disk, &index).unwrap();
        if let Some(seeds) = DROPPED.get(turn) {
            dropped.push(back_up(&repository, seeds).unwrap());
            if turn == 0 {
                // The packs of this one hold nothing else.
                repository.close().unwrap();
            }
        }
        kept.push((back_up(&repository, seeds).unwrap(), seeds));
        repository.close().unwrap();
    }
    let repository = open(mode, &disk, &index).unwrap();
    for name in &dropped {
        repository.expire(name).unwrap();
    }
    repository.close().unwrap();
    drop(repository);
    Prepared {
        mode,
        disk,
        index,
        kept,
    }
}

impl Prepared {
    /// Opens what a stop left: all that must be there is, and a later collection ends the work.
    fn check(&self, disk: &SimulatedDisk, index: &SimulatedIndex, place: &str) {
        check(self.mode, disk, index, &self.kept, place);
    }
}

fn check(
    mode: Mode,
    disk: &SimulatedDisk,
    index: &SimulatedIndex,
    kept: &[(PointName, &[u64])],
    place: &str,
) {
    let repository = open(mode, disk, index).unwrap_or_else(|error| panic!("{place}: {error}"));
    for (name, seeds) in kept {
        let point = repository
            .point(name)
            .unwrap_or_else(|error| panic!("{place}: {error}"));
        let image = repository.image(&point, 0).unwrap();
        assert!(
            read_all(&image) == content(seeds),
            "{place}: {name} differs"
        );
    }
    let report = collect(&repository).unwrap_or_else(|error| panic!("{place}: {error}"));
    assert_eq!(report.waiting_packs, 0, "{place}: {report:?}");
    assert!(report.hurt_packs.is_empty(), "{place}: {report:?}");
    for (name, seeds) in kept {
        let image = repository
            .image(&repository.point(name).unwrap(), 0)
            .unwrap();
        assert!(
            read_all(&image) == content(seeds),
            "{place}: {name} differs in the end"
        );
    }
    assert!(repository.expired().is_empty(), "{place}");
    let statistics = repository.statistics().unwrap();
    let alive = repository.space_statistics().unwrap().alive_bytes;
    assert!(
        statistics.stored_bytes <= alive * 10 / 6 + 16_384 * (statistics.packs + 1),
        "{place}: {statistics:?} for {alive} bytes alive"
    );
    // What the index was told of other places lasts, should the next crash take all that it need not remember.
    for choice in 0..3 {
        let index = index.crash(choice * 7);
        let repository = open(mode, &disk.fork().kill(), &index).unwrap();
        for (name, seeds) in kept {
            let image = repository
                .image(&repository.point(name).unwrap(), 0)
                .unwrap();
            assert!(
                read_all(&image) == content(seeds),
                "{place}: {name} differs after another crash"
            );
        }
    }
    // Life goes on: what was removed is stored again, not found.
    let again = back_up(&repository, DROPPED[0]).unwrap();
    let image = repository
        .image(&repository.point(&again).unwrap(), 0)
        .unwrap();
    assert!(read_all(&image) == content(DROPPED[0]), "{place}");
}

#[test]
fn a_collection_may_end_at_every_call() {
    stop_at_every_call(Mode::Plain);
}

#[test]
fn a_collection_of_an_encrypted_repository_may_end_at_every_call() {
    stop_at_every_call(Mode::Encrypted);
}

fn stop_at_every_call(mode: Mode) {
    let prepared = prepare(mode);
    let (first, last) = {
        let (disk, _index, repository) = prepared.open();
        let first = disk.operations();
        let report = collect(&repository).unwrap();
        assert!(
            report.compacted_packs > 0 && report.removed_packs > report.compacted_packs,
            "{report:?}"
        );
        (first, disk.operations())
    };
    assert!(last - first > 20, "{first}..{last}");
    for operation in first..last {
        for effect in [Effect::Nothing, Effect::Half, Effect::Whole] {
            let (disk, index, repository) = prepared.open();
            disk.inject(Fault::StopAt { operation, effect });
            assert!(collect(&repository).is_err(), "{operation}");
            // It stays open: its end would have the index flushed.
            let place = format!("killed at {operation} ({effect:?})");
            let after = disk.fork().kill();
            prepared.check(&after, &index.crash(operation * 5), &place);
            for seed in 0..3 {
                let place = format!("power failed at {operation} ({effect:?}), seed {seed}");
                let after = disk.fork().crash(seed);
                let index = index.crash(operation * 11 + seed * 101);
                prepared.check(&after, &index, &place);
            }
        }
    }
}

#[test]
fn a_failed_call_is_an_error_and_hurts_nothing() {
    Mode::each(|mode| {
        let prepared = prepare(mode);
        for operation in [
            Operation::Write,
            Operation::Sync,
            Operation::Create,
            Operation::Publish,
            Operation::Remove,
        ] {
            for nth in 0..60 {
                let (disk, index, repository) = prepared.open();
                disk.inject(Fault::Fail { operation, nth });
                let outcome = collect(&repository);
                disk.clear_faults();
                let place = format!("{operation:?} {nth} failed");
                prepared.check(&disk.fork().crash(nth), &index.crash(nth * 17), &place);
                if outcome.is_ok() {
                    assert!(nth > 0, "{operation:?} never failed");
                    break;
                }
            }
        }
    });
}

#[test]
fn a_collection_gets_along_without_any_room() {
    Mode::each(|mode| {
        let prepared = prepare(mode);
        for kibibytes in [0, 16, 64, 200, 1000] {
            let (disk, index, repository) = prepared.open();
            disk.inject(Fault::FullAfter {
                bytes: kibibytes * 1024,
            });
            match collect(&repository) {
                Ok(_) => {}
                Err(error) => assert!(error.is_full(), "{kibibytes}: {error}"),
            }
            disk.clear_faults();
            drop(repository);
            let place = format!("with room for {kibibytes} KiB");
            prepared.check(&disk.fork().kill(), &index, &place);
        }
    });
}

#[test]
fn copies_are_found_when_there_is_no_room_to_seal_their_pack() {
    Mode::each(|mode| {
        let prepared = prepare(mode);
        let (disk, index, repository) = prepared.open();
        let report = collect(&repository).unwrap();
        assert!(report.copied_bytes > 0, "{report:?}");
        // Maps still say where the records were before.
        let (after, index) = (disk.kill(), index.crash(0));
        drop(repository);
        after.inject(Fault::FullAfter { bytes: 0 });
        let repository = open(mode, &after, &index).unwrap();
        for (name, seeds) in &prepared.kept {
            let image = repository
                .image(&repository.point(name).unwrap(), 0)
                .unwrap();
            assert!(read_all(&image) == content(seeds), "{name} differs");
        }
        drop(repository);
        after.clear_faults();
        let repository = open(mode, &after, &index).unwrap();
        let sealed = repository.statistics().unwrap().packs;
        assert!(sealed > 0);
        back_up(&repository, DROPPED[0]).unwrap();
    });
}

/// A point that may be back at the next opening must not lose its space before.
#[test]
fn a_return_that_failed_half_way_keeps_its_space() {
    Mode::each(|mode| {
        let mut seen = [0; 2];
        for operation in [Operation::Publish, Operation::Remove, Operation::Sync] {
            for seed in 0..8 {
                let prepared = prepare(mode);
                // What a failing call does follows from the disk's seed, which its story moves on.
                let (disk, index) = (prepared.disk.fork(), prepared.index.crash(0));
                disk.reseed(seed);
                let repository = open(mode, &disk, &index).unwrap();
                let name = repository.expired()[0].name.clone();
                // The release mark is not there, and its removal is the first.
                let nth = u64::from(operation == Operation::Remove);
                disk.inject(Fault::Fail { operation, nth });
                assert!(repository.unexpire(&name).is_err(), "{operation:?}");
                disk.clear_faults();
                collect(&repository).unwrap();
                drop(repository);
                let repository = open(mode, &disk.kill(), &index).unwrap();
                let back = repository.point(&name);
                seen[usize::from(back.is_ok())] += 1;
                if let Ok(point) = back {
                    let image = repository.image(&point, 0).unwrap();
                    assert!(read_all(&image) == content(DROPPED[0]), "{operation:?}");
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    });
}

#[test]
fn a_pack_that_somebody_took_away_stops_neither_backups_nor_collections() {
    Mode::each(|mode| {
        let prepared = prepare(mode);
        let (disk, index, repository) = prepared.open();
        let with_grace = CollectOptions {
            reserve_bytes: 0,
            samples: 8,
            ..CollectOptions::default()
        };
        let report = repository
            .collect(&with_grace, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(report.condemned_packs > 1, "{report:?}");
        let hurt = back_up(&repository, &[80, 81]).unwrap();
        drop(repository);
        // Packs that were open are asked for their tables from now on.
        let (disk, index) = (disk.kill(), index.crash(u64::MAX));
        let repository = open(mode, &disk, &index).unwrap();
        let packs = |of_condemned: bool| -> Vec<std::path::PathBuf> {
            let mut found = Vec::new();
            for folder in disk.list(Path::new("packs")).unwrap() {
                let folder = Path::new("packs").join(folder.name);
                let items = disk.list(&folder).unwrap();
                let marked = |name: &str| {
                    items
                        .iter()
                        .any(|item| item.name == format!("{name}.condemned"))
                };
                let packs = items.iter().filter(|item| item.name.len() == 17);
                let packs = packs.filter(|item| marked(&item.name) == of_condemned);
                found.extend(packs.map(|item| folder.join(&item.name)));
            }
            found
        };
        disk.remove(&packs(true)[0]).unwrap();
        disk.remove(packs(false).last().unwrap()).unwrap();
        let again = back_up(&repository, &[80, 81, 82]).unwrap();
        let image = repository
            .image(&repository.point(&again).unwrap(), 0)
            .unwrap();
        assert!(read_all(&image) == content(&[80, 81, 82]));
        // Nobody knows what it needs, so nothing is freed while it is there.
        assert!(collect(&repository).is_err());
        repository.expire(&hurt).unwrap();
        let report = collect(&repository).unwrap();
        assert!(report.removed_packs > 0, "{report:?}");
        assert!(!report.hurt_packs.is_empty(), "{report:?}");
    });
}

/// Of two records of a chunk, the pack with the one that the index knows goes. A crash must not take from the index where
/// the other is: a map may know only the one that is gone.
#[test]
fn a_removed_pack_leaves_no_chunk_that_cannot_be_found() {
    Mode::each(|mode| {
        let disk = SimulatedDisk::new();
        let index = SimulatedIndex::new();
        let clock = ManualClock::new(UnixNanoseconds(1_000));
        let root = Path::new("simulated");
        Repository::create_on(&disk, root, &clock, &mode.create_options()).unwrap();
        let repository = open(mode, &disk, &index).unwrap();
        let first = back_up(&repository, &[1, 2, 3]).unwrap();
        collect(&repository).unwrap();
        repository.close().unwrap();
        drop(repository);
        // While the second chunk cannot be read, it is stored again.
        let folder = Path::new("packs").join(&disk.list(Path::new("packs")).unwrap()[0].name);
        let packs = disk.list(&folder).unwrap();
        let largest = packs.iter().max_by_key(|item| item.length_bytes).unwrap();
        let pack = folder.join(&largest.name);
        let flip = || assert!(disk.flip_bit(&pack, 4096 + 65_664 + 30_000, 3));
        flip();
        let repository = open(mode, &disk, &index).unwrap();
        let found = repository
            .verify(&VerifyScope::All, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(!found.is_sound());
        let dropped = back_up(&repository, &[10, 11, 12, 2]).unwrap();
        repository.close().unwrap();
        drop(repository);
        let repository = open(mode, &disk, &index).unwrap();
        let second = back_up(&repository, &[2]).unwrap();
        let stored = &repository.counters().stored_chunks;
        assert_eq!(stored.load(std::sync::atomic::Ordering::Relaxed), 0);
        repository.close().unwrap();
        drop(repository);
        flip();
        let repository = open(mode, &disk, &index).unwrap();
        repository.expire(&dropped).unwrap();
        // Without copies, whose packs have the index flushed.
        let with_grace = CollectOptions {
            reserve_bytes: 0,
            samples: 8,
            compact_below_percent: 1,
            ..CollectOptions::default()
        };
        let report = repository
            .collect(&with_grace, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(report.condemned_packs > 0, "{report:?}");
        assert_eq!(report.copied_bytes, 0, "{report:?}");
        let (disk, index) = (disk.kill(), index.crash(0));
        drop(repository);
        let repository = open(mode, &disk, &index).unwrap();
        let at_once = CollectOptions {
            grace: Duration::ZERO,
            ..with_grace
        };
        let report = repository
            .collect(&at_once, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(report.removed_packs > 0, "{report:?}");
        let (disk, index) = (disk.kill(), index.crash(0));
        drop(repository);
        let repository = open(mode, &disk, &index).unwrap();
        // The one whose map knows only the place that is gone comes first, so that nothing is in memory.
        for (name, seeds) in [(second, &[2][..]), (first, &[1, 2, 3])] {
            let image = repository
                .image(&repository.point(&name).unwrap(), 0)
                .unwrap();
            assert!(read_all(&image) == content(seeds), "{name} differs");
        }
    });
}
