//! What the worker answers.

use std::ops::Range;

use export::{
    Attributes, DirectoryEntry, ExtendedAttribute, FileId, FileKind, FileRead, Particulars,
    Segments, SpecialFile, Statistics, Timestamp,
};
use guestfs::{Membership, Partition, Unneeded};

use super::{
    Body, ENTRIES_MAX, Fields, MEMBERS_MAX, Malformed, NAME_BYTES_MAX, RANGES_MAX,
    TARGET_BYTES_MAX, UNNEEDED_MAX, VOLUMES_MAX, WHOLE_MAX, Wire,
};
use crate::{Made, UnneededBytes, VolumeDescription, VolumePlace};

/// Some of the ranges of bytes that are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ranges(pub(crate) Vec<Range<u64>>);

/// What a name leads to, with its attributes if it is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) file: FileId,
    pub(crate) attributes: Option<Attributes>,
}

impl Wire for Found {
    fn encode(self, body: &mut Body) {
        body.u64(self.file.0);
        body.option(self.attributes, |body, attributes| attributes.encode(body));
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            file: FileId(fields.u64()?),
            attributes: fields.option(Attributes::decode)?,
        })
    }
}

impl Wire for FileId {
    fn encode(self, body: &mut Body) {
        body.u64(self.0);
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        fields.u64().map(Self)
    }
}

impl Wire for Statistics {
    fn encode(self, body: &mut Body) {
        body.u64(self.total_bytes);
        body.u64(self.free_bytes);
        body.u64(self.available_bytes);
        body.u64(self.total_files);
        body.u64(self.free_files);
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            total_bytes: fields.u64()?,
            free_bytes: fields.u64()?,
            available_bytes: fields.u64()?,
            total_files: fields.u64()?,
            free_files: fields.u64()?,
        })
    }
}

impl Wire for Timestamp {
    fn encode(self, body: &mut Body) {
        body.u64(self.seconds);
        body.u32(self.nanoseconds);
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let (seconds, nanoseconds) = (fields.u64()?, fields.u32()?);
        if nanoseconds >= 1_000_000_000 {
            return Err(Malformed("a time with more than a second of nanoseconds"));
        }
        Ok(Self {
            seconds,
            nanoseconds,
        })
    }
}

impl Wire for Attributes {
    fn encode(self, body: &mut Body) {
        body.u64(self.file.0);
        body.u8(match self.kind {
            FileKind::File => 1,
            FileKind::Directory => 2,
            FileKind::Symlink => 3,
        });
        for number in [self.mode, self.links, self.uid, self.gid] {
            body.u32(number);
        }
        body.u64(self.size_bytes);
        body.u64(self.used_bytes);
        for time in [self.accessed, self.modified, self.changed] {
            time.encode(body);
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            file: FileId(fields.u64()?),
            kind: match fields.u8()? {
                1 => FileKind::File,
                2 => FileKind::Directory,
                3 => FileKind::Symlink,
                _ => return Err(Malformed("an object of no known kind")),
            },
            mode: fields.u32()?,
            links: fields.u32()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
            size_bytes: fields.u64()?,
            used_bytes: fields.u64()?,
            accessed: Timestamp::decode(fields)?,
            modified: Timestamp::decode(fields)?,
            changed: Timestamp::decode(fields)?,
        })
    }
}

impl Wire for FileRead {
    fn encode(self, body: &mut Body) {
        body.u8(u8::from(self.end));
        body.option(self.attributes, |body, attributes| attributes.encode(body));
        body.bulk = self.data;
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self {
            end: fields.is()?,
            attributes: fields.option(Attributes::decode)?,
            data: Segments::from(fields.rest()),
        })
    }
}

