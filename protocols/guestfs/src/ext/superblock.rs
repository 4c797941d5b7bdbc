//! The superblock: what a filesystem is, and which features it has.

use super::checksum::crc32c;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// The constant facts of a filesystem, checked against each other.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub block_bytes: u32,
    pub blocks: u64,
    pub first_data_block: u64,
    pub blocks_per_group: u64,
    /// Blocks for each bit of a block bitmap.
    pub cluster_blocks: u64,
    pub inodes: u32,
    pub inodes_per_group: u32,
    pub inode_bytes: u32,
    pub first_inode: u32,
    pub descriptor_bytes: u32,
    pub first_meta_group: u64,
    pub reserved_descriptor_blocks: u64,
    pub backup_groups: [u32; 2],
    pub compatible: u32,
    pub incompatible: u32,
    pub read_only: u32,
    pub uuid: [u8; 16],
    /// Where the checksums of everything else begin.
    pub seed: u32,
    pub journal_inode: u32,
    /// Whether it was unmounted, and whether the guest found faults in it.
    pub state: u16,
    pub free_blocks: u64,
    pub reserved_blocks: u64,
    pub free_inodes: u32,
}

impl Superblock {
    /// Reads and checks it.
    pub(super) fn decode(bytes: &[u8], source: &dyn Source) -> Result<Self, GuestError> {
        let view = View::new(bytes, Place::Superblock);
        if view.u16(0x38)? != MAGIC {
            return Err(view.corrupt("the magic number is missing"));
        }
        let (compatible, incompatible, read_only) =
            (view.u32(0x5C)?, view.u32(0x60)?, view.u32(0x64)?);
        refuse(incompatible)?;
        if read_only & ro_compat::METADATA_CHECKSUMS != 0 {
            if view.u8(0x175)? != CRC32C {
                return Err(GuestError::unsupported("checksums other than CRC-32C"));
            }
            if crc32c(!0, view.slice(0, 0x3FC)?) != view.u32(0x3FC)? {
                return Err(view.corrupt("the checksum is wrong"));
            }
        }
        let high = |at: usize| (incompatible & incompat::SIXTY_FOUR_BIT != 0).then_some(at);
        let old = view.u32(0x4C)? == 0;
        let uuid: [u8; 16] = view.array(0x68)?;
        let (block_log, cluster_log) = (view.u32(0x18)?, view.u32(0x1C)?);
        if block_log > 6 {
            return Err(view.corrupt("the block size is out of bounds"));
        }
        let clusters = read_only & ro_compat::CLUSTERS != 0;
        let cluster_blocks = match cluster_log.checked_sub(block_log) {
            _ if !clusters => 1,
            Some(log) if log <= 20 => 1 << log,
            _ => return Err(view.corrupt("the cluster size is out of bounds")),
        };
        let superblock = Self {
            block_bytes: 1024 << block_log,
            blocks: view.split(0x4, high(0x150))?,
            first_data_block: u64::from(view.u32(0x14)?),
            blocks_per_group: u64::from(view.u32(0x20)?),
            cluster_blocks,
            inodes: view.u32(0)?,
            inodes_per_group: view.u32(0x28)?,
            inode_bytes: if old { 128 } else { u32::from(view.u16(0x58)?) },
            first_inode: if old { 11 } else { view.u32(0x54)? },
            descriptor_bytes: high(0xFE).map_or(Ok(32), |at| view.u16(at).map(u32::from))?,
            first_meta_group: u64::from(view.u32(0x104)?),
            reserved_descriptor_blocks: u64::from(view.u16(0xCE)?),
            backup_groups: [view.u32(0x24C)?, view.u32(0x250)?],
            compatible,
            incompatible,
            read_only,
            uuid,
            seed: if incompatible & incompat::CHECKSUM_SEED != 0 {
                view.u32(0x270)?
            } else {
                crc32c(!0, &uuid)
            },
            journal_inode: view.u32(0xE0)?,
            state: view.u16(0x3A)?,
            free_blocks: view.split(0xC, high(0x158))?,
            reserved_blocks: view.split(0x8, high(0x154))?,
            free_inodes: view.u32(0x10)?,
        };
        superblock.check(view, source.length_bytes())?;
        Ok(superblock)
    }

