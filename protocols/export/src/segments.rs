//! Bytes on their way to a socket, without copying them together.

use std::io::IoSlice;

use bytes::Bytes;

/// The answer to a read: borrowed pieces that a server hands to one vectored write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments {
    pieces: Vec<Bytes>,
    length_bytes: usize,
}

impl Segments {
    /// An empty answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `piece`. Empty pieces are left out.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length_bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Appends `length_bytes` zero bytes, all from one shared page of zeroes.
    pub fn push_zeroes(&mut self, mut length_bytes: usize) {
        while length_bytes > 0 {
            let step = length_bytes.min(ZEROES.len());
            self.push(Bytes::from_static(ZEROES).slice(..step));
            length_bytes -= step;
        }
    }

    /// Appends all pieces of `other`.
    pub fn append(&mut self, other: Self) {
        self.length_bytes += other.length_bytes;
        self.pieces.extend(other.pieces);
    }

    /// Forgets everything, keeps the allocation.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.length_bytes = 0;
    }

    /// All bytes together.
    pub fn len(&self) -> usize {
        self.length_bytes
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length_bytes == 0
    }

    /// The pieces in order; none is empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Takes the pieces out.
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// The pieces as slices for a vectored write.
    pub fn io_slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        self.pieces.iter().map(|piece| IoSlice::new(piece))
    }

    /// Copies everything into one vector.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    /// Copies everything to `out`, which must be exactly as long.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy_to(&self, mut out: &mut [u8]) {
        assert_eq!(
            out.len(),
            self.length_bytes,
            "the buffer has the length of the read"
        );
        for piece in &self.pieces {
            let (head, tail) = out.split_at_mut(piece.len());
            head.copy_from_slice(piece);
            out = tail;
        }
    }
}

impl From<Bytes> for Segments {
    fn from(piece: Bytes) -> Self {
        let mut segments = Self::new();
        segments.push(piece);
        segments
    }
}

static ZEROES: &[u8] = &[0; 256 * 1024];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_in_order() {
        let mut segments = Segments::from(Bytes::from_static(b"abc"));
        segments.push(Bytes::new());
        segments.push_zeroes(600_000);
        segments.push(Bytes::from_static(b"z"));
        assert_eq!(segments.len(), 600_004);
        let all = segments.to_vec();
        assert_eq!(
            (&all[..3], all[600_003], all[300_000]),
            (&b"abc"[..], b'z', 0)
        );
        let mut copy = vec![1; all.len()];
        segments.copy_to(&mut copy);
        assert_eq!(copy, all);
    }
}
