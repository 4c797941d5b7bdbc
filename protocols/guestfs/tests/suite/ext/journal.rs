//! Journals as debugfs writes them, block by block and without mounting.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::programs::{debugfs, mke2fs};
use crate::image::{have, tree, volume};

const BLOCK: usize = 1024;

fn content(image: &Path) -> Vec<u8> {
    let tree = tree(image);
    let file = tree.lookup(tree.root(), b"file").unwrap();
    tree.read(file, 0, 1 << 20).unwrap().data.to_vec()
}

/// An image with a file of eight blocks, and where they lie.
fn image(home: &Path, features: &str) -> (std::path::PathBuf, Vec<u64>) {
    let source = home.join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), vec![b'o'; 8 * BLOCK]).unwrap();
    let image = home.join("image");
    mke2fs(
        &image,
        "16M",
        Some(&source),
        &["-t", "ext4", "-b", "1024", "-O", features],
    );
    let said = debugfs(&image, &["blocks /file"]);
    let blocks: Vec<u64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(blocks.len(), 8, "{said}");
    (image, blocks)
}

#[test]
fn what_was_committed_is_read_and_what_was_revoked_is_not() {
    if !have("debugfs") {
        return;
    }
    for (features, open) in [
        ("^metadata_csum,^64bit", "jo"),
        ("metadata_csum,^64bit", "jo -c -v 2"),
        ("metadata_csum,64bit", "jo -c -v 3"),
        ("metadata_csum,64bit", "jo"),
    ] {
        let home = tempdir().unwrap();
        let (image, blocks) = image(home.path(), features);
        let mut expected = vec![b'o'; 8 * BLOCK];
        assert_eq!(content(&image), expected);
        let first = home.path().join("first");
        // A block that begins like one of the journal's own is stored without its beginning.
        let mut escaped = vec![b'e'; BLOCK];
        escaped[..4].copy_from_slice(&0xC03B_3998_u32.to_be_bytes());
        fs::write(
            &first,
            [vec![b'1'; BLOCK], escaped.clone(), vec![b'3'; BLOCK]].concat(),
        )
        .unwrap();
        let second = home.path().join("second");
        fs::write(&second, vec![b'2'; BLOCK]).unwrap();
        let write = |blocks: &[u64], file: &Path| {
            let list: Vec<String> = blocks.iter().map(u64::to_string).collect();
            format!("jw -b {} {}", list.join(","), file.display())
        };
        debugfs(
            &image,
            &[
                open,
                &write(&[blocks[0], blocks[1], blocks[5]], &first),
                &write(&[blocks[0]], &second),
                &format!("jw -r {}", blocks[5]),
                "jc",
            ],
        );
        expected[..BLOCK].fill(b'2');
        expected[BLOCK..2 * BLOCK].copy_from_slice(&escaped);
        let found = content(&image);
        let letters: Vec<u8> = found.iter().step_by(BLOCK / 2).copied().collect();
        assert!(
            found == expected,
            "{features}, {open}: {}",
            letters.escape_ascii()
        );
    }
}

#[test]
fn a_committed_transaction_that_is_hurt_is_not_passed_over() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let (image, blocks) = image(home.path(), "metadata_csum,64bit");
    let new = home.path().join("new");
    fs::write(&new, vec![b'1'; BLOCK]).unwrap();
    let write = format!("jw -b {} {}", blocks[0], new.display());
    debugfs(&image, &["jo -c -v 3", &write, "jc"]);
    let said = debugfs(&image, &["blocks <8>"]);
    let journal: Vec<usize> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let whole = fs::read(&image).unwrap();
    // The superblock of the journal, the descriptor, which only its commit shows to have been whole, copy and commit.
    for (number, at, named) in [(0, 0x14, 0), (1, 13, 3), (2, 500, 2), (3, 600, 3)] {
        let mut hurt = whole.clone();
        hurt[journal[number] * BLOCK + at] ^= 1;
        fs::write(&image, hurt).unwrap();
        let error = volume(&image).files().err().unwrap().to_string();
        assert!(
            error.contains(&format!("block {named} of the journal")),
            "{number}: {error}"
        );
    }
}

#[test]
fn what_was_not_committed_is_not_read() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let (image, blocks) = image(home.path(), "metadata_csum,64bit");
    let new = home.path().join("new");
    fs::write(&new, vec![b'1'; BLOCK]).unwrap();
    let write = format!("jw -b {} {}", blocks[0], new.display());
    let torn = format!("jw -c -b {} {}", blocks[1], new.display());
    debugfs(&image, &["jo -c -v 3", &write, &torn, "jc"]);
    let mut expected = vec![b'o'; 8 * BLOCK];
    expected[..BLOCK].fill(b'1');
    assert!(content(&image) == expected);
}

#[test]
fn a_journal_with_a_hole_is_damage() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mke2fs(&image, "64M", None, &["-t", "ext3", "-b", "1024"]);
    debugfs(
        &image,
        &["set_inode_field <8> block[IND] 0", "feature needs_recovery"],
    );
    let error = volume(&image).files().err().unwrap().to_string();
    assert!(error.contains("the journal has a hole"), "{error}");
}
