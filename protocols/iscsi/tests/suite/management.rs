//! Functions that abort: what they abort has come to rest when they are answered.

use std::sync::Arc;
use std::time::Duration;

use export::BlockExport as _;
use iscsi::wire::{Header, ScsiCommand, U24, opcode};

use crate::initiator::{Initiator, cdb_10};
use crate::support::{Fixture, TARGET, gated};

/// Whether nothing comes for a while.
fn is_quiet(initiator: &mut Initiator) -> bool {
    let stream = &initiator.stream;
    stream
        .set_read_timeout(Some(Duration::from_millis(150)))
        .unwrap();
    let peeked = stream.peek(&mut [0]);
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    peeked.is_err()
}

#[test]
fn an_aborted_command_is_at_rest_when_the_function_is_answered() {
    let (disk, gate) = gated();
    let fixture = Fixture::serve(disk);
    let mut initiator = fixture.session(&[]);
    let read = initiator.start_read(0, 1);
    gate.await_waiting(1);
    let function = initiator.manage(1, 1, (read, initiator.cmd_sn - 1));
    assert!(is_quiet(&mut initiator), "the disk still has the command");
    gate.open();
    assert_eq!(initiator.managed(function), 0);
    // The late answer of the disk is thrown away.
    let next = initiator.read(0, 1);
    assert_eq!((next.status, next.data.len()), (0, 512));
}

#[test]
fn commands_that_wait_for_data_or_never_came_are_gone_at_once() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    let write = initiator.start_write(0, &[1; 512], 0);
    let (r2t, _) = initiator.receive();
    assert_eq!(r2t.kind(), opcode::R2T);
    let function = initiator.manage(1, 1, (write, initiator.cmd_sn - 1));
    assert_eq!(initiator.managed(function), 0);
    initiator.data_out(
        write,
        r2t.view::<iscsi::wire::R2t>().transfer_tag.get(),
        0,
        &[1; 512],
    );
    // A command that is over, and one whose number was kept for it.
    let function = initiator.manage(1, 1, (write, initiator.cmd_sn - 1));
    assert_eq!(initiator.managed(function), 1);
    let skipped = initiator.number();
    let function = initiator.manage(1, 1, (999, skipped));
    assert_eq!(initiator.managed(function), 0);
    assert_eq!(initiator.read(0, 1).data, [0; 512]);
}

#[test]
fn functions_and_units_that_do_not_exist() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    let mut check = |function: u8, lun: u8, wanted: u8| {
        let tag = initiator.manage(function, lun, (0, 0));
        assert_eq!(initiator.managed(tag), wanted, "function {function}");
    };
    check(2, 1, 0);
    check(2, 9, 2);
    check(3, 1, 5);
    check(4, 9, 2);
    check(5, 9, 2);
    check(8, 1, 4);
    check(99, 1, 5);
}

#[test]
fn a_reset_aborts_what_others_do_and_tells_them() {
    let (disk, gate) = gated();
    let fixture = Fixture::serve(disk);
    let mut first = fixture.session_of("iqn.2026-01.test:first");
    let mut second = fixture.session_of("iqn.2026-01.test:second");
    first.start_read(0, 1);
    second.start_read(0, 1);
    gate.await_waiting(2);
    let reset = second.manage(5, 1, (0, 0));
    assert!(is_quiet(&mut second), "the commands of both still run");
    gate.open();
    assert_eq!(second.managed(reset), 0);
    // Both are told by a unit attention, and the first not of its command.
    for session in [&mut first, &mut second] {
        assert_eq!(session.read(0, 1).sense, Some((6, 0x29, 3)));
        assert_eq!(session.read(0, 1).status, 0);
    }
}

#[test]
fn a_cleared_task_set_is_told_to_those_who_had_commands_in_it() {
    let (disk, gate) = gated();
    let fixture = Fixture::serve(disk);
    let mut first = fixture.session_of("iqn.2026-01.test:first");
    let mut idle = fixture.session_of("iqn.2026-01.test:idle");
    let mut second = fixture.session_of("iqn.2026-01.test:second");
    first.start_read(0, 1);
    gate.await_waiting(1);
    let clear = second.manage(4, 1, (0, 0));
    assert!(is_quiet(&mut second), "the command still runs");
    gate.open();
    assert_eq!(second.managed(clear), 0);
    assert_eq!(first.read(0, 1).sense, Some((6, 0x2f, 0)));
    assert_eq!(idle.read(0, 1).status, 0);
}

