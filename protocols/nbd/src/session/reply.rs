//! Encodes replies in the dialect of a connection.

use bytes::Bytes;
use export::Segments;

use crate::wire::{ChunkHeader, ChunkType, CommandFlags, Dialect, Request, SimpleReply, Status};
use export::Output;

/// The extents of one meta context: its number, then lengths and flags.
pub(super) type ContextExtents = (u32, Vec<(u64, u64)>);

/// Writes replies to an [`Output`].
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyEncoder {
    dialect: Dialect,
    /// Address of the zeroes that all [`Segments`] share: a piece that starts there is known to be zero.
    zeroes: usize,
}

impl ReplyEncoder {
    pub(super) fn new(dialect: Dialect) -> Self {
        let mut sample = Segments::new();
        sample.push_zeroes(1);
        let zeroes = sample
            .pieces()
            .first()
            .map_or(0, |piece| piece.as_ptr().addr());
        Self { dialect, zeroes }
    }

    /// Success without bytes.
    pub(super) fn done(&self, request: &Request, output: &mut Output) {
        match self.dialect {
            // Structured connections may be answered simply where no payload is due, which is shorter.
            Dialect::Simple | Dialect::Structured => {
                output.header(|out| {
                    SimpleReply {
                        error: 0,
                        cookie: request.cookie,
                    }
                    .encode(out)
                });
            }
            Dialect::Extended => self.chunk(request, Last::Yes, ChunkType::None, &[], 0, output),
        }
    }

    /// Failure.
    pub(super) fn error(&self, request: &Request, status: Status, output: &mut Output) {
        let number = u32::from(status);
        match self.dialect {
            Dialect::Simple => output.header(|out| {
                SimpleReply {
                    error: number,
                    cookie: request.cookie,
                }
                .encode(out)
            }),
            Dialect::Structured | Dialect::Extended => {
                let [a, b, c, d] = number.to_be_bytes();
                // An empty message follows the number.
                self.chunk(
                    request,
                    Last::Yes,
                    ChunkType::Error,
                    &[a, b, c, d, 0, 0],
                    0,
                    output,
                );
            }
        }
    }

    /// The bytes of a read.
    pub(super) fn read(&self, request: &Request, data: Segments, output: &mut Output) {
        if self.dialect == Dialect::Simple {
            output.header(|out| {
                SimpleReply {
                    error: 0,
                    cookie: request.cookie,
                }
                .encode(out)
            });
            data.into_pieces()
                .into_iter()
                .for_each(|piece| output.data(piece));
            return;
        }
        let may_split = !request.flags.has(CommandFlags::DF);
        let mut pieces = data.into_pieces();
        if !may_split || !pieces.iter().any(|piece| self.is_hole(piece)) {
            return self.data_chunk(
                request,
                Last::Yes,
                request.offset,
                &mut pieces.drain(..),
                output,
            );
        }
        let mut offset = request.offset;
        let mut rest = pieces.as_mut_slice();
        while let Some(first) = rest.first() {
            let hole = self.is_hole(first);
            let alike = rest
                .iter()
                .position(|piece| self.is_hole(piece) != hole)
                .unwrap_or(rest.len());
            let (run, others) = rest.split_at_mut(alike);
            let length = total(run);
            let last = if others.is_empty() {
                Last::Yes
            } else {
                Last::No
            };
            if hole {
                self.hole_chunk(request, last, offset, length, output);
            } else {
                self.data_chunk(
                    request,
                    last,
                    offset,
                    &mut run.iter_mut().map(std::mem::take),
                    output,
                );
            }
            offset += u64::from(length);
            rest = others;
        }
    }

    /// The extents of each context.
    pub(super) fn block_status(
        &self,
        request: &Request,
        contexts: &[ContextExtents],
        output: &mut Output,
    ) {
        for (index, (context, extents)) in contexts.iter().enumerate() {
            let last = if index + 1 == contexts.len() {
                Last::Yes
            } else {
                Last::No
            };
            let mut body = context.to_be_bytes().to_vec();
            let chunk = match self.dialect {
                Dialect::Simple | Dialect::Structured => {
                    for &(length, flags) in extents {
                        body.extend_from_slice(&saturating_u32(length).to_be_bytes());
                        body.extend_from_slice(&saturating_u32(flags).to_be_bytes());
                    }
                    ChunkType::BlockStatus
                }
                Dialect::Extended => {
                    let count =
                        u32::try_from(extents.len()).expect("the number of extents is limited");
                    body.extend_from_slice(&count.to_be_bytes());
                    for &(length, flags) in extents {
                        body.extend_from_slice(&length.to_be_bytes());
                        body.extend_from_slice(&flags.to_be_bytes());
                    }
                    ChunkType::BlockStatusExt
                }
            };
            self.chunk(request, last, chunk, &body, 0, output);
        }
    }

    fn is_hole(&self, piece: &Bytes) -> bool {
        piece.as_ptr().addr() == self.zeroes && piece.len() >= HOLE_MIN
    }

    fn hole_chunk(
        &self,
        request: &Request,
        last: Last,
        offset: u64,
        length: u32,
        output: &mut Output,
    ) {
        let mut body = [0; 12];
        let (at, size) = body.split_at_mut(8);
        at.copy_from_slice(&offset.to_be_bytes());
        size.copy_from_slice(&length.to_be_bytes());
        self.chunk(request, last, ChunkType::OffsetHole, &body, 0, output);
    }

    fn data_chunk(
        &self,
        request: &Request,
        last: Last,
        offset: u64,
        pieces: &mut dyn Iterator<Item = Bytes>,
        output: &mut Output,
    ) {
        let pieces: smallvec::SmallVec<[Bytes; 4]> = pieces.collect();
        self.chunk(
            request,
            last,
            ChunkType::OffsetData,
            &offset.to_be_bytes(),
            total(&pieces),
            output,
        );
        pieces.into_iter().for_each(|piece| output.data(piece));
    }

    /// One chunk: its header, `body`, and room for `payload` bytes that follow.
    fn chunk(
        &self,
        request: &Request,
        last: Last,
        chunk: ChunkType,
        body: &[u8],
        payload: u32,
        output: &mut Output,
    ) {
        let body_length = u32::try_from(body.len()).expect("the body of a chunk is short");
        let header = ChunkHeader {
            done: matches!(last, Last::Yes),
            chunk,
            cookie: request.cookie,
            offset: request.offset,
            length: body_length + payload,
        };
        output.header(|out| {
            header.encode(self.dialect, out);
            out.extend_from_slice(body);
        });
    }
}

/// Whether a chunk ends its reply.
#[derive(Debug, Clone, Copy)]
enum Last {
    Yes,
    No,
}

fn total(pieces: &[Bytes]) -> u32 {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    u32::try_from(length).expect("a read is at most 32 MiB")
}

fn saturating_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Zeroes shorter than this cost less as bytes than as a chunk of their own.
const HOLE_MIN: usize = 4096;
