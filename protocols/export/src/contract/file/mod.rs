//! What every [`FileExport`] that takes changes must do.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking"
)]

mod model;

use std::hash::{BuildHasher, RandomState};
use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;

use crate::{
    Attributes, Caller, CreateMode, Durability, ExportError, FileExport, FileId, FileKind,
    SetAttributes, TimeChange, Timestamp,
};

/// Checks trees that take changes. `make` gives a new tree and an empty folder in it to work in.
///
/// Hard and symbolic links may be refused as not supported.
///
/// # Panics
/// If the tree does not keep the contract.
pub fn check(make: impl Fn() -> (Arc<dyn FileExport>, FileId)) {
    let seed = RandomState::new().hash_one(0);
    for seed in [1, 2, 3, seed] {
        let (tree, folder) = make();
        model::check_random_operations(&*tree, folder, seed);
    }
    let checks: [fn(&Place); 14] = [
        check_names,
        check_creation,
        check_exclusive_creation,
        check_content,
        check_held_reads,
        check_sizes,
        check_attributes,
        check_times,
        check_removal,
        check_rename,
        check_listing,
        check_hard_links,
        check_symlinks,
        check_statistics,
    ];
    for check in checks {
        let (tree, folder) = make();
        check(&Place { tree, folder });
    }
    let (tree, folder) = make();
    check_threads(&Place { tree, folder });
}

/// Where a check works.
struct Place {
    tree: Arc<dyn FileExport>,
    folder: FileId,
}

impl Place {
    fn create(&self, name: &[u8], mode: CreateMode) -> Result<FileId, ExportError> {
        let plain = SetAttributes::default();
        self.tree
            .create(&ROOT, self.folder, name, mode, &plain)
            .map(|created| created.file)
    }

    fn file(&self, name: &[u8]) -> FileId {
        self.create(name, CreateMode::Guarded).unwrap()
    }

    fn file_with(&self, name: &[u8], content: &[u8]) -> FileId {
        let file = self.file(name);
        self.write(file, 0, content);
        file
    }

    fn subfolder(&self, name: &[u8]) -> Self {
        let plain = SetAttributes::default();
        let made = self
            .tree
            .create_directory(&ROOT, self.folder, name, &plain)
            .unwrap();
        Self {
            tree: Arc::clone(&self.tree),
            folder: made.file,
        }
    }

    fn write(&self, file: FileId, offset: u64, content: &[u8]) -> Attributes {
        let data = [Bytes::copy_from_slice(content)];
        self.tree
            .write(file, offset, &data, Durability::Unstable)
            .unwrap()
            .attributes
    }

    fn content(&self, file: FileId) -> Vec<u8> {
        read_all(&*self.tree, file)
    }

    fn lookup(&self, name: &[u8]) -> Result<FileId, ExportError> {
        self.tree.lookup(self.folder, name)
    }

    fn rename(&self, from: &[u8], to: &Self, name: &[u8]) -> Result<(), ExportError> {
        self.tree.rename(&ROOT, self.folder, from, to.folder, name)
    }

    fn remove(&self, name: &[u8]) -> Result<(), ExportError> {
        self.tree.remove(&ROOT, self.folder, name)
    }

    fn remove_directory(&self, name: &[u8]) -> Result<(), ExportError> {
        self.tree.remove_directory(&ROOT, self.folder, name)
    }

    fn attributes(&self, file: FileId) -> Attributes {
        self.tree.attributes(file).unwrap()
    }
}

/// Reads a file to its end, in steps that do not fit its blocks.
fn read_all(tree: &dyn FileExport, file: FileId) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let read = tree.read(file, all.len() as u64, READ_STEP).unwrap();
        if !read.end {
            assert_eq!(
                read.data.len() as u64,
                u64::from(READ_STEP),
                "a short read is at the end"
            );
        }
        all.extend(read.data.to_vec());
        if read.end {
            return all;
        }
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ExportError>, expected: &ExportError, what: &str) {
    match result {
        Err(error) if discriminant(&error) == discriminant(expected) => {}
        other => panic!("{what}: expected {expected:?}, got {other:?}"),
    }
}

