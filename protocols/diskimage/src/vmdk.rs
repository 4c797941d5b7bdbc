//! VMDK: a hosted sparse extent with all grains allocated, and the descriptor of a flat disk (Virtual Disk Format 5.0).

use crate::codec::Block;
use crate::layout::{Content, Layout, Table, Value, Width};

/// Lays out a `monolithicSparse` file: header, descriptor, two grain directories with their tables, grains.
pub(crate) fn lay_out(size: u64, identity: &[u8; 16], file_name: &str) -> Layout {
    let sectors = size / SECTOR;
    let grains = sectors.div_ceil(GRAIN_SECTORS);
    let tables = grains.div_ceil(TABLE_ENTRIES);
    let directory = (tables * 4).div_ceil(SECTOR);
    let tables_sectors = tables * TABLE_SECTORS;
    let first_directory = 1 + DESCRIPTOR_SECTORS;
    let second_directory = first_directory + directory + tables_sectors;
    let data = (second_directory + directory + tables_sectors).next_multiple_of(GRAIN_SECTORS);

    let mut header = Block::zeroed(512);
    header.put(0, b"KDMV");
    header.put(4, &1_u32.to_le_bytes());
    header.put(8, &(NEWLINES_VALID | TWO_DIRECTORIES).to_le_bytes());
    header.put(12, &sectors.to_le_bytes());
    header.put(20, &GRAIN_SECTORS.to_le_bytes());
    header.put(28, &1_u64.to_le_bytes());
    header.put(36, &DESCRIPTOR_SECTORS.to_le_bytes());
    header.put(44, &512_u32.to_le_bytes());
    header.put(48, &first_directory.to_le_bytes());
    header.put(56, &second_directory.to_le_bytes());
    header.put(64, &data.to_le_bytes());
    header.put(73, b"\n \r\n");

    let extent = format!("RW {sectors} SPARSE \"{}\"", quotable(file_name));
    let descriptor = descriptor("monolithicSparse", &extent, sectors, identity);
    let mut layout = Layout::default();
    layout.push(SECTOR, Content::Fixed(header.into_bytes()));
    // Whoever opens the disk to write gives it a new content number.
    layout.push(
        DESCRIPTOR_SECTORS * SECTOR,
        Content::Scratch(descriptor.into()),
    );
    for start in [first_directory, second_directory] {
        layout.push(
            directory * SECTOR,
            steps(tables, start + directory, TABLE_SECTORS),
        );
        layout.push(tables_sectors * SECTOR, steps(grains, data, GRAIN_SECTORS));
    }
    layout.align(GRAIN_SECTORS * SECTOR);
    layout.push(size, Content::Disk(0));
    layout.align(GRAIN_SECTORS * SECTOR);
    layout
}

fn steps(entries: u64, first: u64, step: u64) -> Content {
    Content::Table(Table {
        entries,
        width: Width::Little32,
        value: Value::Steps { first, step },
    })
}

/// The descriptor of a disk whose bytes are in the file `flat_name` beside it, as ESXi and QEMU read it. A small text
/// file that whoever opens the disk may change.
pub fn flat_descriptor(flat_name: &str, size_bytes: u64, identity: &[u8; 16]) -> String {
    let sectors = size_bytes / SECTOR;
    let extent = format!("RW {sectors} VMFS \"{}\"", quotable(flat_name));
    descriptor("vmfs", &extent, sectors, identity)
}

fn descriptor(kind: &str, extent: &str, sectors: u64, identity: &[u8; 16]) -> String {
    let cylinders = (sectors / (255 * 63)).max(1);
    let content = identity
        .iter()
        .fold(0x1505_u32, |sum, byte| {
            sum.wrapping_mul(33) ^ u32::from(*byte)
        })
        // What has all bits set says that there is no content.
        .min(0xffff_fffd);
    let pairs: Vec<String> = identity.iter().map(|byte| format!("{byte:02x}")).collect();
    let long = pairs.concat();
    let (first, second) = pairs.split_at(pairs.len() / 2);
    let uuid = format!("{}-{}", first.join(" "), second.join(" "));
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={content:08x}\nparentCID=ffffffff\n\
         createType=\"{kind}\"\n\n# Extent description\n{extent}\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.longContentID = \"{long}\"\nddb.uuid = \"{uuid}\"\n\
         ddb.virtualHWVersion = \"8\"\n"
    )
}

/// The descriptor has no way to write a quotation mark or a line end.
fn quotable(name: &str) -> String {
    name.chars()
        .map(|character| match character {
            '"' | '\n' | '\r' => '_',
            other => other,
        })
        .collect()
}

/// Sectors are counted with 32 bits, those of the tables among them. A round number below that.
pub(crate) const LIMIT_BYTES: u64 = 2047 << 30;

const SECTOR: u64 = 512;
const GRAIN_SECTORS: u64 = 128;
const TABLE_ENTRIES: u64 = 512;
const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;
const DESCRIPTOR_SECTORS: u64 = 20;
const NEWLINES_VALID: u32 = 1;
const TWO_DIRECTORIES: u32 = 2;