    /// Refuses what would make later arithmetic senseless.
    fn check(&self, view: View<'_>, volume_bytes: u64) -> Result<(), GuestError> {
        let block = u64::from(self.block_bytes);
        let per_group = self.blocks_per_group / self.cluster_blocks;
        let faults = [
            (
                self.blocks
                    .checked_mul(block)
                    .is_none_or(|bytes| bytes > volume_bytes),
                "the filesystem is longer than its volume",
            ),
            (
                self.first_data_block > 1 || self.first_data_block >= self.blocks,
                "the first data block is out of bounds",
            ),
            (
                per_group < 8
                    || per_group > block * 8
                    || !self
                        .blocks_per_group
                        .is_multiple_of(self.cluster_blocks * 8),
                "the number of blocks for each group is out of bounds",
            ),
            (
                self.inodes_per_group == 0 || u64::from(self.inodes_per_group) > block * 8,
                "the number of inodes for each group is out of bounds",
            ),
            (
                !self.inode_bytes.is_power_of_two()
                    || !(128..=self.block_bytes).contains(&self.inode_bytes),
                "the size of inodes is out of bounds",
            ),
            (
                !self.descriptor_bytes.is_power_of_two()
                    || !(32..=1024).contains(&self.descriptor_bytes)
                    || (self.has(incompat::SIXTY_FOUR_BIT) && self.descriptor_bytes < 64),
                "the size of group descriptors is out of bounds",
            ),
        ];
        if let Some((_, detail)) = faults.iter().find(|(fault, _)| *fault) {
            return Err(view.corrupt(detail));
        }
        if self.groups() * u64::from(self.inodes_per_group) < u64::from(self.inodes) {
            return Err(view.corrupt("there are more inodes than the groups hold"));
        }
        Ok(())
    }

    /// Refuses bitmaps that the guest may not have brought in step with its files, or that may mean something else.
    pub(crate) fn check_bitmaps(&self) -> Result<(), GuestError> {
        let no_map = |why: &str| {
            let feature = format!("a map of the used blocks of {why}");
            Err(GuestError::unsupported(feature))
        };
        if self.state & state::FAULTY != 0 {
            return no_map("a filesystem in which the guest has found faults");
        }
        let has_journal = self.compatible & compat::JOURNAL != 0;
        if !has_journal && self.state & state::UNMOUNTED == 0 {
            return no_map("a filesystem without a journal that is in use");
        }
        match self.read_only & !ro_compat::KNOWN {
            0 => Ok(()),
            unknown => no_map(&format!(
                "an ext feature of unknown meaning, read-only bits {unknown:#x}"
            )),
        }
    }

    /// Whether it has an incompatible feature.
    pub(super) fn has(&self, feature: u32) -> bool {
        self.incompatible & feature != 0
    }

    pub(super) fn has_metadata_checksums(&self) -> bool {
        self.read_only & ro_compat::METADATA_CHECKSUMS != 0
    }

    /// Whether group descriptors have a checksum, without which their flags mean nothing.
    pub(super) fn has_group_checksums(&self) -> bool {
        self.read_only & (ro_compat::METADATA_CHECKSUMS | ro_compat::GROUP_CHECKSUMS) != 0
    }

    pub(crate) fn groups(&self) -> u64 {
        (self.blocks - self.first_data_block).div_ceil(self.blocks_per_group)
    }

    /// The first block of a group.
    pub(crate) fn group_start(&self, group: u64) -> u64 {
        self.first_data_block + group * self.blocks_per_group
    }

    pub(super) fn descriptors_per_block(&self) -> u64 {
        u64::from(self.block_bytes / self.descriptor_bytes)
    }

