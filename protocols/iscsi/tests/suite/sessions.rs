//! How sessions begin, end, and share what there is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use export::MemoryDisk;
use iscsi::Limits;
use iscsi::wire::{AsyncMessage, Header, LogoutRequest, LogoutResponse, NO_TAG, NopOut, opcode};
use scsi::UnitOptions;
use zerocopy::big_endian::{U16, U32};

use crate::initiator::{Done, Initiator};
use crate::support::{Fixture, TARGET, await_true, gated, impatient};

fn logout(initiator: &mut Initiator, reason: u8, cid: u16) -> u8 {
    let request = LogoutRequest {
        opcode: opcode::LOGOUT_REQUEST | Header::IMMEDIATE,
        reason: 0x80 | reason,
        task_tag: U32::new(5),
        cid: U16::new(cid),
        cmd_sn: U32::new(initiator.cmd_sn),
        ..LogoutRequest::default()
    };
    initiator.send(&request, &[]);
    let (header, _) = initiator.receive();
    assert_eq!(header.kind(), opcode::LOGOUT_RESPONSE);
    header.view::<LogoutResponse>().response
}

#[test]
fn logout_closes_what_it_names() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    assert_eq!(logout(&mut initiator, 1, 99), 1, "no such connection");
    assert_eq!(logout(&mut initiator, 2, 7), 2, "no recovery");
    assert_eq!(logout(&mut initiator, 1, 7), 0);
    assert!(initiator.is_closed());
    let mut initiator = fixture.session(&[]);
    assert_eq!(logout(&mut initiator, 0, 0), 0);
    assert!(initiator.is_closed());
    fixture.await_sessions(0);
}

#[test]
fn logout_waits_for_commands_that_run() {
    let (disk, gate) = gated();
    let fixture = Fixture::serve(disk);
    let mut initiator = fixture.session(&[]);
    initiator.start_write(0, &[1; 512], 512);
    gate.await_waiting(1);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        gate.open();
    });
    let started = Instant::now();
    assert_eq!(logout(&mut initiator, 0, 0), 0);
    assert!(started.elapsed() >= Duration::from_millis(90));
    opener.join().unwrap();
}

#[test]
fn a_silent_initiator_is_asked_and_then_left() {
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(1 << 20)), impatient());
    let mut initiator = fixture.session(&[]);
    for _ in 0..3 {
        let (header, _) = initiator.receive();
        assert_eq!(header.kind(), opcode::NOP_IN);
        assert_eq!(header.task_tag.get(), NO_TAG);
        let ping: NopOut = header.view();
        assert_ne!(ping.transfer_tag.get(), NO_TAG);
        let answer = NopOut {
            opcode: opcode::NOP_OUT | Header::IMMEDIATE,
            flags: Header::FINAL,
            task_tag: U32::new(NO_TAG),
            transfer_tag: ping.transfer_tag,
            cmd_sn: U32::new(initiator.cmd_sn),
            ..NopOut::default()
        };
        initiator.send(&answer, &[]);
    }
    assert!(initiator.is_closed());
    fixture.await_sessions(0);
}

#[test]
fn peers_that_stop_in_the_middle_are_left() {
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(1 << 20)), impatient());
    // Before a login, in the middle of one, in the middle of a PDU, and before data that was asked for.
    let mut nothing = TcpStream::connect(fixture.portal()).unwrap();
    let mut half = TcpStream::connect(fixture.portal()).unwrap();
    half.write_all(&[0x43; 30]).unwrap();
    let mut inside = fixture.session(&[]);
    inside.stream.write_all(&[1; 30]).unwrap();
    let mut other = fixture.session_of("iqn.2026-01.test:other");
    other.start_write(0, &[1; 512], 0);
    for stream in [&mut nothing, &mut half] {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        assert_eq!(stream.read(&mut [0; 48]).unwrap(), 0);
    }
    assert!(inside.is_closed() && other.is_closed());
    fixture.await_sessions(0);
}

#[test]
fn a_peer_that_does_not_read_is_stopped_and_left() {
    let mut limits = impatient();
    limits.timing.ping_after = Duration::from_secs(60);
    limits.in_flight_bytes = 1 << 20;
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(64 << 20)), limits);
    let mut slow = fixture.session(&[("MaxRecvDataSegmentLength", "262144")]);
    for lba in 0..100 {
        slow.start_read(lba * 2048, 2048);
    }
    let server = fixture.server.as_ref().unwrap();
    await_true("reads fill the limit", || server.memory_bytes() > 0);
    assert!(
        server.memory_bytes() <= 3 << 20,
        "{}",
        server.memory_bytes()
    );
    // Others do not notice.
    let mut other = fixture.session_of("iqn.2026-01.test:other");
    for _ in 0..100 {
        assert_eq!(other.read(0, 8).status, 0);
    }
    await_true("the slow one is left", || server.sessions_of(TARGET) == 1);
    drop(other);
    fixture.await_sessions(0);
    assert_eq!(fixture.server.as_ref().unwrap().memory_bytes(), 0);
}

