//! A stretch of a file from its start to its end, a few megabytes in memory at a time.

use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::format::{PAGE_BYTES, RECORD_ALIGNMENT, RECORD_HEAD_BYTES};
use crate::chunk::RAW_LENGTH_MAX;
use crate::disk::{AlignedBuffer, DiskError, DiskFile};
use crate::error::RepoError;

/// Who reads the next bytes of a file, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// The caller, when it gets there.
    InTurn,
    /// A thread of its own, while the caller is busy with the bytes before.
    Ahead,
}

/// Shows the bytes of a file from one offset to the next, each read once.
pub(super) struct Window<'scope> {
    supply: Supply<'scope>,
    /// What is not yet stepped over of the last piece is copied in front of the next, so that a record that lies in
    /// both is in one stretch of memory.
    buffer: AlignedBuffer,
    /// What of the buffer holds bytes of the file.
    from: usize,
    until: usize,
    /// Where in the file the first of them lies.
    offset: u64,
    ended: bool,
}

impl<'scope> Window<'scope> {
    /// Will show the bytes of `file` from the page of `start` on, and some behind `end`.
    pub(super) fn open(
        scope: &'scope Scope<'scope, '_>,
        file: &'scope dyn DiskFile,
        start: u64,
        end: u64,
        fetch: Fetch,
    ) -> Result<Self, RepoError> {
        let start = start - start % PAGE_BYTES as u64;
        let pieces = Pieces {
            file,
            next: start,
            end: end.saturating_add(HELD_BYTES as u64),
        };
        // One piece has nothing to be read meanwhile.
        let short = end.saturating_sub(start) <= PIECE_BYTES as u64;
        Ok(Self {
            supply: match fetch {
                Fetch::Ahead if !short => Supply::ahead(scope, pieces)?,
                _ => Supply::InTurn {
                    pieces,
                    spare: None,
                },
            },
            buffer: AlignedBuffer::zeroed(0),
            from: 0,
            until: 0,
            offset: start,
            ended: false,
        })
    }

    /// The bytes from `offset`, which never goes back: at least `length` of them, at most as many as the longest record
    /// has, unless the file ends before.
    pub(super) fn at_least(&mut self, offset: u64, length: usize) -> Result<&[u8], RepoError> {
        self.step_to(offset);
        while !self.ended && self.until - self.from < length {
            self.take_piece()?;
            self.step_to(offset);
        }
        Ok(self.buffer.get(self.from..self.until).unwrap_or_default())
    }

    fn step_to(&mut self, offset: u64) {
        let passed = usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let passed = passed.min(self.until - self.from);
        self.from += passed;
        self.offset += passed as u64;
    }

    fn take_piece(&mut self) -> Result<(), RepoError> {
        let Some(piece) = self.supply.next()? else {
            self.ended = true;
            return Ok(());
        };
        let held = self.buffer.get(self.from..self.until).unwrap_or_default();
        let mut buffer = piece.buffer;
        let from = HELD_BYTES.saturating_sub(held.len());
        if let Some(room) = buffer.get_mut(from..HELD_BYTES) {
            room.copy_from_slice(held);
        }
        self.from = from;
        self.until = HELD_BYTES + piece.length;
        self.ended = piece.length < PIECE_BYTES;
        self.supply
            .reuse(std::mem::replace(&mut self.buffer, buffer));
        Ok(())
    }
}

/// The pieces of a file, one after the other.
struct Pieces<'scope> {
    file: &'scope dyn DiskFile,
    next: u64,
    end: u64,
}

/// Bytes of a file, behind room for what is left of those before.
struct Piece {
    buffer: AlignedBuffer,
    length: usize,
}

impl Pieces<'_> {
    fn read(&mut self, spare: Option<AlignedBuffer>) -> Result<Option<Piece>, DiskError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let mut buffer = match spare {
            Some(buffer) if buffer.len() == HELD_BYTES + PIECE_BYTES => buffer,
            _ => AlignedBuffer::zeroed(HELD_BYTES + PIECE_BYTES),
        };
        let room = buffer.get_mut(HELD_BYTES..).unwrap_or_default();
        let length = self.file.read_at(self.next, room)?;
        self.next += PIECE_BYTES as u64;
        Ok(Some(Piece { buffer, length }))
    }
}

enum Supply<'scope> {
    InTurn {
        pieces: Pieces<'scope>,
        spare: Option<AlignedBuffer>,
    },
    Ahead {
        pieces: Receiver<Result<Option<Piece>, DiskError>>,
        spares: Sender<AlignedBuffer>,
    },
}

