//! The superblock: what kind of XFS it is, and where things lie.

use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// What is needed of the superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub block_bytes: u32,
    pub blocks: u64,
    pub realtime_blocks: u64,
    pub uuid: [u8; 16],
    /// What the filesystem's structures are marked with; the uuid itself may have been changed since.
    pub meta_uuid: [u8; 16],
    /// The first block of the log; 0 if that is on another device.
    pub log_start: u64,
    pub log_blocks: u32,
    pub root_inode: u64,
    pub group_blocks: u32,
    pub groups: u32,
    pub sector_bytes: u32,
    pub inode_bytes: u32,
    pub inodes: u64,
    pub free_inodes: u64,
    pub free_blocks: u64,
    pub inode_alignment_blocks: u32,
    /// A block of a folder, as a power of two of blocks.
    pub folder_block_log: u32,
    version: u16,
    features2: u32,
    read_only: u32,
    incompatible: u32,
    pub is_inode_aligned: bool,
}

impl Superblock {
    pub(super) fn decode(
        bytes: &[u8],
        volume_bytes: u64,
        is_proven: bool,
    ) -> Result<Self, GuestError> {
        let view = View::new(bytes, Place::Superblock);
        if view.slice(0, 4)? != b"XFSB" {
            return Err(view.corrupt("the magic number is missing"));
        }
        let version = view.big16(100)?;
        let is_v5 = match version & 0xF {
            4 => false,
            5 => true,
            other => {
                return Err(GuestError::unsupported(format!("XFS version {other}")));
            }
        };
        let features2 = if version & version::MORE != 0 || is_v5 {
            view.big32(200)?
        } else {
            0
        };
        let when_v5 = |at: usize| if is_v5 { view.big32(at) } else { Ok(0) };
        let (read_only, incompatible) = (when_v5(212)?, when_v5(216)?);
        let uuid = view.array(32)?;
        let superblock = Self {
            block_bytes: view.big32(4)?,
            blocks: view.big64(8)?,
            realtime_blocks: view.big64(16)?,
            uuid,
            meta_uuid: if incompatible & incompat::META_UUID != 0 {
                view.array(248)?
            } else {
                uuid
            },
            log_start: view.big64(48)?,
            log_blocks: view.big32(96)?,
            root_inode: view.big64(56)?,
            group_blocks: view.big32(84)?,
            groups: view.big32(88)?,
            sector_bytes: u32::from(view.big16(102)?),
            inode_bytes: u32::from(view.big16(104)?),
            inodes: view.big64(128)?,
            free_inodes: view.big64(136)?,
            free_blocks: view.big64(144)?,
            inode_alignment_blocks: view.big32(180)?,
            folder_block_log: u32::from(view.u8(192)?),
            version,
            features2,
            read_only,
            incompatible,
            is_inode_aligned: version & version::ALIGNED != 0,
        };
        superblock.check_sizes(view)?;
        if is_proven {
            superblock.prove(view)?;
        }
        superblock.refuse(view)?;
        superblock.check_places(view, volume_bytes)?;
        Ok(superblock)
    }

    fn check_sizes(&self, view: View<'_>) -> Result<(), GuestError> {
        let is_power = |size: u32, log: usize, least: u32, most: u32| {
            let log = view.u8(log)?;
            Ok((least..=most).contains(&size) && 1_u32.checked_shl(u32::from(log)) == Some(size))
        };
        let least_inode = if self.is_v5() { 512 } else { 256 };
        let sound = is_power(self.block_bytes, 120, 512, 65536)?
            && is_power(self.sector_bytes, 121, 512, 32768)?
            && is_power(self.inode_bytes, 122, least_inode, 2048)?
            && self.sector_bytes <= self.block_bytes
            && self.inode_bytes <= self.block_bytes
            && self.folder_block_log <= 7
            && self.folder_block_bytes() <= 65536;
        if sound {
            Ok(())
        } else {
            Err(view.corrupt("its sizes contradict each other"))
        }
    }

    fn prove(&self, view: View<'_>) -> Result<(), GuestError> {
        if !self.is_v5() {
            return Ok(());
        }
        let sector = View::new(
            view.slice(0, self.sector_bytes as usize)?,
            Place::Superblock,
        );
        if super::checksum::is_right(sector, 224)? {
            Ok(())
        } else {
            Err(view.corrupt("the checksum is wrong"))
        }
    }

    fn refuse(&self, view: View<'_>) -> Result<(), GuestError> {
        let unknown = self.incompatible & !incompat::KNOWN;
        let names = [
            (
                incompat::NEEDS_REPAIR,
                "needsrepair (the guest has to run xfs_repair)",
            ),
            (incompat::METADATA_FOLDERS, "metadir"),
            (incompat::ZONED, "zoned"),
        ];
        if unknown != 0 {
            let name = names.iter().find(|(bit, _)| unknown & bit != 0);
            return Err(GuestError::unsupported(name.map_or_else(
                || format!("XFS feature of unknown meaning, incompatible bits {unknown:#x}"),
                |(_, name)| format!("XFS feature {name}"),
            )));
        }
        if !self.is_v5() && self.version & version::FOLDERS_2 == 0 {
            return Err(GuestError::unsupported("XFS folders of version 1"));
        }
        if view.u8(126)? != 0 {
            return Err(view.corrupt("the filesystem was never finished"));
        }
        Ok(())
    }

