//! All that can be said of a tree, to compare two.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use export::{FileExport, FileId, FileKind, SpecialFile, Timestamp};
use rustix::fs::{AtFlags, CWD, StatxFlags, StatxTimestamp, lgetxattr, llistxattr, statx};

pub(crate) type Manifest = BTreeMap<Vec<u8>, Object>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub kind: FileKind,
    pub special: Option<SpecialFile>,
    pub mode: u32,
    pub links: u32,
    pub owner: (u32, u32),
    pub size_bytes: u64,
    pub modified: (u64, u32),
    /// Last read, last change, making.
    pub other_times: [Option<(u64, u32)>; 3],
    pub used_bytes: u64,
    pub target: Vec<u8>,
    /// A hash of the content.
    pub content: u64,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Says where two trees differ.
pub(crate) fn compare(found: &Manifest, expected: &Manifest, what: &str) {
    let mut faults = Vec::new();
    for (path, object) in expected {
        let name = String::from_utf8_lossy(path);
        match found.get(path) {
            None => faults.push(format!("{name} is missing")),
            Some(other) if other != object => {
                faults.push(format!("{name}\n  is {other:?}\n  not {object:?}"));
            }
            Some(_) => {}
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        faults.push(format!("{} is too many", String::from_utf8_lossy(path)));
    }
    faults.truncate(10);
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
    assert!(expected.len() > 3, "{what}: there was something to compare");
}

/// The tree as an export shows it.
pub(crate) fn of_tree(tree: &dyn FileExport) -> Manifest {
    let mut manifest = Manifest::new();
    let mut waiting = vec![(Vec::new(), tree.root())];
    while let Some((path, folder)) = waiting.pop() {
        let mut cookie = 0;
        loop {
            let entries = tree.list(folder, cookie, 100).unwrap();
            for entry in &entries {
                let path = [&path[..], b"/", &entry.name].concat();
                if path == b"/lost+found" {
                    continue;
                }
                let object = of_object(tree, entry.file);
                if object.kind == FileKind::Directory {
                    assert_eq!(tree.lookup(entry.file, b"..").unwrap(), folder);
                    waiting.push((path.clone(), entry.file));
                }
                assert_eq!(tree.attributes(entry.file).unwrap(), entry.attributes);
                assert!(manifest.insert(path, object).is_none(), "each name once");
            }
            match entries.last() {
                Some(last) if entries.len() == 100 => cookie = last.cookie,
                _ => break,
            }
        }
    }
    manifest
}

fn of_object(tree: &dyn FileExport, file: FileId) -> Object {
    let attributes = tree.attributes(file).unwrap();
    let carried = tree.extended_attributes(file).unwrap();
    Object {
        kind: attributes.kind,
        special: tree.particulars(file).unwrap().special,
        mode: attributes.mode,
        links: attributes.links,
        owner: (attributes.uid, attributes.gid),
        size_bytes: match attributes.kind {
            FileKind::Directory => 0,
            _ => attributes.size_bytes,
        },
        modified: time(attributes.modified),
        other_times: [
            Some(time(attributes.accessed)),
            Some(time(attributes.changed)),
            tree.particulars(file).unwrap().created.map(time),
        ],
        used_bytes: attributes.used_bytes,
        target: match attributes.kind {
            FileKind::Symlink => tree.read_symlink(file).unwrap(),
            _ => Vec::new(),
        },
        content: match attributes.kind {
            FileKind::File => hash(&read_all(tree, file)),
            _ => 0,
        },
        attributes: carried
            .into_iter()
            .map(|carried| (carried.name, carried.value))
            .collect(),
    }
}

fn time(time: Timestamp) -> (u64, u32) {
    (time.seconds, time.nanoseconds)
}

/// Reads a file in steps that fit no block.
pub(crate) fn read_all(tree: &dyn FileExport, file: FileId) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let read = tree.read(file, content.len() as u64, 777_777).unwrap();
        content.extend(read.data.to_vec());
        if read.end {
            return content;
        }
        assert_eq!(read.data.len(), 777_777, "short only at the end");
    }
}

/// The tree as the kernel shows it.
pub(crate) fn of_folder(root: &Path) -> Manifest {
    let mut manifest = Manifest::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            let name = [b"/", name].concat();
            if name == b"/lost+found" {
                continue;
            }
            let object = of_path(&path);
            if object.kind == FileKind::Directory {
                waiting.push(path);
            }
            manifest.insert(name, object);
        }
    }
    manifest
}

fn of_path(path: &Path) -> Object {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let major = rustix::fs::major(metadata.rdev());
    let minor = rustix::fs::minor(metadata.rdev());
    Object {
        kind: if kind.is_dir() {
            FileKind::Directory
        } else if kind.is_symlink() {
            FileKind::Symlink
        } else {
            FileKind::File
        },
        special: match () {
            () if kind.is_fifo() => Some(SpecialFile::Fifo),
            () if kind.is_socket() => Some(SpecialFile::Socket),
            () if kind.is_char_device() => Some(SpecialFile::CharacterDevice { major, minor }),
            () if kind.is_block_device() => Some(SpecialFile::BlockDevice { major, minor }),
            () => None,
        },
        mode: metadata.mode() & 0o7777,
        links: u32::try_from(metadata.nlink()).unwrap(),
        owner: (metadata.uid(), metadata.gid()),
        size_bytes: if kind.is_dir() { 0 } else { metadata.len() },
        modified: (
            u64::try_from(metadata.mtime()).unwrap_or(0),
            u32::try_from(metadata.mtime_nsec()).unwrap(),
        ),
        other_times: other_times(path),
        used_bytes: metadata.blocks() * 512,
        target: match kind.is_symlink() {
            true => fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec(),
            false => Vec::new(),
        },
        content: if kind.is_file() {
            hash(&fs::read(path).unwrap())
        } else if kind.is_dir() || kind.is_symlink() {
            0
        } else {
            hash(&[])
        },
        attributes: attributes_of(path),
    }
}

fn other_times(path: &Path) -> [Option<(u64, u32)>; 3] {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let known = statx(CWD, path, flags, wanted).unwrap();
    let time = |at: StatxTimestamp| Some((u64::try_from(at.tv_sec).unwrap_or(0), at.tv_nsec));
    let has_birth = known.stx_mask & StatxFlags::BTIME.bits() != 0;
    [
        time(known.stx_atime),
        time(known.stx_ctime),
        if has_birth {
            time(known.stx_btime)
        } else {
            None
        },
    ]
}

fn attributes_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0);
    let read = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let length = lgetxattr(path, name, &mut value).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.filter(|name| !name.is_empty()).map(read).collect()
}

pub(crate) fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
