//! Arrays that are made here, with parity computed by definition, and the states that members can be in.

use std::fs;
use std::sync::Arc;

use guestfs::{Content, DiskSet, Source, open_sources};
use tempfile::tempdir;

use super::fixtures::{Buffer, Case, content_of, error_of, find, hash_of};
use crate::ext::programs::mke2fs;
use crate::image::have;

/// Where the data of members begin that are made here.
const DATA_AT: usize = 16 << 10;

/// An array to be made: level, layout, chunk, members.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) level: i32,
    pub(super) layout: u32,
    pub(super) chunk: usize,
    pub(super) members: usize,
}

impl Made {
    /// The members of an array with `content`, of which some may be left over at the end.
    pub(super) fn members_of(&self, content: &[u8]) -> Vec<Vec<u8>> {
        let Self { chunk, members, .. } = *self;
        let chunks: Vec<Vec<u8>> = content
            .chunks(chunk)
            .map(|piece| {
                let mut piece = piece.to_vec();
                piece.resize(chunk, 0);
                piece
            })
            .collect();
        let data = match self.level {
            0 | 5 | 6 => self.rows(&chunks),
            10 => self.copies(&chunks),
            _ => vec![chunks.concat(); members],
        };
        let used = data.iter().map(Vec::len).max().unwrap();
        let disks = data.into_iter().enumerate();
        disks
            .map(|(number, data)| {
                let mut disk = vec![0; DATA_AT];
                disk[4096..8192].copy_from_slice(&self.superblock(number, used));
                disk.extend(data);
                disk.resize(DATA_AT + used, 0);
                disk
            })
            .collect()
    }

    /// Rows with parity in the places of the left-symmetric layout.
    fn rows(&self, chunks: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let parities = match self.level {
            0 => 0,
            5 => 1,
            _ => 2,
        };
        let count = self.members;
        let mut disks = vec![Vec::new(); count];
        for (row, data) in chunks.chunks(count - parities).enumerate() {
            let mut data = data.to_vec();
            data.resize(count - parities, vec![0; self.chunk]);
            // The parity goes from the last member to the first, and data follow behind it.
            let p = count - 1 - row % count;
            let mut order: Vec<usize> = match parities {
                0 => (0..count).collect(),
                _ => (0..count).map(|step| (p + step) % count).collect(),
            };
            if parities >= 1 {
                let sum =
                    (0..self.chunk).map(|at| data.iter().fold(0, |sum, chunk| sum ^ chunk[at]));
                disks[order.remove(0)].extend(sum);
            }
            if parities == 2 {
                // Horner's scheme, from the last to the first.
                let twice = |byte: u8| byte << 1 ^ if byte & 0x80 != 0 { 0x1D } else { 0 };
                let sum = (0..self.chunk).map(|at| {
                    data.iter()
                        .rev()
                        .fold(0, |sum, chunk| twice(sum) ^ chunk[at])
                });
                disks[order.remove(0)].extend(sum);
            }
            for (member, chunk) in order.into_iter().zip(data) {
                disks[member].extend(chunk);
            }
        }
        disks
    }

    /// Copies side by side, or far: each row again on the next members, further in.
    fn copies(&self, chunks: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let (near, far) = (
            self.layout as usize & 0xFF,
            self.layout as usize >> 8 & 0xFF,
        );
        let is_offset = self.layout >> 16 & 1 == 1;
        let count = self.members;
        let mut places: Vec<Vec<Vec<u8>>> = vec![Vec::new(); count];
        for (number, chunk) in chunks
            .iter()
            .flat_map(|chunk| vec![chunk; near])
            .enumerate()
        {
            places[number % count].push(chunk.clone());
        }
        let rows = places.iter().map(Vec::len).max().unwrap();
        for place in &mut places {
            place.resize(rows, vec![0; self.chunk]);
        }
        let turned =
            |member: usize, copy: usize| &places[(member + count * far - copy * near) % count];
        (0..count)
            .map(|member| match is_offset {
                true => (0..rows)
                    .flat_map(|row| {
                        (0..far).flat_map(move |copy| turned(member, copy)[row].clone())
                    })
                    .collect(),
                false => (0..far)
                    .flat_map(|copy| turned(member, copy).concat())
                    .collect(),
            })
            .collect()
    }

    fn superblock(&self, number: usize, used: usize) -> Vec<u8> {
        let mut block = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0xA92B_4EFC_u32.to_le_bytes());
        put(4, &1_u32.to_le_bytes());
        put(16, b"sixteen letters.");
        put(32, b"host:made");
        put(72, &self.level.to_le_bytes());
        put(76, &self.layout.to_le_bytes());
        put(80, &(used as u64 / 512).to_le_bytes());
        put(88, &u32::try_from(self.chunk / 512).unwrap().to_le_bytes());
        put(92, &u32::try_from(self.members).unwrap().to_le_bytes());
        put(128, &(DATA_AT as u64 / 512).to_le_bytes());
        put(136, &(used as u64 / 512).to_le_bytes());
        put(144, &8_u64.to_le_bytes());
        put(160, &u32::try_from(number).unwrap().to_le_bytes());
        put(200, &7_u64.to_le_bytes());
        put(208, &u64::MAX.to_le_bytes());
        put(220, &u32::try_from(self.members).unwrap().to_le_bytes());
        for member in 0..self.members {
            put(
                256 + member * 2,
                &u16::try_from(member).unwrap().to_le_bytes(),
            );
        }
        mend(&mut block);
        block
    }
}

