//! Damaged images of FAT12, FAT16 and FAT32.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::programs::mkfs_fat;
use crate::image::have;
use crate::mutation::check_damaged;

/// Enough of everything, and few enough that all of it is read each time.
pub(crate) fn small_tree(folder: &Path) {
    fs::create_dir_all(folder.join("folder/inner")).unwrap();
    for number in 0..120 {
        let name = format!("folder/a name of some length {number}");
        // What is only content hides what there is to hurt.
        let content = if number % 20 == 0 { "x" } else { "" };
        fs::write(folder.join(name), content).unwrap();
    }
    fs::write(folder.join("large"), vec![1; 60 << 10]).unwrap();
    fs::write(folder.join("folder/inner/file"), "inner").unwrap();
    fs::write(folder.join("Ünïcödé in any case"), "name").unwrap();
}

#[test]
fn damaged_images_do_no_harm() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    small_tree(&source);
    fs::create_dir(source.join("$RECYCLE.BIN")).unwrap();
    fs::write(source.join("$RECYCLE.BIN/thrown"), "away").unwrap();
    let image = home.path().join("image");
    for (kib, options) in [(720, "-F 12"), (4096, "-F 16 -s 1"), (34_000, "-F 32 -s 1")] {
        mkfs_fat(&image, kib, Some(&source), options);
        let mut bytes = fs::read(&image).unwrap();
        if kib > 4096 {
            shorten(&mut bytes, 2 << 20);
        }
        check_damaged(options, bytes);
    }
}

/// Takes the end away from a filesystem with sectors of 512 bytes, in which nothing may lie.
pub(crate) fn shorten(bytes: &mut Vec<u8>, length: usize) {
    bytes.truncate(length);
    let sectors = u32::try_from(length / 512).unwrap();
    bytes[32..36].copy_from_slice(&sectors.to_le_bytes());
}