fn check_names(place: &Place) {
    let longest = [b'n'; 255];
    assert_eq!(
        place.lookup(&longest).map_err(|error| discriminant(&error)),
        { Err(discriminant(&ExportError::NotFound)) }
    );
    let file = place.file(&longest);
    assert_eq!(
        place.lookup(&longest).unwrap(),
        file,
        "a name of 255 bytes is kept"
    );
    let odd = b"\xff\xfe \\:*?\"<>|\n";
    let file = place.file(odd);
    assert_eq!(place.lookup(odd).unwrap(), file, "a name is bytes");
    for name in [&b""[..], b"a/b", b"a\0b"] {
        refused(
            place.create(name, CreateMode::Guarded),
            &ExportError::BadName,
            "a bad name",
        );
    }
    let long = [b'n'; 256];
    refused(
        place.create(&long, CreateMode::Guarded),
        &ExportError::NameTooLong,
        "256 bytes",
    );
    for name in [&b"."[..], b".."] {
        assert!(
            place.create(name, CreateMode::Guarded).is_err(),
            "a dot name is taken"
        );
        assert!(place.remove_directory(name).is_err(), "a dot name stays");
        assert!(
            place.rename(name, place, b"x").is_err(),
            "a dot name does not move"
        );
    }
    let below = place.subfolder(b"below");
    assert_eq!(below.lookup(b".").unwrap(), below.folder);
    assert_eq!(below.lookup(b"..").unwrap(), place.folder);
    let root = place.tree.root();
    assert_eq!(
        place.tree.lookup(root, b"..").unwrap(),
        root,
        "nothing is above the root"
    );
    refused(
        place.tree.lookup(file, b"x"),
        &ExportError::NotDirectory,
        "a name in a file",
    );
}

fn check_creation(place: &Place) {
    let caller = Caller {
        uid: 7,
        gid: 8,
        gids: vec![9],
    };
    let wanted = SetAttributes {
        mode: Some(0o640),
        ..SetAttributes::default()
    };
    let made = place
        .tree
        .create(&caller, place.folder, b"f", CreateMode::Unchecked, &wanted)
        .unwrap();
    let attributes = made.attributes;
    assert_eq!(
        (attributes.file, attributes.kind),
        (made.file, FileKind::File)
    );
    assert_eq!(
        (attributes.uid, attributes.mode, attributes.links),
        (7, 0o640, 1)
    );
    assert_eq!(attributes, place.attributes(made.file));
    place.write(made.file, 0, b"content");
    refused(
        place.create(b"f", CreateMode::Guarded),
        &ExportError::Exists,
        "guarded",
    );
    assert_eq!(
        place.create(b"f", CreateMode::Unchecked).unwrap(),
        made.file
    );
    assert_eq!(place.content(made.file), b"content", "what is there stays");
    let cut = SetAttributes {
        size_bytes: Some(3),
        mode: Some(0o777),
        ..SetAttributes::default()
    };
    let again = place
        .tree
        .create(&caller, place.folder, b"f", CreateMode::Unchecked, &cut);
    let again = again.unwrap().attributes;
    assert_eq!(
        (again.size_bytes, again.mode),
        (3, 0o640),
        "cut, but the mode is not for a new file"
    );
    let links = place.attributes(place.folder).links;
    let below = place.subfolder(b"d");
    assert_eq!(place.attributes(below.folder).links, 2);
    assert_eq!(
        place.attributes(place.folder).links,
        links + 1,
        "the folder's .. is a link"
    );
    refused(
        place.create(b"d", CreateMode::Unchecked),
        &ExportError::Exists,
        "over a folder",
    );
    let plain = SetAttributes::default();
    let twice = place
        .tree
        .create_directory(&ROOT, place.folder, b"f", &plain);
    refused(twice, &ExportError::Exists, "a folder over a file");
    let inside = place
        .tree
        .create(&ROOT, made.file, b"x", CreateMode::Guarded, &plain);
    refused(inside, &ExportError::NotDirectory, "a file in a file");
}

