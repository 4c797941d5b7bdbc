//! Tables of partitions, and what is recognized.

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use export::{BlockExport, Durability, ExportError, MemoryDisk, Segments};
use guestfs::{Content, GuestError, Leavable, Source, Volume, gaps, open, open_source};
use tempfile::tempdir;

use crate::ext::programs::mke2fs;
use crate::image::have;

const SIZE: u64 = 64 << 20;

/// Bytes of a disk, written where they belong.
struct Made {
    bytes: Vec<u8>,
    sector: usize,
}

impl Made {
    fn new(sector: usize) -> Self {
        let bytes = vec![0; usize::try_from(SIZE).unwrap()];
        Self { bytes, sector }
    }

    fn put(&mut self, at: usize, content: &[u8]) {
        self.bytes[at..at + content.len()].copy_from_slice(content);
    }

    /// A line of an MBR or EBR that lies in sector `table`.
    fn line(&mut self, table: usize, number: usize, kind: u8, start: u32, count: u32) {
        let base = table * self.sector;
        let at = base + 446 + number * 16;
        self.bytes[at + 4] = kind;
        self.put(at + 8, &start.to_le_bytes());
        self.put(at + 12, &count.to_le_bytes());
        self.put(base + 510, &[0x55, 0xAA]);
    }

