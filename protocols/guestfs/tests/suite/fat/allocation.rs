//! Which clusters are in use, compared with what fsck.fat counts, and proven by copying nothing else.

use std::fs;
use std::path::Path;

use guestfs::Leavable;
use tempfile::tempdir;

use super::content::fill;
use super::programs::{checked, mkfs_fat};
use super::raw::Raw;
use crate::image::{copy_of_used, have, tree, volume};
use crate::manifest::{compare, of_tree, read_all};

#[test]
fn what_is_in_use_is_enough() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let image = home.path().join("image");
    for (kib, options) in [
        (2048, "-F 12"),
        (1440, "-F 12 -s 1 -f 1"),
        (32768, "-F 16"),
        (65536, "-F 16 -S 4096 -s 1"),
        (150_000, "-F 32 -s 2"),
        (70_000, "-F 32 -s 2 -f 1"),
    ] {
        mkfs_fat(&image, kib, Some(&source), options);
        let expected = of_tree(&*tree(&image));
        let (copied, left_out) = copy_of_used(&image, options);
        compare(&of_tree(&*tree(&copied)), &expected, options);
        let (code, said) = checked(&image);
        assert_eq!((code, &said), (Some(0), &checked(&copied).1), "{options}");
        // "it: 250 files, 700/4000 clusters"
        let line = said.lines().last().unwrap();
        let (used, all) = line
            .rsplit_once(", ")
            .and_then(|(_, counts)| counts.strip_suffix(" clusters")?.split_once('/'))
            .unwrap();
        let free = all.parse::<u64>().unwrap() - used.parse::<u64>().unwrap();
        let cluster = Raw::read(&image).cluster_bytes() as u64;
        assert_eq!(left_out, free * cluster, "{options}: {line}");
        let statistics = tree(&image).statistics().unwrap();
        assert_eq!(statistics.free_bytes, free * cluster, "{options}");
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
fn what_either_table_says_is_in_use() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), vec![7; 20_000]).unwrap();
    let image = home.path().join("image");
    mkfs_fat(&image, 8192, Some(&source), "-F 16 -s 1");
    let before = volume(&image).allocated().unwrap();
    let before: Vec<_> = before.map(Result::unwrap).collect();
    let mut raw = Raw::read(&image);
    let first = raw.first_cluster(b"FILE       ");
    raw.link(0, first + 3, 0);
    raw.link(1, 3000, 0xFFFF);
    fs::write(&image, &raw.bytes).unwrap();
    let after = volume(&image).allocated().unwrap();
    let after: Vec<_> = after.map(Result::unwrap).collect();
    let place = raw.cluster_at(3000) as u64;
    assert_eq!(after[..before.len()], before);
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after.last(), Some(&(place..place + 512)));
    // A table that was lost and reads as zeroes.
    for cluster in 0..16 {
        raw.link(1, cluster, 0);
    }
    fs::write(&image, &raw.bytes).unwrap();
    let said = map_error(&image).unwrap();
    assert!(
        said.contains("does not begin as the boot sector says"),
        "{said}"
    );
}

#[test]
fn what_windows_makes_again_can_be_left_out() {
    if !have("mkfs.fat") || !have("mcopy") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir_all(source.join("$RECYCLE.BIN/S-1-5/folder")).unwrap();
    fs::create_dir(source.join("folder")).unwrap();
    let content =
        |seed: u8| -> Vec<u8> { (0..9000_u32).map(|at| at.to_le_bytes()[1] ^ seed).collect() };
    for (seed, name) in (1..).zip([
        "before",
        "pagefile.sys",
        "hiberfil.sys",
        "folder/pagefile.sys",
        "$RECYCLE.BIN/S-1-5/$R123.txt",
        "$RECYCLE.BIN/S-1-5/folder/inner.txt",
    ]) {
        fs::write(source.join(name), content(seed)).unwrap();
    }
    let image = home.path().join("image");
    mkfs_fat(&image, 32768, Some(&source), "-F 16");
    let found = volume(&image).leavable().unwrap();
    let mut kinds: Vec<Leavable> = found.iter().map(|(why, _)| *why).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let all = [
        Leavable::PageFile,
        Leavable::Hibernation,
        Leavable::RecycleBin,
    ];
    assert_eq!(kinds, all);
    assert!(
        found
            .windows(2)
            .all(|pair| pair[0].1.end <= pair[1].1.start)
    );
    let mut raw = Raw::read(&image);
    let mut bytes = 0;
    for (_, range) in &found {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        bytes += range.len();
        raw.bytes[range].fill(0);
    }
    let cluster = raw.cluster_bytes();
    assert_eq!(bytes, 4 * 9000_usize.next_multiple_of(cluster));
    let without = home.path().join("without");
    fs::write(&without, &raw.bytes).unwrap();
    assert_eq!(checked(&without), checked(&image));
    let (shown, before) = (of_tree(&*tree(&without)), of_tree(&*tree(&image)));
    assert!(shown.keys().eq(before.keys()));
    let differs = shown
        .iter()
        .filter(|(path, object)| before[*path] != **object);
    assert_eq!(differs.count(), 4);
    let tree = tree(&without);
    let folder = tree.lookup(tree.root(), b"folder").unwrap();
    let file = tree.lookup(folder, b"pagefile.sys").unwrap();
    assert!(read_all(&*tree, file) == content(4));
    // Nothing may be left out that another file has too.
    let entry = raw.entry(b"BEFORE     ");
    let shared = u16::try_from(raw.first_cluster(b"PAGEFILESYS")).unwrap();
    raw.bytes[entry + 26..entry + 28].copy_from_slice(&shared.to_le_bytes());
    fs::write(&without, &raw.bytes).unwrap();
    let error = volume(&without).leavable().unwrap_err().to_string();
    assert!(error.contains("belongs to two"), "{error}");
}
