//! The ways into an overlay.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Overlay;
use super::format::{CopySource, Proofs, RecordKind, block_checks};
use super::journal::{Draft, SyncReason, Tail};
use super::map::{Look, Map};
use super::queue::Call;
use super::recovery::Change;
use crate::CHUNK_BYTES;
use crate::error::RepoError;

impl Overlay {
    /// Writes the pieces of `data` one after the other at `offset`; with `stable`, also flushes.
    ///
    /// Waits for the disk if too much was written since the last flush.
    pub fn write(&self, offset: u64, data: &[Bytes], stable: bool) -> Result<(), RepoError> {
        let length = data.iter().map(|piece| piece.len() as u64).sum();
        self.check_range(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        self.change(self.drafts(offset, data)?, stable)
    }

    /// Writes if that takes microseconds. `None`: it might wait, and nothing was done; call [`write`](Self::write).
    pub fn try_write(&self, offset: u64, data: &[Bytes]) -> Option<Result<(), RepoError>> {
        let length = data.iter().map(|piece| piece.len() as u64).sum();
        if let Err(error) = self
            .check_range(offset, length)
            .and_then(|()| self.journal.check_open())
        {
            return Some(Err(error));
        }
        let busy = self.checkpoint_wanted.load(Ordering::Acquire)
            || self.journal.unsynced_bytes() + length > self.settings.unsynced_bytes_max;
        if busy || length == 0 || length > QUICK_BYTES_MAX {
            return None;
        }
        let drafts = match self.drafts(offset, data) {
            Ok(drafts) => drafts,
            Err(error) => return Some(Err(error)),
        };
        let mut tail = self
            .journal
            .try_lock(drafts.iter().map(Draft::total_bytes).sum())?;
        if let Err(error) = self.journal.check_open() {
            return Some(Err(error));
        }
        if !self
            .prepare(&mut *self.map.try_lock()?, &drafts, Look::MemoryOnly)
            .ok()?
        {
            return None;
        }
        Some(self.put(&mut tail, &drafts.iter().collect::<Vec<_>>()))
    }

    /// Makes a range read as zeroes. With `keep_allocated` it is told as allocated afterwards.
    pub fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        keep_allocated: bool,
        stable: bool,
    ) -> Result<(), RepoError> {
        self.change_range(
            RecordKind::Zeroes { keep_allocated },
            offset,
            length,
            stable,
        )
    }

    /// Drops the content of a range; it reads as zeroes afterwards.
    pub fn discard(&self, offset: u64, length: u64, stable: bool) -> Result<(), RepoError> {
        self.change_range(RecordKind::Discard, offset, length, stable)
    }

    /// One draft for each chunk that is written to, encrypted if the journal is.
    fn drafts(&self, offset: u64, data: &[Bytes]) -> Result<Vec<Draft>, RepoError> {
        let mut drafts = split(offset, data);
        for draft in &mut drafts {
            let Some(keys) = self.journal.segments.keys() else {
                draft.proofs = Proofs::Checks(block_checks(&draft.payload));
                continue;
            };
            let mut sealed = draft.payload.concat();
            draft.proofs = Proofs::Seals(keys.seal(self.record.id, draft.offset, &mut sealed)?);
            let clear = std::mem::replace(&mut draft.payload, vec![Bytes::from(sealed)]);
            draft.clear = Some(clear);
        }
        Ok(drafts)
    }

