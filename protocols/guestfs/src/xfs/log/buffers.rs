//! Changes of blocks.

use std::collections::hash_map::Entry;

use super::super::device::SECTOR;
use super::Moment;
use super::replay::{Replay, When};
use super::transaction::Item;
use crate::bytes::View;
use crate::{GuestError, Place};

/// Some sectors, and which pieces of them are in the log.
pub(super) struct Buffer<'a> {
    sector: u64,
    sectors: u16,
    flags: u16,
    map: View<'a>,
}

impl<'a> Buffer<'a> {
    pub(super) fn decode(item: &'a Item, place: Place) -> Result<Self, GuestError> {
        let view = item.region(0, place)?;
        let words = view.u32(16)? as usize;
        let length = words
            .checked_mul(4)
            .ok_or_else(|| view.corrupt("the map of a buffer is too long"))?;
        Ok(Self {
            flags: view.u16(4)?,
            sectors: view.u16(6)?,
            sector: view.u64(8)?,
            map: View::new(view.slice(20, length)?, place),
        })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.flags & flag::CANCELLED != 0
    }

    pub(super) fn key(&self) -> (u64, u16) {
        (self.sector, self.sectors)
    }

    fn is_marked(&self, chunk: usize) -> bool {
        let word = self.map.u32(chunk / 32 * 4).unwrap_or(0);
        word >> (chunk % 32) & 1 == 1
    }

    fn kind(&self) -> u16 {
        self.flags >> 11
    }
}

impl Replay<'_> {
    pub(super) fn buffer(&mut self, item: &Item, when: When) -> Result<(), GuestError> {
        let buffer = Buffer::decode(item, when.place)?;
        let still = self.cancelled.get_mut(&buffer.key());
        if let Some(count) = still.filter(|count| **count > 0) {
            if buffer.is_cancelled() {
                *count -= 1;
            }
            return Ok(());
        }
        // Those with inodes carry lists of inodes without a name only, and quotas are not shown.
        if buffer.flags & (flag::CANCELLED | flag::INODES | flag::QUOTAS) != 0 {
            return Ok(());
        }
        let length = usize::from(buffer.sectors) * SECTOR;
        let at = self.place_of(buffer.sector, length, when)?;
        let written = self.written(&buffer, at)?;
        if written.is_some_and(|written| written >= when.moment) {
            return Ok(());
        }
        let chunks = length / CHUNK_BYTES;
        let mut chunk = 0;
        let mut region = 1;
        while chunk < chunks {
            if !buffer.is_marked(chunk) {
                chunk += 1;
                continue;
            }
            let bytes = item.region(region, when.place)?;
            let run = (chunk..chunks)
                .take(bytes.len() / CHUNK_BYTES)
                .take_while(|at| buffer.is_marked(*at))
                .count();
            if run == 0 {
                return Err(bytes.corrupt("a piece of a buffer is too short"));
            }
            let content = bytes.slice(0, run * CHUNK_BYTES)?;
            let source = self.log.source;
            let to = at + (chunk * CHUNK_BYTES) as u64;
            self.made.overlay.write(source, to, content)?;
            chunk += run;
            region += 1;
        }
        Ok(())
    }

    /// Where sectors begin on the volume.
    pub(super) fn place_of(
        &self,
        sector: u64,
        length: usize,
        when: When,
    ) -> Result<u64, GuestError> {
        // By the volume, as the filesystem may have grown in a transaction of this very log.
        sector
            .checked_mul(SECTOR as u64)
            .filter(|at| {
                at.checked_add(length as u64)
                    .is_some_and(|end| end <= self.log.source.length_bytes())
            })
            .ok_or(GuestError::corrupt(
                when.place,
                "a change is of a place that the volume does not have",
            ))
    }

    /// When a buffer was written home, if it says so: older changes of it have been made.
    fn written(&mut self, buffer: &Buffer<'_>, at: u64) -> Result<Option<Moment>, GuestError> {
        if !self.log.superblock.is_v5()
            || matches!(buffer.kind(), REALTIME_BITMAP | REALTIME_SUMMARY)
        {
            return Ok(None);
        }
        match self.written.entry(at) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(new) => {
                // From the disk: what was replayed since is from before this transaction.
                let bytes = self.log.source.read(at, SECTOR)?.to_vec();
                let view = View::new(&bytes, Place::Head);
                Ok(*new.insert(stamp(view, &self.log.superblock.meta_uuid)?))
            }
        }
    }
}

/// The moment in a structure that begins with `view`, if it is one of this filesystem that has one.
fn stamp(view: View<'_>, uuid: &[u8; 16]) -> Result<Option<Moment>, GuestError> {
    let places = match view.slice(0, 4)? {
        b"AB3B" | b"AB3C" | b"ABTB" | b"ABTC" | b"IAB3" | b"IABT" | b"FIB3" | b"FIBT" | b"RMB3"
        | b"R3FC" => Some((24, 32)),
        b"BMA3" | b"BMAP" => Some((32, 40)),
        b"XAGF" => Some((208, 64)),
        b"XAFL" => Some((24, 8)),
        b"XAGI" => Some((320, 296)),
        b"XSLM" => Some((48, 16)),
        b"XDB3" | b"XDD3" | b"XDF3" => Some((16, 24)),
        // The superblock bears the uuid under which it is known, and the other one only if they differ.
        b"XFSB" => {
            let differs = view.big32(216)? & 0x4 != 0;
            Some((240, if differs { 248 } else { 32 }))
        }
        _ => match view.big16(8)? {
            0x3DF1 | 0x3DFF | 0x3BEE | 0x3EBE => Some((24, 32)),
            _ => None,
        },
    };
    let Some((moment_at, uuid_at)) = places else {
        return Ok(None);
    };
    if view.slice(uuid_at, 16)? != uuid {
        return Ok(None);
    }
    Ok(Moment::of(view.big64(moment_at)?))
}

/// The unit of which a buffer's map speaks.
const CHUNK_BYTES: usize = 128;
const REALTIME_BITMAP: u16 = 19;
const REALTIME_SUMMARY: u16 = 20;

mod flag {
    pub(super) const INODES: u16 = 0x1;
    pub(super) const CANCELLED: u16 = 0x2;
    pub(super) const QUOTAS: u16 = 0x4 | 0x8 | 0x10;
}
