//! EXTENDED COPY and copies by token.

use std::slice;
use std::sync::Arc;

use export::{BlockExport, MemoryDisk};
use scsi::{SenseKey, Target, UnitOptions};

use crate::support::{
    Host, INVALID_FIELD_IN_PARAMETERS, LBA_OUT_OF_RANGE, MIB, PARAMETER_LIST_LENGTH, cdb10, cdb16,
    host, target, target_with_disk, vpd,
};

const COPY_ABORTED: SenseKey = SenseKey::CopyAborted;
const NOT_REACHABLE: (u8, u8) = (0x0d, 0x02);
const DEVICE_FAILURE: (u8, u8) = (0x0d, 0x01);

/// A target with two disks of 16 MiB, the second in blocks of 4096.
fn two_units() -> (Arc<Target>, Host) {
    let target = target();
    for (lun, block_bytes) in [(0, 512), (1, 4096)] {
        let disk = MemoryDisk::new(16 * MIB).with_identity([lun as u8 + 1; 16]);
        let options = UnitOptions {
            logical_block_bytes: block_bytes,
            ..UnitOptions::default()
        };
        target.attach(lun, Arc::new(disk), options).unwrap();
    }
    let host = host(&target, "a");
    (target, host)
}

/// An identification descriptor for a unit.
fn cscd(host: &Host) -> Vec<u8> {
    let page = host.good(&vpd(0x83), &[]);
    let mut descriptor = vec![0xe4, 0, 0, 0];
    descriptor.extend_from_slice(&page[4..24]);
    descriptor.resize(32, 0);
    descriptor[29..32].copy_from_slice(&(host.block_bytes() as u32).to_be_bytes()[1..]);
    descriptor
}

fn segment(source: u16, destination: u16, blocks: u16, from: u64, to: u64) -> Vec<u8> {
    let mut descriptor = vec![0x02, 0, 0, 0x18];
    descriptor.extend_from_slice(&source.to_be_bytes());
    descriptor.extend_from_slice(&destination.to_be_bytes());
    descriptor.extend_from_slice(&[0; 2]);
    descriptor.extend_from_slice(&blocks.to_be_bytes());
    descriptor.extend_from_slice(&from.to_be_bytes());
    descriptor.extend_from_slice(&to.to_be_bytes());
    descriptor
}

