//! A mounted filesystem as a tree.
//!
//! Objects are named by their inode numbers; where they lie is known of those that were listed or looked up.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileKind,
    FileRead, Particulars, Segments, SpecialFile, Statistics, Timestamp,
};
use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp, lgetxattr, llistxattr,
    open, readlink, statvfs, statx,
};
use rustix::io::Errno;

use super::places::Places;

/// The tree of a folder on which something is mounted.
pub(super) struct FolderTree {
    places: Places,
    /// The names of the folder that was listed last.
    listed: Mutex<Option<(FileId, Names)>>,
}

type Names = Arc<[Vec<u8>]>;

impl FolderTree {
    pub(super) fn open(top: PathBuf) -> Result<Self, ExportError> {
        let root = FileId(look(&top)?.stx_ino);
        Ok(Self {
            places: Places::new(top, root),
            listed: Mutex::default(),
        })
    }

    fn path(&self, file: FileId) -> Result<PathBuf, ExportError> {
        self.places.path(file)
    }

    fn names(&self, directory: FileId) -> Result<Names, ExportError> {
        if let Some((listed, names)) = &*self.listed.lock()
            && *listed == directory
        {
            return Ok(Arc::clone(names));
        }
        let path = self.path(directory)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = open(path, flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        let names: Names = names.into();
        *self.listed.lock() = Some((directory, Arc::clone(&names)));
        Ok(names)
    }

    fn entry(
        &self,
        directory: FileId,
        folder: &Path,
        name: &[u8],
        cookie: u64,
    ) -> Result<DirectoryEntry, ExportError> {
        let known = look(&folder.join(OsStr::from_bytes(name)))?;
        let attributes = attributes(&known);
        let is_folder = attributes.kind == FileKind::Directory;
        self.places
            .note(attributes.file, is_folder, directory, name)?;
        Ok(DirectoryEntry {
            file: attributes.file,
            name: name.to_vec(),
            cookie,
            attributes,
        })
    }
}

impl FileExport for FolderTree {
    fn root(&self) -> FileId {
        self.places.root()
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let known = statvfs(self.places.top()).map_err(failed)?;
        Ok(Statistics {
            total_bytes: known.f_blocks.saturating_mul(known.f_frsize),
            free_bytes: known.f_bfree.saturating_mul(known.f_frsize),
            available_bytes: 0,
            total_files: known.f_files,
            free_files: known.f_ffree,
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(attributes(&look(&self.path(file)?)?))
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        match name {
            b"." => return Ok(directory),
            b".." => return self.places.above(directory),
            _ if name.contains(&b'/') => return Err(ExportError::NotFound),
            _ => {}
        }
        let folder = self.path(directory)?;
        Ok(self.entry(directory, &folder, name, 0)?.file)
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let path = self.path(file)?;
        match FileType::from_raw_mode(look(&path)?.stx_mode.into()) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(ExportError::IsDirectory),
            FileType::Symlink => return Err(ExportError::Invalid),
            _ => {
                return Ok(FileRead {
                    data: Segments::new(),
                    end: true,
                    attributes: None,
                });
            }
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let content = File::from(open(path, flags, Mode::empty()).map_err(failed)?);
        let mut data = vec![0; length as usize];
        let mut filled = 0;
        let mut end = false;
        while filled < data.len() && !end {
            let room = data.get_mut(filled..).unwrap_or_default();
            let at = offset.saturating_add(filled as u64);
            let count = content
                .read_at(room, at)
                .map_err(|error| read_failed(&error))?;
            filled += count;
            end = count == 0;
        }
        data.truncate(filled);
        let size = content
            .metadata()
            .map_err(|error| read_failed(&error))?
            .len();
        Ok(FileRead {
            data: Bytes::from(data).into(),
            end: end || offset.saturating_add(filled as u64) >= size,
            attributes: None,
        })
    }

    /// A name is in the place that it has in the folder, which nobody changes.
    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let folder = self.path(directory)?;
        let names = self.names(directory)?;
        let after = usize::try_from(cookie.saturating_sub(COOKIES_BEFORE)).unwrap_or(usize::MAX);
        let names = (COOKIES_BEFORE + 1..).zip(names.iter()).skip(after);
        let entry = |(cookie, name): (u64, &Vec<u8>)| match self
            .entry(directory, &folder, name, cookie)
        {
            Err(ExportError::Corrupt { .. } | ExportError::NotFound) => Ok(damaged(name, cookie)),
            other => other,
        };
        names.take(limit).map(entry).collect()
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        let target = readlink(self.path(file)?, Vec::new()).map_err(failed)?;
        Ok(target.into_bytes())
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        let path = self.path(file)?;
        let mut names = vec![0; ATTRIBUTE_BYTES_MAX];
        let length = match llistxattr(&path, &mut names) {
            Err(Errno::NOTSUP) => 0,
            other => other.map_err(failed)?,
        };
        names.truncate(length);
        let names = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        let attribute = |name: &[u8]| {
            let mut value = vec![0; ATTRIBUTE_BYTES_MAX];
            let length = lgetxattr(&path, name, &mut value).map_err(failed)?;
            value.truncate(length);
            let name = name.to_vec();
            Ok(ExtendedAttribute { name, value })
        };
        names.map(attribute).collect()
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        let known = look(&self.path(file)?)?;
        let (major, minor) = (known.stx_rdev_major, known.stx_rdev_minor);
        let has_birth = known.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Particulars {
            special: match FileType::from_raw_mode(known.stx_mode.into()) {
                FileType::CharacterDevice => Some(SpecialFile::CharacterDevice { major, minor }),
                FileType::BlockDevice => Some(SpecialFile::BlockDevice { major, minor }),
                FileType::Fifo => Some(SpecialFile::Fifo),
                FileType::Socket => Some(SpecialFile::Socket),
                _ => None,
            },
            created: has_birth.then(|| time(known.stx_btime)),
        })
    }
}

fn look(path: &Path) -> Result<Statx, ExportError> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted).map_err(failed)
}

