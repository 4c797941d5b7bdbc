//! Bytes of files and links.

use std::ops::ControlFlow;

use ::bytes::Bytes;
use export::{FileKind, Segments};

use super::Btrfs;
use super::compression::Compression;
use super::data::Proof;
use super::inode::Inode;
use super::key::{Key, kind};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// A part of a file, as one item describes it.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    /// Where in the file it begins.
    pub start: u64,
    /// Where in the file it ends.
    pub end: u64,
    pub content: Content,
}

/// Where the bytes of an extent are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// In the item.
    Inline {
        bytes: Vec<u8>,
        compression: Option<Compression>,
    },
    /// On disk, of which these begin at `skip` of what was stored at once.
    Stored {
        logical: u64,
        stored_bytes: u64,
        whole_bytes: u64,
        skip: u64,
        compression: Option<Compression>,
    },
    /// Nowhere: they are zeroes.
    Zeroes,
}

/// What a decompressed extent is kept under.
pub(super) type Compressed = (u64, u64, u64, Compression);

impl Extent {
    pub(super) fn decode(inode: u64, start: u64, item: &[u8]) -> Result<Self, GuestError> {
        let view = View::new(item, Place::Inode(inode));
        let whole_bytes = view.u64(8)?;
        let compression = match view.u8(16)? {
            0 => None,
            number => Some(
                Compression::by_number(number)
                    .ok_or_else(|| GuestError::unsupported(format!("compression {number}")))?,
            ),
        };
        if view.u8(17)? != 0 || view.u16(18)? != 0 {
            return Err(GuestError::Encrypted { inode });
        }
        let kind = view.u8(20)?;
        if kind == INLINE {
            let end = start.checked_add(whole_bytes);
            return Ok(Self {
                start,
                end: end.ok_or_else(|| view.corrupt("an extent is out of bounds"))?,
                content: Content::Inline {
                    bytes: view.slice(INLINE_AT, view.len() - INLINE_AT)?.to_vec(),
                    compression,
                },
            });
        }
        let (logical, stored_bytes) = (view.u64(21)?, view.u64(29)?);
        let (skip, length) = (view.u64(SKIP_AT)?, view.u64(LENGTH_AT)?);
        let content = match kind {
            STORED if logical != 0 => Content::Stored {
                logical,
                stored_bytes,
                whole_bytes,
                skip,
                compression,
            },
            STORED | PREPARED => Content::Zeroes,
            _ => return Err(view.corrupt("an extent is of an unknown kind")),
        };
        let end = start.checked_add(length).filter(|end| *end > start);
        let inside = skip.checked_add(length);
        if matches!(content, Content::Stored { .. })
            && inside.is_none_or(|inside| inside > whole_bytes)
        {
            return Err(view.corrupt("a part is longer than the extent that it is of"));
        }
        Ok(Self {
            start,
            end: end.ok_or_else(|| view.corrupt("an extent is out of bounds"))?,
            content,
        })
    }
}