fn check_exclusive_creation(place: &Place) {
    let made = place
        .create(b"f", CreateMode::Exclusive(*b"verifier"))
        .unwrap();
    place.write(made, 0, b"x");
    let again = place
        .create(b"f", CreateMode::Exclusive(*b"verifier"))
        .unwrap();
    assert_eq!(
        made, again,
        "a repeated exclusive create finds its own file"
    );
    let other = place.create(b"f", CreateMode::Exclusive(*b"Verifier"));
    refused(other, &ExportError::Exists, "another verifier");
    place.file(b"g");
    let late = place.create(b"g", CreateMode::Exclusive(*b"verifier"));
    refused(late, &ExportError::Exists, "a file of no verifier");
}

fn check_content(place: &Place) {
    let file = place.file(b"f");
    let pieces = [&b"one"[..], b"", b"two"].map(Bytes::from_static);
    let written = place
        .tree
        .write(file, 5, &pieces, Durability::Stable)
        .unwrap();
    assert_eq!(
        written.durability,
        Durability::Stable,
        "a stable write is stable"
    );
    assert_eq!(written.attributes.size_bytes, 11);
    assert_eq!(place.content(file), b"\0\0\0\0\0onetwo");
    let far = 5 * BLOCK + 17;
    place.write(file, far, &[9; 100_000]);
    let all = place.content(file);
    assert_eq!(all.len() as u64, far + 100_000);
    let gap = &all[11..usize::try_from(far).unwrap()];
    assert!(gap.iter().all(|&byte| byte == 0), "a gap reads as zeroes");
    for offset in [all.len() as u64, far * 100, i64::MAX as u64] {
        let read = place.tree.read(file, offset, 10).unwrap();
        assert!(
            read.data.is_empty() && read.end,
            "nothing at or behind the end"
        );
    }
    let read = place.tree.read(file, 0, 0).unwrap();
    assert!(read.data.is_empty() && !read.end, "nothing was asked for");
    assert!(
        place
            .tree
            .write(file, i64::MAX as u64, &pieces, Durability::Unstable)
            .is_err()
    );
    assert_eq!(
        place.attributes(file).size_bytes,
        all.len() as u64,
        "a refused write does nothing"
    );
    if let Some(read) = place.tree.read_cached(file, 0, 11) {
        assert_eq!(read.unwrap().data.to_vec(), all[..11]);
    }
    refused(
        place.tree.read(place.folder, 0, 1),
        &ExportError::IsDirectory,
        "a folder's bytes",
    );
    let folder = place
        .tree
        .write(place.folder, 0, &pieces, Durability::Unstable);
    refused(folder, &ExportError::IsDirectory, "bytes into a folder");
    place.tree.commit(file).unwrap();
}

fn check_held_reads(place: &Place) {
    let file = place.file_with(b"f", &[1; 200_000]);
    let held = place.tree.read(file, 0, 200_000).unwrap().data;
    place.write(file, 100, &[2; 150_000]);
    let cut = SetAttributes {
        size_bytes: Some(5),
        ..SetAttributes::default()
    };
    place.tree.set_attributes(&ROOT, file, &cut).unwrap();
    place.remove(b"f").unwrap();
    assert_eq!(
        held.to_vec(),
        [1; 200_000],
        "an answer does not change after it was given"
    );
}

fn check_sizes(place: &Place) {
    let file = place.file_with(b"f", &[5; 100_000]);
    let resize = |size| {
        let change = SetAttributes {
            size_bytes: Some(size),
            ..SetAttributes::default()
        };
        place.tree.set_attributes(&ROOT, file, &change)
    };
    resize(70_000).unwrap();
    assert_eq!(place.content(file), [5; 70_000]);
    let attributes = resize(150_000).unwrap();
    assert_eq!(attributes.size_bytes, 150_000);
    let all = place.content(file);
    assert!(
        all[70_000..].iter().all(|&byte| byte == 0),
        "what was cut off does not come back"
    );
    assert_eq!(
        resize(5 << 40).unwrap().size_bytes,
        5 << 40,
        "five terabytes of nothing"
    );
    let read = place.tree.read(file, 4 << 40, 100).unwrap();
    assert_eq!(read.data.to_vec(), [0; 100]);
    assert!(resize(u64::MAX).is_err(), "no file is that long");
    let folder = SetAttributes {
        size_bytes: Some(0),
        ..SetAttributes::default()
    };
    let folder = place.tree.set_attributes(&ROOT, place.folder, &folder);
    refused(
        folder,
        &ExportError::IsDirectory,
        "a folder has no size to set",
    );
}

