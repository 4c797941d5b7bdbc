//! Frames: a head and a payload.

use std::fmt;

/// What a client sends first.
pub(crate) const MAGIC: [u8; 8] = *b"HFINGST1";
/// Length of a head.
pub(crate) const HEAD_BYTES: usize = 8;
/// Most content of one frame.
pub(crate) const DATA_BYTES_MAX: usize = 1 << 20;
/// Longest payload: content with its offset.
pub(crate) const FRAME_BYTES_MAX: usize = DATA_BYTES_MAX + 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Who the client is.
    Hello = 1,
    /// Begins a stream on its way in.
    Put = 2,
    /// Content.
    Data = 3,
    /// Ends a stream that is whole.
    Commit = 4,
    /// Drops a stream on its way in.
    Abort = 5,
    /// Begins a stream on its way out.
    Get = 6,
    /// The client took content.
    Credit = 7,
    /// Enough of a stream on its way out.
    Stop = 8,
    /// What there is.
    List = 9,
    /// What these are.
    Describe = 10,
    /// Removes.
    Remove = 11,
    /// The session ends.
    Bye = 12,
    /// Answer to hello.
    Welcome = 128,
    /// Answer to put.
    Opened = 129,
    /// The daemon took content.
    Staged = 130,
    /// Answer to commit.
    Committed = 131,
    /// Answer to abort.
    Aborted = 132,
    /// Answer to get.
    Found = 133,
    /// End of a stream on its way out.
    End = 134,
    /// Answer to list.
    Listed = 135,
    /// Answer to describe.
    Described = 136,
    /// Answer to remove.
    Removed = 137,
    /// The answer takes longer.
    Wait = 138,
    /// Any answer but that which was hoped for.
    Refused = 139,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// What comes before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// What it is.
    pub(crate) kind: Kind,
    /// Length of the payload.
    pub(crate) length: usize,
}

/// A frame, whole.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What it is.
    pub(crate) kind: Kind,
    /// What comes with it.
    pub(crate) payload: Vec<u8>,
}

impl Kind {
    const ALL: [Self; 24] = [
        Self::Hello,
        Self::Put,
        Self::Data,
        Self::Commit,
        Self::Abort,
        Self::Get,
        Self::Credit,
        Self::Stop,
        Self::List,
        Self::Describe,
        Self::Remove,
        Self::Bye,
        Self::Welcome,
        Self::Opened,
        Self::Staged,
        Self::Committed,
        Self::Aborted,
        Self::Found,
        Self::End,
        Self::Listed,
        Self::Described,
        Self::Removed,
        Self::Wait,
        Self::Refused,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

impl Head {
    /// The bytes of the head.
    pub(crate) fn encode(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let (length, rest) = bytes.split_at_mut(4);
        let shown = u32::try_from(self.length).unwrap_or(u32::MAX);
        length.copy_from_slice(&shown.to_le_bytes());
        if let Some(kind) = rest.first_mut() {
            *kind = self.kind as u8;
        }
        bytes
    }

    /// Reads a head.
    pub(crate) fn decode(bytes: [u8; HEAD_BYTES]) -> Result<Self, Malformed> {
        let [a, b, c, d, kind, reserved @ ..] = bytes;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(Malformed("a frame is longer than any can be"));
        }
        if reserved != [0; 3] {
            return Err(Malformed("reserved bytes of a frame are not zero"));
        }
        let kind = Kind::from_number(kind).ok_or(Malformed("a frame is of an unknown kind"))?;
        Ok(Self { kind, length })
    }
}

impl Frame {
    /// A frame without payload.
    pub(crate) fn bare(kind: Kind) -> Self {
        Self {
            kind,
            payload: Vec::new(),
        }
    }

    /// A frame with an offset alone.
    pub(crate) fn offset(kind: Kind, offset: u64) -> Self {
        Self {
            kind,
            payload: offset.to_le_bytes().to_vec(),
        }
    }

    /// A frame with where something ends, and its checksum.
    pub(crate) fn ending(kind: Kind, end: u64, checksum: u64) -> Self {
        Self {
            kind,
            payload: [end.to_le_bytes(), checksum.to_le_bytes()].concat(),
        }
    }

    /// A frame with a document.
    pub(crate) fn document(kind: Kind, document: &impl serde::Serialize) -> Self {
        Self {
            kind,
            payload: serde_json::to_vec(document).unwrap_or_default(),
        }
    }

    /// The document of a frame.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Malformed> {
        serde_json::from_slice(&self.payload)
            .map_err(|_| Malformed("the document of a frame makes no sense"))
    }

    /// The offset of a frame that has one alone.
    pub(crate) fn read_offset(&self) -> Result<u64, Malformed> {
        let bytes = self.payload.as_slice().try_into();
        bytes
            .map(u64::from_le_bytes)
            .map_err(|_| Malformed("an offset has another length"))
    }

    /// Where something ends, and its checksum.
    pub(crate) fn read_ending(&self) -> Result<(u64, u64), Malformed> {
        let parts = self.payload.split_first_chunk();
        let parts = parts.and_then(|(end, rest)| Some((end, rest.try_into().ok()?)));
        let (end, checksum) = parts.ok_or(Malformed("an ending has another length"))?;
        Ok((u64::from_le_bytes(*end), u64::from_le_bytes(checksum)))
    }

    /// Offset and bytes of content.
    pub(crate) fn read_data(&self) -> Result<(u64, &[u8]), Malformed> {
        let parts = self.payload.split_first_chunk();
        let (offset, content) = parts.ok_or(Malformed("content comes without its offset"))?;
        if content.is_empty() {
            return Err(Malformed("a frame has no content"));
        }
        Ok((u64::from_le_bytes(*offset), content))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Frame")
            .field("kind", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_were_written_and_no_others() {
        for kind in Kind::ALL {
            let head = Head { kind, length: 4711 };
            assert_eq!(Head::decode(head.encode()), Ok(head));
        }
        let head = |length: u32, kind, last| {
            let [a, b, c, d] = length.to_le_bytes();
            Head::decode([a, b, c, d, kind, 0, 0, last])
        };
        assert!(head(1_048_584, 3, 0).is_ok());
        assert!(head(1_048_585, 3, 0).is_err(), "too long");
        assert!(
            head(0, 0, 0).is_err() && head(0, 13, 0).is_err(),
            "no such kind"
        );
        assert!(head(0, 3, 1).is_err(), "reserved");
    }

    #[test]
    fn payloads_have_their_length() {
        assert_eq!(Frame::offset(Kind::Credit, 7).read_offset(), Ok(7));
        assert_eq!(Frame::ending(Kind::End, 7, 8).read_ending(), Ok((7, 8)));
        assert!(Frame::bare(Kind::Credit).read_offset().is_err());
        assert!(Frame::offset(Kind::End, 7).read_ending().is_err());
        assert!(
            Frame::offset(Kind::Data, 7).read_data().is_err(),
            "nothing in it"
        );
    }
}
