//! Encrypted repositories: nothing to be read without the key, nothing to be changed unnoticed.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use repo::clock::{ManualClock, UnixNanoseconds};
use repo::disk::{Effect, Fault, SimulatedDisk};
use repo::{
    CollectOptions, CreateOptions, ImageBase, ImageSpec, KeySlotKind, Lock, LockMode, OpenOptions,
    ParityShare, Point, PointKind, Repair, RepoError, Repository, Secret, VerifyOptions,
    VerifyScope, WorkloadName,
};

use crate::support::{
    Mode, back_up, fresh, fresh_in, new_slot, noise, options, read_all, secret, workload,
};

/// Content of every file below `folder`.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

/// The ids in the heads of all records. Encrypted bytes now and then begin like a head: what makes a record is a checksum
/// that is right.
fn record_ids(folder: &Path) -> HashSet<[u8; 32]> {
    let packs = contents(&folder.join("packs"));
    let ids = |pack: &Vec<u8>| {
        let starts = (4096..pack.len()).step_by(128);
        starts
            .filter_map(|start| record_id(&pack[start..]))
            .collect::<Vec<_>>()
    };
    packs.values().flat_map(ids).collect()
}

/// The id of the record at the start of `bytes`, if there is one (`docs/formats/pack.md`).
fn record_id(bytes: &[u8]) -> Option<[u8; 32]> {
    let (head, rest) = bytes.split_first_chunk::<64>()?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
    let payload = rest.get(..number(4) as usize)?;
    let mut bare = *head;
    bare[12..16].fill(0);
    let right = crc32c::crc32c_append(crc32c::crc32c(&bare), payload) == number(12);
    // Kind 0 is filling.
    let holds = head.starts_with(b"HR") && head[2] != 0;
    (holds && right).then(|| head[16..48].try_into().unwrap())
}

fn with(secret: Secret) -> OpenOptions {
    OpenOptions {
        secret: Some(secret),
        ..options()
    }
}

fn is_sound(repository: &Repository) -> bool {
    repository
        .verify(&VerifyScope::All, &mut |_| ControlFlow::Continue(()))
        .unwrap()
        .is_sound()
}

/// Backs up one disk and one stream, both with text in them.
fn back_up_texts(repository: &Repository) {
    let name = WorkloadName::parse("payroll-server").unwrap();
    let mut backup = repository.begin(&name, PointKind::Full).unwrap();
    let mut disk = noise(4, 256 << 10);
    disk[70_000..70_022].copy_from_slice(b"a marker in clear text");
    let spec = ImageSpec {
        name: "secret-disk".to_owned(),
        size_bytes: disk.len() as u64,
        base: ImageBase::Nothing,
    };
    let mut image = backup.image(&spec).unwrap();
    image.write(0, Bytes::from(disk.clone())).unwrap();
    backup.finish_image(image).unwrap();
    let mut stream = backup.stream("secret-stream").unwrap();
    stream.append(&disk[50_000..]).unwrap();
    backup.finish_stream(stream).unwrap();
    backup.set_configuration(serde_json::json!({ "owner": "somebody known" }));
    backup.commit().unwrap();
}

