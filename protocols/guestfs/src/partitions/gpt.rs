//! The GUID partition table (UEFI 2.10, section 5.3).

use crc_fast::crc32_iso_hdlc;

use super::{Entry, SECTOR_SIZES, Table};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// Entries of the first table whose checksums are right: the primary, else the backup at the disk's end. `None` if there
/// is no trace of one, an error if what is there is damaged beyond reading.
pub(crate) fn find(disk: &dyn Source) -> Result<Option<Table>, GuestError> {
    let mut fault = None;
    for from_end in [false, true] {
        for sector in SECTOR_SIZES {
            let sectors = disk.length_bytes() / sector;
            if sectors < 3 {
                continue;
            }
            let lba = if from_end { sectors - 1 } else { 1 };
            match read_table(disk, sector, lba) {
                Ok(None) => {}
                Ok(Some(table)) => {
                    if from_end {
                        tracing::warn!(
                            "the primary partition table is damaged, its backup is used"
                        );
                    }
                    return Ok(Some(table));
                }
                Err(error) if error.is_of_one_place() => {
                    fault.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
    }
    fault.map_or(Ok(None), Err)
}

/// The table with its header at `lba`; `None` without the signature.
fn read_table(disk: &dyn Source, sector: u64, lba: u64) -> Result<Option<Table>, GuestError> {
    let offset_bytes = lba * sector;
    let head = disk.read(offset_bytes, to_usize(sector))?.to_vec();
    let head = View::new(&head, Place::PartitionTable { offset_bytes });
    if head.slice(0, 8)? != SIGNATURE {
        return Ok(None);
    }
    let header_bytes = head.u32(12)? as usize;
    if !(92..=head.len()).contains(&header_bytes) {
        return Err(head.corrupt("the header has an impossible length"));
    }
    let mut proven = head.slice(0, header_bytes)?.to_vec();
    proven
        .get_mut(16..20)
        .expect("a header has at least 92 bytes")
        .fill(0);
    if crc32_iso_hdlc(&proven) != head.u32(16)? {
        return Err(head.corrupt("the checksum of the header is wrong"));
    }
    if head.u64(24)? != lba {
        return Err(head.corrupt("the header says that it lies elsewhere"));
    }
    let (count, size) = (head.u32(80)?, head.u32(84)?);
    if count > ENTRIES_MAX || !(128..=4096).contains(&size) || !size.is_multiple_of(8) {
        return Err(head.corrupt("the number or size of entries is out of bounds"));
    }
    let table_offset = head.u64(72)?.checked_mul(sector);
    let length = count as usize * size as usize;
    let table = table_offset
        .filter(|offset| {
            offset
                .checked_add(length as u64)
                .is_some_and(|end| end <= disk.length_bytes())
        })
        .ok_or_else(|| head.corrupt("the entries lie beyond the disk"))?;
    let alternate = head.u64(32)?.saturating_mul(sector);
    let own = vec![offset_bytes, table, table + length as u64, alternate];
    let table = disk.read(table, length)?.to_vec();
    if crc32_iso_hdlc(&table) != head.u32(88)? {
        return Err(head.corrupt("the checksum of the entries is wrong"));
    }
    let entries = table.chunks_exact(size as usize).zip(1..);
    let place = Place::PartitionTable { offset_bytes };
    let entries = entries.filter_map(|(entry, number)| {
        read_entry(View::new(entry, place), number, sector, disk.length_bytes()).transpose()
    });
    Ok(Some(Table {
        entries: entries.collect::<Result<_, _>>()?,
        own,
        is_whole: true,
    }))
}

/// One entry; `None` for a free one, or one of which nothing lies on this disk.
fn read_entry(
    entry: View<'_>,
    number: u32,
    sector: u64,
    disk_bytes: u64,
) -> Result<Option<Entry>, GuestError> {
    let kind: [u8; 16] = entry.array(0)?;
    let (first, last) = (entry.u64(32)?, entry.u64(40)?);
    if kind == [0; 16] {
        return Ok(None);
    }
    let start = first.checked_mul(sector);
    let end = last.checked_add(1).and_then(|end| end.checked_mul(sector));
    let (Some(start), Some(end)) = (start, end) else {
        return Ok(None);
    };
    if first == 0 || end <= start || start >= disk_bytes {
        return Ok(None);
    }
    let name = entry.slice(56, 72)?.chunks_exact(2).map(|unit| {
        unit.try_into()
            .map(u16::from_le_bytes)
            .expect("a chunk has two bytes")
    });
    let name: Vec<u16> = name.take_while(|unit| *unit != 0).collect();
    let name = String::from_utf16_lossy(&name).trim().to_owned();
    Ok(Some(Entry {
        number,
        offset_bytes: start,
        length_bytes: end.min(disk_bytes) - start,
        kind: kind_name(&kind),
        label: (!name.is_empty()).then_some(name),
    }))
}

fn kind_name(kind: &[u8; 16]) -> String {
    let text = guid_text(kind);
    let known = KINDS.iter().find(|(guid, _)| *guid == text);
    known.map_or(text, |(_, name)| (*name).to_owned())
}

/// A GUID as people write it; its first three parts lie in little-endian order.
fn guid_text(guid: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *guid;
    let first = u32::from_le_bytes([a, b, c, d]);
    let (second, third) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    let rest = u64::from_be_bytes(rest);
    let (fourth, fifth) = (rest >> 48, rest & 0xFFFF_FFFF_FFFF);
    format!("{first:08x}-{second:04x}-{third:04x}-{fourth:04x}-{fifth:012x}")
}

const SIGNATURE: &[u8] = b"EFI PART";
const ENTRIES_MAX: u32 = 1024;

const KINDS: &[(&str, &str)] = &[
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux filesystem"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux boot"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "Linux LUKS"),
    (
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
        "Microsoft basic data",
    ),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
    (
        "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
        "Windows LDM metadata",
    ),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Windows LDM data"),
];
