//! What somebody else does to a repository's files is reported, what the engine does is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use repo::{
    ForeignChange, ForeignKind, ImageBase, Noticed, OpenOptions, PointKind, Repository, Watch,
};
use tempfile::TempDir;

use super::support;

/// A repository with two points that is being watched.
struct Rig {
    folder: TempDir,
    repository: Repository,
    reports: Receiver<Vec<ForeignChange>>,
    /// What somebody else had to do with, of which steps may be reported late.
    touched: BTreeSet<PathBuf>,
    _watch: Watch,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = support::fresh(folder.path());
        back_up(&repository, 1);
        back_up(&repository, 2);
        // Packs are sealed, as most are.
        repository.close().unwrap();
        let (sender, reports) = channel();
        let watch = repository.watch(move |found| drop(sender.send(found)));
        Self {
            folder,
            repository,
            reports,
            touched: BTreeSet::new(),
            _watch: watch.unwrap().unwrap(),
        }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The first file below `folder` in the order of names, relative to the repository.
    fn first(&self, folder: &str) -> PathBuf {
        let mut all = self.files(Path::new(folder));
        all.sort();
        all.remove(0)
    }

    fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        entries
            .flat_map(|entry| {
                let entry = entry.unwrap();
                let path = folder.join(entry.file_name());
                match entry.file_type().unwrap().is_dir() {
                    true => self.files(&path),
                    false => vec![path],
                }
            })
            .collect()
    }

    /// Waits for these changes, in any order, and for nothing about other files before them.
    fn expect(&mut self, expected: &[(&Path, ForeignKind)]) {
        let paths = expected.iter().map(|(path, _)| path.to_path_buf());
        self.touched.extend(paths);
        let mut missing: Vec<_> = expected.to_vec();
        while !missing.is_empty() {
            let found = self.reports.recv_timeout(LONG).unwrap_or_else(|_| {
                panic!("not reported: {missing:?}");
            });
            for change in found {
                let place = missing
                    .iter()
                    .position(|(path, kind)| *path == change.path && *kind == change.kind);
                match place {
                    Some(place) => drop(missing.remove(place)),
                    // One act may show in steps: a new file is seen empty, and as changed when it has its content.
                    None if self.touched.contains(&change.path) => {}
                    None => panic!("{change:?} is not among {expected:?}"),
                }
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "somebody else does not go through repo::disk"
)]
fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    fs::rename(from, to).unwrap();
}

fn back_up(repository: &Repository, seed: u64) {
    let writes = [(0, support::noise(seed, 5 << 16))];
    support::back_up(repository, 1 << 20, ImageBase::Parent, &writes);
}

#[test]
fn each_kind_of_change_by_others_is_reported() {
    let mut rig = Rig::new();
    let pack = rig.first("packs");
    let manifest = rig.first("points");

    let length = fs::metadata(rig.path(&pack)).unwrap().len();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(rig.path(&pack))
        .unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"x", 5000).unwrap();
    rig.expect(&[(&pack, ForeignKind::Changed)]);

    file.set_len(length - 1).unwrap();
    rig.expect(&[(&pack, ForeignKind::Truncated)]);

    let moved = pack.with_file_name("elsewhere");
    rename(rig.path(&pack), rig.path(&moved));
    rig.expect(&[(&pack, ForeignKind::Removed), (&moved, ForeignKind::Added)]);

    fs::remove_file(rig.path(&moved)).unwrap();
    rig.expect(&[(&moved, ForeignKind::Removed)]);

    let copy = rig.path("copy");
    fs::copy(rig.path(&manifest), &copy).unwrap();
    rename(&copy, rig.path(&manifest));
    rig.expect(&[(&manifest, ForeignKind::Replaced)]);

    fs::write(rig.path("superblock"), "something else").unwrap();
    rig.expect(&[(Path::new("superblock"), ForeignKind::Truncated)]);
}

#[test]
fn folders_by_others_are_looked_into() {
    let mut rig = Rig::new();
    let new = Path::new("points/stranger");
    let file = new.join("deep/1");
    fs::create_dir_all(rig.path(new.join("deep"))).unwrap();
    fs::write(rig.path(&file), "text").unwrap();
    rig.expect(&[(&file, ForeignKind::Added)]);

    // A folder that came later is watched like the others.
    let second = new.join("deep/2");
    fs::write(rig.path(&second), "text").unwrap();
    rig.expect(&[(&second, ForeignKind::Added)]);

    let all = rig.files(Path::new("points/web"));
    let removed: Vec<_> = all
        .iter()
        .map(|path| (path.as_path(), ForeignKind::Removed))
        .collect();
    rename(rig.path("points/web"), rig.path("taken-away"));
    rig.expect(&removed);
}

