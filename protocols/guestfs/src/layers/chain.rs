//! One after the other.

use std::ops::Range;
use std::sync::Arc;

use export::Segments;

use super::{Found, Layer};
use crate::bytes::to_usize;
use crate::source::end_within;
use crate::{GuestError, Source};

/// Layers, one after the other.
pub(crate) struct Chain {
    /// Each with the place at which it begins.
    pieces: Vec<(u64, Arc<dyn Layer>)>,
    length_bytes: u64,
}

impl Chain {
    pub(crate) fn new(layers: impl IntoIterator<Item = Arc<dyn Layer>>) -> Self {
        let mut length_bytes = 0_u64;
        let mut pieces = Vec::new();
        for layer in layers {
            let length = layer.length_bytes();
            if length > 0 {
                pieces.push((length_bytes, layer));
                length_bytes = length_bytes.saturating_add(length);
            }
        }
        Self {
            pieces,
            length_bytes,
        }
    }

    /// Those that hold a range, each with the part of it that lies in it.
    fn of(&self, range: Range<u64>) -> impl Iterator<Item = (&Arc<dyn Layer>, Range<u64>)> {
        let first = self
            .pieces
            .partition_point(|(start, layer)| start + layer.length_bytes() <= range.start);
        let pieces = self.pieces.get(first..).unwrap_or_default();
        pieces
            .iter()
            .take_while(move |(start, _)| *start < range.end)
            .map(move |(start, layer)| {
                let from = range.start.max(*start) - start;
                let to = (range.end - start).min(layer.length_bytes());
                (layer, from..to)
            })
    }
}

impl Source for Chain {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes)?;
        let mut gathered = Segments::new();
        for (layer, place) in self.of(offset..end) {
            gathered.append(layer.read(place.start, to_usize(place.end - place.start))?);
        }
        Ok(gathered)
    }
}

impl Layer for Chain {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        for (layer, place) in self.of(range.start..range.end.min(self.length_bytes)) {
            layer.below(place, found)?;
        }
        Ok(())
    }

    fn cost(&self) -> u64 {
        let costs = self.pieces.iter().map(|(_, layer)| layer.cost());
        costs.max().unwrap_or(1)
    }
}
