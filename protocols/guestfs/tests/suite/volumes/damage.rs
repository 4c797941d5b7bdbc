//! Hostile and damaged members: errors or data, but no panic, no hang, no large allocation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use export::Segments;
use guestfs::{GuestError, Source, fuzz_disks, open_sources};

use super::fixtures::Case;
use crate::mutation::{peak_memory_kib, random, random_byte};

/// A disk that notes which of its sectors are read to learn what there is.
struct Watched {
    bytes: bytes::Bytes,
    sectors: parking_lot::Mutex<BTreeSet<usize>>,
}

impl Source for Watched {
    fn length_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let start = usize::try_from(offset).unwrap();
        // Larger reads look for what else might be there.
        if length <= 16 << 10 {
            let sectors = start / 512..(start + length).div_ceil(512);
            self.sectors.lock().extend(sectors);
        }
        Ok(self.bytes.slice(start..start + length).into())
    }
}

/// Disk and sector of all that is read when a machine's disks are opened, and when it is asked what is in use.
fn metadata_sectors(case: &Case) -> Vec<(usize, usize)> {
    let watched: Vec<_> = case
        .disks
        .iter()
        .map(|disk| {
            Arc::new(Watched {
                bytes: disk.clone().into(),
                sectors: parking_lot::Mutex::default(),
            })
        })
        .collect();
    let sources: Vec<Arc<dyn Source>> = watched.iter().map(|disk| Arc::clone(disk) as _).collect();
    drop(open_sources(&sources).used());
    let disks = watched.iter().enumerate();
    disks
        .flat_map(|(disk, watched)| {
            let sectors = watched.sectors.lock().clone();
            sectors.into_iter().map(move |sector| (disk, sector))
        })
        .collect()
}

fn check_damaged(name: &str) -> usize {
    let rounds: usize =
        std::env::var("GUESTFS_ROUNDS").map_or(500, |rounds| rounds.parse().unwrap());
    let case = Case::read(name);
    let sectors = metadata_sectors(&case);
    let mut disks = case.disks;
    let areas: Vec<_> = disks.iter().map(|disk| areas_of(disk)).collect();
    let look = |disks: &[Vec<u8>]| {
        let disks: Vec<&[u8]> = disks.iter().map(Vec::as_slice).collect();
        fuzz_disks(&disks)
    };
    let whole = look(&disks);
    assert!(whole >= 3, "{name}: there is something to hurt: {whole}");
    let mut slowest = Duration::ZERO;
    let mut differed = 0;
    for seed in 1..=rounds {
        let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut undo = Vec::new();
        for _ in 0..1 + random(&mut state) % 16 {
            let (disk, sector) = sectors[random(&mut state) % sectors.len()];
            let at = sector * 512 + random(&mut state) % 512;
            let values = [0, 1, 0x7F, 0x80, 0xFF, random_byte(&mut state)];
            undo.push((disk, at, disks[disk][at]));
            disks[disk][at] = values[random(&mut state) % values.len()];
        }
        // With checksums mended, what they guard is met as well.
        if seed % 2 == 0 {
            let touched: BTreeSet<_> = undo.iter().map(|(disk, at, _)| (*disk, *at)).collect();
            for (number, at) in touched {
                let disk = &mut disks[number];
                let mut mended = mend(disk, at / 4096 * 4096);
                mended.extend(mend_text(disk, &areas[number], at));
                undo.extend(mended.into_iter().map(|(at, old)| (number, at, old)));
            }
        }
        let began = Instant::now();
        differed += usize::from(look(&disks) != whole);
        slowest = slowest.max(began.elapsed());
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{name}: seed {seed} takes too long"
        );
        for (disk, at, old) in undo.into_iter().rev() {
            disks[disk][at] = old;
        }
    }
    println!(
        "{name}: {differed} of {rounds} damaged machines were read otherwise, slowest {slowest:?}"
    );
    let peak = peak_memory_kib();
    assert!(peak < 400 << 10, "{name}: {peak} KiB");
    differed
}