#[test]
fn nothing_that_the_engine_does_is_reported() {
    let mut rig = Rig::new();
    for seed in 3..8 {
        back_up(&rig.repository, seed);
    }
    let points = rig.repository.points(None);
    let overlay = rig.repository.create_overlay(&points[3], 0).unwrap();
    let data = [bytes::Bytes::from(support::noise(9, 8192))];
    overlay.write(4096, &data, true).unwrap();
    overlay.freeze().unwrap();
    let mut backup = rig
        .repository
        .begin(&support::workload(), PointKind::Sealed)
        .unwrap();
    backup.seal_overlay(&overlay, "disk-0").unwrap();
    backup.commit().unwrap();
    rig.repository.discard_overlay(overlay.id()).unwrap();
    rig.repository.star(&points[1].name).unwrap();
    rig.repository.unstar(&points[1].name).unwrap();
    for point in points.iter().take(3) {
        rig.repository.expire(&point.name).unwrap();
    }
    rig.repository.close().unwrap();
    back_up(&rig.repository, 10);
    // Events come in order: whatever was to be reported comes before this.
    let last = Path::new("packs/last");
    fs::write(rig.path(last), "text").unwrap();
    rig.expect(&[(last, ForeignKind::Added)]);
}

#[test]
fn a_change_between_two_writes_of_the_engine_is_reported() {
    let mut rig = Rig::new();
    back_up(&rig.repository, 3);
    let open: Vec<PathBuf> = rig
        .files(Path::new("packs"))
        .into_iter()
        .filter(|path| fs::metadata(rig.path(path)).unwrap().len() > 0)
        .collect();
    // All packs, the one that the next backup goes on with among them, are longer than the engine left them.
    for path in &open {
        let file = fs::OpenOptions::new()
            .append(true)
            .open(rig.path(path))
            .unwrap();
        std::io::Write::write_all(&mut &file, &[0; 4096]).unwrap();
    }
    let expected: Vec<_> = open
        .iter()
        .map(|path| (path.as_path(), ForeignKind::Changed))
        .collect();
    back_up(&rig.repository, 4);
    rig.expect(&expected);
}

#[test]
fn events_that_the_system_dropped_are_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let repository = support::fresh(folder.path());
    let (sender, reports) = channel();
    let (go_on, held) = channel::<()>();
    let watch = repository.watch(move |found| {
        sender.send(found).unwrap();
        // The first report holds the thread until all is done.
        assert!(held.recv_timeout(LONG).is_err(), "nothing is ever sent");
    });
    fs::write(folder.path().join("packs/first"), "").unwrap();
    let first = reports.recv_timeout(LONG).unwrap();
    assert_eq!(first.len(), 1);
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let count = limit.trim().parse::<usize>().unwrap() + 1000;
    let start = Instant::now();
    for number in 0..count {
        fs::write(folder.path().join(format!("points/{number}")), "").unwrap();
    }
    assert!(start.elapsed() < LONG, "the report waits so long at most");
    drop(go_on);
    let mut found = 0;
    while found < count {
        found += reports.recv_timeout(LONG).unwrap().len();
    }
    assert_eq!(found, count);
    drop(watch);
}

#[test]
fn a_hundred_thousand_packs_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let repository = support::fresh(folder.path());
    let pack = |number: u32| {
        let name = format!("packs/{:02x}/{number:08x}", number % 256);
        folder.path().join(name)
    };
    for number in 0..256 {
        fs::create_dir_all(pack(number).parent().unwrap()).unwrap();
    }
    for number in 0..100_000 {
        fs::write(pack(number), "").unwrap();
    }
    let (sender, reports) = channel();
    let start = Instant::now();
    let watch = repository.watch(move |found| drop(sender.send(found)));
    let begun = start.elapsed();
    let start = Instant::now();
    fs::remove_file(pack(77_777)).unwrap();
    let found = reports.recv_timeout(LONG).unwrap();
    let told = start.elapsed();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, ForeignKind::Removed);
    println!("100000 files: watched after {begun:?}, a removal told after {told:?}");
    assert!(told < Duration::from_secs(10), "it looks at all for one");
    drop(watch);
}

/// A repository that remembers how its files are beside it, in one run after the other.
struct Remembering {
    folder: TempDir,
    beside: TempDir,
}

