//! btrfs, by subvolume and inode.
//!
//! `docs/protocols/guestfs.md` says what is read and what is refused. One [`Btrfs`] is used by many threads; nothing in
//! it changes but its caches.

mod allocation;
mod attributes;
mod checksum;
mod chunk;
mod compression;
mod content;
mod data;
mod folder;
mod inode;
mod items;
mod key;
mod log;
mod lzo;
mod names;
mod node;
mod nodes;
mod parity;
mod storage;
mod subvolumes;
mod superblock;
mod tree;

use std::ops::ControlFlow;
use std::sync::Arc;

use ::bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use self::chunk::{Chunk, Chunks};
use self::content::Compressed;
use self::data::LoggedChecksums;
use self::items::Items;
use self::key::{Key, kind, object};
use self::node::Pointer;
use self::nodes::Nodes;
use self::storage::{Device, Storage};
use self::subvolumes::{Roots, Subvolume};
use self::superblock::Superblock;
use crate::{GuestError, Place, Source};

pub(crate) use self::allocation::UsedExtents;
pub(crate) use self::tree::BtrfsTree;

/// A filesystem on one or more devices, with its log replayed.
pub(crate) struct Btrfs {
    nodes: Nodes,
    superblock: Superblock,
    roots: Roots,
    checksums: Option<Items>,
    logged_checksums: LoggedChecksums,
    decompressed: Cache<Compressed, Bytes, Lengths>,
}

/// A device among those of its filesystem.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceIdentity {
    /// The name of the filesystem.
    pub filesystem: [u8; 16],
    /// Grows whenever something is written.
    pub generation: u64,
    /// On how many devices the filesystem lies.
    pub devices: u64,
    pub number: u64,
    pub name: [u8; 16],
}

impl Btrfs {
    /// Opens the filesystem that lies on `sources`, in any order. Where a device is missing, what has another copy can
    /// be read.
    pub(crate) fn open(sources: Vec<Arc<dyn Source>>) -> Result<Self, GuestError> {
        let (superblock, devices) = devices(sources)?;
        let first = Storage::new(devices, Chunks::in_superblock(&superblock.chunks)?);
        let nodes = Nodes::new(first, &superblock);
        let chunks = read_chunks(&nodes, &superblock)?;
        let nodes = nodes.with_storage(|storage| storage.with_chunks(chunks));
        let root_tree = Items::new(object::ROOT_TREE, Pointer::to_root(superblock.root));
        let mut roots = Roots::read(&nodes, &root_tree)?;
        let checksums = roots.others.remove(&object::CHECKSUM_TREE);
        let logged_checksums = LoggedChecksums::default();
        let mut btrfs = Self {
            nodes,
            superblock,
            roots,
            checksums,
            logged_checksums,
            decompressed: Cache::with_weighter(
                DECOMPRESSED_MAX / (128 << 10),
                DECOMPRESSED_MAX as u64,
                Lengths,
            ),
        };
        btrfs.replay()?;
        Ok(btrfs)
    }

    /// What a device says of itself and of the filesystem that it belongs to.
    pub(crate) fn identify(source: &dyn Source) -> Result<DeviceIdentity, GuestError> {
        let superblock = Superblock::read(source)?;
        Ok(DeviceIdentity {
            filesystem: superblock.filesystem,
            generation: superblock.generation,
            devices: superblock.devices,
            number: superblock.device,
            name: superblock.device_name,
        })
    }

    fn subvolume(&self, index: usize) -> Result<&Subvolume, GuestError> {
        self.roots.subvolumes.get(index).ok_or(GuestError::NotFound)
    }
}

/// The newest superblock, and the devices that belong to its filesystem.
fn devices(sources: Vec<Arc<dyn Source>>) -> Result<(Superblock, Vec<Device>), GuestError> {
    let mut read = Vec::new();
    for source in sources {
        read.push((Superblock::read(&*source)?, source));
    }
    let newest = read
        .iter()
        .map(|(superblock, _)| superblock)
        .max_by_key(|superblock| superblock.generation)
        .cloned()
        .ok_or_else(|| GuestError::corrupt(Place::Superblock, "there is none"))?;
    let mut devices: Vec<Device> = Vec::new();
    for (superblock, source) in read {
        if superblock.filesystem != newest.filesystem {
            return Err(GuestError::corrupt(
                Place::Superblock,
                "the devices are of different filesystems",
            ));
        }
        devices.push(Device {
            number: superblock.device,
            name: superblock.device_name,
            length_bytes: superblock.device_bytes,
            source,
            is_stale: superblock.generation < newest.generation,
        });
    }
    Ok((newest, devices))
}

/// All chunks. Those that the superblock has are among them, and lead here.
fn read_chunks(nodes: &Nodes, superblock: &Superblock) -> Result<Chunks, GuestError> {
    let tree = Items::new(object::CHUNK_TREE, Pointer::to_root(superblock.chunk_root));
    let mut chunks = Chunks::in_superblock(&superblock.chunks)?;
    let key = |offset| Key::new(object::CHUNKS, kind::CHUNK, offset);
    tree.scan(nodes, key(0), key(u64::MAX), &mut |key, item| {
        chunks.add(Chunk::decode(key.offset, item)?)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(chunks)
}

/// Counts kept extents by their bytes.
#[derive(Debug, Clone, Copy)]
struct Lengths;

impl Weighter<Compressed, Bytes> for Lengths {
    fn weight(&self, _: &Compressed, whole: &Bytes) -> u64 {
        whole.len() as u64 + 64
    }
}

/// Memory for decompressed extents of one filesystem.
const DECOMPRESSED_MAX: usize = 8 << 20;
