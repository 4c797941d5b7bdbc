//! Extended attributes, access control lists among them: they are stored as Linux gives them to programs.

use std::ops::ControlFlow;

use export::ExtendedAttribute;

use super::Btrfs;
use super::folder::Entries;
use super::inode::Inode;
use super::key::{Key, kind};
use crate::{GuestError, Place};

impl Btrfs {
    /// What an inode carries.
    pub(super) fn extended_attributes(
        &self,
        inode: &Inode,
    ) -> Result<Vec<ExtendedAttribute>, GuestError> {
        let place = Place::Attributes {
            inode: inode.number,
        };
        let items = &self.subvolume(inode.subvolume)?.items;
        let key = |offset| Key::new(inode.number, kind::ATTRIBUTE, offset);
        let mut found = Vec::new();
        let mut budget = TOTAL_MAX;
        let (first, last) = (key(0), key(u64::MAX));
        items.scan(&self.nodes, first, last, &mut |_, item| {
            // Names of the same hash are in one item.
            for entry in Entries::new(item, place) {
                let entry = entry?;
                if entry.name.is_empty() || entry.name.contains(&0) {
                    return Err(GuestError::corrupt(place, "a name is none"));
                }
                let size = entry.name.len() + entry.value.len();
                budget = budget.checked_sub(size).ok_or(GuestError::TooLarge {
                    what: "the sum of extended attributes",
                    limit: TOTAL_MAX as u64,
                })?;
                found.push(ExtendedAttribute {
                    name: entry.name.to_vec(),
                    value: entry.value.to_vec(),
                });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }
}

/// For all attributes of one inode together.
const TOTAL_MAX: usize = 4 << 20;
