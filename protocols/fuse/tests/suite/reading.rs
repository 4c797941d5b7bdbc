//! Trees that nobody changes.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;
use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileRead,
    MemoryTree, SetAttributes, Statistics,
};
use fuse::MountOptions;

use crate::support::{Mounted, add_file, add_folder, can_mount, errno, names, nobody};

#[test]
fn a_tree_is_read_through_the_kernel() {
    if !can_mount() {
        return;
    }
    let tree = MemoryTree::new();
    let content: Vec<u8> = (0..3_000_000u32).map(|byte| (byte / 7) as u8).collect();
    let disks = add_folder(&tree, tree.root(), "disks");
    add_file(&tree, disks, "disk.raw", &content);
    let link = SetAttributes::default();
    tree.create_symlink(&nobody(), tree.root(), b"newest", b"disks/disk.raw", &link)
        .unwrap();
    let mounted = Mounted::start(Arc::new(tree), &MountOptions::default());

    assert_eq!(names(mounted.path()), ["disks", "newest"]);
    assert_eq!(fs::read(mounted.at("newest")).unwrap(), content);
    let file = fs::File::open(mounted.at("disks/disk.raw")).unwrap();
    let mut middle = vec![0; 70_000];
    file.read_exact_at(&mut middle, 1_234_567).unwrap();
    assert_eq!(middle, content[1_234_567..1_304_567]);
    assert_eq!(file.read_at(&mut middle, 3_000_000).unwrap(), 0);
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.size(), metadata.nlink()), (3_000_000, 1));
    let missing = fs::metadata(mounted.at("missing"));
    assert_eq!(errno(missing), 2);
    assert_eq!(errno(fs::write(mounted.at("new"), b"x")), 30, "read-only");
    let data = rustix::fs::SeekFrom::Data(5);
    assert_eq!(rustix::fs::seek(&file, data).unwrap(), 5);
    let hole = rustix::fs::SeekFrom::Hole(5);
    assert_eq!(rustix::fs::seek(&file, hole).unwrap(), 3_000_000);
    let space = rustix::fs::statvfs(mounted.path()).unwrap();
    assert_eq!(space.f_blocks * space.f_frsize, 16 << 30);
    drop(file);
    mounted.mount.unmount().unwrap();
}

#[test]
fn fifty_thousand_names_come_once_each_with_their_attributes() {
    if !can_mount() {
        return;
    }
    let tree = MemoryTree::new();
    for number in 0..50_000 {
        let size = [0u8; 16];
        add_file(
            &tree,
            tree.root(),
            &format!("f{number:05}"),
            &size[..number % 16],
        );
    }
    let mounted = Mounted::start(Arc::new(tree), &MountOptions::default());
    for round in 0..2 {
        let mut seen = vec![false; 50_000];
        for entry in fs::read_dir(mounted.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let number: usize = name[1..].parse().unwrap();
            assert!(!seen[number], "{name} came twice in round {round}");
            seen[number] = true;
            assert_eq!(entry.metadata().unwrap().size() as usize, number % 16);
        }
        assert!(seen.iter().all(|seen| *seen));
    }
}

/// A tree of one folder and one file with numbers that the kernel reserves, slow and with attributes.
#[derive(Debug)]
struct Odd {
    root: u64,
    file: u64,
}

#[test]
fn the_root_and_files_may_have_any_number() {
    if !can_mount() {
        return;
    }
    for (root, file) in [
        (0, 1),
        (1, 0),
        (77, 0),
        (77, 1),
        (u64::MAX, 0),
        (5, u64::MAX - 1),
    ] {
        let mounted = Mounted::start(Arc::new(Odd { root, file }), &MountOptions::default());
        assert_eq!(names(mounted.path()), ["odd"], "{root} {file}");
        assert_eq!(fs::read(mounted.at("odd")).unwrap(), b"content");
        assert_eq!(fs::metadata(mounted.path()).unwrap().ino(), 1);
    }
}

#[test]
fn extended_attributes_are_shown() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::start(
        Arc::new(Odd { root: 9, file: 10 }),
        &MountOptions::default(),
    );
    let path = mounted.at("odd");
    let mut room = [0u8; 200];
    let length = rustix::fs::listxattr(&path, &mut room[..]).unwrap();
    assert_eq!(&room[..length], b"user.first\0user.second\0");
    let length = rustix::fs::getxattr(&path, "user.second", &mut room[..]).unwrap();
    assert_eq!(&room[..length], [7; 100]);
    let short = rustix::fs::getxattr(&path, "user.second", &mut room[..10]);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    let other = rustix::fs::getxattr(&path, "user.other", &mut room[..]);
    assert_eq!(other, Err(rustix::io::Errno::NODATA));
}

#[test]
fn damage_is_an_error_of_the_one_file() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::start(
        Arc::new(Odd { root: 1, file: 13 }),
        &MountOptions::default(),
    );
    assert_eq!(errno(fs::read(mounted.at("odd"))), 5);
    assert_eq!(names(mounted.path()), ["odd"]);
}

impl Odd {
    fn attributes_of(&self, file: FileId) -> Result<Attributes, ExportError> {
        let kind = match file.0 {
            number if number == self.root => export::FileKind::Directory,
            number if number == self.file => export::FileKind::File,
            _ => return Err(ExportError::Stale),
        };
        Ok(Attributes {
            file,
            kind,
            mode: 0o755,
            links: 1,
            uid: 0,
            gid: 0,
            size_bytes: 7,
            used_bytes: 7,
            accessed: export::Timestamp::default(),
            modified: export::Timestamp::default(),
            changed: export::Timestamp::default(),
        })
    }
}

impl FileExport for Odd {
    fn root(&self) -> FileId {
        FileId(self.root)
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        Err(ExportError::NotSupported)
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        self.attributes_of(file)
    }

    fn lookup(&self, _directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        match name {
            b"odd" => Ok(FileId(self.file)),
            b"." | b".." => Ok(FileId(self.root)),
            _ => Err(ExportError::NotFound),
        }
    }

    fn read(&self, _file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        if self.file == 13 {
            let detail = "a chunk of the disk".into();
            return Err(ExportError::Corrupt { detail });
        }
        let content = Bytes::from_static(b"content");
        let start = (offset as usize).min(content.len());
        let end = start.saturating_add(length as usize).min(content.len());
        Ok(FileRead {
            data: content.slice(start..end).into(),
            end: true,
            attributes: None,
        })
    }

    fn extended_attributes(&self, _file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        let one = |name: &str, value: &[u8]| ExtendedAttribute {
            name: name.as_bytes().to_vec(),
            value: value.to_vec(),
        };
        Ok(vec![one("user.first", b""), one("user.second", &[7; 100])])
    }

    /// Three entries that no folder may have stand around the good one.
    fn list(
        &self,
        _directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let attributes = self.attributes_of(FileId(self.file))?;
        let entries = ["a/b", "odd", "", "nul\0"].iter().zip(3..);
        let entries = entries.filter(|(_, at)| *at > cookie).take(limit);
        let entry = |(name, at): (&&str, u64)| DirectoryEntry {
            file: attributes.file,
            name: name.as_bytes().to_vec(),
            cookie: at,
            attributes,
        };
        Ok(entries.map(entry).collect())
    }
}
