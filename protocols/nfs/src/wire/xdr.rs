//! External data representation (RFC 4506): big-endian units of four bytes, every length bounded.

use bytes::BufMut;

/// Reads values from the front of a peer's bytes and never past their end.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// The bytes do not hold what the procedure's arguments or results must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed XDR")]
pub struct Malformed;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*head))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*head))
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Exactly `N` bytes; `N` is a multiple of four.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Bytes with their length before them and padding behind them (RFC 4506, 4.10).
    pub(crate) fn opaque(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > limit {
            return Err(Malformed);
        }
        self.take_padded(length)
    }

    /// What [`optional`](Writer::optional) wrote (RFC 4506, 4.19).
    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.bool()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    /// All that is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take_padded(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (padded, rest) = self
            .rest
            .split_at_checked(length.next_multiple_of(4))
            .ok_or(Malformed)?;
        self.rest = rest;
        padded.get(..length).ok_or(Malformed)
    }
}

/// Appends values to a buffer.
#[derive(Debug)]
pub(crate) struct Writer<'a, B> {
    out: &'a mut B,
}

impl<'a, B: BufMut> Writer<'a, B> {
    pub(crate) fn new(out: &'a mut B) -> Self {
        Self { out }
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.out.put_u32(value);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.out.put_u64(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.out.put_u32(u32::from(value));
    }

    /// Bytes whose length both sides know; a multiple of four.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        debug_assert!(
            bytes.len().is_multiple_of(4),
            "fixed fields here need no padding"
        );
        self.out.put_slice(bytes);
    }

    /// Bytes with their length before them and padding behind them.
    pub(crate) fn opaque(&mut self, bytes: &[u8]) {
        self.u32(length_u32(bytes.len()));
        self.out.put_slice(bytes);
        self.out.put_slice(padding(bytes.len()));
    }

    pub(crate) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// The zero bytes that fill the last unit of `length` bytes.
pub(crate) fn padding(length: usize) -> &'static [u8] {
    match length % 4 {
        0 => &[],
        1 => &[0; 3],
        2 => &[0; 2],
        _ => &[0; 1],
    }
}

/// A length that the caller has bounded far below 4 GiB.
pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("replies are bounded by the transfer size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaques_round_trip_with_padding() {
        for length in 0..9 {
            let bytes = vec![7_u8; length];
            let mut out = Vec::new();
            Writer::new(&mut out).opaque(&bytes);
            assert_eq!(out.len() % 4, 0);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.opaque(8), Ok(&bytes[..]));
            assert!(reader.rest().is_empty());
        }
    }

    #[test]
    fn lying_lengths_are_refused() {
        assert_eq!(
            Reader::new(&[0, 0, 0, 5, 1, 2, 3, 4]).opaque(64),
            Err(Malformed)
        );
        assert_eq!(Reader::new(&[0xff; 8]).opaque(usize::MAX), Err(Malformed));
        assert_eq!(
            Reader::new(&[0, 0, 0, 3, 1, 2, 3]).opaque(64),
            Err(Malformed)
        );
        assert_eq!(
            Reader::new(&[0, 0, 0, 4, 1, 2, 3, 4]).opaque(3),
            Err(Malformed)
        );
        assert_eq!(Reader::new(&[0, 0, 0, 2]).bool(), Err(Malformed));
        assert_eq!(Reader::new(&[0, 0, 0]).u32(), Err(Malformed));
    }
}