fn check_attributes(place: &Place) {
    let file = place.file(b"f");
    let to = Timestamp {
        seconds: 1_000_000_000,
        nanoseconds: 123_456_789,
    };
    let change = SetAttributes {
        mode: Some(0o4751),
        uid: Some(3),
        gid: Some(4),
        size_bytes: None,
        accessed: Some(TimeChange::To(to)),
        modified: Some(TimeChange::To(to)),
    };
    let before = place.attributes(file);
    let after = place.tree.set_attributes(&ROOT, file, &change).unwrap();
    assert_eq!((after.mode, after.uid, after.gid), (0o4751, 3, 4));
    assert_eq!((after.accessed, after.modified), (to, to));
    assert!(
        after.changed > before.changed,
        "the change time is the tree's own"
    );
    assert_eq!(place.attributes(file), after);
    let now = SetAttributes {
        modified: Some(TimeChange::Now),
        ..SetAttributes::default()
    };
    let touched = place.tree.set_attributes(&ROOT, file, &now).unwrap();
    assert!(touched.modified > to);
    assert_eq!(
        (touched.mode, touched.accessed),
        (0o4751, to),
        "what is not given stays"
    );
}

fn check_times(place: &Place) {
    let file = place.file(b"f");
    let mut last = place.attributes(file);
    for _ in 0..100 {
        let next = place.write(file, 0, b"x");
        assert!(next.modified > last.modified, "each write moves the times");
        assert!(next.changed > last.changed, "each write moves the times");
        last = next;
    }
    let folder = |what: &str, last: &mut Attributes| {
        let next = place.attributes(place.folder);
        assert!(
            next.modified > last.modified && next.changed > last.changed,
            "{what}"
        );
        *last = next;
    };
    let mut last = place.attributes(place.folder);
    place.file(b"g");
    folder("a new name moves the folder's times", &mut last);
    place.rename(b"g", place, b"h").unwrap();
    folder("a rename moves the folder's times", &mut last);
    place.remove(b"h").unwrap();
    folder("a removal moves the folder's times", &mut last);
}

fn check_removal(place: &Place) {
    let file = place.file_with(b"f", b"content");
    let below = place.subfolder(b"d");
    let inner = below.file(b"inner");
    refused(
        place.remove(b"none"),
        &ExportError::NotFound,
        "nothing to remove",
    );
    refused(
        place.remove(b"d"),
        &ExportError::IsDirectory,
        "a folder as a file",
    );
    refused(
        place.remove_directory(b"f"),
        &ExportError::NotDirectory,
        "a file as a folder",
    );
    refused(
        place.remove_directory(b"d"),
        &ExportError::NotEmpty,
        "a folder with entries",
    );
    place.remove(b"f").unwrap();
    refused(place.lookup(b"f"), &ExportError::NotFound, "a removed name");
    refused(
        place.tree.attributes(file),
        &ExportError::Stale,
        "a removed file",
    );
    refused(
        place.tree.read(file, 0, 1),
        &ExportError::Stale,
        "a removed file",
    );
    let again = place.file(b"f");
    assert_ne!(again, file, "a FileId is not used again");
    below.remove(b"inner").unwrap();
    place.remove_directory(b"d").unwrap();
    refused(
        place.tree.attributes(below.folder),
        &ExportError::Stale,
        "a removed folder",
    );
    let late = place.tree.create(
        &ROOT,
        below.folder,
        b"late",
        CreateMode::Guarded,
        &SetAttributes::default(),
    );
    assert!(late.is_err(), "nothing is made in a removed folder");
    refused(
        place.tree.attributes(inner),
        &ExportError::Stale,
        "a removed file",
    );
}

