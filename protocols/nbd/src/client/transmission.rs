//! The client's side of requests and replies.

use std::io::{Read, Write};

use export::{Durability, ZeroMode};

use super::{Client, ClientError, StatusExtents};
use crate::wire::{
    ChunkHeader, ChunkType, Command, CommandFlags, Dialect, EXTENDED_REPLY_MAGIC, Malformed,
    PAYLOAD_MAX, Reader, Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, SimpleReply, Status,
};

impl Client {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// If the server fails, refuses or is gone.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ClientError> {
        let mut at = offset;
        for part in buffer.chunks_mut(self.step()) {
            let request = self.send(Command::Read, 0, at, length_of(part), &[])?;
            self.receive_read(&request, part)?;
            at += length_of(part);
        }
        Ok(())
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// If the server fails, refuses or is gone.
    pub fn write_at(
        &mut self,
        offset: u64,
        data: &[u8],
        durability: Durability,
    ) -> Result<(), ClientError> {
        let mut at = offset;
        for part in data.chunks(self.step()) {
            let flags = match self.dialect {
                Dialect::Extended => CommandFlags::PAYLOAD_LEN | fua(durability),
                Dialect::Simple | Dialect::Structured => fua(durability),
            };
            let request = self.send(Command::Write, flags, at, length_of(part), part)?;
            self.receive_done(&request)?;
            at += length_of(part);
        }
        Ok(())
    }

