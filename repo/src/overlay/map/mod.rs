//! Where every sector of an overlay comes from.
//!
//! A tree like the one of an image, but of states: a node says of each of 1024 parts of the disk that it is the
//! point's, zero, a hole, or mixed. Only a mixed part has a node of its own, and only a mixed chunk a page. So a
//! discard of the whole disk is one word, and an overlay that nobody wrote to is nothing.
//!
//! Invariants: a part in state [`State::Child`] has its node or page in memory or in the store, and the newer one is
//! in memory; a node or page of a part in another state means nothing. The store is only written by
//! [`Map::changed`] and [`Map::stored`], all changes in one step, so it always shows one moment.

mod node;
mod page;
mod residents;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use uuid::Uuid;

pub(crate) use self::node::State;
use self::node::{FAN_OUT, Node};
use self::page::Page;
pub(crate) use self::page::{Body, Place};
pub(crate) use self::residents::Changed;
use self::residents::{Resident, Residents};
use super::pages::{PageKey, PageStore};
use crate::error::RepoError;

/// Sectors of a whole chunk.
pub(crate) const CHUNK_SECTORS: u32 = 128;

const FAN_OUT_BITS: u32 = FAN_OUT.trailing_zeros();

/// The map of one overlay.
pub(crate) struct Map {
    overlay: Uuid,
    store: Arc<dyn PageStore>,
    residents: Residents,
    sectors: u64,
    chunks: u64,
    /// Level of the root; the children of level 1 are pages.
    depth: u32,
    limit_bytes: usize,
    broken: bool,
}

/// Whether a look at the map may ask the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It may wait for a disk.
    Everywhere,
    /// Only memory.
    MemoryOnly,
}

/// Some sectors in a row that come from one place.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) sector: u64,
    pub(crate) sectors: u64,
    pub(crate) content: Content<'a>,
}

/// What a span holds.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    /// What the point has there.
    Below,
    /// What the point has from `sector` on.
    PointFrom { sector: u64 },
    /// Zeroes.
    Fill(Fill),
    /// The sectors of `place` from the one numbered `from`.
    Data { place: &'a Place, from: u32 },
}

/// Zeroes with or without space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Zeroes that keep their space.
    Zero,
    /// Zeroes without space.
    Hole,
}

impl Map {
    /// Makes the map of an overlay without any writes.
    pub(crate) fn empty(
        overlay: Uuid,
        store: Arc<dyn PageStore>,
        size_bytes: u64,
        limit_bytes: u64,
    ) -> Self {
        let mut map = Self::stored_in(overlay, store, size_bytes, limit_bytes);
        map.residents
            .insert_new(map.root(), Resident::Node(Node::uniform(State::Below)));
        map
    }

    /// Takes the map as the store has it.
    pub(crate) fn stored_in(
        overlay: Uuid,
        store: Arc<dyn PageStore>,
        size_bytes: u64,
        limit_bytes: u64,
    ) -> Self {
        let sectors = size_bytes / super::format::SECTOR_BYTES;
        let chunks = sectors.div_ceil(u64::from(CHUNK_SECTORS));
        let mut depth = 1;
        while chunks > 1 << (FAN_OUT_BITS * depth) {
            depth += 1;
        }
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Self {
            overlay,
            store,
            residents: Residents::default(),
            sectors,
            chunks,
            depth,
            limit_bytes,
            broken: false,
        }
    }

    /// Puts new content over some sectors of one chunk.
    pub(crate) fn put(&mut self, sector: u64, sectors: u32, place: Place) -> Result<(), RepoError> {
        self.put_body(sector, sectors, Body::Data(place))
    }

    /// Makes any range of sectors zero.
    pub(crate) fn fill(&mut self, sector: u64, sectors: u64, fill: Fill) -> Result<(), RepoError> {
        let chunk_sectors = u64::from(CHUNK_SECTORS);
        let end = sector + sectors;
        let first_whole = sector.div_ceil(chunk_sectors);
        let end_whole = if end == self.sectors {
            self.chunks
        } else {
            end / chunk_sectors
        };
        if first_whole < end_whole {
            self.load(self.root(), Look::Everywhere)?;
            self.fill_node(self.depth, 0, first_whole, end_whole, fill.state())?;
        }
        let mut at = sector;
        while at < end {
            let chunk = at / chunk_sectors;
            if (first_whole..end_whole).contains(&chunk) {
                at = end_whole * chunk_sectors;
                continue;
            }
            let part_end = end.min((chunk + 1) * chunk_sectors);
            self.put_body(at, narrow(part_end - at), fill.body())?;
            at = part_end;
        }
        Ok(())
    }

