//! Inodes.

use ::bytes::Bytes;
use export::{FileKind, SpecialFile};

use super::{Superblock, Xfs, checksum};
use crate::bytes::{View, to_usize};
use crate::shown::Moment;
use crate::{GuestError, Place};

/// What is known of a file, folder or other object.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub number: u64,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub size_bytes: u64,
    pub used_blocks: u64,
    flags: u16,
    pub accessed: Moment,
    pub modified: Moment,
    pub changed: Moment,
    pub created: Option<Moment>,
    data_format: u8,
    extents: u64,
    attribute_format: u8,
    attribute_extents: u64,
    /// Where the attributes begin behind the core, 0 if there are none.
    fork_offset: usize,
    /// All of it as stored.
    raw: Bytes,
    core_bytes: usize,
}

/// One of the two things that an inode leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork<'a> {
    pub inode: &'a Inode,
    pub format: u8,
    pub extents: u64,
    pub area: &'a [u8],
    pub which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Content,
    Attributes,
}

impl Xfs {
    /// An inode that is in use.
    pub(super) fn inode(&self, number: u64) -> Result<Inode, GuestError> {
        let at = self
            .superblock
            .inode_place(number)
            .ok_or(GuestError::NotFound)?;
        let (window, start) = self.device.window(at)?;
        let length = self.superblock.inode_bytes as usize;
        // Where the window ends with the volume, so do whole blocks.
        if window.len() - start < length {
            return Err(GuestError::NotFound);
        }
        let raw = window.slice(start..start + length);
        let proven = !self.device.overlay().touches(at, length);
        let inode = Inode::decode(number, raw, &self.superblock, proven)?;
        if inode.mode == 0 || inode.links == 0 {
            return Err(GuestError::NotFound);
        }
        Ok(inode)
    }
}

impl Inode {
    fn decode(
        number: u64,
        raw: Bytes,
        superblock: &Superblock,
        is_proven: bool,
    ) -> Result<Self, GuestError> {
        let view = View::new(&raw, Place::Inode(number));
        if view.slice(0, 2)? != MAGIC {
            return Err(view.corrupt("the magic number is missing"));
        }
        let version = view.u8(4)?;
        let core_bytes = if superblock.is_v5() {
            if is_proven && !checksum::is_right(view, 100)? {
                return Err(view.corrupt("the checksum is wrong"));
            }
            if version != 3
                || view.big64(152)? != number
                || view.slice(160, 16)? != superblock.meta_uuid
            {
                return Err(view.corrupt("it is another one"));
            }
            CORE_BYTES_3
        } else {
            if !matches!(version, 1 | 2) {
                return Err(view.corrupt("its version is unknown"));
            }
            CORE_BYTES
        };
        let flags2 = if version == 3 { view.big64(120)? } else { 0 };
        let moment = |at| moment(view, at, flags2 & flag2::BIG_TIMES != 0);
        let created = (version == 3).then(|| moment(144)).transpose()?;
        let (extents, attribute_extents) = if flags2 & flag2::BIG_COUNTS != 0 {
            (view.big64(24)?, u64::from(view.big32(76)?))
        } else {
            (u64::from(view.big32(76)?), u64::from(view.big16(80)?))
        };
        let links = match version {
            1 => u32::from(view.big16(6)?),
            _ => view.big32(16)?,
        };
        let inode = Self {
            number,
            mode: view.big16(2)?,
            uid: view.big32(8)?,
            gid: view.big32(12)?,
            links,
            size_bytes: view.big64(56)?,
            used_blocks: view.big64(64)?,
            flags: view.big16(90)?,
            accessed: moment(32)?,
            modified: moment(40)?,
            changed: moment(48)?,
            created,
            data_format: view.u8(5)?,
            extents,
            attribute_format: view.u8(83)?,
            attribute_extents,
            fork_offset: usize::from(view.u8(82)?) * 8,
            core_bytes,
            raw: raw.clone(),
        };
        inode.check()?;
        Ok(inode)
    }

