//! A member of something redundant, which may be missing, or stale in parts.

use std::ops::Range;
use std::sync::Arc;

use export::Segments;

use super::{Found, Layer};
use crate::GuestError;

/// A member of something redundant.
#[derive(Clone)]
pub(crate) struct Member {
    layer: Option<Arc<dyn Layer>>,
    /// Up to where it has been brought up to date.
    valid_bytes: u64,
    /// What it has lost, in order.
    lost: Arc<[Range<u64>]>,
}

impl Member {
    /// One of which all is good.
    pub(crate) fn whole(layer: Arc<dyn Layer>) -> Self {
        Self {
            layer: Some(layer),
            valid_bytes: u64::MAX,
            lost: Arc::default(),
        }
    }

    /// One that is good up to `valid_bytes` but for what is in `lost`.
    pub(crate) fn partial(
        layer: Arc<dyn Layer>,
        valid_bytes: u64,
        mut lost: Vec<Range<u64>>,
    ) -> Self {
        lost.sort_by_key(|range| range.start);
        Self {
            layer: Some(layer),
            valid_bytes,
            lost: lost.into(),
        }
    }

    /// One that is not there.
    pub(crate) fn missing() -> Self {
        Self {
            layer: None,
            valid_bytes: 0,
            lost: Arc::default(),
        }
    }

    /// Whether nothing of it is good. What is there of it may still be kept for the guest, which may know more.
    pub(crate) fn is_missing(&self) -> bool {
        self.layer.is_none() || self.valid_bytes == 0
    }

    /// Whether it is there and up to date everywhere, but for what it knows to have lost.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.layer.is_some() && self.valid_bytes == u64::MAX
    }

    /// Up to where what is to be said of the byte at `at` holds, at most to `end`.
    pub(crate) fn same_until(&self, at: u64, end: u64) -> u64 {
        let mut until = end;
        for edge in [self.valid_bytes]
            .into_iter()
            .chain(self.lost.iter().flat_map(|lost| [lost.start, lost.end]))
        {
            if edge > at {
                until = until.min(edge);
            }
        }
        until
    }

    /// Whether all of a place is good.
    pub(crate) fn has(&self, place: &Range<u64>) -> bool {
        self.layer.is_some()
            && place.end <= self.valid_bytes
            && !self
                .lost
                .iter()
                .any(|lost| lost.start < place.end && place.start < lost.end)
    }

    /// What lies at a place; `None` if that is not good, or cannot be read for a reason that others need not have.
    pub(crate) fn read(&self, at: u64, length: usize) -> Result<Option<Segments>, GuestError> {
        let Some(layer) = self
            .layer
            .as_ref()
            .filter(|_| self.has(&(at..at.saturating_add(length as u64))))
        else {
            return Ok(None);
        };
        match layer.read(at, length) {
            Err(error) if error.is_of_one_place() => {
                tracing::warn!(%error, "a member cannot be read at a place, the others are asked");
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    pub(crate) fn below(&self, place: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        match &self.layer {
            Some(layer) => layer.below(place, found),
            None => Ok(()),
        }
    }

    pub(crate) fn cost(&self) -> u64 {
        self.layer.as_ref().map_or(0, |layer| layer.cost())
    }
}