/// Makes the checksum of a superblock right.
fn mend(block: &mut [u8]) {
    let devices = u32::from_le_bytes(block[220..224].try_into().unwrap()) as usize;
    block[216..220].fill(0);
    let length = 256 + devices * 2;
    let mut padded = block[..length].to_vec();
    padded.resize(length.next_multiple_of(4), 0);
    let sum: u64 = padded
        .chunks(4)
        .map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())))
        .sum();
    let folded = (sum & 0xFFFF_FFFF) + (sum >> 32);
    block[216..220].copy_from_slice(&folded.to_le_bytes()[..4]);
}

pub(super) fn open(disks: &[Vec<u8>]) -> DiskSet {
    let sources: Vec<Arc<dyn Source>> = disks.iter().cloned().map(Buffer::of).collect();
    open_sources(&sources)
}

/// Every byte its own, as far as that goes.
fn content(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut content = Vec::with_capacity(length);
    while content.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        content.extend((state >> 24).to_le_bytes()[..5].iter());
    }
    content.truncate(length);
    content
}

pub(super) const KINDS: &[Made] = &[
    Made {
        level: 0,
        layout: 0,
        chunk: 4096,
        members: 3,
    },
    Made {
        level: 1,
        layout: 0,
        chunk: 4096,
        members: 3,
    },
    Made {
        level: 5,
        layout: 2,
        chunk: 4096,
        members: 3,
    },
    Made {
        level: 5,
        layout: 2,
        chunk: 65536,
        members: 6,
    },
    Made {
        level: 6,
        layout: 2,
        chunk: 4096,
        members: 4,
    },
    Made {
        level: 6,
        layout: 2,
        chunk: 8192,
        members: 9,
    },
    Made {
        level: 10,
        layout: 0x102,
        chunk: 4096,
        members: 5,
    },
    Made {
        level: 10,
        layout: 0x201,
        chunk: 8192,
        members: 5,
    },
    Made {
        level: 10,
        layout: 0x10201,
        chunk: 4096,
        members: 4,
    },
    Made {
        level: 10,
        layout: 0x10301,
        chunk: 4096,
        members: 7,
    },
];

#[test]
fn made_arrays_are_read_with_any_members_missing() {
    for made in KINDS {
        let wanted = content(1_000_000);
        let members = made.members_of(&wanted);
        let check = |disks: &[Vec<u8>]| {
            let set = open(disks);
            let found = find(&set, "md-made");
            let volume = found
                .volume
                .as_ref()
                .unwrap_or_else(|error| panic!("{made:?}: {error}"));
            let read = content_of(&*volume.source());
            assert!(
                read[..wanted.len()] == wanted,
                "{made:?} of {}: {}",
                disks.len(),
                found.description
            );
        };
        check(&members);
        let spare = match (made.level, made.layout) {
            (0, _) => 0,
            (6, _) | (1, _) | (10, 0x10301) => 2,
            _ => 1,
        };
        for one in 0..made.members {
            for other in 0..made.members {
                if spare >= 1 && (one == other || spare >= 2) {
                    let left = (0..)
                        .zip(&members)
                        .filter(|(number, _)| ![one, other].contains(number));
                    check(&left.map(|(_, disk)| disk.clone()).collect::<Vec<_>>());
                }
            }
        }
        let too_few = open(&members[spare + 1..]);
        if made.level != 10 && !too_few.assembled.is_empty() {
            assert!(
                error_of(&too_few, "md-made").contains("missing"),
                "{made:?}"
            );
        }
    }
}

#[test]
fn parity_is_not_believed_where_the_array_was_not_stopped() {
    let made = Made {
        level: 5,
        layout: 2,
        chunk: 4096,
        members: 3,
    };
    let wanted = content(100_000);
    let mut members = made.members_of(&wanted);
    for member in &mut members {
        member[4096 + 208..4096 + 216].fill(0);
        mend(&mut member[4096..8192]);
    }
    let set = open(&members);
    let whole = find(&set, "md-made").volume.as_ref().unwrap().source();
    assert!(content_of(&*whole)[..wanted.len()] == wanted);
    let set = open(&[members[0].clone(), members[2].clone()]);
    let source = find(&set, "md-made").volume.as_ref().unwrap().source();
    // The first row has its first chunk on member 0, the next on member 1.
    let error = source.read(4096, 10).unwrap_err().to_string();
    assert!(error.contains("not stopped cleanly"), "{error}");
    assert!(source.read(0, 4096).unwrap().to_vec() == wanted[..4096]);
}

