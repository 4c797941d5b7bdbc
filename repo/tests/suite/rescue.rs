//! Getting data out of a repository that is hurt, or cannot be written to.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use repo::{
    CHUNK_BYTES, ImageBase, ImageSpec, Point, PointKind, RepoError, Repository, Rescue,
    RescueReport,
};
use serde_json::Value;

use crate::fixture::unpack;
use crate::support::{back_up, fresh, noise, options, workload};

/// A disk as far as it could be read: zeroes elsewhere.
fn disk(rescue: &Rescue, point: &Point, number: usize) -> (Vec<u8>, RescueReport) {
    let mut whole = vec![0; usize::try_from(point.images[number].size_bytes).unwrap()];
    let report = rescue
        .restore_disk(
            point,
            number,
            &mut |offset, bytes| {
                let at = usize::try_from(offset).unwrap();
                whole[at..at + bytes.len()].copy_from_slice(bytes);
                Ok(())
            },
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
    (whole, report)
}

fn stream(rescue: &Rescue, point: &Point, name: &str) -> (Vec<u8>, RescueReport) {
    let mut whole = Vec::new();
    let report = rescue
        .restore_stream(
            point,
            name,
            &mut |offset, bytes| {
                whole.resize(usize::try_from(offset).unwrap(), 0);
                whole.extend_from_slice(bytes);
                Ok(())
            },
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
    whole.resize(usize::try_from(report.size_bytes).unwrap(), 0);
    (whole, report)
}

/// Every file with its content, to see that nothing was changed.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

fn check_fixture(rescue: &Rescue, expected: &Value) {
    let points = expected["points"].as_array().unwrap();
    assert_eq!(rescue.points().len(), points.len());
    for (point, wanted) in rescue.points().iter().zip(points) {
        for (number, wanted) in wanted["disks"].as_array().unwrap().iter().enumerate() {
            let mut hasher = blake3::Hasher::new();
            let report = rescue
                .restore_disk(
                    point,
                    number,
                    &mut |offset, bytes| {
                        hasher.update(&(offset / CHUNK_BYTES as u64).to_le_bytes());
                        hasher.update(bytes);
                        Ok(())
                    },
                    &mut |_| ControlFlow::Continue(()),
                )
                .unwrap();
            assert!(report.is_whole(), "{report:?}");
            let hash = hasher.finalize().to_string();
            assert_eq!(hash, wanted["data_blake3"], "{} {number}", point.name);
        }
        for wanted in wanted["streams"].as_array().unwrap() {
            let name = wanted["name"].as_str().unwrap();
            let (bytes, report) = stream(rescue, point, name);
            assert!(report.is_whole(), "{report:?}");
            assert_eq!(blake3::hash(&bytes).to_string(), wanted["blake3"]);
        }
    }
}

#[test]
fn a_stored_repository_is_read_without_index_lock_or_write() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unpack("repository-v1.tar.gz", folder.path());
    let root = folder.path().join("repository");
    let before = content(&root);
    let rescue = Rescue::open(&root, None).unwrap();
    assert_eq!(rescue.complaints(), Vec::<String>::new());
    check_fixture(&rescue, &expected);
    assert_eq!(content(&root), before);
}

#[test]
fn a_lost_superblock_is_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unpack("repository-v1.tar.gz", folder.path());
    let root = folder.path().join("repository");
    fs::write(root.join("superblock"), b"holdfast superblock").unwrap();
    let rescue = Rescue::open(&root, None).unwrap();
    assert_eq!(rescue.complaints().len(), 1);
    check_fixture(&rescue, &expected);
    // Without any header, manifests tell.
    fs::remove_file(root.join("superblock")).unwrap();
    for pack in packs_and_parities(&root.join("packs")).0.keys() {
        let mut bytes = fs::read(pack).unwrap();
        bytes[..64].fill(0xee);
        fs::write(pack, bytes).unwrap();
    }
    let rescue = Rescue::open(&root, None).unwrap();
    assert_eq!(rescue.uuid().to_string(), expected["repository"]);
    check_fixture(&rescue, &expected);
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Rescue::open(empty.path(), None),
        Err(RepoError::NotARepository { .. })
    ));
}

/// Everything of the repository but writing.
fn take_rights(folder: &Path, file_mode: u32, folder_mode: u32) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            take_rights(&path, file_mode, folder_mode);
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(file_mode)).unwrap();
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(folder_mode)).unwrap();
}

