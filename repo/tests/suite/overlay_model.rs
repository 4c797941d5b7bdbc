//! Overlays against a plain vector, with the tightest memory and without.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use repo::disk::Disk;
use repo::overlay::{
    BlockCache, Overlay, OverlayExtent, OverlayRecord, OverlaySettings, OverlayState,
    PageStore as _, TouchedRange,
};
use repo::{CHUNK_BYTES, ChunkSource as _};
use uuid::Uuid;

use crate::overlay_rig::{Ground, ID, Model, Rig, pieces, read, small_settings, tagged};

/// Seven chunks and an odd end.
const SIZE_BYTES: u64 = 7 * 65536 + 5 * 512 + 100;
const SECTORS: usize = (SIZE_BYTES / 512) as usize + 1;

#[derive(Debug, Clone)]
enum Operation {
    Write {
        sector: usize,
        sectors: usize,
        stable: bool,
    },
    TryWrite {
        sector: usize,
        sectors: usize,
    },
    Zeroes {
        sector: usize,
        sectors: usize,
        keep: bool,
    },
    Discard {
        sector: usize,
        sectors: usize,
    },
    Copy {
        from: usize,
        sector: usize,
        sectors: usize,
    },
    Flush,
    Checkpoint,
    Reopen,
    Kill {
        seed: u64,
    },
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    let length = prop_oneof![4 => 1..20_usize, 2 => Just(8), 1 => Just(128), 1 => 1..SECTORS];
    (0..SECTORS, length).prop_map(|(sector, sectors)| {
        let sector = if sectors == 128 {
            sector / 128 * 128
        } else {
            sector
        };
        (sector, sectors.min(SECTORS - sector))
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (range(), any::<bool>()).prop_map(|((sector, sectors), stable)| Operation::Write { sector, sectors, stable }),
        4 => range().prop_map(|(sector, sectors)| Operation::TryWrite { sector, sectors }),
        2 => (range(), any::<bool>()).prop_map(|((sector, sectors), keep)| Operation::Zeroes { sector, sectors, keep }),
        2 => range().prop_map(|(sector, sectors)| Operation::Discard { sector, sectors }),
        4 => (range(), 0..SECTORS).prop_map(|((sector, sectors), from)| copy(from, sector, sectors)),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Checkpoint),
        1 => Just(Operation::Reopen),
        1 => any::<u64>().prop_map(|seed| Operation::Kill { seed }),
    ]
}

/// A copy that fits the disk; half of them from the same place in another chunk.
fn copy(from: usize, sector: usize, sectors: usize) -> Operation {
    let from = match from % 2 {
        0 => from / 128 * 128 + sector % 128,
        _ => from,
    };
    let from = from.min(SECTORS - 1);
    Operation::Copy {
        from,
        sector,
        sectors: sectors.min(SECTORS - from),
    }
}

fn run(operations: &[Operation], settings: &OverlaySettings) {
    for rig in Rig::both(SIZE_BYTES, settings) {
        run_on(rig, operations.to_vec());
    }
}

fn run_on(mut rig: Rig, operations: Vec<Operation>) {
    let mut model = Model::new(&rig.ground);
    let mut overlay = rig.create().unwrap();
    for (tag, operation) in (1..).zip(operations) {
        rig.clock.advance(1);
        match operation {
            Operation::Write {
                sector,
                sectors,
                stable,
            } => {
                let bytes = tagged(tag, sectors);
                overlay
                    .write(sector as u64 * 512, &pieces(&bytes), stable)
                    .unwrap();
                model.put(sector, &bytes);
            }
            Operation::TryWrite { sector, sectors } => {
                let bytes = tagged(tag, sectors);
                if let Some(done) = overlay.try_write(sector as u64 * 512, &pieces(&bytes)) {
                    done.unwrap();
                    model.put(sector, &bytes);
                }
            }
            Operation::Zeroes {
                sector,
                sectors,
                keep,
            } => {
                overlay
                    .write_zeroes(sector as u64 * 512, sectors as u64 * 512, keep, false)
                    .unwrap();
                model.fill(
                    sector,
                    sectors,
                    if keep {
                        OverlayState::Zero
                    } else {
                        OverlayState::Hole
                    },
                );
            }
            Operation::Discard { sector, sectors } => {
                overlay
                    .discard(sector as u64 * 512, sectors as u64 * 512, false)
                    .unwrap();
                model.fill(sector, sectors, OverlayState::Hole);
            }
            Operation::Copy {
                from,
                sector,
                sectors,
            } => run_copy(&overlay, &mut model, from, sector, sectors),
            Operation::Flush => overlay.flush().unwrap(),
            Operation::Checkpoint => overlay.checkpoint().unwrap(),
            Operation::Reopen => {
                drop(overlay);
                overlay = rig.open().unwrap();
            }
            Operation::Kill { seed } => {
                rig = rig.kill(seed);
                overlay = rig.open().unwrap();
            }
        }
    }
    check(&overlay, &model, &rig.ground);
}

