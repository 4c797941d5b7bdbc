//! What transactions announced and a crash kept them from doing.
//!
//! The kernel does it after its replay. To free blocks and to count their owners changes nothing that can be read here: the
//! blocks stay in use. Blocks that were to get into a file, or out of it, are shown as if that had been done. Files whose
//! content or attributes were to change in other ways are errors, one by one.

use std::collections::{BTreeMap, BTreeSet};

use super::super::inode::{Fork, Inode, Which};
use super::super::mapping::Mapped;
use super::transaction::Item;
use crate::{GuestError, Place};

/// What is left to be done, by inode.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Announced and not yet done, in order.
    open: BTreeMap<u64, Intent>,
    by_id: BTreeMap<(u16, u64), u64>,
    next: u64,
    moves: BTreeMap<u64, Vec<Move>>,
    contents: BTreeSet<u64>,
    attributes: BTreeSet<u64>,
    /// Inodes whose blocks may still say that they belong to another.
    owners: BTreeSet<u64>,
}

#[derive(Debug)]
enum Intent {
    /// Of no consequence for files.
    Space,
    Moves(Vec<Move>),
    Attributes(u64),
    Exchange(u64, u64),
}

/// Blocks that get into a file or out of it.
#[derive(Debug, Clone, Copy)]
struct Move {
    inode: u64,
    logical: u64,
    physical: u64,
    blocks: u64,
    flags: u32,
}

impl Pending {
    /// Notes an item that announces something or says that it is done; `false` for any other.
    pub(super) fn note(
        &mut self,
        kind: u16,
        item: &Item,
        place: Place,
    ) -> Result<bool, GuestError> {
        let view = item.region(0, place)?;
        let id = view.u64(8)?;
        let intent = match kind {
            FREE | OWNERS | SHARES | FREE_REALTIME | OWNERS_REALTIME | SHARES_REALTIME => {
                Intent::Space
            }
            MOVE => {
                let count = view.u32(4)? as usize;
                let moves = (0..count.min(MOVES_MAX + 1)).map(|number| {
                    let at = 16 + number * 32;
                    Ok(Move {
                        inode: view.u64(at)?,
                        physical: view.u64(at + 8)?,
                        logical: view.u64(at + 16)?,
                        blocks: u64::from(view.u32(at + 24)?),
                        flags: view.u32(at + 28)?,
                    })
                });
                let moves: Vec<Move> = moves.collect::<Result<_, GuestError>>()?;
                if moves.len() > MOVES_MAX {
                    return Err(view.corrupt("too many blocks are to be moved at once"));
                }
                Intent::Moves(moves)
            }
            ATTRIBUTE => {
                let inode = view.u64(16)?;
                match view.u32(24)? & 0xFF {
                    // Pointers to parents, which nobody sees.
                    4..=6 => Intent::Space,
                    _ => Intent::Attributes(inode),
                }
            }
            EXCHANGE => Intent::Exchange(view.u64(16)?, view.u64(24)?),
            done if (FREE..=SHARES_REALTIME + 1).contains(&done) && is_done(done) => {
                if let Some(number) = self.by_id.remove(&(done - 1, id)) {
                    self.open.remove(&number);
                }
                return Ok(true);
            }
            _ => return Ok(false),
        };
        if let Some(older) = self.by_id.insert((kind, id), self.next) {
            // The id is an address of the kernel's memory: there is another only if the first was done.
            self.open.remove(&older);
        }
        self.open.insert(self.next, intent);
        self.next += 1;
        Ok(true)
    }

    pub(super) fn new_owner(&mut self, inode: u64) {
        self.owners.insert(inode);
    }