    fn check_places(&self, view: View<'_>, volume_bytes: u64) -> Result<(), GuestError> {
        let group_log = u32::from(view.u8(124)?);
        let group_bytes = u64::from(self.group_blocks) * u64::from(self.block_bytes);
        let before_last = u64::from(self.groups).saturating_sub(1) * u64::from(self.group_blocks);
        let least = u64::from(self.group_blocks.min(GROUP_BLOCKS_MIN));
        let sound = self.groups > 0
            && self.group_blocks >= GROUP_BLOCKS_MIN
            && group_bytes <= GROUP_BYTES_MAX
            && group_log == self.group_log()
            && self.blocks <= before_last + u64::from(self.group_blocks)
            && self.blocks >= before_last + least;
        if !sound {
            return Err(view.corrupt("its allocation groups contradict each other"));
        }
        if self.blocks > volume_bytes / u64::from(self.block_bytes) {
            return Err(view.corrupt("the filesystem is longer than its volume"));
        }
        if self.inode_place(self.root_inode).is_none() {
            return Err(view.corrupt("the root folder is out of bounds"));
        }
        if self.log_start != 0
            && (self.log_blocks == 0
                || self
                    .extent_bytes(self.log_start, u64::from(self.log_blocks))
                    .is_none())
        {
            return Err(view.corrupt("the log is out of bounds"));
        }
        Ok(())
    }

    pub(super) fn is_v5(&self) -> bool {
        self.version & 0xF == 5
    }

    /// Whether entries of folders say of which type the inode is.
    pub(super) fn has_entry_types(&self) -> bool {
        if self.is_v5() {
            self.incompatible & incompat::ENTRY_TYPES != 0
        } else {
            self.features2 & features2::ENTRY_TYPES != 0
        }
    }

    /// Whether extents may be unwritten.
    pub(super) fn has_unwritten(&self) -> bool {
        self.is_v5() || self.version & version::UNWRITTEN != 0
    }

    /// Whether `A` and `a` are one name.
    pub(super) fn ignores_case(&self) -> bool {
        self.version & version::IGNORES_CASE != 0
    }

    /// Read-only features that nobody here knows, which may change how space is counted.
    pub(super) fn unknown_read_only(&self) -> u32 {
        self.read_only & !READ_ONLY_KNOWN
    }

    pub(super) fn folder_block_bytes(&self) -> usize {
        (self.block_bytes as usize) << self.folder_block_log
    }

    /// Bits that the number of a block takes within its group.
    pub(super) fn group_log(&self) -> u32 {
        u32::BITS - self.group_blocks.saturating_sub(1).leading_zeros()
    }

    fn inode_log(&self) -> u32 {
        (self.block_bytes / self.inode_bytes).trailing_zeros()
    }

    /// Blocks that a group has.
    pub(super) fn group_length(&self, group: u32) -> u64 {
        let start = u64::from(group) * u64::from(self.group_blocks);
        self.blocks
            .saturating_sub(start)
            .min(u64::from(self.group_blocks))
    }

    /// Where a group begins on the volume.
    pub(super) fn group_bytes(&self, group: u32) -> u64 {
        u64::from(group) * u64::from(self.group_blocks) * u64::from(self.block_bytes)
    }

    /// Where blocks lie on the volume, if there are so many from there on in their group.
    pub(super) fn extent_bytes(&self, first: u64, count: u64) -> Option<u64> {
        let group = u32::try_from(first >> self.group_log()).ok()?;
        let block = first & ((1 << self.group_log()) - 1);
        self.group_extent(group, block, count)
    }

    /// The same by number of group and of block in it. The first block of a group is never a part of anything.
    pub(super) fn group_extent(&self, group: u32, block: u64, count: u64) -> Option<u64> {
        let end = block.checked_add(count)?;
        let inside = group < self.groups && block > 0 && end <= self.group_length(group);
        inside.then(|| self.group_bytes(group) + block * u64::from(self.block_bytes))
    }

    /// Where an inode lies on the volume.
    pub(super) fn inode_place(&self, number: u64) -> Option<u64> {
        let block = number >> self.inode_log();
        let at = self.extent_bytes(block, 1)?;
        let index = number & ((1 << self.inode_log()) - 1);
        Some(at + index * u64::from(self.inode_bytes))
    }

    /// The number of the first inode of a block.
    pub(super) fn first_inode(&self, group: u32, block: u64) -> u64 {
        (u64::from(group) << self.group_log() | block) << self.inode_log()
    }

