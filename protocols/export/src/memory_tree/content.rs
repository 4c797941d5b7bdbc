//! The content of a file: blocks that are shared with the answers to reads, and the space they take.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use crate::{ExportError, Segments};

#[derive(Default)]
pub(super) struct Content {
    pub(super) size_bytes: u64,
    /// Blocks that were written, each of `BLOCK_BYTES`. What lies past the end of the file is zero.
    pub(super) blocks: BTreeMap<u64, Bytes>,
    pub(super) verifier: Option<[u8; 8]>,
}

#[derive(Debug)]
pub(super) struct Space {
    pub(super) capacity_bytes: u64,
    pub(super) used_bytes: AtomicU64,
}

impl Content {
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &[Bytes],
        space: &Space,
    ) -> Result<(), ExportError> {
        let length: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= SIZE_MAX_BYTES);
        let end = end.ok_or(ExportError::TooLarge)?;
        if length == 0 {
            return Ok(());
        }
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        let held = self.blocks.range(blocks.clone()).count() as u64;
        space.take(blocks.end - blocks.start - held)?;
        let mut at = offset;
        for piece in data {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let (number, start) = split_offset(at);
                let step = rest.len().min(BLOCK - start);
                let (now, later) = rest.split_at(step);
                self.write_block(number, start, now);
                rest = later;
                at += step as u64;
            }
        }
        self.size_bytes = self.size_bytes.max(end);
        Ok(())
    }

    pub(super) fn write_block(&mut self, number: u64, start: usize, data: &[u8]) {
        let slot = self.blocks.entry(number).or_default();
        if data.len() == BLOCK && (slot.is_empty() || !slot.is_unique()) {
            *slot = Bytes::copy_from_slice(data);
            return;
        }
        let mut block = match std::mem::take(slot).try_into_mut() {
            Ok(block) if !block.is_empty() => block,
            Ok(_) => BytesMut::zeroed(BLOCK),
            Err(shared) if !shared.is_empty() => BytesMut::from(&shared[..]),
            Err(_) => BytesMut::zeroed(BLOCK),
        };
        if let Some(place) = block.get_mut(start..start + data.len()) {
            place.copy_from_slice(data);
        }
        *slot = block.freeze();
    }

    pub(super) fn resize(&mut self, size_bytes: u64, space: &Space) -> Result<(), ExportError> {
        if size_bytes > SIZE_MAX_BYTES {
            return Err(ExportError::TooLarge);
        }
        if size_bytes < self.size_bytes {
            let gone = self.blocks.split_off(&size_bytes.div_ceil(BLOCK_BYTES));
            space.give_back(gone.len());
            let (number, start) = split_offset(size_bytes);
            if start > 0 && self.blocks.contains_key(&number) {
                self.write_block(number, start, ZEROES.get(start..).unwrap_or_default());
            }
        }
        self.size_bytes = size_bytes;
        Ok(())
    }

    pub(super) fn read(&self, offset: u64, length: u64) -> Segments {
        let mut data = Segments::new();
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let (number, start) = split_offset(at);
            let step = (BLOCK - start).min(usize::try_from(end - at).unwrap_or(BLOCK));
            match self.blocks.get(&number) {
                Some(block) => data.push(block.slice(start..start + step)),
                None => data.push_zeroes(step),
            }
            at += step as u64;
        }
        data
    }
}

impl Space {
    pub(super) fn take(&self, blocks: u64) -> Result<(), ExportError> {
        let wanted = |used: u64| {
            let sum = used.checked_add(blocks.checked_mul(BLOCK_BYTES)?)?;
            (sum <= self.capacity_bytes).then_some(sum)
        };
        match self
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, wanted)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(ExportError::NoSpace {
                detail: "the tree in memory is full".into(),
            }),
        }
    }

    pub(super) fn give_back(&self, blocks: usize) {
        self.used_bytes
            .fetch_sub(blocks as u64 * BLOCK_BYTES, Ordering::Relaxed);
    }
}

pub(super) fn split_offset(offset: u64) -> (u64, usize) {
    let start = usize::try_from(offset % BLOCK_BYTES).expect("a remainder of a small number");
    (offset / BLOCK_BYTES, start)
}

pub(super) const BLOCK: usize = 64 * 1024;
pub(super) const BLOCK_BYTES: u64 = BLOCK as u64;
pub(super) const SIZE_MAX_BYTES: u64 = i64::MAX as u64;
static ZEROES: &[u8] = &[0; BLOCK];
