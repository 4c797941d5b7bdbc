//! Streams of one connection: in and out.

use crc_fast::{CrcAlgorithm, Digest};

use super::serving::{Ending, Talk};
use super::session::{Putting, Session, State};
use crate::wire::{
    ABOUT_BYTES_MAX, Code, DATA_BYTES_MAX, Frame, Get, Kind, Malformed, NAME_BYTES_MAX, Put,
    Refusal,
};

impl Talk<'_> {
    pub(super) fn put(
        &mut self,
        session: &Session,
        state: &mut State,
        frame: &Frame,
    ) -> Result<(), Ending> {
        if matches!(state, State::Putting(_)) {
            return Err(Malformed("a stream is begun while another is under way").into());
        }
        let Put { name, about } = frame.read()?;
        let about_bytes = serde_json::to_vec(&about).map_or(usize::MAX, |text| text.len());
        let checked = if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            Err(Refusal::new(
                Code::Invalid,
                format!("a stream's name has 1 to {NAME_BYTES_MAX} bytes, none of them zero"),
            ))
        } else if about_bytes > ABOUT_BYTES_MAX {
            Err(Refusal::new(
                Code::Invalid,
                format!("what is said of a stream has at most {ABOUT_BYTES_MAX} bytes"),
            ))
        } else {
            self.while_waiting(|| session.workload.begin(&name, &about))?
        };
        match checked {
            Ok(stream) => {
                *state = State::Putting(Putting::new(name, stream));
                Ok(self.connection.send(&Frame::bare(Kind::Opened))?)
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    pub(super) fn data(&mut self, state: &mut State, frame: &Frame) -> Result<(), Ending> {
        let State::Putting(putting) = state else {
            return Err(Malformed("content comes without a stream").into());
        };
        let (offset, content) = frame.read_data()?;
        if offset != putting.received {
            return Err(Malformed("content does not follow what came before").into());
        }
        if let Err(refusal) = putting.stream.append(content) {
            self.forget(state);
            *state = State::Refused;
            return self.refuse(refusal);
        }
        putting.checksum.update(content);
        putting.received += content.len() as u64;
        self.shared.metrics.received.inc_by(content.len() as u64);
        // The client may have used up half of its window.
        if putting.received - putting.staged >= self.shared.config.window_bytes / 4 {
            putting.staged = putting.received;
            let staged = Frame::offset(Kind::Staged, putting.staged);
            self.connection.send(&staged)?;
        }
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        session: &Session,
        state: &mut State,
        frame: &Frame,
    ) -> Result<(), Ending> {
        let (length, checksum) = frame.read_ending()?;
        let State::Putting(putting) = std::mem::replace(state, State::Nothing) else {
            return Err(Malformed("a stream is ended that was not begun").into());
        };
        if (length, checksum) != (putting.received, putting.checksum.finalize()) {
            self.shared.metrics.dropped.inc();
            *state = State::Refused;
            let refusal = Refusal::new(
                Code::Failed,
                "the stream changed on its way: length or checksum differ; begin it again",
            );
            return self.refuse(refusal);
        }
        let stream = putting.stream;
        let mut committed = None;
        // Whatever becomes of the connection meanwhile, the session knows how it ended.
        let waited = {
            let committed = &mut committed;
            self.while_waiting(move || *committed = Some(stream.commit()))
        };
        match committed {
            Some(Ok(entry)) => {
                self.shared.metrics.committed.inc();
                tracing::info!(
                    workload = session.workload.name(),
                    stream = entry.name,
                    point = entry.point,
                    size_bytes = entry.size_bytes,
                    "kept a stream"
                );
                *state = State::Committed(entry.clone());
                waited?;
                Ok(self
                    .connection
                    .send(&Frame::document(Kind::Committed, &entry))?)
            }
            Some(Err(refusal)) => {
                self.shared.metrics.dropped.inc();
                *state = State::Refused;
                waited?;
                self.refuse(refusal)
            }
            None => {
                self.shared.metrics.dropped.inc();
                Err(Ending::Lost)
            }
        }
    }

    pub(super) fn get(&mut self, session: &Session, frame: &Frame) -> Result<(), Ending> {
        let Get { name, offset } = frame.read()?;
        let (entry, mut content) =
            match self.while_waiting(|| session.workload.open(&name, offset))? {
                Ok(found) => found,
                Err(refusal) => return self.refuse(refusal),
            };
        self.connection
            .send(&Frame::document(Kind::Found, &entry))?;
        let window = self.shared.config.window_bytes;
        let mut checksum = Digest::new(CrcAlgorithm::Crc64Nvme);
        let (mut sent, mut credited) = (offset, offset);
        loop {
            let piece = match content.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(refusal) => return self.refuse(refusal),
            };
            for piece in piece.chunks(DATA_BYTES_MAX) {
                while sent - credited + piece.len() as u64 > window {
                    let frame = self.connection.receive()?;
                    match frame.kind {
                        Kind::Credit => {
                            let offset = frame.read_offset()?;
                            if offset < credited || offset > sent {
                                return Err(Malformed("a client took what was not sent").into());
                            }
                            credited = offset;
                        }
                        Kind::Stop => return self.end(sent, &checksum),
                        _ => return Err(Malformed("a client asks while it is answered").into()),
                    }
                }
                checksum.update(piece);
                self.connection.send_data(sent, piece)?;
                sent += piece.len() as u64;
                self.shared.metrics.sent.inc_by(piece.len() as u64);
            }
        }
        self.end(sent, &checksum)
    }

    fn end(&mut self, sent: u64, checksum: &Digest) -> Result<(), Ending> {
        Ok(self
            .connection
            .send(&Frame::ending(Kind::End, sent, checksum.finalize()))?)
    }
}
