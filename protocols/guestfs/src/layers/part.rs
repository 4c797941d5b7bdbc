//! Parts: of a node of the set, and of another layer.

use std::ops::Range;
use std::sync::Arc;

use export::Segments;

use super::{Found, Layer, NodeId};
use crate::source::end_within;
use crate::{GuestError, Source};

/// A part of a node.
pub(crate) struct Part {
    node: NodeId,
    source: Arc<dyn Source>,
    cost: u64,
    offset_bytes: u64,
    length_bytes: u64,
}

impl Part {
    /// The part of `node`, which is `source` and costs `cost` a read; `None` if it does not have all of it.
    pub(crate) fn new(
        node: NodeId,
        source: Arc<dyn Source>,
        cost: u64,
        place: Range<u64>,
    ) -> Option<Self> {
        (place.start <= place.end && place.end <= source.length_bytes()).then_some(Self {
            node,
            source,
            cost,
            offset_bytes: place.start,
            length_bytes: place.end - place.start,
        })
    }
}

impl Source for Part {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        end_within(offset, length, self.length_bytes)?;
        self.source.read(self.offset_bytes + offset, length)
    }
}

impl Layer for Part {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        let end = range.end.min(self.length_bytes);
        if range.start < end {
            found(
                self.node,
                self.offset_bytes + range.start..self.offset_bytes + end,
            );
        }
        Ok(())
    }

    fn cost(&self) -> u64 {
        self.cost
    }
}

/// A part of a layer.
pub(crate) struct Slice {
    layer: Arc<dyn Layer>,
    offset_bytes: u64,
    length_bytes: u64,
}

impl Slice {
    /// `None` if the layer does not have all of it.
    pub(crate) fn new(layer: Arc<dyn Layer>, place: Range<u64>) -> Option<Self> {
        (place.start <= place.end && place.end <= layer.length_bytes()).then_some(Self {
            layer,
            offset_bytes: place.start,
            length_bytes: place.end - place.start,
        })
    }
}

impl Source for Slice {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        end_within(offset, length, self.length_bytes)?;
        self.layer.read(self.offset_bytes + offset, length)
    }
}

impl Layer for Slice {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        let end = range.end.min(self.length_bytes);
        if range.start >= end {
            return Ok(());
        }
        let place = self.offset_bytes + range.start..self.offset_bytes + end;
        self.layer.below(place, found)
    }

    fn cost(&self) -> u64 {
        self.layer.cost()
    }
}
