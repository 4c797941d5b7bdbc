//! The programs of btrfs-progs, and trees that only btrfs has.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, XattrFlags, setxattr};

use crate::ext::content::fill;
use crate::image::run;
use crate::manifest::Manifest;

/// Makes an empty filesystem.
pub(crate) fn mkfs(image: &Path, size: u64, options: &str) {
    File::create(image).unwrap().set_len(size).unwrap();
    let mut command = Command::new("mkfs.btrfs");
    run(command
        .args(["-q", "-f"])
        .args(options.split_whitespace())
        .arg(image));
}

/// Runs `btrfs` with words, the last of which are paths.
pub(crate) fn btrfs(words: &str, paths: &[&Path]) {
    let mut command = Command::new("btrfs");
    run(command.args(words.split_whitespace()).args(paths));
}

pub(crate) fn remount(root: &Path, options: &str) {
    let mut command = Command::new("mount");
    run(command
        .arg("-o")
        .arg(format!("remount,{options}"))
        .arg(root));
}

pub(crate) fn sync(root: &Path) {
    rustix::fs::syncfs(File::open(root).unwrap()).unwrap();
}

pub(crate) fn reflink(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--reflink=always").args([from, to]));
}

/// Files of all kinds in some compressions, subvolumes and snapshots.
pub(crate) fn fill_all(root: &Path, compressions: &[&str]) {
    for compression in compressions {
        remount(root, &format!("compress-force={compression}"));
        let home = root.join(compression);
        btrfs("subvolume create", &[&home]);
        fill(&home);
        // Hashed many times below, and of little more worth when long.
        let sparse = File::options().write(true).open(home.join("sparse"));
        sparse.unwrap().set_len(12 << 20).unwrap();
        weave(&home);
        sync(root);
    }
    remount(root, "compress=no");
    let home = root.join(compressions[0]);
    let nested = home.join("many/nested");
    btrfs("subvolume create", &[&nested]);
    fs::write(nested.join("inside"), "nested").unwrap();
    btrfs("subvolume create", &[&home.join("many/other nested")]);
    decorate(&home);
    sync(root);
    let snapshots = root.join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    btrfs(
        "subvolume snapshot -r",
        &[&home, &snapshots.join("read-only")],
    );
    btrfs("subvolume snapshot", &[&home, &snapshots.join("written")]);
    let written = snapshots.join("written");
    fs::remove_file(written.join("size-4096")).unwrap();
    fs::write(written.join("size-1023"), "changed since").unwrap();
    rustix::fs::rename(written.join("many"), written.join("renamed")).unwrap();
    btrfs(
        "subvolume snapshot",
        &[&written, &root.join("snapshot of a snapshot")],
    );
    let gone = root.join("gone");
    btrfs("subvolume snapshot", &[&home, &gone]);
    btrfs("subvolume delete", &[&gone]);
    rustix::fs::rename(home.join("many/nested"), home.join("moved")).unwrap();
}

/// Extents that are used in part: overwritten, cloned, punched, prepared.
fn weave(home: &Path) {
    let text = |length: usize, seed: usize| -> Vec<u8> {
        let line = |number| format!("line {number} of {seed} is here\n");
        let mut text: Vec<u8> = (0..)
            .map(line)
            .flat_map(String::into_bytes)
            .take(length)
            .collect();
        text.truncate(length);
        text
    };
    let path = home.join("woven");
    fs::write(&path, text(900_000, 1)).unwrap();
    sync(home);
    reflink(&path, &home.join("clone"));
    let woven = File::options().read(true).write(true).open(&path).unwrap();
    for (number, at) in [5_u64, 70_000, 131_000, 300_001, 640_000]
        .into_iter()
        .enumerate()
    {
        woven
            .write_all_at(&text(7000 + number * 3000, number), at)
            .unwrap();
        woven.sync_data().unwrap();
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&woven, punch, 200_000, 50_000).unwrap();
    reflink(&path, &home.join("clone of the woven"));
    let prepared = File::create(home.join("prepared")).unwrap();
    rustix::fs::fallocate(&prepared, FallocateFlags::empty(), 0, 300_000).unwrap();
    rustix::fs::fallocate(&prepared, FallocateFlags::KEEP_SIZE, 300_000, 100_000).unwrap();
    prepared.write_all_at(&text(20_000, 9), 100_000).unwrap();
    for length in [10, 100, 1000, 2000, 2048, 3000, 4000] {
        fs::write(home.join(format!("text-{length}")), text(length, length)).unwrap();
    }
    let plain = home.join("without checksums");
    File::create(&plain).unwrap();
    // Not where the mount says that all is compressed.
    drop(Command::new("chattr").arg("+C").arg(&plain).output());
    fs::write(&plain, text(50_000, 3)).unwrap();
}

