//! A stream on its way in.

use std::collections::VecDeque;
use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

use super::{Activity, Client, ClientError, dial, patiently, unexpected};
use crate::wire::{About, Code, Entry, Frame, Kind, Malformed, Put};

/// What is known of a stream that is being written.
pub(super) struct Outgoing {
    put: Put,
    /// All before was sent, once at least.
    sent: u64,
    /// All before was taken by the daemon.
    staged: u64,
    /// Frames that the daemon may ask for again.
    kept: VecDeque<Piece>,
    /// What does not fill a frame yet.
    buffer: Vec<u8>,
    /// Memory of frames that are not needed any more.
    spare: Vec<Vec<u8>>,
    checksum: Digest,
}

struct Piece {
    offset: u64,
    content: Vec<u8>,
}

impl Client {
    /// Begins a stream.
    ///
    /// # Errors
    /// If another is under way, there is one of that name, or the daemon refuses or cannot be reached.
    pub fn begin(&mut self, name: &str, about: &About) -> Result<(), ClientError> {
        self.is_idle()?;
        let put = Put {
            name: name.to_owned(),
            about: about.clone(),
        };
        let ask = Frame::document(Kind::Put, &put);
        let limit = self.settings.resume;
        patiently(limit, || {
            if self.connection.is_none() && self.was_begun(name)? {
                return Ok(());
            }
            self.connected()?;
            self.send(&ask)?;
            let frame = self.answer()?;
            match frame.kind {
                Kind::Opened => Ok(()),
                _ => Err(unexpected(&frame)),
            }
        })?;
        self.activity = Activity::Writing(Outgoing {
            put,
            sent: 0,
            staged: 0,
            kept: VecDeque::new(),
            buffer: Vec::with_capacity(PIECE_BYTES),
            spare: Vec::new(),
            checksum: Digest::new(CrcAlgorithm::Crc64Nvme),
        });
        Ok(())
    }

