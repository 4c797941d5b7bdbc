//! What every device has.

use std::sync::Arc;

use export::MemoryDisk;
use scsi::{LunMask, SenseFormat, SenseKey, Status, Target, TargetIdentity, UnitOptions};

use crate::support::{
    Host, INVALID_FIELD_IN_PARAMETERS, MIB, PARAMETER_LIST_LENGTH, WRITE_PROTECTED, cdb10, cdb16,
    host, host_at, port_name, target_with, target_with_disk, vpd,
};

#[test]
fn inquiry_says_what_it_is() {
    let host = host(&target_with_disk(), "a");
    let answer = host.good(&[0x12, 0, 0, 0, 255, 0], &[]);
    assert_eq!(answer.len(), 96);
    assert_eq!(answer[..8], [0, 0, 6, 0x12, 91, answer[5], 0x10, 2]);
    assert_eq!(&answer[8..36], b"HOLDFASTDISK            1   ");
    let short = host.good(&[0x12, 0, 0, 0, 5, 0], &[]);
    assert_eq!(short, answer[..5]);
    host.bad_field(&[0x12, 0, 0x83, 0, 255, 0], &[], Some(2));
    host.bad_field(&vpd(0xb6), &[], Some(2));
}

#[test]
fn every_page_in_the_list_is_there_and_says_its_length() {
    let host = host(&target_with_disk(), "a");
    let pages = host.good(&vpd(0x00), &[]);
    assert!(pages[4..].is_sorted());
    for &page in &pages[4..] {
        let content = host.good(&vpd(page), &[]);
        assert_eq!(content[1], page);
        let length = u16::from_be_bytes([content[2], content[3]]);
        assert_eq!(usize::from(length), content.len() - 4, "page {page:#x}");
    }
    assert_eq!(host.good(&vpd(0xb0), &[]).len(), 64);
}

#[test]
fn names_are_the_units_own_and_the_ports() {
    let one = Arc::new(MemoryDisk::new(MIB).with_identity(*b"0123456789abcdef"));
    let target = target_with(one, UnitOptions::default());
    let two = Arc::new(MemoryDisk::new(MIB).with_identity(*b"0123456789abcdeg"));
    target.attach(300, two, UnitOptions::default()).unwrap();
    let (near, far) = (host_at(&target, "a", 1), host_at(&target, "a", 2));
    let page = near.good(&vpd(0x83), &[]);
    let naa = &page[4..24];
    assert_eq!(naa[..4], [0x01, 0x03, 0, 16]);
    assert_eq!(naa[4] >> 4, 6);
    assert_eq!(far.good(&vpd(0x83), &[])[4..24], *naa, "through any port");
    assert_ne!(near.at(300).good(&vpd(0x83), &[])[4..24], *naa);
    let find = |page: &[u8], kind: u8| {
        let mut at = 4;
        while page[at + 1] & 0x3f != kind {
            at += 4 + usize::from(page[at + 3]);
        }
        page[at + 4..at + 4 + usize::from(page[at + 3])].to_vec()
    };
    assert_eq!(find(&page, 0x14), [0, 0, 0, 1]);
    assert_eq!(find(&far.good(&vpd(0x83), &[]), 0x14), [0, 0, 0, 2]);
    assert_eq!(find(&page, 0x15), [0, 0, 0, 1]);
    assert!(find(&page, 0x28).starts_with(b"iqn.2026-01.org.example:target\0"));
    assert!(find(&page, 0x18).starts_with(b"iqn.2026-01.org.example:target,t,0x0001\0"));
    let serial = near.good(&vpd(0x80), &[]);
    assert_eq!(&serial[4..], b"30313233343536373839616263646566");
}

