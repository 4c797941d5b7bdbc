//! A file or folder: the attributes of its record and of those that continue it, put together.

use std::sync::Arc;

use ::bytes::Bytes;

use super::Ntfs;
use super::record::{ENCRYPTED, Form, Part, Record, bounded, kind, reference, units};
use super::reparse::{Nature, nature};
use super::runs::Runs;
use crate::bytes::View;
use crate::{GuestError, Place};

/// A file or folder.
#[derive(Debug)]
pub(super) struct Node {
    pub number: u64,
    pub sequence: u16,
    pub is_folder: bool,
    pub attributes: Vec<Attribute>,
    pub nature: Nature,
}

/// An attribute, whole.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    pub kind: u32,
    pub name: Vec<u16>,
    pub flags: u16,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Resident(Bytes),
    Stored(Stored),
}

/// Bytes in clusters.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub runs: Runs,
    pub unit_power: u8,
    pub size_bytes: u64,
    pub valid_bytes: u64,
    /// Space that it takes.
    pub used_bytes: u64,
}

/// One of a file's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub folder: u64,
    pub space: u8,
    pub name: Vec<u16>,
}

impl Attribute {
    pub(super) fn size_bytes(&self) -> u64 {
        match &self.value {
            Value::Resident(bytes) => bytes.len() as u64,
            Value::Stored(stored) => stored.size_bytes,
        }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    fn begin(part: Part) -> Result<Self, GuestError> {
        let value = match part.form {
            Form::Resident(bytes) => Value::Resident(bytes),
            Form::Mapped(mapped) => Value::Stored(Stored {
                runs: Runs::default(),
                unit_power: mapped.unit_power,
                size_bytes: mapped.size_bytes,
                valid_bytes: mapped.valid_bytes.min(mapped.size_bytes),
                used_bytes: mapped.packed_bytes.unwrap_or(mapped.allocated_bytes),
            }),
        };
        Ok(Self {
            kind: part.kind,
            name: part.name,
            flags: part.flags,
            value,
        })
    }
}

impl Node {
    pub(super) fn place(&self) -> Place {
        Place::Record(self.number)
    }

    /// The attribute of a kind and name.
    pub(super) fn find(&self, kind: u32, name: &[u16]) -> Option<&Attribute> {
        let mut all = self.attributes.iter();
        all.find(|attribute| attribute.kind == kind && attribute.name == name)
    }

    /// A value that lies in the record itself, if there is one of this kind.
    pub(super) fn resident(&self, kind: u32) -> Option<&Bytes> {
        match &self.find(kind, &[])?.value {
            Value::Resident(bytes) => Some(bytes),
            Value::Stored(_) => None,
        }
    }

    pub(super) fn data(&self) -> Option<&Attribute> {
        self.find(kind::DATA, &[])
    }

    /// Named streams; the place of each is a part of the number by which it is read as a file.
    pub(super) fn streams(&self) -> impl Iterator<Item = &Attribute> {
        let all = self.attributes.iter();
        all.filter(|attribute| attribute.kind == kind::DATA && !attribute.name.is_empty())
    }

    pub(super) fn names(&self) -> Result<Vec<Name>, GuestError> {
        let names = self.attributes.iter().filter(|one| one.kind == kind::NAME);
        names
            .map(|attribute| match &attribute.value {
                Value::Resident(bytes) => Name::decode(View::new(bytes, self.place())),
                Value::Stored(_) => Err(self.corrupt("a name lies outside of the record")),
            })
            .collect()
    }

    pub(super) fn standard(&self) -> Result<View<'_>, GuestError> {
        self.resident(kind::STANDARD)
            .map(|bytes| View::new(bytes, self.place()))
            .ok_or_else(|| self.corrupt("there are no times"))
    }

    /// What Windows calls file attributes.
    pub(super) fn flags(&self) -> Result<u32, GuestError> {
        self.standard()?.u32(0x20)
    }

    pub(super) fn corrupt(&self, detail: &'static str) -> GuestError {
        GuestError::corrupt(self.place(), detail)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let attribute = |one: &Attribute| {
            let held = match &one.value {
                Value::Resident(bytes) => bytes.len(),
                Value::Stored(stored) => stored.runs.memory_bytes(),
            };
            256 + one.name.len() * 2 + held
        };
        1024 + self.attributes.iter().map(attribute).sum::<usize>()
    }
}

impl Name {
    /// Names of the old kind of eight and three letters that stand beside a longer one.
    pub(super) fn is_short(&self) -> bool {
        self.space == SHORT
    }

    pub(super) fn decode(view: View<'_>) -> Result<Self, GuestError> {
        let length = usize::from(view.u8(0x40)?);
        Ok(Self {
            folder: view.u64(0)?,
            space: view.u8(0x41)?,
            name: units(view.slice(0x42, length * 2)?),
        })
    }
}

impl Ntfs {
    /// The file or folder of a number.
    pub(super) fn node(&self, number: u64) -> Result<Arc<Node>, GuestError> {
        if let Some(node) = self.nodes.get(&number) {
            return Ok(node);
        }
        let record = self.record(number)?.ok_or(GuestError::NotFound)?;
        if record.base != 0 {
            return Err(GuestError::NotFound);
        }
        let node = Arc::new(self.assemble(&record)?);
        self.nodes.insert(number, Arc::clone(&node));
        Ok(node)
    }

    pub(super) fn assemble(&self, record: &Record) -> Result<Node, GuestError> {
        let mut node = Node {
            number: record.number,
            sequence: record.sequence,
            is_folder: record.is_folder,
            attributes: self.attributes_of(record)?,
            nature: Nature::File,
        };
        node.nature = nature(self, &node)?;
        Ok(node)
    }

