//! Overlays through power failure, the end of the process, full and failing disks.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::collections::BTreeSet;
use std::sync::Arc;

use repo::RepoError;
use repo::disk::{Disk, Effect, Fault, Operation, SimulatedDisk};
use repo::overlay::{BlockCache, Overlay, OverlaySettings};

use crate::overlay_rig::{ID, Model, Rig, pieces, read, small_settings, tagged};

const SIZE_BYTES: u64 = 4 * 65536;
const SECTORS: usize = SIZE_BYTES as usize / 512;

/// What each sector may hold after power failure, and must hold after a mere kill.
struct Expected {
    /// What every answer so far adds up to.
    now: Vec<Vec<u8>>,
    /// All that may be found if power fails: the content at the last answered flush and everything since.
    possible: Vec<BTreeSet<Vec<u8>>>,
    /// What may be found beside `now` after a kill: effects of the call that got no answer.
    doubtful: Vec<BTreeSet<Vec<u8>>>,
}

impl Expected {
    fn new(rig: &Rig) -> Self {
        let now: Vec<Vec<u8>> = Model::new(&rig.ground)
            .bytes
            .chunks(512)
            .map(<[u8]>::to_vec)
            .collect();
        let possible = now
            .iter()
            .map(|sector| BTreeSet::from([sector.clone()]))
            .collect();
        Self {
            possible,
            doubtful: vec![BTreeSet::new(); now.len()],
            now,
        }
    }

    /// A call that puts these bytes there began; it may take effect from now on.
    fn begin(&mut self, sector: usize, bytes: &[u8]) {
        for (at, bytes) in (sector..).zip(bytes.chunks(512)) {
            self.possible[at].insert(bytes.to_vec());
            self.doubtful[at].insert(bytes.to_vec());
        }
    }

    fn answered(&mut self, sector: usize, bytes: &[u8]) {
        for (at, bytes) in (sector..).zip(bytes.chunks(512)) {
            self.now[at] = bytes.to_vec();
            self.doubtful[at].clear();
        }
    }

    fn flushed(&mut self) {
        for (possible, now) in self.possible.iter_mut().zip(&self.now) {
            *possible = BTreeSet::from([now.clone()]);
        }
    }

    fn check_after_kill(&self, overlay: &Overlay, what: &str) -> Vec<Vec<u8>> {
        let found = sectors(overlay);
        for (at, sector) in found.iter().enumerate() {
            assert!(
                *sector == self.now[at] || self.doubtful[at].contains(sector),
                "{what}: sector {at} after a kill"
            );
        }
        found
    }

    fn check_after_crash(&self, overlay: &Overlay, what: &str) -> Vec<Vec<u8>> {
        let found = sectors(overlay);
        for (at, sector) in found.iter().enumerate() {
            assert!(
                self.possible[at].contains(sector),
                "{what}: sector {at} after power failure"
            );
        }
        found
    }
}

fn sectors(overlay: &Overlay) -> Vec<Vec<u8>> {
    read(overlay, 0, SIZE_BYTES as usize)
        .unwrap()
        .chunks(512)
        .map(<[u8]>::to_vec)
        .collect()
}

/// A scenario with everything in it; stops at the first error.
fn scenario(rig: &Rig, expected: &mut Expected) -> Result<(), RepoError> {
    let overlay = rig.create()?;
    let mut place = 5;
    for tag in 1..60_u64 {
        place = (place * 37 + 11) % (SECTORS - 40);
        let sectors = [1, 8, 3, 40, 16][tag as usize % 5];
        match tag % 11 {
            3 | 8 => {
                overlay.flush()?;
                expected.flushed();
            }
            5 => {
                let zeroes = vec![0; sectors * 512];
                expected.begin(place, &zeroes);
                overlay.discard(place as u64 * 512, zeroes.len() as u64, false)?;
                expected.answered(place, &zeroes);
            }
            9 => overlay.checkpoint()?,
            6 | 10 => {
                let from = (place + SECTORS / 2) % (SECTORS - 40);
                if from.abs_diff(place) >= sectors {
                    let bytes = expected.now[from..from + sectors].concat();
                    expected.begin(place, &bytes);
                    let length = sectors as u64 * 512;
                    overlay.copy(place as u64 * 512, from as u64 * 512, length, false)?;
                    expected.answered(place, &bytes);
                }
            }
            _ => {
                let bytes = tagged(tag, sectors);
                let stable = tag % 13 == 0;
                expected.begin(place, &bytes);
                overlay.write(place as u64 * 512, &pieces(&bytes), stable)?;
                expected.answered(place, &bytes);
                if stable {
                    expected.flushed();
                }
            }
        }
    }
    Ok(())
}

