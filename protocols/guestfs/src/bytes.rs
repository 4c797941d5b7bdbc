//! Numbers out of bytes of a disk.

use crate::{GuestError, Place};

/// Bytes of one structure. What lies beyond their end is an error that names the structure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    bytes: &'a [u8],
    place: Place,
}

impl<'a> View<'a> {
    pub(crate) fn new(bytes: &'a [u8], place: Place) -> Self {
        Self { bytes, place }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn all(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn slice(&self, at: usize, length: usize) -> Result<&'a [u8], GuestError> {
        at.checked_add(length)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or_else(|| self.corrupt("a part of it lies beyond its end"))
    }

    pub(crate) fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], GuestError> {
        Ok(self
            .slice(at, N)?
            .try_into()
            .expect("a slice has the length that was asked for"))
    }

    pub(crate) fn u8(&self, at: usize) -> Result<u8, GuestError> {
        self.array(at).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&self, at: usize) -> Result<u16, GuestError> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&self, at: usize) -> Result<u32, GuestError> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&self, at: usize) -> Result<u64, GuestError> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(crate) fn big16(&self, at: usize) -> Result<u16, GuestError> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(crate) fn big32(&self, at: usize) -> Result<u32, GuestError> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(crate) fn big64(&self, at: usize) -> Result<u64, GuestError> {
        self.array(at).map(u64::from_be_bytes)
    }

    /// The two halves of a number, the high one only if it is there to be read.
    pub(crate) fn split(&self, low: usize, high: Option<usize>) -> Result<u64, GuestError> {
        let high = high.map_or(Ok(0), |at| self.u32(at))?;
        Ok(u64::from(self.u32(low)?) | u64::from(high) << 32)
    }

    pub(crate) fn corrupt(&self, detail: &'static str) -> GuestError {
        GuestError::corrupt(self.place, detail)
    }
}

/// A number that is known to fit the memory of a 64-bit machine.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("pointers have 64 bits")
}

/// Text in a field that ends with its first NUL; `None` for no text.
pub(crate) fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0);
    let field = field.get(..end.unwrap_or(field.len())).unwrap_or_default();
    let text = String::from_utf8_lossy(field).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_end_is_an_error() {
        let view = View::new(&[1, 2, 3, 4, 5], Place::Superblock);
        assert_eq!(view.u32(1).unwrap(), 0x0504_0302);
        assert_eq!(view.big16(0).unwrap(), 0x0102);
        for at in [2, 5, usize::MAX] {
            assert!(view.u32(at).is_err(), "{at}");
        }
        assert_eq!(text(b"ab \0c"), Some("ab".to_owned()));
        assert_eq!(text(b"\0c"), None);
    }
}