impl<'scope> Supply<'scope> {
    /// Starts a thread that ends when the supply is dropped, or with the file.
    fn ahead(
        scope: &'scope Scope<'scope, '_>,
        mut pieces: Pieces<'scope>,
    ) -> Result<Self, RepoError> {
        let (ready, taken) = bounded(PIECES_AHEAD);
        let (spares, free) = bounded::<AlignedBuffer>(PIECES_AHEAD + 2);
        std::thread::Builder::new()
            .name("pack-reader".to_owned())
            .spawn_scoped(scope, move || {
                loop {
                    let piece = pieces.read(free.try_recv().ok());
                    let last = !matches!(&piece, Ok(Some(piece)) if piece.length == PIECE_BYTES);
                    if ready.send(piece).is_err() || last {
                        break;
                    }
                }
            })
            .map_err(RepoError::Thread)?;
        Ok(Self::Ahead {
            pieces: taken,
            spares,
        })
    }

    fn next(&mut self) -> Result<Option<Piece>, RepoError> {
        match self {
            Self::InTurn { pieces, spare } => Ok(pieces.read(spare.take())?),
            // A thread that is gone has told of the end before.
            Self::Ahead { pieces, .. } => Ok(pieces.recv().unwrap_or(Ok(None))?),
        }
    }

    fn reuse(&mut self, buffer: AlignedBuffer) {
        match self {
            Self::InTurn { spare, .. } => *spare = Some(buffer),
            Self::Ahead { spares, .. } => drop(spares.try_send(buffer)),
        }
    }
}

/// What is read at once.
const PIECE_BYTES: usize = 2 << 20;

/// Room for what is left of the piece before: as much as the longest record and its head.
const HELD_BYTES: usize = RAW_LENGTH_MAX + PAGE_BYTES;

const _: () = assert!(RECORD_HEAD_BYTES + RECORD_ALIGNMENT <= PAGE_BYTES);

/// Pieces that wait for their turn while another is being read.
const PIECES_AHEAD: usize = 1;

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::{Caching, Disk as _, SimulatedDisk};

    /// A file of so many bytes, each eight of them saying where they lie.
    fn numbered_file(length: usize) -> Arc<dyn DiskFile> {
        let mut bytes: Vec<u8> = (0..length as u64)
            .step_by(8)
            .flat_map(u64::to_le_bytes)
            .collect();
        bytes.truncate(length);
        let disk = SimulatedDisk::new();
        let file = disk.create(Path::new("pack"), Caching::Cached).unwrap();
        file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
        file
    }

    #[test]
    fn every_byte_is_shown_once_whatever_the_steps() {
        let length = 3 * PIECE_BYTES + 1000;
        let file = numbered_file(length);
        for fetch in [Fetch::InTurn, Fetch::Ahead] {
            for (step, wanted) in [
                (8, 8),
                (64, 70_000),
                (65_536, RAW_LENGTH_MAX),
                (PAGE_BYTES * 400, 8),
            ] {
                std::thread::scope(|scope| {
                    let mut window =
                        Window::open(scope, file.as_ref(), 64, length as u64, fetch).unwrap();
                    for offset in (64..length - 8).step_by(step) {
                        let bytes = window.at_least(offset as u64, wanted).unwrap();
                        assert!(
                            bytes.len() >= wanted.min(length - offset),
                            "{fetch:?} {offset}"
                        );
                        assert_eq!(
                            bytes[..8],
                            (offset as u64).to_le_bytes(),
                            "{fetch:?} {offset}"
                        );
                        let last = (wanted.min(length - offset) - 8) / 8 * 8;
                        let there = (offset + last) as u64;
                        assert_eq!(
                            bytes[last..last + 8],
                            there.to_le_bytes(),
                            "{fetch:?} {offset}"
                        );
                    }
                    assert_eq!(window.at_least(length as u64, 8).unwrap(), b"");
                });
            }
        }
    }

    #[test]
    fn whoever_gives_up_early_does_not_wait_for_the_rest() {
        let file = numbered_file(8 * PIECE_BYTES);
        std::thread::scope(|scope| {
            let end = 8 * PIECE_BYTES as u64;
            let mut window = Window::open(scope, file.as_ref(), 0, end, Fetch::Ahead).unwrap();
            assert!(window.at_least(0, 8).unwrap().len() >= 8);
        });
    }
}
