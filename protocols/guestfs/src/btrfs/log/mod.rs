//! The log: what was synced since the last commit, put over the trees of subvolumes in memory.
//!
//! Each subvolume that was synced has a tree of its own with copies of its newest items. They are taken over in three
//! passes, as Linux does it: inodes and what was removed from them, then entries of folders, then names, attributes and
//! extents. In the end the links of all inodes that were touched are counted anew.

mod entries;
mod extents;
mod inodes;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use ::bytes::Bytes;

use self::entries::NameOfInode;
use super::Btrfs;
use super::inode::at;
use super::items::Items;
use super::key::{Key, kind, object};
use super::node::Pointer;
use super::nodes::Nodes;
use super::subvolumes::log_roots;
use super::superblock::feature;
use crate::bytes::View;
use crate::{GuestError, Place};

/// One subvolume and its log.
struct Replay<'a> {
    nodes: &'a Nodes,
    log: &'a Items,
    items: &'a mut Items,
    /// Whether holes have no items.
    without_holes: bool,
    sector: u64,
    /// Inodes of which the links are to be counted.
    relinked: BTreeSet<u64>,
    /// How much was looked through for names.
    compared_bytes: u64,
}

/// Which items of the log are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Inodes,
    Entries,
    Rest,
}

impl Btrfs {
    /// The tree of logs, if there is one to be replayed.
    pub(super) fn log_tree(&self) -> Option<Items> {
        let root = self.superblock.log_root;
        (root.logical != 0).then(|| Items::new(object::LOG, Pointer::to_root(root)))
    }

    /// Takes over what the logs have.
    pub(super) fn replay(&mut self) -> Result<(), GuestError> {
        let Some(tree) = self.log_tree() else {
            return Ok(());
        };
        let sector = u64::from(self.superblock.sector_bytes);
        let sum_bytes = self.superblock.checksum.bytes();
        let mut room = CHECKSUMS_MAX;
        for (subvolume, log) in log_roots(&self.nodes, &tree)? {
            let key = |offset| Key::new(object::CHECKSUMS, kind::CHECKSUMS, offset);
            let checksums = &mut self.logged_checksums;
            log.scan(&self.nodes, key(0), key(u64::MAX), &mut |key, item| {
                room = room.checked_sub(item.len()).ok_or(too_large())?;
                let sums = Bytes::copy_from_slice(item);
                checksums.add(key.offset, sums, sum_bytes, sector);
                Ok(ControlFlow::Continue(()))
            })?;
            // The log of a subvolume that is gone says nothing.
            let Some(index) = self.roots.index_of(subvolume) else {
                continue;
            };
            let Some(subvolume) = self.roots.subvolumes.get_mut(index) else {
                continue;
            };
            let replay = Replay {
                nodes: &self.nodes,
                log: &log,
                items: &mut subvolume.items,
                without_holes: self.superblock.has(feature::NO_HOLES),
                sector,
                relinked: BTreeSet::new(),
                compared_bytes: 0,
            };
            replay.run()?;
            tracing::debug!(
                subvolume = subvolume.items.tree,
                "a log is replayed in memory"
            );
        }
        Ok(())
    }
}

impl Replay<'_> {
    fn run(mut self) -> Result<(), GuestError> {
        for pass in [Pass::Inodes, Pass::Entries, Pass::Rest] {
            // An inode without links is about to go, or never had a name.
            let mut ignored = None;
            let (log, nodes) = (self.log, self.nodes);
            log.scan(nodes, Key::MIN, Key::MAX, &mut |key, item| {
                if key.kind == kind::INODE {
                    let view = View::new(item, Place::Inode(key.object));
                    ignored = (view.u32(at::LINKS)? == 0).then_some(key.object);
                }
                if ignored != Some(key.object) {
                    self.take_over(pass, key, item)?;
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        while let Some(inode) = self.relinked.pop_last() {
            self.count_links(inode)?;
        }
        Ok(())
    }

    fn take_over(&mut self, pass: Pass, key: Key, item: &[u8]) -> Result<(), GuestError> {
        match (pass, key.kind) {
            (Pass::Inodes, kind::INODE) => self.take_inode(key, item),
            (Pass::Entries, kind::ENTRY_BY_INDEX) => self.take_entry(key, item),
            (Pass::Rest, kind::ATTRIBUTE) => self.set(key, item.to_vec()),
            (Pass::Rest, kind::NAME_OF_INODE | kind::FURTHER_NAME_OF_INODE) => {
                self.take_names(key, item)
            }
            (Pass::Rest, kind::EXTENT_OF_FILE) => self.take_extent(key, item),
            _ => Ok(()),
        }
    }

    fn get(&self, key: Key) -> Result<Option<Bytes>, GuestError> {
        self.items.get(self.nodes, key)
    }

    fn set(&mut self, key: Key, item: Vec<u8>) -> Result<(), GuestError> {
        self.items.set(key, item);
        self.check_room()
    }

    fn remove(&mut self, key: Key) -> Result<(), GuestError> {
        self.items.remove(key);
        self.check_room()
    }

    fn check_room(&self) -> Result<(), GuestError> {
        match self.items.changed_bytes() > CHANGES_MAX {
            true => Err(too_large()),
            false => Ok(()),
        }
    }

    /// The items of one kind that an object has, from `first` to `last`.
    fn all(
        &self,
        object: u64,
        kind: u8,
        (first, last): (u64, u64),
    ) -> Result<Vec<(Key, Bytes)>, GuestError> {
        let mut found = Vec::new();
        let (first, last) = (Key::new(object, kind, first), Key::new(object, kind, last));
        let mut room = CHANGES_MAX;
        self.items.scan(self.nodes, first, last, &mut |key, item| {
            room = room.checked_sub(item.len() + 64).ok_or(too_large())?;
            found.push((key, Bytes::copy_from_slice(item)));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Sets the links to the number of names; a folder without any gives up its entries.
    fn count_links(&mut self, inode: u64) -> Result<(), GuestError> {
        let Some(item) = self.get(Key::new(inode, kind::INODE, 0))? else {
            return Ok(());
        };
        let mut links = 0_u32;
        for kind in [kind::NAME_OF_INODE, kind::FURTHER_NAME_OF_INODE] {
            for (key, item) in self.all(inode, kind, (0, u64::MAX))? {
                let names = NameOfInode::all(key, &item)?.len();
                links = links.saturating_add(u32::try_from(names).unwrap_or(u32::MAX));
            }
        }
        self.change_inode(inode, |fields| fields.set_u32(at::LINKS, links))?;
        if links == 0 && inodes::is_folder(inode, &item)? {
            self.remove_entries(inode, (0, u64::MAX), inodes::Kept::None)?;
        }
        Ok(())
    }
}

fn corrupt(inode: u64, detail: &'static str) -> GuestError {
    GuestError::corrupt(Place::Log { inode }, detail)
}

fn too_large() -> GuestError {
    GuestError::TooLarge {
        what: "what the log changes",
        limit: CHANGES_MAX as u64,
    }
}

/// Memory for what the log of a subvolume changes.
const CHANGES_MAX: usize = 64 << 20;
/// Memory for checksums that only the log has.
const CHECKSUMS_MAX: usize = 32 << 20;
