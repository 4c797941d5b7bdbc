//! Stars and locks: what is marked cannot be expired, whatever the clock says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use repo::clock::{ManualClock, UnixNanoseconds};
use repo::disk::{Disk, Protection, SimulatedDisk, SystemDisk};
use repo::{
    AuthorityAge, ImageBase, Lock, LockMode, OpenOptions, PointName, RepoError, Repository,
};

use crate::mounts::skip;
use crate::support::{Mode, back_up, new_slot, noise, secret};

const DAY: u64 = 24 * 3600 * 1_000_000_000;
const START: u64 = 20_000 * DAY;

/// An authority that was there before all locks.
const OLD: AuthorityAge = AuthorityAge(UnixNanoseconds(0));

struct Rig {
    mode: Mode,
    disk: Arc<dyn Disk>,
    clock: Arc<ManualClock>,
}

impl Rig {
    fn new(mode: Mode) -> Self {
        let disk = SimulatedDisk::new();
        let clock = Arc::new(ManualClock::new(UnixNanoseconds(START)));
        let root = Path::new("repository");
        Repository::create_on(&disk, root, clock.as_ref(), &mode.create_options()).unwrap();
        Self {
            mode,
            disk: Arc::new(disk),
            clock,
        }
    }

    fn open(&self) -> Repository {
        let clock = Arc::<ManualClock>::clone(&self.clock);
        Repository::open_on(
            Arc::clone(&self.disk),
            Path::new("repository"),
            clock,
            &self.mode.options(),
        )
        .unwrap()
    }
}

impl Rig {
    /// The folder of the one workload, whose name nobody can tell where it is encrypted.
    fn only_workload(&self) -> PathBuf {
        let folders = self.disk.list(Path::new("points")).unwrap();
        Path::new("points").join(&folders[0].name)
    }
}

fn until(mode: LockMode, days: u64) -> Lock {
    Lock {
        mode,
        until: UnixNanoseconds(START + days * DAY),
    }
}

fn point(repository: &Repository, seed: u64) -> PointName {
    let writes = [(0, noise(seed, 200_704))];
    let point = back_up(repository, 1 << 20, ImageBase::Parent, &writes);
    point.name.clone()
}

#[test]
fn a_starred_point_stays_until_the_star_is_taken_off() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let name = point(&rig.open(), 1);
        rig.open().star(&name).unwrap();
        rig.open().star(&name).unwrap();
        let repository = rig.open();
        assert!(repository.marks(&name).starred);
        let refused = repository.expire(&name);
        assert!(matches!(refused, Err(RepoError::Starred(_))), "{refused:?}");
        repository.unstar(&name).unwrap();
        repository.unstar(&name).unwrap();
        drop(repository);
        let repository = rig.open();
        assert!(!repository.marks(&name).starred);
        repository.expire(&name).unwrap();
        assert!(repository.star(&name).is_err());
    });
}

#[test]
fn a_locked_point_stays_until_its_time_has_come() {
    Mode::each(|mode| {
        for kind in [LockMode::Governance, LockMode::Compliance] {
            let rig = Rig::new(mode);
            let repository = rig.open();
            let name = point(&repository, 1);
            repository.lock(&name, until(kind, 10)).unwrap();
            drop(repository);
            for _ in 0..3 {
                let repository = rig.open();
                assert!(repository.expire(&name).is_err());
                assert_eq!(repository.points(None).len(), 1);
                rig.clock.advance(3 * DAY);
            }
            let repository = rig.open();
            assert_eq!(repository.marks(&name).locks, [until(kind, 10)]);
            rig.clock.advance(DAY);
            assert_eq!(repository.marks(&name).locks, []);
            repository.expire(&name).unwrap();
            let folder = rig.disk.list(&rig.only_workload()).unwrap();
            let names: Vec<_> = folder.iter().map(|item| &item.name).collect();
            assert_eq!(names, ["00000000000000000001.expired"], "no mark is left");
        }
    });
}