fn check_rename(place: &Place) {
    let one = place.subfolder(b"one");
    let two = place.subfolder(b"two");
    let file = one.file_with(b"f", b"new");
    let old = two.file_with(b"g", b"old");
    one.rename(b"f", &two, b"g").unwrap();
    assert_eq!(
        two.lookup(b"g").unwrap(),
        file,
        "the moved file is the same file"
    );
    refused(one.lookup(b"f"), &ExportError::NotFound, "the old name");
    refused(
        place.tree.attributes(old),
        &ExportError::Stale,
        "the replaced file",
    );
    assert_eq!(place.content(file), b"new");
    two.rename(b"g", &two, b"g").unwrap();
    assert_eq!(
        two.lookup(b"g").unwrap(),
        file,
        "a rename to itself does nothing"
    );
    refused(
        one.rename(b"none", &two, b"x"),
        &ExportError::NotFound,
        "a missing name",
    );
    refused(
        place.rename(b"one", &one, b"x"),
        &ExportError::Invalid,
        "into itself",
    );
    let deep = two.subfolder(b"deep");
    refused(
        place.rename(b"two", &deep, b"x"),
        &ExportError::Invalid,
        "below itself",
    );
    refused(
        place.rename(b"one", place, b"two"),
        &ExportError::NotEmpty,
        "over a full folder",
    );
    refused(
        place.rename(b"one", &two, b"g"),
        &ExportError::NotDirectory,
        "a folder over a file",
    );
    refused(
        two.rename(b"g", place, b"one"),
        &ExportError::IsDirectory,
        "a file over a folder",
    );
    let links = (
        place.attributes(place.folder).links,
        place.attributes(two.folder).links,
    );
    place.rename(b"one", &two, b"deep").unwrap();
    refused(
        place.tree.attributes(deep.folder),
        &ExportError::Stale,
        "the replaced folder",
    );
    assert_eq!(
        one.lookup(b"..").unwrap(),
        two.folder,
        "a moved folder knows its new parent"
    );
    let moved = (
        place.attributes(place.folder).links,
        place.attributes(two.folder).links,
    );
    assert_eq!(
        moved,
        (links.0 - 1, links.1),
        "one folder left, one came for one that went"
    );
    refused(
        place.rename(b"two", place, b"a/b"),
        &ExportError::BadName,
        "a bad name",
    );
}

