//! Images as a crash leaves them, compared with what the kernel makes of them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rustix::fs::{FallocateFlags, XattrFlags, setxattr};
use rustix::io::Errno;
use tempfile::tempdir;

use super::allocation::{check_union, check_used_copy};
use super::content::{check_fifty_thousand, fill};
use super::programs::mke2fs;
use crate::image::{Mount, have, run, tree, volume};
use crate::manifest::{compare, of_folder, of_tree};

/// What only the kernel can make.
pub(crate) fn decorate(root: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        setxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("size-1", "user.short", b"in the inode");
    set("size-61", "user.long", &[7; 900]);
    set("many", "user.of a folder", b"folder");
    set("size-100", "security.something", b"label");
    // Owner, one user, group, mask, others; the second for what is made in a folder.
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
    // Only with values in inodes of their own is there room for this.
    let huge = setxattr(
        root.join("size-60"),
        "user.huge",
        &[9; 20_000],
        XattrFlags::empty(),
    );
    assert!(
        matches!(huge, Ok(()) | Err(Errno::NOSPC | Errno::TOOBIG)),
        "{huge:?}"
    );
    let unwritten = File::create(root.join("unwritten")).unwrap();
    let made = rustix::fs::fallocate(&unwritten, FallocateFlags::empty(), 0, 300_000);
    assert!(matches!(made, Ok(()) | Err(Errno::OPNOTSUPP)), "{made:?}");
    for step in 0..15 {
        for name in ["woven-1", "woven-2"] {
            let mut file = File::options()
                .create(true)
                .append(true)
                .open(root.join(name))
                .unwrap();
            file.write_all(&vec![step + 1; 5000]).unwrap();
            file.sync_all().unwrap();
        }
    }
}

/// Changes of which the newest are only in the journal.
pub(crate) fn change(root: &Path) {
    for number in 0..200 {
        fs::write(
            root.join(format!("new-{number}")),
            format!("{number}").repeat(number),
        )
        .unwrap();
    }
    rustix::fs::rename(root.join("level 0"), root.join("moved")).unwrap();
    fs::remove_dir_all(root.join("many")).unwrap();
    fs::remove_file(root.join("size-12288")).unwrap();
    let last = root.join("new folder");
    fs::create_dir(&last).unwrap();
    let mut file = File::create(last.join("newest")).unwrap();
    file.write_all(b"synced a moment ago").unwrap();
    file.sync_all().unwrap();
    File::open(&last).unwrap().sync_all().unwrap();
}

#[test]
fn a_copy_of_a_mounted_filesystem_is_as_the_kernel_would_replay_it() {
    if !have("mke2fs") {
        return;
    }
    for (kind, options) in [
        ("-t ext4", "data=ordered"),
        (
            "-t ext4 -b 1024 -O inline_data,ea_inode -I 256",
            "data=journal",
        ),
        (
            "-t ext4 -b 2048 -O ^metadata_csum,^64bit",
            "journal_checksum",
        ),
        ("-t ext3 -b 1024", "data=ordered"),
    ] {
        let home = tempdir().unwrap();
        let image = home.path().join("image");
        mke2fs(
            &image,
            "192M",
            None,
            &kind.split_whitespace().collect::<Vec<_>>(),
        );
        let Some(mount) = Mount::new(&image, "ext4", options) else {
            return;
        };
        fill(mount.path());
        decorate(mount.path());
        rustix::fs::syncfs(File::open(mount.path()).unwrap()).unwrap();
        change(mount.path());
        let crashed = home.path().join("crashed");
        let copy = |from: &Path, to: &Path| {
            run(Command::new("cp").arg("--sparse=always").args([from, to]));
        };
        copy(&image, &crashed);
        drop(mount);
        let expected = {
            let replayed = home.path().join("replayed");
            copy(&crashed, &replayed);
            let mount = Mount::new(&replayed, "ext4", "noatime").unwrap();
            of_folder(mount.path())
        };
        assert!(
            expected.contains_key(b"/new folder/newest".as_slice()),
            "{kind}: it was synced"
        );
        assert!(
            of_raw(&crashed).is_some_and(|needs| needs),
            "{kind}: the journal is needed"
        );
        compare(&of_tree(&*tree(&crashed)), &expected, kind);
        check_used_copy(&crashed, &expected, kind);
        check_union(&crashed, kind);
    }
}

#[test]
fn an_indexed_folder_of_fifty_thousand_is_read() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mke2fs(
        &image,
        "128M",
        None,
        &["-t", "ext4", "-b", "1024", "-N", "60000", "-O", "large_dir"],
    );
    let Some(mount) = Mount::new(&image, "ext4", "noatime") else {
        return;
    };
    let folder = mount.path().join("big");
    fs::create_dir(&folder).unwrap();
    for number in 0..50_000 {
        File::create(folder.join(format!("entry number {number}"))).unwrap();
    }
    drop(mount);
    let tree = tree(&image);
    let folder = tree.lookup(tree.root(), b"big").unwrap();
    let began = Instant::now();
    let all = tree.list(folder, 0, usize::MAX).unwrap();
    println!(
        "50,000 entries in an index: listed with attributes in {:?}",
        began.elapsed()
    );
    check_fifty_thousand(&*tree, folder, &all);
}

#[test]
fn fast_commits_are_not_passed_over() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mke2fs(&image, "64M", None, &["-t", "ext4", "-O", "fast_commit"]);
    let Some(mount) = Mount::new(&image, "ext4", "noatime") else {
        return;
    };
    for number in 0..5 {
        fs::write(mount.path().join(format!("early-{number}")), "x").unwrap();
    }
    rustix::fs::syncfs(File::open(mount.path()).unwrap()).unwrap();
    let mut file = File::create(mount.path().join("newest")).unwrap();
    file.write_all(b"synced a moment ago").unwrap();
    file.sync_all().unwrap();
    drop(file);
    let crashed = home.path().join("crashed");
    run(Command::new("cp").args([&image, &crashed]));
    drop(mount);
    match volume(&crashed).files() {
        // A kernel may choose a full commit.
        Ok(tree) => assert!(tree.lookup(tree.root(), b"newest").is_ok()),
        Err(error) => {
            println!("{error}");
            assert!(error.to_string().contains("fast commits"), "{error}");
        }
    }
    // After an orderly end there is nothing to replay.
    assert!(tree(&image).lookup(tree(&image).root(), b"newest").is_ok());
}

/// Whether the superblock says that the journal has to be replayed.
fn of_raw(image: &Path) -> Option<bool> {
    let said = run(Command::new("dumpe2fs").arg("-h").arg(image));
    let features = said
        .lines()
        .find(|line| line.starts_with("Filesystem features"))?;
    Some(features.contains("needs_recovery"))
}
