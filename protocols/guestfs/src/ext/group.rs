//! Descriptors of block groups.

use ::bytes::Bytes;

use super::Ext;
use super::checksum::{crc16, crc32c};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// Where a group keeps what it needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    /// Clusters that are free, as it says.
    pub free_clusters: u64,
    /// Whether the block bitmap was never written: nothing is allocated but what the group needs itself.
    pub bitmap_is_unwritten: bool,
    /// What the checksum of the block bitmap must be, as far as it is stored.
    pub bitmap_checksum: Option<StoredChecksum>,
}

/// A checksum of which perhaps only the low half is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredChecksum {
    value: u32,
    mask: u32,
}

impl StoredChecksum {
    pub(super) fn new(low: u16, high: Option<u16>) -> Self {
        Self {
            value: u32::from(low) | u32::from(high.unwrap_or(0)) << 16,
            mask: high.map_or(0xFFFF, |_| u32::MAX),
        }
    }

    pub(crate) fn is(self, computed: u32) -> bool {
        computed & self.mask == self.value
    }
}

impl Ext {
    /// A group's descriptor as it is after the replay, proven where it can be.
    pub(crate) fn group(&self, number: u64) -> Result<Group, GuestError> {
        let (block, at) = self.descriptor_place(number)?;
        let block = self.blocks.block(block, Place::Group(number))?;
        let descriptor = self.descriptor(&block, at, number)?;
        self.prove_descriptor(descriptor, number)?;
        self.decode_group(descriptor)
    }

    /// A group's descriptor as it lies on disk. It may be older than its checksum or its bitmap.
    pub(crate) fn raw_group(&self, number: u64) -> Result<Group, GuestError> {
        let (block, at) = self.descriptor_place(number)?;
        let block = self.blocks.raw(block, Place::Group(number))?;
        self.decode_group(self.descriptor(&block, at, number)?)
    }

    /// The block bitmap of a group after the replay.
    pub(crate) fn bitmap(&self, number: u64, group: &Group) -> Result<Bytes, GuestError> {
        let bitmap = self.read_uncached(group.block_bitmap, Place::Bitmap(number))?;
        let clusters = self.superblock.blocks_per_group / self.superblock.cluster_blocks;
        let used = View::new(&bitmap, Place::Bitmap(number)).slice(0, to_usize(clusters / 8))?;
        if let Some(stored) = group.bitmap_checksum
            && !stored.is(crc32c(self.superblock.seed, used))
        {
            return Err(GuestError::corrupt(
                Place::Bitmap(number),
                "the checksum is wrong",
            ));
        }
        Ok(bitmap)
    }

    /// The block bitmap of a group as it lies on disk.
    pub(crate) fn raw_bitmap(&self, number: u64, group: &Group) -> Result<Bytes, GuestError> {
        self.blocks.raw(group.block_bitmap, Place::Bitmap(number))
    }

    fn read_uncached(&self, block: u64, place: Place) -> Result<Bytes, GuestError> {
        self.blocks.check(block, 1, place)?;
        let read = self.blocks.read(block, 0, self.blocks.block_bytes())?;
        Ok(Bytes::from(read.to_vec()))
    }

    /// The block of descriptors that has this one, and where in it.
    fn descriptor_place(&self, number: u64) -> Result<(u64, usize), GuestError> {
        if number >= self.superblock.groups() {
            return Err(GuestError::corrupt(
                Place::Group(number),
                "there is no such group",
            ));
        }
        let per_block = self.superblock.descriptors_per_block();
        let at = number % per_block * u64::from(self.superblock.descriptor_bytes);
        let block = self.superblock.descriptor_block(number / per_block);
        Ok((block, to_usize(at)))
    }

    fn descriptor<'a>(
        &self,
        block: &'a [u8],
        at: usize,
        number: u64,
    ) -> Result<View<'a>, GuestError> {
        let place = Place::Group(number);
        let length = self.superblock.descriptor_bytes as usize;
        Ok(View::new(View::new(block, place).slice(at, length)?, place))
    }

    fn decode_group(&self, view: View<'_>) -> Result<Group, GuestError> {
        let high = |at: usize| (view.len() >= 64).then_some(at);
        let flags = view.u16(0x12)?;
        let bitmap_checksum = if self.superblock.has_metadata_checksums() {
            let upper = high(0x38).map(|at| view.u16(at)).transpose()?;
            Some(StoredChecksum::new(view.u16(0x18)?, upper))
        } else {
            None
        };
        Ok(Group {
            block_bitmap: view.split(0, high(0x20))?,
            inode_bitmap: view.split(4, high(0x24))?,
            inode_table: view.split(8, high(0x28))?,
            free_clusters: u64::from(view.u16(0xC)?)
                | high(0x2C).map_or(Ok(0), |at| view.u16(at)).map(u64::from)? << 16,
            bitmap_is_unwritten: self.superblock.has_group_checksums()
                && flags & BITMAP_UNWRITTEN != 0,
            bitmap_checksum,
        })
    }

    fn prove_descriptor(&self, view: View<'_>, number: u64) -> Result<(), GuestError> {
        if !self.superblock.has_group_checksums() {
            return Ok(());
        }
        let number = u32::try_from(number)
            .map_err(|_| view.corrupt("its number has more than 32 bits"))?
            .to_le_bytes();
        let (before, after) = (
            view.slice(0, CHECKSUM_AT)?,
            view.slice(CHECKSUM_AT + 2, view.len() - CHECKSUM_AT - 2)?,
        );
        let computed = if self.superblock.has_metadata_checksums() {
            let state = crc32c(crc32c(self.superblock.seed, &number), before);
            crc32c(crc32c(state, &[0, 0]), after) & 0xFFFF
        } else {
            let state = crc16(crc16(0xFFFF, &self.superblock.uuid), &number);
            u32::from(crc16(crc16(state, before), after))
        };
        if computed != u32::from(view.u16(CHECKSUM_AT)?) {
            return Err(view.corrupt("the checksum is wrong"));
        }
        Ok(())
    }
}

const CHECKSUM_AT: usize = 0x1E;
const BITMAP_UNWRITTEN: u16 = 2;
