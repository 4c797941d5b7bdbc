//! Flipped bits, lost files, hostile bytes: reported, never served.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use repo::{Damage, ImageBase, Repository, VerifyScope};

use crate::support::{Mode, back_up, fresh_in, noise, workload};

fn damages(repository: &Repository) -> Vec<Damage> {
    let report = repository
        .verify(&VerifyScope::All, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    report.damaged
}

/// Every file below `folder`, without the index, which is made again.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("index") {
                found.extend(files(&path));
            }
        } else if !path.ends_with("lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A repository with two points that has been closed, and their disks.
fn two_points(folder: &Path, mode: Mode) -> [Vec<u8>; 2] {
    let repository = fresh_in(mode, folder);
    let first = noise(1, 400_000 / 512 * 512);
    let mut second = first.clone();
    second[70_000..70_100].fill(3);
    let size = first.len() as u64;
    back_up(&repository, size, ImageBase::Nothing, &[(0, first.clone())]);
    back_up(&repository, size, ImageBase::Parent, &[(0, second.clone())]);
    [first, second]
}

/// Reads all points. Whatever is read is right; what cannot be read is an error. Says whether all could be read.
fn read_honestly(folder: &Path, mode: Mode, disks: &[Vec<u8>]) -> bool {
    let Ok(repository) = Repository::open(folder, &mode.options()) else {
        return false;
    };
    let mut whole = repository.points(None).len() == disks.len();
    for point in repository.points(None) {
        let disk = &disks[usize::try_from(point.name.sequence).unwrap() - 1];
        let image = repository.image(&point, 0).unwrap();
        for (number, expected) in disk.chunks(65_536).enumerate() {
            let mut pieces = Vec::new();
            let length = u32::try_from(expected.len()).unwrap();
            match image.read(number as u64 * 65_536, length, &mut pieces) {
                Ok(()) => assert!(
                    pieces.concat() == expected,
                    "{} chunk {number} is wrong",
                    point.name
                ),
                Err(error) => {
                    assert!(error.is_corrupt(), "{error}");
                    whole = false;
                }
            }
        }
    }
    whole
}

#[test]
fn a_flipped_bit_anywhere_is_reported_and_never_served() {
    Mode::each(a_flipped_bit_anywhere_is_reported_and_never_served_in);
}

fn a_flipped_bit_anywhere_is_reported_and_never_served_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let disks = two_points(folder.path(), mode);
    assert!(read_honestly(folder.path(), mode, &disks));
    let mut reported = 0;
    for path in files(folder.path()) {
        let sound = fs::read(&path).unwrap();
        // Every place in small files; in packs a stride that meets heads, payloads, filling, table and trailer.
        let stride = (sound.len() / 40).max(1) | 1;
        for place in (0..sound.len()).step_by(stride) {
            let mut hurt = sound.clone();
            hurt[place] ^= 1 << (place % 8);
            fs::write(&path, &hurt).unwrap();
            let whole = read_honestly(folder.path(), mode, &disks);
            if !whole {
                reported += 1;
                let told = Repository::open(folder.path(), &mode.options())
                    .map_or(true, |open| !damages(&open).is_empty());
                assert!(
                    told,
                    "{} byte {place}: a read failed and verify is content",
                    path.display()
                );
            }
        }
        fs::write(&path, &sound).unwrap();
    }
    assert!(reported > 50, "only {reported} flips mattered");
    assert!(read_honestly(folder.path(), mode, &disks));
}

#[test]
fn verify_names_the_point_disk_and_extent_that_suffer() {
    Mode::each(verify_names_the_point_disk_and_extent_that_suffer_in);
}

fn verify_names_the_point_disk_and_extent_that_suffer_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    two_points(folder.path(), mode);
    let pack = files(folder.path())
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    // The second record: the chunk at 64 KiB of the first disk, which the second disk has replaced.
    bytes[4096 + 65_664 + 1000] ^= 0x10;
    fs::write(&pack, &bytes).unwrap();
    let repository = Repository::open(folder.path(), &mode.options()).unwrap();
    let found = damages(&repository);
    let at: Vec<_> = found
        .iter()
        .filter(|damage| damage.point.is_some())
        .collect();
    assert_eq!(at.len(), 1, "{found:?}");
    assert_eq!(at[0].point.as_ref().unwrap().to_string(), "web@1");
    assert_eq!(
        (at[0].part.as_deref(), at[0].offset, at[0].length),
        (Some("disk-0"), Some(65_536), Some(65_536))
    );
    let one = VerifyScope::Point("web@2".parse().unwrap());
    let report = repository
        .verify(&one, &mut |_| std::ops::ControlFlow::Continue(()))
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn a_lost_pack_is_an_error_and_what_it_held_is_stored_again() {
    Mode::each(a_lost_pack_is_an_error_and_what_it_held_is_stored_again_in);
}

