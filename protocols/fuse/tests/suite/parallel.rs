//! Many at once.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use export::{
    Attributes, Caller, DirectoryEntry, Durability, ExportError, FileExport, FileId, FileRead,
    MemoryTree, SetAttributes, Statistics, Written,
};
use fuse::MountOptions;

use crate::support::{Mounted, add_file, can_mount, writable_tree};

#[test]
fn readers_and_writers_do_not_disturb_each_other() {
    if !can_mount() {
        return;
    }
    let mounted = writable_tree();
    let path = mounted.at("file");
    let (parts, part_bytes) = (8, 1_000_003);
    std::thread::scope(|scope| {
        for part in 0..parts {
            let (path, mounted) = (&path, &mounted);
            scope.spawn(move || {
                let file = OpenOptions::new()
                    .create(true)
                    .truncate(false)
                    .read(true)
                    .write(true)
                    .open(path)
                    .unwrap();
                let own = mounted.at(&format!("own-{part}"));
                let content = vec![part as u8 + 1; part_bytes];
                let at = (part * part_bytes) as u64;
                file.write_all_at(&content, at).unwrap();
                let mut back = vec![0; part_bytes];
                file.read_exact_at(&mut back, at).unwrap();
                assert!(back == content, "part {part}");
                for round in 0..50 {
                    fs::write(&own, [round; 100]).unwrap();
                    assert_eq!(fs::read(&own).unwrap(), [round; 100]);
                    fs::remove_file(&own).unwrap();
                }
            });
        }
    });
    let all = fs::read(&path).unwrap();
    for (part, content) in all.chunks(part_bytes).enumerate() {
        assert!(content.iter().all(|byte| *byte == part as u8 + 1));
    }
}

/// A tree whose file `slow` is not read before a test lets it be.
struct Slow {
    tree: MemoryTree,
    slow: FileId,
    asked: Mutex<Sender<()>>,
    released: Mutex<Receiver<()>>,
}

#[test]
fn one_slow_read_holds_nobody_else() {
    if !can_mount() {
        return;
    }
    let tree = MemoryTree::new();
    add_file(&tree, tree.root(), "quick", b"quick");
    let slow = add_file(&tree, tree.root(), "slow", b"slow");
    let ((ask, asked), (release, released)) = (channel(), channel());
    let tree = Slow {
        tree,
        slow,
        asked: Mutex::new(ask),
        released: Mutex::new(released),
    };
    let mounted = Mounted::start(Arc::new(tree), &MountOptions::default());
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| fs::read(mounted.at("slow")).unwrap());
        asked.recv().unwrap();
        assert_eq!(fs::read(mounted.at("quick")).unwrap(), b"quick");
        assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 2);
        assert_eq!(
            File::open(mounted.at("slow"))
                .unwrap()
                .metadata()
                .unwrap()
                .len(),
            4
        );
        assert!(!reading.is_finished());
        release.send(()).unwrap();
        assert_eq!(reading.join().unwrap(), b"slow");
    });
}

impl FileExport for Slow {
    fn root(&self) -> FileId {
        self.tree.root()
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        self.tree.statistics()
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        self.tree.attributes(file)
    }

    fn set_attributes(
        &self,
        caller: &Caller,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        self.tree.set_attributes(caller, file, change)
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        self.tree.lookup(directory, name)
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        if file == self.slow {
            self.asked.lock().unwrap().send(()).unwrap();
            self.released.lock().unwrap().recv().unwrap();
        }
        self.tree.read(file, offset, length)
    }

    fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        self.tree.write(file, offset, data, durability)
    }

    fn commit(&self, file: FileId) -> Result<Attributes, ExportError> {
        self.tree.commit(file)
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        self.tree.list(directory, cookie, limit)
    }
}
