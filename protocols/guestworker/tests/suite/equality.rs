//! What a worker shows is what a reader in this process shows.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use export::{FileExport, FileId, FileKind, MemoryDisk};
use guestworker::{GuestReader, GuestVolume, Reader as _};

use crate::support::{ImageDisk, act, faulty, files, plain};

/// A tree with something of everything.
fn plant(tree: &Path) {
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::create_dir(tree.join("many")).unwrap();
    for number in 0..3000 {
        fs::write(tree.join(format!("many/{number}")), number.to_string()).unwrap();
    }
    let big: Vec<u8> = (0..1_300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("a/big"), big).unwrap();
    let sparse = fs::File::create(tree.join("a/sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    sparse.write_all_at(b"island", (5 << 20) + 77).unwrap();
    std::os::unix::fs::symlink("../a/big", tree.join("a/b/link")).unwrap();
    fs::hard_link(tree.join("a/big"), tree.join("a/b/c/other name \u{1f600}")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("a/big"), "user.comment", b"kept", flags).unwrap();
    fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o2750)).unwrap();
}

fn image(folder: &Path) -> Option<PathBuf> {
    let tree = folder.join("tree");
    plant(&tree);
    let image = folder.join("disk.ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg("64M")
        .output();
    let Ok(made) = made else {
        assert!(std::env::var_os("CI").is_none(), "CI has mke2fs");
        println!("left out: there is no mke2fs");
        return None;
    };
    assert!(made.status.success(), "{made:?}");
    Some(image)
}

/// All that can be said of a tree.
pub(crate) fn tell(tree: &dyn FileExport) -> String {
    let mut told = format!("{:?} {:?}\n", tree.root(), tree.statistics());
    let mut waiting = vec![(String::new(), tree.root())];
    while let Some((path, folder)) = waiting.pop() {
        let entries = tree.list(folder, 0, usize::MAX).unwrap();
        let mut cookie = 0;
        let mut again = Vec::new();
        loop {
            let part = tree.list(folder, cookie, 700).unwrap();
            cookie = part.last().map_or(cookie, |last| last.cookie);
            let is_last = part.len() < 700;
            again.extend(part);
            if is_last {
                break;
            }
        }
        assert_eq!(entries, again);
        for entry in entries {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            let found = tree.lookup(folder, &entry.name).unwrap();
            assert_eq!(found, entry.file);
            writeln!(told, "{path} {entry:?}").unwrap();
            tell_object(tree, found, &mut told);
            if entry.attributes.kind == FileKind::Directory {
                waiting.push((path, entry.file));
            }
        }
    }
    told
}

fn tell_object(tree: &dyn FileExport, file: FileId, told: &mut String) {
    writeln!(
        told,
        "{:?} {:?} {:?} {:?} {:?}",
        tree.attributes(file),
        tree.extended_attributes(file),
        tree.particulars(file),
        tree.read_symlink(file).map_err(|error| error.to_string()),
        tree.lookup(file, b"..").map_err(|error| error.to_string()),
    )
    .unwrap();
    for (offset, length) in [(0, 10_000_000), (4_000_000, 3000), (1 << 40, 5)] {
        let read = tree.read(file, offset, length);
        let read = read.map(|read| (read.end, read.data.len(), read.data.to_vec()));
        let read = read.map(|(end, length, data)| (end, length, hash(&data)));
        writeln!(told, "{:?}", read.map_err(|error| error.to_string())).unwrap();
    }
}

fn hash(data: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn trees_and_maps_are_the_same_in_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = image(folder.path()) else {
        return;
    };
    let disk = ImageDisk::open(&image);
    let here = GuestReader.open(&[Arc::clone(&disk)]).unwrap();
    let worker = plain(disk);
    let there = worker.volumes().unwrap();
    assert_eq!((here.len(), there.len()), (1, 1));
    assert_eq!(here[0].description(), there[0].description());
    let (one, other) = (here[0].files().unwrap(), there[0].files().unwrap());
    let (one, other) = (tell(&*one), tell(&*other));
    assert!(one.lines().count() > 9000);
    let differ = one
        .lines()
        .zip(other.lines())
        .find(|(one, other)| one != other);
    assert_eq!(differ, None);
    assert_eq!(one, other);
    let used = |volume: &dyn GuestVolume| -> Vec<_> {
        volume.allocated().unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(used(&*here[0]), used(&*there[0]));
}

#[test]
fn many_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = image(folder.path()) else {
        return;
    };
    let worker = plain(ImageDisk::open(&image));
    let tree = files(&worker, 0);
    let many = tree.lookup(tree.root(), b"many").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..20 {
            let tree = &tree;
            scope.spawn(move || {
                for number in (thread..3000).step_by(20) {
                    let name = number.to_string();
                    let file = tree.lookup(many, name.as_bytes()).unwrap();
                    let read = tree.read(file, 0, 100).unwrap();
                    assert_eq!(read.data.to_vec(), name.as_bytes());
                }
            });
        }
    });
}

#[test]
fn a_disk_with_nothing_on_it_is_told_as_here() {
    let blank = Arc::new(MemoryDisk::new(1 << 20));
    let worker = plain(blank.clone());
    let there = worker.volumes().unwrap();
    let here = GuestReader.open(&[blank]).unwrap();
    assert_eq!(here[0].description(), there[0].description());
    let error = |volume: &dyn GuestVolume| volume.files().err().unwrap();
    let (here, there) = (error(&*here[0]), error(&*there[0]));
    assert_eq!(here.to_string(), there.to_string());
    assert_eq!(here.cause().to_string(), there.cause().to_string());
}

#[test]
fn ranges_come_in_parts_and_may_be_left() {
    let worker = faulty();
    let volumes = worker.volumes().unwrap();
    for _ in 0..20 {
        let some = volumes[0].allocated().unwrap().take(10_000);
        assert_eq!(some.map(Result::unwrap).count(), 10_000);
    }
    let all: Vec<_> = volumes[0]
        .allocated()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(all.len(), 100_000);
    assert_eq!(all[99_999], 999_990..999_995);
    assert_eq!(act(&*files(&worker, 0), "fine").unwrap(), "fine");
}