impl Wire for Vec<DirectoryEntry> {
    fn encode(self, body: &mut Body) {
        body.u32(u32::try_from(self.len()).unwrap_or(u32::MAX));
        for entry in self {
            body.u64(entry.file.0);
            body.u64(entry.cookie);
            entry.attributes.encode(body);
            body.bytes(&entry.name);
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let count = fields.count(ENTRIES_MAX as usize, 90)?;
        let entry = |_| {
            Ok(DirectoryEntry {
                file: FileId(fields.u64()?),
                cookie: fields.u64()?,
                attributes: Attributes::decode(fields)?,
                name: entry_name(fields.bytes(NAME_BYTES_MAX)?)?,
            })
        };
        (0..count).map(entry).collect()
    }
}

/// A name that leads nowhere but to something in its folder.
fn entry_name(name: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    let is_path = name.iter().any(|byte| matches!(byte, b'/' | 0));
    match name.as_slice() {
        b"" | b"." | b".." => Err(Malformed("a name that no object may have")),
        _ if is_path => Err(Malformed("a name that is a path")),
        _ => Ok(name),
    }
}

/// The target of a link.
impl Wire for Vec<u8> {
    fn encode(self, body: &mut Body) {
        body.bytes(&self);
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        fields.bytes(TARGET_BYTES_MAX)
    }
}

impl Wire for Vec<ExtendedAttribute> {
    fn encode(self, body: &mut Body) {
        body.u32(u32::try_from(self.len()).unwrap_or(u32::MAX));
        for attribute in self {
            body.bytes(&attribute.name);
            body.bytes(&attribute.value);
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let count = fields.count(usize::MAX, 8)?;
        let attribute = |_| {
            let (name, value) = (fields.bytes(NAME_BYTES_MAX)?, fields.bytes(usize::MAX)?);
            match name.is_empty() || name.contains(&0) {
                true => Err(Malformed("a name that no attribute may have")),
                false => Ok(ExtendedAttribute { name, value }),
            }
        };
        (0..count).map(attribute).collect()
    }
}

impl Wire for Particulars {
    fn encode(self, body: &mut Body) {
        let (number, device) = match self.special {
            None => (0, None),
            Some(SpecialFile::CharacterDevice { major, minor }) => (1, Some((major, minor))),
            Some(SpecialFile::BlockDevice { major, minor }) => (2, Some((major, minor))),
            Some(SpecialFile::Fifo) => (3, None),
            Some(SpecialFile::Socket) => (4, None),
        };
        body.u8(number);
        if let Some((major, minor)) = device {
            body.u32(major);
            body.u32(minor);
        }
        body.option(self.created, |body, created| created.encode(body));
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let special = match fields.u8()? {
            0 => None,
            1 => Some(SpecialFile::CharacterDevice {
                major: fields.u32()?,
                minor: fields.u32()?,
            }),
            2 => Some(SpecialFile::BlockDevice {
                major: fields.u32()?,
                minor: fields.u32()?,
            }),
            3 => Some(SpecialFile::Fifo),
            4 => Some(SpecialFile::Socket),
            _ => return Err(Malformed("a special file of no known kind")),
        };
        Ok(Self {
            special,
            created: fields.option(Timestamp::decode)?,
        })
    }
}

impl Wire for Vec<VolumeDescription> {
    /// More than there may be are left out; nobody has so many.
    fn encode(self, body: &mut Body) {
        body.u32(u32::try_from(self.len().min(VOLUMES_MAX)).unwrap_or(u32::MAX));
        for volume in self.into_iter().take(VOLUMES_MAX) {
            volume.place.encode(body);
            body.text(&volume.name);
            body.u64(volume.offset_bytes);
            body.u64(volume.length_bytes);
            body.option(volume.partition, |body, partition| {
                body.text(&partition.kind);
                body.option(partition.label, |body, label| body.text(&label));
            });
            body.text(&volume.content);
            body.option(volume.label, |body, label| body.text(&label));
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let count = fields.count(VOLUMES_MAX, 31)?;
        let volume = |_| {
            Ok(VolumeDescription {
                place: VolumePlace::decode(fields)?,
                name: volume_name(fields.text()?)?,
                offset_bytes: fields.u64()?,
                length_bytes: fields.u64()?,
                partition: fields.option(|fields| {
                    Ok(Partition {
                        kind: fields.text()?,
                        label: fields.option(Fields::text)?,
                    })
                })?,
                content: fields.text()?,
                label: fields.option(Fields::text)?,
            })
        };
        (0..count).map(volume).collect()
    }
}

impl Wire for VolumePlace {
    fn encode(self, body: &mut Body) {
        match self {
            Self::Disk(number) => {
                body.u8(0);
                body.u32(number);
            }
            Self::Assembled(made) => {
                body.u8(1);
                body.text(&made.description);
                body.texts(&made.members);
                body.texts(&made.missing);
            }
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(match fields.u8()? {
            0 => Self::Disk(fields.u32()?),
            1 => Self::Assembled(Made {
                description: fields.text()?,
                members: fields.texts(MEMBERS_MAX + 1)?,
                missing: fields.texts(MEMBERS_MAX + 1)?,
            }),
            _ => return Err(Malformed("a volume that lies nowhere")),
        })
    }
}

/// What is put together from disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) volumes: Vec<VolumeDescription>,
    pub(crate) memberships: Vec<Membership>,
}

impl Wire for Put {
    fn encode(self, body: &mut Body) {
        self.volumes.encode(body);
        body.u32(u32::try_from(self.memberships.len().min(VOLUMES_MAX)).unwrap_or(u32::MAX));
        for membership in self.memberships.into_iter().take(VOLUMES_MAX) {
            body.text(&membership.member);
            body.text(&membership.role);
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let volumes = Vec::decode(fields)?;
        let count = fields.count(VOLUMES_MAX, 8)?;
        let membership = |_| {
            Ok(Membership {
                member: fields.text()?,
                role: fields.text()?,
            })
        };
        Ok(Self {
            volumes,
            memberships: (0..count).map(membership).collect::<Result<_, _>>()?,
        })
    }
}

/// Volumes become folders: their names must be names.
fn volume_name(name: String) -> Result<String, Malformed> {
    let sound = entry_name(name.into_bytes())?;
    String::from_utf8(sound).map_err(|_| Malformed("a volume without a name"))
}

impl Wire for Ranges {
    fn encode(self, body: &mut Body) {
        body.u32(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        for range in self.0 {
            body.u64(range.start);
            body.u64(range.end);
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Self::decode_most(fields, RANGES_MAX)
    }
}

impl Ranges {
    fn decode_most(fields: &mut Fields, most: usize) -> Result<Self, Malformed> {
        let count = fields.count(most, 16)?;
        let range = |_| {
            let range = fields.u64()?..fields.u64()?;
            match range.is_empty() {
                true => Err(Malformed("a range with nothing in it")),
                false => Ok(range),
            }
        };
        (0..count).map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl Wire for UnneededBytes {
    /// Of what is needed as a whole, the first are named.
    fn encode(self, body: &mut Body) {
        body.u8(u8::try_from(self.by.len()).unwrap_or(u8::MAX));
        for (kind, bytes) in self.by {
            let number = Unneeded::ALL.iter().position(|known| *known == kind);
            body.u8(number
                .and_then(|number| u8::try_from(number).ok())
                .unwrap_or(u8::MAX));
            body.u64(bytes);
        }
        body.u32(u32::try_from(self.whole.len().min(WHOLE_MAX)).unwrap_or(u32::MAX));
        for (name, reason) in self.whole.iter().take(WHOLE_MAX) {
            body.text(name);
            body.text(reason);
        }
        Ranges(self.ranges).encode(body);
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let kinds = fields.u8()?;
        let kind = |_| {
            let number = usize::from(fields.u8()?);
            let kind = Unneeded::ALL.get(number).copied();
            let kind = kind.ok_or(Malformed("bytes that nobody needs for no known reason"))?;
            Ok((kind, fields.u64()?))
        };
        let by = (0..kinds).map(kind).collect::<Result<_, _>>()?;
        let count = fields.count(WHOLE_MAX, 8)?;
        let whole = (0..count).map(|_| Ok((fields.text()?, fields.text()?)));
        let whole = whole.collect::<Result<_, _>>()?;
        let Ranges(ranges) = Ranges::decode_most(fields, UNNEEDED_MAX)?;
        Ok(Self { ranges, by, whole })
    }
}
