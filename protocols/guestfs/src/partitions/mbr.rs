//! The partition table of the PC's first sector, with its chain of logical partitions.

use std::collections::BTreeSet;

use super::{Entry, Table};
use crate::bytes::View;
use crate::{GuestError, Place, Source};

/// Whether the first sector says that the disk has a GPT.
pub(crate) fn claims_gpt(first_sector: &[u8]) -> bool {
    slots(first_sector).is_some_and(|slots| slots.iter().any(|slot| slot.kind == PROTECTIVE))
}

/// Whether the first sector has no table, or an empty one.
pub(crate) fn is_blank(first_sector: &[u8]) -> bool {
    slots(first_sector).is_none_or(|slots| slots.iter().all(Slot::is_free))
}

/// Entries of the table, counted in units of `sector_bytes`; `None` if there is none that makes sense.
pub(crate) fn read(disk: &dyn Source, sector_bytes: u64) -> Result<Option<Table>, GuestError> {
    let first = disk.read(0, SECTOR_BYTES)?.to_vec();
    let sectors = disk.length_bytes() / sector_bytes;
    let Some(slots) = slots(&first) else {
        return Ok(None);
    };
    let sound = slots
        .iter()
        .all(|slot| slot.is_free() || (slot.start > 0 && u64::from(slot.start) < sectors));
    if !sound || slots.iter().all(Slot::is_free) || slots.iter().any(|slot| slot.status & 0x7F != 0)
    {
        return Ok(None);
    }
    let mut table = Table {
        entries: Vec::new(),
        own: vec![0],
        is_whole: true,
    };
    let mut chain = None;
    for (number, slot) in (1..).zip(&slots) {
        if slot.is_extended() {
            chain.get_or_insert(u64::from(slot.start));
        } else if !slot.is_free() {
            let entry = slot.entry(number, 0, sector_bytes, disk.length_bytes());
            table.entries.extend(entry);
        }
    }
    if let Some(start) = chain {
        follow(disk, sector_bytes, start, &mut table)?;
    }
    Ok(Some(table))
}

/// Adds logical partitions from the chain that begins at sector `first`; those before the first fault if it has one.
fn follow(
    disk: &dyn Source,
    sector_bytes: u64,
    first: u64,
    table: &mut Table,
) -> Result<(), GuestError> {
    let mut seen = BTreeSet::new();
    let mut next = first;
    let mut number = 5;
    while seen.len() < LOGICAL_MAX {
        let at = next * sector_bytes;
        if !seen.insert(next) || at + SECTOR_BYTES as u64 > disk.length_bytes() {
            tracing::warn!(sector = next, "the chain of logical partitions is damaged");
            table.is_whole = false;
            return Ok(());
        }
        table.own.push(at);
        let sector = disk.read(at, SECTOR_BYTES)?.to_vec();
        let Some([own, link, ..]) = slots(&sector) else {
            tracing::warn!(sector = next, "the chain of logical partitions is damaged");
            table.is_whole = false;
            return Ok(());
        };
        if !own.is_free() && !own.is_extended() {
            let entry = own.entry(number, next, sector_bytes, disk.length_bytes());
            table.entries.extend(entry);
            number += 1;
        }
        if !link.is_extended() {
            return Ok(());
        }
        next = first + u64::from(link.start);
    }
    table.is_whole = false;
    Ok(())
}

/// The four lines of a table.
fn slots(sector: &[u8]) -> Option<[Slot; 4]> {
    let view = View::new(sector, Place::PartitionTable { offset_bytes: 0 });
    if view.u16(510).ok()? != SIGNATURE {
        return None;
    }
    let slot = |at: usize| {
        let slot = Slot {
            status: view.u8(at).ok()?,
            kind: view.u8(at + 4).ok()?,
            start: view.u32(at + 8).ok()?,
            count: view.u32(at + 12).ok()?,
        };
        Some(slot)
    };
    Some([slot(446)?, slot(462)?, slot(478)?, slot(494)?])
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    status: u8,
    kind: u8,
    start: u32,
    count: u32,
}

impl Slot {
    fn is_free(&self) -> bool {
        self.kind == 0 || self.count == 0
    }

    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85) && self.count > 0
    }

    fn entry(&self, number: u32, base: u64, sector_bytes: u64, disk_bytes: u64) -> Option<Entry> {
        let offset_bytes = (base + u64::from(self.start)) * sector_bytes;
        let room = disk_bytes
            .checked_sub(offset_bytes)
            .filter(|room| *room > 0)?;
        Some(Entry {
            number,
            offset_bytes,
            length_bytes: (u64::from(self.count) * sector_bytes).min(room),
            kind: self.kind_name(),
            label: None,
        })
    }

    fn kind_name(&self) -> String {
        let known = match self.kind {
            0x01 | 0x04 | 0x06 | 0x0B | 0x0C | 0x0E => "FAT",
            0x07 => "NTFS or exFAT",
            0x27 => "Windows recovery",
            0x42 => "Windows LDM",
            0x82 => "Linux swap",
            0x83 => "Linux filesystem",
            0x8E => "Linux LVM",
            0xEF => "EFI system",
            0xFD => "Linux RAID",
            other => return format!("type {other:#04x}"),
        };
        known.to_owned()
    }
}

const SECTOR_BYTES: usize = 512;
const SIGNATURE: u16 = 0xAA55;
const PROTECTIVE: u8 = 0xEE;
const LOGICAL_MAX: usize = 128;
