//! Who is let in, and what is agreed on.

use std::sync::Arc;

use export::{BlockingPool, MemoryDisk};
use iscsi::wire::{TextRequest, decode_binary, encode_hex, opcode};
use iscsi::{Authentication, ChapAccount, ChapAlgorithm, ChapPolicy, Limits, Secret};
use scsi::{LunMask, UnitOptions};
use zerocopy::big_endian::U16;

use crate::initiator::{Initiator, text, value};
use crate::support::{Fixture, TARGET, new_target};

#[test]
fn every_key_of_a_login_is_answered() {
    let fixture = Fixture::memory();
    let mut initiator = Initiator::connect(fixture.portal());
    let keys = [
        ("HeaderDigest", "None"),
        ("MaxBurstLength", "1048576"),
        ("MaxConnections", "4"),
        ("ErrorRecoveryLevel", "1"),
        ("X-com.example.speed", "11"),
        ("IFMarker", "No"),
    ];
    let (status, answers) = initiator.log_in(TARGET, &keys);
    assert_eq!(status, 0);
    let check = |key: &str, wanted: &str| assert_eq!(value(&answers, key), wanted, "{key}");
    check("TargetPortalGroupTag", "1");
    check("TargetAlias", "for tests");
    check("HeaderDigest", "None");
    check("MaxBurstLength", "1048576");
    check("MaxConnections", "1");
    check("ErrorRecoveryLevel", "0");
    check("X-com.example.speed", "NotUnderstood");
    check("IFMarker", "No");
    check("MaxRecvDataSegmentLength", "1048576");
}

#[test]
fn a_login_in_many_steps_and_pieces() {
    let fixture = Fixture::memory();
    let mut initiator = Initiator::connect(fixture.portal());
    // A key is cut in two between PDUs that go on.
    let names = text(&[
        ("InitiatorName", "iqn.2026-01.test:pieces"),
        ("TargetName", TARGET),
        ("AuthMethod", "CHAP,None"),
    ]);
    let (first, second) = names.split_at(20);
    let (response, answers) = initiator.login_bytes(0x40, first);
    assert_eq!((response.flags, answers.len()), (0, 0));
    let (response, answers) = initiator.login_bytes(0x81, second);
    assert_eq!((response.flags, response.status.get()), (0x81, 0));
    assert_eq!(value(&answers, "AuthMethod"), "None");
    let (response, _) = initiator.login_request(0x04, &[("InitialR2T", "No")]);
    assert_eq!((response.flags, response.tsih.get()), (0x04, 0));
    let (response, _) = initiator.login_request(0x87, &[]);
    assert_eq!((response.flags, response.status.get()), (0x87, 0));
    assert_ne!(response.tsih.get(), 0);
    assert_eq!(response.max_cmd_sn.get(), 128, "the window is open");
    drop(initiator.settle());
}

#[test]
fn logins_that_are_refused() {
    let fixture = Fixture::memory();
    let named = [("InitiatorName", "iqn.a"), ("TargetName", TARGET)];
    let check = |flags: u8, pairs: &[(&str, &str)], wanted: u16| {
        let mut initiator = Initiator::connect(fixture.portal());
        let (response, _) = initiator.login_request(flags, pairs);
        assert_eq!(response.status.get(), wanted, "{pairs:?}");
        assert!(initiator.is_closed());
    };
    check(0x87, &[("TargetName", TARGET)], 0x0207);
    check(0x87, &[("InitiatorName", "iqn.a")], 0x0207);
    check(
        0x87,
        &[("InitiatorName", "iqn.a,b"), ("TargetName", TARGET)],
        0x0200,
    );
    check(
        0x87,
        &[("InitiatorName", "iqn.a"), ("TargetName", "iqn.b")],
        0x0203,
    );
    check(
        0x87,
        &[("InitiatorName", "iqn.a"), ("SessionType", "Odd")],
        0x0209,
    );
    check(0x81, &[named[0], named[1], ("AuthMethod", "KRB5")], 0x0201);
    check(0x87, &[named[0], named[1], ("MaxBurstLength", "1")], 0x0200);
    let twice = ("DataDigest", "None");
    check(0x87, &[named[0], named[1], twice, twice], 0x0200);
    // Stages that do not follow one another.
    check(0x8b, &named, 0x0200);
    check(0x84, &named, 0x0200);
    check(0xc7, &named, 0x0200);
}