    /// Shows from `sector` on what is at `source` now. The ranges do not overlap.
    pub(crate) fn copy(&mut self, source: u64, sector: u64, sectors: u64) -> Result<(), RepoError> {
        let mut found = Vec::new();
        self.walk(source, sectors, Look::Everywhere, &mut |span| {
            let body = match span.content {
                Content::Below => Body::PointFrom(span.sector),
                Content::PointFrom { sector } => Body::PointFrom(sector),
                Content::Fill(fill) => fill.body(),
                Content::Data { place, from } => Body::Data(
                    place
                        .cut(from, narrow(span.sectors))
                        .keeping_seal(span.sector),
                ),
            };
            found.push((span.sector - source, span.sectors, body));
            ControlFlow::Continue(())
        })?;
        for (at, sectors, body) in found {
            match body {
                Body::Zero => self.fill(sector + at, sectors, Fill::Zero)?,
                Body::Hole => self.fill(sector + at, sectors, Fill::Hole)?,
                body => self.put_over_chunks(sector + at, sectors, &body)?,
            }
        }
        Ok(())
    }

    /// Shows from `sector` on what the point has at `source`.
    pub(crate) fn copy_point(
        &mut self,
        source: u64,
        sector: u64,
        sectors: u64,
    ) -> Result<(), RepoError> {
        self.put_over_chunks(sector, sectors, &Body::PointFrom(source))
    }

    /// Shows where the sectors of a range come from, in order. Says `false`, perhaps after some of them, if memory
    /// alone cannot tell and nothing else may be asked.
    pub(crate) fn walk(
        &mut self,
        sector: u64,
        sectors: u64,
        look: Look,
        visit: &mut dyn FnMut(Span<'_>) -> ControlFlow<()>,
    ) -> Result<bool, RepoError> {
        let end = (sector + sectors).min(self.sectors);
        let mut at = sector;
        while at < end {
            let chunk = at / u64::from(CHUNK_SECTORS);
            let Some((state, chunks)) = self.locate(chunk, look)? else {
                return Ok(false);
            };
            let span_end = end.min((chunk + chunks) * u64::from(CHUNK_SECTORS));
            let content = match state {
                State::Below => Content::Below,
                State::Zero => Content::Fill(Fill::Zero),
                State::Hole => Content::Fill(Fill::Hole),
                State::Child => {
                    if self.walk_page(chunk, at, span_end, visit).is_break() {
                        return Ok(true);
                    }
                    at = span_end;
                    continue;
                }
            };
            if visit(Span {
                sector: at,
                sectors: span_end - at,
                content,
            })
            .is_break()
            {
                return Ok(true);
            }
            at = span_end;
        }
        Ok(true)
    }

    /// The state of a chunk, and how many chunks from it on are known to share it. At least that chunk's page is in
    /// memory if it has one. `None`: memory alone cannot tell.
    pub(crate) fn locate(
        &mut self,
        chunk: u64,
        look: Look,
    ) -> Result<Option<(State, u64)>, RepoError> {
        let mut level = self.depth;
        loop {
            let key = node_key(level, chunk);
            if !self.load(key, look)? {
                return Ok(None);
            }
            let slot = slot(level, chunk);
            let node = self.residents.node(key);
            let (state, run) =
                node.map_or((State::Below, 1), |node| (node.state(slot), node.run(slot)));
            if state == State::Child {
                level -= 1;
                if level == 0 {
                    return Ok(self
                        .load(node_key(0, chunk), look)?
                        .then_some((State::Child, 1)));
                }
                continue;
            }
            let span = 1 << (FAN_OUT_BITS * (level - 1));
            let end = (chunk / span + u64::from(run)) * span;
            return Ok(Some((state, end.min(self.chunks) - chunk)));
        }
    }

    /// Brings into memory what a write to this chunk will change.
    pub(crate) fn prepare(&mut self, chunk: u64, look: Look) -> Result<bool, RepoError> {
        self.locate(chunk, look).map(|located| located.is_some())
    }

    /// Sectors whose bytes are in the journal.
    pub(crate) fn live_sectors(&mut self) -> u64 {
        let root = self.root();
        self.residents
            .node(root)
            .map_or(0, |node| node.live_sectors)
    }

    /// Memory in use.
    pub(crate) fn bytes(&self) -> usize {
        self.residents.bytes()
    }

    /// Gives memory back if there is too much in use. Says whether a checkpoint is needed to go on doing so.
    pub(crate) fn shrink(&mut self) -> bool {
        self.residents.shrink(self.limit_bytes, self.root());
        self.residents.dirty_bytes() > self.limit_bytes / 2
    }

    /// Whether the store lost something that it should have. The map cannot be trusted to take writes then.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether more is waiting for the store than may be in memory at all.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.residents.dirty_bytes() > self.limit_bytes
    }

    /// All that the store does not have yet.
    pub(crate) fn changed(&mut self) -> Vec<Changed> {
        self.residents.changed()
    }