#[test]
fn nothing_that_was_backed_up_or_named_can_be_read_without_the_key() {
    let words = [
        "a marker in clear text",
        "payroll-server",
        "secret-disk",
        "secret-stream",
        "somebody known",
    ];
    for mode in Mode::BOTH {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        back_up_texts(&repository);
        back_up_texts(&repository);
        // What the daemon does by itself afterwards tells nothing either.
        repository.settle_account(&mut || true).unwrap();
        assert!(is_sound(&repository));
        let lost = VerifyOptions {
            scope: VerifyScope::Lost,
            rate: None,
            repair: Repair::No,
        };
        let go_on = |_| ControlFlow::Continue(());
        repository.verify_with(&lost, &mut { go_on }).unwrap();
        let first = repository.points(None)[0].name.clone();
        repository.expire(&first).unwrap();
        let collect = CollectOptions {
            grace: std::time::Duration::ZERO,
            ..CollectOptions::default()
        };
        repository
            .collect(&collect, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        repository.close().unwrap();
        drop(repository);
        for word in words {
            let holds = |content: &Vec<u8>| {
                content
                    .windows(word.len())
                    .any(|bytes| bytes == word.as_bytes())
            };
            let all = contents(folder.path());
            let named = all.keys().any(|path| path.to_string_lossy().contains(word));
            let readable = named || all.values().any(holds);
            assert_eq!(readable, mode == Mode::Plain, "{mode:?}: {word}");
        }
    }
}

#[test]
fn equal_disks_in_two_repositories_share_no_name() {
    for mode in Mode::BOTH {
        let disk = noise(1, 300_000 / 512 * 512);
        let [one, other] = [(); 2].map(|()| {
            let folder = tempfile::tempdir().unwrap();
            let repository = fresh_in(mode, folder.path());
            let size = disk.len() as u64;
            let point = back_up(&repository, size, ImageBase::Nothing, &[(0, disk.clone())]);
            repository.close().unwrap();
            (record_ids(folder.path()), point.images[0].root_id.clone())
        });
        assert_eq!(one.0.len(), 6);
        assert_eq!(
            one.0.intersection(&other.0).count() == 0,
            mode == Mode::Encrypted
        );
        assert_eq!(one.1 != other.1, mode == Mode::Encrypted);
    }
}

#[test]
fn equal_chunks_are_stored_once_and_wear_different_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    let disk = noise(1, 1 << 20);
    let size = disk.len() as u64;
    back_up(&repository, size, ImageBase::Nothing, &[(0, disk.clone())]);
    let again = back_up(&repository, size, ImageBase::Nothing, &[(0, disk.clone())]);
    assert_eq!(again.images[0].new_chunks, 0);
    assert!(read_all(&repository.image(&again, 0).unwrap()) == disk);
}

#[test]
fn only_its_own_secret_opens_a_repository() {
    let folder = tempfile::tempdir().unwrap();
    drop(fresh_in(Mode::Encrypted, folder.path()));
    let open = |options: &OpenOptions| Repository::open(folder.path(), options).map(drop);
    assert!(matches!(open(&options()), Err(RepoError::KeyNeeded { .. })));
    for wrong in [
        Secret::passphrase("correct horse battery stapler").unwrap(),
        Secret::random_key().unwrap(),
    ] {
        assert!(matches!(
            open(&with(wrong)),
            Err(RepoError::WrongKey { .. })
        ));
    }
    open(&with(secret())).unwrap();
    let plain = tempfile::tempdir().unwrap();
    drop(fresh(plain.path()));
    let opened = Repository::open(plain.path(), &with(secret()));
    assert!(matches!(opened, Err(RepoError::NotEncrypted { .. })));
}

#[test]
fn another_superblock_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    back_up_texts(&repository);
    drop(repository);
    let path = folder.path().join("superblock");
    let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    // With a head line that is right, as anybody can make one.
    let forge = |version: u32, body: &str| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("holdfast superblock {version}\n").as_bytes());
        hasher.update(body.as_bytes());
        format!(
            "holdfast superblock {version} {}\n{body}",
            hasher.finalize()
        )
    };
    assert_eq!(text, forge(2, body));
    let mut stored: serde_json::Value = serde_json::from_str(body).unwrap();
    let mut forged = vec![forge(1, body)];
    for (field, value) in [
        ("created_unix_nanoseconds", serde_json::json!(5)),
        (
            "repository",
            serde_json::json!("00000000-0000-0000-0000-000000000000"),
        ),
        ("keys", serde_json::json!([])),
        (
            "keys",
            serde_json::json!([{"cipher": "aes-256-gcm", "check": "00"}]),
        ),
        (
            "keys",
            serde_json::json!([{"cipher": "none", "check": stored["keys"][0]["check"]}]),
        ),
    ] {
        let sound = stored[field].clone();
        stored[field] = value;
        forged.push(forge(2, &stored.to_string()));
        stored[field] = sound;
    }
    stored["keys"] = serde_json::json!([]);
    stored["chunk_hash"] = serde_json::json!("blake3");
    forged.push(forge(1, &stored.to_string()));
    for text in forged {
        fs::write(&path, &text).unwrap();
        let opened = Repository::open(folder.path(), &with(secret()));
        assert!(opened.is_err(), "{text}");
    }
}