fn check_listing(place: &Place) {
    let names: Vec<Vec<u8>> = (0..100)
        .map(|number| format!("n{number}").into_bytes())
        .collect();
    for name in &names {
        place.file(name);
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    for page in 0.. {
        let entries = place.tree.list(place.folder, cookie, 7).unwrap();
        for entry in &entries {
            assert!(entry.cookie > 2, "cookies 0 to 2 belong to the server");
            assert_eq!(entry.attributes.file, entry.file);
            assert_eq!(place.lookup(&entry.name).unwrap(), entry.file);
            seen.push(entry.name.clone());
        }
        let Some(last) = entries.last().filter(|_| entries.len() == 7) else {
            break;
        };
        cookie = last.cookie;
        // Every third of the first names goes away, seen or not, and others come.
        if let Some(name) = names.get(page * 3) {
            place.remove(name).unwrap();
        }
        place.file(format!("later{page}").as_bytes());
        assert!(page < 100, "the listing ends");
    }
    for (number, name) in names.iter().enumerate() {
        let count = seen.iter().filter(|other| *other == name).count();
        let stays = place.lookup(name).is_ok();
        assert!(
            if stays { count == 1 } else { count <= 1 },
            "name {number} came {count} times"
        );
    }
    assert!(
        place
            .tree
            .list(place.folder, u64::MAX, 7)
            .unwrap()
            .is_empty(),
        "behind the last cookie"
    );
    let again = place.tree.list(place.folder, 0, 1000).unwrap();
    assert!(
        again
            .iter()
            .all(|entry| !matches!(&entry.name[..], b"." | b"..")),
        "no dots"
    );
    let file = again[0].file;
    refused(
        place.tree.list(file, 0, 1),
        &ExportError::NotDirectory,
        "a file's entries",
    );
}

fn check_hard_links(place: &Place) {
    let file = place.file_with(b"f", b"content");
    let below = place.subfolder(b"d");
    match place.tree.link(&ROOT, file, below.folder, b"g") {
        Err(ExportError::NotSupported) => return,
        result => result.unwrap(),
    }
    assert_eq!(below.lookup(b"g").unwrap(), file);
    assert_eq!(place.attributes(file).links, 2);
    refused(
        place.tree.link(&ROOT, file, below.folder, b"g"),
        &ExportError::Exists,
        "a taken name",
    );
    refused(
        place.tree.link(&ROOT, below.folder, place.folder, b"x"),
        &ExportError::IsDirectory,
        "a second name for a folder",
    );
    place.rename(b"f", &below, b"g").unwrap();
    assert_eq!(
        place.lookup(b"f").unwrap(),
        file,
        "renaming to its other name does nothing"
    );
    place.remove(b"f").unwrap();
    assert_eq!(place.attributes(file).links, 1);
    assert_eq!(place.content(file), b"content");
    below.remove(b"g").unwrap();
    refused(
        place.tree.attributes(file),
        &ExportError::Stale,
        "the last name went",
    );
}

fn check_symlinks(place: &Place) {
    let plain = SetAttributes::default();
    let target = b"../else/where";
    let made = match place
        .tree
        .create_symlink(&ROOT, place.folder, b"l", target, &plain)
    {
        Err(ExportError::NotSupported) => return,
        result => result.unwrap(),
    };
    assert_eq!(made.attributes.kind, FileKind::Symlink);
    assert_eq!(made.attributes.size_bytes, target.len() as u64);
    assert_eq!(place.tree.read_symlink(made.file).unwrap(), target);
    let again = place
        .tree
        .create_symlink(&ROOT, place.folder, b"l", target, &plain);
    refused(again, &ExportError::Exists, "a taken name");
    let file = place.file(b"f");
    refused(
        place.tree.read_symlink(file),
        &ExportError::Invalid,
        "a file is no link",
    );
    assert!(
        place.tree.read(made.file, 0, 1).is_err(),
        "a link has no bytes to read"
    );
    place.remove(b"l").unwrap();
}

fn check_statistics(place: &Place) {
    let before = place.tree.statistics().unwrap();
    assert!(
        before.available_bytes <= before.free_bytes,
        "what may be taken is free"
    );
    assert!(
        before.free_bytes <= before.total_bytes,
        "what is free is there"
    );
    assert!(before.free_files <= before.total_files);
    place.file_with(b"f", &[1; 1 << 20]);
    let after = place.tree.statistics().unwrap();
    assert!(after.free_bytes <= before.free_bytes, "content takes space");
}

fn check_threads(place: &Place) {
    let won = AtomicUsize::new(0);
    let file = place.file_with(b"shared", &[0; 4 * 100_000]);
    thread::scope(|scope| {
        for number in 0..4_u8 {
            let won = &won;
            scope.spawn(move || {
                for round in 0..50 {
                    let name = format!("round{round}");
                    let made = place.create(name.as_bytes(), CreateMode::Guarded);
                    won.fetch_add(usize::from(made.is_ok()), Ordering::Relaxed);
                    place.write(file, u64::from(number) * 100_000, &[number + 1; 100_000]);
                }
            });
        }
    });
    assert_eq!(
        won.into_inner(),
        50,
        "of those who make one name at once, one succeeds"
    );
    let all = place.content(file);
    for (number, part) in (1..).zip(all.chunks(100_000)) {
        assert!(
            part.iter().all(|&byte| byte == number),
            "writes side by side do not mix"
        );
    }
}

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    gids: Vec::new(),
};
const BLOCK: u64 = 65_536;
const READ_STEP: u32 = 50_001;
