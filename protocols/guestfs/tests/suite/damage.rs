//! Hostile and damaged disks: errors or data, but no panic, no hang, no large allocation.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use export::Segments;
use guestfs::{GuestError, Source, fuzz_disk, open_source};
use tempfile::tempdir;

use crate::image::{debugfs, have, mke2fs};
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
        if length <= 4096 {
            let sectors = start / 512..(start + length).div_ceil(512);
            self.sectors.lock().extend(sectors);
        }
        Ok(bytes::Bytes::copy_from_slice(&self.bytes[start..start + length]).into())
    }
}

fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).unwrap()
}

fn random_byte(state: &mut u64) -> u8 {
    u8::try_from(random(state) % 256).unwrap()
}

fn small_tree(folder: &Path) {
    fs::create_dir_all(folder.join("folder/inner")).unwrap();
    for number in 0..120 {
        let name = format!("folder/a name of some length {number}");
        fs::write(folder.join(name), "x".repeat(number * 3)).unwrap();
    }
    fs::write(folder.join("large"), vec![1; 300 << 10]).unwrap();
    std::os::unix::fs::symlink("t".repeat(80), folder.join("slow")).unwrap();
    std::os::unix::fs::symlink("short", folder.join("fast")).unwrap();
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    for step in 0..12_u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", step * 20_000).unwrap();
    }
}

/// Images that end in a journal to be replayed.
fn images(home: &Path) -> Vec<(String, Vec<u8>)> {
    let source = home.join("source");
    small_tree(&source);
    let image = home.join("image");
    let block = home.join("block");
    fs::write(&block, vec![b'j'; 2048]).unwrap();
    let kinds = [
        "-t ext4 -O ^metadata_csum,^64bit",
        "-t ext4 -O metadata_csum,64bit",
        "-t ext4 -O ^metadata_csum,inline_data -I 256",
        "-t ext3",
        "-t ext2",
        "-t ext4 -O ^metadata_csum,bigalloc,^resize_inode -C 4096",
    ];
    let mut images = Vec::new();
    for kind in kinds {
        let mut options: Vec<&str> = kind.split_whitespace().collect();
        options.extend(["-b", "1024", "-N", "512"]);
        mke2fs(&image, "4M", Some(&source), &options);
        debugfs(
            &image,
            &[
                "ea_set /large user.one value",
                "ea_set /fast trusted.two value",
            ],
        );
        if kind != "-t ext2" {
            let open = if kind.contains(" metadata_csum") {
                "jo -c -v 3"
            } else {
                "jo"
            };
            let write = format!("jw -b 2000,2001 {}", block.display());
            debugfs(&image, &[open, &write, "jw -r 2001", "jc"]);
        }
        images.push((kind.to_owned(), fs::read(&image).unwrap()));
        fs::remove_file(&image).unwrap();
    }
    images
}

#[test]
fn damaged_images_do_no_harm() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let rounds: usize =
        std::env::var("GUESTFS_ROUNDS").map_or(500, |rounds| rounds.parse().unwrap());
    let mut slowest = Duration::ZERO;
    for (kind, mut bytes) in images(home.path()) {
        let watched = Arc::new(Watched {
            bytes: bytes.clone(),
            sectors: parking_lot::Mutex::default(),
        });
        let disk: Arc<dyn Source> = Arc::clone(&watched) as _;
        let volumes = open_source(disk).unwrap();
        of_tree(&*volumes[0].files().unwrap());
        assert!(volumes[0].allocated().unwrap().all(|range| range.is_ok()));
        let sectors: Vec<usize> = watched.sectors.lock().iter().copied().collect();
        let whole = fuzz_disk(&bytes);
        assert!(whole > 100, "{kind}: there is something to hurt: {whole}");
        let mut differed = 0;
        for seed in 1..=rounds {
            let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut undo = Vec::new();
            for _ in 0..1 + random(&mut state) % 16 {
                let at =
                    sectors[random(&mut state) % sectors.len()] * 512 + random(&mut state) % 512;
                undo.push((at, bytes[at]));
                // Bytes that mean something are worse than any.
                let values = [0, 1, 0x7F, 0x80, 0xFF, random_byte(&mut state)];
                bytes[at] = values[random(&mut state) % values.len()];
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
            }
        }
        println!("{kind}: {differed} of {rounds} damaged images gave another tree");
        assert!(differed > rounds / 20, "{kind}: the damage was met");
    }
    let peak = peak_memory_kib();
    println!("slowest {slowest:?}, peak memory {peak} KiB");
    assert!(peak < 400 << 10, "{peak} KiB");
}

fn peak_memory_kib() -> u64 {
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
