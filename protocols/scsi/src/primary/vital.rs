//! Vital product data (SPC-4, 7.8; SBC-3, 6.6).

use crate::block::{
    COMPARE_BLOCKS_MAX, TRANSFER_BYTES_MAX, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX,
    WRITE_SAME_BLOCKS_MAX, atomic_blocks_max,
};
use crate::copy::third_party_copy_page;
use crate::nexus::Call;
use crate::unit::LogicalUnit;
use crate::wire;

/// The page `code`, complete; `None` if there is none.
pub(crate) fn page(call: &Call<'_>, code: u8) -> Option<Vec<u8>> {
    let content = match code {
        0x00 => PAGES.to_vec(),
        0x80 => serial_number(call.unit).into_bytes(),
        0x83 => identification(call),
        0x86 => extended(),
        0x8f => third_party_copy_page(call.unit),
        0xb0 => limits(call.unit),
        0xb1 => characteristics(call.unit),
        0xb2 => provisioning(),
        _ => return None,
    };
    let mut page = vec![0x00, code];
    page.extend_from_slice(&wire::to_u16(content.len()).to_be_bytes());
    page.extend_from_slice(&content);
    Some(page)
}

/// The pages there are.
const PAGES: [u8; 8] = [0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2];

/// The unit's identity in hexadecimal.
fn serial_number(unit: &LogicalUnit) -> String {
    unit.identity
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Device Identification: of the unit, of the port that was used, and of the target.
fn identification(call: &Call<'_>) -> Vec<u8> {
    let mut page = Vec::new();
    let unit = call.unit;
    descriptor(&mut page, BINARY, UNIT | 0x03, &naa(unit.identity));
    let mut vendor = wire::ascii::<8>(&unit.options.vendor).to_vec();
    vendor.extend_from_slice(&wire::ascii::<16>(&unit.options.product));
    vendor.extend_from_slice(serial_number(unit).as_bytes());
    descriptor(&mut page, ASCII, UNIT | 0x01, &vendor);
    if !call.target.has_ports() {
        return page;
    }
    let [high, low] = call.nexus.name.target_port.to_be_bytes();
    descriptor(&mut page, BINARY, PORT | 0x04, &[0, 0, high, low]);
    descriptor(&mut page, BINARY, PORT | 0x05, &[0, 0, 0, PORT_GROUP]);
    let identity = call.target.identity();
    let port = identity
        .ports
        .iter()
        .find(|port| port.relative_id == call.nexus.name.target_port);
    if let Some(port) = port {
        descriptor(&mut page, ISCSI_NAME, PORT | 0x08, &name(&port.name));
    }
    descriptor(&mut page, ISCSI_NAME, TARGET | 0x08, &name(&identity.name));
    page
}

/// The one target port group.
pub(crate) const PORT_GROUP: u8 = 1;

const BINARY: u8 = 0x01;
const ASCII: u8 = 0x02;
/// Protocol identifier iSCSI, UTF-8.
const ISCSI_NAME: u8 = 0x53;
const UNIT: u8 = 0x00;
/// PIV, association with a target port. The protocol is told where the name is.
const PORT: u8 = 0x10;
const TARGET: u8 = 0x20;

fn descriptor(page: &mut Vec<u8>, set: u8, kind: u8, content: &[u8]) {
    let valid = if set & 0xf0 != 0 { 0x80 } else { 0 };
    page.extend_from_slice(&[set, kind | valid, 0, wire::to_u8(content.len())]);
    page.extend_from_slice(content);
}

/// A SCSI name string: ends in at least one zero, and at a multiple of four.
fn name(text: &str) -> Vec<u8> {
    let mut name: Vec<u8> = text.bytes().take(NAME_BYTES_MAX).collect();
    let length = (name.len() + 1).next_multiple_of(4);
    name.resize(length, 0);
    name
}

/// An iSCSI name has 223 bytes at most, a port name eight more and a tag.
const NAME_BYTES_MAX: usize = 239;

/// The unit's name: NAA 6 with a company identifier that IEEE has set apart for local use, and the identity folded into
/// the 100 bits behind it.
pub(crate) fn naa(identity: [u8; 16]) -> [u8; 16] {
    let identity = u128::from_be_bytes(identity);
    let folded = (identity & ((1 << 100) - 1)) ^ (identity >> 100);
    ((6 << 124) | (LOCAL_COMPANY << 100) | folded).to_be_bytes()
}

/// The second least bit of the first byte says that nobody owns it.
const LOCAL_COMPANY: u128 = 0x02_48_46;

/// Extended INQUIRY Data.
fn extended() -> Vec<u8> {
    let mut page = vec![0; 60];
    // SIMPSUP: task attributes beyond SIMPLE are not told apart here. V_SUP: a volatile cache.
    wire::put(&mut page, 1, &[0x01, 0x01]);
    page
}

/// Block Limits.
fn limits(unit: &LogicalUnit) -> Vec<u8> {
    let block = unit.geometry.block_bytes;
    let physical = 1_u32 << unit.geometry.physical_exponent;
    let mut page = vec![0; 60];
    // WSNZ: WRITE SAME of no blocks is refused, not done to the end.
    wire::put(&mut page, 0, &[0x01, COMPARE_BLOCKS_MAX]);
    let granularity = u16::try_from(unit.geometry.preferred_blocks).unwrap_or(u16::MAX);
    wire::put(&mut page, 2, &granularity.to_be_bytes());
    wire::put(&mut page, 4, &(TRANSFER_BYTES_MAX / block).to_be_bytes());
    wire::put(&mut page, 8, &(OPTIMAL_BYTES / block).to_be_bytes());
    wire::put(&mut page, 16, &UNMAP_BLOCKS_MAX.to_be_bytes());
    wire::put(&mut page, 20, &UNMAP_DESCRIPTORS_MAX.to_be_bytes());
    wire::put(&mut page, 24, &physical.to_be_bytes());
    // UGAVALID, aligned to the first block.
    wire::put(&mut page, 28, &0x8000_0000_u32.to_be_bytes());
    let same_blocks = u64::from(WRITE_SAME_BLOCKS_MAX);
    wire::put(&mut page, 32, &same_blocks.to_be_bytes());
    wire::put(&mut page, 40, &atomic_blocks_max(unit).to_be_bytes());
    page
}

const OPTIMAL_BYTES: u32 = 1 << 20;

/// Block Device Characteristics: it does not rotate.
fn characteristics(unit: &LogicalUnit) -> Vec<u8> {
    let mut page = vec![0; 60];
    wire::put(&mut page, 0, &[0, 1]);
    if unit.options.sanitize {
        // WABEREQ: what is erased can be read.
        wire::put(&mut page, 3, &[0x40]);
    }
    page
}

/// Logical Block Provisioning: thin, and what is given back reads as zeroes.
fn provisioning() -> Vec<u8> {
    // LBPU, LBPWS, LBPWS10: UNMAP and both WRITE SAME give back; LBPRZ; ANC_SUP.
    vec![0, 0xe6, 0x02, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_where_identities_do() {
        let one = naa([7; 16]);
        assert_eq!(one[..4], [0x60, 0x24, 0x84, 0x60 | 7]);
        for at in 0..16 {
            for bit in 0..8 {
                let mut other = [7; 16];
                other[at] ^= 1 << bit;
                assert_ne!(naa(other), one, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn name_strings_end_in_zeroes_at_four_bytes() {
        assert_eq!(name("abc"), b"abc\0");
        assert_eq!(name("abcd"), b"abcd\0\0\0\0");
        assert_eq!(name(&"a".repeat(500)).len(), 240);
    }
}
