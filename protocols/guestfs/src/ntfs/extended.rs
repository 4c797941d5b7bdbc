//! What objects carry besides content: named streams, security descriptors, flags, and extended attributes, some of which
//! tell what Windows' subsystem for Linux knows of them.

use export::ExtendedAttribute;

use super::Ntfs;
use super::name::to_bytes;
use super::node::{Attribute, Node, Value};
use super::packed;
use super::record::{bounded, kind};
use super::reparse::{Nature, Stub, point_bytes};
use crate::GuestError;
use crate::bytes::View;

impl Ntfs {
    /// All that an object carries, under the names that ntfs-3g gives it.
    pub(super) fn carried(&self, node: &Node) -> Result<Vec<ExtendedAttribute>, GuestError> {
        let mut carried = vec![one("system.ntfs_attrib", self.flags_shown(node)?)];
        if let Some(descriptor) = self.security(node)? {
            carried.push(one("system.ntfs_acl", descriptor));
        }
        // What the overlay filter needs is not the file's own: it is shown unpacked.
        let is_packed = matches!(node.nature, Nature::Stub(Stub::Packed(_)));
        let point = node.find(kind::REPARSE, &[]).filter(|_| !is_packed);
        if let Some(point) = point {
            let bytes = point_bytes(self, node, point)?;
            carried.push(one("system.ntfs_reparse_data", bytes));
        }
        if let Some(list) = node.find(kind::EXTENDED, &[]) {
            let length = bounded(
                list.size_bytes(),
                VALUE_MAX,
                "the length of extended attributes",
            )?;
            let bytes = self.read(node.number, list, 0, length as u64)?.to_vec();
            carried.push(one("system.ntfs_ea", bytes));
        }
        self.add_streams(node, &mut carried)?;
        Ok(carried)
    }

    fn flags_shown(&self, node: &Node) -> Result<Vec<u8>, GuestError> {
        let mut flags = node.flags()?;
        if node.is_folder {
            flags |= FLAG_FOLDER;
        }
        Ok(flags.to_le_bytes().to_vec())
    }

    /// Streams with their content as far as that is short; of all others it is said that they are there.
    fn add_streams(
        &self,
        node: &Node,
        carried: &mut Vec<ExtendedAttribute>,
    ) -> Result<(), GuestError> {
        let mut others = Vec::new();
        let mut room = STREAMS_MAX;
        let hidden = match node.nature {
            Nature::Stub(Stub::Packed(_)) => Some(packed::stream()),
            _ => None,
        };
        let shown = |stream: &&Attribute| Some(&stream.name) != hidden.as_ref();
        for stream in node.streams().filter(shown) {
            let size = stream.size_bytes();
            let name = to_bytes(&stream.name);
            let fits = size <= VALUE_MAX.min(room)
                && name.len() <= NAME_MAX
                && !name.contains(&0)
                && !stream.is_encrypted();
            if fits {
                room -= size;
                carried.push(ExtendedAttribute {
                    name: [b"user.", &name[..]].concat(),
                    value: self.read(node.number, stream, 0, size)?.to_vec(),
                });
            } else {
                others.extend(format!("{size} ").bytes());
                others.extend(name);
                others.push(b'\n');
            }
        }
        if !others.is_empty() {
            others.truncate(usize::try_from(VALUE_MAX).unwrap_or(usize::MAX));
            carried.push(one("system.ntfs_streams", others));
        }
        Ok(())
    }
}

fn one(name: &str, value: Vec<u8>) -> ExtendedAttribute {
    ExtendedAttribute {
        name: name.as_bytes().to_vec(),
        value,
    }
}

/// What Windows' subsystem for Linux keeps of an object, each if it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Linux {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
    pub device: Option<(u32, u32)>,
}

/// Reads it from the extended attributes, which are in the record where they are so few.
pub(super) fn of_linux(node: &Node) -> Result<Linux, GuestError> {
    let mut linux = Linux::default();
    let list = node.find(kind::EXTENDED, &[]);
    let Some(Attribute {
        value: Value::Resident(bytes),
        ..
    }) = list
    else {
        return Ok(linux);
    };
    let view = View::new(bytes, node.place());
    let mut at = 0;
    while at < view.len() {
        let next = usize::try_from(view.u32(at)?).unwrap_or(usize::MAX);
        let name_length = usize::from(view.u8(at + 5)?);
        let value_length = usize::from(view.u16(at + 6)?);
        let name = view.slice(at + 8, name_length)?;
        let value_at = at + 9 + name_length;
        let value = View::new(view.slice(value_at, value_length)?, node.place());
        match name {
            b"$LXUID" => linux.uid = Some(value.u32(0)?),
            b"$LXGID" => linux.gid = Some(value.u32(0)?),
            b"$LXMOD" => linux.mode = Some(value.u32(0)?),
            b"$LXDEV" => linux.device = Some((value.u32(0)?, value.u32(4)?)),
            _ => {}
        }
        if next == 0 {
            break;
        }
        if next < 8 {
            return Err(view.corrupt("its extended attributes do not go on"));
        }
        at = at.saturating_add(next);
    }
    Ok(linux)
}

const FLAG_FOLDER: u32 = 0x10;
/// The longest value that Linux takes.
const VALUE_MAX: u64 = 64 << 10;
/// What is given of streams of one file.
const STREAMS_MAX: u64 = 4 << 20;
/// The longest name that Linux takes, without `user.`.
const NAME_MAX: usize = 250;