/// Attributes, access control lists and many links.
fn decorate(home: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        setxattr(home.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("size-1", "user.short", b"value");
    set("size-61", "user.long", &[7; 3000]);
    set("many", "user.of a folder", b"");
    set("size-100", "security.something", b"label");
    set("size-100", "trusted.other", b"x");
    // Names with the same CRC-32C.
    for name in colliding_names() {
        set("size-59", &name, name.as_bytes());
    }
    let list: [u32; 11] = [
        2,
        0x0006_0001,
        u32::MAX,
        0x0005_0002,
        70_000,
        0x0004_0004,
        u32::MAX,
        0x0007_0010,
        u32::MAX,
        0x0004_0020,
        u32::MAX,
    ];
    let list: Vec<u8> = list.iter().flat_map(|word| word.to_le_bytes()).collect();
    set("size-200", "system.posix_acl_access", &list);
    set("many", "system.posix_acl_default", &list);
    // More names than one item has room for.
    for number in 0..700 {
        let name = home.join(format!("many/link number {number} with a long name"));
        fs::hard_link(home.join("size-60"), name).unwrap();
    }
    for name in colliding_names() {
        fs::write(home.join(&name), name).unwrap();
    }
}

/// Names that have the same hash: CRCs of equal lengths differ by what the difference alone gives.
pub(crate) fn colliding_names() -> Vec<String> {
    let mut seen = std::collections::HashMap::new();
    let mut pairs = Vec::new();
    for number in 0_u32.. {
        let name = format!("user.{number:x}");
        if let Some(other) = seen.insert(crc32c(name.as_bytes()), name.clone()) {
            pairs.extend([other, name]);
            break;
        }
    }
    pairs
}

fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!1, |state, byte| step(state, *byte))
}

/// A byte more in a CRC-32C.
pub(crate) fn step(state: u32, byte: u8) -> u32 {
    (0..8).fold(state ^ u32::from(byte), |state, _| {
        (state >> 1) ^ if state & 1 == 1 { 0x82F6_3B78 } else { 0 }
    })
}

/// The moment of the files of this machine.
pub(crate) fn now(folder: &Path) -> (u64, u32) {
    let path = folder.join("moment");
    fs::write(&path, "now").unwrap();
    let metadata = fs::metadata(&path).unwrap();
    (
        u64::try_from(metadata.mtime()).unwrap(),
        u32::try_from(metadata.mtime_nsec()).unwrap(),
    )
}

/// Takes the times from `found` that the kernel has made up after `moment`, when it replayed or showed something.
pub(crate) fn forget_since(expected: &mut Manifest, found: &Manifest, moment: (u64, u32)) {
    for (path, object) in expected {
        let Some(found) = found.get(path) else {
            continue;
        };
        if object.modified > moment {
            object.modified = found.modified;
        }
        for (time, found) in object.other_times.iter_mut().zip(&found.other_times) {
            if *time > Some(moment) {
                *time = *found;
            }
        }
    }
}

/// Copies an image as it is now.
pub(crate) fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--sparse=always").args([from, to]));
}
