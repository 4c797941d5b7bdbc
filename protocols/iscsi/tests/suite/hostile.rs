//! Peers that mean no good: any bytes, to every parser.

use iscsi::fuzz;
use iscsi::wire::{HEADER_LENGTH, opcode};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that look like PDUs often enough to get somewhere.
fn pdus() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(opcode::SCSI_COMMAND),
        Just(opcode::DATA_OUT),
        Just(opcode::TASK_MANAGEMENT_REQUEST),
        Just(opcode::TEXT_REQUEST),
        Just(opcode::LOGIN_REQUEST),
        Just(opcode::LOGOUT_REQUEST),
        Just(opcode::NOP_OUT),
        any::<u8>(),
    ];
    let pdu = (
        kind,
        any::<[u8; 48]>(),
        vec(any::<u8>(), 0..64),
        0..4_u8,
        any::<bool>(),
    );
    let pdu = pdu.prop_map(|(kind, mut header, data, tag, is_immediate)| {
        header[0] = kind | if is_immediate { 0x40 } else { 0 };
        header[4] = 0;
        header[5..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes()[1..]);
        header[8..16].fill(0);
        // Few tags and numbers, so that PDUs concern one another.
        header[16..20].copy_from_slice(&[0, 0, 0, tag]);
        header[24..28].copy_from_slice(&[0, 0, 0, tag]);
        header[32] = [0x00, 0x12, 0x28, 0x2a, 0x8a, 0x41, 0x42, 0xa0][usize::from(header[32] % 8)];
        let mut bytes = header.to_vec();
        assert_eq!(bytes.len(), HEADER_LENGTH);
        bytes.extend_from_slice(&data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    });
    (any::<u8>(), vec(pdu, 1..12))
        .prop_map(|(control, pdus)| [vec![control], pdus.concat()].concat())
}

/// The bytes of login requests with these texts.
fn logins() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        Just("InitiatorName=iqn.2026-01.fuzz:initiator\0TargetName=iqn.2026-01.fuzz:target\0"),
        Just("InitiatorName=iqn.2026-01.fuzz:initiator\0SessionType=Discovery\0"),
        Just("AuthMethod=CHAP,None\0"),
        Just("CHAP_A=5,7,8\0"),
        Just("CHAP_N=user\0CHAP_R=0x00\0CHAP_I=1\0CHAP_C=0b0000\0"),
        Just("HeaderDigest=CRC32C\0MaxBurstLength=512\0FirstBurstLength=0x1000\0"),
        Just("X-what=1\0"),
        Just(""),
    ];
    let request = (vec(text, 1..4), any::<u8>(), any::<bool>());
    let request = request.prop_map(|(texts, flags, from_start)| {
        let text = texts.concat();
        let mut header = [0; 48];
        header[0] = 0x43;
        header[1] = if from_start {
            flags & 0x83
        } else {
            flags & 0xcf
        };
        header[5..8].copy_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes()[1..]);
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    });
    (any::<u8>(), vec(request, 1..6))
        .prop_map(|(control, all)| [vec![control], all.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_at_a_login(data in vec(any::<u8>(), 0..512)) {
        fuzz::fuzz_login(&data);
    }

    #[test]
    fn requests_at_a_login(data in logins()) {
        fuzz::fuzz_login(&data);
    }

    #[test]
    fn any_bytes_in_a_text(data in vec(any::<u8>(), 0..256)) {
        fuzz::fuzz_text(&data);
    }

    #[test]
    fn any_bytes_at_a_session(data in vec(any::<u8>(), 0..512)) {
        fuzz::fuzz_session(&data);
    }

    #[test]
    fn pdus_at_a_session(data in pdus()) {
        fuzz::fuzz_session(&data);
    }
}