#[test]
fn a_flood_of_pings_without_reading_is_stopped_by_not_reading() {
    let limits = Limits {
        in_flight_bytes: 256 << 10,
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(1 << 20)), limits);
    let mut initiator = fixture.session(&[("MaxRecvDataSegmentLength", "65536")]);
    let ping = NopOut {
        opcode: opcode::NOP_OUT | Header::IMMEDIATE,
        flags: Header::FINAL,
        task_tag: U32::new(9),
        transfer_tag: U32::new(NO_TAG),
        cmd_sn: U32::new(initiator.cmd_sn),
        ..NopOut::default()
    };
    let bytes = initiator.encode(&ping, &[7; 4096]).repeat(16);
    initiator
        .stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut taken = 0;
    while taken < 64 << 20 {
        match initiator.stream.write(&bytes) {
            Ok(count) => taken += count,
            Err(_) => break,
        }
    }
    assert!(taken < 32 << 20, "the server took {taken} bytes");
    let server = fixture.server.as_ref().unwrap();
    assert!(server.memory_bytes() < 4 << 20);
}

#[test]
fn limits_of_sessions_and_logins() {
    let limits = Limits {
        logins: 3,
        sessions_per_initiator: 2,
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(Arc::new(MemoryDisk::new(1 << 20)), limits);
    let session = |isid: u8| {
        let mut initiator = Initiator::connect(fixture.portal());
        initiator.isid[5] = isid;
        let status = initiator.log_in(TARGET, &[]).0;
        (initiator, status)
    };
    let sessions = [session(1), session(2)];
    assert_eq!(sessions.each_ref().map(|(_, status)| *status), [0, 0]);
    assert_eq!(session(3).1, 0x0302);
    // One ISID through two portals makes two sessions.
    drop(sessions);
    fixture.await_sessions(0);
    let first = fixture.session(&[]);
    let second = Initiator::session(fixture.second_portal(), TARGET, &[]).settle();
    fixture.await_sessions(2);
    drop((first, second));
    fixture.await_sessions(0);
    // Those who do not log in keep others out, until their time is over.
    let idle: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(fixture.portal()).unwrap())
        .collect();
    let mut refused = TcpStream::connect(fixture.portal()).unwrap();
    assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
    drop(idle);
    await_true("there is room again", || {
        let mut stream = TcpStream::connect(fixture.portal()).unwrap();
        let wait = Some(Duration::from_millis(50));
        stream.set_read_timeout(wait).unwrap();
        matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    });
}

#[test]
fn units_come_and_go_while_sessions_run() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    let disk = Arc::new(MemoryDisk::new(1 << 20).with_identity([9; 16]));
    fixture
        .target
        .attach(2, disk, UnitOptions::default())
        .unwrap();
    assert_eq!(initiator.read(0, 1).sense, Some((6, 0x3f, 0x0e)));
    assert_eq!(initiator.read(0, 1).status, 0);
    fixture.target.detach(1).unwrap();
    assert_eq!(initiator.read(0, 1).sense, Some((5, 0x25, 0)));
}

#[test]
fn a_withdrawn_target_asks_its_sessions_to_log_out() {
    let fixture = Fixture::memory();
    let mut polite = fixture.session_of("iqn.2026-01.test:polite");
    let mut stubborn = fixture.session_of("iqn.2026-01.test:stubborn");
    assert!(fixture.directory.remove(TARGET));
    let event = |initiator: &mut Initiator| {
        let (header, _) = initiator.receive();
        assert_eq!(header.kind(), opcode::ASYNC_MESSAGE);
        let message: AsyncMessage = header.view();
        (message.event, message.parameters[2].get())
    };
    assert_eq!(event(&mut polite), (1, 5));
    assert_eq!(logout(&mut polite, 0, 0), 0);
    assert_eq!(event(&mut stubborn), (1, 5));
    assert_eq!(event(&mut stubborn).0, 3);
    assert!(polite.is_closed() && stubborn.is_closed());
    let mut late = Initiator::connect(fixture.portal());
    assert_eq!(late.log_in(TARGET, &[]).0, 0x0203);
}

#[test]
fn shutdown_tells_that_sessions_may_come_back() {
    let mut fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    let server = fixture.server.take().unwrap();
    let down = fixture
        .runtime
        .spawn(server.shutdown(Duration::from_secs(10)));
    let (header, _) = initiator.receive();
    assert_eq!(header.kind(), opcode::ASYNC_MESSAGE);
    assert_eq!(header.view::<AsyncMessage>().event, 3);
    assert!(initiator.is_closed());
    assert!(fixture.runtime.block_on(down).unwrap());
}