#[test]
fn other_versions_and_sessions_are_refused() {
    let fixture = Fixture::memory();
    let pairs = text(&[("InitiatorName", "iqn.a"), ("TargetName", TARGET)]);
    let check = |version: u8, tsih: u16, wanted: u16| {
        let mut initiator = Initiator::connect(fixture.portal());
        let mut request = initiator.login_header(0x87);
        request.version_min = version;
        request.tsih = U16::new(tsih);
        initiator.send(&request, &pairs);
        let (header, _) = initiator.receive();
        let response: iscsi::wire::LoginResponse = header.view();
        assert_eq!(response.status.get(), wanted);
    };
    check(1, 0, 0x0205);
    check(0, 4711, 0x020a);
    let mut first = Initiator::connect(fixture.portal());
    first.name = "iqn.first".to_owned();
    let (response, _) = first.login_request(
        0x87,
        &[("InitiatorName", "iqn.first"), ("TargetName", TARGET)],
    );
    // The session is there, and another initiator's.
    check(0, response.tsih.get(), 0x020a);
}

#[test]
fn only_those_who_may_see_a_target_do() {
    let fixture = Fixture::empty(Limits::default(), BlockingPool::start(1, 8).unwrap());
    let disk = || Arc::new(MemoryDisk::new(1 << 20));
    fixture
        .target
        .attach(1, disk(), UnitOptions::default())
        .unwrap();
    fixture
        .target
        .attach(
            2,
            Arc::new(MemoryDisk::new(1 << 20).with_identity([2; 16])),
            UnitOptions::default(),
        )
        .unwrap();
    let only = LunMask::Only([2].into());
    fixture.allow("iqn.2026-01.test:allowed-*", only, Authentication::None);
    let mut initiator = Initiator::connect(fixture.portal());
    assert_eq!(initiator.log_in(TARGET, &[]).0, 0x0202);
    let targets = |name: &str| {
        let mut initiator = Initiator::connect(fixture.portal());
        initiator.name = name.to_owned();
        assert_eq!(initiator.log_in("", &[]).0, 0);
        initiator.text(&[("SendTargets", "All")])
    };
    assert_eq!(targets("iqn.2026-01.test:other"), []);
    let seen = targets("iqn.2026-01.test:allowed-1");
    let address = |number: usize| seen[number].1.clone();
    assert_eq!(value(&seen, "TargetName"), TARGET);
    assert_eq!(address(1), format!("{},1", fixture.portal()));
    assert_eq!(address(2), format!("{},2", fixture.second_portal()));
    // The unit that is not shown is not there.
    let mut initiator = Initiator::connect(fixture.portal());
    initiator.name = "iqn.2026-01.test:allowed-1".to_owned();
    assert_eq!(initiator.log_in(TARGET, &[]).0, 0);
    let mut ready = |lun: u8| {
        for _ in 0..3 {
            let mut command = initiator.command(&[0; 6], 0, 0);
            command.lun[1] = lun;
            initiator.send(&command, &[]);
            let done = initiator.finish(command.task_tag.get());
            match done.sense {
                Some((6, ..)) => {}
                sense => return sense,
            }
        }
        panic!("attentions do not end");
    };
    assert_eq!(ready(1), Some((5, 0x25, 0)));
    assert_eq!(ready(2), None);
}