#[test]
fn a_cold_reset_ends_every_session_of_the_target() {
    let fixture = Fixture::memory();
    let mut first = fixture.session_of("iqn.2026-01.test:first");
    let mut second = fixture.session_of("iqn.2026-01.test:second");
    let reset = second.manage(7, 1, (0, 0));
    assert_eq!(second.managed(reset), 0);
    assert!(second.is_closed() && first.is_closed());
    fixture.await_sessions(0);
}

#[test]
fn an_ordered_command_waits_for_those_before_it() {
    let (disk, gate) = gated();
    let fixture = Fixture::serve(Arc::clone(&disk) as Arc<_>);
    let mut initiator = fixture.session(&[]);
    let first = initiator.start_read(0, 1);
    gate.await_waiting(1);
    let mut ordered = initiator.command(&cdb_10(0x28, 0, 1), 0x40 | 2, 512);
    initiator.send(&ordered, &[]);
    let after = initiator.start_read(0, 2);
    assert!(is_quiet(&mut initiator));
    gate.await_waiting(1);
    gate.open();
    assert_eq!(initiator.finish(first).status, 0);
    assert_eq!(initiator.finish(ordered.task_tag.get()).status, 0);
    assert_eq!(initiator.finish(after).data.len(), 1024);
    ordered.task_tag.set(0);
    assert_eq!(disk.properties().size_bytes, 64 << 20);
}

#[test]
fn a_session_comes_back_only_when_nothing_of_the_old_one_runs() {
    let (disk, gate) = gated();
    let fixture = Fixture::serve(disk);
    let mut old = fixture.session(&[]);
    old.start_write(0, &[1; 512], 512);
    gate.await_waiting(1);
    let portal = fixture.portal();
    let login = std::thread::spawn(move || Initiator::session(portal, TARGET, &[]));
    assert!(old.is_closed());
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        !login.is_finished(),
        "the old write could still change the disk"
    );
    gate.open();
    let mut new = login.join().unwrap().settle();
    assert_eq!(new.read(0, 1).data, [1; 512]);
    assert_eq!(new.write(0, &[2; 512], 512).status, 0);
    assert_eq!(new.read(0, 1).data, [2; 512]);
}

/// WRITE SAME of 32 MiB, which is done a megabyte at a time.
fn start_long_write(initiator: &mut Initiator) -> u32 {
    let mut request = initiator.command(
        &cdb_10(0x41, 0, 65_535),
        Header::FINAL | ScsiCommand::WRITE,
        512,
    );
    request.data_length = U24::new(512);
    let tag = request.task_tag.get();
    initiator.send(&request, &[7; 512]);
    tag
}

#[test]
fn a_long_command_ends_soon_after_it_was_aborted() {
    // ABORT TASK, LOGICAL UNIT RESET, and the end of the connection.
    for function in [1, 5, 0] {
        let (disk, gate) = gated();
        let fixture = Fixture::serve(Arc::clone(&disk) as Arc<_>);
        let mut initiator = fixture.session(&[]);
        let write = start_long_write(&mut initiator);
        gate.await_waiting(1);
        if function == 0 {
            drop(initiator);
            // The server sees it before the disk goes on.
            std::thread::sleep(Duration::from_millis(100));
            gate.open();
            fixture.await_sessions(0);
        } else {
            let tag = initiator.manage(function, 1, (write, initiator.cmd_sn - 1));
            assert!(is_quiet(&mut initiator));
            gate.open();
            assert_eq!(initiator.managed(tag), 0);
        }
        let there = |offset| disk.disk.read(offset, 512).unwrap().to_vec();
        assert_eq!(there(0), [7; 512], "the piece that was under way is done");
        assert_eq!(
            there(1 << 20),
            [0; 512],
            "the next was not begun, function {function}"
        );
    }
}