#[test]
fn what_is_cut_out_and_pasted_elsewhere_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    let size = 256 << 10;
    let disks = [noise(1, size), noise(2, size)];
    let [first, second] = [0, 1].map(|which| {
        back_up(
            &repository,
            size as u64,
            ImageBase::Nothing,
            &[(0, disks[which].clone())],
        )
    });
    repository.close().unwrap();
    drop(repository);
    let open = || Repository::open(folder.path(), &with(secret())).unwrap();
    let all = contents(folder.path());
    let manifests: Vec<_> = all
        .keys()
        .filter(|path| path.starts_with(folder.path().join("points")))
        .collect();
    let [one, two] = manifests[..] else {
        panic!("{manifests:?}");
    };

    // One manifest over the other, whose place is another.
    fs::write(two, &all[one]).unwrap();
    let repository = open();
    assert_eq!(repository.damaged_manifests().len(), 1);
    assert!(repository.point(&second.name).is_err());
    assert!(read_all(&repository.image(&first, 0).unwrap()) == disks[0]);
    drop(repository);
    fs::write(two, &all[two]).unwrap();

    // One record over another of the same length.
    let (pack, content) = all
        .iter()
        .filter(|(path, _)| path.starts_with(folder.path().join("packs")))
        .max_by_key(|(_, content)| content.len())
        .unwrap();
    let length = 513 * 128;
    let mut pasted = content.clone();
    pasted.copy_within(4096 + length..4096 + 2 * length, 4096);
    fs::write(pack, &pasted).unwrap();
    assert!(read_start(&open(), &first).is_corrupt());
    assert!(!is_sound(&open()));

    // Its payload with the head of another, checksum set right.
    let mut mixed = content.clone();
    mixed.copy_within(4096 + length + 64..4096 + 2 * length, 4096 + 64);
    let head: Vec<u8> = [
        &mixed[4096..4108],
        &[0; 4],
        &mixed[4112..4096 + 64 + 16 + 65_536],
    ]
    .concat();
    mixed[4108..4112].copy_from_slice(&crc32c::crc32c(&head).to_le_bytes());
    fs::write(pack, &mixed).unwrap();
    let error = read_start(&open(), &first).to_string();
    assert!(error.contains("is not what was encrypted"), "{error}");
    assert!(!is_sound(&open()));
}

/// Why the first sector of a point's disk cannot be read.
fn read_start(repository: &Repository, point: &Point) -> RepoError {
    let image = repository.image(point, 0).unwrap();
    image.read(0, 512, &mut Vec::new()).unwrap_err()
}

#[test]
fn a_pack_of_another_repository_is_refused() {
    let [folder, other] = [(); 2].map(|()| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(Mode::Encrypted, folder.path());
        let disk = noise(1, 128 << 10);
        back_up(
            &repository,
            disk.len() as u64,
            ImageBase::Nothing,
            &[(0, disk)],
        );
        folder
    });
    for (path, content) in contents(&other.path().join("packs")) {
        let name = path.strip_prefix(other.path()).unwrap();
        fs::write(folder.path().join(name), content).unwrap();
    }
    for without_index in [false, true] {
        if without_index {
            fs::remove_dir_all(folder.path().join("index")).unwrap();
        }
        let repository = Repository::open(folder.path(), &with(secret())).unwrap();
        let point = repository.latest(&workload()).unwrap();
        assert!(read_start(&repository, &point).is_corrupt());
        assert!(!is_sound(&repository));
    }
}

