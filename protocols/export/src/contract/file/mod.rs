//! What every [`FileExport`] that takes changes must do.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says that something failed by panicking"
)]

mod content;
mod model;
mod names;

use std::hash::{BuildHasher, RandomState};
use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;

use crate::{
    Attributes, Caller, CreateMode, Durability, ExportError, FileExport, FileId, SetAttributes,
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
    let checks: [fn(&Place); 16] = [
        names::check_names,
        names::check_creation,
        names::check_exclusive_creation,
        content::check_content,
        content::check_held_reads,
        content::check_sizes,
        content::check_attributes,
        content::check_times,
        content::check_extended_attributes,
        names::check_removal,
        names::check_rename,
        names::check_rename_of_folders,
        names::check_listing,
        names::check_hard_links,
        names::check_symlinks,
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
    // Others may free space of the same storage meanwhile, but not each time.
    let takes_space = (b'a'..=b'z').any(|letter| {
        let before = place.tree.statistics().unwrap();
        place.file_with(&[b'f', letter], &[1; 1 << 20]);
        place.tree.statistics().unwrap().free_bytes <= before.free_bytes
    });
    assert!(takes_space, "content takes space");
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
const READ_STEP: u32 = 50_001;