#[test]
fn a_clock_that_was_set_unlocks_nothing() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let repository = rig.open();
        let name = point(&repository, 1);
        repository
            .lock(&name, until(LockMode::Compliance, 10))
            .unwrap();
        for set in [START + 4_000 * DAY, START - 4_000 * DAY, 0, u64::MAX] {
            rig.clock.set(UnixNanoseconds(set));
            assert!(repository.expire(&name).is_err(), "{set}");
            drop(repository.clone());
            rig.clock.advance(DAY / 24);
        }
        drop(repository);
        rig.clock.set(UnixNanoseconds(START + 4_000 * DAY));
        rig.clock.reboot(0);
        assert!(rig.open().expire(&name).is_err(), "after a start");
        rig.disk.remove(Path::new("clock")).unwrap();
        assert!(rig.open().expire(&name).is_err(), "without its file");
    });
}

#[test]
fn a_lock_gets_longer_and_never_shorter() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let repository = rig.open();
        let name = point(&repository, 1);
        let lock = |mode, days| repository.lock(&name, until(mode, days));
        assert!(matches!(
            lock(LockMode::Governance, 0),
            Err(RepoError::LockInPast { .. })
        ));
        lock(LockMode::Governance, 5).unwrap();
        for (mode, days) in [(LockMode::Governance, 4), (LockMode::Governance, 5)] {
            let refused = lock(mode, days);
            assert!(
                matches!(refused, Err(RepoError::LockNotLonger { .. })),
                "{refused:?}"
            );
        }
        lock(LockMode::Governance, 8).unwrap();
        lock(LockMode::Compliance, 6).unwrap();
        assert!(lock(LockMode::Compliance, 6).is_err());
        let both = [
            until(LockMode::Governance, 8),
            until(LockMode::Compliance, 6),
        ];
        assert_eq!(repository.marks(&name).locks, both);
        lock(LockMode::Compliance, 9).unwrap();
        assert_eq!(
            repository.marks(&name).locks,
            [until(LockMode::Compliance, 9)],
            "the stronger one takes the place of both"
        );
        assert!(matches!(
            repository.lift_lock(&name, OLD),
            Err(RepoError::Locked { .. })
        ));
        drop(repository);
        assert_eq!(
            rig.open().marks(&name).locks,
            [until(LockMode::Compliance, 9)]
        );
    });
}

#[test]
fn governance_is_lifted_and_compliance_is_not() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let repository = rig.open();
        let name = point(&repository, 1);
        assert!(matches!(
            repository.lift_lock(&name, OLD),
            Err(RepoError::NotLocked(_))
        ));
        repository
            .lock(&name, until(LockMode::Compliance, 5))
            .unwrap();
        repository
            .lock(&name, until(LockMode::Governance, 50))
            .unwrap();
        repository.lift_lock(&name, OLD).unwrap();
        drop(repository);
        let repository = rig.open();
        assert_eq!(
            repository.marks(&name).locks,
            [until(LockMode::Compliance, 5)]
        );
        assert!(repository.lift_lock(&name, OLD).is_err());
        assert!(repository.expire(&name).is_err());
    });
}

#[test]
fn an_authority_lifts_nothing_that_was_locked_before_it() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let repository = rig.open();
        let name = point(&repository, 1);
        repository
            .lock(&name, until(LockMode::Governance, 50))
            .unwrap();
        // The clock does not move: an authority is younger all the same.
        let refused = repository.lift_lock(&name, repository.authority_age());
        assert!(
            matches!(refused, Err(RepoError::AuthorityTooYoung(_))),
            "{refused:?}"
        );
        // Nor if it is set back.
        rig.clock.set(UnixNanoseconds(START - 9 * DAY));
        drop(repository);
        let repository = rig.open();
        assert!(repository.trusted_now().0 < START, "it was set back");
        let younger = repository.authority_age();
        assert!(repository.check_liftable(&name, None).is_ok());
        assert!(repository.check_liftable(&name, Some(younger)).is_err());
        assert!(repository.lift_lock(&name, younger).is_err());
        // Nor does a longer lock hide the older one.
        repository
            .lock(&name, until(LockMode::Governance, 51))
            .unwrap();
        repository.lift_lock(&name, younger).unwrap();
        let held = || repository.marks(&name).locks;
        assert_eq!(held(), [until(LockMode::Governance, 50)]);
        assert!(repository.expire(&name).is_err());
        repository.lift_lock(&name, OLD).unwrap();
        assert_eq!(held(), []);
    });
}

