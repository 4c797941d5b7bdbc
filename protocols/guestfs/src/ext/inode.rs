//! Inodes.

use ::bytes::Bytes;
use export::{FileKind, SpecialFile};

use super::checksum::crc32c;
use super::group::StoredChecksum;
use super::superblock::{incompat, ro_compat};
use super::{Ext, Superblock};
use crate::bytes::{View, to_usize};
use crate::shown::Moment;
use crate::{GuestError, Place};

/// What is known of a file, folder or other object.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub number: u32,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u16,
    pub size_bytes: u64,
    pub used_bytes: u64,
    pub flags: u32,
    pub accessed: Moment,
    pub changed: Moment,
    pub modified: Moment,
    pub created: Option<Moment>,
    /// The block of extended attributes; 0 for none.
    pub attribute_block: u64,
    /// All of it as stored.
    raw: Bytes,
    /// Where its own part ends and extended attributes may begin.
    own_bytes: usize,
    /// Where the checksums of what belongs to it begin.
    pub seed: u32,
}

/// Whether an inode is one that a name may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A file, folder and so on.
    Named,
    /// The filesystem's own.
    Internal,
}

impl Ext {
    /// An inode that is in use.
    pub(super) fn inode(&self, number: u32, purpose: Purpose) -> Result<Inode, GuestError> {
        let superblock = &self.superblock;
        let named = number == ROOT || number >= superblock.first_inode;
        if number == 0 || number > superblock.inodes || (purpose == Purpose::Named && !named) {
            return Err(GuestError::NotFound);
        }
        let index = number - 1;
        let group = u64::from(index / superblock.inodes_per_group);
        let table = self.group(group)?.inode_table;
        let at = u64::from(index % superblock.inodes_per_group) * u64::from(superblock.inode_bytes);
        let block_bytes = u64::from(superblock.block_bytes);
        let block = table.checked_add(at / block_bytes).ok_or_else(|| {
            GuestError::corrupt(Place::Group(group), "its table of inodes is out of bounds")
        })?;
        let block = self.blocks.block(block, Place::Group(group))?;
        let start = to_usize(at % block_bytes);
        let raw = block.slice(start..start + superblock.inode_bytes as usize);
        let inode = Inode::decode(number, raw, superblock)?;
        if inode.links == 0 || inode.mode == 0 {
            return Err(GuestError::NotFound);
        }
        if purpose == Purpose::Named && inode.flags & flag::ATTRIBUTE_VALUE != 0 {
            return Err(GuestError::NotFound);
        }
        Ok(inode)
    }
}

impl Inode {
    fn decode(number: u32, raw: Bytes, superblock: &Superblock) -> Result<Self, GuestError> {
        let view = View::new(&raw, Place::Inode(u64::from(number)));
        let extra = if view.len() > 128 {
            usize::from(view.u16(0x80)?)
        } else {
            0
        };
        // An inode that was never used is all zero and has no checksum.
        if view.u16(0)? == 0 && view.u16(0x1A)? == 0 {
            return Err(GuestError::NotFound);
        }
        if extra > view.len() - 128 || !extra.is_multiple_of(4) {
            return Err(view.corrupt("its own part is longer than the whole"));
        }
        let own_bytes = 128 + extra;
        let seed = crc32c(superblock.seed, &number.to_le_bytes());
        let seed = crc32c(seed, view.slice(0x64, 4)?);
        if superblock.has_metadata_checksums() {
            prove(view, own_bytes, seed)?;
        }
        let moment = |at: usize, extra_at: usize| -> Result<Moment, GuestError> {
            let extra = if own_bytes >= extra_at + 4 {
                view.u32(extra_at)?
            } else {
                0
            };
            let seconds = i64::from(i32::from_le_bytes(view.array(at)?));
            Ok(Moment {
                seconds: seconds + (i64::from(extra & 3) << 32),
                nanoseconds: (extra >> 2).min(999_999_999),
            })
        };
        let mode = view.u16(0)?;
        let flags = view.u32(0x20)?;
        let created = (own_bytes >= 0x94)
            .then(|| moment(0x90, 0x94))
            .transpose()?;
        let has_high_size = mode & TYPE == REGULAR || superblock.has(incompat::LARGE_FOLDERS);
        let high_attribute_block = match superblock.has(incompat::SIXTY_FOUR_BIT) {
            true => u64::from(view.u16(0x76)?) << 32,
            false => 0,
        };
        Ok(Self {
            number,
            mode,
            uid: u32::from(view.u16(2)?) | u32::from(view.u16(0x78)?) << 16,
            gid: u32::from(view.u16(0x18)?) | u32::from(view.u16(0x7A)?) << 16,
            links: view.u16(0x1A)?,
            size_bytes: view.split(4, has_high_size.then_some(0x6C))?,
            used_bytes: used_bytes(view, flags, superblock)?,
            flags,
            accessed: moment(0x8, 0x8C)?,
            changed: moment(0xC, 0x84)?,
            modified: moment(0x10, 0x88)?,
            created,
            attribute_block: u64::from(view.u32(0x68)?) | high_attribute_block,
            own_bytes,
            seed,
            raw,
        })
    }