    fn change_range(
        &self,
        kind: RecordKind,
        offset: u64,
        length: u64,
        stable: bool,
    ) -> Result<(), RepoError> {
        self.check_range(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        self.change(
            vec![Draft {
                offset,
                length,
                ..Draft::bare(kind, self.journal.is_sealed())
            }],
            stable,
        )
    }

    pub(super) fn change(&self, drafts: Vec<Draft>, stable: bool) -> Result<(), RepoError> {
        self.journal.check_open()?;
        self.make_room()?;
        self.prepare(&mut self.map.lock(), &drafts, Look::Everywhere)?;
        self.append(drafts)?;
        if stable {
            self.journal.sync(SyncReason::Flush)
        } else {
            Ok(())
        }
    }

    /// Queues a call and sees it done: by whoever leads, or with all that are queued when this thread does.
    fn append(&self, drafts: Vec<Draft>) -> Result<(), RepoError> {
        let lead = match self.queue.enter(drafts) {
            Ok(outcome) => return outcome,
            Err(lead) => lead,
        };
        let mut tail = self.journal.lock();
        let calls = lead.take(BATCH_BYTES);
        let mut outcomes = self.put_calls(&mut tail, &calls).into_iter();
        drop(tail);
        let own = outcomes.next().unwrap_or(Ok(()));
        for (call, outcome) in calls.into_iter().skip(1).zip(outcomes) {
            call.finish(outcome);
        }
        own
    }

    /// Appends calls together if that can be. Gives the outcome of each.
    fn put_calls(&self, tail: &mut Tail, calls: &[Arc<Call>]) -> Vec<Result<(), RepoError>> {
        let put = |tail: &mut Tail, calls: &[Arc<Call>]| {
            self.journal.check_open()?;
            let drafts: Vec<&Draft> = calls.iter().flat_map(|call| &call.drafts).collect();
            self.put(tail, &drafts)
        };
        match (put(tail, calls), calls) {
            (Ok(()), calls) => calls.iter().map(|_| Ok(())).collect(),
            (Err(error), [_]) => vec![Err(error)],
            (Err(error), calls) => {
                // None of them is answered. What is too much together may still go one by one.
                tracing::debug!(%error, calls = calls.len(), "calls that could not be appended together are tried one by one");
                let each = calls.iter().map(std::slice::from_ref);
                each.map(|call| put(tail, call)).collect()
            }
        }
    }

    /// Keeps what is only in memory bounded: writes that were not synced, and changes of the map.
    fn make_room(&self) -> Result<(), RepoError> {
        if self.journal.unsynced_bytes() >= self.settings.unsynced_bytes_max {
            self.journal.sync(SyncReason::Own)?;
        }
        if self.checkpoint_wanted.load(Ordering::Acquire)
            && let Err(error) = self.checkpoint()
        {
            if self.map.lock().is_over_limit() {
                return Err(error);
            }
            tracing::warn!(overlay = %self.record.id, %error, "a checkpoint of an overlay failed; it is tried again later");
        }
        Ok(())
    }

    /// Brings into memory what the drafts will change of the map.
    fn prepare(&self, map: &mut Map, drafts: &[Draft], look: Look) -> Result<bool, RepoError> {
        for draft in drafts {
            let changed = match draft.kind {
                RecordKind::Write | RecordKind::Copy { .. } => chunks(draft.offset, draft.length),
                _ => 0..0,
            };
            let shown = match draft.kind {
                RecordKind::Copy {
                    source,
                    of: CopySource::Overlay,
                } => chunks(source, draft.length),
                _ => 0..0,
            };
            for chunk in changed.chain(shown) {
                if !map.prepare(chunk, look)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Appends to the journal, then changes the map, in the order of the journal.
    fn put(&self, tail: &mut Tail, drafts: &[&Draft]) -> Result<(), RepoError> {
        let placed = self.journal.append(tail, drafts)?;
        let changes = drafts.iter().zip(placed).map(|(draft, placed)| {
            let Draft {
                kind,
                offset,
                length,
                proofs,
                ..
            } = draft;
            Change {
                kind: *kind,
                offset: *offset,
                length: *length,
                proofs,
                placed,
            }
        });
        let mut map = self.map.lock();
        for (change, draft) in changes.zip(drafts) {
            if let Err(error) = change.apply(&mut map) {
                // The journal has it, the map has not: only opening again brings them together.
                self.journal.poison();
                return Err(error);
            }
            self.remember(&change, draft);
        }
        let crowded = map.shrink();
        drop(map);
        let journal_bytes = tail.position.totals.journal_bytes;
        let since = journal_bytes.saturating_sub(self.checkpointed_bytes.load(Ordering::Acquire));
        let copied = drafts.iter().filter(|draft| draft.kind.is_copy());
        let copied: u64 = copied.map(|draft| draft.length).sum();
        let copied = copied + self.copied_bytes.fetch_add(copied, Ordering::AcqRel);
        let to_do_again = since + copied / COPIED_BYTES_FOR_ONE;
        if crowded || to_do_again >= self.settings.checkpoint_bytes {
            self.checkpoint_wanted.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Keeps a small payload in memory for reads to come. Large ones are seldom read again soon.
    fn remember(&self, change: &Change<'_>, draft: &Draft) {
        if change.kind != RecordKind::Write || change.length > REMEMBERED_BYTES_MAX {
            return;
        }
        // A copy: the payload may be a small part of a buffer that held much else.
        let (blocks, number) = (&self.settings.blocks, self.cache_number);
        match draft.clear.as_ref().unwrap_or(&draft.payload).as_slice() {
            [whole] => blocks.insert_blocks(number, &change.place(), whole),
            pieces => blocks.insert_blocks(number, &change.place(), &pieces.concat()),
        }
    }
}

/// One draft for each chunk of the disk that is written to, without proofs.
fn split(offset: u64, data: &[Bytes]) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let mut at = offset;
    let mut room = room_in_chunk(at);
    let mut payload = Vec::new();
    let mut finish = |payload: &mut Vec<Bytes>, end: u64| {
        let payload = std::mem::take(payload);
        let length: u64 = payload.iter().map(|piece: &Bytes| piece.len() as u64).sum();
        if length > 0 {
            drafts.push(Draft {
                more: true,
                offset: end - length,
                length,
                payload,
                ..Draft::bare(RecordKind::Write, false)
            });
        }
    };
    for piece in data {
        let mut piece = piece.clone();
        while !piece.is_empty() {
            let now = piece.split_to(piece.len().min(room));
            at += now.len() as u64;
            room -= now.len();
            payload.push(now);
            if room == 0 {
                finish(&mut payload, at);
                room = CHUNK_BYTES;
            }
        }
    }
    finish(&mut payload, at);
    if let Some(last) = drafts.last_mut() {
        last.more = false;
    }
    drafts
}

/// The chunks that a range touches.
fn chunks(offset: u64, length: u64) -> Range<u64> {
    let chunk = CHUNK_BYTES as u64;
    offset / chunk..(offset + length).div_ceil(chunk)
}

fn room_in_chunk(offset: u64) -> usize {
    CHUNK_BYTES - usize::try_from(offset % CHUNK_BYTES as u64).unwrap_or(0)
}

/// The longest write that [`Overlay::try_write`] takes. Longer ones do better together, past the page cache.
const QUICK_BYTES_MAX: u64 = 32 << 10;

/// Bytes of the disk that a copy shows elsewhere, for what one byte of journal costs when it is opened again.
const COPIED_BYTES_FOR_ONE: u64 = 64;

/// Bytes of calls that are appended at once.
const BATCH_BYTES: u64 = 4 << 20;

/// The longest write whose bytes are kept for reads.
const REMEMBERED_BYTES_MAX: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_split_where_chunks_end() {
        let data = [
            Bytes::from(vec![1; 1536]),
            Bytes::new(),
            Bytes::from(vec![2; 65536]),
            Bytes::from(vec![3; 512]),
        ];
        let drafts = split(65536 - 1024, &data);
        let parts: Vec<(u64, u64, usize)> = drafts
            .iter()
            .map(|draft| (draft.offset, draft.length, draft.payload.len()))
            .collect();
        assert_eq!(
            parts,
            [(64512, 1024, 1), (65536, 65536, 2), (131_072, 1024, 2)]
        );
        let bytes: Vec<u8> = drafts
            .iter()
            .flat_map(|draft| draft.payload.concat())
            .collect();
        let whole: Vec<u8> = data.concat();
        assert_eq!(bytes, whole);
    }
}
