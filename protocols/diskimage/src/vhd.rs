//! VHD, fixed: the disk, then a footer of one sector (Virtual Hard Disk Image Format Specification, version 1.0).

use crate::codec::{Block, derived_uuid};
use crate::layout::{Content, Layout};

/// Lays out the file of a disk.
pub(crate) fn lay_out(size: u64, identity: &[u8; 16]) -> Layout {
    let mut layout = Layout::of_disk(size);
    layout.push(FOOTER_BYTES as u64, Content::Fixed(footer(size, identity)));
    layout
}

fn footer(size: u64, identity: &[u8; 16]) -> bytes::Bytes {
    let (cylinders, heads, sectors) = geometry(size / 512);
    let mut footer = Block::zeroed(FOOTER_BYTES);
    footer.put(0, b"conectix");
    // No features but the one that is always set; version 1.0; nothing follows.
    footer.put(8, &2_u32.to_be_bytes());
    footer.put(12, &0x0001_0000_u32.to_be_bytes());
    footer.put(16, &u64::MAX.to_be_bytes());
    // By this name programs know that the size holds, and not the geometry, which cannot say every size.
    footer.put(28, b"win ");
    footer.put(32, &0x000a_0000_u32.to_be_bytes());
    footer.put(36, b"Wi2k");
    footer.put(40, &size.to_be_bytes());
    footer.put(48, &size.to_be_bytes());
    footer.put(56, &cylinders.to_be_bytes());
    footer.put(58, &[heads, sectors]);
    footer.put(60, &FIXED.to_be_bytes());
    footer.put(68, &derived_uuid(identity, PURPOSE));
    let sum: u32 = footer.bytes().iter().map(|byte| u32::from(*byte)).sum();
    footer.put(64, &(!sum).to_be_bytes());
    footer.into_bytes()
}

/// Cylinders, heads and sectors of a track, by the rule of the specification's appendix.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(65_535 * 16 * 255);
    let shape = |heads: u64, track: u64| (sectors / track / heads, heads, track);
    let (cylinders, heads, track) = if sectors >= 65_535 * 16 * 63 {
        shape(16, 255)
    } else {
        let tracks = sectors / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            shape(heads, 17)
        } else if sectors / 31 < 16 * 1024 {
            shape(16, 31)
        } else {
            shape(16, 63)
        }
    };
    let byte = |number| u8::try_from(number).unwrap_or(u8::MAX);
    let cylinders = u16::try_from(cylinders).unwrap_or(u16::MAX);
    (cylinders, byte(heads), byte(track))
}

/// What Windows and QEMU open.
pub(crate) const LIMIT_BYTES: u64 = 2040 << 30;

const FOOTER_BYTES: usize = 512;
const FIXED: u32 = 2;
const PURPOSE: u8 = 0x44;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometry_stays_below_the_size() {
        for size in [
            1_u64 << 20,
            100 << 20,
            504 << 20,
            8 << 30,
            127 << 30,
            2040 << 30,
        ] {
            let (cylinders, heads, sectors) = geometry(size / 512);
            let said = u64::from(cylinders) * u64::from(heads) * u64::from(sectors) * 512;
            assert!(said <= size && said > 0, "{size}");
        }
        // 40 MiB, as the specification's own rule gives it.
        assert_eq!(geometry(81_920), (963, 5, 17));
    }

    #[test]
    fn the_checksum_is_the_complement_of_the_sum_of_the_others() {
        let footer = footer(1 << 30, &[9; 16]);
        let stored = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = footer[64..68].iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(stored, !(sum - own));
    }
}
