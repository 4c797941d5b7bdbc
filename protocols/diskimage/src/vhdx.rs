//! VHDX, fixed (MS-VHDX 2: headers, log, regions, metadata, block allocation table).

use crate::codec::{Block, crc32c, derived_uuid, mixed_endian};
use crate::layout::{Content, Layout, Table, Value, Width};

/// Lays out the file of a disk.
pub(crate) fn lay_out(size: u64, identity: &[u8; 16]) -> Layout {
    let blocks = size.div_ceil(BLOCK_BYTES);
    // A place for a sector bitmap follows each chunk; a disk without a parent has none there.
    let entries = blocks + blocks.saturating_sub(1) / CHUNK_RATIO;
    let table_bytes = (entries * 8).next_multiple_of(MIB);
    let data_offset = TABLE_OFFSET + table_bytes;

    let mut layout = Layout::default();
    layout.push(64 * KIB, Content::Fixed(identifier()));
    // Whoever opens the disk to write says so in the headers, one after the other.
    for sequence in [1, 2] {
        layout.push(64 * KIB, Content::Scratch(header(sequence, identity)));
    }
    for _ in 0..2 {
        layout.push(64 * KIB, Content::Fixed(regions(table_bytes)));
    }
    layout.align(MIB);
    layout.push(MIB, Content::Scratch(bytes::Bytes::new()));
    layout.push(MIB, Content::Fixed(metadata(size, identity)));
    layout.push(
        table_bytes,
        Content::Table(Table {
            entries,
            width: Width::Little64,
            value: Value::StepsWithGaps {
                first: data_offset | FULLY_PRESENT,
                step: BLOCK_BYTES,
                every: CHUNK_RATIO,
            },
        }),
    );
    layout.push(size, Content::Disk(0));
    layout.push(blocks * BLOCK_BYTES - size, Content::Empty);
    layout
}

fn identifier() -> bytes::Bytes {
    let mut identifier = Block::zeroed(64 << 10);
    identifier.put(0, b"vhdxfile");
    let creator: Vec<u8> = "Holdfast"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    identifier.put(8, &creator);
    identifier.into_bytes()
}

fn header(sequence: u64, identity: &[u8; 16]) -> bytes::Bytes {
    let mut header = Block::zeroed(4 << 10);
    header.put(0, b"head");
    header.put(8, &sequence.to_le_bytes());
    header.put(16, &derived_uuid(identity, 0x51));
    header.put(32, &derived_uuid(identity, 0x52));
    // No log is waiting: its identifier at 48 is zero, as is its version at 64.
    header.put(66, &1_u16.to_le_bytes());
    header.put(68, &1_048_576_u32.to_le_bytes());
    header.put(72, &LOG_OFFSET.to_le_bytes());
    signed(header)
}

fn regions(table_bytes: u64) -> bytes::Bytes {
    let table_bytes = u32::try_from(table_bytes).unwrap_or(u32::MAX);
    let mut regions = Block::zeroed(64 << 10);
    regions.put(0, b"regi");
    regions.put(8, &2_u32.to_le_bytes());
    let found = [
        (TABLE_REGION, TABLE_OFFSET, table_bytes),
        (METADATA_REGION, METADATA_OFFSET, 1 << 20),
    ];
    for (number, (uuid, offset, length)) in found.into_iter().enumerate() {
        let at = 16 + number * 32;
        regions.put(at, &mixed_endian(uuid.to_be_bytes()));
        regions.put(at + 16, &offset.to_le_bytes());
        regions.put(at + 24, &length.to_le_bytes());
        regions.put(at + 28, &1_u32.to_le_bytes());
    }
    signed(regions)
}

fn metadata(size: u64, identity: &[u8; 16]) -> bytes::Bytes {
    let parameters = [32_u32 << 20, LEAVE_ALLOCATED]
        .map(u32::to_le_bytes)
        .concat();
    let items: [(u128, Vec<u8>, u32); 5] = [
        (FILE_PARAMETERS, parameters, REQUIRED),
        (
            DISK_SIZE,
            size.to_le_bytes().to_vec(),
            OF_THE_DISK | REQUIRED,
        ),
        (
            PAGE_83,
            derived_uuid(identity, 0x53).to_vec(),
            OF_THE_DISK | REQUIRED,
        ),
        (
            LOGICAL_SECTOR,
            512_u32.to_le_bytes().to_vec(),
            OF_THE_DISK | REQUIRED,
        ),
        (
            PHYSICAL_SECTOR,
            4096_u32.to_le_bytes().to_vec(),
            OF_THE_DISK | REQUIRED,
        ),
    ];
    let mut metadata = Block::zeroed(68 << 10);
    metadata.put(0, b"metadata");
    metadata.put(10, &5_u16.to_le_bytes());
    let mut place = 64_u32 << 10;
    for (number, (uuid, item, flags)) in items.into_iter().enumerate() {
        let at = 32 + number * 32;
        let length = u32::try_from(item.len()).unwrap_or(0);
        metadata.put(at, &mixed_endian(uuid.to_be_bytes()));
        metadata.put(at + 16, &place.to_le_bytes());
        metadata.put(at + 20, &length.to_le_bytes());
        metadata.put(at + 24, &flags.to_le_bytes());
        metadata.put(place as usize, &item);
        place += length;
    }
    metadata.into_bytes()
}

/// Puts in the checksum, which is computed with its own place zero.
fn signed(mut block: Block) -> bytes::Bytes {
    let checksum = crc32c(block.bytes());
    block.put(4, &checksum.to_le_bytes());
    block.into_bytes()
}

/// What the format takes.
pub(crate) const LIMIT_BYTES: u64 = 64 << 40;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const LOG_OFFSET: u64 = MIB;
const METADATA_OFFSET: u64 = 2 * MIB;
const TABLE_OFFSET: u64 = 3 * MIB;

/// What Hyper-V takes for a new disk.
const BLOCK_BYTES: u64 = 32 * MIB;

/// Blocks that one sector bitmap would describe: 2^23 sectors.
const CHUNK_RATIO: u64 = (1 << 23) * 512 / BLOCK_BYTES;

const FULLY_PRESENT: u64 = 6;
const LEAVE_ALLOCATED: u32 = 1;
const OF_THE_DISK: u32 = 2;
const REQUIRED: u32 = 4;

const TABLE_REGION: u128 = 0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08;
const METADATA_REGION: u128 = 0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e;
const FILE_PARAMETERS: u128 = 0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b;
const DISK_SIZE: u128 = 0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8;
const PAGE_83: u128 = 0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746;
const LOGICAL_SECTOR: u128 = 0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f;
const PHYSICAL_SECTOR: u128 = 0xcda3_48c7_445d_4471_9cc9_e988_5251_c556;
