//! Which blocks are in use, compared with what dumpe2fs says, and proven by copying nothing else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use super::content::fill;
use super::programs::{debugfs, mke2fs};
use crate::image::{have, run, tree, volume};
use crate::manifest::{Manifest, compare, of_folder, of_tree};

#[test]
fn free_blocks_are_those_that_dumpe2fs_names() {
    if !have("dumpe2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let plain = of_folder(&source).len();
    for kind in [
        "-t ext2 -b 1024",
        "-t ext4 -b 1024 -O metadata_csum",
        "-t ext4 -b 4096",
        "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^flex_bg",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode",
        "-t ext4 -b 1024 -O bigalloc -C 8192",
        "-t ext4 -b 4096 -O bigalloc",
    ] {
        let image = home.path().join("image");
        mke2fs(
            &image,
            "160M",
            Some(&source),
            &kind.split_whitespace().collect::<Vec<_>>(),
        );
        let block: u64 = if kind.contains("1024") { 1024 } else { 4096 };
        let mut used = vec![true; usize::try_from((160 << 20) / block).unwrap()];
        let cluster = match kind {
            _ if !kind.contains("bigalloc") => 1,
            _ if kind.contains("8192") => 8,
            _ => 16,
        };
        for (first, last) in free_blocks(&image) {
            // Of the last cluster, dumpe2fs names the first block alone.
            let end = (usize::try_from(last).unwrap() + cluster).min(used.len());
            used[usize::try_from(first).unwrap()..end].fill(false);
        }
        let found = blocks_in_use(&image, block);
        let differs: Vec<usize> = (0..used.len())
            .filter(|at| used[*at] != found[*at])
            .take(9)
            .collect();
        assert!(differs.is_empty(), "{kind}: {differs:?}");
        assert!(used.contains(&false) && plain > 0);
        fs::remove_file(&image).unwrap();
    }
}

/// For each block, whether it is in use.
fn blocks_in_use(image: &Path, block: u64) -> Vec<bool> {
    let volume = volume(image);
    let number = |bytes: u64| usize::try_from(bytes / block).unwrap();
    let mut found = vec![false; number(volume.length_bytes)];
    let mut end = 0;
    for range in volume.allocated().unwrap() {
        let range = range.unwrap();
        assert!(range.start > end || end == 0, "merged and in order");
        end = range.end;
        found[number(range.start)..number(end)].fill(true);
    }
    found
}

/// What the bitmap on disk calls used stays used, and what only the journal knows comes to it.
pub(crate) fn check_union(image: &Path, what: &str) {
    let said = run(Command::new("dumpe2fs").arg("-h").arg(image));
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("Block size:"));
    let found = blocks_in_use(image, line.unwrap().trim().parse().unwrap());
    let mut free_on_disk = vec![false; found.len()];
    for (first, last) in free_blocks(image) {
        free_on_disk[usize::try_from(first).unwrap()..=usize::try_from(last).unwrap()].fill(true);
    }
    let both = || found.iter().zip(&free_on_disk);
    assert!(both().all(|(found, free)| *found || *free), "{what}");
    let by_journal = both().filter(|(found, free)| **found && **free).count();
    println!("{what}: the bitmap on disk alone would leave out {by_journal} blocks");
    assert!(
        by_journal > 0,
        "{what}: the journal has allocated something"
    );
}

/// Ranges of free blocks, as dumpe2fs prints them for each group.
fn free_blocks(image: &Path) -> Vec<(u64, u64)> {
    let said = run(Command::new("dumpe2fs").arg(image));
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("  Free blocks: "));
    lines
        .flat_map(|line| line.split(", "))
        .filter(|range| !range.trim().is_empty())
        .map(|range| {
            let (first, last) = range.trim().split_once('-').unwrap_or((range, range));
            (first.trim().parse().unwrap(), last.trim().parse().unwrap())
        })
        .collect()
}

/// Copies what is in use to an image that is otherwise full of rubbish: it must be as good as the original.
pub(crate) fn check_used_copy(image: &Path, expected: &Manifest, what: &str) {
    let copied = image.with_extension("used");
    let source = File::open(image).unwrap();
    let length = source.metadata().unwrap().len();
    let target = File::create(&copied).unwrap();
    let rubbish = vec![0x5A; 1 << 20];
    for at in (0..length).step_by(1 << 20) {
        target.write_all_at(&rubbish, at).unwrap();
    }
    let mut copied_bytes = 0;
    for range in volume(image).allocated().unwrap() {
        let range = range.unwrap();
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        source.read_exact_at(&mut bytes, range.start).unwrap();
        target.write_all_at(&bytes, range.start).unwrap();
        copied_bytes += range.end - range.start;
    }
    println!("{what}: {copied_bytes} of {length} bytes are in use");
    assert!(copied_bytes < length);
    compare(&of_tree(&*tree(&copied)), expected, what);
    let original = image.with_extension("original");
    run(Command::new("cp").args([image, &original]));
    assert_eq!(checked(&copied), checked(&original), "{what}");
    fs::remove_file(&original).unwrap();
    fs::remove_file(&copied).unwrap();
}

/// What e2fsck says of an image that it replays and mends, and of the result.
fn checked(image: &Path) -> [String; 2] {
    let name = image.display().to_string();
    let said = ["-fy", "-fn"].map(|how| {
        let output = Command::new("e2fsck").arg(how).arg(image).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout)
                .unwrap()
                .replace(&name, "it"),
        )
    });
    assert_eq!(said[1].0, Some(0), "{said:?}");
    said.map(|(_, said)| said)
}

/// Whoever gets an error takes the whole volume for used.
fn map_error(image: &Path) -> Option<String> {
    match volume(image).allocated() {
        Err(error) => Some(error.to_string()),
        Ok(allocation) => allocation
            .filter_map(Result::err)
            .map(|error| error.to_string())
            .next(),
    }
}

#[test]
fn bitmaps_that_may_be_wrong_give_no_map() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let image = home.path().join("image");
    let make = |kind: &str| {
        let options: Vec<&str> = kind.split_whitespace().collect();
        mke2fs(&image, "160M", Some(&source), &options);
        assert_eq!(map_error(&image), None, "{kind}");
    };
    // In use and without a journal; with faults; with a feature that nobody here knows.
    make("-t ext2");
    debugfs(&image, &["set_super_value state 0"]);
    let said = map_error(&image).unwrap();
    assert!(said.contains("without a journal that is in use"), "{said}");
    assert!(tree(&image).attributes(export::FileId(2)).is_ok());
    make("-t ext4");
    debugfs(&image, &["set_super_value state 3"]);
    let said = map_error(&image).unwrap();
    assert!(said.contains("has found faults"), "{said}");
    make("-t ext4 -O ^metadata_csum");
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mut features = [0; 4];
    file.read_exact_at(&mut features, 1024 + 0x64).unwrap();
    features[1] |= 0x08;
    file.write_all_at(&features, 1024 + 0x64).unwrap();
    let said = map_error(&image).unwrap();
    assert!(said.contains("read-only bits 0x800"), "{said}");
    // A bitmap that was lost and reads as zeroes.
    make("-t ext3 -b 4096");
    let said = run(Command::new("dumpe2fs").arg(&image));
    let bitmap = said.lines().find_map(|line| {
        let (_, rest) = line.split_once("Block bitmap at ")?;
        rest.split([' ', ',']).next()?.parse::<u64>().ok()
    });
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 4096], bitmap.unwrap() * 4096)
        .unwrap();
    let said = map_error(&image).unwrap();
    assert!(said.contains("not as many free blocks"), "{said}");
}
