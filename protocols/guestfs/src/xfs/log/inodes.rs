//! Changes of inodes, and new ones.
//!
//! The log has them in the order of bytes of the machine, with numbers where the disk has them; what leads to their content
//! is as on disk, but for the root of a tree of extents, which has more room in memory.

use super::super::blocks::long_header_bytes;
use super::super::inode::{CORE_BYTES, CORE_BYTES_3, MAGIC, flag2};
use super::Moment;
use super::replay::{Replay, When};
use super::transaction::Item;
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// Which inode, where it lies, and what of it changed.
struct Change {
    fields: u32,
    inode: u64,
    device: u32,
    sector: u64,
    sectors: u16,
    offset: u64,
}

impl Change {
    fn decode(view: View<'_>) -> Result<Self, GuestError> {
        // Machines of 32 bits leave no gap.
        let base = match view.len() {
            56.. => 16,
            52 => 12,
            _ => return Err(view.corrupt("the change of an inode is too short")),
        };
        Ok(Self {
            fields: view.u32(4)?,
            inode: view.u64(base)?,
            device: view.u32(base + 8)?,
            sector: view.u64(base + 24)?,
            sectors: u16::try_from(view.u32(base + 32)?)
                .map_err(|_| view.corrupt("an inode lies in too long a buffer"))?,
            offset: u64::from(view.u32(base + 36)?),
        })
    }
}

impl Replay<'_> {
    pub(super) fn inode(&mut self, item: &Item, when: When) -> Result<(), GuestError> {
        let change = Change::decode(item.region(0, when.place)?)?;
        let key = (change.sector, change.sectors);
        if self.cancelled.get(&key).is_some_and(|count| *count > 0) {
            return Ok(());
        }
        let length = self.log.superblock.inode_bytes as usize;
        let at = self.place_of(change.sector, 0, when)? + change.offset;
        self.place_of(at / 512, length, when)?;
        let source = self.log.source;
        let mut stored = self.made.overlay.read(source, at, length)?.to_vec();
        if !stored.starts_with(MAGIC) {
            return Err(GuestError::corrupt(
                Place::Inode(change.inode),
                "the log changes an inode where there is none",
            ));
        }
        let logged = item.region(1, when.place)?;
        if is_newer(&stored, logged, when)? {
            self.note_owner(&change);
            return Ok(());
        }
        copy_core(logged, &mut stored, when.moment)?;
        copy_forks(&change, item, &mut stored, when.place)?;
        self.note_owner(&change);
        self.made.overlay.write(source, at, &stored)
    }

    fn note_owner(&mut self, change: &Change) {
        if change.fields & (field::CONTENT_OWNER | field::ATTRIBUTES_OWNER) != 0 {
            self.made.pending.new_owner(change.inode);
        }
    }

    /// Inodes that were made together: none of them is in use yet.
    pub(super) fn new_inodes(&mut self, item: &Item, when: When) -> Result<(), GuestError> {
        let view = item.region(0, when.place)?;
        let superblock = self.log.superblock;
        let (group, block) = (view.big32(4)?, u64::from(view.big32(8)?));
        let (size, blocks) = (view.big32(16)?, u64::from(view.big32(20)?));
        let generation = view.big32(24)?;
        let bytes = blocks.saturating_mul(u64::from(superblock.block_bytes));
        if size != superblock.inode_bytes || blocks == 0 || bytes > NEW_BYTES_MAX {
            return Err(view.corrupt("new inodes have sizes that contradict each other"));
        }
        let at = superblock.group_bytes(group) + block * u64::from(superblock.block_bytes);
        self.place_of(at / 512, to_usize(bytes), when)?;
        let cluster = superblock.inode_cluster_blocks();
        let sectors = cluster * u64::from(superblock.block_bytes) / 512;
        let sectors_short = u16::try_from(sectors).expect("clusters of inodes are short");
        let is_given_up = (0..blocks.div_ceil(cluster)).any(|number| {
            let key = (at / 512 + number * sectors, sectors_short);
            self.cancelled.get(&key).is_some_and(|count| *count > 0)
        });
        if is_given_up {
            return Ok(());
        }
        let first = superblock.first_inode(group, block);
        let mut content = vec![0; to_usize(bytes)];
        for (number, inode) in (first..).zip(content.chunks_exact_mut(size as usize)) {
            let mut put = |at: usize, value: &[u8]| {
                if let Some(field) = inode.get_mut(at..at + value.len()) {
                    field.copy_from_slice(value);
                }
            };
            put(0, MAGIC);
            put(4, &[3]);
            put(92, &generation.to_be_bytes());
            put(96, &u32::MAX.to_be_bytes());
            put(152, &number.to_be_bytes());
            put(160, &superblock.meta_uuid);
        }
        self.made.overlay.write(self.log.source, at, &content)
    }
}

/// Whether the inode on disk is newer than the change.
fn is_newer(stored: &[u8], logged: View<'_>, when: When) -> Result<bool, GuestError> {
    let stored = View::new(stored, when.place);
    if stored.u8(4)? >= 3 {
        let written = Moment::of(stored.big64(112)?);
        return Ok(written.is_some_and(|written| written > when.moment));
    }
    // How often it was written home, which begins again after the last number.
    let (on_disk, in_log) = (stored.big16(30)?, logged.u16(30)?);
    let began_again = on_disk == u16::MAX && in_log < u16::MAX >> 1;
    Ok(in_log < on_disk && !began_again)
}

