//! Which blocks are marked.

use std::ops::Range;

use crate::bytes::to_usize;

/// A bit for each cluster of blocks, the lowest bit of a byte first.
pub(crate) struct Bitmap {
    bytes: Vec<u8>,
    cluster_blocks: u64,
}

impl Bitmap {
    /// One of `clusters` clusters of `cluster_blocks` blocks, none of them marked.
    pub(crate) fn new(clusters: u64, cluster_blocks: u64) -> Self {
        Self {
            bytes: vec![0; to_usize(clusters.div_ceil(8))],
            cluster_blocks,
        }
    }

    /// Marks what `other` marks.
    pub(crate) fn add(&mut self, other: &[u8]) {
        for (byte, more) in self.bytes.iter_mut().zip(other) {
            *byte |= more;
        }
    }

    /// Marks the clusters of blocks from `start` to `end`.
    pub(crate) fn mark(&mut self, start: u64, end: u64) {
        for cluster in start / self.cluster_blocks..end.div_ceil(self.cluster_blocks) {
            if let Some(byte) = self.bytes.get_mut(to_usize(cluster / 8)) {
                *byte |= 1 << (cluster % 8);
            }
        }
    }

    /// The marked ones among the first `clusters`.
    pub(crate) fn marked(&self, clusters: u64) -> impl Iterator<Item = u64> {
        let bytes = (0_u64..).zip(&self.bytes).filter(|(_, byte)| **byte != 0);
        bytes
            .flat_map(|(at, byte)| {
                let bits = (0..8).filter(move |bit| byte >> bit & 1 == 1);
                bits.map(move |bit| at * 8 + bit)
            })
            .take_while(move |cluster| *cluster < clusters)
    }

    /// Runs of marked blocks among the first `blocks`.
    pub(crate) fn runs(&self, blocks: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for cluster in self.marked(blocks.div_ceil(self.cluster_blocks)) {
            let start = cluster * self.cluster_blocks;
            let end = (start + self.cluster_blocks).min(blocks);
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_clusters_make_runs_of_blocks() {
        let mut bitmap = Bitmap::new(32, 4);
        bitmap.mark(5, 6);
        bitmap.mark(8, 9);
        bitmap.mark(100, 1000);
        assert_eq!(bitmap.runs(110), [4..12, 100..110]);
        bitmap.add(&[0b1001, 0, 0, 0]);
        assert_eq!(bitmap.runs(110), [0..16, 100..110]);
    }
}