#[test]
fn the_passphrase_changes_without_a_byte_of_data_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    back_up_texts(&repository);
    repository.close().unwrap();
    let others = |folder: &Path| {
        let mut all = contents(folder);
        all.retain(|path, _| {
            !path.starts_with(folder.join("keys")) && !path.starts_with(folder.join("index"))
        });
        all
    };
    let before = others(folder.path());
    let slots = repository.key_slots().unwrap();
    let words = Secret::passphrase("new words").unwrap();
    assert!(slots.opens("first", &secret()).unwrap());
    slots
        .replace(&new_slot("first", words.clone()), None)
        .unwrap();
    assert!(!slots.opens("first", &secret()).unwrap());
    drop(repository);
    assert!(before == others(folder.path()));
    let opened = Repository::open(folder.path(), &with(secret()));
    assert!(matches!(opened, Err(RepoError::WrongKey { .. })));
    let repository = Repository::open(folder.path(), &with(words)).unwrap();
    assert!(is_sound(&repository) && repository.points(None).len() == 1);
}

#[test]
fn slots_come_and_go_but_the_last_stays() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    let slots = repository.key_slots().unwrap();
    let key = Secret::random_key().unwrap();
    slots.add(&new_slot("recovery", key.clone())).unwrap();
    let taken = slots.add(&new_slot("recovery", key.clone()));
    assert!(matches!(taken, Err(RepoError::KeySlotTaken(_))));
    for bad in ["", "../x", "a b"] {
        let made = slots.add(&new_slot(bad, key.clone()));
        assert!(matches!(made, Err(RepoError::BadName { .. })), "{bad}");
    }
    let listed: Vec<_> = slots
        .list()
        .unwrap()
        .into_iter()
        .map(|slot| (slot.name, slot.kind))
        .collect();
    assert_eq!(
        listed,
        [
            ("first".to_owned(), KeySlotKind::Passphrase),
            ("recovery".to_owned(), KeySlotKind::Key)
        ]
    );
    let nobody = slots.remove("nobody", None);
    assert!(matches!(nobody, Err(RepoError::NoSuchKeySlot(_))));
    slots.remove("first", None).unwrap();
    assert!(slots.remove("recovery", None).is_err());
    // A damaged slot opens nothing, so it does not count.
    fs::write(
        folder.path().join("keys/broken"),
        b"holdfast key-slot 1 00\n{}",
    )
    .unwrap();
    assert!(slots.remove("recovery", None).is_err());
    slots.remove("broken", None).unwrap();
    let busy = Repository::open_key_slots(folder.path(), &key);
    assert!(matches!(busy, Err(RepoError::InUse { .. })));
    drop(repository);
    assert!(Repository::open(folder.path(), &with(secret())).is_err());
    let offline = Repository::open_key_slots(folder.path(), &key).unwrap();
    offline.add(&new_slot("again", secret())).unwrap();
    drop(offline);
    for opens in [key, secret()] {
        drop(Repository::open(folder.path(), &with(opens)).unwrap());
    }
}