#[test]
fn a_table_that_is_an_arrays_is_no_map_of_its_member() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mke2fs(&image, "8M", None, &["-t", "ext4"]);
    let mut disk = vec![0; 1 << 20];
    // One partition of 8 MiB behind the first.
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&16384_u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    disk.extend(fs::read(&image).unwrap());
    // Version 1.0: the data come first, the superblock is at the end.
    for (level, members) in [(0, 2), (1, 2)] {
        let made = Made {
            level,
            layout: 0,
            chunk: 2 << 20,
            members,
        };
        let disks: Vec<Vec<u8>> = made
            .members_of(&disk)
            .into_iter()
            .map(|member| {
                let mut superblock = member[4096..8192].to_vec();
                let mut moved = member[DATA_AT..].to_vec();
                superblock[128..136].fill(0);
                superblock[144..152].copy_from_slice(&(moved.len() as u64 / 512).to_le_bytes());
                mend(&mut superblock);
                moved.extend(superblock);
                moved.extend([0; 4096]);
                moved
            })
            .collect();
        let set = open(&disks);
        let assembled = find(&set, "md-made-p1").volume.as_ref().unwrap();
        assert!(assembled.allocated().unwrap().all(|range| range.is_ok()));
        let alone = &set.disks[0].as_ref().unwrap()[0];
        assert_eq!(alone.name, "p1");
        assert_eq!(alone.allocated().is_ok(), level == 1, "level {level}");
        let gaps = guestfs::gaps(&Buffer::of(disks[0].clone())).unwrap();
        assert!(gaps.is_empty() || level == 1);
    }
}

#[test]
fn a_checksum_that_is_wrong_leaves_a_member_out() {
    let made = Made {
        level: 1,
        layout: 0,
        chunk: 4096,
        members: 2,
    };
    let mut members = made.members_of(&content(50_000));
    members[0][4096 + 100] ^= 1;
    let set = open(&members);
    assert_eq!(find(&set, "md-made").members, ["disk-1"]);
    assert_eq!(set.disks[0].as_ref().unwrap()[0].content, Content::Md);
}

#[test]
fn the_same_member_twice_is_refused() {
    let made = Made {
        level: 1,
        layout: 0,
        chunk: 4096,
        members: 2,
    };
    let members = made.members_of(&content(50_000));
    let set = open(&[members[0].clone(), members[1].clone(), members[1].clone()]);
    let error = error_of(&set, "md-made");
    assert!(
        error.contains("twice") && error.contains("disk-2"),
        "{error}"
    );
}

#[test]
fn what_a_member_has_lost_is_read_from_the_other() {
    let case = Case::read("raid1-bad-blocks");
    // Rubbish where the list says that the first member has none of its own: sectors 512 to 576.
    let mut lost = case.clone();
    lost.disks[0][512 * 512..576 * 512].fill(0xEE);
    lost.check(&lost.open());
    let mut hurt = case.clone();
    hurt.disks[0][576 * 512] ^= 1;
    let set = hurt.open();
    let read = find(&set, "md0").volume.as_ref().unwrap().source();
    assert_ne!(
        hash_of(&*read),
        case.volumes[0].sha256,
        "what is next to it is read"
    );
}

#[test]
fn a_member_that_is_being_filled_is_read_as_far_as_that_went() {
    for (name, absent) in [
        ("raid1-recovering", None),
        ("raid5-recovering", Some(1)),
        ("raid10-recovering", None),
    ] {
        let case = Case::read(name);
        case.check(&case.open());
        // With another member gone, what was filled is all that there is.
        let Some(absent) = absent else {
            continue;
        };
        let whole = case.open();
        let whole = find(&whole, "md0").volume.as_ref().unwrap().source();
        let set = case.open_without(&[0, absent]);
        let found = find(&set, "md0");
        let source = found.volume.as_ref().unwrap().source();
        let filled = source.read(0, 256 << 10).unwrap().to_vec();
        assert!(filled == whole.read(0, 256 << 10).unwrap().to_vec());
        let end = source.length_bytes() - 65536;
        let error = source.read(end, 65536).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}

#[test]
fn an_array_that_is_being_reshaped_is_refused() {
    let case = Case::read("raid5-reshaping");
    let error = error_of(&case.open(), "md0");
    assert!(
        error.contains("not supported: an array that is being reshaped"),
        "{error}"
    );
}

#[test]
fn arrays_and_volumes_stack() {
    let case = Case::read("stacked");
    let set = case.open();
    case.check(&set);
    let deep = find(&set, "deep-lv");
    assert_eq!(deep.members, ["md-inner"]);
    assert_eq!(find(&set, "md-inner").members, ["top-leg0", "top-leg1"]);
    assert_eq!(find(&set, "top-plain").members, ["md0"]);
    // The disks show what they are.
    for disk in &set.disks {
        assert_eq!(disk.as_ref().unwrap()[0].content, Content::Md);
    }
    case.check(&case.open_without(&[1]));
}