    /// Attributes of a record and of all that continue it.
    pub(super) fn attributes_of(&self, record: &Record) -> Result<Vec<Attribute>, GuestError> {
        let place = Place::Record(record.number);
        let parts = record.parts()?;
        let mut built = Assembly::new(self.boot.clusters, place);
        if !parts.iter().any(|part| part.kind == kind::LIST) {
            for part in parts {
                built.add(part)?;
            }
            return Ok(built.attributes);
        }
        let mut held = (record.number, parts);
        for entry in self.entries_of(record)? {
            if entry.kind == kind::LIST {
                continue;
            }
            if entry.record != held.0 {
                held = (entry.record, self.continuation(record, &entry)?);
            }
            let found = held.1.iter().find(|part| entry.is_for(part));
            let part = found.ok_or(GuestError::corrupt(
                place,
                "an attribute of its list is not where the list says",
            ))?;
            built.add(part.clone())?;
        }
        Ok(built.attributes)
    }

    /// What the list of a record that has one says.
    pub(super) fn entries_of(&self, record: &Record) -> Result<Vec<Entry>, GuestError> {
        let place = Place::Record(record.number);
        let list = record
            .parts()?
            .into_iter()
            .find(|part| part.kind == kind::LIST);
        let mut alone = Assembly::new(self.boot.clusters, place);
        if let Some(list) = list {
            alone.add(list)?;
        }
        let Some(list) = alone.attributes.first() else {
            return Ok(Vec::new());
        };
        let length = bounded(
            list.size_bytes(),
            LIST_MAX,
            "the length of a list of attributes",
        )?;
        let list = self.read(record.number, list, 0, length as u64)?.to_vec();
        entries(View::new(&list, place))
    }

    /// Attributes of the record that an entry of a list leads to.
    pub(super) fn continuation(
        &self,
        base: &Record,
        entry: &Entry,
    ) -> Result<Vec<Part>, GuestError> {
        if entry.record == base.number {
            return base.parts();
        }
        let place = Place::Record(base.number);
        let record = self.record(entry.record)?.ok_or(GuestError::corrupt(
            place,
            "a record that continues it is not in use",
        ))?;
        if reference(record.base) != (base.number, base.sequence)
            || record.sequence != entry.sequence
        {
            return Err(GuestError::corrupt(
                place,
                "a record that continues it belongs to another file",
            ));
        }
        record.parts()
    }
}

/// Attributes while they are put together from their parts, which come in order.
pub(super) struct Assembly {
    attributes: Vec<Attribute>,
    volume: u64,
    place: Place,
}

impl Assembly {
    pub(super) fn new(volume: u64, place: Place) -> Self {
        Self {
            attributes: Vec::new(),
            volume,
            place,
        }
    }

    pub(super) fn into_attributes(self) -> Vec<Attribute> {
        self.attributes
    }

    pub(super) fn add(&mut self, part: Part) -> Result<(), GuestError> {
        let mapped = match &part.form {
            Form::Resident(_) => None,
            Form::Mapped(mapped) => Some(mapped.clone()),
        };
        if mapped.as_ref().is_none_or(|mapped| mapped.first == 0) {
            if self.attributes.len() >= ATTRIBUTES_MAX {
                return Err(GuestError::TooLarge {
                    what: "the number of attributes of one file",
                    limit: ATTRIBUTES_MAX as u64,
                });
            }
            self.attributes.push(Attribute::begin(part)?);
        } else if self
            .attributes
            .last()
            .is_none_or(|last| last.kind != part.kind || last.name != part.name)
        {
            return Err(GuestError::corrupt(
                self.place,
                "the beginning of an attribute is missing",
            ));
        }
        match (
            self.attributes.last_mut().map(|last| &mut last.value),
            mapped,
        ) {
            (Some(Value::Stored(stored)), Some(mapped)) => {
                let (pairs, first, end) = (&mapped.pairs, mapped.first, mapped.end);
                stored
                    .runs
                    .append(pairs, first, end, self.volume, self.place)
            }
            (_, None) => Ok(()),
            _ => Err(GuestError::corrupt(
                self.place,
                "an attribute goes on that has no runs",
            )),
        }
    }
}

/// Where a list says that an attribute, or a part of one, lies.
pub(super) struct Entry {
    pub kind: u32,
    first: u64,
    pub record: u64,
    sequence: u16,
    instance: u16,
}

impl Entry {
    pub(super) fn is_for(&self, part: &Part) -> bool {
        let first = match &part.form {
            Form::Resident(_) => 0,
            Form::Mapped(mapped) => mapped.first,
        };
        part.kind == self.kind && part.instance == self.instance && first == self.first
    }
}

fn entries(view: View<'_>) -> Result<Vec<Entry>, GuestError> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < view.len() {
        let length = usize::from(view.u16(at + 4)?);
        if length < 0x1A {
            return Err(view.corrupt("its list of attributes has an impossible entry"));
        }
        view.slice(at, length)?;
        let (record, sequence) = reference(view.u64(at + 16)?);
        entries.push(Entry {
            kind: view.u32(at)?,
            first: view.u64(at + 8)?,
            record,
            sequence,
            instance: view.u16(at + 24)?,
        });
        at += length;
    }
    Ok(entries)
}

/// Windows has 256 KiB.
const LIST_MAX: u64 = 1 << 20;
const ATTRIBUTES_MAX: usize = 32768;
const SHORT: u8 = 2;