    /// Both GPTs with partitions of `(first, last)` sector, one name for all.
    fn gpt(&mut self, partitions: &[(u64, u64)]) {
        let sectors = SIZE / self.sector as u64;
        let mut entries = vec![0; 128 * 128];
        for (number, (first, last)) in partitions.iter().enumerate() {
            let entry = &mut entries[number * 128..][..128];
            // The type of Linux filesystems.
            entry[..16].copy_from_slice(&[
                0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84, 0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69, 0xD8, 0x47,
                0x7D, 0xE4,
            ]);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            for (at, unit) in "größe".encode_utf16().enumerate() {
                entry[56 + at * 2..58 + at * 2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let table_sectors = (entries.len() / self.sector) as u64;
        let places = [(1, 2), (sectors - 1, sectors - 1 - table_sectors)];
        for (own, table) in places {
            let mut head = vec![0; 92];
            head[..8].copy_from_slice(b"EFI PART");
            head[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
            head[24..32].copy_from_slice(&own.to_le_bytes());
            head[72..80].copy_from_slice(&table.to_le_bytes());
            head[80..88].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
            head[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
            let checksum = crc32(&head);
            head[16..20].copy_from_slice(&checksum.to_le_bytes());
            let at = |sector: u64| usize::try_from(sector).unwrap() * self.sector;
            let (own, table) = (at(own), at(table));
            self.put(own, &head);
            self.put(table, &entries);
        }
        self.line(0, 0, 0xEE, 1, u32::MAX);
    }

    fn open(&self) -> Result<Vec<Volume>, GuestError> {
        let disk = MemoryDisk::new(SIZE);
        let data = [Bytes::from(self.bytes.clone())];
        disk.write(0, &data, Durability::Unstable).unwrap();
        let disk: Arc<dyn BlockExport> = Arc::new(disk);
        open(disk)
    }

    /// Gaps, in MiB.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let disk = MemoryDisk::new(SIZE);
        let data = [Bytes::from(self.bytes.clone())];
        disk.write(0, &data, Durability::Unstable).unwrap();
        let disk: Arc<dyn Source> = Arc::new(guestfs::Disk::new(Arc::new(disk)));
        let gaps = gaps(&disk).unwrap().into_iter();
        gaps.map(|gap| (gap.start >> 20, gap.end >> 20)).collect()
    }

    /// Name, place and content of all volumes.
    fn found(&self) -> Vec<(String, u64, u64, Content)> {
        let describe = |volume: Volume| {
            let sector = self.sector as u64;
            let (start, length) = (volume.offset_bytes / sector, volume.length_bytes / sector);
            (volume.name, start, length, volume.content)
        };
        self.open().unwrap().into_iter().map(describe).collect()
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| {
            state >> 1 ^ if state & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

#[test]
fn gpt_is_read_from_either_end() {
    for sector in [512, 4096] {
        let mut made = Made::new(sector);
        made.gpt(&[(100, 199), (300, 999)]);
        made.put(300 * sector, b"XFSB");
        let expected = [
            ("p1".to_owned(), 100, 100, Content::Unknown),
            ("p2".to_owned(), 300, 700, Content::Xfs),
        ];
        assert_eq!(made.found(), expected, "sectors of {sector}");
        let partition = made.open().unwrap().remove(0).partition.unwrap();
        assert_eq!(partition.kind, "Linux filesystem");
        assert_eq!(partition.label.as_deref(), Some("größe"));
        // The head, then the entries of the primary are hurt.
        for hurt in [sector + 30, sector * 2 + 40] {
            let before = made.bytes[hurt];
            made.bytes[hurt] ^= 1;
            assert_eq!(
                made.found(),
                expected,
                "byte {hurt} hurt, sectors of {sector}"
            );
            made.bytes[hurt] = before;
        }
        made.bytes[sector + 30] ^= 1;
        let backup = made.bytes.len() - sector;
        made.bytes[backup + 30] ^= 1;
        let error = made.open().unwrap_err().to_string();
        assert!(error.contains("partition table"), "{error}");
    }
}

#[test]
fn logical_partitions_are_followed_as_far_as_they_go() {
    let mut made = Made::new(512);
    made.line(0, 0, 0x83, 2048, 1000);
    made.line(0, 1, 0x05, 10_000, 50_000);
    made.line(10_000, 0, 0x83, 63, 500);
    made.line(10_000, 1, 0x05, 1000, 600);
    made.line(11_000, 0, 0x82, 63, 300);
    made.put((11_063 * 512) + 4086, b"SWAPSPACE2");
    let expected = [
        ("p1".to_owned(), 2048, 1000, Content::Unknown),
        ("p5".to_owned(), 10_063, 500, Content::Unknown),
        ("p6".to_owned(), 11_063, 300, Content::Swap),
    ];
    assert_eq!(made.found(), expected);
    // A chain that bites its tail.
    made.line(11_000, 1, 0x05, 1000, 600);
    assert_eq!(made.found(), expected);
    made.line(11_000, 1, 0x05, u32::MAX, 600);
    assert_eq!(made.found(), expected);
}

#[test]
fn an_mbr_may_count_in_sectors_of_four_kibibytes() {
    let mut made = Made::new(4096);
    made.line(0, 0, 0x83, 256, 1000);
    made.put(256 * 4096, b"XFSB");
    assert_eq!(made.found(), [("p1".to_owned(), 256, 1000, Content::Xfs)]);
}

/// A disk of which some bytes are lost.
struct Torn {
    bytes: Vec<u8>,
    lost: Range<u64>,
}

impl Source for Torn {
    fn length_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        if offset < self.lost.end && offset + length as u64 > self.lost.start {
            return Err(GuestError::Disk {
                offset,
                length,
                source: ExportError::Corrupt {
                    detail: "a chunk is lost".into(),
                },
            });
        }
        let start = usize::try_from(offset).unwrap();
        Ok(Bytes::copy_from_slice(&self.bytes[start..start + length]).into())
    }
}

#[test]
fn what_is_lost_does_not_hide_the_rest() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    for number in 0..300 {
        fs::write(source.join(format!("file {number}")), "content").unwrap();
    }
    let image = home.path().join("image");
    mke2fs(&image, "16M", Some(&source), &["-t", "ext4", "-b", "1024"]);
    let mut made = Made::new(512);
    made.gpt(&[(100, 199), (2048, 40_000)]);
    let image = fs::read(&image).unwrap();
    made.put(2048 * 512, &image);
    let open = |lost: Range<u64>| {
        let bytes = made.bytes.clone();
        open_source(Arc::new(Torn { bytes, lost })).unwrap()
    };
    let names = |volume: &Volume| {
        let tree = volume.files().unwrap();
        let listed = tree.list(tree.root(), 0, 1000).unwrap();
        let sound = listed.iter().filter(|entry| entry.attributes.mode != 0);
        (listed.len(), sound.count())
    };
    let whole = open(0..0);
    assert_eq!(whole[1].content, Content::Ext4);
    assert_eq!(names(&whole[1]), (301, 301), "with lost+found");
    // The first volume, then the primary table.
    let without_first = open(100 * 512..120 * 512);
    assert_eq!(without_first[0].content, Content::Unreadable);
    assert_eq!(names(&without_first[1]), (301, 301));
    assert_eq!(names(&open(512..2048)[1]), (301, 301));
    // Four inodes lie in a block.
    let places = 0..image.len() / 1024;
    let table = places
        .filter(|block| {
            let mode = &image[block * 1024..][..2];
            // The first of four regular files in a block that begins like an inode of mke2fs -d.
            mode == [0xA4, 0x81] && image[block * 1024 + 256..][..2] == [0xA4, 0x81]
        })
        .nth(5)
        .unwrap();
    let lost = 2048 * 512 + table as u64 * 1024;
    assert_eq!(names(&open(lost..lost + 1024)[1]), (301, 297));
}

const BCACHE: &[u8] = b"\xC6\x85\x73\xF6\x4E\x1A\x45\xCA\x82\x65\xF5\x7F\x48\xBA\x6D\x81";

#[test]
fn content_is_named_or_unknown() {
    let fat = {
        let mut sector = vec![0; 512];
        sector[..11].copy_from_slice(b"\xEB\x3C\x90mkfs.fat");
        sector[11..17].copy_from_slice(&[0, 2, 4, 1, 0, 2]);
        sector[21..24].copy_from_slice(&[0xF8, 32, 0]);
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        sector
    };
    let mut lvm = vec![0; 512];
    lvm[..8].copy_from_slice(b"LABELONE");
    lvm[24..32].copy_from_slice(b"LVM2 001");
    let end = usize::try_from(SIZE).unwrap();
    let cases: &[(usize, &[u8], Content)] = &[
        (0, b"XFSB", Content::Xfs),
        (3, b"NTFS    ", Content::Ntfs),
        (3, b"EXFAT   ", Content::ExFat),
        (3, b"ReFS\0\0\0\0", Content::ReFs),
        (3, b"-FVE-FS-", Content::BitLocker),
        (0, b"LUKS\xBA\xBE\0\x02", Content::Luks),
        (65600, b"_BHRfS_M", Content::Btrfs),
        (32769, b"CD001", Content::Iso9660),
        (4086, b"SWAPSPACE2", Content::Swap),
        (65526, b"SWAPSPACE2", Content::Swap),
        (512, &lvm, Content::Lvm2),
        (4096, &[0xFC, 0x4E, 0x2B, 0xA9], Content::Md),
        (4120, BCACHE, Content::Bcache),
        (135 << 10, &[0x0C, 0xB1, 0xBA, 0, 0, 0, 0, 0], Content::Zfs),
        (200 << 10, &[0, 0, 0, 0, 0, 0xBA, 0xB1, 0x0C], Content::Zfs),
        (end - 8192, &[0xFC, 0x4E, 0x2B, 0xA9], Content::Md),
        (end - 65536, &[0xFC, 0x4E, 0x2B, 0xA9], Content::Md),
        (0, &fat, Content::Fat),
        (0, b"nothing", Content::Unknown),
    ];
    for (at, magic, content) in cases {
        let mut made = Made::new(512);
        made.put(*at, magic);
        let volumes = made.open().unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!(volumes[0].content, *content, "{}", content.name());
        let error = volumes[0].files().err().unwrap().to_string();
        // Those that have a reader have nothing else than the magic number for it.
        let said = [content.name(), "damaged"];
        assert!(said.iter().any(|said| error.contains(said)), "{error}");
    }
}

#[test]
fn gaps_are_what_no_table_and_no_partition_has() {
    const MIB: u64 = 1 << 20;
    for sector in [512, 4096] {
        let unit = MIB / sector as u64;
        let mut made = Made::new(sector);
        made.gpt(&[(2 * unit, 10 * unit - 1), (20 * unit, 30 * unit - 1)]);
        assert_eq!(made.gaps(), [(1, 2), (10, 20), (30, 63)]);
        // The primary is hurt: the backup says the same, and what is before it stays too.
        made.put(sector + 16, b"hurt");
        assert_eq!(made.gaps(), [(1, 2), (10, 20), (30, 62)]);
    }
    // An MBR with logical partitions: the chain's sectors lie between them.
    let mut made = Made::new(512);
    made.line(0, 0, 0x83, 4096, 4096);
    made.line(0, 1, 0x05, 20 * 2048, 40 * 2048);
    made.line(20 * 2048, 0, 0x83, 4096, 2048);
    made.line(20 * 2048, 1, 0x05, 20 * 2048, 4096);
    made.line(40 * 2048, 0, 0x83, 2048, 2048);
    made.put(4096 * 512, b"XFSB");
    assert_eq!(made.gaps(), [(1, 2), (4, 19), (21, 22), (23, 39), (42, 63)]);
    // Where the chain breaks, nobody knows what follows.
    made.put(40 * 2048 * 512 + 510, &[0, 0]);
    assert_eq!(made.gaps(), []);
    // Nothing tells whether it counts in the one unit or in the other: both are kept.
    let mut made = Made::new(512);
    made.line(0, 0, 0x83, 4096, 4096);
    assert_eq!(made.gaps(), [(1, 2), (4, 16), (32, 63)]);
    // A member of an array of which the table is, by the firmware's mark or by Linux'.
    let mut marked = Made::new(512);
    marked.line(0, 0, 0x83, 4096, 4096);
    marked.put(
        usize::try_from(SIZE).unwrap() - 1024,
        b"Intel Raid ISM Cfg Sig. 1.3.00",
    );
    assert_eq!(marked.gaps(), []);
    // A filesystem on the whole disk, and nothing at all.
    let mut made = Made::new(512);
    made.put(3, b"NTFS    ");
    made.line(0, 0, 0x83, 4096, 4096);
    assert_eq!(made.gaps(), []);
    assert_eq!(Made::new(512).gaps(), []);
}

#[test]
fn swap_need_not_be_kept_but_for_its_first_page() {
    let mut made = Made::new(512);
    made.put(4096 - 10, b"SWAPSPACE2");
    let volume = made.open().unwrap().remove(0);
    assert_eq!(volume.content, Content::Swap);
    assert_eq!(volume.leavable().unwrap(), [(Leavable::Swap, 4096..SIZE)]);
    let volume = Made::new(512).open().unwrap().remove(0);
    assert_eq!(volume.leavable().unwrap(), []);
}
