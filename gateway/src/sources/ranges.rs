//! Sets of bytes of a disk, as lists of ranges that ascend and do not overlap.

use std::ops::Range;

/// What is in `0..length_bytes` and not in `ranges`, which ascend.
pub fn complement(ranges: &[Range<u64>], length_bytes: u64) -> Vec<Range<u64>> {
    let mut rest = Vec::with_capacity(ranges.len() + 1);
    let mut at = 0;
    for range in ranges {
        if range.start > at {
            rest.push(at..range.start);
        }
        at = at.max(range.end);
    }
    if at < length_bytes {
        rest.push(at..length_bytes);
    }
    rest
}

/// What is in both of two lists that ascend and do not overlap.
pub fn intersection(one: &[Range<u64>], other: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut both = Vec::new();
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        let common = first.start.max(second.start)..first.end.min(second.end);
        let ends_first = first.end < second.end;
        if !common.is_empty() {
            both.push(common);
        }
        if ends_first {
            left.next();
        } else {
            right.next();
        }
    }
    both
}

/// What is in one of two lists that ascend and do not overlap.
pub fn union(one: &[Range<u64>], other: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = one.iter().chain(other).cloned().collect();
    all.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lists() -> impl Strategy<Value = Vec<bool>> {
        prop::collection::vec(any::<bool>(), 40)
    }

    fn ranges(marked: &[bool]) -> Vec<Range<u64>> {
        let marked = marked.iter().enumerate().filter(|(_, marked)| **marked);
        let single: Vec<_> = marked.map(|(at, _)| at as u64..at as u64 + 1).collect();
        union(&single, &[])
    }

    proptest! {
        #[test]
        fn lists_are_joined_and_cut_like_sets(one in lists(), other in lists()) {
            let of = |both: &dyn Fn(bool, bool) -> bool| {
                let marked: Vec<bool> = one.iter().zip(&other).map(|(one, other)| both(*one, *other)).collect();
                ranges(&marked)
            };
            let (left, right) = (ranges(&one), ranges(&other));
            prop_assert_eq!(union(&left, &right), of(&|one, other| one || other));
            let both = intersection(&left, &right);
            prop_assert_eq!(union(&both, &[]), of(&|one, other| one && other));
            prop_assert_eq!(complement(&left, 40), of(&|one, _| !one));
        }
    }
}
