//! The superblock: the newest of its copies that can be believed.

use super::checksum::Checksum;
use crate::bytes::View;
use crate::{GuestError, Place, Source};

/// What the superblock of one device says.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub checksum: Checksum,
    /// The name of the filesystem.
    pub filesystem: [u8; 16],
    /// The name that its nodes have, which may be an older one.
    pub in_nodes: [u8; 16],
    pub generation: u64,
    pub root: Root,
    pub chunk_root: Root,
    pub log_root: Root,
    pub total_bytes: u64,
    pub used_bytes: u64,
    /// On how many devices the filesystem lies.
    pub devices: u64,
    pub sector_bytes: u32,
    pub node_bytes: u32,
    pub read_only_features: u64,
    pub features: u64,
    pub device: u64,
    pub device_name: [u8; 16],
    pub device_bytes: u64,
    /// Chunks that must be known to read the tree of chunks.
    pub chunks: Vec<u8>,
}

/// Where a tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    pub logical: u64,
    pub generation: u64,
    pub level: u8,
}

impl Superblock {
    /// The newest copy in `source`.
    pub(super) fn read(source: &dyn Source) -> Result<Self, GuestError> {
        let mut newest: Option<Self> = None;
        let mut first_fault = None;
        for at in COPIES_AT {
            if at + SUPERBLOCK_BYTES as u64 > source.length_bytes() {
                break;
            }
            let bytes = source.read(at, SUPERBLOCK_BYTES);
            let copy = bytes.and_then(|bytes| Self::decode(&bytes.to_vec(), at));
            match copy {
                // What another filesystem has left there is no copy.
                Ok(copy)
                    if newest.as_ref().is_none_or(|newest| {
                        newest.filesystem == copy.filesystem && newest.generation < copy.generation
                    }) =>
                {
                    newest = Some(copy);
                }
                Ok(_) => {}
                Err(error) if error.is_of_one_place() => {
                    first_fault.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        let missing = || GuestError::corrupt(Place::Superblock, "there is none");
        let newest = newest.ok_or_else(|| first_fault.unwrap_or_else(missing))?;
        newest.refuse_unknown()?;
        Ok(newest)
    }

    fn decode(bytes: &[u8], at: u64) -> Result<Self, GuestError> {
        let view = View::new(bytes, Place::Superblock);
        if view.slice(64, 8)? != MAGIC {
            return Err(view.corrupt("the magic number is missing"));
        }
        let checksum = Checksum::by_number(view.u16(196)?)
            .ok_or_else(|| GuestError::unsupported("a checksum of an unknown kind"))?;
        let covered = view.slice(32, SUPERBLOCK_BYTES - 32)?;
        if !checksum.fits([covered].into_iter(), bytes.get(..32)) {
            return Err(view.corrupt("the checksum is wrong"));
        }
        let generation = view.u64(72)?;
        let features = view.u64(188)?;
        let filesystem = view.array(32)?;
        let chunks_bytes = view.u32(160)? as usize;
        if view.u64(48)? != at {
            return Err(view.corrupt("it is not where it says"));
        }
        if chunks_bytes > CHUNKS_MAX {
            return Err(view.corrupt("its chunks have no room in it"));
        }
        let superblock = Self {
            checksum,
            filesystem,
            in_nodes: match features & feature::OLDER_NAME {
                0 => filesystem,
                _ => view.array(571)?,
            },
            generation,
            root: Root {
                logical: view.u64(80)?,
                generation,
                level: view.u8(198)?,
            },
            chunk_root: Root {
                logical: view.u64(88)?,
                generation: view.u64(164)?,
                level: view.u8(199)?,
            },
            log_root: Root {
                logical: view.u64(96)?,
                generation: generation.saturating_add(1),
                level: view.u8(200)?,
            },
            total_bytes: view.u64(112)?,
            used_bytes: view.u64(120)?,
            devices: view.u64(136)?,
            sector_bytes: view.u32(144)?,
            node_bytes: view.u32(148)?,
            read_only_features: view.u64(180)?,
            features,
            device: view.u64(201)?,
            device_name: view.array(201 + 66)?,
            device_bytes: view.u64(201 + 8)?,
            chunks: view.slice(811, chunks_bytes)?.to_vec(),
        };
        let flags = view.u64(56)?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(GuestError::unsupported(format!(
                "a filesystem that is being converted, or without its data (flags {flags:#x})"
            )));
        }
        let sizes = superblock.sector_bytes..=64 << 10;
        if !superblock.sector_bytes.is_power_of_two()
            || superblock.sector_bytes < 512
            || !superblock.node_bytes.is_power_of_two()
            || !sizes.contains(&superblock.node_bytes)
        {
            return Err(view.corrupt("the sizes of sectors and nodes are out of bounds"));
        }
        Ok(superblock)
    }

    fn refuse_unknown(&self) -> Result<(), GuestError> {
        let unknown = self.features & !feature::KNOWN;
        if unknown == 0 {
            return Ok(());
        }
        let names = [
            (feature::ZONED, "zoned"),
            (feature::EXTENT_TREE_V2, "extent-tree-v2"),
            (feature::RAID_STRIPE_TREE, "raid-stripe-tree"),
            (feature::REMAP_TREE, "remap-tree"),
        ];
        let name = names.iter().find(|(bit, _)| unknown & bit != 0);
        Err(match name {
            Some((_, name)) => GuestError::unsupported(format!("the feature {name}")),
            None => GuestError::unsupported(format!("features {unknown:#x}")),
        })
    }

    pub(super) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }
}

pub(super) mod feature {
    pub(crate) const NO_HOLES: u64 = 1 << 9;
    pub(crate) const OLDER_NAME: u64 = 1 << 10;
    pub(crate) const ZONED: u64 = 1 << 12;
    pub(crate) const EXTENT_TREE_V2: u64 = 1 << 13;
    pub(crate) const RAID_STRIPE_TREE: u64 = 1 << 14;
    pub(crate) const REMAP_TREE: u64 = 1 << 17;
    /// All up to `raid1c34`, and `simple_quota`.
    pub(crate) const KNOWN: u64 = 0xFFF | 1 << 16;
    /// Free space tree and its validity, verity, block group tree.
    pub(crate) const READ_ONLY_KNOWN: u64 = 0xF;
    pub(crate) const BLOCK_GROUP_TREE: u64 = 1 << 3;
}

/// Where copies are, as far as the device reaches.
pub(super) const COPIES_AT: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const SUPERBLOCK_BYTES: usize = 4096;
const MAGIC: &[u8] = b"_BHRfS_M";
const CHUNKS_MAX: usize = 2048;
/// Written, moved, seen with errors, seed of another filesystem.
const FLAGS_KNOWN: u64 = 0b111 | 1 << 32;
