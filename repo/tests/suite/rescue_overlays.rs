//! Rescuing the disks of recovery sessions, and reading from what nobody can write to.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use repo::{
    ImageBase, OpenOptions, ParityShare, Repair, RepoError, Repository, Rescue, RescueReport,
    VerifyOptions, VerifyScope,
};
use uuid::Uuid;

use crate::mounts::{Mounted, copy};
use crate::support::{Mode, back_up, noise, secret};

const CHUNK: usize = 65_536;
/// Of the disk: eleven chunks and a bit.
const SIZE: usize = 11 * CHUNK + 512;

/// A repository with a point and an overlay over it, closed; and what the overlay holds.
struct Prepared {
    root: PathBuf,
    id: Uuid,
    base: Vec<u8>,
    content: Vec<u8>,
}

fn prepare(folder: &Path, mode: Mode) -> Prepared {
    let root = folder.join("repository");
    Repository::create(&root, &mode.create_options()).unwrap();
    let options = OpenOptions {
        parity_share: ParityShare::default(),
        ..mode.options()
    };
    let repository = Repository::open(&root, &options).unwrap();
    let mut base = noise(1, SIZE);
    base[3 * CHUNK..5 * CHUNK].fill(0);
    let point = back_up(
        &repository,
        SIZE as u64,
        ImageBase::Nothing,
        &[(0, base.clone())],
    );
    let overlay = repository.create_overlay(&point, 0).unwrap();
    let mut content = base.clone();
    for (seed, at, length) in [
        (2, 512, 3 * 512),
        (3, 4 * CHUNK - 1024, 4096),
        (4, 9 * CHUNK, CHUNK),
    ] {
        let bytes = noise(seed, length);
        content[at..at + length].copy_from_slice(&bytes);
        overlay
            .write(at as u64, &[Bytes::from(bytes)], false)
            .unwrap();
    }
    overlay.discard(6 * CHUNK as u64, 1024, false).unwrap();
    content[6 * CHUNK..][..1024].fill(0);
    overlay.flush().unwrap();
    let id = overlay.id();
    drop(overlay);
    // Makes parity, too.
    let everything = VerifyOptions {
        scope: VerifyScope::All,
        rate: None,
        repair: Repair::Yes,
    };
    repository.close().unwrap();
    drop(repository);
    let repository = Repository::open(&root, &options).unwrap();
    repository
        .verify_with(&everything, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    drop(repository);
    // None of it is needed.
    fs::remove_dir_all(root.join("index")).unwrap();
    Prepared {
        root,
        id,
        base,
        content,
    }
}

fn open(root: &Path, mode: Mode) -> Rescue {
    let secret = secret();
    Rescue::open(root, (mode == Mode::Encrypted).then_some(&secret)).unwrap()
}

/// Zeroes where nothing is given.
fn rescue(rescue: &Rescue, id: Uuid) -> Result<(Vec<u8>, RescueReport), RepoError> {
    let mut whole = vec![0; SIZE];
    let mut end = 0;
    let report = rescue.restore_overlay(
        id,
        &mut |offset, bytes| {
            let at = usize::try_from(offset).unwrap();
            assert!(at >= end, "in order");
            end = at + bytes.len();
            whole[at..end].copy_from_slice(bytes);
            Ok(())
        },
        &mut |_| ControlFlow::Continue(()),
    )?;
    Ok((whole, report))
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The first segment of the overlay's journal.
fn journal(prepared: &Prepared) -> PathBuf {
    prepared
        .root
        .join(format!("overlays/{}/journal.00000001", prepared.id))
}

/// Packs, and parity files.
fn packs(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let all = files(&root.join("packs")).into_keys();
    all.partition(|path| path.extension().unwrap() != "parity")
}

#[test]
fn the_disk_of_a_session_is_rescued_without_a_write() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let prepared = prepare(folder.path(), mode);
        let before = files(&prepared.root);
        let left = open(&prepared.root, mode);
        let shown = left.overlays();
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].point.to_string(), "web@1");
        let (found, report) = rescue(&left, prepared.id).unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert!(found == prepared.content, "{mode:?}");
        assert!(rescue(&left, Uuid::nil()).is_err());
        assert!(files(&prepared.root) == before, "something was written");
    });
}

#[test]
fn a_torn_tail_is_left_out_and_a_hurt_journal_is_told() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let prepared = prepare(folder.path(), mode);
        let journal = journal(&prepared);
        damage(&journal, |bytes| bytes.extend([0x5A; 777]));
        let (found, report) = rescue(&open(&prepared.root, mode), prepared.id).unwrap();
        assert!(report.is_whole() && found == prepared.content);
        // The first record's head is at 128, and was promised.
        damage(&journal, |bytes| bytes[130] ^= 1);
        let error = rescue(&open(&prepared.root, mode), prepared.id).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert!(error.to_string().contains("journal.00000001"), "{error}");
        // A document that cannot be read costs that overlay alone.
        let document = prepared
            .root
            .join(format!("overlays/{}/overlay.json", prepared.id));
        damage(&document, |bytes| bytes[60] ^= 1);
        let left = open(&prepared.root, mode);
        assert!(left.overlays().is_empty());
        assert_eq!(left.complaints().len(), 1);
        assert_eq!(left.points().len(), 1);
    });
}

