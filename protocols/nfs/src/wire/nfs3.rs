//! NFS version 3 (RFC 1813): the types that its procedures share.

use bytes::BufMut;
use export::{Attributes, FileKind, SetAttributes, TimeChange, Timestamp};

use super::xdr::{Malformed, Reader, Writer};
use crate::error::Status;

/// The procedures (RFC 1813, part 3), numbered as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Procedure {
    Null,
    Getattr,
    Setattr,
    Lookup,
    Access,
    Readlink,
    Read,
    Write,
    Create,
    Mkdir,
    Symlink,
    Mknod,
    Remove,
    Rmdir,
    Rename,
    Link,
    Readdir,
    Readdirplus,
    Fsstat,
    Fsinfo,
    Pathconf,
    Commit,
}

impl Procedure {
    /// All procedures in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::Null,
        Self::Getattr,
        Self::Setattr,
        Self::Lookup,
        Self::Access,
        Self::Readlink,
        Self::Read,
        Self::Write,
        Self::Create,
        Self::Mkdir,
        Self::Symlink,
        Self::Mknod,
        Self::Remove,
        Self::Rmdir,
        Self::Rename,
        Self::Link,
        Self::Readdir,
        Self::Readdirplus,
        Self::Fsstat,
        Self::Fsinfo,
        Self::Pathconf,
        Self::Commit,
    ];

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    pub(crate) fn number(self) -> u32 {
        u32::from(self as u8)
    }

    /// Whether doing it twice differs from doing it once, so that an answer must be kept for a repeated call.
    pub(crate) fn is_once_only(self) -> bool {
        matches!(
            self,
            Self::Setattr
                | Self::Create
                | Self::Mkdir
                | Self::Symlink
                | Self::Remove
                | Self::Rmdir
                | Self::Rename
                | Self::Link
        )
    }
}

/// `fattr3` (RFC 1813, 2.6) takes so many bytes.
pub(crate) const ATTRIBUTES_BYTES: usize = 84;

/// Writes `fattr3`.
pub(crate) fn encode_attributes<B: BufMut>(
    out: &mut Writer<'_, B>,
    attributes: &Attributes,
    filesystem: u64,
) {
    let mut fixed = [0_u8; ATTRIBUTES_BYTES];
    let mut cursor = &mut fixed[..];
    let mut fields = Writer::new(&mut cursor);
    fields.u32(match attributes.kind {
        FileKind::File => KIND_FILE,
        FileKind::Directory => KIND_DIRECTORY,
        FileKind::Symlink => KIND_SYMLINK,
    });
    fields.u32(attributes.mode);
    fields.u32(attributes.links);
    fields.u32(attributes.uid);
    fields.u32(attributes.gid);
    fields.u64(attributes.size_bytes);
    fields.u64(attributes.used_bytes);
    fields.u64(0);
    fields.u64(filesystem);
    fields.u64(attributes.file.0);
    encode_time(&mut fields, attributes.accessed);
    encode_time(&mut fields, attributes.modified);
    encode_time(&mut fields, attributes.changed);
    out.fixed(&fixed);
}

/// Writes `post_op_attr` (RFC 1813, 2.6).
pub(crate) fn encode_post<B: BufMut>(
    out: &mut Writer<'_, B>,
    attributes: Option<&Attributes>,
    filesystem: u64,
) {
    out.optional(attributes, |out, attributes| {
        encode_attributes(out, attributes, filesystem)
    });
}

/// Writes `wcc_data` (RFC 1813, 2.6). `before` is left out where it was not taken in one step with the change.
pub(crate) fn encode_change<B: BufMut>(
    out: &mut Writer<'_, B>,
    before: Option<&Attributes>,
    after: Option<&Attributes>,
    filesystem: u64,
) {
    out.optional(before, |out, before| {
        out.u64(before.size_bytes);
        encode_time(out, before.modified);
        encode_time(out, before.changed);
    });
    encode_post(out, after, filesystem);
}

/// What a client learns from `fattr3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DecodedAttributes {
    pub(crate) attributes: Attributes,
    pub(crate) filesystem: u64,
}

pub(crate) fn decode_attributes(reader: &mut Reader<'_>) -> Result<DecodedAttributes, Malformed> {
    let kind = match reader.u32()? {
        KIND_FILE => FileKind::File,
        KIND_DIRECTORY => FileKind::Directory,
        KIND_SYMLINK => FileKind::Symlink,
        _ => return Err(Malformed),
    };
    let mode = reader.u32()?;
    let links = reader.u32()?;
    let uid = reader.u32()?;
    let gid = reader.u32()?;
    let size_bytes = reader.u64()?;
    let used_bytes = reader.u64()?;
    let _device = reader.u64()?;
    let filesystem = reader.u64()?;
    let file = export::FileId(reader.u64()?);
    let accessed = decode_time(reader)?;
    let modified = decode_time(reader)?;
    let changed = decode_time(reader)?;
    let attributes = Attributes {
        file,
        kind,
        mode,
        links,
        uid,
        gid,
        size_bytes,
        used_bytes,
        accessed,
        modified,
        changed,
    };
    Ok(DecodedAttributes {
        attributes,
        filesystem,
    })
}

