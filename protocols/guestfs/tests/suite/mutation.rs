//! Hostile and damaged disks: errors or data, but no panic, no hang, no large allocation.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use export::Segments;
use guestfs::{GuestError, Source, fuzz_disk, open_source};

use crate::manifest::of_tree;

/// A disk that notes which of its sectors are read as metadata.
struct Watched {
    bytes: Vec<u8>,
    sectors: parking_lot::Mutex<BTreeSet<usize>>,
}

impl Source for Watched {
    fn length_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let start = usize::try_from(offset).unwrap();
        if length <= 16 << 10 {
            let sectors = start / 512..(start + length).div_ceil(512);
            self.sectors.lock().extend(sectors);
        }
        Ok(bytes::Bytes::copy_from_slice(&self.bytes[start..start + length]).into())
    }
}

pub(crate) fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).unwrap()
}

pub(crate) fn random_byte(state: &mut u64) -> u8 {
    u8::try_from(random(state) % 256).unwrap()
}

/// Damages what is read as metadata of an image, many times in many ways, and reads the whole each time.
///
/// `GUESTFS_ROUNDS` says how many times, 500 without it.
pub(crate) fn check_damaged(kind: &str, bytes: Vec<u8>) {
    check_damaged_and_mended(kind, bytes, &|_, _| {});
}

/// The same, where `mend` makes the checksum right again of whatever has the byte at a place, so that damage comes
/// further.
pub(crate) fn check_damaged_and_mended(
    kind: &str,
    mut bytes: Vec<u8>,
    mend: &dyn Fn(&mut [u8], usize),
) {
    let rounds: usize =
        std::env::var("GUESTFS_ROUNDS").map_or(500, |rounds| rounds.parse().unwrap());
    let mut slowest = Duration::ZERO;
    let sectors = metadata_sectors(&bytes);
    let whole = fuzz_disk(&bytes);
    assert!(whole > 100, "{kind}: there is something to hurt: {whole}");
    let mut differed = 0;
    for seed in 1..=rounds {
        let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut undo = Vec::new();
        for _ in 0..1 + random(&mut state) % 16 {
            let at = sectors[random(&mut state) % sectors.len()] * 512 + random(&mut state) % 512;
            undo.push((at, bytes[at]));
            // Bytes that mean something are worse than any.
            let values = [0, 1, 0x7F, 0x80, 0xFF, random_byte(&mut state)];
            bytes[at] = values[random(&mut state) % values.len()];
            mend(&mut bytes, at);
        }
        let began = Instant::now();
        differed += usize::from(fuzz_disk(&bytes) != whole);
        slowest = slowest.max(began.elapsed());
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{kind}: seed {seed} takes too long"
        );
        for (at, byte) in undo.into_iter().rev() {
            bytes[at] = byte;
            mend(&mut bytes, at);
        }
    }
    println!(
        "{kind}: {differed} of {rounds} damaged images gave another tree, slowest {slowest:?}"
    );
    assert!(differed > rounds / 20, "{kind}: the damage was met");
    let peak = peak_memory_kib();
    println!("peak memory {peak} KiB");
    assert!(peak < 400 << 10, "{peak} KiB");
}

/// Those that are read to learn what there is, not for the content of files.
fn metadata_sectors(bytes: &[u8]) -> Vec<usize> {
    let watched = Arc::new(Watched {
        bytes: bytes.to_vec(),
        sectors: parking_lot::Mutex::default(),
    });
    let disk: Arc<dyn Source> = Arc::clone(&watched) as _;
    let volumes = open_source(disk).unwrap();
    of_tree(&*volumes[0].files().unwrap());
    if let Ok(ranges) = volumes[0].allocated() {
        assert!(ranges.into_iter().all(|range| range.is_ok()));
    }
    let sectors = watched.sectors.lock();
    sectors.iter().copied().collect()
}

pub(crate) fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn any_bytes_are_taken() {
    let mut state = 1;
    for length in [0, 1, 511, 512, 1024, 2048, 70_000] {
        for round in 0..20 {
            let mut bytes: Vec<u8> = (0..length).map(|_| random_byte(&mut state)).collect();
            if length > 1100 && round % 2 == 0 {
                bytes[1080..1082].copy_from_slice(&[0x53, 0xEF]);
                bytes[1024 + 0x18..1024 + 0x1C].fill(0);
            }
            fuzz_disk(&bytes);
        }
    }
}