/// Copies, which costs a record, unless the ranges overlap.
fn run_copy(overlay: &Overlay, model: &mut Model, from: usize, sector: usize, sectors: usize) {
    let (offset, source) = (sector as u64 * 512, from as u64 * 512);
    let before = overlay.statistics().journal_bytes;
    let done = overlay.copy(offset, source, sectors as u64 * 512, false);
    let is_apart = sector.abs_diff(from) >= sectors;
    assert_eq!(done.unwrap(), is_apart);
    if is_apart {
        model.copy(from, sector, sectors);
    }
    let written = overlay.statistics().journal_bytes - before;
    assert!(written <= 400, "a copy has no payload: {written}");
}

/// Everything an overlay tells must be as the model says.
fn check(overlay: &Overlay, model: &Model, ground: &Ground) {
    assert_eq!(overlay.size_bytes() as usize, model.bytes.len());
    for (offset, step) in [(0, model.bytes.len()), (512 * 3, 65536), (512, 4096)] {
        for start in (offset..model.bytes.len()).step_by(step) {
            let end = (start + step).min(model.bytes.len());
            assert!(
                read(overlay, start as u64, end - start).unwrap() == model.bytes[start..end],
                "{start}..{end}"
            );
        }
    }
    let length = model.bytes.len() as u64;
    let changes = overlay.changes(0, length, usize::MAX).unwrap();
    assert!(
        changes.windows(2).all(|pair| pair[0].1 != pair[1].1),
        "equal neighbours are merged"
    );
    let changed: Vec<bool> = changes
        .iter()
        .flat_map(|(length, changed)| vec![*changed; *length as usize / 512])
        .collect();
    assert_eq!(
        changed,
        model.own.iter().map(Option::is_some).collect::<Vec<_>>()
    );
    let below = |sector: usize| match (sector / 128) % 3 {
        2 => OverlayState::Hole,
        _ => OverlayState::Data,
    };
    let expected: Vec<(OverlayState, bool)> = model
        .own
        .iter()
        .enumerate()
        .map(|(sector, own)| own.map_or((below(sector), false), |own| (own, true)))
        .collect();
    let extents = overlay.extents(0, length, usize::MAX).unwrap();
    let flat =
        |extent: &OverlayExtent| vec![(extent.state, extent.own); extent.length as usize / 512];
    assert_eq!(extents.iter().flat_map(flat).collect::<Vec<_>>(), expected);
    let some = overlay.extents(0, length, 2).unwrap();
    assert_eq!(some, extents[..extents.len().min(2)]);
    let live = model.live.iter().filter(|live| **live).count() as u64 * 512;
    assert_eq!(overlay.statistics().live_bytes, live);
    check_touched(overlay, model, ground);
}