fn tight() -> OverlaySettings {
    OverlaySettings {
        unsynced_bytes_max: 30_000,
        ..small_settings()
    }
}

/// Opens what a stop left, checks it, goes on with it, and checks again after another end.
fn check_end(rig: &Rig, expected: &Expected, power_failed: bool, what: &str) {
    let overlay = match rig.open() {
        Ok(overlay) => overlay,
        Err(RepoError::NoSuchOverlay(_)) => {
            assert!(
                expected.possible.iter().all(|possible| possible.len() == 1),
                "{what}: the overlay is gone"
            );
            repo::overlay::finish_discards(&rig.disk, &rig.keys, &*rig.pages).unwrap();
            if let Ok(left) = rig.disk.list("overlays".as_ref()) {
                assert!(left.is_empty(), "{what}: {left:?}");
            }
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let mut found = match power_failed {
        true => expected.check_after_crash(&overlay, what),
        false => expected.check_after_kill(&overlay, what),
    };
    overlay
        .write(512 * 77, &pieces(&tagged(9999, 2)), false)
        .unwrap();
    overlay.flush().unwrap();
    for (at, sector) in (77..79).zip(tagged(9999, 2).chunks(512)) {
        found[at] = sector.to_vec();
    }
    assert!(sectors(&overlay) == found, "{what}: going on");
    drop(overlay);
    let again = rig.crash(what.len() as u64);
    assert!(
        sectors(&again.open().unwrap()) == found,
        "{what}: opened again"
    );
}

#[test]
fn whatever_call_is_the_last_nothing_answered_is_lost() {
    stop_at_every_call(&|| Rig::new(SIZE_BYTES, tight()), 6);
}

#[test]
fn whatever_call_is_the_last_nothing_answered_is_lost_where_all_is_encrypted() {
    stop_at_every_call(&|| Rig::new(SIZE_BYTES, tight()).encrypted(), 2);
}

/// A write that crosses chunks is several records, and still there in whole or not at all.
#[test]
fn power_failure_leaves_a_write_whole_or_out() {
    let (offset, length) = (65536 - 2048, 65536 + 8192);
    let (old, new) = (tagged(1, length / 512), tagged(2, length / 512));
    let mut seen = BTreeSet::new();
    for (number, rig) in Rig::both(SIZE_BYTES, &small_settings()).iter().enumerate() {
        let overlay = rig.create().unwrap();
        overlay.write(offset, &pieces(&old), true).unwrap();
        overlay.write(offset, &pieces(&new), false).unwrap();
        drop(overlay);
        for seed in 0..60 {
            let forked = Rig {
                disk: rig.disk.fork(),
                ..rig.clone()
            };
            let overlay = forked.crash(seed).open().unwrap();
            let found = read(&overlay, offset, length).unwrap();
            assert!(
                found == old || found == new,
                "seed {seed}: a part of the write is there"
            );
            seen.insert((number, found == new));
        }
    }
    assert_eq!(seen.len(), 4, "both ends are met in both kinds of journals");
}

fn stop_at_every_call(fresh: &dyn Fn() -> Rig, seeds: u64) {
    let whole = fresh();
    scenario(&whole, &mut Expected::new(&whole)).unwrap();
    let operations = whole.disk.operations();
    assert!(operations > 100, "{operations}");
    let mut stops = 0;
    for operation in 0..operations {
        for effect in [Effect::Nothing, Effect::Half, Effect::Whole] {
            let rig = fresh();
            let mut expected = Expected::new(&rig);
            rig.disk.inject(Fault::StopAt { operation, effect });
            // A stop may hit a call whose failure is no failure for the caller: the note of a sync.
            if scenario(&rig, &mut expected).is_err() {
                stops += 1;
            }
            let what = format!("stopped at {operation} {effect:?}");
            let forked = Rig {
                disk: rig.disk.fork(),
                ..rig.clone()
            };
            check_end(&forked.kill(operation), &expected, false, &what);
            for seed in 0..seeds {
                let forked = Rig {
                    disk: rig.disk.fork(),
                    ..rig.clone()
                };
                let seed = operation * 100 + seed;
                check_end(
                    &forked.crash(seed),
                    &expected,
                    true,
                    &format!("{what} seed {seed}"),
                );
            }
        }
    }
    assert!(stops > 200);
}

#[test]
fn power_failure_at_the_end_of_long_runs() {
    for seed in 0..150 {
        for rig in Rig::both(SIZE_BYTES, &tight()) {
            let mut expected = Expected::new(&rig);
            scenario(&rig, &mut expected).unwrap();
            check_end(&rig.crash(seed), &expected, true, &format!("seed {seed}"));
        }
    }
}

#[test]
fn a_torn_tail_is_cut_at_any_byte() {
    let rig = Rig::new(SIZE_BYTES, OverlaySettings::default());
    let overlay = rig.create().unwrap();
    overlay.write(0, &pieces(&tagged(1, 8)), true).unwrap();
    let path = format!("overlays/{ID}/journal.00000001");
    let path = path.as_ref();
    let before = rig.disk.read(path, 1 << 20).unwrap().len();
    overlay
        .write(512 * 2, &pieces(&tagged(2, 2)), false)
        .unwrap();
    overlay
        .write(512 * 6, &pieces(&tagged(3, 4)), false)
        .unwrap();
    let all = rig.disk.read(path, 1 << 20).unwrap();
    let second = before + 64 + 1024;
    assert_eq!(all.len(), second + 64 + 2048);
    for length in before..=all.len() {
        let cut = Rig {
            disk: rig.disk.fork(),
            ..rig.clone()
        };
        cut.disk.replace(path, &all[..length]).unwrap();
        let overlay = cut.open().unwrap();
        let mut model = Model::new(&rig.ground);
        model.put(0, &tagged(1, 8));
        if length >= second {
            model.put(2, &tagged(2, 2));
        }
        if length == all.len() {
            model.put(6, &tagged(3, 4));
        }
        assert!(
            read(&overlay, 0, SIZE_BYTES as usize).unwrap() == model.bytes,
            "cut at {length}"
        );
    }
    for length in 128..before - 64 {
        let cut = Rig {
            disk: rig.disk.fork(),
            ..rig.clone()
        };
        cut.disk.replace(path, &all[..length]).unwrap();
        // Only if nothing at all is left that tells of the flush can the loss not be noticed.
        let opened = cut.open();
        assert!(opened.is_ok() || opened.unwrap_err().is_corrupt());
    }
}

#[test]
fn a_journal_shorter_than_its_checkpoint_is_reported() {
    let rig = Rig::new(SIZE_BYTES, OverlaySettings::default());
    let overlay = rig.create().unwrap();
    overlay.write(0, &pieces(&tagged(1, 8)), true).unwrap();
    overlay.checkpoint().unwrap();
    drop(overlay);
    let path = format!("overlays/{ID}/journal.00000001");
    let all = rig.disk.read(path.as_ref(), 1 << 20).unwrap();
    rig.disk
        .replace(path.as_ref(), &all[..all.len() - 200])
        .unwrap();
    assert!(rig.open().unwrap_err().is_corrupt());
    rig.disk.remove(path.as_ref()).unwrap();
    assert!(rig.open().unwrap_err().is_corrupt());
}

#[test]
fn a_full_disk_is_a_clean_error_and_writes_go_on_when_there_is_room() {
    for room in (0..40_000).step_by(777) {
        let rig = Rig::new(SIZE_BYTES, small_settings());
        let overlay = rig.create().unwrap();
        let mut expected = Expected::new(&rig);
        rig.disk.inject(Fault::FullAfter { bytes: room });
        let mut failed = 0;
        for tag in 1..20_usize {
            let bytes = tagged(tag as u64, 8);
            expected.begin(tag * 5, &bytes);
            match overlay.write(tag as u64 * 5 * 512, &pieces(&bytes), tag % 3 == 0) {
                Ok(()) => expected.answered(tag * 5, &bytes),
                Err(error) => {
                    assert!(error.is_full(), "{error}");
                    failed += 1;
                }
            }
        }
        assert_eq!(failed > 0, room < 80_000, "{room}");
        overlay.flush().unwrap();
        expected.flushed();
        let forked = Rig {
            disk: rig.disk.fork(),
            ..rig.clone()
        };
        check_end(
            &forked.crash(room),
            &Expected {
                possible: widen(&expected),
                ..Expected::new(&rig)
            },
            true,
            "full",
        );
        rig.disk.clear_faults();
        let bytes = tagged(77, 8);
        overlay.write(0, &pieces(&bytes), true).unwrap();
        expected.begin(0, &bytes);
        expected.answered(0, &bytes);
        let found = expected.check_after_kill(&overlay, "room again");
        drop(overlay);
        assert!(sectors(&rig.crash(room).open().unwrap()) == found);
    }
}

/// A write that failed may show or not, even after a flush.
fn widen(expected: &Expected) -> Vec<BTreeSet<Vec<u8>>> {
    let pairs = expected.possible.iter().zip(&expected.doubtful);
    pairs
        .map(|(possible, doubtful)| possible.union(doubtful).cloned().collect())
        .collect()
}

#[test]
fn a_failed_write_never_comes_back_over_a_later_one() {
    for room in (20_000..200_000).step_by(9_999) {
        let rig = Rig::new(SIZE_BYTES, OverlaySettings::default());
        let overlay = rig.create().unwrap();
        rig.disk.inject(Fault::FullAfter { bytes: room });
        // Crosses chunks, so that whole records of it may be on disk.
        let large = tagged(1, 400);
        assert!(
            overlay
                .write(0, &pieces(&large), false)
                .unwrap_err()
                .is_full()
        );
        rig.disk.clear_faults();
        // As long as the first record of the failed write: the second would lie right behind.
        let bytes = tagged(2, 128);
        overlay.write(65536, &pieces(&bytes), false).unwrap();
        let forked = Rig {
            disk: rig.disk.fork(),
            ..rig.clone()
        };
        let reopened = forked.kill(room).open().unwrap();
        assert!(
            read(&reopened, 65536, 65536).unwrap() == bytes,
            "killed, room {room}"
        );
        overlay.flush().unwrap();
        let reopened = rig.crash(room).open().unwrap();
        assert!(
            read(&reopened, 65536, 65536).unwrap() == bytes,
            "power failed, room {room}"
        );
    }
}

#[test]
fn a_flush_after_opening_covers_what_was_written_before_the_kill() {
    for seed in 0..20 {
        let rig = Rig::new(SIZE_BYTES, OverlaySettings::default());
        let bytes = tagged(1, 8);
        rig.create()
            .unwrap()
            .write(512, &pieces(&bytes), false)
            .unwrap();
        let rig = rig.kill(seed);
        rig.open().unwrap().flush().unwrap();
        let overlay = rig.crash(seed).open().unwrap();
        assert!(read(&overlay, 512, 4096).unwrap() == bytes, "seed {seed}");
    }
}

#[test]
fn after_a_failed_sync_no_write_is_taken_and_reads_go_on() {
    let rig = Rig::new(SIZE_BYTES, OverlaySettings::default());
    let overlay = rig.create().unwrap();
    let bytes = tagged(1, 8);
    overlay.write(0, &pieces(&bytes), false).unwrap();
    rig.disk.inject(Fault::Fail {
        operation: Operation::Sync,
        nth: 0,
    });
    assert!(overlay.flush().is_err());
    assert!(
        matches!(overlay.flush(), Err(RepoError::OverlayPoisoned(_))),
        "a sync is not tried again"
    );
    assert!(matches!(
        overlay.write(0, &pieces(&bytes), false),
        Err(RepoError::OverlayPoisoned(_))
    ));
    assert!(overlay.try_write(0, &pieces(&bytes)).unwrap().is_err());
    assert_eq!(read(&overlay, 0, 4096).unwrap(), bytes);
}

#[test]
fn a_discard_that_was_begun_is_finished() {
    let prepare = || {
        let rig = Rig::new(SIZE_BYTES, small_settings());
        let overlay = rig.create().unwrap();
        for tag in 0..20 {
            overlay
                .write(tag * 4096, &pieces(&tagged(tag, 8)), tag % 4 == 0)
                .unwrap();
        }
        rig
    };
    let whole = prepare();
    let before = whole.disk.operations();
    repo::overlay::discard(&whole.disk, &whole.keys, &*whole.pages, ID).unwrap();
    assert!(matches!(whole.open(), Err(RepoError::NoSuchOverlay(_))));
    assert!(matches!(
        repo::overlay::discard(&whole.disk, &whole.keys, &*whole.pages, ID),
        Err(RepoError::NoSuchOverlay(_))
    ));
    let mut kept = 0;
    for operation in before..whole.disk.operations() {
        for effect in [Effect::Nothing, Effect::Whole] {
            let rig = prepare();
            rig.disk.inject(Fault::StopAt { operation, effect });
            assert!(repo::overlay::discard(&rig.disk, &rig.keys, &*rig.pages, ID).is_err());
            for seed in 0..8 {
                let rig = Rig {
                    disk: rig.disk.fork(),
                    ..rig.clone()
                }
                .crash(seed);
                repo::overlay::finish_discards(&rig.disk, &rig.keys, &*rig.pages).unwrap();
                if rig.disk.list("overlays".as_ref()).unwrap().is_empty() {
                    continue;
                }
                kept += 1;
                assert_eq!(read(&rig.open().unwrap(), 0, 4096).unwrap(), tagged(0, 8));
            }
        }
    }
    assert!(kept >= 8, "a discard that was not begun leaves the overlay");
}

#[test]
fn time_does_not_run_backwards_and_survives_reopening() {
    let rig = Rig::new(
        SIZE_BYTES,
        OverlaySettings {
            blocks: Arc::new(BlockCache::new(0)),
            ..tight()
        },
    );
    let overlay = rig.create().unwrap();
    rig.clock.advance(5_000);
    overlay.write(0, &pieces(&tagged(1, 1)), true).unwrap();
    drop(overlay);
    // The clock was set back.
    let clock = Arc::new(repo::clock::ManualClock::new(repo::UnixNanoseconds(1)));
    let rig = Rig { clock, ..rig };
    let overlay = rig.open().unwrap();
    overlay.write(512, &pieces(&tagged(2, 1)), true).unwrap();
    let path = format!("overlays/{ID}/journal.00000002");
    let bytes = rig.disk.read(path.as_ref(), 1 << 20).unwrap();
    let time = u64::from_le_bytes(bytes[128 + 16..128 + 24].try_into().unwrap());
    assert_eq!(time, 6_000);
}

/// After a failed sync the page cache shows what is not on the storage. A later process must not promise it.
#[test]
fn what_a_failed_sync_dropped_is_not_promised_by_the_next_process() {
    let mut dropped = 0;
    for seed in 0..20 {
        let rig = Rig {
            disk: SimulatedDisk::seeded(seed),
            ..Rig::new(SIZE_BYTES, OverlaySettings::default())
        };
        let overlay = rig.create().unwrap();
        overlay.write(0, &pieces(&tagged(1, 8)), false).unwrap();
        rig.disk.inject(Fault::Fail {
            operation: Operation::Sync,
            nth: 0,
        });
        assert!(overlay.flush().is_err());
        drop(overlay);
        let rig = rig.kill(seed);
        let overlay = rig.open().unwrap();
        let shown = sectors(&overlay);
        overlay.flush().unwrap();
        drop(overlay);
        let later = rig.crash(seed).open().unwrap();
        assert!(sectors(&later) == shown, "seed {seed}");
        dropped += u32::from(read(&later, 0, 4096).unwrap() != tagged(1, 8));
    }
    assert!((1..20).contains(&dropped), "{dropped}");
}
