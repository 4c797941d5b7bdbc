//! What can be written through a face, and what cannot.

use std::sync::Arc;

use bytes::Bytes;
use diskimage::Format;
use export::contract::block;
use export::{BlockExport, Durability, ExportError, MemoryDisk, ZeroMode};

use super::disk;

const SIZE: u64 = 3 << 20;

fn everything(export: &dyn BlockExport) -> Vec<u8> {
    let size = export.properties().size_bytes;
    (0..size)
        .step_by(1 << 20)
        .flat_map(|offset| {
            let length = u32::try_from((size - offset).min(1 << 20)).unwrap();
            export.read(offset, length).unwrap().to_vec()
        })
        .collect()
}

/// Where the disk starts in a face: its first sector is the only one like it.
fn start_of_disk(face: &dyn BlockExport) -> u64 {
    let bytes = everything(face);
    let first = vec![super::pattern(0); 512];
    let found = bytes.chunks(512).position(|sector| sector == first);
    found.unwrap() as u64 * 512
}

#[test]
fn a_face_keeps_the_contract_of_a_disk() {
    // Raw is the disk itself, with all its duties.
    block::check(|size| {
        let disk = Arc::new(MemoryDisk::new(size));
        Arc::new(Format::Raw.show(disk, "disk.raw").unwrap())
    });
    for format in Format::ALL {
        let content = everything(&format.show(disk(SIZE), "disk").unwrap());
        let still = MemoryDisk::new(SIZE).with_identity(disk(SIZE).properties().identity);
        for place in super::places(SIZE) {
            let sector = Bytes::from(vec![super::pattern(place); 512]);
            still.write(place, &[sector], Durability::Unstable).unwrap();
        }
        let face = format
            .show(Arc::new(still.into_read_only()), "disk")
            .unwrap();
        block::check_read_only(&face, &content);
    }
}

#[test]
fn writes_to_the_disk_reach_it_and_nothing_else_changes() {
    for format in Format::ALL {
        let disk = disk(SIZE);
        let face = format.show(Arc::clone(&disk) as _, "disk").unwrap();
        let before = everything(&face);
        let start = start_of_disk(&face);
        // In odd pieces, up to the last sector.
        let pieces = [vec![7_u8; 100], vec![8; 1948], vec![9; 1024]].map(Bytes::from);
        face.write(start + SIZE - 3072, &pieces, Durability::Stable)
            .unwrap();
        face.write_zeroes(start, 512, ZeroMode::Deallocate, Durability::Unstable)
            .unwrap();
        face.discard(start + 512, 512, Durability::Unstable)
            .unwrap();
        assert_eq!(
            disk.read(SIZE - 3072, 3072).unwrap().to_vec(),
            pieces.concat()
        );
        assert_eq!(disk.read(0, 1024).unwrap().to_vec(), [0; 1024]);
        let mut expected = before;
        let start = usize::try_from(start).unwrap();
        let end = start + usize::try_from(SIZE).unwrap();
        expected[start..start + 1024].fill(0);
        expected[end - 3072..end].copy_from_slice(&pieces.concat());
        assert!(everything(&face) == expected, "{format}");
    }
}

#[test]
fn what_places_blocks_does_not_change() {
    for format in [Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx] {
        let disk = disk(SIZE);
        let face = format.show(Arc::clone(&disk) as _, "disk").unwrap();
        let before = everything(&face);
        let content = everything(&*disk);
        let start = start_of_disk(&face);
        let length = before.len() as u64;
        // The first sector of the file; for a fixed VHD that is the disk's, and its last is the format's.
        let own = if start > 0 { 0 } else { length - 512 };
        let other = Bytes::from(vec![0xa5; 512]);
        let written = face.write(own, std::slice::from_ref(&other), Durability::Unstable);
        assert!(
            matches!(written, Err(ExportError::NotPermitted)),
            "{format}: {written:?}"
        );
        let zeroed = face.write_zeroes(own, 512, ZeroMode::Deallocate, Durability::Unstable);
        assert!(
            matches!(zeroed, Err(ExportError::NotPermitted)),
            "{format}: {zeroed:?}"
        );
        // A write that is half the format's and half the disk's does nothing at all.
        let edge = if start > 0 {
            start - 512
        } else {
            length - 1024
        };
        let both = face.write(edge, &[other.clone(), other.clone()], Durability::Unstable);
        if before[usize::try_from(own).unwrap()..][..512]
            .iter()
            .any(|byte| *byte != 0)
        {
            assert!(both.is_err(), "{format}");
        }
        assert!(
            everything(&face) == before && everything(&*disk) == content,
            "{format}"
        );
        // What is there may be written again.
        let place = usize::try_from(own).unwrap();
        let same = Bytes::copy_from_slice(&before[place..place + 512]);
        face.write(own, &[same], Durability::Stable).unwrap();
        assert!(everything(&face) == before, "{format}");
    }
}

#[test]
fn notes_that_a_file_is_in_use_last_as_long_as_the_face() {
    for (format, note) in [
        (Format::Vmdk, 512),
        (Format::Vhdx, 64 << 10),
        (Format::Vhdx, 1 << 20),
    ] {
        let disk = disk(SIZE);
        let content = everything(&*disk);
        let face = format.show(Arc::clone(&disk) as _, "disk").unwrap();
        let before = everything(&face);
        face.write(note, &[Bytes::from(vec![3; 1024])], Durability::Unstable)
            .unwrap();
        face.write_zeroes(note, 512, ZeroMode::KeepAllocated, Durability::Unstable)
            .unwrap();
        let place = usize::try_from(note).unwrap();
        let mut expected = before.clone();
        expected[place..place + 512].fill(0);
        expected[place + 512..place + 1024].fill(3);
        assert!(
            everything(&face) == expected && everything(&*disk) == content,
            "{format}"
        );
        let again = format.show(disk, "disk").unwrap();
        assert!(everything(&again) == before, "{format}");
    }
}

#[test]
fn faces_of_one_disk_have_names_of_their_own() {
    let disk = disk(SIZE);
    let mut names: Vec<[u8; 16]> = Format::ALL
        .iter()
        .map(|format| {
            format
                .show(Arc::clone(&disk) as _, "disk")
                .unwrap()
                .properties()
                .identity
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Format::ALL.len());
}