#[test]
fn discovery_of_many_targets_takes_many_pdus() {
    let fixture = Fixture::memory();
    for number in 0..300 {
        let target = new_target(&format!("iqn.2026-01.test:disk-{number:03}"));
        let rule = iscsi::AccessRule {
            initiators: iscsi::InitiatorPattern::new("*"),
            luns: LunMask::All,
            authentication: Authentication::None,
        };
        fixture.directory.add(target, "", vec![rule]);
    }
    let keys = [("MaxRecvDataSegmentLength", "512")];
    let mut initiator = Initiator::session(fixture.portal(), "", &keys);
    let all = initiator.text(&[("SendTargets", "All")]);
    assert_eq!(all.len(), 301 * 3);
    let one = initiator.text(&[("SendTargets", "iqn.2026-01.test:disk-117")]);
    assert_eq!(one.len(), 3);
    // A command makes no sense here.
    let command = initiator.command(&[0; 6], 0, 0);
    initiator.send(&command, &[]);
    assert_eq!(initiator.receive().0.kind(), opcode::REJECT);
}

#[test]
fn text_in_full_feature_phase() {
    let fixture = Fixture::memory();
    let mut initiator = fixture.session(&[]);
    let answers = initiator.text(&[
        ("SendTargets", ""),
        ("MaxBurstLength", "512"),
        ("X-unknown", "1"),
        ("MaxRecvDataSegmentLength", "1024"),
    ]);
    assert_eq!(value(&answers, "TargetName"), TARGET);
    assert_eq!(value(&answers, "MaxBurstLength"), "Reject");
    assert_eq!(value(&answers, "X-unknown"), "NotUnderstood");
    // The new length holds: four blocks come in two PDUs.
    let tag = initiator.start_read(0, 4);
    let (first, data) = initiator.receive();
    assert_eq!((first.kind(), data.len()), (opcode::DATA_IN, 1024));
    let (second, data) = initiator.receive();
    assert_eq!((second.task_tag.get(), data.len()), (tag, 1024));
    let answers = initiator.text(&[("SendTargets", "All")]);
    assert_eq!(value(&answers, "SendTargets"), "Reject");
    // An answer to nothing.
    let mut stray = TextRequest {
        opcode: opcode::TEXT_REQUEST,
        flags: 0x80,
        ..TextRequest::default()
    };
    stray.transfer_tag.set(77);
    stray.cmd_sn.set(initiator.number());
    initiator.send(&stray, &[]);
    assert_eq!(initiator.receive().0.kind(), opcode::REJECT);
}

fn chap_fixture() -> Fixture {
    let account = |name: &str, secret: &[u8]| ChapAccount {
        name: name.to_owned(),
        secret: Secret::new(secret).unwrap(),
    };
    let fixture = Fixture::empty(Limits::default(), BlockingPool::start(1, 8).unwrap());
    let disk = Arc::new(MemoryDisk::new(1 << 20));
    fixture
        .target
        .attach(1, disk, UnitOptions::default())
        .unwrap();
    let policy = ChapPolicy {
        accounts: vec![account("user", b"the user's secret")],
        own: Some(account("target", b"the target's secret")),
        algorithms: ChapAlgorithm::ALL.to_vec(),
    };
    fixture.allow("*", LunMask::All, Authentication::Chap(Arc::new(policy)));
    fixture
}

/// The challenge of a login that offers `algorithms`: algorithm, identifier, bytes.
fn challenged(fixture: &Fixture, algorithms: &str) -> (Initiator, ChapAlgorithm, u8, Vec<u8>) {
    let mut initiator = Initiator::connect(fixture.portal());
    let (response, answers) = initiator.login_request(
        0x00,
        &[
            ("InitiatorName", "iqn.a"),
            ("TargetName", TARGET),
            ("AuthMethod", "CHAP,None"),
        ],
    );
    assert_eq!((response.status.get(), response.flags), (0, 0));
    assert_eq!(value(&answers, "AuthMethod"), "CHAP");
    let (_, answers) = initiator.login_request(0x00, &[("CHAP_A", algorithms)]);
    let number = value(&answers, "CHAP_A").parse().unwrap();
    let algorithm = ChapAlgorithm::from_number(number).unwrap();
    let identifier = value(&answers, "CHAP_I").parse().unwrap();
    let challenge = decode_binary(value(&answers, "CHAP_C"), 1024).unwrap();
    (initiator, algorithm, identifier, challenge)
}

