//! Reading a stream.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::node::{StreamEntry, StreamNode};
use crate::error::RepoError;
use crate::image::Pointer;
use crate::pack::RecordKind;
use crate::store::ChunkStore;
use crate::uses::PointUse;

/// Gives the bytes of one stream in order, each chunk proven.
pub struct StreamReader {
    store: Arc<ChunkStore>,
    /// What is still to come: level and entry, the next one last.
    ahead: Vec<(u8, StreamEntry)>,
    chunk: Bytes,
    /// Keeps what is to be read.
    point: Option<Arc<PointUse>>,
}

/// A stretch of a stream.
pub(crate) enum StreamPart {
    /// A chunk, not read yet.
    Chunk(StreamEntry),
    /// What lies below a map node that cannot be read.
    Lost { error: RepoError, length_bytes: u64 },
}

impl StreamReader {
    pub(crate) fn new(store: &Arc<ChunkStore>, root: Pointer, depth: u8, size_bytes: u64) -> Self {
        let ahead = vec![(
            depth,
            StreamEntry {
                pointer: root,
                length_bytes: size_bytes,
            },
        )];
        Self {
            store: Arc::clone(store),
            ahead,
            chunk: Bytes::new(),
            point: None,
        }
    }

    /// The same, of a point whose space is not given back as long as this lives.
    pub(crate) fn of_point(mut self, point: Arc<PointUse>) -> Self {
        self.point = Some(point);
        self
    }

    /// The next chunk, or nothing at the end.
    ///
    /// # Errors
    /// If what is stored is hurt or gone.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, RepoError> {
        if !self.chunk.is_empty() {
            return Ok(Some(std::mem::take(&mut self.chunk)));
        }
        match self.next_part() {
            None => Ok(None),
            Some(StreamPart::Chunk(entry)) => self.read_chunk(&entry).map(Some),
            Some(StreamPart::Lost { error, .. }) => Err(error),
        }
    }

    /// Goes on `bytes` further, or to the end, without reading what lies between.
    ///
    /// # Errors
    /// If the map, or the chunk in which it ends, is hurt or gone.
    pub fn skip(&mut self, mut bytes: u64) -> Result<(), RepoError> {
        let held =
            usize::try_from(bytes).map_or(self.chunk.len(), |bytes| bytes.min(self.chunk.len()));
        drop(self.chunk.split_to(held));
        bytes -= held as u64;
        while bytes > 0 {
            let Some((depth, entry)) = self.ahead.pop() else {
                break;
            };
            if entry.length_bytes <= bytes {
                bytes -= entry.length_bytes;
                continue;
            }
            match depth.checked_sub(1) {
                Some(level) => {
                    let node = self.read_node(&entry, level)?;
                    self.ahead
                        .extend(node.entries.into_iter().rev().map(|entry| (level, entry)));
                }
                None => {
                    self.chunk = self.read_chunk(&entry)?;
                    let within = usize::try_from(bytes).unwrap_or(usize::MAX);
                    drop(self.chunk.split_to(within.min(self.chunk.len())));
                    break;
                }
            }
        }
        Ok(())
    }

    /// What comes next, unread. Behind what is lost the stream goes on.
    pub(crate) fn next_part(&mut self) -> Option<StreamPart> {
        while let Some((depth, entry)) = self.ahead.pop() {
            let Some(level) = depth.checked_sub(1) else {
                return Some(StreamPart::Chunk(entry));
            };
            match self.read_node(&entry, level) {
                Ok(node) => self
                    .ahead
                    .extend(node.entries.into_iter().rev().map(|entry| (level, entry))),
                Err(error) => {
                    let length_bytes = entry.length_bytes;
                    return Some(StreamPart::Lost {
                        error,
                        length_bytes,
                    });
                }
            }
        }
        None
    }

    /// The next node or chunk that the stream needs, nodes before what lies below them, without reading chunks.
    pub(crate) fn next_pointer(&mut self) -> Result<Option<Pointer>, RepoError> {
        let Some((depth, entry)) = self.ahead.pop() else {
            return Ok(None);
        };
        if let Some(level) = depth.checked_sub(1) {
            let node = self.read_node(&entry, level)?;
            self.ahead
                .extend(node.entries.into_iter().rev().map(|entry| (level, entry)));
        }
        Ok(Some(entry.pointer))
    }

    fn read_node(&self, entry: &StreamEntry, level: u8) -> Result<StreamNode, RepoError> {
        let pointer = entry.pointer;
        let raw = self
            .store
            .record(pointer.id, pointer.place, RecordKind::StreamNode)?;
        let node = StreamNode::decode(&raw, pointer.id, level, self.store.keys());
        node.and_then(|node| match node.length_bytes() == entry.length_bytes {
            true => Ok(node),
            false => Err("the lengths below do not add up"),
        })
        .map_err(|detail| self.corrupt(entry, detail))
    }

    fn read_chunk(&self, entry: &StreamEntry) -> Result<Bytes, RepoError> {
        let length = usize::try_from(entry.length_bytes).unwrap_or(usize::MAX);
        if entry.pointer.id.is_zero() {
            return match length <= crate::chunk::RAW_LENGTH_MAX {
                true => Ok(Bytes::from(vec![0; length])),
                false => Err(self.corrupt(entry, "a chunk is longer than any can be")),
            };
        }
        let pointer = entry.pointer;
        let chunk = self
            .store
            .record(pointer.id, pointer.place, RecordKind::Chunk)?;
        if chunk.len() == length {
            Ok(chunk)
        } else {
            Err(self.corrupt(entry, "a chunk has another length"))
        }
    }

    fn corrupt(&self, entry: &StreamEntry, detail: &str) -> RepoError {
        RepoError::Corrupt {
            what: format!("record {} of a stream", entry.pointer.id),
            detail: detail.to_owned(),
        }
    }
}

impl io::Read for StreamReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.next_chunk().map_err(io::Error::other)? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let now = self.chunk.split_to(self.chunk.len().min(out.len()));
        if let Some(target) = out.get_mut(..now.len()) {
            target.copy_from_slice(&now);
        }
        Ok(now.len())
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StreamReader")
            .field("ahead", &self.ahead.len())
            .finish_non_exhaustive()
    }
}
