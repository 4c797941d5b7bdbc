//! The kernel's inode numbers and the tree's own.
//!
//! The kernel wants 1 for the root and never 0; a tree has any number for any object. The root changes places with 1,
//! and what would then be 0 goes by the greatest number. So no table is kept, and forgetting costs nothing. The one
//! number that is left over, the greatest itself, cannot be shown.

use export::{ExportError, FileId};
use fuser::INodeNo;

/// The mapping for one tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    root: u64,
}

impl Numbers {
    pub(crate) fn new(root: FileId) -> Self {
        Self { root: root.0 }
    }

    /// The kernel's number of an object.
    pub(crate) fn inode(self, file: FileId) -> Result<INodeNo, ExportError> {
        match self.swap(file.0) {
            0 => Ok(INodeNo(u64::MAX)),
            u64::MAX => Err(ExportError::NotSupported),
            number => Ok(INodeNo(number)),
        }
    }

    /// The object of one of the kernel's numbers.
    pub(crate) fn file(self, inode: INodeNo) -> FileId {
        FileId(match inode.0 {
            u64::MAX => self.swap(0),
            number => self.swap(number),
        })
    }

    fn swap(self, number: u64) -> u64 {
        if number == self.root {
            INodeNo::ROOT.0
        } else if number == INodeNo::ROOT.0 {
            self.root
        } else {
            number
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back_and_the_root_is_one() {
        for root in [0, 1, 2, 77, u64::MAX - 1, u64::MAX] {
            let numbers = Numbers::new(FileId(root));
            assert_eq!(numbers.inode(FileId(root)).unwrap(), INodeNo::ROOT);
            let mut seen = std::collections::HashSet::new();
            let mut refused = 0;
            for file in [0, 1, 2, 3, 76, 77, 78, u64::MAX - 2, u64::MAX - 1, u64::MAX] {
                let Ok(inode) = numbers.inode(FileId(file)) else {
                    refused += 1;
                    continue;
                };
                assert_ne!(inode.0, 0);
                assert!(seen.insert(inode.0), "{file} of {root}");
                assert_eq!(numbers.file(inode), FileId(file), "{file} of {root}");
            }
            assert_eq!(refused, 1, "the one that is left over");
        }
    }
}
