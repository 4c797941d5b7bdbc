//! The mailbox: where the ring lies, and how far each side has come.

use std::sync::Arc;

use super::abi;
use super::memory::SharedMemory;
use crate::error::RingError;

/// The ring's place, which is read and checked once, and the two places within that move.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    pub(crate) memory: Arc<SharedMemory>,
    /// Where the ring begins.
    ring_at: u32,
    ring_bytes: u32,
    /// Whether the kernel can be told how much was read.
    pub(crate) takes_length: bool,
}

impl Mailbox {
    /// Reads the mailbox at the beginning of `memory`.
    pub(crate) fn open(memory: Arc<SharedMemory>) -> Result<Self, RingError> {
        let length = memory.length();
        let nowhere = |at, ring_bytes| RingError::Ring {
            at,
            length: ring_bytes,
            memory: length,
        };
        let half = |at: u32| memory.u16(at.into()).map_err(|_| nowhere(0, 0));
        let word = |at: u32| memory.u32(at.into()).map_err(|_| nowhere(0, 0));
        let version = half(abi::MAILBOX_VERSION_AT)?;
        if u32::from(version) != abi::MAILBOX_VERSION {
            return Err(RingError::Version(version));
        }
        let flags = u32::from(half(abi::MAILBOX_FLAGS_AT)?);
        if flags & abi::FLAG_OUT_OF_ORDER == 0 {
            return Err(RingError::InOrder);
        }
        let ring_at = word(abi::MAILBOX_RING_AT)?;
        let ring_bytes = word(abi::MAILBOX_RING_BYTES_AT)?;
        let fits = ring_at >= abi::MAILBOX_BYTES
            && ring_at.is_multiple_of(abi::ENTRY_ALIGNMENT)
            && ring_bytes.is_multiple_of(abi::ENTRY_ALIGNMENT)
            && ring_bytes >= abi::COMMAND_BYTES
            && u64::from(ring_at) + u64::from(ring_bytes) <= length;
        if !fits {
            return Err(nowhere(ring_at, ring_bytes));
        }
        Ok(Self {
            memory,
            ring_at,
            ring_bytes,
            takes_length: flags & abi::FLAG_READ_LENGTH != 0,
        })
    }

    /// Bytes of the ring.
    pub(crate) fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }

    /// Where in the memory a place of the ring is.
    pub(crate) fn at(&self, place: u32) -> u64 {
        u64::from(self.ring_at) + u64::from(place)
    }

    /// The memory behind the ring, where data may be.
    pub(crate) fn data_at(&self) -> u64 {
        self.at(self.ring_bytes)
    }

    /// How far the kernel has written.
    pub(crate) fn head(&self) -> Result<u32, RingError> {
        let head = self
            .memory
            .load(abi::MAILBOX_HEAD_AT.into())
            .map_err(|_| RingError::Head(u32::MAX))?;
        self.check(head)
    }

    /// How far answers have been written.
    pub(crate) fn tail(&self) -> Result<u32, RingError> {
        let tail = self
            .memory
            .load(abi::MAILBOX_TAIL_AT.into())
            .map_err(|_| RingError::Head(u32::MAX))?;
        self.check(tail)
    }

    pub(crate) fn set_tail(&self, place: u32) {
        self.memory
            .store(abi::MAILBOX_TAIL_AT.into(), place)
            .expect("the mailbox was read when it was opened, and the memory has not shrunk");
    }

    /// The place `length` bytes further.
    pub(crate) fn after(&self, place: u32, length: u32) -> u32 {
        let next = u64::from(place) + u64::from(length);
        u32::try_from(next % u64::from(self.ring_bytes)).expect("it is below the ring's length")
    }

    fn check(&self, place: u32) -> Result<u32, RingError> {
        if place < self.ring_bytes && place.is_multiple_of(abi::ENTRY_ALIGNMENT) {
            Ok(place)
        } else {
            Err(RingError::Head(place))
        }
    }
}