#[test]
fn ten_thousand_logins_and_resets_leave_nothing_behind() {
    let fixture = Fixture::memory();
    let server = fixture.server.as_ref().unwrap();
    let portal = fixture.portal();
    let threads: Vec<_> = (0..8_u8)
        .map(|thread| {
            std::thread::spawn(move || {
                for round in 0..1250_u32 {
                    let mut initiator = Initiator::connect(portal);
                    initiator.isid[4] = thread;
                    assert_eq!(initiator.log_in(TARGET, &[]).0, 0);
                    initiator.start_read(0, 8);
                    if round % 2 == 0 {
                        // A reset instead of a goodbye.
                        rustix::net::sockopt::set_socket_linger(
                            &initiator.stream,
                            Some(Duration::ZERO),
                        )
                        .unwrap();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    fixture.await_sessions(0);
    assert_eq!(server.memory_bytes(), 0);
    assert_eq!(fixture.session(&[]).read(0, 1).status, 0);
}

#[test]
fn sixty_four_sessions_and_two_hundred_fifty_six_units() {
    let fixture = Fixture::memory();
    for lun in 2..=256 {
        let disk = MemoryDisk::new(1 << 20).with_identity(u128::from(lun).to_be_bytes());
        fixture
            .target
            .attach(lun, Arc::new(disk), UnitOptions::default())
            .unwrap();
    }
    let mut sessions: Vec<Initiator> = (0..64)
        .map(|number| fixture.session_of(&format!("iqn.2026-01.test:host-{number}")))
        .collect();
    fixture.await_sessions(64);
    for (number, session) in sessions.iter_mut().enumerate() {
        let byte = number as u8;
        assert_eq!(
            session.write(number as u32 * 8, &[byte; 4096], 4096).status,
            0
        );
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        let other = (number + 17) % 64;
        assert_eq!(session.read(other as u32 * 8, 8).data, [other as u8; 4096]);
    }
    // REPORT LUNS tells of all.
    let mut cdb = [0; 12];
    cdb[0] = 0xa0;
    cdb[6..10].copy_from_slice(&4096_u32.to_be_bytes());
    let command = sessions[0].command(&cdb, 0x40, 4096);
    sessions[0].send(&command, &[]);
    let done = sessions[0].finish(command.task_tag.get());
    assert_eq!(done.data.len(), 8 + 256 * 8);
    drop(sessions);
    fixture.await_sessions(0);
}

/// Logs in to a session that there is.
fn rejoin(fixture: &Fixture, before: &Initiator, tsih: u16, cid: u16) -> (Initiator, u16, u16) {
    let mut initiator = Initiator::connect(fixture.portal());
    (initiator.cmd_sn, initiator.isid) = (before.cmd_sn, before.isid);
    let mut request = initiator.login_header(0x87);
    (request.tsih, request.cid) = (U16::new(tsih), U16::new(cid));
    let pairs = [
        ("InitiatorName", initiator.name.as_str()),
        ("TargetName", TARGET),
    ];
    let pairs = crate::initiator::text(&pairs);
    initiator.send(&request, &pairs);
    let (header, _) = initiator.receive();
    let response: iscsi::wire::LoginResponse = header.view();
    (initiator, response.status.get(), response.tsih.get())
}

#[test]
fn a_connection_is_reinstated_and_the_session_goes_on() {
    let (disk, gate) = gated();
    let fixture = Fixture::serve(disk);
    let mut first = Initiator::connect(fixture.portal());
    let name = first.name.clone();
    let pairs = [("InitiatorName", name.as_str()), ("TargetName", TARGET)];
    let (response, _) = first.login_request(0x87, &pairs);
    let tsih = response.tsih.get();
    let mut first = first.settle();
    let mut other = fixture.session_of("iqn.2026-01.test:other");
    assert_eq!(
        command(&mut first, &[0x16, 0, 0, 0, 0, 0]).status,
        0,
        "RESERVE"
    );
    // A write that runs, and one that the target never saw.
    first.start_write(0, &[1; 512], 512);
    gate.await_waiting(1);
    first.number();
    assert_eq!(
        rejoin(&fixture, &first, tsih, 8).1,
        0x0206,
        "a second connection"
    );
    first.isid[5] += 1;
    assert_eq!(
        rejoin(&fixture, &first, tsih, 7).1,
        0x020a,
        "another session's handle"
    );
    first.isid[5] -= 1;
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        gate.open();
    });
    let started = Instant::now();
    let (mut second, status, same) = rejoin(&fixture, &first, tsih, 7);
    assert_eq!((status, same), (0, tsih));
    assert!(
        started.elapsed() >= Duration::from_millis(90),
        "what ran has come to rest"
    );
    opener.join().unwrap();
    assert!(first.is_closed());
    // The nexus is the one that it was: no unit attention, and what it reserved is still its own.
    let done = second.read(0, 1);
    assert_eq!((done.status, done.sense), (0, None));
    assert_eq!(other.write(0, &[2; 512], 512).status, 0x18);
    assert_eq!(logout(&mut second, 1, 7), 0);
    fixture.await_sessions(1);
    assert_eq!(
        other.write(0, &[2; 512], 512).status,
        0,
        "the nexus was lost with the session"
    );
    assert_eq!(rejoin(&fixture, &second, tsih, 7).1, 0x020a);
}

fn command(initiator: &mut Initiator, cdb: &[u8]) -> Done {
    let request = initiator.command(cdb, Header::FINAL, 0);
    let tag = request.task_tag.get();
    initiator.send(&request, &[]);
    initiator.finish(tag)
}