impl Btrfs {
    /// Up to `length` bytes of an inode's content; fewer only at its end. Holes are zeroes.
    pub(super) fn read(
        &self,
        inode: &Inode,
        offset: u64,
        length: u64,
    ) -> Result<Segments, GuestError> {
        let end = offset.saturating_add(length).min(inode.size_bytes);
        let mut result = Segments::new();
        if offset >= end {
            return Ok(result);
        }
        let items = &self.subvolume(inode.subvolume)?.items;
        let key = |at| Key::new(inode.number, kind::EXTENT_OF_FILE, at);
        let first = items.last_until(&self.nodes, key(offset), key(0))?;
        let first = first.map_or(key(offset), |(key, _)| key);
        let mut at = offset;
        items.scan(&self.nodes, first, key(end - 1), &mut |key, item| {
            let extent = Extent::decode(inode.number, key.offset, item)?;
            if extent.end <= at {
                return Ok(ControlFlow::Continue(()));
            }
            if extent.start > at {
                let until = extent.start.min(end);
                result.push_zeroes(to_usize(until - at));
                at = until;
            }
            if extent.start < at && at > offset {
                return Err(GuestError::corrupt(inode.place(), "its extents overlap"));
            }
            let until = extent.end.min(end);
            result.append(self.part(inode, &extent, at, until)?);
            at = until;
            Ok(if at < end {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        result.push_zeroes(to_usize(end - at));
        Ok(result)
    }

    /// Bytes of an extent between two places of the file.
    fn part(
        &self,
        inode: &Inode,
        extent: &Extent,
        from: u64,
        to: u64,
    ) -> Result<Segments, GuestError> {
        let (skipped, length) = (from - extent.start, to - from);
        let mut result = Segments::new();
        match &extent.content {
            Content::Zeroes => result.push_zeroes(to_usize(length)),
            Content::Inline { bytes, compression } => {
                let whole = extent.end - extent.start;
                let bytes = self.inline(inode, bytes, *compression, whole)?;
                let end = to_usize(skipped + length).min(bytes.len());
                let part = bytes.get(to_usize(skipped).min(end)..end);
                result.push(Bytes::copy_from_slice(part.unwrap_or_default()));
                result.push_zeroes(to_usize(length) - result.len());
            }
            Content::Stored {
                logical,
                skip,
                compression: None,
                stored_bytes,
                ..
            } => {
                let proof = match inode.has_checksums() {
                    true => Proof::Needed,
                    false => Proof::None,
                };
                let start = skip + skipped;
                let place = logical.checked_add(start);
                let place = place.filter(|_| start + length <= *stored_bytes);
                let place = place.ok_or_else(|| {
                    GuestError::corrupt(inode.place(), "an extent is out of bounds")
                })?;
                result = self.data(place, length, proof)?;
            }
            Content::Stored {
                logical,
                stored_bytes,
                whole_bytes,
                skip,
                compression: Some(compression),
            } => {
                let name = (*logical, *stored_bytes, *whole_bytes, *compression);
                let whole = self.decompressed(inode, name)?;
                let start = to_usize(skip + skipped);
                result.push(whole.slice(start..start + to_usize(length)));
            }
        }
        Ok(result)
    }

    fn inline(
        &self,
        inode: &Inode,
        bytes: &[u8],
        compression: Option<Compression>,
        whole: u64,
    ) -> Result<Vec<u8>, GuestError> {
        let damaged = || GuestError::corrupt(inode.place(), "its compressed content is damaged");
        if whole > COMPRESSED_MAX {
            return Err(damaged());
        }
        match compression {
            None if bytes.len() as u64 != whole => Err(GuestError::corrupt(
                inode.place(),
                "its content is not as long as its item says",
            )),
            None => Ok(bytes.to_vec()),
            Some(compression) => {
                let sector = self.superblock.sector_bytes as usize;
                let made = compression.decompress(bytes, to_usize(whole), sector);
                made.ok_or_else(damaged)
            }
        }
    }

    /// A whole extent. Those that were read last are kept, as they are mostly read in small steps.
    fn decompressed(&self, inode: &Inode, name: Compressed) -> Result<Bytes, GuestError> {
        let (logical, stored_bytes, whole_bytes, compression) = name;
        if let Some(whole) = self.decompressed.get(&name) {
            return Ok(whole);
        }
        let damaged = |detail| GuestError::corrupt(Place::Data(logical), detail);
        if stored_bytes > COMPRESSED_MAX || whole_bytes > COMPRESSED_MAX {
            return Err(damaged("a compressed extent is too long"));
        }
        let proof = match inode.has_checksums() {
            true => Proof::Needed,
            false => Proof::None,
        };
        let stored = self.data(logical, stored_bytes, proof)?.to_vec();
        let sector = self.superblock.sector_bytes as usize;
        let made = compression.decompress(&stored, to_usize(whole_bytes), sector);
        let made = made.ok_or_else(|| damaged("the compressed extent is damaged"))?;
        let whole = Bytes::from(made);
        self.decompressed.insert(name, whole.clone());
        Ok(whole)
    }

    /// What a symbolic link holds.
    pub(super) fn link_target(&self, inode: &Inode) -> Result<Vec<u8>, GuestError> {
        if inode.kind() != FileKind::Symlink {
            return Err(GuestError::Invalid);
        }
        let broken = |detail| Err(GuestError::corrupt(inode.place(), detail));
        if inode.size_bytes == 0 || inode.size_bytes > TARGET_MAX {
            return broken("the length of the link is out of bounds");
        }
        let target = self.read(inode, 0, inode.size_bytes)?.to_vec();
        if target.contains(&0) {
            return broken("the link has a NUL in it");
        }
        Ok(target)
    }
}

/// Where an item says how much of what was stored at once is skipped, and how much is used.
pub(super) const SKIP_AT: usize = 37;
pub(super) const LENGTH_AT: usize = 45;
const INLINE: u8 = 0;
const STORED: u8 = 1;
const PREPARED: u8 = 2;
/// Where the bytes of an inline extent begin.
const INLINE_AT: usize = 21;
/// Eight times what Linux makes.
const COMPRESSED_MAX: u64 = 1 << 20;
/// Longest path that Linux takes.
const TARGET_MAX: u64 = 4096;
