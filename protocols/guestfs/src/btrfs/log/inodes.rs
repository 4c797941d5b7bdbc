//! Inodes out of the log, and what was removed from them.

use std::ops::ControlFlow;

use ::bytes::Bytes;

use super::super::folder::{Entries, Entry};
use super::super::inode::{FOLDER, REGULAR, TYPE, at};
use super::super::key::{Key, kind};
use super::{Replay, corrupt};
use crate::bytes::View;
use crate::{GuestError, Place};

/// An inode's item that is being changed.
pub(super) struct Fields(Vec<u8>);

/// Which entries of a folder are not removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Those that the log has too.
    Logged,
    None,
}

impl Fields {
    pub(super) fn u32(&self, at: usize) -> Result<u32, GuestError> {
        View::new(&self.0, Place::Superblock).u32(at)
    }

    pub(super) fn u64(&self, at: usize) -> Result<u64, GuestError> {
        View::new(&self.0, Place::Superblock).u64(at)
    }

    pub(super) fn set_u32(&mut self, at: usize, value: u32) -> Result<(), GuestError> {
        self.put(at, &value.to_le_bytes())
    }

    pub(super) fn set_u64(&mut self, at: usize, value: u64) -> Result<(), GuestError> {
        self.put(at, &value.to_le_bytes())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<(), GuestError> {
        let field = self.0.get_mut(at..at + bytes.len());
        let field = field.ok_or(corrupt(0, "an inode is too short"))?;
        field.copy_from_slice(bytes);
        Ok(())
    }

    fn is(&self, kind: u32) -> Result<bool, GuestError> {
        Ok(self.u32(at::MODE)? & TYPE == kind)
    }
}

pub(super) fn is_folder(inode: u64, item: &[u8]) -> Result<bool, GuestError> {
    let mode = View::new(item, Place::Inode(inode)).u32(at::MODE)?;
    Ok(mode & TYPE == FOLDER)
}

impl Replay<'_> {
    pub(super) fn inode(&self, inode: u64) -> Result<Option<Bytes>, GuestError> {
        self.get(Key::new(inode, kind::INODE, 0))
    }

    /// Changes an inode that is there.
    pub(super) fn change_inode(
        &mut self,
        inode: u64,
        change: impl FnOnce(&mut Fields) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let item = self.inode(inode)?;
        let item = item.ok_or_else(|| corrupt(inode, "it leads to an inode that is not there"))?;
        let mut fields = Fields(item.to_vec());
        change(&mut fields)?;
        self.set(Key::new(inode, kind::INODE, 0), fields.0)
    }

    /// Takes an inode over, after what it no longer has is gone.
    pub(super) fn take_inode(&mut self, key: Key, item: &[u8]) -> Result<(), GuestError> {
        let inode = key.object;
        self.remove_attributes(inode)?;
        if is_folder(inode, item)? && self.inode(inode)?.is_some() {
            for range in self.logged_ranges(inode)? {
                self.remove_entries(inode, range, Kept::Logged)?;
            }
        }
        self.overwrite_inode(key, item)?;
        let is_regular = Fields(item.to_vec()).is(REGULAR)?;
        if is_regular && let Some(item) = self.inode(inode)? {
            // Space behind the end was given up; what the log has of it comes back.
            let size = Fields(item.to_vec()).u64(at::SIZE)?;
            let end = size.checked_next_multiple_of(self.sector);
            let end = end.ok_or_else(|| corrupt(inode, "a size is out of bounds"))?;
            let dropped = self.drop_extents(inode, end, u64::MAX)?;
            self.change_inode(inode, |fields| {
                let stored = fields.u64(at::STORED)?;
                fields.set_u64(at::STORED, stored.saturating_sub(dropped))
            })?;
        }
        self.relinked.insert(inode);
        Ok(())
    }

