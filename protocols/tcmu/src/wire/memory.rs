//! Memory that the kernel writes to while we look at it.
//!
//! Every access is volatile and within bounds: what was read once is never read again to be believed.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _, VolatileSlice};

/// Memory that is shared with the kernel.
pub struct SharedMemory {
    region: MmapRegion,
}

/// A place that is not in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfBounds;

type Access<T> = Result<T, OutOfBounds>;

impl SharedMemory {
    /// Maps `length` bytes of a device.
    ///
    /// # Errors
    /// If the device cannot be mapped so far.
    pub fn map(device: Arc<File>, length: usize) -> io::Result<Self> {
        let region = MmapRegion::from_file(FileOffset::from_arc(device, 0), length);
        region
            .map(|region| Self { region })
            .map_err(io::Error::other)
    }

    /// Memory that no kernel has, for whoever plays the kernel in the same process.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn anonymous(length: usize) -> io::Result<Self> {
        MmapRegion::new(length)
            .map(|region| Self { region })
            .map_err(io::Error::other)
    }

    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.region.size() as u64
    }

    /// Copies bytes out; `false` if they are not all there.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> bool {
        self.copy_out(at, bytes).is_ok()
    }

    /// Copies bytes in; `false` if there is no room for all.
    pub fn write(&self, at: u64, bytes: &[u8]) -> bool {
        self.copy_in(at, bytes).is_ok()
    }

    pub(crate) fn copy_out(&self, at: u64, bytes: &mut [u8]) -> Access<()> {
        let slice = self.slice(at, bytes.len() as u64)?;
        let copied = slice.copy_to(bytes);
        if copied == bytes.len() {
            Ok(())
        } else {
            Err(OutOfBounds)
        }
    }

    pub(crate) fn copy_in(&self, at: u64, bytes: &[u8]) -> Access<()> {
        self.slice(at, bytes.len() as u64)?.copy_from(bytes);
        Ok(())
    }

    pub(crate) fn fill_with_zeroes(&self, at: u64, length: u64) -> Access<()> {
        let mut done = 0;
        while done < length {
            let step = (length - done).min(ZEROES.len() as u64);
            let zeroes = usize::try_from(step)
                .ok()
                .and_then(|step| ZEROES.get(..step));
            self.copy_in(at + done, zeroes.unwrap_or_default())?;
            done += step;
        }
        Ok(())
    }

    pub(crate) fn u8(&self, at: u64) -> Access<u8> {
        let mut bytes = [0; 1];
        self.copy_out(at, &mut bytes)?;
        Ok(u8::from_ne_bytes(bytes))
    }

    pub(crate) fn u16(&self, at: u64) -> Access<u16> {
        let mut bytes = [0; 2];
        self.copy_out(at, &mut bytes)?;
        Ok(u16::from_ne_bytes(bytes))
    }

    pub(crate) fn u32(&self, at: u64) -> Access<u32> {
        let mut bytes = [0; 4];
        self.copy_out(at, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    pub(crate) fn u64(&self, at: u64) -> Access<u64> {
        let mut bytes = [0; 8];
        self.copy_out(at, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Reads a place that the kernel moves: all that it wrote before is seen afterwards.
    pub(crate) fn load(&self, at: u64) -> Access<u32> {
        let slice = self.slice(at, 4)?;
        slice.load(0, Ordering::Acquire).map_err(|_| OutOfBounds)
    }

    /// Moves a place that the kernel looks at: all that was written before is seen by it then.
    pub(crate) fn store(&self, at: u64, value: u32) -> Access<()> {
        let slice = self.slice(at, 4)?;
        slice
            .store(value, 0, Ordering::Release)
            .map_err(|_| OutOfBounds)
    }

    fn slice(&self, at: u64, length: u64) -> Access<VolatileSlice<'_>> {
        let at = usize::try_from(at).map_err(|_| OutOfBounds)?;
        let length = usize::try_from(length).map_err(|_| OutOfBounds)?;
        self.region.get_slice(at, length).map_err(|_| OutOfBounds)
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SharedMemory")
            .field("length", &self.length())
            .finish_non_exhaustive()
    }
}

static ZEROES: [u8; 4096] = [0; 4096];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_touched() {
        let memory = SharedMemory::anonymous(8192).unwrap();
        assert!(memory.write(8190, b"ab") && !memory.write(8191, b"ab"));
        assert!(!memory.write(u64::MAX, b"a") && !memory.write(u64::MAX - 1, b"ab"));
        assert_eq!(memory.u16(8190), Ok(u16::from_ne_bytes(*b"ab")));
        assert_eq!(memory.u32(8189), Err(OutOfBounds));
        assert_eq!(memory.load(8190), Err(OutOfBounds));
        assert_eq!(memory.fill_with_zeroes(100, 8093), Err(OutOfBounds));
        assert_eq!(memory.fill_with_zeroes(100, 8092), Ok(()));
        assert_eq!(memory.u16(8190), Ok(0));
    }
}
