//! Trees of a guest: devices, pipes, and names that lead to something damaged.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use export::{
    Attributes, DirectoryEntry, ExportError, FileExport, FileId, FileKind, FileRead, Particulars,
    Segments, SpecialFile, Statistics, Timestamp,
};
use fuse::MountOptions;

use crate::support::{Mounted, can_mount, errno, names};

/// What lies in the root, by the number of the file. The fourth is damaged.
const NAMES: [&str; 4] = ["device", "pipe", "plain", "lost"];

struct Guest;

fn attributes(file: u64, kind: FileKind, mode: u32) -> Attributes {
    Attributes {
        file: FileId(file),
        kind,
        mode,
        links: 1,
        uid: 0,
        gid: 0,
        size_bytes: 0,
        used_bytes: 0,
        accessed: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
    }
}

impl FileExport for Guest {
    fn root(&self) -> FileId {
        FileId(1)
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        Err(ExportError::NotSupported)
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        match file.0 {
            1 => Ok(attributes(1, FileKind::Directory, 0o755)),
            10..13 => Ok(attributes(file.0, FileKind::File, 0o644)),
            _ => Err(ExportError::Corrupt {
                detail: "an inode".into(),
            }),
        }
    }

    /// The root does not say in which folder it lies.
    fn lookup(&self, _: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let at = (10..).zip(NAMES).find(|(_, one)| one.as_bytes() == name);
        at.map(|(file, _)| FileId(file))
            .ok_or(ExportError::NotFound)
    }

    fn read(&self, file: FileId, _: u64, _: u32) -> Result<FileRead, ExportError> {
        self.attributes(file).map(|_| FileRead {
            data: Segments::new(),
            end: true,
            attributes: None,
        })
    }

    fn list(
        &self,
        _: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let entry = |(file, name): (u64, &str)| DirectoryEntry {
            file: FileId(file),
            name: name.as_bytes().to_vec(),
            cookie: file,
            attributes: attributes(file, FileKind::File, if file < 13 { 0o644 } else { 0 }),
        };
        let after = (10..).zip(NAMES).filter(|(file, _)| *file > cookie);
        Ok(after.take(limit).map(entry).collect())
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        self.attributes(file)?;
        let special = match file.0 {
            10 => Some(SpecialFile::BlockDevice {
                major: 259,
                minor: 1_000,
            }),
            11 => Some(SpecialFile::Fifo),
            _ => None,
        };
        Ok(Particulars {
            special,
            created: None,
        })
    }
}

#[test]
fn what_is_damaged_is_no_empty_file_and_a_device_is_one() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::start(Arc::new(Guest), &MountOptions::default());
    for _ in 0..2 {
        // Listed with attributes, so that the kernel has been told something of each.
        let mut found = names(mounted.path());
        found.sort_unstable();
        assert_eq!(found, ["device", "lost", "pipe", "plain"]);
        assert_eq!(errno(fs::metadata(mounted.at("lost"))), 5);
        assert_eq!(errno(fs::read(mounted.at("lost"))), 5);
        let device = fs::metadata(mounted.at("device")).unwrap();
        assert!(device.file_type().is_block_device());
        assert_eq!(device.rdev(), rustix::fs::makedev(259, 1_000));
        let pipe = fs::metadata(mounted.at("pipe")).unwrap();
        assert!(pipe.file_type().is_fifo());
        assert!(fs::metadata(mounted.at("plain")).unwrap().is_file());
    }
}
