//! Takes the bytes of a peer apart into PDUs.
//!
//! Short PDUs are cut out of one buffer that a single read fills with many of them. Long data segments, and the data of
//! writes, go where the session wants them, straight from the socket.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use export::PayloadBuffer;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;
use zerocopy::FromBytes;

use crate::error::SessionError;
use crate::wire::{DIGEST_LENGTH, Digests, HEADER_LENGTH, Header, digest, opcode, padding};

/// A connection's input.
#[derive(Debug)]
pub struct Receiver {
    input: BytesMut,
    phase: Phase,
    digests: Digests,
    segment_max: usize,
    /// Whether the last data segment was long, so that the next is likely to be long too.
    expect_long: bool,
}

/// What [`Receiver::step`] came to.
#[derive(Debug)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// The data segment of this PDU goes to the buffer given to [`Receiver::receive_into`].
    Place(Header),
    /// A whole PDU.
    Pdu(Received),
}

/// A PDU.
#[derive(Debug)]
pub struct Received {
    /// The basic header segment.
    pub header: Header,
    /// The additional header segments.
    pub additional: Bytes,
    /// The data segment: all of this, or what stands in it from `start`.
    pub data: Segment,
    /// Whether the data digest is right.
    pub is_intact: bool,
}

/// Where a data segment lies.
#[derive(Debug)]
pub enum Segment {
    /// By itself.
    Alone(Bytes),
    /// At the end of the buffer that was given for it.
    Placed {
        /// The buffer.
        buffer: PayloadBuffer,
        /// Where the segment begins in it.
        start: usize,
    },
}

impl Segment {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Alone(bytes) => bytes,
            Self::Placed { buffer, start } => buffer.as_ref().get(*start..).unwrap_or_default(),
        }
    }

    /// The segment by itself.
    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::Alone(bytes) => bytes,
            Self::Placed { buffer, start } => buffer.freeze().slice(start..),
        }
    }
}

impl Receiver {
    /// Starts with the first PDU of a connection.
    pub fn new(segment_max: u32) -> Self {
        Self {
            input: BytesMut::new(),
            phase: Phase::Header,
            digests: Digests::default(),
            segment_max: segment_max as usize,
            expect_long: false,
        }
    }

    /// From the next PDU on, expects these digests, and data segments up to this length.
    pub fn agree(&mut self, digests: Digests, segment_max: u32) {
        self.digests = digests;
        self.segment_max = segment_max as usize;
    }

    /// Whether a PDU has begun and not ended.
    pub fn is_inside(&self) -> bool {
        !matches!(self.phase, Phase::Header) || !self.input.is_empty()
    }

    /// Goes on as far as the bytes allow.
    ///
    /// # Errors
    /// If a segment is too long, or the digest of a header wrong.
    pub fn step(&mut self) -> Result<Step, SessionError> {
        if matches!(self.phase, Phase::Header) && !self.begin()? {
            return Ok(Step::More);
        }
        Ok(match &mut self.phase {
            Phase::Header => Step::More,
            Phase::Segment(pdu) => {
                let length = pdu.header.data_length.get();
                let trailer = pdu.trailer(self.digests);
                if length == 0 {
                    self.finish_alone()
                } else if pdu.header.kind() == opcode::DATA_OUT {
                    Step::Place(pdu.header)
                } else if self.input.len() >= length + trailer {
                    self.finish_alone()
                } else if length < DIRECT_MIN {
                    self.input.reserve(length + trailer - self.input.len());
                    Step::More
                } else {
                    Step::Place(pdu.header)
                }
            }
            Phase::Direct { pdu, missing, .. } => {
                let trailer = pdu.trailer(self.digests);
                if *missing > 0 || self.input.len() < trailer {
                    Step::More
                } else {
                    self.finish_placed()
                }
            }
        })
    }

    /// Appends the data segment that [`Step::Place`] told of to `buffer`, which has room for it.
    pub fn receive_into(&mut self, mut buffer: PayloadBuffer) {
        if let Phase::Segment(pdu) = &self.phase {
            let length = pdu.header.data_length.get();
            let start = buffer.as_ref().len();
            let here = length.min(self.input.len());
            buffer.put(&self.input.split_to(here));
            self.expect_long = length >= DIRECT_MIN;
            self.phase = Phase::Direct {
                pdu: pdu.clone(),
                buffer,
                start,
                missing: length - here,
            };
        }
    }

