//! XFS, by inode.
//!
//! `docs/protocols/guestfs.md` says what is read and what is refused. One [`Xfs`] is used by many threads; nothing in it
//! changes but its cache.

mod allocation;
mod attributes;
mod blocks;
mod checksum;
mod content;
mod device;
mod folder;
mod inode;
mod log;
mod mapping;
mod names;
mod superblock;
mod tree;

use std::sync::Arc;

use self::device::Device;
use self::log::{Pending, Replayed};
use self::superblock::{SECTOR_MAX, Superblock};
use crate::bytes::to_usize;
use crate::{GuestError, Place, Source};

pub(crate) use self::allocation::UsedSpace;
pub(crate) use self::tree::XfsTree;

/// A filesystem, with its log replayed.
pub(crate) struct Xfs {
    device: Device,
    superblock: Superblock,
    pending: Pending,
    /// Whether there was something to replay, if only to find that it was there already.
    is_dirty: bool,
}

impl Xfs {
    /// Opens what lies in `source`.
    pub(crate) fn open(source: Arc<dyn Source>) -> Result<Self, GuestError> {
        let superblock = superblock::read(&*source)?;
        let Some(Replayed { overlay, pending }) = log::replay(&*source, &superblock)? else {
            return Ok(Self {
                device: Device::new(source, device::Overlay::default()),
                superblock,
                pending: Pending::default(),
                is_dirty: false,
            });
        };
        let volume = source.length_bytes();
        let device = Device::new(source, overlay);
        let head = device.read(0, to_usize(volume.min(SECTOR_MAX)))?.to_vec();
        let is_newer = device.overlay().touches(0, device::SECTOR);
        let replayed = Superblock::decode(&head, volume, !is_newer)?;
        if !replayed.is_laid_out_as(&superblock) {
            return Err(GuestError::corrupt(
                Place::Superblock,
                "the log changes where things lie",
            ));
        }
        Ok(Self {
            device,
            superblock: replayed,
            pending,
            is_dirty: true,
        })
    }
}
