//! A socket on which one side speaks at a time, in frames.
//!
//! As nothing comes that was not asked for, what is read is one frame and never more: small ones take one call.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use bytes::Bytes;

use crate::wire::{Body, FRAME_BYTES_MAX, HEAD_BYTES, Kind, Malformed};

/// One end.
#[derive(Debug)]
pub(crate) struct Lane<S> {
    stream: S,
    scratch: Box<[u8; SCRATCH_BYTES]>,
}

/// What came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
}

/// Why a lane is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneFault {
    #[error("the other side is gone")]
    Closed,
    #[error("no answer in time")]
    TookTooLong,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

/// What bytes go over.
pub(crate) type Stream = Box<dyn Both>;

/// What can be read and written.
pub(crate) trait Both: Read + Write + Send {}

impl<T: Read + Write + Send> Both for T {}

impl LaneFault {
    /// Whether what was asked for is to blame, and not whatever ended the other side.
    pub(crate) fn is_of_the_request(&self) -> bool {
        matches!(self, Self::TookTooLong | Self::Malformed(_))
    }
}

/// Asked now and then while nothing comes or goes, if the stream has a time-out: whether to wait on.
pub(crate) type Patience<'a> = &'a mut dyn FnMut() -> bool;

impl<S: Read + Write> Lane<S> {
    pub(crate) fn new(stream: S) -> Self {
        let scratch = Box::new([0; SCRATCH_BYTES]);
        Self { stream, scratch }
    }

    /// Sends a frame. Bulk goes from where it lies.
    pub(crate) fn send(
        &mut self,
        kind: Kind,
        body: &Body,
        patience: Patience<'_>,
    ) -> Result<(), LaneFault> {
        let length = u32::try_from(body.len()).ok();
        let length = length.filter(|_| body.len() <= FRAME_BYTES_MAX);
        let length = length.ok_or(Malformed("a frame that is too long to be sent"))?;
        let mut head = [0; HEAD_BYTES];
        for (target, byte) in head.iter_mut().zip(length.to_le_bytes()) {
            *target = byte;
        }
        if let Some(target) = head.get_mut(4) {
            *target = kind as u8;
        }
        let small = [&head[..], &body.fields].concat();
        let mut slices = vec![IoSlice::new(&small)];
        slices.extend(body.bulk.io_slices());
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            match self.stream.write_vectored(left) {
                Ok(0) => return Err(LaneFault::Closed),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) => wait_on(error, patience)?,
            }
        }
        Ok(())
    }

    /// Waits for a frame.
    pub(crate) fn receive(&mut self, patience: Patience<'_>) -> Result<Frame, LaneFault> {
        let mut filled = 0;
        while filled < HEAD_BYTES {
            let room = self.scratch.get_mut(filled..).unwrap_or_default();
            filled += read(&mut self.stream, room, patience)?;
        }
        let (head, start) = self
            .scratch
            .get(..filled)
            .and_then(|all| all.split_at_checked(HEAD_BYTES))
            .ok_or(Malformed("a frame without a head"))?;
        let (length, kind) = parse_head(head)?;
        if start.len() > length {
            return Err(Malformed("more than was asked for").into());
        }
        let mut body = vec![0; length.min(STEP_BYTES)];
        if let Some(target) = body.get_mut(..start.len()) {
            target.copy_from_slice(start);
        }
        let mut filled = start.len();
        while filled < length {
            if filled == body.len() {
                body.resize(length.min(filled + STEP_BYTES), 0);
            }
            let room = body.get_mut(filled..).unwrap_or_default();
            filled += read(&mut self.stream, room, patience)?;
        }
        Ok(Frame {
            kind,
            body: body.into(),
        })
    }
}

fn parse_head(head: &[u8]) -> Result<(usize, Kind), Malformed> {
    let [a, b, c, d, kind, 0, 0, 0] = *head else {
        return Err(Malformed("a head with something in its zeroes"));
    };
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    match length <= FRAME_BYTES_MAX {
        true => Ok((length, Kind::of(kind)?)),
        false => Err(Malformed("a frame that is too long")),
    }
}

fn read(
    stream: &mut impl Read,
    room: &mut [u8],
    patience: Patience<'_>,
) -> Result<usize, LaneFault> {
    loop {
        match stream.read(room) {
            Ok(0) => return Err(LaneFault::Closed),
            Ok(count) => return Ok(count),
            Err(error) => wait_on(error, patience)?,
        }
    }
}

/// What a failed call means.
fn wait_on(error: io::Error, patience: Patience<'_>) -> Result<(), LaneFault> {
    match error.kind() {
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::WouldBlock | ErrorKind::TimedOut if patience() => Ok(()),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(LaneFault::TookTooLong),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(LaneFault::Closed),
        _ => Err(LaneFault::Io(error)),
    }
}

/// Heads and small bodies come into this.
const SCRATCH_BYTES: usize = 4096;

/// Memory for a body is taken in such steps, as its bytes come.
const STEP_BYTES: usize = 2 << 20;
