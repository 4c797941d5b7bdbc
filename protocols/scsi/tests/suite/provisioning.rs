//! UNMAP, WRITE SAME, GET LBA STATUS, SANITIZE.

use std::sync::Arc;

use export::MemoryDisk;
use scsi::{SenseKey, UnitOptions};

use crate::support::{
    Host, INVALID_FIELD_IN_PARAMETERS, LBA_OUT_OF_RANGE, MIB, PARAMETER_LIST_LENGTH, cdb10, cdb16,
    host, target_with, target_with_disk, vpd,
};

fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let mut list = vec![0; 8];
    for (lba, blocks) in ranges {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    let length = list.len() as u16;
    list[..2].copy_from_slice(&(length - 2).to_be_bytes());
    list[2..4].copy_from_slice(&(length - 8).to_be_bytes());
    list
}

fn unmap_cdb(flags: u8, list: &[u8]) -> [u8; 10] {
    cdb10(0x42, flags, 0, list.len() as u16)
}

/// LBA, blocks and state of each descriptor.
fn status(host: &Host, lba: u64, allocation_bytes: u32) -> Vec<(u64, u32, u8)> {
    let answer = host.good(&cdb16(0x9e, 0x12, lba, allocation_bytes), &[]);
    let rest = u32::from_be_bytes(answer[..4].try_into().unwrap());
    assert_eq!(rest as usize, answer.len() - 4, "the length is what comes");
    answer[8..]
        .chunks_exact(16)
        .map(|descriptor| {
            (
                u64::from_be_bytes(descriptor[..8].try_into().unwrap()),
                u32::from_be_bytes(descriptor[8..12].try_into().unwrap()),
                descriptor[12],
            )
        })
        .collect()
}

#[test]
fn unmapped_blocks_are_deallocated_and_read_as_zeroes() {
    let host = host(&target_with_disk(), "a");
    host.write(0, &[1; 512 * 512]);
    assert_eq!(status(&host, 0, 1024), [(0, 512, 0), (512, 32256, 1)]);
    let list = unmap_list(&[(128, 128), (300, 0), (384, 128)]);
    host.good(&unmap_cdb(0, &list), &list);
    assert_eq!(
        status(&host, 0, 1024),
        [(0, 128, 0), (128, 128, 1), (256, 128, 0), (384, 32384, 1)]
    );
    assert_eq!(status(&host, 130, 24), [(130, 126, 1)]);
    assert_eq!(host.read(128, 1), [0; 512]);
    assert_eq!(host.read(256, 1), [1; 512]);
    let list = unmap_list(&[(0, 128)]);
    host.good(&unmap_cdb(0x01, &list), &list);
    assert_eq!(status(&host, 0, 24), [(0, 128, 2)], "anchored");
    host.bad(
        &cdb16(0x9e, 0x12, 32768, 24),
        &[],
        SenseKey::IllegalRequest,
        LBA_OUT_OF_RANGE,
    );
}

#[test]
fn an_unmap_that_is_wrong_in_part_does_nothing() {
    let host = host(&target_with_disk(), "a");
    host.write(0, &[1; 512 * 256]);
    let check = |list: &[u8], code| {
        host.bad(&unmap_cdb(0, list), list, SenseKey::IllegalRequest, code);
        assert_eq!(host.read(0, 1), [1; 512]);
    };
    check(&unmap_list(&[(0, 128), (32760, 9)]), LBA_OUT_OF_RANGE);
    check(&unmap_list(&[(0, 128), (u64::MAX, 9)]), LBA_OUT_OF_RANGE);
    check(&[0; 7], PARAMETER_LIST_LENGTH);
    let mut list = unmap_list(&[(0, 128)]);
    list[3] = 200;
    check(&list, PARAMETER_LIST_LENGTH);
    check(&unmap_list(&[(0, 0); 257]), INVALID_FIELD_IN_PARAMETERS);
    let disk = Arc::new(MemoryDisk::new(2048 * MIB));
    let large = crate::support::host(&target_with(disk, UnitOptions::default()), "a");
    let list = unmap_list(&[(0, 1 << 20), (0, 1)]);
    large.bad(
        &unmap_cdb(0, &list),
        &list,
        SenseKey::IllegalRequest,
        INVALID_FIELD_IN_PARAMETERS,
    );
    host.good(&unmap_cdb(0, &[]), &[]);
}

#[test]
fn write_same_repeats_one_block() {
    let host = host(&target_with_disk(), "a");
    let block: Vec<u8> = (0..512_u32).map(|at| at as u8).collect();
    host.good(&cdb10(0x41, 0, 10, 300), &block);
    assert_eq!(host.read(10, 300), block.repeat(300));
    assert_eq!(host.read(310, 1), [0; 512]);
    host.good(&cdb16(0x93, 0x08, 0, 4096), &block);
    assert_eq!(
        host.read(4095, 1),
        block,
        "UNMAP with other bytes writes them"
    );
    host.good(&cdb16(0x93, 0x08, 0, 4096), &[0; 512]);
    assert_eq!(status(&host, 0, 24), [(0, 32768, 1)], "UNMAP with zeroes");
    host.good(&cdb16(0x93, 0x01, 0, 256), &[]);
    assert_eq!(
        status(&host, 0, 24),
        [(0, 256, 2)],
        "zeroes that keep their space"
    );
    host.good(&cdb16(0x93, 0x19, 0, 128), &[]);
    host.good(&cdb16(0x93, 0x09, 0, 256), &[]);
    assert_eq!(status(&host, 0, 24), [(0, 32768, 1)], "NDOB with UNMAP");
    assert_eq!(host.read(0, 1), [0; 512]);
}

#[test]
fn write_same_refuses_what_it_does_not_do() {
    let host = host(&target_with_disk(), "a");
    host.bad_field(&cdb10(0x41, 0, 0, 0), &[0; 512], Some(7));
    host.bad_field(&cdb16(0x93, 0x10, 0, 1), &[0; 512], Some(1));
    for length in [0, 1024] {
        let data = vec![0; length];
        host.bad(
            &cdb16(0x93, 0, 0, 1),
            &data,
            SenseKey::IllegalRequest,
            (0x0e, 0x03),
        );
    }
    let disk = Arc::new(MemoryDisk::new(1024 * MIB));
    let large = crate::support::host(&target_with(disk, UnitOptions::default()), "a");
    let limits = large.good(&vpd(0xb0), &[]);
    let longest = u64::from_be_bytes(limits[36..44].try_into().unwrap()) as u32;
    large.good(&cdb16(0x93, 0x01, 0, longest), &[]);
    large.bad_field(&cdb16(0x93, 0x01, 0, longest + 1), &[], Some(10));
}

#[test]
fn sanitize_is_there_only_if_the_host_says_so() {
    let erase = [0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
    let plain = host(&target_with_disk(), "a");
    plain.bad(&erase, &[], SenseKey::IllegalRequest, (0x20, 0x00));
    let options = UnitOptions {
        sanitize: true,
        ..UnitOptions::default()
    };
    let disk = Arc::new(MemoryDisk::new(2 * MIB));
    let host = host(&target_with(disk, options), "a");
    host.write(4000, &[1; 512]);
    host.good(&erase, &[]);
    assert_eq!(status(&host, 0, 24), [(0, 4096, 1)]);
    host.bad_field(&[0x48, 0x01, 0, 0, 0, 0, 0, 0, 8, 0], &[], Some(1));
    host.bad_field(&[0x48, 0x02, 0, 0, 0, 0, 0, 0, 8, 0], &[], Some(8));
    host.good(&[0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
}