    fn check(&self) -> Result<(), GuestError> {
        let known = matches!(
            (self.mode & TYPE, self.data_format),
            (REGULAR, format::EXTENTS | format::TREE)
                | (
                    FOLDER | SYMLINK,
                    format::LOCAL | format::EXTENTS | format::TREE
                )
                | (0x1000 | 0x2000 | 0x6000 | 0xC000, format::DEVICE)
        );
        let detail = if self.mode == 0 {
            return Ok(());
        } else if !known {
            "its type and format contradict each other"
        } else if self.size_bytes > i64::MAX.unsigned_abs() {
            "its size is out of bounds"
        } else if self.fork_offset > self.raw.len() - self.core_bytes {
            "its attributes begin behind its end"
        } else {
            return Ok(());
        };
        Err(GuestError::corrupt(self.place(), detail))
    }

    pub(super) fn place(&self) -> Place {
        Place::Inode(self.number)
    }

    /// What leads to the content, or is it.
    pub(super) fn content(&self) -> Fork<'_> {
        let end = match self.fork_offset {
            0 => self.raw.len(),
            offset => self.core_bytes + offset,
        };
        Fork {
            inode: self,
            format: self.data_format,
            extents: self.extents,
            area: self.raw.get(self.core_bytes..end).unwrap_or_default(),
            which: Which::Content,
        }
    }

    /// What leads to the extended attributes, or is them.
    pub(super) fn attributes(&self) -> Option<Fork<'_>> {
        let start = self.core_bytes + self.fork_offset;
        (self.fork_offset > 0).then(|| Fork {
            inode: self,
            format: self.attribute_format,
            extents: self.attribute_extents,
            area: self.raw.get(start..).unwrap_or_default(),
            which: Which::Attributes,
        })
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

    /// Whether its content lies on the realtime device.
    pub(super) fn is_realtime(&self) -> bool {
        self.is_regular() && self.flags & REALTIME != 0
    }

    /// What a special file is.
    pub(super) fn special(&self) -> Result<Option<SpecialFile>, GuestError> {
        let device = || -> Result<(u32, u32), GuestError> {
            let number = View::new(self.content().area, self.place()).big32(0)?;
            Ok((number >> 18, number & 0x3_FFFF))
        };
        let special = match self.mode & TYPE {
            0x1000 => SpecialFile::Fifo,
            0x2000 => {
                let (major, minor) = device()?;
                SpecialFile::CharacterDevice { major, minor }
            }
            0x6000 => {
                let (major, minor) = device()?;
                SpecialFile::BlockDevice { major, minor }
            }
            0xC000 => SpecialFile::Socket,
            _ => return Ok(None),
        };
        Ok(Some(special))
    }
}

impl<'a> Fork<'a> {
    pub(super) fn is_local(&self) -> bool {
        self.format == format::LOCAL
    }

    /// The first `length` bytes of what lies in the inode itself.
    pub(super) fn local(&self, length: u64) -> Result<&'a [u8], GuestError> {
        let length = to_usize(length.min(self.inode.raw.len() as u64 + 1));
        self.area.get(..length).ok_or(GuestError::corrupt(
            self.inode.place(),
            "what lies in it is longer than it",
        ))
    }
}

fn moment(view: View<'_>, at: usize, is_big: bool) -> Result<Moment, GuestError> {
    if is_big {
        let since = view.big64(at)?;
        let seconds = i64::try_from(since / 1_000_000_000).expect("it is a small part of 64 bits");
        return Ok(Moment {
            seconds: seconds + i64::from(i32::MIN),
            nanoseconds: u32::try_from(since % 1_000_000_000).expect("it is below 2^30"),
        });
    }
    Ok(Moment {
        seconds: i64::from(i32::from_be_bytes(view.array(at)?)),
        nanoseconds: view.big32(at + 4)?.min(999_999_999),
    })
}

pub(super) const MAGIC: &[u8] = b"IN";
pub(super) const CORE_BYTES: usize = 100;
pub(super) const CORE_BYTES_3: usize = 176;
const TYPE: u16 = 0xF000;
const REGULAR: u16 = 0x8000;
const FOLDER: u16 = 0x4000;
const SYMLINK: u16 = 0xA000;
const REALTIME: u16 = 1;

pub(super) mod format {
    pub(crate) const DEVICE: u8 = 0;
    pub(crate) const LOCAL: u8 = 1;
    pub(crate) const EXTENTS: u8 = 2;
    pub(crate) const TREE: u8 = 3;
}

pub(super) mod flag2 {
    pub(crate) const BIG_TIMES: u64 = 0x8;
    pub(crate) const BIG_COUNTS: u64 = 0x10;
}
