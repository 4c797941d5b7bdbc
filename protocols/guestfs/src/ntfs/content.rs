//! Bytes of attributes.

use ::bytes::Bytes;
use export::Segments;

use super::Ntfs;
use super::lznt1::unpack;
use super::node::{Attribute, Node, Stored, Value};
use super::record::{COMPRESSED, kind};
use super::reparse::{Nature, Stub};
use crate::bytes::to_usize;
use crate::{GuestError, Place};

impl Ntfs {
    /// Up to `length` bytes of a file's content; fewer only at its end.
    pub(super) fn read_file(
        &self,
        node: &Node,
        offset: u64,
        length: u64,
    ) -> Result<Segments, GuestError> {
        match &node.nature {
            Nature::File => {}
            Nature::Special(_) => return Ok(Segments::new()),
            Nature::Folder => return Err(GuestError::IsDirectory),
            Nature::Link(_) => return Err(GuestError::Invalid),
            Nature::Stub(Stub::Packed(format)) => {
                return self.read_packed(node, *format, offset, length);
            }
            Nature::Stub(Stub::Elsewhere(what)) => return Err(GuestError::unsupported(*what)),
            Nature::Stub(Stub::Unknown(tag)) => {
                return Err(GuestError::unsupported(format!(
                    "content behind a reparse point of kind {tag:#010x}"
                )));
            }
        }
        let data = node
            .data()
            .ok_or_else(|| node.corrupt("it has no content"))?;
        self.read(node.number, data, offset, length)
    }

    /// Up to `length` bytes of an attribute of a record; fewer only at its end. Holes are zeroes.
    pub(super) fn read(
        &self,
        record: u64,
        attribute: &Attribute,
        offset: u64,
        length: u64,
    ) -> Result<Segments, GuestError> {
        let end = offset.saturating_add(length).min(attribute.size_bytes());
        let mut result = Segments::new();
        if offset >= end {
            return Ok(result);
        }
        if attribute.is_encrypted() && attribute.kind == kind::DATA {
            return Err(GuestError::Encrypted { inode: record });
        }
        match &attribute.value {
            Value::Resident(bytes) => {
                let range = to_usize(offset)..to_usize(end);
                result.push(Bytes::copy_from_slice(bytes.get(range).unwrap_or_default()));
            }
            Value::Stored(stored) => {
                let written = stored.valid_bytes.clamp(offset, end);
                match attribute.flags & COMPRESSED {
                    0 => self.read_runs(record, stored, offset, written, &mut result)?,
                    1 => {
                        self.read_units(record, attribute, stored, offset..written, &mut result)?
                    }
                    _ => return Err(GuestError::unsupported("an unknown kind of compression")),
                }
                result.push_zeroes(to_usize(end - written));
            }
        }
        Ok(result)
    }

    fn read_runs(
        &self,
        record: u64,
        stored: &Stored,
        mut at: u64,
        end: u64,
        result: &mut Segments,
    ) -> Result<(), GuestError> {
        let cluster = self.boot.cluster_bytes;
        while at < end {
            let run = stored.runs.at(at / cluster);
            let run = run.ok_or_else(|| too_short(record))?;
            let skip = at % cluster;
            let bytes = run.clusters.saturating_mul(cluster) - skip;
            let bytes = bytes.min(end - at);
            match run.first {
                Some(first) => {
                    let place = first * cluster + skip;
                    result.append(self.source.read(place, to_usize(bytes))?);
                }
                None => result.push_zeroes(to_usize(bytes)),
            }
            at += bytes;
        }
        Ok(())
    }

    fn read_units(
        &self,
        record: u64,
        attribute: &Attribute,
        stored: &Stored,
        range: std::ops::Range<u64>,
        result: &mut Segments,
    ) -> Result<(), GuestError> {
        let clusters = 1_u64.checked_shl(u32::from(stored.unit_power));
        let unit = clusters.and_then(|clusters| clusters.checked_mul(self.boot.cluster_bytes));
        let unit = unit.filter(|unit| stored.unit_power > 0 && *unit <= UNIT_MAX);
        let Some(unit) = unit else {
            return Err(GuestError::unsupported("units of compression of this size"));
        };
        let mut at = range.start;
        while at < range.end {
            let number = at / unit;
            let end = range.end.min((number + 1) * unit);
            match self.unit_form(record, stored, number, unit / self.boot.cluster_bytes)? {
                UnitForm::Hole => result.push_zeroes(to_usize(end - at)),
                UnitForm::Plain => self.read_runs(record, stored, at, end, result)?,
                UnitForm::Packed(packed) => {
                    let key = (record, attribute.name.clone(), number);
                    let bytes = self.units.get_or_insert_with(&key, || {
                        let mut bytes = Segments::new();
                        let start = number * unit;
                        self.read_runs(record, stored, start, start + packed, &mut bytes)?;
                        unpack(&bytes.to_vec(), to_usize(unit))
                            .map(Bytes::from)
                            .ok_or_else(|| {
                                GuestError::corrupt(
                                    Place::Stream(record),
                                    "compressed bytes make no sense",
                                )
                            })
                    })?;
                    let part = to_usize(at % unit)..to_usize(end - number * unit);
                    result.push(bytes.slice(part));
                }
            }
            at = end;
        }
        Ok(())
    }

    /// A unit with all its clusters is as it is; one with some of them, and then none, is compressed.
    fn unit_form(
        &self,
        record: u64,
        stored: &Stored,
        number: u64,
        clusters: u64,
    ) -> Result<UnitForm, GuestError> {
        let (start, end) = (number * clusters, (number + 1) * clusters);
        let mut at = start;
        let mut stored_clusters = 0;
        // What is not there at the end of the file is like a hole.
        while let Some(run) = stored.runs.at(at).filter(|_| at < end) {
            let length = run.clusters.min(end - at);
            if run.first.is_some() {
                if start + stored_clusters != at {
                    return Err(GuestError::corrupt(
                        Place::Stream(record),
                        "a compressed unit has a hole within",
                    ));
                }
                stored_clusters += length;
            }
            at += length;
        }
        Ok(match stored_clusters {
            0 if at == start => return Err(too_short(record)),
            0 => UnitForm::Hole,
            all if all == clusters => UnitForm::Plain,
            some => UnitForm::Packed(some * self.boot.cluster_bytes),
        })
    }
}

enum UnitForm {
    Hole,
    Plain,
    /// So many bytes of it are there.
    Packed(u64),
}

fn too_short(record: u64) -> GuestError {
    GuestError::corrupt(
        Place::Stream(record),
        "its runs end before its content does",
    )
}

/// Sixteen clusters of 64 KiB, more than Windows ever makes.
const UNIT_MAX: u64 = 1 << 20;
