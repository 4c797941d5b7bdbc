//! Inodes.

use export::{FileKind, SpecialFile};

use super::Btrfs;
use super::key::{Key, kind, object};
use crate::bytes::View;
use crate::shown::Moment;
use crate::{GuestError, Place};

/// What is known of a file, folder or other object.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    /// The place of its subvolume among all.
    pub subvolume: usize,
    pub number: u64,
    pub size_bytes: u64,
    pub stored_bytes: u64,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    device: u64,
    flags: u64,
    pub accessed: Moment,
    pub changed: Moment,
    pub modified: Moment,
    pub created: Moment,
}

impl Btrfs {
    /// An inode that a name leads to.
    pub(super) fn inode(&self, subvolume: usize, number: u64) -> Result<Inode, GuestError> {
        if !(object::FIRST..=object::LAST).contains(&number) {
            return Err(GuestError::NotFound);
        }
        let items = &self.subvolume(subvolume)?.items;
        let item = items
            .get(&self.nodes, Key::new(number, kind::INODE, 0))?
            .ok_or(GuestError::NotFound)?;
        let inode = Inode::decode(subvolume, number, &item)?;
        if inode.links == 0 {
            return Err(GuestError::NotFound);
        }
        Ok(inode)
    }
}

impl Inode {
    pub(super) fn decode(subvolume: usize, number: u64, item: &[u8]) -> Result<Self, GuestError> {
        let view = View::new(item, Place::Inode(number));
        let moment = |at: usize| -> Result<Moment, GuestError> {
            Ok(Moment {
                seconds: i64::from_le_bytes(view.array(at)?),
                nanoseconds: view.u32(at + 8)?.min(999_999_999),
            })
        };
        let inode = Self {
            subvolume,
            number,
            size_bytes: view.u64(at::SIZE)?,
            stored_bytes: view.u64(at::STORED)?,
            links: view.u32(at::LINKS)?,
            uid: view.u32(44)?,
            gid: view.u32(48)?,
            mode: view.u32(at::MODE)?,
            device: view.u64(56)?,
            flags: view.u64(64)?,
            accessed: moment(112)?,
            changed: moment(124)?,
            modified: moment(136)?,
            created: moment(148)?,
        };
        if inode.size_bytes > SIZE_MAX {
            return Err(view.corrupt("its size is out of bounds"));
        }
        Ok(inode)
    }

    /// The folder without anything in it that this one shows where another subvolume was.
    pub(super) fn as_empty_folder(&self) -> Self {
        Self {
            size_bytes: 0,
            stored_bytes: 0,
            links: 1,
            mode: FOLDER | 0o755,
            ..self.clone()
        }
    }

    pub(super) fn place(&self) -> Place {
        Place::Inode(self.number)
    }

    /// What it is; special files are files without content.
    pub(super) fn kind(&self) -> FileKind {
        match self.mode & TYPE {
            FOLDER => FileKind::Directory,
            SYMLINK => FileKind::Symlink,
            _ => FileKind::File,
        }
    }

    pub(super) fn is_regular(&self) -> bool {
        self.mode & TYPE == REGULAR
    }

    /// Whether its content has checksums.
    pub(super) fn has_checksums(&self) -> bool {
        self.flags & WITHOUT_CHECKSUMS == 0
    }

    /// What a special file is.
    pub(super) fn special(&self) -> Result<Option<SpecialFile>, GuestError> {
        let half = |bits: u64| u32::try_from(bits).expect("it was cut to 32 bits");
        let major = half(self.device >> 20 & 0xFFF);
        let minor = half(self.device & 0xF_FFFF);
        let special = match self.mode & TYPE {
            0x1000 => SpecialFile::Fifo,
            0x2000 => SpecialFile::CharacterDevice { major, minor },
            0x6000 => SpecialFile::BlockDevice { major, minor },
            0xC000 => SpecialFile::Socket,
            REGULAR | FOLDER | SYMLINK => return Ok(None),
            _ => return Err(GuestError::corrupt(self.place(), "its type is unknown")),
        };
        Ok(Some(special))
    }
}

/// Where fields lie that a replay of the log changes.
pub(super) mod at {
    pub(crate) const GENERATION: usize = 0;
    pub(crate) const SIZE: usize = 16;
    pub(crate) const STORED: usize = 24;
    pub(crate) const LINKS: usize = 40;
    pub(crate) const MODE: usize = 52;
}

pub(super) const TYPE: u32 = 0xF000;
pub(super) const REGULAR: u32 = 0x8000;
pub(super) const FOLDER: u32 = 0x4000;
const SYMLINK: u32 = 0xA000;
const WITHOUT_CHECKSUMS: u64 = 1;
/// The largest that Linux has.
const SIZE_MAX: u64 = u64::MAX >> 1;
