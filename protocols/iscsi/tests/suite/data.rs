//! Commands and their data, in every way it can go.

use iscsi::wire::{DataOut, Header, NO_TAG, NopOut, ScsiCommand, U24, opcode};
use zerocopy::big_endian::U32;

use crate::initiator::{Initiator, cdb_10};
use crate::support::{Fixture, TARGET};

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at * 7 / 512 + at % 251) as u8)
        .collect()
}

/// Writes and reads back under these keys, with so much immediate data.
fn check(keys: &[(&str, &str)], length: usize, immediate: usize) {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(keys);
    let wanted = content(length);
    let done = initiator.write(5, &wanted, immediate);
    assert_eq!((done.status, done.residual), (0, 0), "{keys:?}");
    let blocks = u16::try_from(length / 512).unwrap();
    let done = initiator.read(5, blocks);
    assert_eq!((done.status, done.residual), (0, 0), "{keys:?}");
    assert!(done.data == wanted, "{keys:?}: other bytes came back");
}

#[test]
fn data_comes_back_however_it_went() {
    check(&[], 512, 512);
    check(&[], 512, 0);
    check(&[("ImmediateData", "No")], 8192, 0);
    check(&[("MaxRecvDataSegmentLength", "512")], 65536, 4096);
    check(
        &[("MaxBurstLength", "1024"), ("FirstBurstLength", "512")],
        65536,
        512,
    );
    check(
        &[("MaxOutstandingR2T", "4"), ("MaxBurstLength", "65536")],
        4 << 20,
        65536,
    );
    check(
        &[
            ("MaxBurstLength", "16776192"),
            ("MaxRecvDataSegmentLength", "262144"),
        ],
        16 << 20,
        0,
    );
    let digests = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
    check(&digests, 512, 512);
    check(&[digests[0]], 1 << 20, 4096);
    check(
        &[digests[1], ("MaxRecvDataSegmentLength", "1024")],
        1 << 20,
        65536,
    );
}

#[test]
fn unsolicited_data_follows_the_command() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[("InitialR2T", "No"), ("FirstBurstLength", "65536")]);
    let wanted = content(100 * 1024);
    let mut command = initiator.command(&cdb_10(0x2a, 0, 200), ScsiCommand::WRITE, 100 * 1024);
    command.flags &= !Header::FINAL;
    initiator.send(&command, &wanted[..8192]);
    let tag = command.task_tag.get();
    // Fewer bytes than FirstBurstLength may come; the rest is asked for.
    initiator.data_out(tag, NO_TAG, 8192, &wanted[8192..50_000]);
    let done = initiator.finish_write(tag, &wanted);
    assert_eq!((done.status, done.residual), (0, 0));
    assert!(initiator.read(0, 200).data == wanted);
}

#[test]
fn many_commands_at_once_are_answered_each_with_its_own() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    let wanted = content(64 * 512);
    assert_eq!(initiator.write(0, &wanted, 4096).status, 0);
    let tags: Vec<u32> = (0..64).map(|lba| initiator.start_read(lba, 1)).collect();
    for (lba, tag) in tags.into_iter().enumerate() {
        let done = initiator.finish(tag);
        assert!(done.data == wanted[lba * 512..][..512], "block {lba}");
    }
}

#[test]
fn residuals_tell_the_difference() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    let mut read = |expected: u32, length: usize, residual: i64| {
        let command = initiator.command(&cdb_10(0x28, 0, 2), ScsiCommand::READ, expected);
        initiator.send(&command, &[]);
        let done = initiator.finish(command.task_tag.get());
        assert_eq!(
            (done.status, done.data.len(), done.residual),
            (0, length, residual)
        );
    };
    read(1024, 1024, 0);
    read(2048, 1024, -1024);
    read(512, 512, 512);
    read(0, 0, 1024);
    let mut write = |expected: usize, residual: i64| {
        let length = expected as u32;
        let command = initiator.command(&cdb_10(0x2a, 0, 2), ScsiCommand::WRITE, length);
        initiator.send(&command, &vec![1; expected]);
        let done = initiator.finish(command.task_tag.get());
        assert_eq!((done.status, done.residual), (0, residual));
    };
    write(1024, 0);
    write(512, 512);
    write(2048, -1024);
}

#[test]
fn data_that_breaks_the_rules_fails_its_command_alone() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[("ImmediateData", "No"), ("MaxBurstLength", "1024")]);
    // Immediate data that was not agreed on.
    let command = initiator.command(&cdb_10(0x2a, 0, 1), ScsiCommand::WRITE, 512);
    initiator.send(&command, &[0; 512]);
    let done = initiator.finish(command.task_tag.get());
    assert_eq!(done.sense, Some((0xb, 0x0c, 0x0c)));
    let mut answer = |change: &dyn Fn(&mut DataOut), sense| {
        let tag = initiator.start_write(0, &[3; 1024], 0);
        let (r2t, _) = initiator.receive();
        assert_eq!(r2t.kind(), opcode::R2T);
        let mut pdu = DataOut {
            opcode: opcode::DATA_OUT,
            flags: Header::FINAL,
            data_length: U24::new(1024),
            task_tag: U32::new(tag),
            transfer_tag: r2t.view::<DataOut>().transfer_tag,
            ..DataOut::default()
        };
        change(&mut pdu);
        let length = pdu.data_length.get();
        initiator.send(&pdu, &vec![3; length]);
        let done = initiator.finish(tag);
        assert_eq!((done.status, done.sense), (2, Some(sense)));
        // What comes late is dropped.
        initiator.send(&pdu, &vec![3; length]);
    };
    let phase_error = (0xb, 0x4b, 0);
    answer(&|pdu| pdu.data_sn = U32::new(1), phase_error);
    answer(&|pdu| pdu.buffer_offset = U32::new(512), phase_error);
    answer(&|pdu| pdu.transfer_tag = U32::new(12345), phase_error);
    answer(&|pdu| pdu.data_length = U24::new(2048), phase_error);
    answer(&|pdu| pdu.data_length = U24::new(512), (0xb, 0x0c, 0x0d));
    answer(&|pdu| pdu.flags = 0, (0xb, 0x0c, 0x0d));
    assert_eq!(initiator.read(0, 2).data, [0; 1024], "nothing was written");
}

