//! ext2, ext3 and ext4, by inode.
//!
//! `docs/protocols/guestfs.md` says what is read and what is refused. One [`Ext`] is used by many threads; nothing in it
//! changes but its caches.

mod allocation;
mod attributes;
mod blocks;
mod checksum;
mod content;
mod folder;
mod group;
mod inode;
mod journal;
mod mapping;
mod superblock;
mod tree;

use std::sync::Arc;

use self::blocks::{Blocks, Overlay};
use self::superblock::{SUPERBLOCK_BYTES, compat, home, incompat};
use crate::{GuestError, Place, Source};

pub(crate) use self::allocation::UsedGroups;
use self::superblock::Superblock;
pub(crate) use self::tree::ExtTree;

/// A filesystem, with its journal replayed.
pub(crate) struct Ext {
    blocks: Blocks,
    superblock: Superblock,
}

impl Ext {
    /// Opens what lies in `source`.
    pub(crate) fn open(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let superblock = superblock::read(&*source)?;
        let stale = Self::with_overlay(source, superblock, Overlay::new());
        if !stale.superblock.has(incompat::RECOVER) {
            return Ok(stale);
        }
        if stale.superblock.compatible & compat::JOURNAL == 0 || stale.superblock.journal_inode == 0
        {
            return Err(GuestError::unsupported(
                "a journal on another device, which would have to be replayed first",
            ));
        }
        let overlay = journal::replay(&stale)?;
        if overlay.is_empty() {
            return Ok(stale);
        }
        tracing::debug!(blocks = overlay.len(), "the journal is replayed in memory");
        let source = Arc::clone(stale.blocks.source());
        let replayed = Self::with_overlay(source, stale.superblock, overlay);
        let (block, at) = home(replayed.superblock.block_bytes);
        let block = replayed.blocks.block(block, Place::Superblock)?;
        let bytes = block.get(at..at + SUPERBLOCK_BYTES).unwrap_or_default();
        let superblock = Superblock::decode(bytes, &**replayed.blocks.source())?;
        if superblock.block_bytes != replayed.superblock.block_bytes {
            return Err(GuestError::corrupt(
                Place::Superblock,
                "the journal changes the block size",
            ));
        }
        Ok(replayed.with_superblock(superblock))
    }

    fn with_overlay(source: Arc<dyn Source>, superblock: Superblock, overlay: Overlay) -> Self {
        let blocks = Blocks::new(source, superblock.block_bytes, superblock.blocks, overlay);
        Self { blocks, superblock }
    }

    /// The same with what the journal made of the superblock.
    fn with_superblock(self, superblock: Superblock) -> Self {
        Self {
            blocks: self.blocks.with_count(superblock.blocks),
            superblock,
        }
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.blocks.is_replayed()
    }

    pub(crate) fn source(&self) -> &Arc<dyn Source> {
        self.blocks.source()
    }
}
