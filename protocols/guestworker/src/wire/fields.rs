//! Numbers, texts and bytes in the body of a frame.

use bytes::Bytes;
use export::Segments;

use super::{MEMBERS_MAX, TEXT_BYTES_MAX};

/// Bytes that nobody who is well would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A value that goes over the wire.
pub(crate) trait Wire: Sized {
    fn encode(self, body: &mut Body);
    fn decode(fields: &mut Fields) -> Result<Self, Malformed>;
}

/// The body of a frame that is to be sent: fields, then bytes that are not copied.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) fields: Vec<u8>,
    pub(crate) bulk: Segments,
}

/// The body of a frame that came.
#[derive(Debug)]
pub(crate) struct Fields {
    body: Bytes,
    at: usize,
}

impl Body {
    pub(crate) fn of(value: impl Wire) -> Self {
        let mut body = Self::default();
        value.encode(&mut body);
        body
    }

    pub(crate) fn len(&self) -> usize {
        self.fields.len() + self.bulk.len()
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.fields.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.fields.extend(value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.fields.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.fields.extend(value.to_le_bytes());
    }

    /// A length, then the bytes.
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.fields.extend(value);
    }

    /// A text for people, cut where it is too long.
    pub(crate) fn text(&mut self, value: &str) {
        let mut end = value.len().min(TEXT_BYTES_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes(value.get(..end).unwrap_or_default().as_bytes());
    }

    /// Some texts; of too many, the first and how many more there are.
    pub(crate) fn texts(&mut self, values: &[String]) {
        let more = values.len().saturating_sub(MEMBERS_MAX);
        let shown = values.len() - more + usize::from(more > 0);
        self.u32(u32::try_from(shown).unwrap_or(u32::MAX));
        for value in values.iter().take(MEMBERS_MAX) {
            self.text(value);
        }
        if more > 0 {
            self.text(&format!("{more} more"));
        }
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            encode(self, value);
        }
    }
}

impl Fields {
    pub(crate) fn new(body: Bytes) -> Self {
        Self { body, at: 0 }
    }

    /// Takes one value, which must be all that is there.
    pub(crate) fn only<T: Wire>(body: Bytes) -> Result<T, Malformed> {
        let mut fields = Self::new(body);
        let value = T::decode(&mut fields)?;
        match fields.left() {
            0 => Ok(value),
            _ => Err(Malformed("more in a frame than belongs there")),
        }
    }

    pub(crate) fn left(&self) -> usize {
        self.body.len() - self.at
    }

    fn take(&mut self, length: usize) -> Result<&[u8], Malformed> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.body.get(self.at..end));
        let taken = taken.ok_or(Malformed("a frame that ends too early"))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn identity(&mut self) -> Result<[u8; 16], Malformed> {
        self.array()
    }

    pub(crate) fn is(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    /// A number that says how many follow of what takes at least `least_bytes` each.
    pub(crate) fn count(&mut self, most: usize, least_bytes: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let fits = count
            .checked_mul(least_bytes)
            .is_some_and(|bytes| bytes <= self.left());
        match fits && count <= most {
            true => Ok(count),
            false => Err(Malformed("more of something than there may be")),
        }
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Result<Vec<u8>, Malformed> {
        let length = self.count(most, 1)?;
        Ok(self.take(length)?.to_vec())
    }

    /// A text for people, without what would move a terminal's cursor.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes(TEXT_BYTES_MAX)?;
        let text = String::from_utf8_lossy(&bytes);
        let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
        Ok(text.chars().map(plain).collect())
    }

    pub(crate) fn texts(&mut self, most: usize) -> Result<Vec<String>, Malformed> {
        let count = self.count(most, 4)?;
        (0..count).map(|_| self.text()).collect()
    }

    pub(crate) fn option<T>(
        &mut self,
        decode: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.is()? {
            true => decode(self).map(Some),
            false => Ok(None),
        }
    }

    /// All that is left, not copied.
    pub(crate) fn rest(&mut self) -> Bytes {
        let rest = self.body.slice(self.at..);
        self.at = self.body.len();
        rest
    }
}

impl Wire for () {
    fn encode(self, _: &mut Body) {}

    fn decode(_: &mut Fields) -> Result<Self, Malformed> {
        Ok(())
    }
}