    /// Space and sizes of folders are those that the replay makes, not those of the log.
    fn overwrite_inode(&mut self, key: Key, item: &[u8]) -> Result<(), GuestError> {
        let mut new = Fields(item.to_vec());
        let is_only_mentioned = new.u64(at::GENERATION)? == 0;
        if let Some(old) = self.get(key)? {
            if old == item {
                return Ok(());
            }
            let mut old = Fields(old.to_vec());
            if is_only_mentioned {
                // It was logged only as somebody leads to it.
                let size = new.u64(at::SIZE)?;
                if new.is(REGULAR)? && old.is(REGULAR)? && size != 0 {
                    old.set_u64(at::SIZE, size)?;
                }
                return self.set(key, old.0);
            }
            new.set_u64(at::STORED, old.u64(at::STORED)?)?;
            if new.is(FOLDER)? {
                let size = if old.is(FOLDER)? {
                    old.u64(at::SIZE)?
                } else {
                    0
                };
                new.set_u64(at::SIZE, size)?;
            }
        } else {
            new.set_u64(at::STORED, 0)?;
            if new.is(FOLDER)? {
                new.set_u64(at::SIZE, 0)?;
            }
        }
        self.set(key, new.0)
    }

    /// Removes extended attributes that the log does not have.
    fn remove_attributes(&mut self, inode: u64) -> Result<(), GuestError> {
        let place = Place::Log { inode };
        for (key, item) in self.all(inode, kind::ATTRIBUTE, (0, u64::MAX))? {
            let logged = self.log.get(self.nodes, key)?.unwrap_or_default();
            let logged: Vec<Entry<'_>> = Entries::new(&logged, place).collect::<Result<_, _>>()?;
            let mut kept = Vec::new();
            for entry in Entries::new(&item, place) {
                let entry = entry?;
                if logged.iter().any(|other| other.name == entry.name) {
                    entry.encode(&mut kept);
                }
            }
            if kept.is_empty() {
                self.remove(key)?;
            } else if kept.len() != item.len() {
                self.set(key, kept)?;
            }
        }
        Ok(())
    }

    /// Places of entries in a folder of which the log knows all.
    fn logged_ranges(&self, folder: u64) -> Result<Vec<(u64, u64)>, GuestError> {
        let key = |offset| Key::new(folder, kind::LOGGED_RANGE, offset);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let (first, last) = (key(0), key(u64::MAX));
        self.log.scan(self.nodes, first, last, &mut |key, item| {
            let end = View::new(item, Place::Log { inode: folder }).u64(0)?;
            match ranges.last_mut() {
                Some((_, before)) if *before >= key.offset => *before = end.max(*before),
                _ => ranges.push((key.offset, end)),
            }
            if ranges.len() > RANGES_MAX {
                return Err(super::too_large());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(ranges)
    }

    /// Removes the entries of a folder at `places`.
    pub(super) fn remove_entries(
        &mut self,
        folder: u64,
        (first, last): (u64, u64),
        kept: Kept,
    ) -> Result<(), GuestError> {
        let key = |offset| Key::new(folder, kind::ENTRY_BY_INDEX, offset);
        let place = Place::Log { inode: folder };
        let mut removed = Vec::new();
        let (first, last) = (key(first), key(last));
        self.items.scan(self.nodes, first, last, &mut |key, item| {
            let entry = single(item, place)?;
            if kept == Kept::Logged
                && let Some(logged) = self.log.get(self.nodes, key)?
                && single(&logged, place)?.name == entry.name
            {
                return Ok(ControlFlow::Continue(()));
            }
            if removed.len() > RANGES_MAX {
                return Err(super::too_large());
            }
            if entry.leads_to.kind != kind::INODE {
                return Err(corrupt(folder, "it removes a subvolume"));
            }
            removed.push((entry.leads_to.object, entry.name.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        for (inode, name) in removed {
            self.relinked.insert(inode);
            self.unlink(folder, inode, &name)?;
        }
        Ok(())
    }
}

/// The one entry that an item has.
pub(super) fn single(item: &[u8], place: Place) -> Result<Entry<'_>, GuestError> {
    let entry = Entries::new(item, place).next().transpose()?;
    entry.ok_or(GuestError::corrupt(place, "an entry has no name"))
}

/// Ranges, and entries that are removed, of one folder.
const RANGES_MAX: usize = 1 << 18;