    /// Says that the store has those now, or (`done` false) that it has none of them.
    pub(crate) fn stored(&mut self, changed: &[Changed], done: bool) {
        self.residents.stored(changed, done);
        self.residents.shrink(self.limit_bytes, self.root());
    }

    fn root(&self) -> PageKey {
        node_key(self.depth, 0)
    }

    fn sectors_of(&self, chunk: u64) -> u32 {
        narrow((self.sectors - chunk * u64::from(CHUNK_SECTORS)).min(u64::from(CHUNK_SECTORS)))
    }

    fn walk_page(
        &mut self,
        chunk: u64,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Span<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let base = chunk * u64::from(CHUNK_SECTORS);
        let mut at = start;
        let pieces = self
            .residents
            .page(node_key(0, chunk))
            .map(Page::pieces)
            .unwrap_or_default();
        for piece in pieces {
            let (piece_start, piece_end) = (
                base + u64::from(piece.start()),
                base + u64::from(piece.end()),
            );
            if piece_end <= at {
                continue;
            }
            if piece_start >= end {
                break;
            }
            if piece_start > at {
                visit(Span {
                    sector: at,
                    sectors: piece_start - at,
                    content: Content::Below,
                })?;
                at = piece_start;
            }
            let content = match &piece.body {
                Body::Zero => Content::Fill(Fill::Zero),
                Body::Hole => Content::Fill(Fill::Hole),
                Body::PointFrom(sector) => Content::PointFrom {
                    sector: sector + (at - piece_start),
                },
                Body::Data(place) => Content::Data {
                    place,
                    from: narrow(at - piece_start),
                },
            };
            let until = piece_end.min(end);
            visit(Span {
                sector: at,
                sectors: until - at,
                content,
            })?;
            at = until;
        }
        if at < end {
            visit(Span {
                sector: at,
                sectors: end - at,
                content: Content::Below,
            })?;
        }
        ControlFlow::Continue(())
    }

    /// Puts something over sectors of any number of chunks.
    fn put_over_chunks(&mut self, sector: u64, sectors: u64, body: &Body) -> Result<(), RepoError> {
        let end = sector + sectors;
        let mut at = sector;
        while at < end {
            let next = (at / u64::from(CHUNK_SECTORS) + 1) * u64::from(CHUNK_SECTORS);
            let part = narrow(end.min(next) - at);
            self.put_body(at, part, body.within(at - sector, part))?;
            at += u64::from(part);
        }
        Ok(())
    }

    /// Puts something over sectors of one chunk.
    fn put_body(&mut self, sector: u64, sectors: u32, body: Body) -> Result<(), RepoError> {
        let chunk = sector / u64::from(CHUNK_SECTORS);
        let start = narrow(sector % u64::from(CHUNK_SECTORS));
        self.descend(chunk)?;
        let whole = self.sectors_of(chunk);
        let key = node_key(0, chunk);
        let changed = self.residents.change_page(key, |page| {
            let before = page.live_sectors();
            page.put(start, sectors, body);
            (before, page.live_sectors(), page.state(whole))
        });
        let Some((before, after, state)) = changed else {
            return Err(self.lost(key));
        };
        if state != State::Child {
            self.residents.remove(key);
            self.residents
                .change_node(node_key(1, chunk), |node| node.set(slot(1, chunk), state));
        }
        if before != after {
            for level in 1..=self.depth {
                self.residents.change_node(node_key(level, chunk), |node| {
                    node.live_sectors = (node.live_sectors + after).saturating_sub(before);
                });
            }
        }
        Ok(())
    }

    /// Makes sure that the chunk has a page, in memory, and so all nodes above it.
    fn descend(&mut self, chunk: u64) -> Result<(), RepoError> {
        self.load(self.root(), Look::Everywhere)?;
        for level in (1..=self.depth).rev() {
            let key = node_key(level, chunk);
            let child = node_key(level - 1, chunk);
            let slot = slot(level, chunk);
            let state = self
                .residents
                .node(key)
                .map_or(State::Below, |node| node.state(slot));
            if state == State::Child {
                self.load(child, Look::Everywhere)?;
                continue;
            }
            let fresh = match level {
                1 => Resident::Page(Page::uniform(state, self.sectors_of(chunk))),
                _ => Resident::Node(Node::uniform(state)),
            };
            self.residents.insert_new(child, fresh);
            self.residents
                .change_node(key, |node| node.set(slot, State::Child));
        }
        Ok(())
    }