fn a_lost_pack_is_an_error_and_what_it_held_is_stored_again_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let [_, second] = two_points(folder.path(), mode);
    for pack in files(&folder.path().join("packs")) {
        fs::remove_file(pack).unwrap();
    }
    let repository = Repository::open(folder.path(), &mode.options()).unwrap();
    assert!(!damages(&repository).is_empty());
    let image = repository
        .image(&repository.latest(&workload()).unwrap(), 0)
        .unwrap();
    assert!(
        image
            .read(0, 512, &mut Vec::new())
            .unwrap_err()
            .is_corrupt()
    );
    let point = back_up(
        &repository,
        second.len() as u64,
        ImageBase::Nothing,
        &[(0, second.clone())],
    );
    assert!(crate::support::read_all(&repository.image(&point, 0).unwrap()) == second);
}

#[test]
fn numbers_of_lost_packs_are_not_given_again() {
    Mode::each(numbers_of_lost_packs_are_not_given_again_in);
}

fn numbers_of_lost_packs_are_not_given_again_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let [first, _] = two_points(folder.path(), mode);
    for pack in files(&folder.path().join("packs")) {
        fs::remove_file(pack).unwrap();
    }
    let other = noise(77, first.len());
    for content in [&other, &first] {
        let repository = Repository::open(folder.path(), &mode.options()).unwrap();
        let point = back_up(
            &repository,
            first.len() as u64,
            ImageBase::Nothing,
            &[(0, content.clone())],
        );
        assert!(crate::support::read_all(&repository.image(&point, 0).unwrap()) == *content);
    }
}

#[test]
fn a_pack_that_cannot_be_used_does_not_keep_the_others_from_being_used() {
    Mode::each(a_pack_that_cannot_be_used_does_not_keep_the_others_from_being_used_in);
}

fn a_pack_that_cannot_be_used_does_not_keep_the_others_from_being_used_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let disks = two_points(folder.path(), mode);
    fs::create_dir(folder.path().join("packs/ff")).unwrap();
    for name in ["ff/000000ff.00000001", "01/000000AA.00000001", "01/strange"] {
        fs::write(folder.path().join("packs").join(name), b"no pack at all").unwrap();
    }
    fs::write(folder.path().join("points/stray"), b"").unwrap();
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert!(read_honestly(folder.path(), mode, &disks));
}

#[test]
fn an_index_of_garbage_is_made_again() {
    Mode::each(an_index_of_garbage_is_made_again_in);
}

fn an_index_of_garbage_is_made_again_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let disks = two_points(folder.path(), mode);
    for entry in fs::read_dir(folder.path().join("index")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(&path, b"garbage").unwrap();
        }
    }
    assert!(read_honestly(folder.path(), mode, &disks));
    let repository = Repository::open(folder.path(), &mode.options()).unwrap();
    let again = back_up(
        &repository,
        disks[1].len() as u64,
        ImageBase::Nothing,
        &[(0, disks[1].clone())],
    );
    assert_eq!(again.images[0].new_chunks, 0);
}

#[test]
fn a_flipped_bit_in_the_index_misleads_nobody_and_is_mended() {
    Mode::each(a_flipped_bit_in_the_index_misleads_nobody_and_is_mended_in);
}

fn a_flipped_bit_in_the_index_misleads_nobody_and_is_mended_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let disks = two_points(folder.path(), mode);
    let tables: Vec<_> = fs::read_dir(folder.path().join("index"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .collect();
    assert!(!tables.is_empty());
    for path in tables {
        let mut bytes = fs::read(&path).unwrap();
        for place in (0..bytes.len()).step_by(7) {
            bytes[place] ^= 1;
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(read_honestly(folder.path(), mode, &disks));
    let again = |repository: &Repository| {
        let point = back_up(
            repository,
            disks[1].len() as u64,
            ImageBase::Nothing,
            &[(0, disks[1].clone())],
        );
        let image = repository.image(&point, 0).unwrap();
        assert!(crate::support::read_all(&image) == disks[1]);
        point.images[0].new_chunks
    };
    again(&Repository::open(folder.path(), &mode.options()).unwrap());
    assert_eq!(
        again(&Repository::open(folder.path(), &mode.options()).unwrap()),
        0
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        repo::fuzz::fuzz_pack(&bytes);
        repo::fuzz::fuzz_manifest(&bytes);
        repo::fuzz::fuzz_mark(&bytes);
        repo::fuzz::fuzz_image_node(&bytes);
        repo::fuzz::fuzz_excluded(&bytes);
        repo::fuzz::fuzz_excluded(&[b"HFEXCL01", &bytes[..]].concat());
        repo::fuzz::fuzz_key_slot(&bytes);
        repo::fuzz::fuzz_stream_node(&bytes);
    }
}
