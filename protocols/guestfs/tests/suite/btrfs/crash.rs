//! Images as a crash leaves them, compared with what the kernel makes of them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, XattrFlags, removexattr, setxattr};
use tempfile::tempdir;

use super::allocation::check_used_copy;
use super::programs::{btrfs, copy, forget_since, mkfs, now, reflink, sync};
use crate::image::{Mount, have, run, tree};
use crate::manifest::{compare, of_folder, of_tree};
use crate::mutation::random;

fn fsync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// What is in the last commit.
fn before(root: &Path) {
    btrfs("subvolume create", &[&root.join("second")]);
    for home in [root.to_owned(), root.join("second")] {
        for folder in ["a", "b", "a/deep", "many"] {
            fs::create_dir(home.join(folder)).unwrap();
        }
        for number in 0..40 {
            let path = home.join(format!("a/file-{number}"));
            fs::write(path, format!("{number}").repeat(number * 300)).unwrap();
            fs::write(home.join(format!("many/{number}")), "x").unwrap();
        }
        fs::hard_link(home.join("a/file-1"), home.join("b/link of one")).unwrap();
        set(&home.join("a/file-2"), "user.old", b"old");
        set(&home.join("a/file-2"), "user.kept", b"old");
    }
}

fn set(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// What is in the log alone.
fn after(home: &Path) {
    let at = |name: &str| home.join(name);
    // New, larger, smaller, and with holes.
    fs::write(at("new"), "synced a moment ago").unwrap();
    fsync(&at("new"));
    let mut file = File::options().append(true).open(at("a/file-3")).unwrap();
    file.write_all(&vec![b'n'; 200_000]).unwrap();
    file.sync_all().unwrap();
    let file = File::options().write(true).open(at("a/file-30")).unwrap();
    file.set_len(100).unwrap();
    file.write_all_at(b"far away", 500_000).unwrap();
    file.sync_all().unwrap();
    let file = File::options().write(true).open(at("a/file-31")).unwrap();
    rustix::fs::fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        4096,
        4096,
    )
    .unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 100_000, 50_000).unwrap();
    file.sync_all().unwrap();
    // Names: replaced, added, removed, moved.
    fs::write(at("temporary"), "replaces").unwrap();
    fsync(&at("temporary"));
    rustix::fs::rename(at("temporary"), at("a/file-4")).unwrap();
    fsync(&at("a/file-4"));
    fs::hard_link(at("a/file-5"), at("b/link of five")).unwrap();
    fsync(&at("a/file-5"));
    fs::remove_file(at("b/link of one")).unwrap();
    fsync(&at("a/file-1"));
    fs::remove_file(at("a/file-6")).unwrap();
    fs::remove_file(at("a/file-7")).unwrap();
    fsync(&at("a"));
    rustix::fs::rename(at("a/file-8"), at("b/moved")).unwrap();
    fsync(&at("b"));
    for number in 0..30 {
        fs::remove_file(at(&format!("many/{number}"))).unwrap();
        fs::write(at(&format!("many/new {number}")), "y").unwrap();
    }
    fsync(&at("many"));
    // Attributes.
    removexattr(at("a/file-2"), "user.old").unwrap();
    set(&at("a/file-2"), "user.new", b"new");
    fs::set_permissions(at("a/file-2"), fs::Permissions::from_mode(0o640)).unwrap();
    fsync(&at("a/file-2"));
    fs::create_dir_all(at("new folder/inner")).unwrap();
    fs::write(at("new folder/inner/newest"), "newest").unwrap();
    symlink("newest", at("new folder/inner/link")).unwrap();
    run(Command::new("mkfifo").arg(at("new folder/inner/pipe")));
    fsync(&at("new folder/inner/newest"));
    fsync(&at("new folder/inner"));
    reflink(&at("a/file-39"), &at("clone"));
    fsync(&at("clone"));
    // Never synced: as it was, or new, or in between; the kernel's word decides.
    fs::write(at("unsynced"), "lost").unwrap();
    rustix::fs::rename(at("a/file-9"), at("a/renamed")).unwrap();
    fs::remove_file(at("a/file-10")).unwrap();
}

fn log_root(image: &Path) -> u64 {
    let said = run(Command::new("btrfs")
        .args(["inspect-internal", "dump-super"])
        .arg(image));
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("log_root\t"));
    line.unwrap().trim().parse().unwrap()
}

/// Compares a copied image with what the kernel makes of a copy of it.
fn check(home: &Path, crashed: &Path, what: &str) -> crate::manifest::Manifest {
    let moment = now(home);
    let replayed = home.join("replayed");
    copy(crashed, &replayed);
    let mount = Mount::new(&replayed, "btrfs", "noatime").unwrap();
    let mut expected = of_folder(mount.path());
    drop(mount);
    fs::remove_file(&replayed).unwrap();
    let found = of_tree(&*tree(crashed));
    forget_since(&mut expected, &found, moment);
    compare(&found, &expected, what);
    found
}