/// Turns numbers around and puts them where they belong.
fn copy_core(logged: View<'_>, stored: &mut [u8], moment: Moment) -> Result<(), GuestError> {
    if logged.slice(0, 2)? != MAGIC.iter().rev().copied().collect::<Vec<u8>>() {
        return Err(logged.corrupt("the core of an inode is not one"));
    }
    let version = logged.u8(4)?;
    if stored.get(4).is_some_and(|of| (*of >= 3) != (version >= 3)) {
        return Err(logged.corrupt("the core of an inode is of another version"));
    }
    let flags2 = if version >= 3 { logged.u64(120)? } else { 0 };
    let mut turn = |at: usize, width: usize| -> Result<(), GuestError> {
        let bytes = logged.slice(at, width)?;
        if let Some(field) = stored.get_mut(at..at + width) {
            for (to, from) in field.iter_mut().zip(bytes.iter().rev()) {
                *to = *from;
            }
        }
        Ok(())
    };
    for (at, width) in NUMBERS {
        turn(*at, *width)?;
    }
    if version == 1 {
        turn(6, 2)?;
    }
    let big_counts = flags2 & flag2::BIG_COUNTS != 0;
    if big_counts {
        turn(24, 8)?;
    }
    let times: &[usize] = if version >= 3 {
        &[32, 40, 48, 144]
    } else {
        &[32, 40, 48]
    };
    for at in times {
        if flags2 & flag2::BIG_TIMES != 0 {
            turn(*at, 8)?;
        } else {
            turn(*at, 4)?;
            turn(*at + 4, 4)?;
        }
    }
    turn(76, 4)?;
    if !big_counts {
        turn(80, 2)?;
    }
    if version >= 3 {
        for (at, width) in NUMBERS_3 {
            turn(*at, *width)?;
        }
    }
    let mut put = |at: usize, value: &[u8]| {
        if let Some(field) = stored.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    };
    if !big_counts {
        put(24, &[0; 8]);
    }
    if version >= 3 {
        put(112, &moment.0.to_be_bytes());
        put(160, logged.slice(160, 16)?);
    }
    Ok(())
}

fn copy_forks(
    change: &Change,
    item: &Item,
    stored: &mut [u8],
    place: Place,
) -> Result<(), GuestError> {
    let is_v5 = stored.get(4).is_some_and(|version| *version >= 3);
    let core = if is_v5 { CORE_BYTES_3 } else { CORE_BYTES };
    let offset = usize::from(stored.get(82).copied().unwrap_or(0)) * 8;
    let (_, forks) = stored
        .split_at_mut_checked(core)
        .ok_or(GuestError::corrupt(
            place,
            "an inode is shorter than its core",
        ))?;
    let room = forks.len();
    let behind = if offset == 0 { room } else { offset };
    let (content, attributes) = forks
        .split_at_mut_checked(behind)
        .ok_or(GuestError::corrupt(
            place,
            "the attributes of an inode begin behind its end",
        ))?;
    if change.fields & field::DEVICE != 0
        && let Some(number) = content.first_chunk_mut()
    {
        *number = change.device.to_be_bytes();
    }
    let mut region = 2;
    let parts = [
        (field::CONTENT, field::CONTENT_ROOT, content),
        (field::ATTRIBUTES, field::ATTRIBUTES_ROOT, attributes),
    ];
    for (any, root, fork) in parts {
        if change.fields & any == 0 || region >= item.regions() {
            continue;
        }
        let logged = item.region(region, place)?;
        region += 1;
        if change.fields & root != 0 {
            copy_root(logged, fork, is_v5)?;
        } else if let Some(start) = fork.get_mut(..logged.len()) {
            start.copy_from_slice(logged.all());
        } else {
            return Err(logged.corrupt("a part of an inode is longer than its room"));
        }
    }
    Ok(())
}

/// The root of a tree of extents as it is in memory, to where there is less room.
fn copy_root(logged: View<'_>, fork: &mut [u8], is_v5: bool) -> Result<(), GuestError> {
    let header = long_header_bytes(is_v5);
    let count = usize::from(logged.big16(6)?);
    let room = logged.len().saturating_sub(header) / 16;
    let fork_room = fork.len().saturating_sub(4) / 16;
    if count > room || count > fork_room {
        return Err(logged.corrupt("the root of a tree of extents is longer than its room"));
    }
    let mut put = |at: usize, value: &[u8]| {
        if let Some(field) = fork.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    };
    put(0, logged.slice(4, 4)?);
    put(4, logged.slice(header, count * 8)?);
    put(
        4 + fork_room * 8,
        logged.slice(header + room * 8, count * 8)?,
    );
    Ok(())
}

/// Numbers of every inode: where, and how long.
const NUMBERS: &[(usize, usize)] = &[
    (0, 2),
    (2, 2),
    (4, 1),
    (5, 1),
    (8, 4),
    (12, 4),
    (16, 4),
    (20, 2),
    (22, 2),
    (56, 8),
    (64, 8),
    (72, 4),
    (82, 1),
    (83, 1),
    (84, 4),
    (88, 2),
    (90, 2),
    (92, 4),
];
/// Those of version 3.
const NUMBERS_3: &[(usize, usize)] = &[(104, 8), (120, 8), (128, 4), (152, 8)];
/// As many as 64 of the largest.
const NEW_BYTES_MAX: u64 = 128 << 10;

mod field {
    pub(super) const CONTENT_ROOT: u32 = 0x8;
    pub(super) const CONTENT: u32 = 0x2 | 0x4 | CONTENT_ROOT;
    pub(super) const DEVICE: u32 = 0x10;
    pub(super) const ATTRIBUTES_ROOT: u32 = 0x100;
    pub(super) const ATTRIBUTES: u32 = 0x40 | 0x80 | ATTRIBUTES_ROOT;
    pub(super) const CONTENT_OWNER: u32 = 0x200;
    pub(super) const ATTRIBUTES_OWNER: u32 = 0x400;
}