    pub(super) fn place(&self) -> Place {
        Place::Inode(u64::from(self.number))
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The sixty bytes that lead to the content, or are it.
    pub(super) fn block_area(&self) -> &[u8] {
        self.raw.get(0x28..0x28 + 60).unwrap_or_default()
    }

    /// Where extended attributes may be in the inode.
    pub(super) fn attribute_area(&self) -> &[u8] {
        self.raw.get(self.own_bytes..).unwrap_or_default()
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

    /// What a special file is.
    pub(super) fn special(&self) -> Result<Option<SpecialFile>, GuestError> {
        let (major, minor) = self.device()?;
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

    fn device(&self) -> Result<(u32, u32), GuestError> {
        let area = View::new(self.block_area(), self.place());
        let (old, new) = (area.u32(0)?, area.u32(4)?);
        Ok(if old != 0 {
            (old >> 8 & 0xFF, old & 0xFF)
        } else {
            (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xF_FF00)
        })
    }
}

/// Checks the checksum over the whole inode, in which its own fields count as zero.
fn prove(view: View<'_>, own_bytes: usize, seed: u32) -> Result<(), GuestError> {
    let has_high = own_bytes >= 0x84;
    let mut bytes = view.all().to_vec();
    for (at, there) in [(0x7C, true), (0x82, has_high)] {
        if there && let Some(field) = bytes.get_mut(at..at + 2) {
            field.fill(0);
        }
    }
    let high = has_high.then(|| view.u16(0x82)).transpose()?;
    if StoredChecksum::new(view.u16(0x7C)?, high).is(crc32c(seed, &bytes)) {
        Ok(())
    } else {
        Err(view.corrupt("the checksum is wrong"))
    }
}

fn used_bytes(view: View<'_>, flags: u32, superblock: &Superblock) -> Result<u64, GuestError> {
    let low = u64::from(view.u32(0x1C)?);
    if superblock.read_only & ro_compat::HUGE_FILES == 0 {
        return Ok(low * 512);
    }
    let units = low | u64::from(view.u16(0x74)?) << 32;
    let unit = if flags & flag::HUGE == 0 {
        512
    } else {
        u64::from(superblock.block_bytes)
    };
    Ok(units.saturating_mul(unit))
}

pub(super) const ROOT: u32 = 2;
const TYPE: u16 = 0xF000;
const REGULAR: u16 = 0x8000;
const FOLDER: u16 = 0x4000;
const SYMLINK: u16 = 0xA000;

pub(super) mod flag {
    pub(crate) const ENCRYPTED: u32 = 0x800;
    pub(crate) const INDEXED: u32 = 0x1000;
    pub(crate) const HUGE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const ATTRIBUTE_VALUE: u32 = 0x20_0000;
    pub(crate) const INLINE: u32 = 0x1000_0000;
}