    /// Reads from the peer to where the next bytes belong. 0 bytes say that the peer has closed.
    pub fn poll_fill<R: AsyncRead>(
        &mut self,
        peer: Pin<&mut R>,
        waker: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        if let Phase::Direct {
            buffer, missing, ..
        } = &mut self.phase
            && *missing > 0
        {
            let room = buffer.unfilled().get_mut(..*missing).unwrap_or_default();
            let mut room = ReadBuf::new(room);
            ready!(peer.poll_read(waker, &mut room))?;
            let count = room.filled().len();
            buffer.advance(count);
            *missing -= count;
            return Poll::Ready(Ok(count));
        }
        // Behind a long segment, read no further than the next header, so that the segment behind that need not be
        // moved.
        let wanted = HEADER_LENGTH
            + self.digests.header_length()
            + match &self.phase {
                Phase::Direct { pdu, .. } => pdu.trailer(self.digests),
                _ => 0,
            };
        if self.expect_long && self.input.len() < wanted {
            let wanted = wanted - self.input.len();
            self.input.reserve(wanted);
            return poll_read_buf(peer, waker, &mut (&mut self.input).limit(wanted));
        }
        if self.input.capacity() - self.input.len() < INPUT_MIN {
            self.input.reserve(INPUT_BYTES);
        }
        poll_read_buf(peer, waker, &mut self.input)
    }

    /// Takes the header segments of the next PDU, if they are there.
    fn begin(&mut self) -> Result<bool, SessionError> {
        let Ok((header, _)) = Header::read_from_prefix(&self.input) else {
            return Ok(false);
        };
        // Known before it can be proven, but then there is nothing to wait for.
        let length = header.data_length.get();
        if length > self.segment_max && !self.digests.header {
            return Err(SessionError::SegmentTooLong(length));
        }
        let segments = HEADER_LENGTH + header.ahs_length();
        if self.input.len() < segments + self.digests.header_length() {
            return Ok(false);
        }
        let mut segments = self.input.split_to(segments);
        if self.digests.header {
            let sent = self.input.split_to(DIGEST_LENGTH);
            if digest([&*segments]) != *sent {
                return Err(SessionError::HeaderDigest);
            }
        }
        if length > self.segment_max {
            return Err(SessionError::SegmentTooLong(length));
        }
        segments.advance(HEADER_LENGTH);
        self.phase = Phase::Segment(Begun {
            header,
            additional: Bytes::copy_from_slice(&segments),
        });
        Ok(true)
    }

    /// The PDU's data segment lies in the input.
    fn finish_alone(&mut self) -> Step {
        let Phase::Segment(pdu) = std::mem::replace(&mut self.phase, Phase::Header) else {
            return Step::More;
        };
        let length = pdu.header.data_length.get();
        let data = if length == 0 {
            Bytes::new()
        } else {
            self.expect_long = false;
            self.input.split_to(length).freeze()
        };
        let is_intact = self.take_trailer(&data);
        Step::Pdu(Received {
            header: pdu.header,
            additional: pdu.additional,
            data: Segment::Alone(data),
            is_intact,
        })
    }

    /// The PDU's data segment lies in the buffer that was given for it.
    fn finish_placed(&mut self) -> Step {
        let Phase::Direct {
            pdu, buffer, start, ..
        } = std::mem::replace(&mut self.phase, Phase::Header)
        else {
            return Step::More;
        };
        let is_intact = self.take_trailer(buffer.as_ref().get(start..).unwrap_or_default());
        Step::Pdu(Received {
            header: pdu.header,
            additional: pdu.additional,
            data: Segment::Placed { buffer, start },
            is_intact,
        })
    }

    /// Takes padding and digest behind `data`; says whether the digest is right.
    fn take_trailer(&mut self, data: &[u8]) -> bool {
        let pad = self.input.split_to(padding(data.len()));
        if self.digests.data_length(data.len()) == 0 {
            return true;
        }
        let sent = self.input.split_to(DIGEST_LENGTH);
        digest([data, &pad]) == *sent
    }
}

#[derive(Debug)]
enum Phase {
    Header,
    /// Behind the header segments.
    Segment(Begun),
    /// In a data segment that goes to its own buffer, or behind it.
    Direct {
        pdu: Begun,
        buffer: PayloadBuffer,
        start: usize,
        missing: usize,
    },
}

#[derive(Debug, Clone)]
struct Begun {
    header: Header,
    additional: Bytes,
}

impl Begun {
    /// Bytes behind the data segment.
    fn trailer(&self, digests: Digests) -> usize {
        let length = self.header.data_length.get();
        padding(length) + digests.data_length(length)
    }
}

/// Size of the buffer for headers and short segments.
const INPUT_BYTES: usize = 256 * 1024;
/// Least room to read into.
const INPUT_MIN: usize = 16 * 1024;
/// Segments from here on get a buffer of their own.
const DIRECT_MIN: usize = 48 * 1024;
