//! Random operations on one file, compared with a vector.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::support::{can_mount, rename, writable_tree};

#[test]
fn a_file_does_what_a_vector_does() {
    if !can_mount() {
        return;
    }
    let seed = std::env::var("SEED").map_or(0x9E37_79B9, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mounted = writable_tree();
    let path = mounted.at("file");
    let mut file = open(&path);
    let mut model: Vec<u8> = Vec::new();
    let mut random = Random(seed);
    for step in 0..4_000 {
        let offset = random.below(SIZE_MAX);
        let length = random.below(SIZE_MAX / 4);
        match random.below(16) {
            0..=5 => {
                let content: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                file.write_all_at(&content, offset as u64).unwrap();
                if length > 0 {
                    model.resize(model.len().max(offset + length), 0);
                    model[offset..offset + length].copy_from_slice(&content);
                }
            }
            6..=11 => {
                let mut content = vec![0; length];
                let mut done = 0;
                while done < length {
                    let at = (offset + done) as u64;
                    match file.read_at(&mut content[done..], at).unwrap() {
                        0 => break,
                        more => done += more,
                    }
                }
                let start = offset.min(model.len());
                let end = (offset + length).min(model.len()).max(start);
                assert!(
                    content[..done] == model[start..end],
                    "step {step}, seed {seed}"
                );
            }
            12 => {
                file.set_len(offset as u64).unwrap();
                model.resize(offset, 0);
            }
            13 => file.sync_all().unwrap(),
            14 => {
                let renamed = mounted.at(&format!("file-{step}"));
                rename(&path, &renamed).unwrap();
                rename(&renamed, &path).unwrap();
            }
            _ => {
                file = open(&path);
                assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
            }
        }
    }
    assert!(fs::read(&path).unwrap() == model, "seed {seed}");
}

fn open(path: &std::path::Path) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// Numbers that look random: a 64-bit linear congruence, its upper half.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }
}

const SIZE_MAX: usize = 600_000;