fn narrow(list_id: u8, cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (cscds, segments) = (cscds.concat(), segments.concat());
    let mut list = vec![list_id, 0];
    list.extend_from_slice(&(cscds.len() as u16).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    list.extend_from_slice(&(segments.len() as u32).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    list.extend_from_slice(&cscds);
    list.extend_from_slice(&segments);
    list
}

fn wide(list_id: u32, cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (cscds, segments) = (cscds.concat(), segments.concat());
    let mut list = vec![0; 48];
    list[0] = 1;
    list[20..24].copy_from_slice(&list_id.to_be_bytes());
    list[42..44].copy_from_slice(&(cscds.len() as u16).to_be_bytes());
    list[44..46].copy_from_slice(&(segments.len() as u16).to_be_bytes());
    list.extend_from_slice(&cscds);
    list.extend_from_slice(&segments);
    list
}

fn copy_cdb(action: u8, list: &[u8]) -> [u8; 16] {
    cdb16(0x83, action, 0, list.len() as u32)
}

/// RECEIVE COPY RESULTS for a list identifier of 8 bits.
fn results(action: u8, list_id: u8) -> [u8; 16] {
    let mut cdb = cdb16(0x84, action, 0, 1024);
    cdb[2] = list_id;
    cdb
}

/// The same for 32 bits.
fn wide_results(action: u8, list_id: u32) -> [u8; 16] {
    let mut cdb = cdb16(0x84, action, 0, 1024);
    cdb[2..6].copy_from_slice(&list_id.to_be_bytes());
    cdb
}

fn fill(host: &Host, lba: u32, bytes: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..bytes).map(|at| (at / 512 + at) as u8).collect();
    host.write(lba, &data);
    data
}

#[test]
fn segments_are_copied_within_and_between_units() {
    let (_target, host) = two_units();
    let other = host.at(1);
    let data = fill(&host, 8, 256 * 512);
    let cscds = [cscd(&host), cscd(&other)];
    let segments = [segment(0, 1, 256, 8, 100), segment(0, 0, 256, 8, 1000)];
    let list = narrow(7, &cscds, &segments);
    host.good(&copy_cdb(0, &list), &list);
    assert_eq!(other.read(100, 32), data);
    assert_eq!(host.read(1000, 256), data);
    let status = host.good(&results(0, 7), &[]);
    assert_eq!(status, [0, 0, 0, 8, 1, 0, 2, 0, 0, 4, 0, 0]);
    let list = wide(70_000, &cscds, &[segment(1, 0, 4, 100, 3000)]);
    host.good(&copy_cdb(1, &list), &list);
    assert_eq!(host.read(3000, 32), data[..16384]);
    let status = host.good(&wide_results(5, 70_000), &[]);
    assert_eq!(status[4..6], [1, 1], "done");
    assert_eq!(status[16..26], [0, 0, 0, 0, 0, 0, 0x40, 0, 0, 1]);
    host.bad_field(&results(0, 8), &[], Some(2));
    host.good(&copy_cdb(0, &[]), &[]);
}

#[test]
fn a_copy_of_whole_chunks_moves_no_bytes() {
    let (one, two) = (
        Arc::new(MemoryDisk::new(4 * MIB).with_identity([1; 16])),
        Arc::new(MemoryDisk::new(4 * MIB).with_identity([2; 16])),
    );
    let target = target();
    for (lun, disk) in [(0, one.clone()), (1, two.clone())] {
        target.attach(lun, disk, UnitOptions::default()).unwrap();
    }
    let host = host(&target, "a");
    fill(&host, 0, 1 << 20);
    let list = narrow(
        1,
        &[cscd(&host), cscd(&host.at(1))],
        &[segment(0, 1, 2048, 0, 2048)],
    );
    host.good(&copy_cdb(0, &list), &list);
    let place = |disk: &MemoryDisk, offset| disk.read(offset, 512).unwrap().pieces()[0].as_ptr();
    assert_eq!(place(&one, 0), place(&two, MIB), "the same bytes in memory");
    host.at(1).write(2048, &[9; 512]);
    assert_ne!(host.read(0, 1), [9; 512]);
}

#[test]
fn overlapping_ranges_are_copied_as_if_read_first() {
    let (_target, host) = two_units();
    let list = |from, to, blocks| narrow(1, &[cscd(&host)], &[segment(0, 0, blocks, from, to)]);
    for (from, to) in [(0, 100), (100, 0)] {
        let data = fill(&host, from, 4096 * 512);
        let list = list(from.into(), to.into(), 4096);
        host.good(&copy_cdb(0, &list), &list);
        assert_eq!(host.read(to, 4096), data, "from {from} to {to}");
    }
}

#[test]
fn lists_that_are_wrong_are_refused_before_anything_is_copied() {
    let (_target, host) = two_units();
    let (one, good) = (cscd(&host), segment(0, 0, 8, 0, 100));
    host.write(100, &[1; 512]);
    let bad = |list: &[u8], key, code| {
        host.bad(&copy_cdb(0, list), list, key, code);
        assert_eq!(host.read(100, 1), [1; 512]);
    };
    let illegal = SenseKey::IllegalRequest;
    let list = narrow(1, slice::from_ref(&one), slice::from_ref(&good));
    bad(&list[..60], illegal, PARAMETER_LIST_LENGTH);
    bad(&list[..15], illegal, PARAMETER_LIST_LENGTH);
    bad(
        &narrow(1, &vec![one.clone(); 9], slice::from_ref(&good)),
        illegal,
        (0x26, 0x06),
    );
    bad(
        &narrow(1, slice::from_ref(&one), &vec![good.clone(); 65]),
        illegal,
        (0x26, 0x08),
    );
    bad(
        &narrow(1, &vec![one.clone(); 9], &vec![good.clone(); 65]),
        illegal,
        PARAMETER_LIST_LENGTH,
    );
    let with = |at: usize, byte: u8| {
        let mut list = list.clone();
        list[at] = byte;
        list
    };
    bad(&with(16, 0xe0), illegal, (0x26, 0x07));
    bad(&with(48, 0x03), illegal, (0x26, 0x09));
    bad(&with(17, 0x01), illegal, INVALID_FIELD_IN_PARAMETERS);
    bad(&with(46, 0x10), illegal, INVALID_FIELD_IN_PARAMETERS);
    bad(&with(1, 0x18), illegal, INVALID_FIELD_IN_PARAMETERS);
    bad(&with(15, 1), illegal, (0x26, 0x0b));
    bad(&with(51, 0x19), illegal, INVALID_FIELD_IN_PARAMETERS);
    bad(&with(17, 0x20), COPY_ABORTED, NOT_REACHABLE);
    bad(&with(30, 0x77), COPY_ABORTED, NOT_REACHABLE);
    bad(&with(55, 1), COPY_ABORTED, NOT_REACHABLE);
    let beyond = narrow(1, &[one], &[segment(0, 0, 8, 32761, 100)]);
    bad(&beyond, COPY_ABORTED, (0x00, 0x00));
    let details = host.good(&results(4, 1), &[]);
    assert_eq!((details[56], details[60], details[62]), (2, 0x70, 0x0a));
}

#[test]
fn a_copy_respects_reservations_and_protection_of_both_ends() {
    let (target, host) = two_units();
    let stranger = crate::support::host(&target, "b");
    let list = narrow(
        1,
        &[cscd(&stranger), cscd(&stranger.at(1))],
        &[segment(0, 1, 8, 0, 0)],
    );
    host.at(1).good(&[0x16, 0, 0, 0, 0, 0], &[]);
    stranger.bad(&copy_cdb(0, &list), &list, COPY_ABORTED, DEVICE_FAILURE);
    host.at(1).good(&[0x17, 0, 0, 0, 0, 0], &[]);
    stranger.good(&copy_cdb(0, &list), &list);
    let protect = [
        0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0,
    ];
    host.at(1).good(&[0x15, 0x10, 0, 0, 16, 0], &protect);
    stranger.bad(&copy_cdb(0, &list), &list, COPY_ABORTED, DEVICE_FAILURE);
}

#[test]
fn what_can_be_copied_is_told() {
    let host = host(&target_with_disk(), "a");
    let parameters = host.good(&results(3, 0), &[]);
    assert_eq!(
        parameters[..16],
        [0, 0, 0, 42, 1, 0, 0, 0, 0, 8, 0, 64, 0, 0, 8, 0]
    );
    assert_eq!(parameters[43..], [2, 0x02, 0xe4]);
    let page = host.good(&vpd(0x8f), &[]);
    let mut at = 4;
    let mut kinds = Vec::new();
    while at < page.len() {
        kinds.push(u16::from_be_bytes([page[at], page[at + 1]]));
        let length = u16::from_be_bytes([page[at + 2], page[at + 3]]);
        assert!(length.is_multiple_of(4));
        at += 4 + usize::from(length);
    }
    assert_eq!(at, page.len());
    assert_eq!(kinds, [0, 1, 4, 8, 0x0c, 0x106, 0x108, 0x8001]);
    let commands = &page[4 + 36 + 4..];
    assert_eq!(
        commands[..14],
        [13, 0x83, 4, 0, 1, 0x10, 0x11, 0x84, 5, 0, 3, 4, 5, 7]
    );
    assert_eq!(
        host.good(&[0x12, 0, 0, 0, 96, 0], &[])[5] & 0x08,
        0x08,
        "3PC"
    );
}

fn range_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let mut list = ((ranges.len() * 16) as u16).to_be_bytes().to_vec();
    for (lba, blocks) in ranges {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    list
}

fn with_length(mut list: Vec<u8>) -> Vec<u8> {
    let length = (list.len() - 2) as u16;
    list[..2].copy_from_slice(&length.to_be_bytes());
    list
}

fn populate_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    with_length([vec![0; 14], range_list(ranges)].concat())
}

