//! The devices of a filesystem as one space of logical bytes.

use std::sync::Arc;

use ::bytes::Bytes;
use export::Segments;

use super::chunk::{Chunks, Stripe, Way};
use super::parity;
use crate::bytes::to_usize;
use crate::{GuestError, Place, Source};

/// A device that is here.
pub(super) struct Device {
    pub number: u64,
    pub name: [u8; 16],
    /// How long the filesystem takes it to be.
    pub length_bytes: u64,
    pub source: Arc<dyn Source>,
    /// Whether it was away when the others were last written to.
    pub is_stale: bool,
}

/// Chunks and the devices that they lie on.
pub(super) struct Storage {
    devices: Vec<Device>,
    chunks: Chunks,
}

impl Storage {
    pub(super) fn new(devices: Vec<Device>, chunks: Chunks) -> Self {
        Self { devices, chunks }
    }

    /// The same with all chunks.
    pub(super) fn with_chunks(self, chunks: Chunks) -> Self {
        Self { chunks, ..self }
    }

    pub(super) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    pub(super) fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// How many bytes from `logical` on lie together, and in how many ways they can be read.
    pub(super) fn extent_of(&self, logical: u64) -> Result<(u64, usize), GuestError> {
        let run = self.chunks.run(logical)?;
        Ok((run.length, run.ways.len()))
    }

    /// `length` bytes from `logical` on, in one of the ways.
    pub(super) fn read(
        &self,
        logical: u64,
        length: usize,
        way: usize,
    ) -> Result<Segments, GuestError> {
        let mut result = Segments::new();
        let end = logical.checked_add(length as u64).ok_or_else(|| {
            GuestError::corrupt(Place::Chunk(logical), "nothing says where these bytes lie")
        })?;
        let mut at = logical;
        while at < end {
            let mut run = self.chunks.run(at)?;
            let step = run.length.min(end - at);
            // What was written while a device was away is not on it.
            run.ways.sort_by_key(|way| self.is_stale(way));
            let Some(way) = run.ways.get(way.min(run.ways.len() - 1)) else {
                return Err(GuestError::corrupt(Place::Chunk(at), "it lies nowhere"));
            };
            result.append(self.read_way(way, to_usize(step))?);
            at += step;
        }
        Ok(result)
    }

    fn is_stale(&self, way: &Way) -> bool {
        match way {
            Way::Direct(stripe) => self.device(stripe).is_ok_and(|device| device.is_stale),
            Way::Rebuilt(_) => false,
        }
    }

    fn read_way(&self, way: &Way, length: usize) -> Result<Segments, GuestError> {
        match way {
            Way::Direct(stripe) => self.read_stripe(stripe, length),
            Way::Rebuilt(row) => {
                let made = parity::rebuild(row, length, &|stripe| {
                    Ok(self.read_stripe(stripe, length)?.to_vec())
                })?;
                Ok(Bytes::from(made).into())
            }
        }
    }

    fn read_stripe(&self, stripe: &Stripe, length: usize) -> Result<Segments, GuestError> {
        let device = self.device(stripe)?;
        let room = device.source.length_bytes().checked_sub(stripe.offset);
        if room.is_none_or(|room| room < length as u64) {
            return Err(GuestError::corrupt(
                Place::Device(stripe.device),
                "it is shorter than what lies on it",
            ));
        }
        device.source.read(stripe.offset, length)
    }

    fn device(&self, stripe: &Stripe) -> Result<&Device, GuestError> {
        self.devices
            .iter()
            .find(|device| device.number == stripe.device && device.name == stripe.device_name)
            .ok_or_else(|| {
                GuestError::missing(format!("device {} of the filesystem", stripe.device))
            })
    }
}