#[test]
fn command_numbers_outside_of_the_window_are_ignored() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    for wrong in [initiator.cmd_sn - 1, initiator.max_cmd_sn + 1] {
        let mut command = initiator.command(&cdb_10(0x28, 0, 1), ScsiCommand::READ, 512);
        initiator.cmd_sn -= 1;
        command.cmd_sn = U32::new(wrong);
        initiator.send(&command, &[]);
    }
    // The answer to the next is the first that comes.
    assert_eq!(initiator.read(0, 1).status, 0);
    // One that was passed over is lost, and the session with it.
    initiator.cmd_sn += 1;
    initiator.start_read(0, 1);
    assert!(initiator.is_closed());
    fixture.await_sessions(0);
}

#[test]
fn pings_and_pdus_that_make_no_sense() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[("MaxRecvDataSegmentLength", "512")]);
    let mut ping = NopOut {
        opcode: opcode::NOP_OUT | Header::IMMEDIATE,
        flags: Header::FINAL,
        task_tag: U32::new(9),
        transfer_tag: U32::new(NO_TAG),
        cmd_sn: U32::new(initiator.cmd_sn),
        ..NopOut::default()
    };
    initiator.send(&ping, &[7; 600]);
    let (header, data) = initiator.receive();
    assert_eq!((header.kind(), header.task_tag.get()), (opcode::NOP_IN, 9));
    assert_eq!(data, [7; 512], "as much as the initiator takes");
    let mut rejected = |opcode: u8, wanted: u8| {
        ping.opcode = opcode;
        initiator.send(&ping, &[]);
        let (header, data) = initiator.receive();
        assert_eq!(header.kind(), opcode::REJECT);
        assert_eq!((header.specific[0], data[0]), (wanted, opcode));
    };
    rejected(opcode::SNACK, 3);
    rejected(opcode::LOGIN_REQUEST, 4);
    rejected(0x1d, 5);
    // A tag that is in use, or none.
    let tag = initiator.start_write(0, &[1; 512], 0);
    assert_eq!(initiator.receive().0.kind(), opcode::R2T);
    for (wrong, reason) in [(tag, 7), (NO_TAG, 9)] {
        let mut command = initiator.command(&cdb_10(0x28, 0, 1), ScsiCommand::READ, 512);
        command.task_tag = U32::new(wrong);
        initiator.send(&command, &[]);
        let (header, _) = initiator.receive();
        assert_eq!(
            (header.kind(), header.specific[0]),
            (opcode::REJECT, reason)
        );
    }
}

#[test]
fn digests_that_are_wrong() {
    let fixture = Fixture::memory();
    let digests = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
    let flip = |initiator: &mut Initiator, pdu: &DataOut, data: &[u8], at: usize| {
        let mut bytes = initiator.encode(pdu, data);
        bytes[at] ^= 1;
        std::io::Write::write_all(&mut initiator.stream, &bytes).unwrap();
    };
    // Data of a write: its command fails, and the session goes on.
    let mut initiator = fixture.session(&digests);
    let tag = initiator.start_write(0, &[3; 512], 0);
    let (r2t, _) = initiator.receive();
    let pdu = DataOut {
        opcode: opcode::DATA_OUT,
        flags: Header::FINAL,
        task_tag: U32::new(tag),
        transfer_tag: r2t.view::<DataOut>().transfer_tag,
        ..DataOut::default()
    };
    flip(&mut initiator, &pdu, &[3; 512], 100);
    let (header, _) = initiator.receive();
    assert_eq!((header.kind(), header.specific[0]), (opcode::REJECT, 2));
    assert_eq!(initiator.finish(tag).sense, Some((0xb, 0x47, 5)));
    assert_eq!(initiator.read(0, 1).data, [0; 512]);
    // A header: nothing that follows can be understood.
    flip(&mut initiator, &pdu, &[3; 512], 20);
    assert!(initiator.is_closed());
    // Data of a command: the command is lost.
    let mut initiator = fixture.session(&digests);
    let command = initiator.command(&cdb_10(0x2a, 0, 1), ScsiCommand::WRITE, 512);
    let mut bytes = initiator.encode(&command, &[3; 512]);
    bytes[60] ^= 1;
    std::io::Write::write_all(&mut initiator.stream, &bytes).unwrap();
    let (header, _) = initiator.receive();
    assert_eq!((header.kind(), header.specific[0]), (opcode::REJECT, 2));
    assert!(initiator.is_closed());
    fixture.await_sessions(0);
    let mut initiator = Initiator::session(fixture.portal(), TARGET, &[]).settle();
    assert_eq!(initiator.read(0, 1).data, [0; 512]);
}
