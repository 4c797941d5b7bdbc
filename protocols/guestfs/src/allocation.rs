//! Which bytes of a volume are in use.

use std::fmt;
use std::iter::Peekable;
use std::ops::Range;

use crate::GuestError;

/// Ranges of bytes of a volume that are in use, in order and merged.
///
/// An error ends it. Whoever gets one takes the whole volume for used.
pub struct Allocation {
    ranges: Peekable<Ranges>,
}

type Ranges = Box<dyn Iterator<Item = Result<Range<u64>, GuestError>> + Send>;

impl Allocation {
    /// From `ranges` in order, which may touch or overlap, of a filesystem that ends at `end_bytes` in a volume of
    /// `volume_bytes`: what lies behind it is nobody's to leave out.
    pub(crate) fn new(
        ranges: impl Iterator<Item = Result<Range<u64>, GuestError>> + Send + 'static,
        end_bytes: u64,
        volume_bytes: u64,
    ) -> Self {
        let behind = (end_bytes < volume_bytes).then_some(Ok(end_bytes..volume_bytes));
        let all = ranges
            .chain(behind)
            .filter(|range| !matches!(range, Ok(range) if range.is_empty()));
        let mut failed = false;
        let until_error = all.take_while(move |range| {
            let goes_on = !failed;
            failed |= range.is_err();
            goes_on
        });
        let ranges: Ranges = Box::new(until_error);
        Self {
            ranges: ranges.peekable(),
        }
    }
}

impl Iterator for Allocation {
    type Item = Result<Range<u64>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut merged = match self.ranges.next()? {
            Ok(range) => range,
            error => return Some(error),
        };
        while let Some(Ok(more)) = self
            .ranges
            .next_if(|next| matches!(next, Ok(next) if next.start <= merged.end))
        {
            merged.end = merged.end.max(more.end);
        }
        Some(Ok(merged))
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_an_error_ends_them() {
        let given = vec![Ok(0..5), Ok(5..9), Ok(7..8), Ok(9..9), Ok(12..13)];
        let merged: Vec<_> = Allocation::new(given.into_iter(), 20, 30)
            .map(Result::unwrap)
            .collect();
        assert_eq!(merged, [0..9, 12..13, 20..30]);
        let given = vec![Ok(0..5), Err(GuestError::NotFound), Ok(5..9)];
        let mut ranges = Allocation::new(given.into_iter(), 9, 9);
        assert!(ranges.next().unwrap().is_ok());
        assert!(ranges.next().unwrap().is_err());
        assert!(ranges.next().is_none());
    }
}
