//! The bytes of one file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use export::{Attributes, FileExport, FileId};

use super::Trouble;

/// Writes the whole content.
pub(crate) fn copy(tree: &dyn FileExport, file: FileId, to: &mut dyn Write) -> Result<()> {
    let size = tree.attributes(file)?.size_bytes;
    let mut at = 0;
    while at < size {
        for piece in read(tree, file, at, size).map_err(anyhow::Error::msg)? {
            to.write_all(&piece)?;
            at += piece.len() as u64;
        }
    }
    Ok(())
}

/// Copies the content from `offset`, where the target ends; what is zero becomes a hole. The target is never longer than
/// what came, so that it can be gone on with.
pub(super) fn copy_sparse(
    tree: &dyn FileExport,
    attributes: &Attributes,
    offset: u64,
    to: &File,
) -> Result<(), Trouble> {
    let size = attributes.size_bytes;
    let mut at = offset;
    while at < size {
        let pieces = match read(tree, attributes.file, at, size) {
            Ok(pieces) => pieces,
            Err(text) => {
                to.set_len(at)?;
                return Err(Trouble::Source(anyhow!(text)));
            }
        };
        for piece in pieces {
            write_sparse(&piece, at, to)?;
            at += piece.len() as u64;
        }
    }
    to.set_len(size)?;
    Ok(())
}

/// Writes what is not zero, by blocks.
fn write_sparse(mut piece: &[u8], mut at: u64, to: &File) -> io::Result<()> {
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    while let Some(first) = piece.chunks(BLOCK_BYTES).next() {
        let zero = is_zero(first);
        let alike = piece
            .chunks(BLOCK_BYTES)
            .take_while(|block| is_zero(block) == zero);
        let length = alike.map(<[u8]>::len).sum();
        let (run, rest) = piece.split_at(length);
        if !zero {
            to.write_all_at(run, at)?;
        }
        at += run.len() as u64;
        piece = rest;
    }
    Ok(())
}

/// Whether a range of the content is in a file at the same place.
pub(super) fn is_same(
    tree: &dyn FileExport,
    file: FileId,
    offset: u64,
    length: u64,
    there: &File,
) -> Result<bool> {
    let mut at = offset;
    while at < offset + length {
        for piece in read(tree, file, at, offset + length).map_err(anyhow::Error::msg)? {
            let mut found = vec![0; piece.len()];
            there.read_exact_at(&mut found, at)?;
            if found != piece {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
    }
    Ok(true)
}

/// Reads on from `at`, to `end` at most and at least one byte.
fn read(tree: &dyn FileExport, file: FileId, at: u64, end: u64) -> Result<Vec<Bytes>, String> {
    let length = u32::try_from(end - at).unwrap_or(u32::MAX).min(READ_BYTES);
    let read = tree.read(file, at, length).map_err(|error| {
        format!(
            "cannot be read at byte {at}: {}",
            crate::exports::chain(&error)
        )
    })?;
    match read.data.is_empty() {
        true => Err(format!("ends at byte {at} and should have {end}")),
        false => Ok(read.data.into_pieces()),
    }
}

/// The content of a file as exactly as many bytes as were promised: after something that cannot be read come zeroes.
pub(super) struct Promised<'a> {
    pub(super) tree: &'a dyn FileExport,
    pub(super) file: FileId,
    pub(super) size: u64,
    pub(super) at: u64,
    pub(super) pieces: Vec<Bytes>,
    /// What went wrong.
    pub(super) trouble: Option<String>,
}

impl Read for Promised<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.size || buffer.is_empty() {
            return Ok(0);
        }
        if self.pieces.is_empty() && self.trouble.is_none() {
            match read(self.tree, self.file, self.at, self.size) {
                Ok(mut pieces) => {
                    pieces.reverse();
                    self.pieces = pieces;
                }
                Err(trouble) => self.trouble = Some(trouble),
            }
        }
        let count = match self.pieces.last_mut() {
            Some(piece) => {
                let count = buffer.len().min(piece.len());
                let part = piece.split_to(count);
                for (target, byte) in buffer.iter_mut().zip(&part) {
                    *target = *byte;
                }
                if piece.is_empty() {
                    self.pieces.pop();
                }
                count
            }
            None => {
                let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
                let count = buffer.len().min(left);
                buffer.iter_mut().take(count).for_each(|byte| *byte = 0);
                count
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// What is read at once.
pub(super) const READ_BYTES: u32 = 1 << 20;

/// What is looked at for zeroes.
const BLOCK_BYTES: usize = 4096;
