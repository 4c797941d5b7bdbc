//! Writing a stream.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::node::{StreamEntry, StreamNode};
use crate::chunk::{ChunkId, Cutter, is_all_zero};
use crate::error::RepoError;
use crate::image::Pointer;
use crate::pack::{PackClass, PackWriter, Place, RecordEncoder, RecordKind};
use crate::store::ChunkStore;

/// Takes the bytes of one stream in order.
pub struct StreamWriter {
    name: String,
    store: Arc<ChunkStore>,
    chunks: PackWriter,
    nodes: PackWriter,
    encoder: RecordEncoder,
    /// Bytes behind the last cut.
    buffer: Vec<u8>,
    /// The node being filled at each level.
    open: Vec<StreamNode>,
    totals: StreamTotals,
}

/// What a finished stream amounts to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StreamTotals {
    pub(crate) root: Pointer,
    pub(crate) depth: u8,
    pub(crate) size_bytes: u64,
    pub(crate) stored_bytes: u64,
}

impl StreamWriter {
    pub(crate) fn new(store: &Arc<ChunkStore>, name: String) -> Result<Self, RepoError> {
        Ok(Self {
            name,
            store: Arc::clone(store),
            chunks: PackWriter::new(Arc::clone(store.packs()), PackClass::Chunks),
            nodes: PackWriter::new(Arc::clone(store.packs()), PackClass::Nodes),
            encoder: RecordEncoder::new(1, Arc::clone(store.keys()))?,
            buffer: Vec::new(),
            open: vec![StreamNode::new(0)],
            totals: StreamTotals::default(),
        })
    }

    /// The stream's name in its point.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// If storing failed.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), RepoError> {
        self.buffer.extend_from_slice(bytes);
        self.totals.size_bytes += bytes.len() as u64;
        self.cut_while(Cutter::LONGEST_BYTES)
    }

    /// Ends the stream.
    pub(crate) fn finish(mut self) -> Result<StreamTotals, RepoError> {
        self.cut_while(1)?;
        let mut level = 0;
        loop {
            let node = self
                .open
                .get_mut(level)
                .map(|node| std::mem::replace(node, StreamNode::new(0)));
            let node = node.expect("the loop ends at the top level");
            let top = level + 1 == self.open.len();
            let entry = self.store_node(&node)?;
            if top {
                self.totals.root = entry.pointer;
                self.totals.depth = node.level + 1;
                return Ok(self.totals);
            }
            self.put(level + 1, entry)?;
            level += 1;
        }
    }

    /// Cuts and stores chunks while so many bytes wait.
    fn cut_while(&mut self, waiting: usize) -> Result<(), RepoError> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        let mut outcome = Ok(());
        while rest.len() >= waiting && outcome.is_ok() {
            let (chunk, behind) = rest.split_at(Cutter.first_length(rest));
            outcome = self.store_chunk(chunk);
            rest = behind;
        }
        self.buffer = rest.to_vec();
        outcome
    }

    fn store_chunk(&mut self, chunk: &[u8]) -> Result<(), RepoError> {
        let id = if is_all_zero(chunk) {
            ChunkId::ZERO
        } else {
            self.store.keys().chunk_id(chunk)
        };
        let place = match self.find(id)? {
            Some(place) => place,
            None => self.append_record(RecordKind::Chunk, id, chunk)?,
        };
        self.put(
            0,
            StreamEntry {
                pointer: Pointer { id, place },
                length_bytes: chunk.len() as u64,
            },
        )
    }

    fn store_node(&mut self, node: &StreamNode) -> Result<StreamEntry, RepoError> {
        let id = node.id(self.store.keys());
        let place = match self.find(id)? {
            Some(place) => place,
            None => self.append_record(RecordKind::StreamNode, id, &node.encode())?,
        };
        Ok(StreamEntry {
            pointer: Pointer { id, place },
            length_bytes: node.length_bytes(),
        })
    }

    /// Where a record is stored already; chunks of zeroes are nowhere.
    fn find(&self, id: ChunkId) -> Result<Option<Place>, RepoError> {
        if id.is_zero() {
            return Ok(Some(Place::default()));
        }
        Ok(self.store.find(&[id])?.pop().flatten())
    }

    fn append_record(
        &mut self,
        kind: RecordKind,
        id: ChunkId,
        raw: &[u8],
    ) -> Result<Place, RepoError> {
        let record = self.encoder.encode(kind, id, raw)?;
        self.totals.stored_bytes += record.length() as u64;
        match kind {
            RecordKind::Chunk => self.chunks.append(&record),
            _ => self.nodes.append(&record),
        }
    }

    fn put(&mut self, level: usize, entry: StreamEntry) -> Result<(), RepoError> {
        if level == self.open.len() {
            self.open
                .push(StreamNode::new(u8::try_from(level).unwrap_or(u8::MAX)));
        }
        let Some(node) = self.open.get_mut(level) else {
            return Ok(());
        };
        if node.entries.len() < StreamNode::FAN_OUT {
            node.entries.push(entry);
            return Ok(());
        }
        let fresh = StreamNode {
            level: node.level,
            entries: vec![entry],
        };
        let full = std::mem::replace(node, fresh);
        let stored = self.store_node(&full)?;
        self.put(level + 1, stored)
    }
}

impl io::Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for StreamWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StreamWriter")
            .field("name", &self.name)
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}
