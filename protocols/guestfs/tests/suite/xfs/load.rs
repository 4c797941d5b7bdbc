//! Filesystems that stop while they are written to by several at once, again and again.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, setxattr};
use tempfile::tempdir;

use super::programs::{by_kernel, check_used_copy, mkfs, shut_down};
use crate::image::{Mount, have, tree};
use crate::manifest::{compare, of_tree};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}

/// Does one thing to a tree, whatever comes of it: space may be out, and the filesystem may have stopped.
fn act(root: &Path, state: &mut u64, value_max: u64) -> std::io::Result<()> {
    let folder = root.join(format!("folder {}", random(state) % 7));
    let path = |number: u64| folder.join(format!("file with the number {}", number % 90));
    let (file, other) = (path(random(state)), path(random(state)));
    let place = random(state) % (1 << 20);
    match random(state) % 16 {
        0 => fs::create_dir_all(&folder),
        1..=3 => fs::write(&file, vec![1; usize::try_from(place % 30_000).unwrap()]),
        4 => File::options()
            .write(true)
            .open(&file)?
            .write_all_at(b"island", place),
        5 => Ok(rustix::fs::rename(&file, &other)?),
        6 => fs::hard_link(&file, &other),
        7 => fs::remove_file(&file),
        8 => {
            std::os::unix::fs::symlink("t".repeat(1 + usize::try_from(place % 900).unwrap()), &file)
        }
        9 => File::options()
            .write(true)
            .open(&file)?
            .set_len(place % 50_000),
        10 => {
            let name = format!("user.attribute {}", place % 12);
            let value = vec![2; usize::try_from(place % value_max).unwrap()];
            Ok(setxattr(&file, name, &value, XattrFlags::empty())?)
        }
        11 => {
            let open = File::options().write(true).open(&file)?;
            Ok(fallocate(&open, FallocateFlags::empty(), place, 90_000)?)
        }
        12 => File::open(&file)?.sync_all(),
        13 => {
            let (from, to) = (File::open(&file)?, File::create(&other)?);
            Ok(rustix::fs::ioctl_ficlone(&to, &from)?)
        }
        14 if random(state).is_multiple_of(40) => fs::remove_dir_all(&folder),
        14 => {
            let open = File::options().write(true).open(&file)?;
            let punched = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(&open, punched, place & !4095, 16 << 10)?)
        }
        _ => {
            let mut open = File::options().append(true).open(&file)?;
            open.write_all(&vec![3; 5000])
        }
    }
}

fn work_until_it_stops(root: &Path, seed: u64, how: &str) {
    // Values in blocks of their own are not in the log: where that is torn, not even the kernel can read them all.
    let value_max = if is_torn(seed) { 600 } else { 5000 };
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let stopped = &stopped;
            scope.spawn(move || {
                let mut state = (seed * 8 + worker + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                while !stopped.load(Ordering::Relaxed) {
                    drop(act(root, &mut state, value_max));
                }
            });
        }
        let mut state = seed.wrapping_mul(0x2545_F491_4F6C_DD1D) | 1;
        std::thread::sleep(Duration::from_millis(100 + random(&mut state) % 900));
        if how == "sync" {
            drop(Command::new("sync").arg("-f").arg(root).status());
        }
        shut_down(
            root,
            if how == "flush" {
                "shutdown -f"
            } else {
                "shutdown"
            },
        );
        stopped.store(true, Ordering::Relaxed);
    });
}

/// Whether the log is hurt in a round.
fn is_torn(seed: u64) -> bool {
    seed % 3 == 2
}

/// Hurts the log near its end, as if what was written last had not got there.
fn tear(image: &Path, seed: u64) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut head = [0; 512];
    file.read_exact_at(&mut head, 0).unwrap();
    let number = |at: usize, length: usize| {
        head[at..at + length]
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (block, start) = (number(4, 4), number(48, 8));
    let group_log = head[124];
    let at = ((start >> group_log) * number(84, 4) + (start & ((1 << group_log) - 1))) * block;
    let mut log = vec![0; usize::try_from(number(96, 4) * block).unwrap()];
    file.read_exact_at(&mut log, at).unwrap();
    let magic = [0xFE, 0xED, 0xBA, 0xBE];
    let newest = (0..log.len() / 512)
        .filter(|sector| log[sector * 512..].starts_with(&magic))
        .max_by_key(|sector| log[sector * 512 + 16..sector * 512 + 24].to_vec());
    let mut state = seed | 1;
    let sector = newest.unwrap() as u64 + random(&mut state) % 9;
    if random(&mut state).is_multiple_of(2) {
        file.write_all_at(&[0xA5; 100], at + sector * 512 + 40)
            .unwrap();
    } else {
        file.write_all_at(&[0; 512], at + sector * 512).unwrap();
    }
}

/// `GUESTFS_CRASHES=N` makes more of them.
#[test]
fn filesystems_that_stop_under_load_are_as_the_kernel_would_replay_them() {
    if !have("mkfs.xfs") {
        return;
    }
    let rounds: u64 = std::env::var("GUESTFS_CRASHES").map_or(2, |rounds| rounds.parse().unwrap());
    let began = std::env::var("GUESTFS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let kinds = [
        "-m rmapbt=1",
        "-b size=1024 -i nrext64=1 -n size=4096",
        "-l su=64k -n size=16384 -d agcount=2 -i size=1024",
        "-s size=4096 -m reflink=0,bigtime=0",
    ];
    let (mut compared, mut refused) = (0, 0);
    for seed in began..began + rounds {
        let home = tempdir().unwrap();
        let image = home.path().join("image");
        let kind = kinds[usize::try_from(seed).unwrap() % kinds.len()];
        mkfs(&image, 48, kind);
        for how in ["none", "flush", "sync"] {
            let what = format!("{kind}, {how}, seed {seed}");
            let Some(mount) = Mount::new(&image, "xfs", "noatime") else {
                return;
            };
            work_until_it_stops(mount.path(), seed, how);
            drop(mount);
            if is_torn(seed) {
                tear(&image, seed);
            }
            let Some(expected) = by_kernel(&image) else {
                refused += 1;
                println!("{what}: the kernel refuses it");
                break;
            };
            compare(&of_tree(&*tree(&image)), &expected, &what);
            compared += 1;
            if how == "flush" && seed % 4 == 1 {
                check_used_copy(&image, &expected, &what);
            }
        }
    }
    println!("{compared} compared, {refused} refused by the kernel");
    assert!(compared > 0);
}