fn token_list(token: &[u8], skipped: u64, flags: u8, ranges: &[(u64, u32)]) -> Vec<u8> {
    let mut head = vec![0, 0, flags, 0, 0, 0, 0, 0];
    head.extend_from_slice(&skipped.to_be_bytes());
    head.extend_from_slice(token);
    head.extend_from_slice(&[0; 6]);
    with_length([head, range_list(ranges)].concat())
}

fn token_cdb(action: u8, list_id: u32, list: &[u8]) -> [u8; 16] {
    let mut cdb = cdb16(0x83, action, 0, list.len() as u32);
    cdb[6..10].copy_from_slice(&list_id.to_be_bytes());
    cdb
}

/// Makes a token.
fn populate(host: &Host, ranges: &[(u64, u32)]) -> Vec<u8> {
    let list = populate_list(ranges);
    host.good(&token_cdb(0x10, 9, &list), &list);
    let answer = host.good(&wide_results(7, 9), &[]);
    assert_eq!(answer[..6], [0, 0, 2, 34, 0x10, 0x01]);
    let blocks: u32 = ranges.iter().map(|range| range.1).sum();
    assert_eq!(answer[15], 0xf1, "blocks");
    assert_eq!(answer[20..24], blocks.to_be_bytes());
    assert_eq!(answer[32..38], [0, 0, 2, 2, 0, 0]);
    answer[38..].to_vec()
}

