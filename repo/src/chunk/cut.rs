//! Where to cut a stream: by its content, so that what moved is found again.

use fastcdc::v2020::FastCDC;

/// Cuts streams into chunks of 16 to 256 KiB, 64 KiB on average.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cutter;

impl Cutter {
    /// The longest chunk. Given at least so many bytes, a cut depends on nothing behind it.
    pub(crate) const LONGEST_BYTES: usize = 256 * 1024;

    /// Length of the first chunk of `bytes`, which start at a cut and are not empty.
    pub(crate) fn first_length(self, bytes: &[u8]) -> usize {
        let (_, end) = FastCDC::new(bytes, SHORTEST_BYTES, AVERAGE_BYTES, Self::LONGEST_BYTES)
            .cut(0, bytes.len());
        end.clamp(1, bytes.len())
    }
}

const SHORTEST_BYTES: usize = 16 * 1024;
const AVERAGE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(bytes: &[u8]) -> Vec<usize> {
        let mut at = 0;
        let mut cuts = Vec::new();
        while at < bytes.len() {
            at += Cutter.first_length(&bytes[at..]);
            cuts.push(at);
        }
        cuts
    }

    #[test]
    fn an_insertion_moves_the_cuts_behind_it_and_no_others() {
        let mut bytes = vec![0; 4 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let before = cuts(&bytes);
        bytes.splice(1_000_000..1_000_000, [7; 100]);
        let after = cuts(&bytes);
        let moved = before
            .iter()
            .filter(|cut| after.contains(&(**cut + 100)))
            .count();
        let stayed = before.iter().filter(|cut| after.contains(cut)).count();
        assert!(
            moved + stayed + 8 > before.len(),
            "{moved} + {stayed} of {}",
            before.len()
        );
        assert!(
            before
                .windows(2)
                .all(|pair| pair[1] - pair[0] <= Cutter::LONGEST_BYTES)
        );
    }
}
