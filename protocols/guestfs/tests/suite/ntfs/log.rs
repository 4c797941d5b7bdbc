//! A log that was left open, as Windows leaves it when the power fails.

use std::fs;
use std::ops::Range;
use std::path::Path;

use tempfile::tempdir;

use crate::image::{have, tree, volume};
use crate::manifest::{compare, of_tree};

/// Where the log of an image of clusters of 4096 bytes lies, which is in one run.
fn log_of(image: &[u8]) -> Range<usize> {
    let number = |at: usize, length: usize| {
        let mut whole = [0; 8];
        whole[..length].copy_from_slice(&image[at..at + length]);
        usize::try_from(u64::from_le_bytes(whole)).unwrap()
    };
    let record = number(48, 8) * 4096 + 2 * 1024;
    let mut at = record + number(record + 20, 2);
    while number(at, 4) != 0x80 {
        at += number(at + 4, 4);
    }
    let pairs = at + number(at + 32, 2);
    let (length_bytes, place_bytes) = (number(pairs, 1) & 15, number(pairs, 1) >> 4);
    let length = number(pairs + 1, length_bytes) * 4096;
    let start = number(pairs + 1 + length_bytes, place_bytes) * 4096;
    assert_eq!(
        number(pairs + 1 + length_bytes + place_bytes, 1),
        0,
        "one run"
    );
    start..start + length
}

/// A page with the numbers at the ends of its sectors.
fn page(magic: &[u8; 4], sequence_at: u16, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..4].copy_from_slice(magic);
    page[4..6].copy_from_slice(&sequence_at.to_le_bytes());
    page[6] = 9;
    for (at, bytes) in fields {
        page[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let sequence = usize::from(sequence_at);
    page[sequence] = 0x33;
    for sector in 0..8 {
        let end = sector * 512 + 510;
        let (saved, at) = ([page[end], page[end + 1]], sequence + 2 + sector * 2);
        page[at..at + 2].copy_from_slice(&saved);
        page[end..end + 2].copy_from_slice(&[0x33, 0]);
    }
    page
}

/// Leaves the log open, with a record that allocates `count` clusters from `first` on. It begins so near to the end of a
/// page that its data is in the next one.
pub(crate) fn leave_open(image: &mut [u8], first: u32, count: u32) {
    let log = log_of(image);
    let restart = page(
        b"RSTR",
        0x1E,
        &[
            (0x10, &4096_u32.to_le_bytes()),
            (0x14, &4096_u32.to_le_bytes()),
            (0x18, &[0x30, 0, 1, 0, 1, 0]),
            (0x30 + 0x10, &44_u32.to_le_bytes()),
            (0x30 + 0x26, &0x40_u16.to_le_bytes()),
        ],
    );
    let at = 4096 - 0x30 - 0x28;
    let lsn = (7 << 20) | ((5 * 4096 + at as u64) / 8);
    let begin = page(
        b"RCRD",
        0x28,
        &[
            (at, &lsn.to_le_bytes()),
            (at + 0x18, &0x30_u32.to_le_bytes()),
            (at + 0x20, &1_u32.to_le_bytes()),
            (at + 0x30, &[0x15, 0, 0x16, 0, 0x28, 0, 8, 0, 0x28, 0, 8, 0]),
        ],
    );
    let data = [first.to_le_bytes(), count.to_le_bytes()].concat();
    let next = page(b"RCRD", 0x28, &[(0x40, &data)]);
    for (number, page) in [(0, &restart), (1, &restart), (5, &begin), (6, &next)] {
        let at = log.start + number * 4096;
        image[at..at + 4096].copy_from_slice(page);
    }
}

fn used(image: &Path) -> Vec<Range<u64>> {
    volume(image)
        .allocated()
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn what_an_open_log_allocates_is_in_use() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    let Some(mut bytes) = super::damage::image(home.path(), &["-c", "4096"]) else {
        return;
    };
    let image = home.path().join("image");
    let before = used(&image);
    let expected = of_tree(&*tree(&image));
    let free = before.windows(2).map(|pair| pair[0].end..pair[1].start);
    let free = free.max_by_key(|gap| gap.end - gap.start).unwrap();
    let first = u32::try_from(free.start / 4096).unwrap() + 3;
    assert!(free.end / 4096 > u64::from(first) + 20, "{free:?}");
    leave_open(&mut bytes, first, 9);
    fs::write(&image, &bytes).unwrap();
    compare(&of_tree(&*tree(&image)), &expected, "an open log");
    let touched = u64::from(first) * 4096..u64::from(first + 9) * 4096;
    let mut with = before;
    with.push(touched.clone());
    with.sort_by_key(|range| range.start);
    assert_eq!(used(&image), with);
    // The record goes on in a page that is hurt.
    let page = log_of(&bytes).start + 6 * 4096;
    bytes[page + 511] ^= 1;
    fs::write(&image, &bytes).unwrap();
    assert!(volume(&image).allocated().is_err());
}