/// Reads `wcc_data` and gives what comes after the change.
pub(crate) fn decode_change(
    reader: &mut Reader<'_>,
) -> Result<Option<DecodedAttributes>, Malformed> {
    reader.optional(|reader| {
        reader.u64()?;
        decode_time(reader)?;
        decode_time(reader)
    })?;
    reader.optional(decode_attributes)
}

/// Reads `sattr3` (RFC 1813, 2.6).
pub(crate) fn decode_set_attributes(reader: &mut Reader<'_>) -> Result<SetAttributes, Malformed> {
    Ok(SetAttributes {
        mode: reader.optional(Reader::u32)?,
        uid: reader.optional(Reader::u32)?,
        gid: reader.optional(Reader::u32)?,
        size_bytes: reader.optional(Reader::u64)?,
        accessed: decode_time_change(reader)?,
        modified: decode_time_change(reader)?,
    })
}

/// Writes `sattr3`.
pub(crate) fn encode_set_attributes<B: BufMut>(out: &mut Writer<'_, B>, change: &SetAttributes) {
    out.optional(change.mode, Writer::u32);
    out.optional(change.uid, Writer::u32);
    out.optional(change.gid, Writer::u32);
    out.optional(change.size_bytes, Writer::u64);
    for time in [change.accessed, change.modified] {
        match time {
            None => out.u32(TIME_KEEP),
            Some(TimeChange::Now) => out.u32(TIME_SERVER),
            Some(TimeChange::To(time)) => {
                out.u32(TIME_CLIENT);
                encode_time(out, time);
            }
        }
    }
}

pub(crate) fn decode_time(reader: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
    let seconds = u64::from(reader.u32()?);
    Ok(Timestamp {
        seconds,
        nanoseconds: reader.u32()?.min(999_999_999),
    })
}

/// Writes `nfstime3`; its seconds are 32 bits, so times after 2106 stop there.
pub(crate) fn encode_time<B: BufMut>(out: &mut Writer<'_, B>, time: Timestamp) {
    out.u32(u32::try_from(time.seconds).unwrap_or(u32::MAX));
    out.u32(time.nanoseconds);
}

fn decode_time_change(reader: &mut Reader<'_>) -> Result<Option<TimeChange>, Malformed> {
    match reader.u32()? {
        TIME_KEEP => Ok(None),
        TIME_SERVER => Ok(Some(TimeChange::Now)),
        TIME_CLIENT => decode_time(reader).map(|time| Some(TimeChange::To(time))),
        _ => Err(Malformed),
    }
}

/// `diropargs3` (RFC 1813, 2.6): a name in a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) directory: &'a [u8],
    pub(crate) name: &'a [u8],
}

impl<'a> Place<'a> {
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        // A name of up to PATH_MAX bytes is understood, to be told that it is too long.
        Ok(Self {
            directory: reader.opaque(HANDLE_MAX)?,
            name: reader.opaque(PATH_MAX)?,
        })
    }

    /// Refuses a name that no tree takes.
    pub(crate) fn check(&self) -> Result<(), Status> {
        if self.name.len() > NAME_MAX {
            Err(Status::NameTooLong)
        } else {
            Ok(())
        }
    }
}

pub(crate) const PROGRAM: u32 = 100_003;
pub(crate) const VERSION: u32 = 3;

/// `NFS3_FHSIZE` (RFC 1813, 2.4).
pub(crate) const HANDLE_MAX: usize = 64;
pub(crate) const NAME_MAX: usize = 255;
pub(crate) const PATH_MAX: usize = 1024;

pub(crate) const UNSTABLE: u32 = 0;
pub(crate) const FILE_SYNC: u32 = 2;

pub(crate) const CREATE_UNCHECKED: u32 = 0;
pub(crate) const CREATE_GUARDED: u32 = 1;
pub(crate) const CREATE_EXCLUSIVE: u32 = 2;

/// `ACCESS3` bits (RFC 1813, 3.3.4).
pub(crate) const ACCESS_READ: u32 = 0x01;
pub(crate) const ACCESS_LOOKUP: u32 = 0x02;
pub(crate) const ACCESS_MODIFY: u32 = 0x04;
pub(crate) const ACCESS_EXTEND: u32 = 0x08;
pub(crate) const ACCESS_DELETE: u32 = 0x10;
pub(crate) const ACCESS_EXECUTE: u32 = 0x20;

/// `FSF3` bits (RFC 1813, 3.3.19) of every tree: symbolic links, one set of path limits, times can be set.
pub(crate) const FILESYSTEM_PROPERTIES: u32 = 0x02 | 0x08 | 0x10;
/// Hard links.
pub(crate) const PROPERTY_LINK: u32 = 0x01;

const KIND_FILE: u32 = 1;
const KIND_DIRECTORY: u32 = 2;
const KIND_SYMLINK: u32 = 5;

const TIME_KEEP: u32 = 0;
const TIME_SERVER: u32 = 1;
const TIME_CLIENT: u32 = 2;