    /// Gives chunks `first..end` below a node, which is in memory, one state. Returns how many live sectors went.
    fn fill_node(
        &mut self,
        level: u32,
        index: u64,
        first: u64,
        end: u64,
        state: State,
    ) -> Result<u64, RepoError> {
        let span = 1 << (FAN_OUT_BITS * (level - 1));
        let base = index << (FAN_OUT_BITS * level);
        let key = node_key(level, base);
        let mut gone = 0;
        let (first_slot, last_slot) = ((first.max(base) - base) / span, (end - 1 - base) / span);
        for slot in narrow(first_slot)..=narrow(last_slot.min(u64::from(FAN_OUT) - 1)) {
            let child_first = base + u64::from(slot) * span;
            let child_end = (child_first + span).min(self.chunks);
            let old = self
                .residents
                .node(key)
                .map_or(State::Below, |node| node.state(slot));
            let child = node_key(level - 1, child_first);
            if old == state {
                continue;
            }
            if first <= child_first && child_end <= end {
                if old == State::Child {
                    gone += self.live_below(child)?;
                    self.residents.remove(child);
                }
                self.residents
                    .change_node(key, |node| node.set(slot, state));
                continue;
            }
            if old == State::Child {
                self.load(child, Look::Everywhere)?;
            } else {
                self.residents
                    .insert_new(child, Resident::Node(Node::uniform(old)));
                self.residents
                    .change_node(key, |node| node.set(slot, State::Child));
            }
            let index = index * u64::from(FAN_OUT) + u64::from(slot);
            gone += self.fill_node(
                level - 1,
                index,
                first.max(child_first),
                end.min(child_end),
                state,
            )?;
        }
        if gone > 0 {
            self.residents.change_node(key, |node| {
                node.live_sectors = node.live_sectors.saturating_sub(gone)
            });
        }
        Ok(gone)
    }

    fn live_below(&mut self, child: PageKey) -> Result<u64, RepoError> {
        self.load(child, Look::Everywhere)?;
        if let Some(node) = self.residents.node(child) {
            return Ok(node.live_sectors);
        }
        Ok(self.residents.page(child).map_or(0, Page::live_sectors))
    }

    /// Brings a page or node into memory. Says `false` if it is not there and the store may not be asked.
    fn load(&mut self, key: PageKey, look: Look) -> Result<bool, RepoError> {
        if self.residents.contains(key) {
            return Ok(true);
        }
        if look == Look::MemoryOnly {
            return Ok(false);
        }
        let stored = self.store.get(self.overlay, key)?;
        let decoded = stored.and_then(|bytes| match key.level() {
            0 => Page::decode(&bytes).map(Resident::Page),
            _ => Node::decode(&bytes).map(Resident::Node),
        });
        match decoded {
            Some(resident) => {
                self.residents.insert_stored(key, resident);
                Ok(true)
            }
            None => Err(self.lost(key)),
        }
    }

    /// The store does not have what it was given. It is told to forget the rest, so that the next open makes the map
    /// again from the journal.
    fn lost(&mut self, key: PageKey) -> RepoError {
        if !std::mem::replace(&mut self.broken, true)
            && let Err(error) = self.store.forget(self.overlay)
        {
            tracing::warn!(overlay = %self.overlay, %error, "the damaged map of an overlay cannot be dropped");
        }
        RepoError::Corrupt {
            what: format!("the stored map of overlay {}", self.overlay),
            detail: format!(
                "page {:#x} is gone or changed; it is made again when the overlay is next opened",
                key.0
            ),
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Map")
            .field("overlay", &self.overlay)
            .field("residents", &self.residents)
            .finish_non_exhaustive()
    }
}

impl Span<'_> {
    pub(crate) fn is_zero(&self) -> bool {
        matches!(self.content, Content::Fill(_))
    }
}

impl Fill {
    fn state(self) -> State {
        match self {
            Self::Zero => State::Zero,
            Self::Hole => State::Hole,
        }
    }

    fn body(self) -> Body {
        match self {
            Self::Zero => Body::Zero,
            Self::Hole => Body::Hole,
        }
    }
}

impl PageKey {
    fn level(self) -> u64 {
        self.0 >> LEVEL_SHIFT
    }
}

/// The page (level 0) or node that is responsible for a chunk.
fn node_key(level: u32, chunk: u64) -> PageKey {
    PageKey(u64::from(level) << LEVEL_SHIFT | chunk >> (FAN_OUT_BITS * level))
}

fn slot(level: u32, chunk: u64) -> u32 {
    narrow((chunk >> (FAN_OUT_BITS * (level - 1))) % u64::from(FAN_OUT))
}

/// Numbers of sectors within a chunk and of slots within a node.
fn narrow(number: u64) -> u32 {
    debug_assert!(number <= u64::from(FAN_OUT));
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Reads bytes as everything that a store may give back.
pub(crate) fn decode_any(bytes: &[u8]) {
    drop(Page::decode(bytes));
    drop(Node::decode(bytes));
}

const LEVEL_SHIFT: u32 = 56;

#[cfg(test)]
mod tests;
