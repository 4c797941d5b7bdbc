//! Images by their bytes, to make what no program makes.

use std::fs;
use std::path::Path;

/// The bytes of an image of FAT12, FAT16 or FAT32.
pub(crate) struct Raw {
    pub bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn read(image: &Path) -> Self {
        Self {
            bytes: fs::read(image).unwrap(),
        }
    }

    fn u16(&self, at: usize) -> usize {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap()).into()
    }

    fn sector(&self) -> usize {
        self.u16(11)
    }

    fn table_bytes(&self) -> usize {
        let sectors = match self.u16(22) {
            0 => self.u16(36),
            few => few,
        };
        sectors * self.sector()
    }

    pub(crate) fn cluster_bytes(&self) -> usize {
        usize::from(self.bytes[13]) * self.sector()
    }

    pub(crate) fn cluster_at(&self, cluster: usize) -> usize {
        let tables = usize::from(self.bytes[16]) * self.table_bytes();
        let root = (self.u16(17) * 32).next_multiple_of(self.sector());
        let first = self.u16(14) * self.sector() + tables + root;
        first + (cluster - 2) * self.cluster_bytes()
    }

    /// Where the entry with a stored name lies.
    pub(crate) fn entry(&self, stored: &[u8; 11]) -> usize {
        let mut found = self.bytes.chunks_exact(32).enumerate();
        let (slot, _) = found
            .find(|(_, entry)| entry.starts_with(stored) && entry[11] & 8 == 0)
            .unwrap();
        slot * 32
    }

    pub(crate) fn first_cluster(&self, stored: &[u8; 11]) -> usize {
        let entry = self.entry(stored);
        self.u16(entry + 26) | self.u16(entry + 20) << 16
    }

    /// Sets an entry of one of the tables of FAT16.
    pub(crate) fn link(&mut self, table: usize, cluster: usize, value: u16) {
        let at = self.u16(14) * self.sector() + table * self.table_bytes() + cluster * 2;
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn linked(&self, cluster: usize) -> u16 {
        let at = self.u16(14) * self.sector() + cluster * 2;
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap())
    }
}

/// The entries of a file that begins with `cluster`: its long name, and a short one made of `number`.
pub(crate) fn entries(name: &str, number: u32, cluster: u16, size: u32) -> Vec<u8> {
    let short: [u8; 11] = format!("{number:07}~TXT").into_bytes().try_into().unwrap();
    let sum = short
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let parts = units.len().div_ceil(13);
    if !units.len().is_multiple_of(13) {
        units.push(0);
    }
    units.resize(parts * 13, 0xFFFF);
    let mut bytes = Vec::new();
    for part in (1..=parts).rev() {
        let last = if part == parts { 0x40 } else { 0 };
        let mut entry = [0; 32];
        entry[0] = u8::try_from(part).unwrap() | last;
        entry[11] = 0x0F;
        entry[13] = sum;
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        for (unit, at) in units[(part - 1) * 13..].iter().zip(places) {
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        bytes.extend(entry);
    }
    bytes.extend(short_entry(&short, 0x20, cluster, size));
    bytes
}

pub(crate) fn short_entry(stored: &[u8; 11], attributes: u8, cluster: u16, size: u32) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(stored);
    entry[11] = attributes;
    entry[24..26].copy_from_slice(&0x5A21_u16.to_le_bytes());
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..32].copy_from_slice(&size.to_le_bytes());
    entry
}