#[test]
fn a_running_repository_is_read_beside_its_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repository");
    let repository = fresh(&root);
    let content_1 = noise(1, 300_032);
    back_up(
        &repository,
        300_032,
        ImageBase::Nothing,
        &[(0, content_1.clone())],
    );
    take_rights(&root.join("packs"), 0o400, 0o500);
    let rescue = Rescue::open(&root, None).unwrap();
    let (bytes, report) = disk(&rescue, &rescue.points()[0], 0);
    assert!(report.is_whole() && bytes == content_1);
    take_rights(&root.join("packs"), 0o600, 0o700);
}

/// A repository with a disk and a stream in two points, closed; and their content.
fn rich(root: &Path) -> (Vec<u8>, Vec<u8>) {
    let repository = fresh(root);
    let image = noise(1, 1 << 20);
    let piece = noise(2, 700_001);
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: image.len() as u64,
        base: ImageBase::Nothing,
    };
    let mut writer = backup.image(&spec).unwrap();
    writer.write(0, image.clone().into()).unwrap();
    backup.finish_image(writer).unwrap();
    let mut writer = backup.stream("piece").unwrap();
    writer.append(&piece).unwrap();
    backup.finish_stream(writer).unwrap();
    backup.commit().unwrap();
    back_up(
        &repository,
        1 << 20,
        ImageBase::Nothing,
        &[(0, noise(3, 65_536))],
    );
    repository.close().unwrap();
    (image, piece)
}

#[test]
fn what_is_hurt_is_missing_and_named_and_the_rest_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let (image, piece) = rich(folder.path());
    let (packs, parities) = packs_and_parities(&folder.path().join("packs"));
    for parity in parities {
        fs::remove_file(parity).unwrap();
    }
    let (mut lost, mut given) = (0, 0);
    for (path, sound) in &packs {
        for place in (4096..sound.len()).step_by(sound.len() / 23) {
            let mut hurt = sound.clone();
            hurt[place] ^= 0x40;
            fs::write(path, &hurt).unwrap();
            let rescue = Rescue::open(folder.path(), None).unwrap();
            let point = &rescue.points()[0];
            let results = [
                (disk(&rescue, point, 0), &image),
                (stream(&rescue, point, "piece"), &piece),
            ];
            for ((bytes, report), expected) in results {
                let missing: u64 = report.missing.iter().map(|extent| extent.length).sum();
                assert_eq!(missing, report.missing_bytes);
                let mut at = 0;
                for extent in &report.missing {
                    let start = usize::try_from(extent.offset).unwrap();
                    assert!(bytes[at..start] == expected[at..start]);
                    assert!(!extent.why.is_empty());
                    at = start + usize::try_from(extent.length).unwrap();
                }
                assert!(bytes[at..] == expected[at..], "what is given is right");
                lost += report.missing_bytes;
                given += report.data_bytes;
            }
        }
        fs::write(path, sound).unwrap();
    }
    assert!(lost > 0 && given > lost, "{lost} lost, {given} given");
}

/// Packs with their content, and the files of their parity.
fn packs_and_parities(folder: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<PathBuf>) {
    let mut packs = content(folder);
    let is_parity = |path: &PathBuf| path.extension().is_some_and(|end| end == "parity");
    let parities: Vec<_> = packs
        .keys()
        .filter(|path| is_parity(path))
        .cloned()
        .collect();
    packs.retain(|path, _| !is_parity(path));
    (packs, parities)
}

#[test]
fn damaged_manifests_cost_only_their_points() {
    let folder = tempfile::tempdir().unwrap();
    let (image, _) = rich(folder.path());
    fs::write(
        folder
            .path()
            .join("points/web/00000000000000000002.00000001"),
        b"garbage",
    )
    .unwrap();
    let rescue = Rescue::open(folder.path(), None).unwrap();
    assert_eq!(rescue.points().len(), 1);
    assert_eq!(rescue.complaints().len(), 1);
    assert!(rescue.complaints()[0].contains("00000000000000000002"));
    let (bytes, report) = disk(&rescue, &rescue.points()[0], 0);
    assert!(report.is_whole() && bytes == image);
}

