//! A stream on its way out.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use super::{Activity, Client, ClientError, patiently, unexpected};
use crate::wire::{Entry, Frame, Get, Kind, Malformed};

/// What is known of a stream that is being read.
pub(super) struct Incoming {
    name: String,
    /// Where the next content begins that the daemon will send.
    next: u64,
    /// All before was given back to the daemon as room for more.
    credited: u64,
    /// Content that came and was not read: the frame, and how much of it was.
    frame: Frame,
    taken: usize,
    /// Of what came over this connection.
    checksum: Digest,
    is_over: bool,
}

impl Client {
    /// Begins to read a stream, from its byte `offset` on.
    ///
    /// # Errors
    /// If another is under way, there is none of that name, or the daemon refuses or cannot be reached.
    pub fn open(&mut self, name: &str, offset: u64) -> Result<Entry, ClientError> {
        self.is_idle()?;
        let limit = self.settings.resume;
        let entry = patiently(limit, || self.ask_for(name, offset))?;
        self.activity = Activity::Reading(Incoming {
            name: name.to_owned(),
            next: offset,
            credited: offset,
            frame: Frame::bare(Kind::Data),
            taken: 0,
            checksum: Digest::new(CrcAlgorithm::Crc64Nvme),
            is_over: false,
        });
        Ok(entry)
    }

    /// Fills `buffer` as far as the stream goes; gives less only at its end.
    ///
    /// # Errors
    /// If none is being read, what is stored is hurt, or the daemon could not be reached again.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            let incoming = self.incoming()?;
            let content = incoming.frame.payload.get(incoming.taken..);
            let content = content.unwrap_or_default();
            if content.is_empty() {
                if incoming.is_over {
                    break;
                }
                self.fetch()?;
                continue;
            }
            let now = content.len().min(room.len());
            let (room, content) = (room.get_mut(..now), content.get(..now));
            if let (Some(room), Some(content)) = (room, content) {
                room.copy_from_slice(content);
            }
            incoming.taken += now;
            filled += now;
        }
        self.incoming().map(|_| filled)
    }

    /// Ends reading, at the end of the stream or before.
    ///
    /// # Errors
    /// If none is being read.
    pub fn finish(&mut self) -> Result<(), ClientError> {
        let is_over = self.incoming()?.is_over;
        self.activity = Activity::Nothing;
        if !is_over && self.connection.is_some() {
            let stopped = self
                .send(&Frame::bare(Kind::Stop))
                .and_then(|()| self.drain());
            if stopped.is_err() {
                self.connection = None;
            }
        }
        Ok(())
    }

    fn incoming(&mut self) -> Result<&mut Incoming, ClientError> {
        match &mut self.activity {
            Activity::Reading(incoming) => Ok(incoming),
            _ => Err(ClientError::Misused("no stream is being read")),
        }
    }

    fn ask_for(&mut self, name: &str, offset: u64) -> Result<Entry, ClientError> {
        let get = Get {
            name: name.to_owned(),
            offset,
        };
        self.connected()?;
        self.send(&Frame::document(Kind::Get, &get))?;
        let frame = self.answer()?;
        match frame.kind {
            Kind::Found => Ok(frame.read()?),
            _ => Err(unexpected(&frame)),
        }
    }

    /// The next frame of content, or the end.
    fn fetch(&mut self) -> Result<(), ClientError> {
        match self.try_fetch() {
            Err(error) if error.is_of_connection() => {
                let limit = self.settings.resume;
                let incoming = self.incoming()?;
                let (name, next) = (incoming.name.clone(), incoming.next);
                patiently(limit, || self.ask_for(&name, next))?;
                let incoming = self.incoming()?;
                incoming.credited = next;
                incoming.checksum = Digest::new(CrcAlgorithm::Crc64Nvme);
                Ok(())
            }
            Err(error) => {
                // The daemon sends no more, and what came is not all.
                self.activity = Activity::Nothing;
                if error.code().is_none() {
                    self.connection = None;
                }
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn try_fetch(&mut self) -> Result<(), ClientError> {
        let window = self.welcome.window_bytes;
        let incoming = self.incoming()?;
        // Room is given back before the daemon has used it up.
        if incoming.next - incoming.credited >= window / 4 {
            incoming.credited = incoming.next;
            let credit = Frame::offset(Kind::Credit, incoming.next);
            self.send(&credit)?;
        }
        let frame = self.answer()?;
        let incoming = self.incoming()?;
        match frame.kind {
            Kind::Data => {
                let (offset, content) = frame.read_data()?;
                if offset != incoming.next {
                    return Err(ClientError::Protocol(Malformed("content is missing")));
                }
                incoming.checksum.update(content);
                incoming.next += content.len() as u64;
                // Behind the offset.
                incoming.taken = 8;
                incoming.frame = frame;
                Ok(())
            }
            Kind::End => {
                let (end, checksum) = frame.read_ending()?;
                if (end, checksum) != (incoming.next, incoming.checksum.finalize()) {
                    return Err(ClientError::Checksum(incoming.name.clone()));
                }
                incoming.is_over = true;
                Ok(())
            }
            _ => Err(unexpected(&frame)),
        }
    }

    fn drain(&mut self) -> Result<(), ClientError> {
        loop {
            let frame = self.answer()?;
            match frame.kind {
                Kind::End => return Ok(()),
                Kind::Data => {}
                _ => return Err(unexpected(&frame)),
            }
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Incoming")
            .field("name", &self.name)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