#[test]
fn a_locked_point_stays_readable_to_whoever_could_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    let name = back_up(
        &repository,
        1 << 20,
        ImageBase::Parent,
        &[(0, noise(1, 4096))],
    )
    .name
    .clone();
    let slots = repository.key_slots().unwrap();
    let key = Secret::random_key().unwrap();
    slots.add(&new_slot("evil", key.clone())).unwrap();
    slots.remove("evil", None).unwrap();
    let older = repository.authority_age();
    let lock = Lock {
        mode: LockMode::Compliance,
        until: UnixNanoseconds(repository.trusted_now().0 + 3_600_000_000_000),
    };
    repository.lock(&name, lock).unwrap();
    let younger = repository.authority_age();
    slots.add(&new_slot("evil", key.clone())).unwrap();
    let evil = new_slot("first", key.clone());
    for done in [
        slots.remove("first", None),
        slots.replace(&evil, None).map(drop),
    ] {
        assert!(matches!(done, Err(RepoError::KeySlotHeld(_))), "{done:?}");
    }
    // Who makes an authority afterwards has no say.
    for done in [
        slots.remove("first", Some(younger)),
        slots.replace(&evil, Some(younger)).map(drop),
    ] {
        assert!(
            matches!(done, Err(RepoError::KeySlotHeldLonger(_))),
            "{done:?}"
        );
    }
    drop(repository);
    let offline = Repository::open_key_slots(folder.path(), &key).unwrap();
    let refused = offline.remove("first", None);
    assert!(
        matches!(refused, Err(RepoError::KeySlotHeld(_))),
        "{refused:?}"
    );
    drop(offline);
    let repository = Repository::open(folder.path(), &with(secret())).unwrap();
    let slots = repository.key_slots().unwrap();
    slots.remove("evil", Some(older)).unwrap();
    slots.replace(&evil, Some(older)).unwrap();
}

#[test]
fn a_stop_at_any_call_leaves_a_secret_that_opens() {
    let new = Secret::passphrase("new words").unwrap();
    let key = Secret::random_key().unwrap();
    let root = Path::new("simulated");
    let clock = || Arc::new(ManualClock::new(UnixNanoseconds(1_000)));
    let open = |disk: &SimulatedDisk, secret: &Secret| {
        Repository::open_on(Arc::new(disk.clone()), root, clock(), &with(secret.clone()))
    };
    let change = |repository: &Repository| -> Result<(), RepoError> {
        let slots = repository.key_slots().unwrap();
        slots.replace(&new_slot("first", new.clone()), None)?;
        slots.add(&new_slot("recovery", key.clone()))?;
        slots.remove("first", None)
    };
    let made = SimulatedDisk::new();
    let options: CreateOptions = Mode::Encrypted.create_options();
    Repository::create_on(&made, root, clock().as_ref(), &options).unwrap();
    let mut stops = 0;
    for at in 0.. {
        let disk = made.fork().kill();
        let repository = open(&disk, &secret()).unwrap();
        disk.inject(Fault::StopAt {
            operation: disk.operations() + at,
            effect: Effect::Half,
        });
        let ended = change(&repository);
        drop(repository);
        for after in [disk.fork().kill(), disk.fork().crash(at)] {
            let opens = [&secret(), &new, &key].map(|secret| open(&after, secret).is_ok());
            assert!(opens.contains(&true), "stopped at {at}: {opens:?}");
            if ended.is_ok() {
                assert_eq!(opens, [false, false, true]);
            }
        }
        if ended.is_ok() {
            break;
        }
        stops += 1;
    }
    assert!(stops > 3, "{stops}");
}

#[test]
fn making_one_can_be_tried_again_and_never_over_data() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    back_up_texts(&repository);
    drop(repository);
    for file in ["superblock", "lock", "clock"] {
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    let create = || Repository::create(folder.path(), &Mode::Encrypted.create_options());
    assert!(matches!(create(), Err(RepoError::NotEmpty { .. })));
    assert!(folder.path().join("keys/first").exists());
    for kept in ["packs", "points"] {
        fs::remove_dir_all(folder.path().join(kept)).unwrap();
    }
    create().unwrap();
    drop(Repository::open(folder.path(), &with(secret())).unwrap());
}