#[test]
fn a_copy_of_a_mounted_filesystem_is_as_the_kernel_would_replay_it() {
    if !have("mkfs.btrfs") {
        return;
    }
    for (kind, options) in [
        ("", "compress=zstd"),
        ("--csum xxhash -O ^no-holes -n 4096", "compress=no"),
    ] {
        let home = tempdir().unwrap();
        let image = home.path().join("image");
        mkfs(&image, 512 << 20, kind);
        let options = format!("noatime,commit=300,{options}");
        let Some(mount) = Mount::new(&image, "btrfs", &options) else {
            return;
        };
        before(mount.path());
        sync(mount.path());
        after(mount.path());
        after(&mount.path().join("second"));
        let crashed = home.path().join("crashed");
        copy(&image, &crashed);
        drop(mount);
        assert_ne!(log_root(&crashed), 0, "{kind}: the log is needed");
        let found = check(home.path(), &crashed, kind);
        assert!(found.contains_key(b"/new folder/inner/newest".as_slice()));
        assert!(found.contains_key(b"/second/new".as_slice()));
        check_used_copy(&crashed, &found, kind);
    }
}

/// One of the objects under `home`, and a name that may be one.
fn names(state: &mut u64, home: &Path) -> (PathBuf, PathBuf) {
    let folders = ["", "a", "b", "a/deep", "many"];
    let mut name = || {
        let folder = folders[random(state) % folders.len()];
        let names = ["file-1", "file-2", "file-3", "x", "y", "z", "deep"];
        home.join(folder).join(names[random(state) % names.len()])
    };
    (name(), name())
}

/// Does something that may fail, as names are what they are.
fn act(state: &mut u64, home: &Path) {
    let (one, other) = names(state, home);
    let open = || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&one)
    };
    let at = random(state) as u64 % 300_000;
    let length = 1 + random(state) % 40_000;
    match random(state) % 20 {
        0..4 => drop(open().and_then(|file| {
            file.write_all_at(&vec![u8::try_from(at % 251).unwrap(); length], at)
        })),
        4 => drop(open().and_then(|file| file.set_len(at))),
        5 | 6 => drop(rustix::fs::rename(&one, &other)),
        7 | 8 => drop(fs::hard_link(&one, &other)),
        9 | 10 => drop(fs::remove_file(&one)),
        11 => drop(fs::create_dir(&one)),
        12 => drop(fs::remove_dir(&one)),
        13 => drop(symlink("target", &one)),
        14 => drop(setxattr(
            &one,
            "user.a",
            &vec![1; length % 900],
            XattrFlags::empty(),
        )),
        15 => drop(removexattr(&one, "user.a")),
        16 => drop(open().map(|file| {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let flags = if length.is_multiple_of(2) {
                punch
            } else {
                FallocateFlags::KEEP_SIZE
            };
            rustix::fs::fallocate(&file, flags, at, length as u64)
        })),
        17 => drop(fs::set_permissions(
            &one,
            fs::Permissions::from_mode(0o600 + u32::try_from(length % 64).unwrap()),
        )),
        18 => drop(
            Command::new("cp")
                .arg("--reflink=always")
                .args([&one, &other])
                .output(),
        ),
        _ => drop(fs::write(&one, vec![b's'; length % 3000])),
    }
    if random(state).is_multiple_of(3) {
        let synced = if random(state).is_multiple_of(2) {
            &one
        } else {
            &other
        };
        if fs::symlink_metadata(synced)
            .is_ok_and(|metadata| metadata.is_file() || metadata.is_dir())
        {
            fsync(synced);
        }
    }
}

#[test]
fn random_crashes_are_replayed_as_the_kernel_does() {
    if !have("mkfs.btrfs") {
        return;
    }
    let rounds: u64 = std::env::var("GUESTFS_CRASHES").map_or(4, |rounds| rounds.parse().unwrap());
    let first: u64 = std::env::var("GUESTFS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut with_log = 0;
    for seed in first..first + rounds {
        let home = tempdir().unwrap();
        let image = home.path().join("image");
        let kind = ["", "-O ^no-holes", "-n 4096", "--csum sha256"];
        mkfs(&image, 256 << 20, kind[usize::try_from(seed % 4).unwrap()]);
        let compression = ["no", "zstd", "lzo", "zlib"];
        let options = format!(
            "noatime,commit=300,compress={}",
            compression[usize::try_from(seed / 4 % 4).unwrap()]
        );
        let Some(mount) = Mount::new(&image, "btrfs", &options) else {
            return;
        };
        before(mount.path());
        sync(mount.path());
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for part in 0..3 {
            for _ in 0..20 + random(&mut state) % 60 {
                let second = random(&mut state).is_multiple_of(4);
                let root = mount.path().to_owned();
                act(&mut state, &if second { root.join("second") } else { root });
            }
            copy(&image, &home.path().join(format!("crashed-{part}")));
        }
        drop(mount);
        for part in 0..3 {
            let crashed = home.path().join(format!("crashed-{part}"));
            with_log += u64::from(log_root(&crashed) != 0);
            check(home.path(), &crashed, &format!("seed {seed}, part {part}"));
        }
    }
    println!("{with_log} of {} images had a log", rounds * 3);
    assert!(with_log > rounds, "the log is needed");
}
