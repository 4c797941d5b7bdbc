//! Extents of files out of the log.

use super::super::content::{self, Content, Extent};
use super::super::inode::at;
use super::super::key::{Key, kind};
use super::{Replay, corrupt};
use crate::GuestError;
use crate::bytes::View;

impl Replay<'_> {
    /// Takes an extent over, in place of what is in its way.
    pub(super) fn take_extent(&mut self, key: Key, item: &[u8]) -> Result<(), GuestError> {
        let inode = key.object;
        if self.inode(inode)?.is_none() {
            return Err(corrupt(
                inode,
                "it has extents of an inode that is not there",
            ));
        }
        let extent = Extent::decode(inode, key.offset, item)?;
        let is_inline = matches!(extent.content, Content::Inline { .. });
        if !is_inline && self.get(key)?.is_some_and(|old| old == item) {
            return Ok(());
        }
        let end = match is_inline {
            true => extent.end.checked_next_multiple_of(self.sector),
            false => Some(extent.end),
        };
        let end = end.ok_or_else(|| corrupt(inode, "an extent is out of bounds"))?;
        let dropped = self.drop_extents(inode, key.offset, end)?;
        let is_hole = !is_inline && is_hole(item, inode)?;
        let stored = if is_hole {
            0
        } else {
            extent.end - extent.start
        };
        if !is_hole || !self.without_holes {
            self.set(key, item.to_vec())?;
        }
        self.change_inode(inode, |fields| {
            let before = fields.u64(at::STORED)?;
            let after = before.saturating_sub(dropped).saturating_add(stored);
            fields.set_u64(at::STORED, after)
        })
    }

    /// Cuts `start` to `end` out of a file. Gives how much space was taken there.
    pub(super) fn drop_extents(
        &mut self,
        inode: u64,
        start: u64,
        end: u64,
    ) -> Result<u64, GuestError> {
        let key = |offset| Key::new(inode, kind::EXTENT_OF_FILE, offset);
        let first = self.items.last_until(self.nodes, key(start), key(0))?;
        let first = first.map_or(start, |(key, _)| key.offset);
        let mut dropped = 0;
        let last = match end.checked_sub(1) {
            Some(last) if first <= last => last,
            _ => return Ok(0),
        };
        for (at, item) in self.all(inode, kind::EXTENT_OF_FILE, (first, last))? {
            let extent = Extent::decode(inode, at.offset, &item)?;
            let is_inline = matches!(extent.content, Content::Inline { .. });
            if extent.end <= start {
                continue;
            }
            let counts = is_inline || !is_hole(&item, inode)?;
            let gone = extent.end.min(end) - extent.start.max(start);
            dropped += if counts { gone } else { 0 };
            if is_inline {
                if extent.start < start || extent.end > end {
                    return Err(corrupt(inode, "it cuts an inline extent"));
                }
                self.remove(at)?;
                continue;
            }
            if extent.start < start {
                self.set(at, part(&item, inode, 0, start - extent.start)?)?;
            } else {
                self.remove(at)?;
            }
            if extent.end > end {
                let rest = part(&item, inode, end - extent.start, extent.end - end)?;
                self.set(key(end), rest)?;
            }
        }
        Ok(dropped)
    }
}

/// Whether an extent that is not inline has no place on disk, written or not.
fn is_hole(item: &[u8], inode: u64) -> Result<bool, GuestError> {
    Ok(View::new(item, crate::Place::Inode(inode)).u64(21)? == 0)
}

/// The item for a part of an extent.
fn part(item: &[u8], inode: u64, skipped: u64, length: u64) -> Result<Vec<u8>, GuestError> {
    let old_skip = View::new(item, crate::Place::Inode(inode)).u64(content::SKIP_AT)?;
    let skip = match is_hole(item, inode)? {
        true => 0,
        false => old_skip.saturating_add(skipped),
    };
    let mut part = item.to_vec();
    for (at, value) in [(content::SKIP_AT, skip), (content::LENGTH_AT, length)] {
        if let Some(field) = part.get_mut(at..at + 8) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(part)
}
