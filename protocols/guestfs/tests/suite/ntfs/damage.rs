//! Damaged images of NTFS.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;

use tempfile::tempdir;

use super::content::mixed;
use super::programs::{Ntfs3g, mkntfs, set};
use crate::image::{have, tree, volume};
use crate::manifest::{compare, of_tree};
use crate::mutation::check_damaged;

fn small_tree(root: &Path, islands: u64) {
    fs::create_dir_all(root.join("folder/inner")).unwrap();
    for number in 0..120 {
        let name = format!("folder/a name of some length {number}");
        fs::write(root.join(name), "x".repeat(number * 9)).unwrap();
    }
    let packed = root.join("packed");
    fs::create_dir(&packed).unwrap();
    set(&packed, "system.ntfs_attrib_be", &0x810_u32.to_be_bytes());
    fs::write(packed.join("mixed"), mixed(200_000)).unwrap();
    set(&root.join("folder"), "user.stream", b"content of a stream");
    set(&packed.join("mixed"), "user.long", &mixed(9000));
    symlink("folder/inner", root.join("link")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    for step in 0..islands {
        sparse.write_all_at(b"island", step * 70_000).unwrap();
    }
}

/// A small filesystem with something of everything.
pub(crate) fn image(home: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let image = home.join("image");
    mkntfs(&image, 8, options);
    let mount = Ntfs3g::new(&image, "noatime")?;
    // Each takes a cluster, and content is not what is to be hurt.
    let islands = if options == ["-c", "4096"] { 20 } else { 300 };
    small_tree(mount.path(), islands);
    drop(mount);
    Some(fs::read(image).unwrap())
}

#[test]
fn damaged_images_do_no_harm() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    for options in [&["-c", "4096"][..], &["-c", "512"], &["-c", "1024"]] {
        let Some(mut bytes) = image(home.path(), options) else {
            return;
        };
        if *options == ["-c", "4096"] {
            super::log::leave_open(&mut bytes, 100, 50);
        }
        check_damaged(&format!("ntfs {options:?}"), bytes);
    }
}

#[test]
fn copies_of_what_is_first_are_used() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    let Some(bytes) = image(home.path(), &["-c", "4096"]) else {
        return;
    };
    let path = home.path().join("image");
    let expected = of_tree(&*tree(&path));
    let table = u64::from_le_bytes(bytes[48..56].try_into().unwrap()) * 4096;
    let table = usize::try_from(table).unwrap();
    for (what, range) in [
        ("boot sector", 0..512),
        ("first record", table..table + 1024),
    ] {
        let mut hurt = bytes.clone();
        hurt[range].fill(0x5A);
        fs::write(&path, hurt).unwrap();
        compare(&of_tree(&*tree(&path)), &expected, what);
    }
    let mut hurt = bytes;
    hurt[..512].fill(0);
    let end = hurt.len() - 512;
    hurt[end..].fill(0);
    fs::write(&path, hurt).unwrap();
    assert!(volume(&path).files().is_err());
}