#[test]
fn a_token_is_written_anywhere_while_nothing_has_changed() {
    let (target, host) = two_units();
    let data = fill(&host, 0, 512 * 512);
    let token = populate(&host, &[(0, 128), (256, 128)]);
    assert_eq!(token.len(), 512);
    let wanted = [&data[..128 * 512], &data[256 * 512..384 * 512]].concat();
    let other = crate::support::host(&target, "b").at(1);
    let list = token_list(&token, 0, 0, &[(8, 20), (100, 12)]);
    other.good(&token_cdb(0x11, 1, &list), &list);
    assert_eq!([other.read(8, 20), other.read(100, 12)].concat(), wanted);
    let list = token_list(&token, 200, 0, &[(2000, 56)]);
    host.good(&token_cdb(0x11, 1, &list), &list);
    assert_eq!(host.read(2000, 56), wanted[200 * 512..]);
    let answer = host.good(&wide_results(7, 1), &[]);
    assert_eq!(
        (answer.len(), answer[4], answer[5], answer[23]),
        (36, 0x11, 1, 56)
    );
    let long = token_list(&token, 200, 0, &[(2000, 57)]);
    host.bad(
        &token_cdb(0x11, 1, &long),
        &long,
        SenseKey::IllegalRequest,
        INVALID_FIELD_IN_PARAMETERS,
    );
    let again = token_list(&token, 0, 0x02, &[(3000, 8)]);
    host.good(&token_cdb(0x11, 1, &again), &again);
    let gone = (SenseKey::IllegalRequest, (0x23, 0x04));
    host.bad(&token_cdb(0x11, 1, &again), &again, gone.0, gone.1);
}

#[test]
fn every_change_of_its_blocks_revokes_a_token() {
    let unmap = {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0]);
        list
    };
    for (cdb, data) in [
        (cdb10(0x2a, 0, 9, 1).to_vec(), vec![1; 512]),
        (cdb10(0x2e, 0, 9, 1).to_vec(), vec![1; 512]),
        (cdb16(0x89, 0, 9, 1).to_vec(), [[0; 512], [1; 512]].concat()),
        (cdb16(0x8b, 0, 9, 1).to_vec(), vec![1; 512]),
        (cdb10(0x41, 0, 9, 1).to_vec(), vec![1; 512]),
        (cdb10(0x41, 0, 9, 1).to_vec(), vec![0; 512]),
        (cdb10(0x42, 0, 0, 24).to_vec(), unmap),
    ] {
        let (_target, host) = two_units();
        let token = populate(&host, &[(8, 8)]);
        let list = token_list(&token, 0, 0, &[(100, 8)]);
        host.good(&cdb10(0x2a, 0, 16, 1), &[1; 512]);
        host.good(&token_cdb(0x11, 1, &list), &list);
        host.good(&cdb, &data);
        host.bad(
            &token_cdb(0x11, 1, &list),
            &list,
            SenseKey::IllegalRequest,
            (0x23, 0x06),
        );
    }
}

#[test]
fn tokens_that_are_not_ours_are_refused() {
    let (target, host) = two_units();
    let token = populate(&host, &[(0, 8)]);
    let write = |token: &[u8], code| {
        let list = token_list(token, 0, 0, &[(100, 8)]);
        host.bad(
            &token_cdb(0x11, 1, &list),
            &list,
            SenseKey::IllegalRequest,
            code,
        );
    };
    for at in [8, 15, 24, 63, 128, 143, 511] {
        let mut forged = token.clone();
        forged[at] ^= 1;
        write(&forged, (0x23, 0x04));
    }
    let mut other = token.clone();
    other[1] = 0;
    write(&other, (0x23, 0x01));
    host.write(100, &[1; 8 * 512]);
    let mut zeroes = vec![0; 512];
    zeroes[..8].copy_from_slice(&[0xff, 0xff, 0, 1, 0, 0, 1, 0xf8]);
    let list = token_list(&zeroes, 0, 0, &[(100, 8)]);
    host.good(&token_cdb(0x11, 1, &list), &list);
    assert_eq!(host.read(100, 8), [0; 4096]);
    for (list, key, code) in [
        (
            populate_list(&[(0, 8), (4, 8)]),
            SenseKey::IllegalRequest,
            INVALID_FIELD_IN_PARAMETERS,
        ),
        (
            populate_list(&[(32768, 8)]),
            SenseKey::IllegalRequest,
            LBA_OUT_OF_RANGE,
        ),
        (
            populate_list(&[]),
            SenseKey::IllegalRequest,
            INVALID_FIELD_IN_PARAMETERS,
        ),
        (
            populate_list(&[(0, 1); 65]),
            SenseKey::IllegalRequest,
            (0x26, 0x08),
        ),
        (vec![0; 15], SenseKey::IllegalRequest, PARAMETER_LIST_LENGTH),
    ] {
        host.bad(&token_cdb(0x10, 1, &list), &list, key, code);
    }
    let far = populate(&host.at(1), &[(0, 1)]);
    target.detach(1).unwrap();
    host.settle();
    write(&far, (0x23, 0x06));
}
