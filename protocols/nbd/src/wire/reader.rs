//! Reads big-endian numbers from bytes that cannot be trusted.

/// Bytes that do not have the form that the protocol gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end too early.
    #[error("message is cut short")]
    Short,
    /// Bytes are left over.
    #[error("message has bytes left over")]
    Trailing,
    /// A magic number is wrong.
    #[error("wrong magic number")]
    Magic,
    /// A string is longer than the protocol allows.
    #[error("string is too long")]
    LongString,
    /// A string is not UTF-8.
    #[error("string is not UTF-8")]
    NotText,
    /// A number is not one of those the protocol defines.
    #[error("value is not defined")]
    Undefined,
}

/// A cursor over bytes; every step is bounded.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes the next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes a 16-bit number.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes a 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a string behind its 32-bit length.
    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed::LongString)?;
        if length > super::STRING_MAX {
            return Err(Malformed::LongString);
        }
        text(self.bytes(length)?)
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses bytes that are left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// Checks that bytes are a string of the protocol.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > super::STRING_MAX {
        return Err(Malformed::LongString);
    }
    std::str::from_utf8(bytes).map_err(|_| Malformed::NotText)
}