    /// Sorts what is left by inode.
    pub(super) fn finish(&mut self) -> Result<(), GuestError> {
        self.by_id.clear();
        for intent in std::mem::take(&mut self.open).into_values() {
            match intent {
                Intent::Space => {}
                Intent::Moves(moves) => {
                    for one in moves {
                        if one.flags & flag::OF_ATTRIBUTES != 0 {
                            self.attributes.insert(one.inode);
                        } else if !matches!(one.flags & flag::KIND, flag::IN | flag::OUT) {
                            return Err(GuestError::unsupported(format!(
                                "an XFS log that moves blocks in the unknown way {:#x}",
                                one.flags
                            )));
                        } else {
                            self.moves.entry(one.inode).or_default().push(one);
                        }
                    }
                }
                Intent::Attributes(inode) => {
                    self.attributes.insert(inode);
                }
                Intent::Exchange(one, other) => {
                    self.contents.extend([one, other]);
                    self.attributes.extend([one, other]);
                }
            }
        }
        Ok(())
    }

    /// Refuses a file whose content was being exchanged with that of another.
    pub(crate) fn check_content(&self, inode: u64) -> Result<(), GuestError> {
        if self.contents.contains(&inode) {
            return Err(GuestError::unsupported(format!(
                "inode {inode}, whose content was being exchanged when the guest stopped"
            )));
        }
        Ok(())
    }

    /// Refuses attributes that were being changed.
    pub(crate) fn check_attributes(&self, inode: u64) -> Result<(), GuestError> {
        if self.attributes.contains(&inode) {
            return Err(GuestError::unsupported(format!(
                "inode {inode}, whose attributes were being changed when the guest stopped"
            )));
        }
        Ok(())
    }

    /// Whether blocks of an inode's trees may still bear another's number.
    pub(crate) fn has_new_owner(&self, inode: u64) -> bool {
        self.owners.contains(&inode)
    }

    /// What was found to be at `logical`, with what was to be moved there.
    pub(crate) fn remap(
        &self,
        fork: &Fork<'_>,
        logical: u64,
        found: Mapped,
    ) -> Result<Mapped, GuestError> {
        let moves = self.moves.get(&fork.inode.number);
        let Some(moves) = moves.filter(|_| fork.which == Which::Content) else {
            return Ok(found);
        };
        let mut mapped = found;
        for one in moves {
            let Some(skip) = logical.checked_sub(one.logical) else {
                mapped.blocks = mapped.blocks.min(one.logical - logical);
                continue;
            };
            if skip >= one.blocks {
                continue;
            }
            let is_content = one.flags & (flag::KIND | flag::UNWRITTEN) == flag::IN;
            let physical = one.physical.checked_add(skip);
            mapped = Mapped {
                physical: physical.filter(|_| is_content),
                blocks: (one.blocks - skip).min(mapped.blocks),
            };
        }
        Ok(mapped)
    }

    /// How many blocks an inode has when all is done.
    pub(crate) fn used_blocks(&self, inode: &Inode) -> u64 {
        let moves = self.moves.get(&inode.number).into_iter().flatten();
        moves.fold(inode.used_blocks, |blocks, one| {
            match one.flags & flag::KIND {
                flag::IN => blocks.saturating_add(one.blocks),
                _ => blocks.saturating_sub(one.blocks),
            }
        })
    }
}

/// Whether an item says that what the one before it in number announces was done.
fn is_done(kind: u16) -> bool {
    matches!(
        kind - 1,
        FREE | OWNERS
            | SHARES
            | MOVE
            | ATTRIBUTE
            | EXCHANGE
            | FREE_REALTIME
            | OWNERS_REALTIME
            | SHARES_REALTIME
    )
}

const FREE: u16 = 0x1236;
const OWNERS: u16 = 0x1240;
const SHARES: u16 = 0x1242;
const MOVE: u16 = 0x1244;
const ATTRIBUTE: u16 = 0x1246;
const EXCHANGE: u16 = 0x1248;
const FREE_REALTIME: u16 = 0x124A;
const OWNERS_REALTIME: u16 = 0x124C;
const SHARES_REALTIME: u16 = 0x124E;
/// XFS announces one at a time.
const MOVES_MAX: usize = 16;

mod flag {
    pub(super) const KIND: u32 = 0xFF;
    pub(super) const IN: u32 = 1;
    pub(super) const OUT: u32 = 2;
    pub(super) const UNWRITTEN: u32 = 1 << 30;
    pub(super) const OF_ATTRIBUTES: u32 = 1 << 31;
}
