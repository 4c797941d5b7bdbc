//! Many threads on one overlay, on a real disk.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use repo::clock::SystemClock;
use repo::disk::SystemDisk;
use repo::overlay::{MemoryPages, Overlay, OverlaySettings};

use crate::overlay_rig::{Rig, read, small_settings, tagged};

const THREADS: usize = 6;
const ROUNDS: u64 = 150;
/// Each thread has this much for itself; behind it lies a part for all.
const OWN_SECTORS: usize = 300;
const SIZE_BYTES: u64 = ((THREADS * OWN_SECTORS + 16) * 512) as u64;

fn open(
    folder: &std::path::Path,
    pages: &Arc<MemoryPages>,
    settings: &OverlaySettings,
    create: bool,
) -> Overlay {
    let rig = Rig::new(SIZE_BYTES, settings.clone());
    let disk = Arc::new(SystemDisk::new(folder));
    let (clock, pages) = (Arc::new(SystemClock), pages.clone());
    match create {
        true => Overlay::create(
            disk,
            &rig.keys,
            clock,
            pages,
            rig.ground.clone(),
            settings.clone(),
            rig.record(),
        )
        .unwrap(),
        false => Overlay::open(
            disk,
            &rig.keys,
            clock,
            pages,
            rig.ground.clone(),
            settings.clone(),
            rig.record().id,
        )
        .unwrap(),
    }
}

fn run(settings: &OverlaySettings) {
    let folder = tempfile::tempdir().unwrap();
    let pages = Arc::new(MemoryPages::new());
    let overlay = open(folder.path(), &pages, settings, true);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let overlay = &overlay;
            scope.spawn(move || writer(overlay, thread));
        }
    });
    check(&overlay);
    let statistics = overlay.statistics();
    assert!(statistics.flushes > 0 && statistics.flushes <= ROUNDS * THREADS as u64);
    drop(overlay);
    check(&open(folder.path(), &pages, settings, false));
    check(&open(
        folder.path(),
        &Arc::new(MemoryPages::new()),
        settings,
        false,
    ));
}

/// Writes to its own part, reads back what it wrote last, and now and then to the part for all.
fn writer(overlay: &Overlay, thread: usize) {
    let mut model = vec![0_u64; OWN_SECTORS];
    for round in 1..=ROUNDS {
        let tag = ((thread as u64 + 1) << 20) | round;
        let sector = (round as usize * 131) % (OWN_SECTORS - 20);
        let sectors = 1 + round as usize % 20;
        let data = [Bytes::from(tagged(tag, sectors))];
        let offset = ((thread * OWN_SECTORS + sector) * 512) as u64;
        match overlay.try_write(offset, &data) {
            Some(done) => done.unwrap(),
            None => overlay.write(offset, &data, round % 7 == 0).unwrap(),
        }
        for (at, place) in model[sector..sector + sectors].iter_mut().enumerate() {
            *place = (tag << 16) | at as u64;
        }
        let common = ((THREADS * OWN_SECTORS) * 512) as u64;
        overlay
            .write(common, &[Bytes::from(tagged(tag, 16))], false)
            .unwrap();
        if round % 10 == 0 {
            overlay.flush().unwrap();
        }
        let found = read(
            overlay,
            ((thread * OWN_SECTORS) * 512) as u64,
            OWN_SECTORS * 512,
        )
        .unwrap();
        for (sector, expected) in found
            .chunks(512)
            .zip(&model)
            .filter(|(_, expected)| **expected != 0)
        {
            assert_eq!(sector, expected.to_le_bytes().repeat(64));
        }
    }
}

/// The part for all holds one write whole, sector by sector of the same tag or another's, never a mixture within one.
fn check(overlay: &Overlay) {
    let found = read(overlay, ((THREADS * OWN_SECTORS) * 512) as u64, 16 * 512).unwrap();
    for (at, sector) in found.chunks(512).enumerate() {
        let word = u64::from_le_bytes(sector[..8].try_into().unwrap());
        assert_eq!(word & 0xffff, at as u64);
        assert_eq!(sector, word.to_le_bytes().repeat(64));
    }
}

#[test]
fn threads_see_their_own_writes_with_memory() {
    run(&OverlaySettings::default());
}

#[test]
fn threads_see_their_own_writes_with_hardly_any_memory() {
    run(&OverlaySettings {
        segment_bytes: 200_000,
        checkpoint_bytes: 100_000,
        unsynced_bytes_max: 300_000,
        ..small_settings()
    });
}

#[test]
fn a_flush_that_returned_covers_every_write_answered_before_it() {
    // Each writer notes what was answered; a flusher takes the notes, flushes, and power fails at once.
    for seed in 0..20 {
        let rig = Rig::new(SIZE_BYTES, OverlaySettings::default());
        let overlay = rig.create().unwrap();
        let answered: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        let stop = AtomicBool::new(false);
        let promised = std::thread::scope(|scope| {
            for (thread, answered) in answered.iter().enumerate() {
                let (overlay, stop) = (&overlay, &stop);
                scope.spawn(move || {
                    for round in 1.. {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let bytes = Bytes::from(tagged(round, 1));
                        if overlay
                            .write((thread * 512) as u64, &[bytes], round % 5 == 0)
                            .is_err()
                        {
                            return;
                        }
                        answered.store(round, Ordering::SeqCst);
                    }
                });
            }
            let mut promised = Vec::new();
            for _ in 0..20 {
                promised = answered
                    .iter()
                    .map(|round| round.load(Ordering::SeqCst))
                    .collect();
                overlay.flush().unwrap();
            }
            let after = rig.crash(seed);
            stop.store(true, Ordering::SeqCst);
            (promised, after)
        });
        let (promised, after) = promised;
        let overlay = after.open().unwrap();
        for (thread, promised) in promised
            .into_iter()
            .enumerate()
            .filter(|(_, promised)| *promised > 0)
        {
            let sector = read(&overlay, (thread * 512) as u64, 512).unwrap();
            let found = u64::from_le_bytes(sector[..8].try_into().unwrap()) >> 16;
            assert!(
                found >= promised,
                "seed {seed}: thread {thread} found {found}, was promised {promised}"
            );
            assert_eq!(sector, tagged(found, 1));
        }
    }
}
