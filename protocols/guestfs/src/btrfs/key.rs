//! Keys, by which everything in a tree is in order.

use crate::GuestError;
use crate::bytes::View;

/// Name of an item in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    pub(super) const MIN: Self = Self::new(0, 0, 0);
    pub(super) const MAX: Self = Self::new(u64::MAX, u8::MAX, u64::MAX);

    pub(super) const fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self {
            object,
            kind,
            offset,
        }
    }

    pub(super) fn decode(view: View<'_>, at: usize) -> Result<Self, GuestError> {
        Ok(Self::new(
            view.u64(at)?,
            view.u8(at + 8)?,
            view.u64(at + 9)?,
        ))
    }

    /// The key right before this one.
    pub(super) fn before(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_sub(1) {
            return Some(Self { offset, ..self });
        }
        if let Some(kind) = self.kind.checked_sub(1) {
            return Some(Self::new(self.object, kind, u64::MAX));
        }
        let object = self.object.checked_sub(1)?;
        Some(Self::new(object, u8::MAX, u64::MAX))
    }
}

pub(super) const KEY_BYTES: usize = 17;

/// What an item is.
pub(super) mod kind {
    pub(crate) const INODE: u8 = 1;
    pub(crate) const NAME_OF_INODE: u8 = 12;
    pub(crate) const FURTHER_NAME_OF_INODE: u8 = 13;
    pub(crate) const ATTRIBUTE: u8 = 24;
    pub(crate) const LOGGED_RANGE: u8 = 72;
    pub(crate) const ENTRY_BY_HASH: u8 = 84;
    pub(crate) const ENTRY_BY_INDEX: u8 = 96;
    pub(crate) const EXTENT_OF_FILE: u8 = 108;
    pub(crate) const CHECKSUMS: u8 = 128;
    pub(crate) const ROOT: u8 = 132;
    pub(crate) const NAME_OF_SUBVOLUME: u8 = 144;
    pub(crate) const EXTENT: u8 = 168;
    pub(crate) const NODE_EXTENT: u8 = 169;
    pub(crate) const BLOCK_GROUP: u8 = 192;
    pub(crate) const CHUNK: u8 = 228;
}

/// Numbers of trees and of things that are in one place only.
pub(super) mod object {
    pub(crate) const ROOT_TREE: u64 = 1;
    pub(crate) const EXTENT_TREE: u64 = 2;
    pub(crate) const CHUNK_TREE: u64 = 3;
    pub(crate) const TOP_SUBVOLUME: u64 = 5;
    pub(crate) const CHECKSUM_TREE: u64 = 7;
    pub(crate) const BLOCK_GROUP_TREE: u64 = 11;
    pub(crate) const LOG: u64 = u64::MAX - 5;
    pub(crate) const CHECKSUMS: u64 = u64::MAX - 9;
    pub(crate) const CHUNKS: u64 = 256;
    /// The least number of a subvolume, and of an inode: that of a subvolume's uppermost folder.
    pub(crate) const FIRST: u64 = 256;
    /// The greatest number of a subvolume, and of an inode.
    pub(crate) const LAST: u64 = u64::MAX - 255;
}

/// Whether a tree is a subvolume, of which nodes are shared with others.
pub(super) fn is_subvolume(tree: u64) -> bool {
    tree == object::TOP_SUBVOLUME || (object::FIRST..=u64::MAX >> 1).contains(&tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_of_their_parts() {
        assert!(Key::new(1, 9, 9) < Key::new(2, 0, 0));
        assert!(Key::new(2, 1, 9) < Key::new(2, 2, 0));
        assert_eq!(Key::new(1, 0, 0).before(), Some(Key::new(0, 255, u64::MAX)));
        assert_eq!(Key::new(1, 4, 0).before(), Some(Key::new(1, 3, u64::MAX)));
        assert_eq!(Key::MIN.before(), None);
        assert!(is_subvolume(5) && is_subvolume(256));
        assert!(!is_subvolume(7) && !is_subvolume(object::LOG));
    }
}
