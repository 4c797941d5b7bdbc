//! What can be proven of an encrypted repository without its key, and what is then found.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use repo::{
    ImageBase, KeylessReport, OpenOptions, ParityShare, Repair, RepoError, Repository,
    VerifyOptions, VerifyScope, verify_without_key,
};

use crate::support::{Mode, back_up, noise};

fn check(folder: &Path) -> Result<KeylessReport, RepoError> {
    verify_without_key(folder, &mut |done, total| {
        assert!(done <= total);
        ControlFlow::Continue(())
    })
}

/// An encrypted repository with two points, closed, with parity unless it has no share.
fn made(folder: &Path, parity: ParityShare) {
    let mode = Mode::Encrypted;
    let options = OpenOptions {
        parity_share: parity,
        ..mode.options()
    };
    Repository::create(folder, &mode.create_options()).unwrap();
    let repository = Repository::open(folder, &options).unwrap();
    for seed in 0..2 {
        let write = (0, noise(seed, 1 << 20));
        back_up(&repository, 2 << 20, ImageBase::Parent, &[write]);
    }
    repository.star(&"web@1".parse().unwrap()).unwrap();
    repository.close().unwrap();
    drop(repository);
    let repository = Repository::open(folder, &options).unwrap();
    let repair = VerifyOptions {
        scope: VerifyScope::All,
        rate: None,
        repair: Repair::Yes,
    };
    let report = repository
        .verify_with(&repair, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// All files but the index's, which is no part of what is proven.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("index") {
            found.extend(files(&path));
        } else if path.is_file() {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The largest pack.
fn pack(folder: &Path) -> PathBuf {
    let packs = files(&folder.join("packs")).into_iter();
    let largest = packs.max_by_key(|(_, bytes)| bytes.len());
    largest.unwrap().0
}

fn flip(path: &Path, from: usize, length: usize) {
    let mut bytes = fs::read(path).unwrap();
    for byte in &mut bytes[from..from + length] {
        *byte ^= 0x40;
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sound_copy_is_proven_and_not_touched_and_what_stays_open_is_said() {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), ParityShare::default());
    let before = files(folder.path());
    let report = check(folder.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(
        (report.packs, report.tables, report.parity),
        (2, 2, 2),
        "{report:?}"
    );
    assert_eq!((report.open_packs, report.without_parity), (0, 0));
    // 32 chunks, and a leaf and a root for each point.
    assert_eq!(report.records, 32 + 2);
    // The superblock, a key slot, two manifests and a star.
    assert_eq!(report.texts, 5);
    assert!(
        report
            .not_proven
            .iter()
            .any(|text| text.contains("forgery"))
    );
    assert!(files(folder.path()) == before, "nothing was written");
    let stopped = verify_without_key(folder.path(), &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(RepoError::Stopped)));
}

#[test]
fn damage_within_the_share_of_parity_is_told_from_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), ParityShare::default());
    let pack = pack(folder.path());
    let sound = fs::read(&pack).unwrap();
    flip(&pack, 9_000, 20_000);
    let report = check(folder.path()).unwrap();
    assert_eq!((report.mendable.len(), report.damaged.len()), (1, 0));
    assert_eq!(report.records, 34, "parity gives all of them");
    flip(&pack, 300_000, 1 << 20);
    let report = check(folder.path()).unwrap();
    assert!(report.mendable.is_empty());
    let name = pack
        .strip_prefix(folder.path())
        .unwrap()
        .display()
        .to_string();
    assert!(
        report.damaged.iter().all(|what| what.starts_with(&name)) && !report.damaged.is_empty(),
        "{report:?}"
    );
    fs::write(&pack, &sound[..sound.len() - 4096]).unwrap();
    let report = check(folder.path()).unwrap();
    assert_eq!((report.mendable.len(), report.damaged.len()), (1, 0));
    // Its parity is proven, too.
    fs::write(&pack, sound).unwrap();
    let parity = PathBuf::from(format!("{}.parity", pack.display()));
    flip(&parity, 5_000, 10);
    let report = check(folder.path()).unwrap();
    assert_eq!((report.mendable.len(), report.parity), (1, 1), "{report:?}");
}

#[test]
fn a_flipped_byte_is_found_without_parity_and_without_a_key() {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), ParityShare::NONE);
    let report = check(folder.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.without_parity, 2);
    let pack = pack(folder.path());
    let length = fs::read(&pack).unwrap().len();
    // In the header, in heads and payloads of records, in the table and in the trailer.
    for place in [
        4,
        4096 + 20,
        4096 + 70,
        length / 2,
        length - 4096 + 100,
        length - 20,
    ] {
        flip(&pack, place, 1);
        let report = check(folder.path()).unwrap();
        let found = !report.is_sound() || report.open_packs == 1;
        assert!(found, "byte {place} of {length}: {report:?}");
        flip(&pack, place, 1);
    }
    assert!(check(folder.path()).unwrap().is_sound());
}

#[test]
fn texts_are_proven_by_their_first_line() {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), ParityShare::NONE);
    let texts = ["keys", "points"].map(|name| files(&folder.path().join(name)));
    for path in texts.iter().flat_map(BTreeMap::keys) {
        let length = fs::read(path).unwrap().len();
        flip(path, length - 3, 1);
        let report = check(folder.path()).unwrap();
        let name = path
            .strip_prefix(folder.path())
            .unwrap()
            .display()
            .to_string();
        assert!(
            matches!(report.damaged.as_slice(), [what] if what.contains(&name)),
            "{name}: {report:?}"
        );
        flip(path, length - 3, 1);
    }
}

#[test]
fn a_pack_of_another_repository_is_told() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for folder in &folders {
        made(folder.path(), ParityShare::NONE);
    }
    let [ours, theirs] = folders.each_ref().map(|folder| pack(folder.path()));
    fs::copy(theirs, ours).unwrap();
    let report = check(folders[0].path()).unwrap();
    let told = |what: &String| what.contains("another repository");
    assert!(report.damaged.iter().any(told), "{report:?}");
}

#[test]
fn a_repository_without_encryption_is_sent_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    Repository::create(folder.path(), &Mode::Plain.create_options()).unwrap();
    let refused = check(folder.path());
    assert!(matches!(refused, Err(RepoError::NotEncrypted { .. })));
}