fn attributes(known: &Statx) -> Attributes {
    let kind = match FileType::from_raw_mode(known.stx_mode.into()) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::File,
    };
    Attributes {
        file: FileId(known.stx_ino),
        kind,
        mode: u32::from(known.stx_mode) & 0o7777,
        links: known.stx_nlink,
        uid: known.stx_uid,
        gid: known.stx_gid,
        size_bytes: known.stx_size,
        used_bytes: known.stx_blocks.saturating_mul(512),
        accessed: time(known.stx_atime),
        modified: time(known.stx_mtime),
        changed: time(known.stx_ctime),
    }
}

fn damaged(name: &[u8], cookie: u64) -> DirectoryEntry {
    let file = FileId(u64::MAX >> 16);
    let never = Timestamp::default();
    DirectoryEntry {
        file,
        name: name.to_vec(),
        cookie,
        attributes: Attributes {
            file,
            kind: FileKind::File,
            mode: 0,
            links: 1,
            uid: 0,
            gid: 0,
            size_bytes: 0,
            used_bytes: 0,
            accessed: never,
            modified: never,
            changed: never,
        },
    }
}

fn time(time: StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: u64::try_from(time.tv_sec).unwrap_or(0),
        nanoseconds: time.tv_nsec,
    }
}

fn failed(error: Errno) -> ExportError {
    match error {
        Errno::NOENT => ExportError::NotFound,
        Errno::NOTDIR => ExportError::NotDirectory,
        Errno::ISDIR => ExportError::IsDirectory,
        Errno::NAMETOOLONG => ExportError::NameTooLong,
        Errno::INVAL => ExportError::Invalid,
        Errno::NOKEY => ExportError::Encrypted,
        Errno::NOTSUP => ExportError::NotSupported,
        other => ExportError::Corrupt {
            detail: format!("the kernel of the small machine says: {other}").into(),
        },
    }
}

fn read_failed(error: &std::io::Error) -> ExportError {
    match error.raw_os_error() {
        Some(number) => failed(Errno::from_raw_os_error(number)),
        None => ExportError::Corrupt {
            detail: error.to_string().into(),
        },
    }
}

/// Cookies 0, 1 and 2 belong to the servers.
const COOKIES_BEFORE: u64 = 2;
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
