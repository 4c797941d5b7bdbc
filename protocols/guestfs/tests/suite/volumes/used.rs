//! A copy of what is in use alone, over rubbish, is as good as the whole.

use std::collections::BTreeSet;
use std::fs;

use guestfs::{Content, DiskSet, Leavable, UsedDisk};
use tempfile::tempdir;

use super::arrays::{self, KINDS};
use super::fixtures::{Case, content_of, find};
use crate::ext::programs::mke2fs;
use crate::image::have;
use crate::manifest::of_tree;

/// The disks with rubbish wherever nothing is in use.
pub(super) fn only_used(disks: &[Vec<u8>], used: &[UsedDisk]) -> Vec<Vec<u8>> {
    assert_eq!(disks.len(), used.len());
    let copy = |(disk, used): (&Vec<u8>, &UsedDisk)| {
        let mut copy = vec![0xA7; disk.len()];
        let mut last = 0;
        for range in &used.ranges {
            assert!(range.start >= last && range.start < range.end, "{range:?}");
            last = range.end;
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            copy[range.clone()].copy_from_slice(&disk[range]);
        }
        copy
    };
    disks.iter().zip(used).map(copy).collect()
}

pub(super) fn used_bytes(used: &[UsedDisk]) -> u64 {
    let ranges = used.iter().flat_map(|used| &used.ranges);
    ranges.map(|range| range.end - range.start).sum()
}

/// Compares all volumes: filesystems by their trees, others byte by byte.
pub(super) fn compare_sets(found: &DiskSet, expected: &DiskSet, what: &str) {
    assert_eq!(found.assembled.len(), expected.assembled.len(), "{what}");
    for one in &expected.assembled {
        let other = find(found, &one.name);
        let (Ok(volume), Ok(other)) = (&one.volume, &other.volume) else {
            assert!(
                one.volume.is_err() && other.volume.is_err(),
                "{what}: {one:?}"
            );
            continue;
        };
        match (volume.files(), other.files()) {
            (Ok(tree), Ok(other)) => assert_eq!(of_tree(&*other), of_tree(&*tree), "{what}"),
            _ if ["LVM2", "array"]
                .iter()
                .any(|inner| volume.content.name().contains(inner)) => {}
            _ => assert!(
                content_of(&*volume.source()) == content_of(&*other.source()),
                "{what}: {}",
                one.name
            ),
        }
    }
}

#[test]
fn what_the_kernel_made_survives_without_its_free_blocks() {
    let mut saved = 0;
    for case in Case::all() {
        let set = case.open();
        let used = set.used();
        let all: usize = case.disks.iter().map(Vec::len).sum();
        let kept = used_bytes(&used);
        let names: Vec<_> = used
            .iter()
            .flat_map(|used| &used.whole)
            .map(|whole| whole.name.as_str())
            .collect();
        println!(
            "{}: {kept} of {all} bytes in use, as a whole {names:?}",
            case.name
        );
        saved += usize::from(kept < all as u64);
        let mut copy = case.clone();
        copy.disks = only_used(&case.disks, &used);
        compare_sets(&copy.open(), &set, &case.name);
    }
    assert!(saved > 5, "{saved}");
}

#[test]
fn swap_is_left_out_of_what_it_lies_on() {
    let mut swap = vec![0x3C; 8 << 20];
    swap[..4096].fill(7);
    swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
    let first_page = |set: &DiskSet, what: &str| {
        let mut volumes = set
            .assembled
            .iter()
            .filter_map(|one| one.volume.as_ref().ok());
        let volume = volumes.find(|volume| volume.content == Content::Swap);
        let source = volume.expect(what).source();
        source.read(0, 4096).unwrap().to_vec()
    };
    for made in KINDS {
        let what = format!("{made:?}");
        let members = made.members_of(&swap);
        let set = arrays::open(&members);
        assert_eq!(set.leavable(), BTreeSet::from([Leavable::Swap]), "{what}");
        let (kept, less) = (set.used(), set.used_without(&set.leavable()));
        let (kept, saved) = (used_bytes(&kept), used_bytes(&less));
        assert!(saved * 4 < kept, "{what}: {saved} of {kept}");
        // Its first page stays, also as parity and copies have it.
        let copy = only_used(&members, &less);
        assert!(
            first_page(&arrays::open(&copy), &what) == swap[..4096],
            "{what}"
        );
        if made.level > 0 {
            let rest = arrays::open(&copy[1..]);
            assert!(first_page(&rest, &what) == swap[..4096], "{what}");
        }
    }
}

#[test]
fn free_extents_and_blocks_of_pools_are_left_out() {
    let used = |name: &str| {
        let case = Case::read(name);
        let all: usize = case.disks.iter().map(Vec::len).sum();
        (used_bytes(&case.open().used()), all as u64)
    };
    for (name, most) in [("lvm-linear", 60), ("lvm-snapshot", 60), ("lvm-thin", 50)] {
        let (kept, all) = used(name);
        assert!(kept * 100 < all * most, "{name}: {kept} of {all}");
    }
}

#[test]
fn a_pool_with_a_damaged_tree_is_in_use_as_a_whole() {
    let case = Case::read("lvm-thin");
    let sound = used_bytes(&case.open().used());
    let mut hurt = case.clone();
    // Every leaf of the metadata that can be found, but for the superblock.
    let mut found = 0;
    for disk in &mut hurt.disks {
        for at in (0..disk.len() - 4096).step_by(4096) {
            let block = &disk[at..at + 4096];
            let is_node = block[4..8] == [2, 0, 0, 0] && block[24..28] == [8, 0, 0, 0];
            if is_node
                && super::groups::crc32c(&block[4..]) ^ 121_107
                    == u32::from_le_bytes(block[..4].try_into().unwrap())
            {
                disk[at + 40] ^= 1;
                found += 1;
            }
        }
    }
    assert!(found > 2, "{found}");
    let kept = used_bytes(&hurt.open().used());
    assert!(kept > sound + (3 << 20), "{kept} instead of {sound}");
}

#[test]
fn filesystems_in_arrays_survive_without_their_free_blocks() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    for number in 0..200_usize {
        let text = format!("{number}\n").repeat(1 + number * 7);
        fs::write(source.join(format!("file {number}")), text).unwrap();
    }
    let image = home.path().join("image");
    mke2fs(&image, "24M", Some(&source), &["-t", "ext4", "-b", "1024"]);
    let image = fs::read(&image).unwrap();
    for made in KINDS {
        let members = made.members_of(&image);
        let set = arrays::open(&members);
        let used = set.used();
        let all: usize = members.iter().map(Vec::len).sum();
        let kept = used_bytes(&used);
        println!("{made:?}: {kept} of {all} bytes in use");
        assert!(kept * 100 < all as u64 * 60, "{made:?}");
        assert!(used.iter().all(|used| used.whole.is_empty()), "{used:?}");
        let copy = only_used(&members, &used);
        compare_sets(&arrays::open(&copy), &set, &format!("{made:?}"));
        if made.level > 0 {
            // Parity and copies still fit.
            compare_sets(
                &arrays::open(&copy[1..]),
                &arrays::open(&members[1..]),
                "without the first",
            );
        }
    }
}
