//! Security descriptors: in the object itself, or once for all that have the same, under a number.

use super::Ntfs;
use super::index::Index;
use super::node::Node;
use super::record::{bounded, kind};
use crate::bytes::View;
use crate::{GuestError, Place};

impl Ntfs {
    /// The descriptor of an object, if it has one.
    pub(super) fn security(&self, node: &Node) -> Result<Option<Vec<u8>>, GuestError> {
        if let Some(own) = node.find(kind::SECURITY, &[]) {
            let length = bounded(
                own.size_bytes(),
                DESCRIPTOR_MAX,
                "the length of a descriptor",
            )?;
            return Ok(Some(
                self.read(node.number, own, 0, length as u64)?.to_vec(),
            ));
        }
        let standard = node.standard()?;
        // Before NTFS 3.0 there was no number.
        if standard.len() < 0x48 {
            return Ok(None);
        }
        match standard.u32(0x34)? {
            0 => Ok(None),
            id => self.descriptor(id).map(Some),
        }
    }

    fn descriptor(&self, id: u32) -> Result<Vec<u8>, GuestError> {
        if let Some(descriptor) = self.descriptors.get(&id) {
            return Ok(descriptor.to_vec());
        }
        let secure = self.node(SECURE)?;
        let index = Index::open(self, &secure, "$SII")?;
        let mut cursor = index.start();
        let found = index.seek(&mut cursor, |entry| {
            let key = View::new(&entry.key, secure.place()).u32(0)?;
            Ok(key.cmp(&id))
        })?;
        let entry = found.ok_or(GuestError::corrupt(
            Place::Descriptor(id),
            "it is not in the index of descriptors",
        ))?;
        let said = View::new(&entry.data, secure.place());
        if said.u32(4)? != id || View::new(&entry.key, secure.place()).u32(0)? != id {
            return Err(GuestError::corrupt(
                Place::Descriptor(id),
                "it is not in the index of descriptors",
            ));
        }
        let (at, length) = (said.u64(8)?, said.u32(16)?);
        // All is there twice, in pieces of 256 KiB that take turns.
        let descriptor = match self.descriptor_at(&secure, id, at, length) {
            Err(error) if error.is_of_one_place() => {
                self.descriptor_at(&secure, id, at.saturating_add(COPY_AT), length)?
            }
            other => other?,
        };
        self.descriptors.insert(id, descriptor.clone().into());
        Ok(descriptor)
    }

    fn descriptor_at(
        &self,
        secure: &Node,
        id: u32,
        at: u64,
        length: u32,
    ) -> Result<Vec<u8>, GuestError> {
        let place = Place::Descriptor(id);
        let name: Vec<u16> = "$SDS".encode_utf16().collect();
        let stream = secure.find(kind::DATA, &name);
        let stream = stream.ok_or(GuestError::corrupt(place, "there are no descriptors"))?;
        let length = bounded(
            u64::from(length),
            DESCRIPTOR_MAX,
            "the length of a descriptor",
        )?;
        let bytes = self
            .read(secure.number, stream, at, length as u64)?
            .to_vec();
        let view = View::new(&bytes, place);
        let descriptor = view.slice(HEAD_BYTES, length.saturating_sub(HEAD_BYTES))?;
        if view.u32(4)? != id || view.u32(0)? != hash(descriptor) {
            return Err(view.corrupt("it is not what its index says"));
        }
        Ok(descriptor.to_vec())
    }
}

/// The sum by which equal descriptors are found.
fn hash(descriptor: &[u8]) -> u32 {
    let words = descriptor.as_chunks().0;
    words.iter().fold(0, |hash: u32, word| {
        hash.rotate_left(3).wrapping_add(u32::from_le_bytes(*word))
    })
}

const SECURE: u64 = 9;
const HEAD_BYTES: usize = 20;
const COPY_AT: u64 = 256 << 10;
const DESCRIPTOR_MAX: u64 = 64 << 10;