    /// Blocks that are read and written together where inodes lie.
    pub(super) fn inode_cluster_blocks(&self) -> u64 {
        let mut bytes = CLUSTER_BYTES;
        if self.is_v5() && self.is_inode_aligned {
            let larger = CLUSTER_BYTES * u64::from(self.inode_bytes) / 256;
            if u64::from(self.inode_alignment_blocks) >= larger / u64::from(self.block_bytes) {
                bytes = larger;
            }
        }
        (bytes / u64::from(self.block_bytes)).max(1)
    }

    /// Whether what the log makes of the superblock leaves everything where it is.
    pub(super) fn is_laid_out_as(&self, other: &Self) -> bool {
        (self.block_bytes, self.sector_bytes, self.inode_bytes)
            == (other.block_bytes, other.sector_bytes, other.inode_bytes)
            && (self.group_blocks, self.log_start, self.log_blocks)
                == (other.group_blocks, other.log_start, other.log_blocks)
            && self.meta_uuid == other.meta_uuid
            && self.is_v5() == other.is_v5()
    }
}

/// Reads the superblock as it lies on disk.
pub(super) fn read(source: &dyn Source) -> Result<Superblock, GuestError> {
    let length = source.length_bytes().min(SECTOR_MAX);
    let bytes = source.read(0, to_usize(length))?.to_vec();
    Superblock::decode(&bytes, source.length_bytes(), true)
}

/// The longest sector.
pub(super) const SECTOR_MAX: u64 = 32768;
const GROUP_BLOCKS_MIN: u32 = 64;
const GROUP_BYTES_MAX: u64 = 1 << 40;
/// Of inodes of 256 bytes.
const CLUSTER_BYTES: u64 = 8192;
/// Free inodes by tree, owners of blocks by tree, shared blocks, counts of blocks of inode trees.
const READ_ONLY_KNOWN: u32 = 0xF;

mod version {
    pub(super) const ALIGNED: u16 = 0x80;
    pub(super) const UNWRITTEN: u16 = 0x1000;
    pub(super) const FOLDERS_2: u16 = 0x2000;
    pub(super) const IGNORES_CASE: u16 = 0x4000;
    pub(super) const MORE: u16 = 0x8000;
}

mod features2 {
    pub(super) const ENTRY_TYPES: u32 = 0x200;
}

mod incompat {
    pub(super) const ENTRY_TYPES: u32 = 0x1;
    pub(super) const META_UUID: u32 = 0x4;
    pub(super) const NEEDS_REPAIR: u32 = 0x10;
    pub(super) const METADATA_FOLDERS: u32 = 0x100;
    pub(super) const ZONED: u32 = 0x200;
    /// ftype, spinodes, meta_uuid, bigtime, nrext64, exchrange, parent.
    pub(super) const KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A superblock of version 4 with four groups.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"XFSB");
        put(4, &4096_u32.to_be_bytes());
        put(8, &400_u64.to_be_bytes());
        put(48, &((1_u64 << 7) | 20).to_be_bytes());
        put(56, &(64_u64 << 4).to_be_bytes());
        put(84, &100_u32.to_be_bytes());
        put(88, &4_u32.to_be_bytes());
        put(96, &50_u32.to_be_bytes());
        put(100, &0xB4A4_u16.to_be_bytes());
        put(102, &512_u16.to_be_bytes());
        put(104, &256_u16.to_be_bytes());
        put(120, &[12, 9, 8, 4, 7]);
        bytes
    }

    #[test]
    fn places_are_inside_their_groups() {
        let superblock = Superblock::decode(&image(), 400 * 4096, true).unwrap();
        assert_eq!(superblock.extent_bytes(1 << 7 | 5, 95), Some(105 * 4096));
        assert_eq!(superblock.extent_bytes(1 << 7 | 5, 96), None);
        assert_eq!(superblock.extent_bytes(4 << 7 | 5, 1), None);
        assert_eq!(superblock.extent_bytes(u64::MAX, u64::MAX), None);
        let inode = superblock.first_inode(1, 5) + 3;
        assert_eq!(superblock.inode_place(inode), Some(105 * 4096 + 768));
        assert_eq!(superblock.inode_place(u64::MAX), None);
    }

    #[test]
    fn contradictions_and_unknown_features_are_refused() {
        let check = |at: usize, byte: u8, said: &str| {
            let mut bytes = image();
            bytes[at] = byte;
            let error = Superblock::decode(&bytes, 400 * 4096, true).unwrap_err();
            assert!(error.to_string().contains(said), "{at}: {error}");
        };
        check(0, b'x', "magic");
        check(7, 1, "sizes");
        check(192, 6, "sizes");
        check(91, 5, "groups");
        check(124, 8, "groups");
        check(55, 90, "log");
        check(56, 1, "root");
        check(126, 1, "never finished");
        check(101, 0xA3, "version 3");
        check(100, 0x94, "folders of version 1");
        let short = Superblock::decode(&image(), 399 * 4096, true).unwrap_err();
        assert!(short.to_string().contains("longer than its volume"));
    }
}