#[test]
fn a_forged_clock_file_unlocks_nothing() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let repository = rig.open();
        let name = point(&repository, 1);
        repository
            .lock(&name, until(LockMode::Compliance, 10))
            .unwrap();
        repository.close().unwrap();
        drop(repository);
        rig.clock.advance(DAY);
        let far = START + 2_000 * DAY;
        let boot = repo::clock::Clock::uptime(rig.clock.as_ref()).boot;
        let body = format!(
            "{{\"trusted_unix_nanoseconds\": {far}, \"credited_unix_nanoseconds\": 0, \"boot\": \"{boot}\", \"uptime_nanoseconds\": 0}}"
        );
        let head = "holdfast clock 1";
        let hash = blake3::hash(format!("{head}\n{body}").as_bytes()).to_hex();
        let text = format!("{head} {hash}\n{body}");
        rig.disk
            .replace(Path::new("clock"), text.as_bytes())
            .unwrap();
        let repository = rig.open();
        assert!(repository.expire(&name).is_err());
        let (believed, refused) = match mode {
            Mode::Plain => (START + DAY, Some(UnixNanoseconds(far + DAY / 8 * 7))),
            // It was not sealed, and so counts as none: the newest lock says what has passed.
            Mode::Encrypted => (START, None),
        };
        let state = repository.clock_state();
        assert_eq!((state.trusted.0, state.refused), (believed, refused));
    });
}

#[test]
fn a_mark_that_cannot_be_read_is_a_lock() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let repository = rig.open();
        let name = point(&repository, 1);
        let other = point(&repository, 2);
        repository
            .lock(&name, until(LockMode::Governance, 1))
            .unwrap();
        drop(repository);
        let mark = rig
            .only_workload()
            .join("00000000000000000001.lock.00000001");
        rig.disk.replace(&mark, b"garbage").unwrap();
        rig.clock.advance(100 * DAY);
        let repository = rig.open();
        let refused = repository.expire(&name);
        assert!(
            matches!(refused, Err(RepoError::MarkDamaged { .. })),
            "{refused:?}"
        );
        assert!(repository.lift_lock(&name, OLD).is_err());
        assert_eq!(repository.damaged_manifests(), Vec::<String>::new());
        repository.expire(&other).unwrap();
    });
}

#[test]
fn a_lock_holds_the_packs_that_its_point_needs() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let first = {
            let repository = rig.open();
            let first = point(&repository, 1);
            repository.close().unwrap();
            first
        };
        // Each opening begins packs of its own.
        let second = {
            let repository = rig.open();
            let second = point(&repository, 2);
            repository.close().unwrap();
            second
        };
        let repository = rig.open();
        let held = || -> BTreeSet<u32> {
            (0..20)
                .filter(|pack| repository.holds_pack(*pack))
                .collect()
        };
        assert!(held().is_empty());
        let report = repository
            .lock(&first, until(LockMode::Governance, 10))
            .unwrap();
        let by_first = held();
        assert_eq!(report.packs, by_first.len() as u64);
        assert_eq!(by_first, BTreeSet::from([1, 2]));
        repository
            .lock(&second, until(LockMode::Governance, 20))
            .unwrap();
        assert_eq!(held(), BTreeSet::from([1, 2, 3, 4]));
        assert!(matches!(
            repository.release_pack(3),
            Err(RepoError::PackHeld(3))
        ));
        repository.lift_lock(&second, OLD).unwrap();
        assert_eq!(held(), by_first);
        repository.release_pack(3).unwrap();
        rig.clock.advance(10 * DAY);
        assert!(held().is_empty());
    });
}

#[test]
fn the_packs_of_a_chain_of_locks_are_let_go_in_time() {
    Mode::each(|mode| {
        let rig = Rig::new(mode);
        let mut all = Vec::new();
        for seed in 0..20 {
            let repository = rig.open();
            let name = point(&repository, seed);
            repository
                .lock(&name, until(LockMode::Governance, seed + 2))
                .unwrap();
            repository.close().unwrap();
            all.push(name);
            rig.clock.advance(DAY);
        }
        let repository = rig.open();
        assert!(!repository.holds_pack(1), "the first points' packs");
        assert!(repository.holds_pack(39), "the last point's packs");
        assert_eq!(repository.points(None).len(), all.len());
    });
}