#[test]
fn capacity_tells_provisioning_and_physical_blocks() {
    let host = host(&target_with_disk(), "a");
    let answer = host.good(&cdb16(0x9e, 0x10, 0, 32), &[]);
    assert_eq!(
        answer[..16],
        [0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]
    );
    assert_eq!(answer.len(), 32);
    assert_eq!(host.good(&cdb16(0x9e, 0x10, 0, 8), &[]).len(), 8);
    let options = UnitOptions {
        physical_block_bytes: Some(512),
        ..UnitOptions::default()
    };
    let plain = target_with(Arc::new(MemoryDisk::new(MIB)), options);
    let plain = crate::support::host(&plain, "a");
    assert_eq!(plain.good(&cdb16(0x9e, 0x10, 0, 32), &[])[13], 0);
    let disk = Arc::new(MemoryDisk::new(4 << 40));
    let large = crate::support::host(&target_with(disk, UnitOptions::default()), "a");
    assert_eq!(large.good(&cdb10(0x25, 0, 0, 0), &[])[..4], [0xff; 4]);
    assert_eq!(
        large.good(&cdb16(0x9e, 0x10, 0, 32), &[])[..8],
        (8_589_934_591_u64).to_be_bytes()
    );
}

#[test]
fn there_are_no_defects() {
    let host = host(&target_with_disk(), "a");
    assert_eq!(
        host.good(&[0x37, 0, 0x1d, 0, 0, 0, 0, 1, 0, 0], &[]),
        [0, 0x1d, 0, 0]
    );
    let long = host.good(&[0xb7, 0x08, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(long, [0, 0x08, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn mode_pages_in_both_sizes() {
    let host = host(&target_with_disk(), "a");
    let all = host.good(&[0x1a, 0, 0x3f, 0, 255, 0], &[]);
    assert_eq!(usize::from(all[0]), all.len() - 1);
    assert_eq!(all[2..4], [0x10, 8], "DPOFUA; a block descriptor");
    assert_eq!(all[4..12], [0, 0, 0x80, 0, 0, 0, 2, 0]);
    let mut at = 12;
    let mut pages = Vec::new();
    while at < all.len() {
        pages.push(all[at]);
        at += 2 + usize::from(all[at + 1]);
    }
    assert_eq!((at, pages), (all.len(), vec![0x01, 0x08, 0x0a, 0x1c]));
    let long = host.good(&[0x5a, 0x10, 0x08, 0, 0, 0, 0, 1, 0, 0], &[]);
    assert_eq!(
        usize::from(u16::from_be_bytes([long[0], long[1]])),
        long.len() - 2
    );
    assert_eq!(long[4..8], [1, 0, 0, 16], "LONGLBA");
    assert_eq!(long[24..27], [0x08, 18, 0x04], "WCE");
    let changeable = host.good(&[0x1a, 0x08, 0x4a, 0, 255, 0], &[]);
    assert_eq!(
        changeable[4..],
        [0x0a, 10, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]
    );
    host.bad(
        &[0x1a, 0, 0xff, 0, 255, 0],
        &[],
        SenseKey::IllegalRequest,
        (0x39, 0x00),
    );
    host.bad_field(&[0x1a, 0, 0x3e, 0, 255, 0], &[], Some(2));
    host.bad_field(&[0x1a, 0, 0x08, 1, 255, 0], &[], Some(3));
}

#[test]
fn mode_select_changes_what_it_may_and_tells_the_others() {
    let target = target_with_disk();
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    let control = |first: u8, second: u8| {
        vec![
            0, 0, 0, 0, 0x0a, 10, first, 0x10, second, 0, 0, 0, 0xff, 0xff, 0, 0,
        ]
    };
    let select = |list: &[u8]| [0x15, 0x10, 0, 0, list.len() as u8, 0];
    let protect = control(0x04, 0x08);
    one.good(&select(&protect), &protect);
    let sense = one.bad(
        &cdb10(0x2a, 0, 0, 1),
        &[0; 512],
        SenseKey::DataProtect,
        WRITE_PROTECTED,
    );
    assert_eq!(sense.format, SenseFormat::Descriptor, "D_SENSE");
    assert_eq!(two.settle(), [(0x2a, 0x01)]);
    assert!(one.settle().is_empty());
    let back = control(0, 0);
    one.good(&select(&back), &back);
    one.write(0, &[1; 512]);
    for (list, code) in [
        (control(0x20, 0), INVALID_FIELD_IN_PARAMETERS),
        (vec![0, 0, 0, 0, 0x3e, 0], INVALID_FIELD_IN_PARAMETERS),
        (vec![0, 0, 0, 0, 0x0a, 9], PARAMETER_LIST_LENGTH),
        (vec![0, 0, 0, 8], PARAMETER_LIST_LENGTH),
        (
            vec![0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 2, 0],
            INVALID_FIELD_IN_PARAMETERS,
        ),
        (
            vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 4, 0],
            INVALID_FIELD_IN_PARAMETERS,
        ),
    ] {
        one.bad(&select(&list), &list, SenseKey::IllegalRequest, code);
    }
    one.bad_field(&[0x15, 0x11, 0, 0, 16, 0], &back, Some(1));
}

#[test]
fn without_a_cache_every_write_is_stable() {
    let target = target_with_disk();
    let host = host(&target, "a");
    let mut list = vec![0, 0, 0, 0, 0x08, 18];
    list.extend_from_slice(&[0; 18]);
    host.good(&[0x15, 0x10, 0, 0, 24, 0], &list);
    let command = scsi::Command {
        lun: [0; 8],
        cdb: scsi::Cdb::new(&cdb10(0x2a, 0, 0, 1)),
        data_out: vec![vec![1; 512].into()],
        expected_bytes: None,
    };
    assert_eq!(
        host.nexus.try_execute(&command),
        None,
        "it waits for the disk"
    );
    assert_eq!(host.nexus.execute(&command).status, Status::Good);
    host.nexus.logical_unit_reset([0; 8]);
    host.settle();
    assert!(
        host.nexus.try_execute(&command).is_some(),
        "a reset brings it back"
    );
}

#[test]
fn the_reported_commands_are_those_that_are_done() {
    let host = host(&target_with_disk(), "a");
    let report = |options: u8, opcode: u8, action: u16| {
        let [high, low] = action.to_be_bytes();
        [0xa3, 0x0c, options, opcode, high, low, 0, 1, 0, 0, 0, 0]
    };
    let all = host.good(&report(0x80, 0, 0), &[]);
    assert_eq!(
        u32::from_be_bytes(all[..4].try_into().unwrap()) as usize,
        all.len() - 4
    );
    for descriptor in all[4..].chunks_exact(20) {
        let (opcode, action) = (
            descriptor[0],
            u16::from_be_bytes([descriptor[2], descriptor[3]]),
        );
        let has_action = descriptor[5] & 1 == 1;
        assert_eq!(descriptor[5] & 2, 2, "CTDP");
        assert!(has_action || action == 0);
        let (right, wrong) = if has_action { (2, 1) } else { (1, 2) };
        host.bad_field(&report(wrong, opcode, action), &[], Some(2));
        let one = host.good(&report(right, opcode, action), &[]);
        assert_eq!(one[1], 3, "{opcode:#x}/{action:#x} is supported");
        assert_eq!(one[2..4], descriptor[6..8], "as long");
        assert_eq!(one[4], opcode);
        assert_eq!(host.good(&report(3, opcode, action), &[]), one);
        let timed = host.good(&report(0x80 | right, opcode, action), &[]);
        assert_eq!((timed[1], timed.len()), (0x83, one.len() + 12));
        // Every bit that is not in the usage is refused.
        for at in 1..one.len() - 4 {
            for bit in 0..8_u8 {
                let action_bits = if has_action && at == 1 { 0x1f } else { 0 };
                if (one[4 + at] | action_bits) & (1 << bit) != 0 {
                    continue;
                }
                let mut cdb = vec![0; 16];
                cdb[0] = opcode;
                cdb[1] = action as u8;
                cdb[at] |= 1 << bit;
                host.bad_field(&cdb, &[], Some(at as u16));
            }
        }
    }
    assert_eq!(host.good(&report(1, 0xff, 0), &[])[1], 1, "not supported");
    assert_eq!(host.good(&report(2, 0x9e, 0x1f), &[])[1], 1);
    assert_eq!(host.good(&report(1, 0x28, 0), &[])[5], 0x18, "DPO and FUA");
    let management = host.good(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0], &[]);
    assert_eq!(management, [0xda, 0, 0, 0]);
    let extended = host.good(&[0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!(extended.len(), 16);
    host.bad_field(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0], &[], Some(6));
}

#[test]
fn every_port_is_active_and_optimised() {
    let host = host(&target_with_disk(), "a");
    let groups = host.good(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!(
        groups,
        [0, 0, 0, 16, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]
    );
    let extended = host.good(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!(extended[..8], [0, 0, 0, 20, 0x10, 0, 0, 0]);
    assert_eq!(extended[8..], groups[4..]);
    let standard = host.good(&[0x12, 0, 0, 0, 255, 0], &[]);
    assert_eq!(standard[5] & 0x30, 0x10, "TPGS");
}

#[test]
fn diagnostics_find_nothing() {
    let host = host(&target_with_disk(), "a");
    host.good(&[0x1d, 0x04, 0, 0, 0, 0], &[]);
    host.good(&[0x1d, 0x10, 0, 0, 4, 0], &[0; 4]);
    assert_eq!(host.good(&[0x1c, 1, 0, 0, 255, 0], &[]), [0, 0, 0, 1, 0]);
    host.bad_field(&[0x1c, 1, 5, 0, 255, 0], &[], Some(2));
    host.bad_field(&[0x1d, 0x20, 0, 0, 0, 0], &[], Some(1));
}

#[test]
fn a_removable_medium_is_taken_out_and_put_in() {
    let options = UnitOptions {
        removable: true,
        ..UnitOptions::default()
    };
    let target = target_with(Arc::new(MemoryDisk::new(MIB)), options);
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    let (eject, load) = ([0x1b, 0, 0, 0, 2, 0], [0x1b, 0, 0, 0, 3, 0]);
    let prevent = |on: u8| [0x1e, 0, 0, 0, on, 0];
    two.good(&prevent(1), &[]);
    one.bad(&eject, &[], SenseKey::IllegalRequest, (0x53, 0x02));
    two.good(&prevent(0), &[]);
    one.good(&eject, &[]);
    for cdb in [
        vec![0; 6],
        cdb10(0x28, 0, 0, 1).to_vec(),
        cdb10(0x2a, 0, 0, 1).to_vec(),
    ] {
        two.bad(&cdb, &[0; 512], SenseKey::NotReady, (0x3a, 0x00));
    }
    two.good(&[0x12, 0, 0, 0, 96, 0], &[]);
    one.good(&load, &[]);
    assert_eq!(two.settle(), [(0x28, 0x00)]);
    two.read(0, 1);
    drop(two);
    let plain = host(&target_with_disk(), "a");
    plain.bad_field(&eject, &[], Some(4));
    plain.good(&[0x1b, 0, 0, 0, 0, 0], &[]);
    plain.good(&[0x1b, 0, 0, 0, 0x10, 0], &[]);
    plain.good(&[0; 6], &[]);
    plain.bad_field(&[0x1e, 0, 0, 0, 2, 0], &[], Some(4));
}

#[test]
fn a_target_without_ports_tells_of_units_alone() {
    let target = Target::new(TargetIdentity {
        name: String::new(),
        ports: Vec::new(),
    });
    let disk = Arc::new(MemoryDisk::new(MIB).with_identity(*b"0123456789abcdef"));
    target.attach(0, disk, UnitOptions::default()).unwrap();
    let nexus = Arc::new(target.nexus(port_name("a", 0), LunMask::All));
    nexus.forget_attentions();
    let host = Host { nexus, lun: 0 };
    let inquiry = host.good(&[0x12, 0, 0, 0, 96, 0], &[]);
    assert_eq!(inquiry[5], 0x08, "no groups of ports");
    assert_eq!(inquiry[58..64], [0x00, 0xa0, 0, 0, 0x04, 0x60]);
    let page = host.good(&vpd(0x83), &[]);
    assert_eq!(page[4..8], [0x01, 0x03, 0, 16], "NAA");
    assert_eq!(page[24..26], [0x02, 0x01], "T10 vendor ID");
    assert_eq!(page.len(), 28 + usize::from(page[27]), "and nothing more");
    let groups = host.send(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(groups.sense.unwrap().code, (0x20, 0x00));
    let asked = host.good(&[0xa3, 0x0c, 2, 0xa3, 0, 0x0a, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(asked[1], 1, "reported as not supported");
}