/// Damages machines, and sees to it that the damage was met: what is there twice hides most of it.
fn check_all_damaged(names: &[&str]) {
    let differed: usize = names.iter().map(|name| check_damaged(name)).sum();
    assert!(differed > 5, "{names:?}: {differed}");
}

/// Where areas with the text of a volume group begin.
fn areas_of(disk: &[u8]) -> Vec<usize> {
    let places = (0..disk.len() - 512).step_by(512);
    places
        .filter(|at| disk[at + 4..at + 20] == *LVM_MAGIC)
        .collect()
}

/// Makes the checksum of the text around `at` right, and that of the head of its area.
fn mend_text(disk: &mut [u8], areas: &[usize], at: usize) -> Vec<(usize, u8)> {
    let Some(head) = areas.iter().rev().find(|head| **head <= at).copied() else {
        return Vec::new();
    };
    let number = |at: usize| u64::from_le_bytes(disk[at..at + 8].try_into().unwrap());
    let size = usize::try_from(number(head + 32)).unwrap_or(0);
    let offset = usize::try_from(number(head + 40)).unwrap_or(0);
    let length = usize::try_from(number(head + 48)).unwrap_or(0);
    if offset < 512 || offset >= size || length > size || head + size > disk.len() {
        return Vec::new();
    }
    let ring = &disk[head + 512..head + size];
    let text = ring.iter().cycle().skip(offset - 512).take(length);
    let text: Vec<u8> = text.copied().collect();
    let mut undo = put(disk, head + 56, super::groups::checksum(&text));
    let sum = super::groups::checksum(&disk[head + 4..head + 512]);
    undo.extend(put(disk, head, sum));
    undo
}

/// Makes the checksum of the block at `at` right, whatever has one; gives what was there.
fn mend(disk: &mut [u8], at: usize) -> Vec<(usize, u8)> {
    let Some(block) = disk.get(at..at + 4096) else {
        return Vec::new();
    };
    let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    if word(0) == 0xA92B_4EFC {
        let (place, length) = match word(4) {
            0 => (152, 4096),
            _ => (216, 256 + (word(220) as usize * 2).min(3840) / 4 * 4),
        };
        let words = (0..length).step_by(4).filter(|at| *at != place);
        let sum: u64 = words.map(|at| u64::from(word(at))).sum();
        let folded = (sum & 0xFFFF_FFFF) + (sum >> 32);
        return put(
            disk,
            at + place,
            u32::try_from(folded & 0xFFFF_FFFF).unwrap(),
        );
    }
    if matches!(word(4), 0..=2) && word(0) != 0 {
        // Metadata of a thin pool: the superblock, or a node of a tree.
        let is_superblock = block[32..40] == 27_022_010_u64.to_le_bytes();
        let salt = if is_superblock { 160_774 } else { 121_107 };
        let sum = super::groups::crc32c(&block[4..]) ^ salt;
        return put(disk, at, sum);
    }
    Vec::new()
}

/// Writes a number, and gives what was there.
fn put(disk: &mut [u8], at: usize, value: u32) -> Vec<(usize, u8)> {
    let mut undo = Vec::new();
    for (place, new) in (at..).zip(value.to_le_bytes()) {
        undo.push((place, disk[place]));
        disk[place] = new;
    }
    undo
}

const LVM_MAGIC: &[u8; 16] = b"\x20LVM2\x20x[5A%r0N*>";

#[test]
fn damaged_arrays_do_no_harm() {
    check_all_damaged(&[
        "raid5-running",
        "raid1-bad-blocks",
        "raid10-f2-4",
        "raid1-0.90",
        "raid0-original",
    ]);
}

#[test]
fn damaged_groups_do_no_harm() {
    check_all_damaged(&["lvm-linear", "lvm-snapshot"]);
}

#[test]
fn damaged_thin_pools_do_no_harm() {
    check_all_damaged(&["lvm-thin"]);
}

#[test]
fn damaged_raid_volumes_and_stacks_do_no_harm() {
    check_all_damaged(&["stacked"]);
}
