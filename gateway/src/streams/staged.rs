//! A stream on its way in, and one on its way out.

use bytes::Bytes;
use ingest::{About, Code, Entry, Refusal, StagedStream, StreamContent};
use repo::{Backup, StreamReader, StreamWriter};

use super::names::Reservation;
use super::refusal::refusal;
use super::{Described, Named, entry};

/// A restore point that is being made.
pub(super) struct Staged {
    pub(super) backup: Backup,
    pub(super) writer: StreamWriter,
    pub(super) about: About,
    /// Its name is free again when this goes, and not before the rest.
    pub(super) reservation: Reservation,
}

impl StagedStream for Staged {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.writer.append(bytes).map_err(|error| refusal(&error))
    }

    fn commit(self: Box<Self>) -> Result<Entry, Refusal> {
        let Self {
            mut backup,
            writer,
            about,
            reservation,
        } = *self;
        let described = Described {
            stream: Named {
                name: reservation.name().to_owned(),
                about,
            },
        };
        let configuration = serde_json::to_value(described)
            .map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
        backup.set_configuration(configuration);
        let point = backup
            .finish_stream(writer)
            .and_then(|()| backup.commit())
            .map_err(|error| refusal(&error))?;
        reservation.keep(point.name.clone());
        entry(&point).ok_or_else(|| {
            Refusal::new(
                Code::Failed,
                "the stream was kept and does not read as one; see the daemon's log",
            )
        })
    }
}

/// A stream that is read from its restore point.
pub(super) struct Content(pub(super) StreamReader);

impl StreamContent for Content {
    fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.0.next_chunk().map_err(|error| refusal(&error))
    }
}