impl Remembering {
    fn new() -> Self {
        let made = Self {
            folder: tempfile::tempdir().unwrap(),
            beside: tempfile::tempdir().unwrap(),
        };
        drop(support::fresh(made.folder.path()));
        made
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One run: what it is told at its start, after `work`.
    fn run(&self, end: End, work: impl FnOnce(&Repository)) -> Vec<(PathBuf, ForeignKind)> {
        self.run_in(self.folder.path(), end, work)
    }

    fn run_in(
        &self,
        folder: &Path,
        end: End,
        work: impl FnOnce(&Repository),
    ) -> Vec<(PathBuf, ForeignKind)> {
        let options = OpenOptions {
            watch_record: Some(self.beside.path().to_owned()),
            ..support::options()
        };
        let repository = Repository::open(folder, &options).unwrap();
        let (sender, reports) = channel();
        let watch = repository.watch(move |found| drop(sender.send(found)));
        work(&repository);
        // What a kill leaves: nothing more is remembered, and nothing closed.
        let kept = (end == End::Killed).then(|| copy_of(self.beside.path()));
        drop(watch);
        drop(repository);
        if let Some(kept) = kept {
            fs::remove_dir_all(self.beside.path()).unwrap();
            fs::create_dir(self.beside.path()).unwrap();
            copy_all(kept.path(), self.beside.path());
        }
        let found = reports.into_iter().flatten();
        found
            .map(|change| {
                assert_eq!(change.noticed, Noticed::AtStart, "{change:?}");
                (change.path, change.kind)
            })
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    InOrder,
    Killed,
}

fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(folder, copy.path());
    copy
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Sealed packs by name.
fn packs(rig: &Remembering) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(rig.path("packs")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            found.push(path.strip_prefix(rig.folder.path()).unwrap().to_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn what_others_change_between_two_runs_is_told_when_the_second_begins() {
    for end in [End::InOrder, End::Killed] {
        let rig = Remembering::new();
        let none = rig.run(End::InOrder, |repository| {
            back_up(repository, 1);
            back_up(repository, 2);
            let points = repository.points(None);
            repository.create_overlay(&points[0], 0).unwrap();
        });
        assert_eq!(none, []);
        // The second run changes other files: it must not hide what becomes of these.
        let none = rig.run(end, |repository| back_up(repository, 3));
        assert_eq!(none, []);
        let pack = packs(&rig).remove(0);
        let length = fs::metadata(rig.path(&pack)).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(rig.path(&pack));
        file.unwrap().set_len(length - 1).unwrap();
        let manifest = Path::new("points/web/00000000000000000001.00000001");
        fs::remove_file(rig.path(manifest)).unwrap();
        let stray = Path::new("points/web/stray");
        fs::write(rig.path(stray), "text").unwrap();
        let overlay = fs::read_dir(rig.path("overlays")).unwrap().next().unwrap();
        let overlay = Path::new("overlays").join(overlay.unwrap().file_name());
        let document = fs::read_dir(rig.path(&overlay)).unwrap().next().unwrap();
        let document = overlay.join(document.unwrap().file_name());
        fs::remove_file(rig.path(&document)).unwrap();
        // The engine writes this one anew at each opening.
        let clock = Path::new("clock");
        fs::write(rig.path(clock), "text").unwrap();
        let mut expected = vec![
            (clock.to_owned(), ForeignKind::Truncated),
            (pack, ForeignKind::Truncated),
            (manifest.to_owned(), ForeignKind::Removed),
            (stray.to_owned(), ForeignKind::Added),
            (document, ForeignKind::Removed),
        ];
        expected.sort();
        let mut found = rig.run(End::InOrder, |_| {});
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(rig.run(End::InOrder, |_| {}), [], "it is told once");
    }
}

#[test]
fn a_killed_run_leaves_no_false_alarm() {
    let rig = Remembering::new();
    for seed in 0..4 {
        let told = rig.run(End::Killed, |repository| {
            back_up(repository, 10 + seed);
            back_up(repository, 20 + seed);
            let points = repository.points(None);
            // One that no overlay of an earlier run stands on.
            let name = &points[points.len() - 2].name;
            repository.expire(name).unwrap();
            let overlay = repository
                .create_overlay(points.last().unwrap(), 0)
                .unwrap();
            let data = [bytes::Bytes::from(support::noise(9, 8192))];
            overlay.write(4096, &data, true).unwrap();
            overlay.flush().unwrap();
        });
        assert_eq!(told, []);
    }
}

#[test]
fn a_copied_folder_is_compared_by_names_and_lengths() {
    let rig = Remembering::new();
    rig.run(End::InOrder, |repository| back_up(repository, 1));
    let copy = tempfile::tempdir().unwrap();
    copy_all(rig.folder.path(), copy.path());
    let told = rig.run_in(copy.path(), End::InOrder, |_| {});
    assert_eq!(told, []);
    let again = tempfile::tempdir().unwrap();
    copy_all(copy.path(), again.path());
    let manifest = "points/web/00000000000000000001.00000001";
    fs::remove_file(again.path().join(manifest)).unwrap();
    let told = rig.run_in(again.path(), End::InOrder, |_| {});
    assert_eq!(told, [(PathBuf::from(manifest), ForeignKind::Removed)]);
}

/// Longer than anything here takes on the busiest machine.
const LONG: Duration = Duration::from_secs(60);
