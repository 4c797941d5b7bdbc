//! The table of files, which is a file itself, and where it begins to be read.

use ::bytes::Bytes;

use super::Ntfs;
use super::node::{Attribute, Value};
use super::record::{Form, Part, Record, count, kind};
use crate::bytes::to_usize;
use crate::{GuestError, Place};

impl Attribute {
    /// One without content.
    pub(super) fn nothing() -> Self {
        Self {
            kind: kind::DATA,
            name: Vec::new(),
            flags: 0,
            value: Value::Resident(Bytes::new()),
        }
    }
}

impl Ntfs {
    /// Finds all parts of the table. Where its runs are many, some are said in records that lie in those before.
    pub(super) fn open_table(&mut self) -> Result<(), GuestError> {
        let record = self.first_record()?;
        let parts = record.parts()?;
        let is_data = |part: &&Part| part.kind == kind::DATA && part.name.is_empty();
        let first = parts.iter().find(is_data).cloned();
        let first = first.ok_or(GuestError::corrupt(
            Place::Record(0),
            "the table has no content",
        ))?;
        if !matches!(first.form, Form::Mapped(_)) {
            return Err(GuestError::corrupt(
                Place::Record(0),
                "the table lies within itself",
            ));
        }
        self.add_to_table(vec![first])?;
        if !parts.iter().any(|part| part.kind == kind::LIST) {
            return Ok(());
        }
        // Each round reads what the runs that are known lead to; records that are not there yet come in a later one.
        let mut known = 0;
        for _ in 0..ROUNDS_MAX {
            let parts = self.table_parts(&record)?;
            let complete = parts.1;
            if parts.0.len() <= known && !complete {
                return Err(GuestError::corrupt(
                    Place::Record(0),
                    "a part of the table is said only in that part",
                ));
            }
            known = parts.0.len();
            self.add_to_table(parts.0)?;
            if complete {
                return Ok(());
            }
        }
        Err(GuestError::TooLarge {
            what: "the depth of parts of the table of files",
            limit: ROUNDS_MAX,
        })
    }

    fn add_to_table(&mut self, parts: Vec<Part>) -> Result<(), GuestError> {
        let mut built = super::node::Assembly::new(self.boot.clusters, Place::Record(0));
        for part in parts {
            built.add(part)?;
        }
        if let Some(table) = built.into_attributes().into_iter().next() {
            self.table = table;
        }
        Ok(())
    }

    /// The first record, or its copy.
    fn first_record(&self) -> Result<Record, GuestError> {
        let read = |cluster: u64| {
            let at = cluster.checked_mul(self.boot.cluster_bytes);
            let end = at.and_then(|at| at.checked_add(self.boot.record_bytes as u64));
            let (Some(at), Some(_)) = (at, end.filter(|end| *end <= self.source.length_bytes()))
            else {
                return Err(GuestError::corrupt(Place::Record(0), "it lies nowhere"));
            };
            let bytes = self.source.read(at, self.boot.record_bytes)?.to_vec();
            let record = Record::decode(0, bytes)?;
            record.ok_or(GuestError::corrupt(Place::Record(0), "it is not in use"))
        };
        match read(self.boot.table) {
            Err(error) if error.is_of_one_place() => {
                tracing::warn!(%error, "the copy of the table's first record is used");
                read(self.boot.mirror).map_err(|_| error)
            }
            other => other,
        }
    }

    /// How many records there are.
    pub(super) fn records(&self) -> u64 {
        count(self.table.size_bytes(), self.boot.record_bytes)
    }

    /// A record; `None` for one that is not in use.
    pub(super) fn record(&self, number: u64) -> Result<Option<Record>, GuestError> {
        if number >= self.records() {
            return Ok(None);
        }
        let record = self.boot.record_bytes as u64;
        let at = number * record;
        let piece_bytes = record.max(PIECE_BYTES);
        let key = at / piece_bytes;
        let piece = self.pieces.get_or_insert_with(&key, || {
            let bytes = self.read(0, &self.table, key * piece_bytes, piece_bytes)?;
            // Copied, as what a disk gives may be a small part of a large piece.
            Ok::<_, GuestError>(Bytes::from(bytes.to_vec()))
        });
        let bytes = match piece {
            Ok(piece) => {
                let start = to_usize(at % piece_bytes);
                let end = start + self.boot.record_bytes;
                piece.get(start..end).unwrap_or_default().to_vec()
            }
            // What is hurt may be a neighbour, or not be known yet.
            Err(error) if error.is_of_one_place() => {
                self.read(0, &self.table, at, record)?.to_vec()
            }
            Err(error) => return Err(error),
        };
        Record::decode(number, bytes)
    }

    /// Gives every record that is in use to `look`, from the first to the last.
    pub(super) fn each_record(
        &self,
        mut look: impl FnMut(Record) -> Result<(), GuestError>,
    ) -> Result<(), GuestError> {
        let record = self.boot.record_bytes as u64;
        let end = self.records() * record;
        let mut at = 0;
        while at < end {
            let bytes = self
                .read(0, &self.table, at, SWEEP_BYTES.min(end - at))?
                .to_vec();
            for (number, bytes) in (at / record..).zip(bytes.chunks_exact(to_usize(record))) {
                if let Some(record) = Record::decode(number, bytes.to_vec())? {
                    look(record)?;
                }
            }
            at += SWEEP_BYTES;
        }
        Ok(())
    }

    /// Parts of the table's own content as far as they can be read, and whether these are all.
    fn table_parts(&self, base: &Record) -> Result<(Vec<Part>, bool), GuestError> {
        let entries = self.entries_of(base)?;
        let mut parts = Vec::new();
        for entry in entries.iter().filter(|entry| entry.kind == kind::DATA) {
            if entry.record != 0 && entry.record >= self.mapped_records() {
                return Ok((parts, false));
            }
            let held = self.continuation(base, entry)?;
            let found = held.into_iter().find(|part| entry.is_for(part));
            parts.push(found.ok_or(GuestError::corrupt(
                Place::Record(0),
                "a part of the table is not where its list says",
            ))?);
        }
        Ok((parts, true))
    }

    /// Records of which the place is known so far.
    fn mapped_records(&self) -> u64 {
        match &self.table.value {
            Value::Stored(stored) => {
                let bytes = stored
                    .runs
                    .clusters()
                    .saturating_mul(self.boot.cluster_bytes);
                count(bytes, self.boot.record_bytes)
            }
            Value::Resident(_) => 0,
        }
    }
}

/// What is read at once where all records are wanted.
const SWEEP_BYTES: u64 = 1 << 20;
/// Records are read in pieces of this size.
const PIECE_BYTES: u64 = 4096;
const ROUNDS_MAX: u64 = 16;