#[test]
fn chap_in_both_directions_with_every_algorithm() {
    let fixture = chap_fixture();
    for (offer, wanted) in [
        ("5", ChapAlgorithm::Md5),
        ("6,7", ChapAlgorithm::Sha256),
        ("8,7,5", ChapAlgorithm::Sha3_256),
    ] {
        let (mut initiator, algorithm, identifier, challenge) = challenged(&fixture, offer);
        assert_eq!(algorithm, wanted);
        let secret = Secret::new(b"the user's secret").unwrap();
        let proof = encode_hex(&algorithm.response(identifier, &secret, &challenge));
        let pairs = [
            ("CHAP_N", "user"),
            ("CHAP_R", proof.as_str()),
            ("CHAP_I", "9"),
            ("CHAP_C", "0x0102030405060708090a0b0c0d0e0f10"),
        ];
        let (response, answers) = initiator.login_request(0x81, &pairs);
        assert_eq!((response.status.get(), response.flags), (0, 0x81));
        assert_eq!(value(&answers, "CHAP_N"), "target");
        let secret = Secret::new(b"the target's secret").unwrap();
        let asked: Vec<u8> = (1..=16).collect();
        let wanted = algorithm.response(9, &secret, &asked);
        assert_eq!(value(&answers, "CHAP_R"), encode_hex(&wanted));
        let (response, _) = initiator.login_request(0x87, &[]);
        assert_eq!(response.status.get(), 0);
        drop(initiator.settle());
    }
}

#[test]
fn without_the_proof_nobody_gets_in() {
    let fixture = chap_fixture();
    let names = [("InitiatorName", "iqn.a"), ("TargetName", TARGET)];
    let check = |flags: u8, pairs: &[(&str, &str)]| {
        let mut initiator = Initiator::connect(fixture.portal());
        let (response, _) = initiator.login_request(flags, pairs);
        assert_eq!(response.status.get(), 0x0201, "{pairs:?}");
    };
    // Straight to the operational stage, past the question, and with the wrong method.
    check(0x87, &names);
    check(0x81, &names);
    check(0x83, &names);
    check(0x00, &[names[0], names[1], ("AuthMethod", "None")]);
    // SHA-1 alone.
    let mut initiator = Initiator::connect(fixture.portal());
    initiator.login_request(0x00, &[names[0], names[1], ("AuthMethod", "CHAP")]);
    let (response, _) = initiator.login_request(0x00, &[("CHAP_A", "6")]);
    assert_eq!(response.status.get(), 0x0201);
    // Wrong answers.
    let answer = |name: &str, secret: &[u8], reflect: bool| {
        let (mut initiator, algorithm, identifier, challenge) = challenged(&fixture, "7");
        let secret = Secret::new(secret).unwrap();
        let proof = encode_hex(&algorithm.response(identifier, &secret, &challenge));
        let own = encode_hex(&challenge);
        let mut pairs = vec![("CHAP_N", name), ("CHAP_R", proof.as_str())];
        if reflect {
            pairs.extend([("CHAP_I", "1"), ("CHAP_C", own.as_str())]);
        }
        let (response, answers) = initiator.login_request(0x81, &pairs);
        assert!(!answers.iter().any(|(key, _)| key == "CHAP_R"));
        response.status.get()
    };
    assert_eq!(answer("user", b"the user's secret", false), 0);
    assert_eq!(answer("user", b"some other secret", false), 0x0201);
    assert_eq!(answer("nobody", b"the user's secret", false), 0x0201);
    assert_eq!(
        answer("user", b"the user's secret", true),
        0x0201,
        "reflected"
    );
}