#[test]
fn packs_under_other_numbers_are_found_by_their_tables() {
    let folder = tempfile::tempdir().unwrap();
    let (image, piece) = rich(folder.path());
    let packs = folder.path().join("packs");
    let (files, parities) = packs_and_parities(&packs);
    for parity in parities {
        fs::remove_file(parity).unwrap();
    }
    for (number, path) in files.into_keys().enumerate() {
        let number = 0x40 + number;
        let target = packs.join(format!("{number:02x}"));
        fs::create_dir_all(&target).unwrap();
        let bytes = fs::read(&path).unwrap();
        // One without its table, too.
        let kept = if number == 0x40 {
            bytes.len() - 4096
        } else {
            bytes.len()
        };
        fs::write(
            target.join(format!("{number:08x}.00000001")),
            &bytes[..kept],
        )
        .unwrap();
        fs::remove_file(path).unwrap();
    }
    let rescue = Rescue::open(folder.path(), None).unwrap();
    let point = &rescue.points()[0];
    let (bytes, report) = disk(&rescue, point, 0);
    assert!(report.is_whole() && bytes == image, "{report:?}");
    let (bytes, report) = stream(&rescue, point, "piece");
    assert!(report.is_whole() && bytes == piece, "{report:?}");
}

#[test]
fn an_encrypted_repository_is_read_with_its_secret_even_without_a_superblock() {
    let folder = tempfile::tempdir().unwrap();
    let secret = repo::Secret::passphrase("correct horse").unwrap();
    let slot = repo::NewKeySlot {
        name: "first".to_owned(),
        secret: secret.clone(),
        kdf: repo::KdfSettings {
            memory_kibibytes: 64,
            passes: 1,
            lanes: 1,
        },
    };
    let create = repo::CreateOptions {
        key_slots: vec![slot],
    };
    Repository::create(folder.path(), &create).unwrap();
    let mut open = options();
    open.secret = Some(secret.clone());
    let repository = Repository::open(folder.path(), &open).unwrap();
    let image = noise(1, 200_704);
    back_up(
        &repository,
        200_704,
        ImageBase::Nothing,
        &[(0, image.clone())],
    );
    drop(repository);
    for lost in [false, true] {
        if lost {
            fs::remove_file(folder.path().join("superblock")).unwrap();
        }
        assert!(matches!(
            Rescue::open(folder.path(), None),
            Err(RepoError::KeyNeeded { .. })
        ));
        let wrong = repo::Secret::passphrase("wrong").unwrap();
        assert!(Rescue::open(folder.path(), Some(&wrong)).is_err());
        let rescue = Rescue::open(folder.path(), Some(&secret)).unwrap();
        assert_eq!(rescue.complaints().len(), usize::from(lost));
        let (bytes, report) = disk(&rescue, &rescue.points()[0], 0);
        assert!(report.is_whole() && bytes == image);
    }
}

#[test]
fn a_copied_folder_is_adopted_and_used_on() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unpack("repository-v1.tar.gz", folder.path());
    let root = folder.path().join("repository");
    // An index of somewhere else, half copied.
    fs::create_dir(root.join("index")).unwrap();
    fs::write(root.join("index/CURRENT"), b"MANIFEST-000099\n").unwrap();
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&seen);
    let progress = move |_: u64, all: u64| {
        counter.store(all, std::sync::atomic::Ordering::SeqCst);
    };
    let report = Repository::adopt(&root, &options(), std::sync::Arc::new(progress)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(
        (report.points, report.workloads, report.overlays),
        (5, 2, 2)
    );
    assert_eq!(report.packs, 7);
    assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 7);
    let repository = Repository::open(&root, &options()).unwrap();
    crate::fixture::check_points(&repository, &expected);
}

#[test]
fn what_is_hurt_in_a_copied_folder_is_told_and_the_rest_is_adopted() {
    let folder = tempfile::tempdir().unwrap();
    unpack("repository-v1.tar.gz", folder.path());
    let root = folder.path().join("repository");
    fs::write(root.join("packs/02/00000002.00000001"), b"short").unwrap();
    fs::write(
        root.join("points/web/00000000000000000004.00000001"),
        b"garbage",
    )
    .unwrap();
    let adopt = || Repository::adopt(&root, &options(), std::sync::Arc::new(|_, _| {})).unwrap();
    let report = adopt();
    assert!(!report.is_sound());
    assert_eq!(report.points, 4);
    let told = report.complaints.join("\n");
    assert!(told.contains("00000000000000000004"), "{told}");
    let open = Repository::open(&root, &options()).unwrap();
    assert!(matches!(
        Repository::adopt(&root, &options(), std::sync::Arc::new(|_, _| {})),
        Err(RepoError::InUse { .. })
    ));
    drop(open);
    assert_eq!(adopt().points, 4, "it can be done again");
}