/// Takes the attribute off whatever a test leaves behind.
struct Unprotected(PathBuf);

impl Drop for Unprotected {
    fn drop(&mut self) {
        let status = Command::new("chattr")
            .arg("-R")
            .arg("-i")
            .arg(&self.0)
            .status();
        drop(status);
    }
}

#[test]
fn the_file_system_holds_what_a_lock_holds() {
    let Some(folder) = folder_with_attributes() else {
        return;
    };
    let root = folder.path().join("repository");
    Repository::create(&root, &Mode::Encrypted.create_options()).unwrap();
    let open = || {
        let options = OpenOptions {
            protect_files: true,
            ..Mode::Encrypted.options()
        };
        Repository::open(&root, &options).unwrap()
    };
    let repository = open();
    let name = point(&repository, 1);
    let _unprotected = Unprotected(root.clone());
    let lock = Lock {
        mode: LockMode::Governance,
        until: UnixNanoseconds(repository.trusted_now().0 + DAY),
    };
    let report = repository.lock(&name, lock).unwrap();
    assert_eq!(report.files, Protection::Done);
    let workload = fs::read_dir(root.join("points")).unwrap().next().unwrap();
    let in_workload = |file: &str| {
        let folder = Path::new("points").join(workload.as_ref().unwrap().file_name());
        folder.join(format!("00000000000000000001.{file}"))
    };
    let files = [
        in_workload("00000001"),
        in_workload("lock.00000001"),
        PathBuf::from("packs/01/00000001.00000001"),
        PathBuf::from("packs/02/00000002.00000001"),
        PathBuf::from("superblock"),
        PathBuf::from("keys/first"),
        PathBuf::from("keys/second"),
    ];
    let slots = || repository.key_slots().unwrap();
    slots().add(&new_slot("second", secret())).unwrap();
    let changeable = || {
        let open = |file: &PathBuf| fs::OpenOptions::new().append(true).open(root.join(file));
        files.each_ref().map(|file| open(file).is_ok())
    };
    assert_eq!(report.packs_open, 0);
    assert_eq!(changeable(), [false; 7]);
    for file in &files {
        assert!(fs::remove_file(root.join(file)).is_err(), "{file:?}");
    }
    // The engine itself may, once it was confirmed.
    slots()
        .replace(&new_slot("first", secret()), Some(OLD))
        .unwrap();
    assert_eq!(changeable(), [false; 7]);
    slots().remove("second", Some(OLD)).unwrap();

    // A repository whose index is gone opens all the same, and goes on.
    drop(repository);
    fs::remove_dir_all(root.join("index")).unwrap();
    let repository = open();
    let second = point(&repository, 2);
    repository.expire(&second).unwrap();
    repository.lift_lock(&name, OLD).unwrap();
    repository.expire(&name).unwrap();
    for pack in [1, 2] {
        repository.release_pack(pack).unwrap();
    }
    assert!(!root.join(&files[0]).exists() && !root.join(&files[1]).exists());
    for file in [&files[2], &files[4], &files[5]] {
        assert!(fs::remove_file(root.join(file)).is_ok(), "{file:?}");
    }
}

/// A folder whose file system has the attribute that locks use, and lets this process set it. A laptop may have none;
/// where `CI` is set that is a failure.
fn folder_with_attributes() -> Option<tempfile::TempDir> {
    let mut said = Vec::new();
    let places = [std::env::temp_dir(), env!("CARGO_TARGET_TMPDIR").into()];
    for place in places {
        let folder = tempfile::tempdir_in(&place).unwrap();
        let disk = SystemDisk::new(folder.path());
        let file = Path::new("try");
        disk.publish(file, b"").unwrap();
        let found = disk.set_immutable(file, true).unwrap();
        disk.set_immutable(file, false).unwrap();
        match found {
            Protection::Done => return Some(folder),
            other => said.push(format!("{}: {other:?}", place.display())),
        }
    }
    skip(&format!("no file system here holds files: {said:?}"))
}