#[test]
fn an_overlay_is_written_sealed_and_becomes_a_point() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    let mut disk = noise(1, 65_536);
    let point = back_up(
        &repository,
        65_536,
        ImageBase::Nothing,
        &[(0, disk.clone())],
    );
    let overlay = repository.create_overlay(&point, 0).unwrap();
    let bytes = noise(2, 8192);
    let written = [Bytes::from(bytes.clone())];
    overlay.write(4096 + 512, &written, true).unwrap();
    disk[4096 + 512..][..8192].copy_from_slice(&bytes);
    let id = overlay.id();
    drop(overlay);
    repository.close().unwrap();
    drop(repository);
    let clear = [&bytes[..64], b"web@"];
    for file in files_below(&folder.path().join("overlays")) {
        let stored = fs::read(&file).unwrap();
        for words in clear {
            let found = stored.windows(words.len()).any(|window| window == words);
            assert!(!found, "{}", file.display());
        }
    }
    let repository = Repository::open(folder.path(), &with(secret())).unwrap();
    let overlay = repository.open_overlay(id).unwrap();
    let mut backup = repository.begin(&workload(), PointKind::Sealed).unwrap();
    backup.seal_overlay(&overlay, "disk-0").unwrap();
    let sealed = backup.commit().unwrap();
    assert!(read_all(&repository.image(&sealed, 0).unwrap()) == disk);
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().path());
    items
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        })
        .collect()
}

#[test]
fn damage_in_an_encrypted_pack_is_mended_from_parity() {
    let folder = tempfile::tempdir().unwrap();
    let with_parity = OpenOptions {
        parity_share: ParityShare::default(),
        ..with(secret())
    };
    drop(fresh_in(Mode::Encrypted, folder.path()));
    let open = || Repository::open(folder.path(), &with_parity).unwrap();
    let mend = |repository: &Repository| {
        let options = VerifyOptions {
            scope: VerifyScope::All,
            rate: None,
            repair: Repair::Yes,
        };
        let report = repository.verify_with(&options, &mut |_| ControlFlow::Continue(()));
        assert!(report.unwrap().is_sound());
    };
    let disk = noise(1, 2 << 20);
    let repository = open();
    back_up(
        &repository,
        disk.len() as u64,
        ImageBase::Nothing,
        &[(0, disk.clone())],
    );
    repository.close().unwrap();
    mend(&repository);
    drop(repository);
    let packs = contents(&folder.path().join("packs"));
    let (pack, sound) = packs
        .iter()
        .max_by_key(|(_, content)| content.len())
        .unwrap();
    let mut hurt = sound.clone();
    hurt[500_000..500_100].fill(0);
    fs::write(pack, &hurt).unwrap();
    let repository = open();
    let point = repository.latest(&workload()).unwrap();
    assert!(read_all(&repository.image(&point, 0).unwrap()) == disk);
    mend(&repository);
    drop(repository);
    assert!(fs::read(pack).unwrap() == *sound);
}

#[test]
fn a_mark_belongs_to_its_point_alone() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(Mode::Encrypted, folder.path());
    let [first, second] = [1, 2].map(|seed| {
        let disk = noise(seed, 65_536);
        back_up(&repository, 65_536, ImageBase::Nothing, &[(0, disk)])
    });
    let points = folder.path().join("points");
    let before = contents(&points);
    let lock = Lock {
        mode: LockMode::Governance,
        until: UnixNanoseconds(u64::MAX),
    };
    repository.lock(&first.name, lock).unwrap();
    let after = contents(&points);
    let (mark, text) = after
        .iter()
        .find(|(path, _)| !before.contains_key(*path))
        .unwrap();
    assert!(text.starts_with(b"holdfast encrypted-"));
    drop(repository);
    // Taken to the other point it is damage, and damaged locks hold until somebody has looked.
    let name = mark.file_name().unwrap().to_str().unwrap();
    let other = name.replacen("0001.lock", "0002.lock", 1);
    assert_ne!(name, other);
    fs::write(mark.with_file_name(other), text).unwrap();
    let repository = Repository::open(folder.path(), &with(secret())).unwrap();
    assert_eq!(repository.marks(&first.name).locks.len(), 1);
    let refused = repository.expire(&second.name);
    assert!(
        matches!(refused, Err(RepoError::MarkDamaged { .. })),
        "{refused:?}"
    );
}