    /// Makes everything durable that was written and answered, on any connection.
    ///
    /// # Errors
    /// If the server fails, refuses or is gone.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.call(Command::Flush, 0, 0, 0)
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// If the server fails, refuses or is gone.
    pub fn write_zeroes(
        &mut self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ClientError> {
        let keep = if mode == ZeroMode::KeepAllocated {
            CommandFlags::NO_HOLE
        } else {
            0
        };
        self.call_range(Command::WriteZeroes, keep | fua(durability), offset, length)
    }

    /// Says that a range is no longer needed.
    ///
    /// # Errors
    /// If the server fails, refuses or is gone.
    pub fn trim(
        &mut self,
        offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<(), ClientError> {
        self.call_range(Command::Trim, fua(durability), offset, length)
    }

    /// Asks the server to bring a range into memory.
    ///
    /// # Errors
    /// If the server fails, refuses or is gone.
    pub fn cache(&mut self, offset: u64, length: u64) -> Result<(), ClientError> {
        self.call_range(Command::Cache, 0, offset, length)
    }

    /// Describes a range from its start, maybe not to its end, in each of the contexts that were asked for.
    ///
    /// # Errors
    /// If no context was agreed on, or the server fails, refuses or is gone.
    pub fn block_status(
        &mut self,
        offset: u64,
        length: u64,
    ) -> Result<Vec<StatusExtents>, ClientError> {
        let length = length.min(self.longest_range());
        let request = self.send(Command::BlockStatus, 0, offset, length, &[])?;
        let mut answers = Vec::new();
        loop {
            let chunk = match self.receive(&request)? {
                Received::Simple => {
                    return Err(ClientError::Protocol("simple reply to block status"));
                }
                Received::Chunk(chunk) => chunk,
            };
            match chunk.chunk {
                ChunkType::None if chunk.length == 0 => {}
                ChunkType::BlockStatus | ChunkType::BlockStatusExt => {
                    answers.push(self.receive_extents(&chunk)?)
                }
                _ => return Err(ClientError::Protocol("unexpected chunk for block status")),
            }
            if chunk.done {
                return Ok(answers);
            }
        }
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// If the connection broke before.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.send(Command::Disc, 0, 0, 0, &[])?;
        let rest = self.stream.read(&mut [0])?;
        if rest == 0 {
            Ok(())
        } else {
            Err(ClientError::Protocol("bytes after the goodbye"))
        }
    }

    /// Sends a request of any kind without a payload and waits for its end.
    fn call(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u64,
    ) -> Result<(), ClientError> {
        let request = self.send(command, flags, offset, length, &[])?;
        self.receive_done(&request)
    }

    /// Like [`call`](Self::call), in as many requests as the length needs.
    fn call_range(
        &mut self,
        command: Command,
        flags: u16,
        mut offset: u64,
        length: u64,
    ) -> Result<(), ClientError> {
        let longest = self.longest_range();
        let mut left = length;
        while left > 0 {
            let step = left.min(longest);
            self.call(command, flags, offset, step)?;
            offset += step;
            left -= step;
        }
        Ok(())
    }

    /// Longest range of a request without a payload.
    fn longest_range(&self) -> u64 {
        match self.dialect {
            Dialect::Simple | Dialect::Structured => 2 << 30,
            Dialect::Extended => u64::MAX,
        }
    }

    /// Longest payload of a request.
    fn step(&self) -> usize {
        let most = self
            .export
            .block_sizes
            .map_or(PAYLOAD_MAX, |sizes| sizes.maximum.clamp(4096, PAYLOAD_MAX));
        usize::try_from(most).unwrap_or(4096)
    }

    fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Result<Request, ClientError> {
        self.cookie += 1;
        let request = Request {
            flags: CommandFlags(flags),
            command,
            cookie: self.cookie,
            offset,
            length,
        };
        let mut header = Vec::with_capacity(self.dialect.request_length());
        request.encode(self.dialect, &mut header);
        self.stream.write_all(&header)?;
        self.stream.write_all(payload)?;
        Ok(request)
    }

    fn receive_done(&mut self, request: &Request) -> Result<(), ClientError> {
        loop {
            match self.receive(request)? {
                Received::Simple => return Ok(()),
                Received::Chunk(chunk) if chunk.chunk == ChunkType::None && chunk.length == 0 => {
                    if chunk.done {
                        return Ok(());
                    }
                }
                Received::Chunk(_) => return Err(ClientError::Protocol("unexpected chunk")),
            }
        }
    }

    fn receive_read(&mut self, request: &Request, buffer: &mut [u8]) -> Result<(), ClientError> {
        let mut filled = 0;
        loop {
            let chunk = match self.receive(request)? {
                Received::Simple if self.dialect == Dialect::Simple => {
                    return Ok(self.stream.read_exact(buffer)?);
                }
                Received::Simple => return Err(ClientError::Protocol("simple reply to a read")),
                Received::Chunk(chunk) => chunk,
            };
            filled += match chunk.chunk {
                ChunkType::None if chunk.length == 0 => 0,
                ChunkType::OffsetData if chunk.length > 8 => {
                    let offset = self.u64()?;
                    let target = part(request, buffer, offset, u64::from(chunk.length) - 8)?;
                    self.stream.read_exact(target)?;
                    target.len()
                }
                ChunkType::OffsetHole if chunk.length == 12 => {
                    let offset = self.u64()?;
                    let target = part(request, buffer, offset, u64::from(self.u32()?))?;
                    target.fill(0);
                    target.len()
                }
                _ => return Err(ClientError::Protocol("unexpected chunk for a read")),
            };
            match chunk.done {
                true if filled == buffer.len() => return Ok(()),
                true => return Err(ClientError::Protocol("read is not complete")),
                false => {}
            }
        }
    }

    fn receive_extents(&mut self, chunk: &ChunkHeader) -> Result<StatusExtents, ClientError> {
        if chunk.length > STATUS_MAX {
            return Err(ClientError::Protocol("block status is too long"));
        }
        let body = self.body(chunk.length)?;
        let mut reader = Reader::new(&body);
        let number = reader.u32()?;
        let extended = chunk.chunk == ChunkType::BlockStatusExt;
        if extended {
            reader.u32()?;
        }
        let mut extents = Vec::new();
        while !reader.is_empty() {
            extents.push(match extended {
                true => (reader.u64()?, reader.u64()?),
                false => (u64::from(reader.u32()?), u64::from(reader.u32()?)),
            });
        }
        let context = self.contexts.iter().find(|(known, _)| *known == number);
        let (_, name) =
            context.ok_or(ClientError::Protocol("block status of an unknown context"))?;
        Ok((name.clone(), extents))
    }

    /// Reads the start of a reply or chunk; errors of the request end here.
    fn receive(&mut self, request: &Request) -> Result<Received, ClientError> {
        let magic = self.u32()?;
        let chunked = match self.dialect {
            Dialect::Simple => 0,
            Dialect::Structured => STRUCTURED_REPLY_MAGIC,
            Dialect::Extended => EXTENDED_REPLY_MAGIC,
        };
        if magic == SIMPLE_REPLY_MAGIC && self.dialect != Dialect::Extended {
            let body = self.body(12)?;
            let reply = SimpleReply::decode(&mut Reader::new(&body))?;
            expect_cookie(request, reply.cookie)?;
            return match reply.error {
                0 => Ok(Received::Simple),
                error => Err(ClientError::Failed(Status::from(error))),
            };
        }
        if magic != chunked || chunked == 0 {
            return Err(Malformed::Magic.into());
        }
        let length = ChunkHeader::encoded_length(self.dialect) - 4;
        let body = self.body(u32::try_from(length).unwrap_or(0))?;
        let chunk = ChunkHeader::decode(self.dialect, &mut Reader::new(&body))?;
        expect_cookie(request, chunk.cookie)?;
        if matches!(chunk.chunk, ChunkType::Error | ChunkType::ErrorOffset) {
            if chunk.length > ERROR_MAX {
                return Err(ClientError::Protocol("error is too long"));
            }
            let body = self.body(chunk.length)?;
            let status = Status::from(Reader::new(&body).u32()?);
            if !chunk.done {
                return Err(ClientError::Protocol("chunks after an error"));
            }
            return Err(ClientError::Failed(status));
        }
        Ok(Received::Chunk(chunk))
    }

    fn body(&mut self, length: u32) -> Result<Vec<u8>, ClientError> {
        let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn u32(&mut self) -> Result<u32, ClientError> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, ClientError> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

/// The start of a reply.
enum Received {
    Simple,
    Chunk(ChunkHeader),
}

/// The part of `buffer` that a chunk fills.
fn part<'a>(
    request: &Request,
    buffer: &'a mut [u8],
    offset: u64,
    length: u64,
) -> Result<&'a mut [u8], ClientError> {
    let outside = || ClientError::Protocol("chunk outside the read");
    let start = offset.checked_sub(request.offset).ok_or_else(outside)?;
    let end = start.checked_add(length).ok_or_else(outside)?;
    let (start, end) = (usize::try_from(start), usize::try_from(end));
    match (start, end) {
        (Ok(start), Ok(end)) => buffer.get_mut(start..end).ok_or_else(outside),
        _ => Err(outside()),
    }
}

fn expect_cookie(request: &Request, cookie: u64) -> Result<(), ClientError> {
    if cookie == request.cookie {
        Ok(())
    } else {
        Err(ClientError::Protocol("reply to another request"))
    }
}

fn fua(durability: Durability) -> u16 {
    if durability == Durability::Stable {
        CommandFlags::FUA
    } else {
        0
    }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a usize fits 64 bits")
}

/// Longest description of a range.
const STATUS_MAX: u32 = 16 * 1024 * 1024;
/// Longest error chunk: number, length, a string, an offset.
const ERROR_MAX: u32 = 4096 + 14;