#[test]
fn what_is_hurt_below_or_in_a_session_is_missing_and_the_rest_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepare(folder.path(), Mode::Plain);
    // One byte of what was written to chunk 9: the block of it is missing.
    let journal = journal(&prepared);
    let written = &prepared.content[9 * CHUNK..][..64];
    let bytes = fs::read(&journal).unwrap();
    let at = bytes.windows(64).position(|window| window == written);
    damage(&journal, |bytes| bytes[at.unwrap() + 5000] ^= 1);
    let (found, report) = rescue(&open(&prepared.root, Mode::Plain), prepared.id).unwrap();
    assert_eq!(report.missing.len(), 1, "{report:?}");
    let missing = &report.missing[0];
    assert_eq!(
        (missing.offset, missing.length),
        (9 * CHUNK as u64 + 4096, 4096)
    );
    let mut expected = prepared.content.clone();
    expected[9 * CHUNK + 4096..][..4096].fill(0);
    assert!(found == expected);

    // Without its point, what was written is all there is.
    for entry in fs::read_dir(prepared.root.join("points/web")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let (found, report) = rescue(&open(&prepared.root, Mode::Plain), prepared.id).unwrap();
    let own = [
        (512, 3 * 512),
        (4 * CHUNK - 1024, 4096),
        (9 * CHUNK, 4096),
        (9 * CHUNK + 8192, CHUNK - 8192),
    ];
    let mut expected = vec![0; SIZE];
    for (at, length) in own {
        expected[at..at + length].copy_from_slice(&prepared.content[at..at + length]);
    }
    assert!(found == expected);
    let own: usize = own.iter().map(|(_, length)| length).sum();
    assert_eq!(report.data_bytes, own as u64);
    assert_eq!(report.missing_bytes, (SIZE - own - 1024) as u64);
    assert!(report.missing[0].why.contains("web@1"), "{report:?}");
}

#[test]
fn damage_within_parity_costs_nothing_without_an_index() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let prepared = prepare(folder.path(), mode);
        let (packs, parities) = packs(&prepared.root);
        assert_eq!(packs.len(), parities.len(), "each has parity");
        for pack in &packs {
            // Sixteen pages, or all there are of a small one.
            damage(pack, |bytes| {
                let hurt = bytes.len().min(65_536);
                bytes[..hurt].iter_mut().for_each(|byte| *byte ^= 0xFF);
            });
        }
        let before = files(&prepared.root);
        let left = open(&prepared.root, mode);
        let point = left.points()[0].clone();
        let mut whole = vec![0; SIZE];
        let report = left
            .restore_disk(
                &point,
                0,
                &mut |offset, bytes| {
                    let at = usize::try_from(offset).unwrap();
                    whole[at..at + bytes.len()].copy_from_slice(bytes);
                    Ok(())
                },
                &mut |_| ControlFlow::Continue(()),
            )
            .unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert!(whole == prepared.base);
        let (found, report) = rescue(&left, prepared.id).unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert!(found == prepared.content);
        assert!(files(&prepared.root) == before, "nothing is mended");
        // Beyond it, what is hurt is missing, and the rest is right.
        for parity in &parities {
            fs::remove_file(parity).unwrap();
        }
        let (found, report) = rescue(&open(&prepared.root, mode), prepared.id).unwrap();
        assert!(!report.is_whole());
        for (at, sector) in found.chunks(512).enumerate() {
            let offset = at as u64 * 512;
            let is_missing = report.missing.iter().any(|missing| {
                missing.offset <= offset && offset < missing.offset + missing.length
            });
            let expected = &prepared.content[at * 512..][..512];
            assert!(is_missing || sector == expected, "sector {at}");
        }
    });
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_enough() {
    Mode::each(|mode| {
        let Some(mounted) = Mounted::ext4(64) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let mut prepared = prepare(folder.path(), mode);
        let root = mounted.root().join("repository");
        copy(&prepared.root, &root);
        prepared.root = root;
        damage(&packs(&prepared.root).0[0], |bytes| bytes[8192] ^= 1);
        mounted.make_read_only();
        let left = open(&prepared.root, mode);
        assert_eq!(left.complaints(), Vec::<String>::new());
        let (found, report) = rescue(&left, prepared.id).unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert!(found == prepared.content);
    });
}
