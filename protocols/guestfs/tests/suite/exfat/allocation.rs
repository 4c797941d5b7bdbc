//! Which clusters are in use, proven by copying nothing else.

use std::fs;
use std::path::Path;

use guestfs::Leavable;
use tempfile::tempdir;

use super::content::fill;
use super::raw::{Raw, checked, mkfs_exfat};
use crate::image::{copy_of_used, tree, volume};
use crate::manifest::{compare, of_tree};

#[test]
fn what_is_in_use_is_enough() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    for (mib, options) in [(64, "-c 512"), (64, "-c 32768")] {
        let filled = mkfs_exfat(&image, mib, options, |root| {
            fill(root);
            fs::remove_file(root.join("size-70000")).unwrap();
        });
        if filled.is_none() {
            return;
        }
        let expected = of_tree(&*tree(&image));
        let (copied, left_out) = copy_of_used(&image, options);
        compare(&of_tree(&*tree(&copied)), &expected, options);
        assert_eq!(checked(&copied), checked(&image));
        assert_eq!(checked(&copied).0, Some(0));
        let free = tree(&image).statistics().unwrap().free_bytes;
        assert_eq!(left_out, free, "{options}");
    }
}

/// Whoever gets an error takes the whole volume for used.
fn map_error(image: &Path) -> Option<String> {
    match volume(image).allocated() {
        Err(error) => Some(error.to_string()),
        Ok(mut allocation) => allocation
            .find_map(Result::err)
            .map(|error| error.to_string()),
    }
}

#[test]
fn while_in_use_what_files_have_is_in_use_too() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    if mkfs_exfat(&image, 64, "-c 4096", fill).is_none() {
        return;
    }
    let expected = of_tree(&*tree(&image));
    // A bitmap that knows nothing of the clusters of two files yet.
    let mut raw = Raw::read(&image);
    let root = raw.cluster_at(raw.u32(96));
    let entry = (root..)
        .step_by(32)
        .find(|at| raw.bytes[*at] == 0x81)
        .unwrap();
    let bitmap = raw.cluster_at(raw.u32(entry + 20));
    for name in ["size-900000", "woven-2"] {
        let set = raw.set(name);
        let first = raw.u32(set + 52) - 2;
        for bit in first..first + 3 {
            raw.bytes[bitmap + bit / 8] &= !(1 << (bit % 8));
        }
    }
    raw.bytes[106] |= 2;
    fs::write(&image, &raw.bytes).unwrap();
    let (copied, _) = copy_of_used(&image, "in use");
    compare(&of_tree(&*tree(&copied)), &expected, "in use");
    // With a damaged entry, nobody knows what it had.
    let set = raw.set("size-511");
    raw.bytes[set + 5] ^= 0x40;
    fs::write(&image, &raw.bytes).unwrap();
    let said = map_error(&image).unwrap();
    assert!(said.contains("checksum"), "{said}");
    // A bitmap that was lost and reads as zeroes.
    raw.bytes[bitmap..bitmap + 512].fill(0);
    fs::write(&image, &raw.bytes).unwrap();
    let said = map_error(&image).unwrap();
    assert!(
        said.contains("what the filesystem itself lies in"),
        "{said}"
    );
}

#[test]
fn what_windows_makes_again_can_be_left_out() {
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    let filled = mkfs_exfat(&image, 64, "-c 4096", |root| {
        fill(root);
        fs::create_dir_all(root.join("$Recycle.Bin/S-1-5")).unwrap();
        fs::write(root.join("$Recycle.Bin/S-1-5/thrown"), vec![7; 9000]).unwrap();
        fs::write(root.join("pagefile.sys"), vec![8; 30_000]).unwrap();
    });
    if filled.is_none() {
        return;
    }
    let found = volume(&image).leavable().unwrap();
    let bytes = |kind| -> u64 {
        let same = found.iter().filter(|(why, _)| *why == kind);
        same.map(|(_, range)| range.end - range.start).sum()
    };
    assert_eq!(bytes(Leavable::RecycleBin), 12 << 10);
    assert_eq!(bytes(Leavable::PageFile), 32 << 10);
    let mut raw = Raw::read(&image);
    for (_, range) in &found {
        raw.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
            .fill(0);
    }
    let without = home.path().join("without");
    fs::write(&without, &raw.bytes).unwrap();
    assert_eq!(checked(&without), checked(&image));
    let (shown, before) = (of_tree(&*tree(&without)), of_tree(&*tree(&image)));
    let differs = shown
        .iter()
        .filter(|(path, object)| before[*path] != **object);
    assert_eq!(differs.count(), 2);
}