    /// Whether a group begins with a copy of the superblock.
    pub(super) fn group_has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compatible & compat::SPARSE_SUPER_2 != 0 {
            return self
                .backup_groups
                .iter()
                .any(|backup| u64::from(*backup) == group);
        }
        if group == 1 || self.read_only & ro_compat::SPARSE_SUPER == 0 {
            return true;
        }
        [3, 5, 7].into_iter().any(|base| is_power(group, base))
    }

    /// Where the block of descriptors with this number lies.
    pub(super) fn descriptor_block(&self, number: u64) -> u64 {
        let superblock = u64::from(self.block_bytes == 1024);
        if !self.has(incompat::META_GROUPS) || number < self.first_meta_group {
            return superblock + number + 1;
        }
        let group = number * self.descriptors_per_block();
        let mut behind = u64::from(self.group_has_superblock(group));
        // With blocks of 1 KiB and clusters, block 0 of group 0 holds the boot sector.
        if self.block_bytes == 1024 && number == 0 && self.first_data_block == 0 {
            behind += 1;
        }
        self.group_start(group) + behind
    }

    /// How many blocks at the start of a group hold copies of superblock and descriptors.
    pub(crate) fn head_blocks(&self, group: u64) -> u64 {
        let has_superblock = self.group_has_superblock(group);
        let per_block = self.descriptors_per_block();
        let all = self.groups().div_ceil(per_block);
        let in_meta_group =
            self.has(incompat::META_GROUPS) && group / per_block >= self.first_meta_group;
        let descriptors = if in_meta_group {
            // The first, second and last group of each run of groups have its block.
            u64::from([0, 1, per_block - 1].contains(&(group % per_block)))
        } else if !has_superblock {
            0
        } else if self.has(incompat::META_GROUPS) {
            // As Linux counts: what was reserved before stays so.
            self.first_meta_group.min(all) + self.reserved_descriptor_blocks
        } else {
            all + self.reserved_descriptor_blocks
        };
        let boot = u64::from(self.block_bytes == 1024 && self.first_data_block == 0 && group == 0);
        boot + u64::from(has_superblock) + descriptors
    }
}

/// Where the superblock is.
pub(super) const SUPERBLOCK_OFFSET: u64 = 1024;
pub(super) const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xEF53;
const CRC32C: u8 = 1;

pub(super) mod compat {
    pub(crate) const JOURNAL: u32 = 0x4;
    pub(crate) const SPARSE_SUPER_2: u32 = 0x200;
}

pub(super) mod incompat {
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const META_GROUPS: u32 = 0x10;
    pub(crate) const SIXTY_FOUR_BIT: u32 = 0x80;
    pub(crate) const CHECKSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGE_FOLDERS: u32 = 0x4000;
}

pub(super) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const HUGE_FILES: u32 = 0x8;
    pub(crate) const GROUP_CHECKSUMS: u32 = 0x10;
    pub(crate) const CLUSTERS: u32 = 0x200;
    pub(crate) const METADATA_CHECKSUMS: u32 = 0x400;
    /// sparse_super, large_file, btree_dir, huge_file, uninit_bg, dir_nlink, extra_isize, quota, bigalloc, metadata_csum,
    /// read-only, project, verity, orphan_present.
    pub(crate) const KNOWN: u32 = 0x1_B77F;
}

mod state {
    pub(super) const UNMOUNTED: u16 = 1;
    pub(super) const FAULTY: u16 = 2;
}

/// filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, large_dir, inline_data, encrypt,
/// casefold.
const KNOWN: u32 = 0x2
    | 0x4
    | 0x10
    | 0x40
    | 0x80
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;

fn refuse(incompatible: u32) -> Result<(), GuestError> {
    let unknown = incompatible & !KNOWN;
    let names = [
        (0x1, "compression"),
        (0x8, "journal_dev (this is an external journal)"),
        (0x1000, "dirdata"),
    ];
    if unknown == 0 {
        return Ok(());
    }
    let name = names.iter().find(|(bit, _)| unknown & bit != 0);
    Err(GuestError::unsupported(name.map_or_else(
        || format!("ext feature of unknown meaning, incompatible bits {unknown:#x}"),
        |(_, name)| format!("ext feature {name}"),
    )))
}

fn is_power(number: u64, base: u64) -> bool {
    let mut power = base;
    while power < number {
        power *= base;
    }
    power == number
}

/// Reads the superblock from where it lies on disk.
pub(super) fn read(source: &dyn Source) -> Result<Superblock, GuestError> {
    if source.length_bytes() < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64 {
        return Err(GuestError::corrupt(
            Place::Superblock,
            "the volume is too short for one",
        ));
    }
    let bytes = source.read(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES)?.to_vec();
    Superblock::decode(&bytes, source)
}

/// The block that the superblock lies in, and where in it.
pub(super) fn home(block_bytes: u32) -> (u64, usize) {
    let block = u64::from(block_bytes);
    (
        SUPERBLOCK_OFFSET / block,
        to_usize(SUPERBLOCK_OFFSET % block),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers() {
        let sparse: Vec<u64> = (1..130)
            .filter(|group| [3, 5, 7].into_iter().any(|base| is_power(*group, base)))
            .collect();
        assert_eq!(sparse, [3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn refused_features_have_names() {
        for (bits, name) in [
            (0x1, "compression"),
            (0x1008, "external"),
            (1 << 30, "0x40000000"),
        ] {
            let error = refuse(bits).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