fn check_touched(overlay: &Overlay, model: &Model, ground: &Ground) {
    let mut touched = BTreeMap::new();
    let mut next = 0;
    for range in overlay.touched() {
        match range.unwrap() {
            TouchedRange::Zeroes { first, count } => {
                assert!(first >= next);
                next = first + count;
                touched.extend((first..first + count).map(|index| (index, vec![0; CHUNK_BYTES])));
            }
            TouchedRange::PointFrom {
                first,
                source,
                count,
            } => {
                assert!(first >= next);
                next = first + count;
                let chunk = |at| (first + at, ground.chunk(source + at).unwrap().to_vec());
                touched.extend((0..count).map(chunk));
            }
            TouchedRange::Chunk { index, content } => {
                assert!(index >= next);
                next = index + 1;
                touched.insert(index, content.to_vec());
            }
        }
    }
    let mut padded = model.bytes.clone();
    padded.resize(padded.len().next_multiple_of(CHUNK_BYTES), 0);
    assert_eq!(
        ground.size_bytes().div_ceil(CHUNK_BYTES as u64),
        padded.len() as u64 / CHUNK_BYTES as u64
    );
    for (index, content) in padded.chunks(CHUNK_BYTES).enumerate() {
        let own = model
            .own
            .chunks(128)
            .nth(index)
            .unwrap()
            .iter()
            .any(Option::is_some);
        match touched.get(&(index as u64)) {
            Some(merged) => assert!(own && merged == content, "chunk {index}"),
            None => assert!(!own, "chunk {index} was touched"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn overlays_with_hardly_any_memory_show_what_was_written_last(operations in prop::collection::vec(operation(), 1..60)) {
        run(&operations, &small_settings());
    }

    #[test]
    fn overlays_with_memory_show_what_was_written_last(operations in prop::collection::vec(operation(), 1..60)) {
        run(&operations, &OverlaySettings::default());
    }
}

#[test]
fn many_writes_spill_and_come_back() {
    let settings = OverlaySettings {
        blocks: Arc::new(BlockCache::new(0)),
        ..small_settings()
    };
    let rig = Rig::new(64 << 20, settings);
    let mut model = Model::new(&rig.ground);
    let overlay = rig.create().unwrap();
    let mut state = 7_u64;
    for tag in 0..3_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let place = (state >> 33) as usize % (model.own.len() - 8);
        let bytes = tagged(tag, 1 + place % 8);
        overlay
            .write(place as u64 * 512, &pieces(&bytes), false)
            .unwrap();
        model.put(place, &bytes);
        assert!(
            overlay.statistics().map_bytes < 40_000,
            "{:?}",
            overlay.statistics()
        );
    }
    overlay.checkpoint().unwrap();
    assert!(
        rig.pages.page_count(overlay.id()) > 900,
        "{}",
        rig.pages.page_count(overlay.id())
    );
    check(&overlay, &model, &rig.ground);
    drop(overlay);
    // With the pages, with old pages, and with none.
    check(&rig.open().unwrap(), &model, &rig.ground);
    check(&rig.kill(1).open().unwrap(), &model, &rig.ground);
}

#[test]
fn overlays_of_one_point_do_not_see_each_other() {
    let rig = Rig::new(1 << 20, small_settings());
    let open = |number: u128| {
        let id = Uuid::from_u128(number);
        let record = OverlayRecord { id, ..rig.record() };
        rig.create_as(record).unwrap()
    };
    let overlays = [open(1), open(2), open(3)];
    for round in 0..50 {
        for (number, overlay) in (0..).zip(&overlays) {
            overlay
                .write(
                    round % 7 * 4096,
                    &pieces(&tagged(number * 1000 + round, 16)),
                    false,
                )
                .unwrap();
        }
    }
    for (number, overlay) in (0..).zip(&overlays) {
        assert_eq!(
            read(overlay, 0, 8192).unwrap()[..4096],
            tagged(number * 1000 + 49, 16)[..4096]
        );
        overlay.checkpoint().unwrap();
    }
    assert_eq!(
        repo::overlay::overlays(&rig.disk, &rig.keys).unwrap().len(),
        3
    );
    repo::overlay::discard(&rig.disk, &rig.keys, &*rig.pages, overlays[1].id()).unwrap();
    assert_eq!(
        repo::overlay::overlays(&rig.disk, &rig.keys).unwrap().len(),
        2
    );
    assert_eq!(rig.pages.page_count(overlays[1].id()), 0);
    assert!(rig.disk.list("overlays".as_ref()).unwrap().len() == 2);
}

#[test]
fn copies_between_overlays_take_what_the_point_has_and_write_the_rest() {
    for rig in Rig::both(8 << 20, &small_settings()) {
        let create = |number: u128, disk| {
            let record = OverlayRecord {
                id: Uuid::from_u128(number),
                disk,
                ..rig.record()
            };
            rig.create_as(record).unwrap()
        };
        let (one, two, other) = (create(1, 0), create(2, 0), create(3, 1));
        let bytes = tagged(9, 16);
        one.write(5 * 512, &pieces(&bytes), false).unwrap();
        one.discard(1 << 20, 137 * 512, false).unwrap();
        one.write_zeroes(2 << 20, 512, true, false).unwrap();
        assert!(one.copy(3 << 20, 512, 4096, false).unwrap());
        two.write(1536, &pieces(&tagged(8, 16)), false).unwrap();
        let done = other.copy_from(0, &one, 0, 512, false).unwrap();
        assert!(!done, "it lies over another disk");
        let (to, length) = (4 << 20, 4 << 20);
        assert!(two.copy_from(to, &one, 0, length, true).unwrap());
        let copied = read(&one, 0, length as usize).unwrap();
        assert_eq!(read(&two, to, length as usize).unwrap(), copied);
        let written = (16 + 16 + 4) * 512;
        assert_eq!(
            two.statistics().written_bytes,
            written,
            "what was written is, again"
        );
        assert!(
            two.copy_from(0, &two, to, 4096, false).unwrap(),
            "from itself"
        );
        assert_eq!(read(&two, 0, 4096).unwrap(), copied[..4096]);
        let wanted = read(&two, 0, 8 << 20).unwrap();
        repo::overlay::discard(&rig.disk, &rig.keys, &*rig.pages, one.id()).unwrap();
        let id = two.id();
        drop(two);
        let two = rig.kill(5).open_as(id).unwrap();
        assert_eq!(read(&two, 0, 8 << 20).unwrap(), wanted);
    }
}

#[test]
fn hot_data_is_answered_from_memory_and_the_rest_is_not() {
    let rig = Rig::new(1 << 20, OverlaySettings::default());
    let overlay = rig.create().unwrap();
    overlay.write(4096, &pieces(&tagged(1, 8)), false).unwrap();
    let mut out = Vec::new();
    assert!(overlay.read_cached(4096, 4096, &mut out));
    assert!(overlay.read_cached(4096 + 512, 1024, &mut out));
    assert_eq!(out[0], tagged(1, 8));
    assert_eq!(out[1], tagged(1, 8)[512..1536]);
    assert!(
        overlay.read_cached(65536, 4096, &mut out),
        "the point's, in memory"
    );
    assert!(
        !overlay.read_cached(4 * 65536, 4096, &mut out),
        "the point's, not in memory"
    );
    assert_eq!(out.len(), 3);
    drop(overlay);
    let rig = Rig {
        settings: OverlaySettings {
            blocks: Arc::new(BlockCache::new(1 << 20)),
            ..rig.settings.clone()
        },
        ..rig
    };
    let overlay = rig.open().unwrap();
    assert!(
        !overlay.read_cached(4096, 4096, &mut out),
        "not yet read since it was opened"
    );
    read(&overlay, 4096, 4096).unwrap();
    assert!(overlay.read_cached(4096, 4096, &mut out));
}

#[test]
fn large_writes_are_read_at_once_and_then_from_memory() {
    for rig in Rig::both(4 << 20, &OverlaySettings::default()) {
        write_and_read_much(&rig);
    }
}

fn write_and_read_much(rig: &Rig) {
    let overlay = rig.create().unwrap();
    // An odd start and length, so that the first and the last record are short.
    let (offset, sectors) = (3 * 512, (2 << 20) / 512 + 5);
    let bytes = tagged(3, sectors);
    overlay.write(offset, &pieces(&bytes), false).unwrap();
    let mut out = Vec::new();
    assert!(!overlay.read_cached(offset, bytes.len() as u32, &mut out));
    assert!(read(&overlay, offset, bytes.len()).unwrap() == bytes);
    assert!(overlay.read_cached(offset, bytes.len() as u32, &mut out));
    assert!(out.concat() == bytes);
    // What is written over within a record that is in memory is not shown any more.
    let newer = tagged(4, 3);
    let at = 65536 + 10 * 512;
    overlay.write(at, &pieces(&newer), false).unwrap();
    let start = (at - offset) as usize;
    let expected = [
        &bytes[start - 512..start],
        &newer,
        &bytes[start + newer.len()..start + newer.len() + 512],
    ]
    .concat();
    assert_eq!(read(&overlay, at - 512, expected.len()).unwrap(), expected);
}

#[test]
fn ranges_that_do_not_fit_are_refused() {
    let rig = Rig::new(1 << 20, OverlaySettings::default());
    let overlay = rig.create().unwrap();
    for (offset, length) in [
        (1, 512),
        (0, 511),
        (1 << 20, 512),
        (u64::MAX - 511, 512),
        ((1 << 20) - 512, 1024),
    ] {
        let bytes = vec![bytes::Bytes::from(vec![0; length as usize])];
        assert!(overlay.write(offset, &bytes, false).is_err());
        assert!(overlay.try_write(offset, &bytes).unwrap().is_err());
        assert!(overlay.discard(offset, length, false).is_err());
        assert!(overlay.write_zeroes(offset, length, true, false).is_err());
        assert!(overlay.extents(offset, length, 10).is_err());
        assert!(
            overlay
                .read(offset, length as u32, &mut Vec::new())
                .is_err()
        );
        assert!(!overlay.read_cached(offset, length as u32, &mut Vec::new()));
    }
    assert_eq!(overlay.statistics().records, 0);
}

#[test]
fn a_frozen_overlay_takes_no_writes_until_it_is_thawed() {
    let rig = Rig::new(1 << 20, OverlaySettings::default());
    let overlay = rig.create().unwrap();
    let bytes = pieces(&tagged(1, 1));
    overlay.write(0, &bytes, false).unwrap();
    overlay.freeze().unwrap();
    assert_eq!(
        overlay.statistics().unsynced_bytes,
        64,
        "only the note of the sync itself"
    );
    assert!(matches!(
        overlay.write(0, &bytes, false),
        Err(repo::RepoError::OverlaySealed(_))
    ));
    assert!(overlay.try_write(0, &bytes).unwrap().is_err());
    assert!(overlay.discard(0, 512, false).is_err());
    overlay.flush().unwrap();
    overlay.thaw();
    overlay.write(0, &bytes, true).unwrap();
}

/// A copy is little journal and much to do again: it counts for that.
#[test]
fn copies_bring_checkpoints_before_their_records_would() {
    let settings = OverlaySettings {
        checkpoint_bytes: 30_000,
        ..OverlaySettings::default()
    };
    let size = 64 * CHUNK_BYTES as u64;
    let rig = Rig::new(size, settings);
    let overlay = rig.create().unwrap();
    for _ in 0..3 {
        assert!(overlay.copy(size / 2, 0, size / 2, true).unwrap());
    }
    assert!(overlay.statistics().journal_bytes < 2_000);
    assert!(rig.pages.checkpoint(ID).unwrap().is_some());
}

#[test]
fn a_copy_of_a_copy_is_one_record() {
    let rig = Rig::new(64 * CHUNK_BYTES as u64, OverlaySettings::default());
    let one = rig.create().unwrap();
    let two = rig
        .create_as(OverlayRecord {
            id: Uuid::from_u128(2),
            ..rig.record()
        })
        .unwrap();
    let (to, length) = (32 * CHUNK_BYTES as u64, 16 * CHUNK_BYTES as u64);
    assert!(one.copy(to, 512, length, false).unwrap());
    let before = two.statistics().journal_bytes;
    assert!(two.copy_from(to, &one, to, length, false).unwrap());
    assert_eq!(two.statistics().journal_bytes - before, 64);
}
