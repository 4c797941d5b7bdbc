//! Names of objects in 48 bits, the same whenever an image is opened.
//!
//! The upper bits are the place of the subvolume in the list of all, the lower ones the number of the inode; as few bits
//! are taken for the former as the list needs. A second half of the list is for the empty places of subvolumes, with the
//! number of the subvolume in place of the inode's.

use export::FileId;

use super::folder::Target;
use super::key::object;
use crate::GuestError;
use crate::bytes::to_usize;

/// How numbers are put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    subvolumes: u64,
    inode_bits: u32,
}

impl Names {
    pub(super) fn new(subvolumes: usize) -> Self {
        let subvolumes = subvolumes as u64;
        let index_bits = u64::BITS - (subvolumes * 2).saturating_sub(1).leading_zeros();
        Self {
            subvolumes,
            inode_bits: NAME_BITS - index_bits.min(NAME_BITS - 1),
        }
    }

    /// The uppermost folder of the first subvolume.
    pub(super) fn root(&self) -> FileId {
        FileId(object::FIRST)
    }

    pub(super) fn file(&self, target: Target) -> Result<FileId, GuestError> {
        let (index, number) = match target {
            Target::Object { subvolume, inode } => (subvolume as u64, inode),
            Target::Empty { within, subvolume } => (self.subvolumes + within as u64, subvolume),
        };
        if number == 0 || number >> self.inode_bits != 0 {
            return Err(GuestError::TooLarge {
                what: "the number of an inode",
                limit: 1 << self.inode_bits,
            });
        }
        Ok(FileId(index << self.inode_bits | number))
    }

    pub(super) fn target(&self, file: FileId) -> Result<Target, GuestError> {
        let index = file.0 >> self.inode_bits;
        let number = file.0 & ((1 << self.inode_bits) - 1);
        if number == 0 {
            return Err(GuestError::NotFound);
        }
        match index.checked_sub(self.subvolumes) {
            None => Ok(Target::Object {
                subvolume: to_usize(index),
                inode: number,
            }),
            Some(within) if within < self.subvolumes => Ok(Target::Empty {
                within: to_usize(within),
                subvolume: number,
            }),
            Some(_) => Err(GuestError::NotFound),
        }
    }
}

const NAME_BITS: u32 = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_have_48_bits() {
        for subvolumes in [1_usize, 2, 3, 1000, 1 << 20] {
            let names = Names::new(subvolumes);
            let inode = (1 << names.inode_bits) - 1;
            let last = subvolumes - 1;
            for target in [
                Target::Object {
                    subvolume: 0,
                    inode: 256,
                },
                Target::Object {
                    subvolume: last,
                    inode,
                },
                Target::Empty {
                    within: last,
                    subvolume: inode,
                },
            ] {
                let file = names.file(target).unwrap();
                assert!(file.0 >> 48 == 0 && file.0 != 0, "{subvolumes}");
                assert_eq!(names.target(file).unwrap(), target, "{subvolumes}");
            }
            let beyond = Target::Object {
                subvolume: 0,
                inode: inode + 1,
            };
            assert!(names.file(beyond).is_err());
        }
    }
}