    /// Adds to the stream.
    ///
    /// # Errors
    /// If none is being written, or it is lost: the daemon refused, or could not be reached again. It is gone then.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let outgoing = self.outgoing()?;
            let room = PIECE_BYTES - outgoing.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            outgoing.buffer.extend_from_slice(now);
            bytes = later;
            if outgoing.buffer.len() == PIECE_BYTES {
                let sent = self.send_piece();
                self.or_lost(sent)?;
            }
        }
        self.outgoing().map(|_| ())
    }

    /// Ends the stream: when this returns it is durable, and there for everybody.
    ///
    /// # Errors
    /// If none is being written, or it is lost. It is gone then, but for an error of the connection: nobody knows then.
    pub fn commit(&mut self) -> Result<Entry, ClientError> {
        self.outgoing()?;
        let committed = self.try_commit();
        self.activity = Activity::Nothing;
        committed
    }

    /// Drops the stream.
    ///
    /// # Errors
    /// If none is being written.
    pub fn abort(&mut self) -> Result<(), ClientError> {
        self.outgoing()?;
        if self.connection.is_none() {
            // So that the name is free at once. A daemon that cannot be told drops the stream with the session.
            drop(self.reattach());
        }
        self.activity = Activity::Nothing;
        if self.send(&Frame::bare(Kind::Abort)).is_ok() && self.until_aborted().is_err() {
            self.connection = None;
        }
        Ok(())
    }

    /// Connects again to the session, if the daemon still has it. Says whether a stream of this name was begun in it: its answer
    /// may have been lost.
    fn was_begun(&mut self, name: &str) -> Result<bool, ClientError> {
        match dial::dial(&self.settings, Some(self.welcome.session)) {
            Ok((connection, welcome)) => {
                self.connection = Some(connection);
                let put = welcome.put.as_ref();
                Ok(put.is_some_and(|put| put.name == name && put.committed.is_none()))
            }
            Err(error) if error.code() == Some(Code::SessionLost) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How much of the stream was written so far.
    pub fn written(&self) -> Option<u64> {
        match &self.activity {
            Activity::Writing(outgoing) => Some(outgoing.sent + outgoing.buffer.len() as u64),
            _ => None,
        }
    }

    fn outgoing(&mut self) -> Result<&mut Outgoing, ClientError> {
        match &mut self.activity {
            Activity::Writing(outgoing) => Ok(outgoing),
            _ => Err(ClientError::Misused("no stream is being written")),
        }
    }

    /// After an error the stream is gone, and the daemon is told so.
    fn or_lost<T>(&mut self, result: Result<T, ClientError>) -> Result<T, ClientError> {
        if result.is_err() {
            drop(self.abort());
        }
        result
    }

    /// Sends what fills a frame, or is left, and keeps it until the daemon has taken it.
    fn send_piece(&mut self) -> Result<(), ClientError> {
        let window = self.welcome.window_bytes.max(PIECE_BYTES as u64);
        let outgoing = self.outgoing()?;
        let spare = outgoing.spare.pop();
        let fresh = spare.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES));
        let content = std::mem::replace(&mut outgoing.buffer, fresh);
        outgoing.checksum.update(&content);
        let offset = outgoing.sent;
        outgoing.sent += content.len() as u64;
        outgoing.kept.push_back(Piece { offset, content });
        if self.connection.is_none() || self.send_newest().is_err() {
            self.go_on()?;
        }
        // Waiting comes after sending, so that the daemon has something to do meanwhile.
        while self.outgoing()?.sent - self.outgoing()?.staged > window - PIECE_BYTES as u64 {
            self.await_staged()?;
        }
        Ok(())
    }

    fn send_newest(&mut self) -> Result<(), ClientError> {
        let Activity::Writing(outgoing) = &self.activity else {
            return Ok(());
        };
        let (Some(piece), Some(connection)) = (outgoing.kept.back(), &mut self.connection) else {
            return Ok(());
        };
        connection
            .send_data(piece.offset, &piece.content)
            .map_err(|error| {
                self.connection = None;
                ClientError::Broken(error.to_string())
            })
    }

    fn await_staged(&mut self) -> Result<(), ClientError> {
        match self.answer() {
            Ok(frame) if frame.kind == Kind::Staged => {
                let staged = frame.read_offset()?;
                self.outgoing()?.take(staged)
            }
            Ok(frame) => Err(unexpected(&frame)),
            Err(error) if error.is_of_connection() => self.go_on(),
            Err(error) => Err(error),
        }
    }

    /// Connects again, and sends again what the daemon has not taken.
    fn go_on(&mut self) -> Result<(), ClientError> {
        let limit = self.settings.resume;
        patiently(limit, || match self.reattach()? {
            None => self.send_kept(),
            Some(_) => Err(ClientError::Protocol(Malformed(
                "a stream is committed that was not ended",
            ))),
        })
    }

    /// Connects again to the session. Gives the entry if the stream was committed.
    fn reattach(&mut self) -> Result<Option<Entry>, ClientError> {
        let session = self.welcome.session;
        let (connection, welcome) = dial::dial(&self.settings, Some(session))?;
        self.connection = Some(connection);
        let put = welcome.put;
        let outgoing = self.outgoing()?;
        let Some(put) = put.filter(|put| put.name == outgoing.put.name) else {
            return Err(ClientError::Protocol(Malformed(
                "the session goes on with another stream",
            )));
        };
        if put.committed.is_none() {
            outgoing.take(put.received_bytes)?;
        }
        Ok(put.committed)
    }

    fn send_kept(&mut self) -> Result<(), ClientError> {
        let Activity::Writing(outgoing) = &self.activity else {
            return Ok(());
        };
        let Some(connection) = &mut self.connection else {
            return Err(ClientError::Closed);
        };
        for piece in &outgoing.kept {
            let taken = outgoing.staged.saturating_sub(piece.offset);
            let taken = usize::try_from(taken).unwrap_or(usize::MAX);
            let content = piece.content.get(taken..).unwrap_or_default();
            let sent = connection.send_data(piece.offset + taken as u64, content);
            if let Err(error) = sent {
                self.connection = None;
                return Err(ClientError::Broken(error.to_string()));
            }
        }
        Ok(())
    }

    fn try_commit(&mut self) -> Result<Entry, ClientError> {
        if !self.outgoing()?.buffer.is_empty() {
            let sent = self.send_piece();
            self.or_lost(sent)?;
        }
        let limit = self.settings.resume;
        let ended = patiently(limit, || {
            if self.connection.is_none() {
                if let Some(entry) = self.reattach()? {
                    return Ok(entry);
                }
                self.send_kept()?;
            }
            let outgoing = self.outgoing()?;
            let (length, checksum) = (outgoing.sent, outgoing.checksum.finalize());
            self.send(&Frame::ending(Kind::Commit, length, checksum))?;
            self.until_committed()
        });
        match ended {
            Err(error) if error.code() == Some(Code::SessionLost) => self.look(error),
            Err(error) if !error.is_of_connection() => self.or_lost(Err(error)),
            other => other,
        }
    }

    fn until_committed(&mut self) -> Result<Entry, ClientError> {
        loop {
            let frame = self.answer()?;
            match frame.kind {
                Kind::Staged => {
                    let staged = frame.read_offset()?;
                    self.outgoing()?.take(staged)?;
                }
                Kind::Committed => return Ok(frame.read()?),
                _ => return Err(unexpected(&frame)),
            }
        }
    }

    /// The daemon was started again while it was asked to commit: whether it had done so shows in what there is.
    fn look(&mut self, lost: ClientError) -> Result<Entry, ClientError> {
        let outgoing = self.outgoing()?;
        let (put, length) = (outgoing.put.clone(), outgoing.sent);
        self.activity = Activity::Nothing;
        self.connection = None;
        let found = self.describe(&[&put.name])?.into_iter().flatten().next();
        found
            .filter(|entry| entry.size_bytes == length && entry.about == put.about)
            .ok_or(lost)
    }

    fn until_aborted(&mut self) -> Result<(), ClientError> {
        loop {
            match self.answer() {
                Ok(frame) if frame.kind == Kind::Aborted => return Ok(()),
                // Still of what was sent before.
                Ok(frame) if matches!(frame.kind, Kind::Staged) => {}
                Err(ClientError::Refused(_)) => {}
                Ok(frame) => return Err(unexpected(&frame)),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Outgoing {
    /// The daemon has taken all before `staged`.
    fn take(&mut self, staged: u64) -> Result<(), ClientError> {
        if staged < self.staged || staged > self.sent {
            return Err(ClientError::Protocol(Malformed(
                "the daemon took what was not sent",
            )));
        }
        self.staged = staged;
        while let Some(piece) = self.kept.front()
            && piece.offset + piece.content.len() as u64 <= staged
        {
            if let Some(mut piece) = self.kept.pop_front() {
                piece.content.clear();
                self.spare.push(piece.content);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Outgoing")
            .field("name", &self.put.name)
            .field("sent", &self.sent)
            .field("staged", &self.staged)
            .finish_non_exhaustive()
    }
}

/// Content of a frame.
const PIECE_BYTES: usize = 256 << 10;
