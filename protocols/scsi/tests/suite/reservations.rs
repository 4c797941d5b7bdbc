//! Reservations, as initiators see them.

use std::io;
use std::sync::{Arc, Mutex};

use export::MemoryDisk;
use scsi::{ReservationStore, SenseKey, Target, UnitOptions};

use crate::support::{
    Host, INVALID_FIELD_IN_CDB, INVALID_FIELD_IN_PARAMETERS, MIB, PARAMETER_LIST_LENGTH, cdb10,
    host, host_at, target_with, target_with_disk,
};

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
const MOVE: u8 = 7;

fn out_cdb(action: u8, kind: u8, length: u32) -> [u8; 10] {
    let [one, two, three, four] = length.to_be_bytes();
    [0x5f, action, kind, 0, 0, one, two, three, four, 0]
}

fn list(key: u64, service_key: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), service_key.to_be_bytes()].concat();
    list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
    list
}

/// Sends a PERSISTENT RESERVE OUT that must succeed.
fn out(host: &Host, action: u8, kind: u8, key: u64, service_key: u64) {
    host.good(&out_cdb(action, kind, 24), &list(key, service_key, 0));
}

fn out_conflict(host: &Host, action: u8, kind: u8, key: u64, service_key: u64) {
    host.conflict(&out_cdb(action, kind, 24), &list(key, service_key, 0));
}

fn query(host: &Host, action: u8) -> Vec<u8> {
    host.good(&[0x5e, action, 0, 0, 0, 0, 0, 4, 0, 0], &[])
}

fn keys(host: &Host) -> Vec<u64> {
    let answer = query(host, 0);
    answer[8..]
        .chunks_exact(8)
        .map(|key| u64::from_be_bytes(key.try_into().unwrap()))
        .collect()
}

/// Key and type of the reservation.
fn reservation(host: &Host) -> Option<(u64, u8)> {
    let answer = query(host, 1);
    let content = answer.get(8..24)?;
    Some((
        u64::from_be_bytes(content[..8].try_into().unwrap()),
        content[13],
    ))
}

/// Whether a host may read and write.
fn access(host: &Host) -> (bool, bool) {
    let may = |cdb: &[u8], data: &[u8]| {
        let response = host.send(cdb, data);
        if response.status == scsi::Status::Good {
            return true;
        }
        host.conflict(cdb, data);
        false
    };
    (
        may(&cdb10(0x28, 0, 0, 1), &[]),
        may(&cdb10(0x2a, 0, 0, 1), &[0; 512]),
    )
}

#[test]
fn each_type_admits_whom_it_should() {
    for (kind, registrant, stranger) in [
        (1, (true, false), (true, false)),
        (3, (false, false), (false, false)),
        (5, (true, true), (true, false)),
        (6, (true, true), (false, false)),
        (7, (true, true), (true, false)),
        (8, (true, true), (false, false)),
    ] {
        let target = target_with_disk();
        let (holder, other) = (host(&target, "a"), host(&target, "b"));
        out(&holder, REGISTER, 0, 0, 1);
        out(&other, REGISTER, 0, 0, 2);
        out(&holder, RESERVE, kind, 1, 0);
        let late = host(&target, "c");
        assert_eq!(access(&holder), (true, true), "type {kind}");
        assert_eq!(access(&other), registrant, "type {kind}");
        assert_eq!(access(&late), stranger, "type {kind}, who came later");
        late.good(&[0; 6], &[]);
        late.good(&cdb10(0x25, 0, 0, 0), &[]);
        late.conflict(&cdb10(0x35, 0, 0, 0), &[]);
        let key = if kind > 6 { 0 } else { 1 };
        assert_eq!(reservation(&late), Some((key, kind)));
        out(&holder, RELEASE, kind, 1, 0);
        assert_eq!(access(&late), (true, true));
    }
}

#[test]
fn registering_goes_by_the_key_that_is_there() {
    let target = target_with_disk();
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    assert!(keys(&one).is_empty());
    out_conflict(&one, REGISTER, 0, 5, 1);
    out(&one, REGISTER, 0, 0, 1);
    out_conflict(&one, REGISTER, 0, 0, 2);
    out(&one, REGISTER, 0, 1, 2);
    out(&two, REGISTER_AND_IGNORE, 0, 77, 3);
    assert_eq!(keys(&one), [2, 3]);
    assert_eq!(query(&one, 0)[..4], [0, 0, 0, 3], "PRGENERATION");
    out_conflict(&two, RESERVE, 1, 2, 0);
    out_conflict(&host(&target, "c"), RESERVE, 1, 0, 0);
    out(&two, REGISTER, 0, 3, 0);
    assert_eq!(keys(&one), [2]);
}

#[test]
fn a_preempted_host_is_told_and_locked_out() {
    let target = target_with_disk();
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    out(&one, REGISTER, 0, 0, 1);
    out(&two, REGISTER, 0, 0, 2);
    out(&one, RESERVE, 5, 1, 0);
    out(&two, PREEMPT, 5, 2, 1);
    assert_eq!(one.settle(), [(0x2a, 0x05)]);
    assert_eq!(access(&one), (true, false));
    assert_eq!((keys(&two), reservation(&two)), (vec![2], Some((2, 5))));
    out(&one, REGISTER, 0, 0, 9);
    out(&two, PREEMPT_AND_ABORT, 5, 2, 9);
    assert_eq!(one.settle(), [(0x2a, 0x05)]);
    out_conflict(&two, PREEMPT, 5, 2, 9);
    out(&two, CLEAR, 0, 2, 0);
    assert_eq!((keys(&two), reservation(&two)), (vec![], None));
}

#[test]
fn clear_and_release_tell_the_others() {
    let target = target_with_disk();
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    for (kind, told) in [(1, vec![]), (7, vec![(0x2a, 0x04)])] {
        out(&one, REGISTER_AND_IGNORE, 0, 0, 1);
        out(&two, REGISTER_AND_IGNORE, 0, 0, 2);
        out(&one, RESERVE, kind, 1, 0);
        let wrong = out_cdb(RELEASE, 3, 24);
        one.bad(
            &wrong,
            &list(1, 0, 0),
            SenseKey::IllegalRequest,
            (0x26, 0x04),
        );
        out(&one, RELEASE, kind, 1, 0);
        assert_eq!(two.settle(), told);
        out(&one, CLEAR, 0, 1, 0);
        assert_eq!(two.settle(), [(0x2a, 0x03)]);
    }
}

#[test]
fn a_registration_belongs_to_a_pair_of_ports() {
    let target = target_with_disk();
    let (near, far) = (host_at(&target, "a", 1), host_at(&target, "a", 2));
    out(&near, REGISTER, 0, 0, 1);
    out(&near, RESERVE, 1, 1, 0);
    assert_eq!(access(&far), (true, false));
    out(&near, CLEAR, 0, 1, 0);
    // ALL_TG_PT
    near.good(&out_cdb(REGISTER, 0, 24), &list(0, 4, 0x04));
    assert_eq!(keys(&near), [4, 4]);
    out(&far, RESERVE, 5, 4, 0);
    assert_eq!(access(&near), (true, true));
    let status = query(&near, 3);
    assert_eq!(status[8 + 12] & 1, 0, "the near one does not hold");
    let next = 8 + 24 + usize::from(status[8 + 23]);
    assert_eq!(status[next + 12..next + 14], [1, 5], "the far one does");
    assert_eq!(status[next + 19], 2, "through port 2");
    assert_eq!(status[8 + 24], 0x45, "an iSCSI port");
}

#[test]
fn others_are_registered_by_name_and_reservations_are_handed_over() {
    let target = target_with_disk();
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    let id = {
        let name = b"iqn.2026-01.org.example:b,i,0x000000000001\0\0";
        let mut id = vec![0x45, 0, 0, name.len() as u8];
        id.extend_from_slice(name);
        id
    };
    let mut named = list(0, 6, 0x08);
    named.extend_from_slice(&(id.len() as u32).to_be_bytes());
    named.extend_from_slice(&id);
    one.good(&out_cdb(REGISTER, 0, named.len() as u32), &named);
    assert_eq!(keys(&one), [6, 6]);
    out(&two, RESERVE, 1, 6, 0);
    let mut handed = [6_u64.to_be_bytes(), 8_u64.to_be_bytes()].concat();
    handed.extend_from_slice(&[0, 0x02, 0, 2]);
    handed.extend_from_slice(&(id.len() as u32).to_be_bytes());
    handed.extend_from_slice(&id);
    one.conflict(&out_cdb(MOVE, 0, handed.len() as u32), &handed);
    two.good(&out_cdb(MOVE, 0, handed.len() as u32), &handed);
    assert_eq!(reservation(&one), Some((8, 1)));
    assert_eq!(access(&two), (true, false), "through port 1 no more");
    assert_eq!(access(&host_at(&target, "b", 2)), (true, true));
    let broken = &named[..named.len() - 4];
    host(&target, "c").bad(
        &out_cdb(REGISTER, 0, broken.len() as u32),
        broken,
        SenseKey::IllegalRequest,
        PARAMETER_LIST_LENGTH,
    );
}

#[test]
fn wrong_requests_are_named() {
    let target = target_with_disk();
    let host = host(&target, "a");
    out(&host, REGISTER, 0, 0, 1);
    let bad = |cdb: &[u8], list: &[u8], code| {
        host.bad(cdb, list, SenseKey::IllegalRequest, code);
    };
    bad(
        &out_cdb(RESERVE, 2, 24),
        &list(1, 0, 0),
        INVALID_FIELD_IN_CDB,
    );
    bad(
        &out_cdb(RESERVE, 0x11, 24),
        &list(1, 0, 0),
        INVALID_FIELD_IN_CDB,
    );
    bad(
        &out_cdb(RESERVE, 1, 20),
        &list(1, 0, 0),
        PARAMETER_LIST_LENGTH,
    );
    bad(&out_cdb(RESERVE, 1, 28), &[0; 28], PARAMETER_LIST_LENGTH);
    bad(&out_cdb(REGISTER, 0, 1 << 20), &[], PARAMETER_LIST_LENGTH);
    bad(
        &out_cdb(REGISTER, 0, 24),
        &list(1, 2, 1),
        INVALID_FIELD_IN_PARAMETERS,
    );
    bad(
        &out_cdb(REGISTER, 0, 24),
        &list(1, 2, 8),
        INVALID_FIELD_IN_PARAMETERS,
    );
    bad(
        &out_cdb(PREEMPT, 1, 24),
        &list(1, 0, 0),
        INVALID_FIELD_IN_PARAMETERS,
    );
    bad(&out_cdb(8, 1, 24), &list(1, 0, 0), INVALID_FIELD_IN_CDB);
    bad(
        &[0x5e, 4, 0, 0, 0, 0, 0, 4, 0, 0],
        &[],
        INVALID_FIELD_IN_CDB,
    );
    assert_eq!(
        query(&host, 2),
        [0, 8, 0x1c, 0x80, 0xea, 1, 0, 0],
        "capabilities"
    );
}

/// A store in memory that can be told to fail.
#[derive(Default)]
struct Store {
    document: Mutex<Option<Vec<u8>>>,
    fails: Mutex<bool>,
}

impl ReservationStore for Store {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.document.lock().unwrap().clone())
    }
    fn save(&self, document: &[u8]) -> io::Result<()> {
        if *self.fails.lock().unwrap() {
            return Err(io::Error::other("the disk is gone"));
        }
        *self.document.lock().unwrap() = Some(document.to_vec());
        Ok(())
    }
}

fn persistent(store: &Arc<Store>) -> Arc<Target> {
    let options = UnitOptions {
        reservations: Some(store.clone()),
        ..UnitOptions::default()
    };
    target_with(Arc::new(MemoryDisk::new(MIB)), options)
}

#[test]
fn registrations_with_aptpl_survive_a_restart() {
    let store = Arc::new(Store::default());
    let target = persistent(&store);
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    assert_eq!(query(&one, 2)[2..4], [0x1d, 0x80]);
    one.good(&out_cdb(REGISTER, 0, 24), &list(0, 1, 1));
    two.good(&out_cdb(REGISTER, 0, 24), &list(0, 2, 1));
    out(&one, RESERVE, 5, 1, 0);
    drop((one, two));

    let target = persistent(&store);
    let (one, late) = (host(&target, "a"), host(&target, "c"));
    assert_eq!((keys(&one), reservation(&one)), (vec![1, 2], Some((1, 5))));
    assert_eq!(query(&one, 0)[..4], [0; 4], "PRGENERATION begins again");
    assert_eq!((access(&one), access(&late)), ((true, true), (true, false)));

    *store.fails.lock().unwrap() = true;
    one.bad(
        &out_cdb(RELEASE, 5, 24),
        &list(1, 0, 0),
        SenseKey::HardwareError,
        (0x44, 0x00),
    );
    assert_eq!(
        reservation(&one),
        Some((1, 5)),
        "what is not safe is not done"
    );
    *store.fails.lock().unwrap() = false;
    out(&one, REGISTER, 0, 1, 4);
    drop((one, late));
    let target = persistent(&store);
    assert!(keys(&host(&target, "a")).is_empty(), "APTPL was taken back");

    *store.document.lock().unwrap() = Some(b"nonsense".to_vec());
    let options = UnitOptions {
        reservations: Some(store.clone()),
        ..UnitOptions::default()
    };
    let refused = target.attach(1, Arc::new(MemoryDisk::new(MIB)), options);
    assert!(
        refused.is_err(),
        "nobody is let in by a document that is hurt"
    );
}

#[test]
fn reserve_holds_the_unit_for_one_nexus() {
    let target = target_with_disk();
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    one.good(&reserve, &[]);
    one.good(&reserve, &[]);
    two.conflict(&reserve, &[]);
    two.conflict(&[0; 6], &[]);
    two.conflict(&out_cdb(REGISTER, 0, 24), &list(0, 1, 0));
    one.conflict(&out_cdb(REGISTER, 0, 24), &list(0, 1, 0));
    two.good(&[0x12, 0, 0, 0, 96, 0], &[]);
    two.good(&release, &[]);
    two.conflict(&[0; 6], &[]);
    one.good(&release, &[]);
    two.good(&[0; 6], &[]);

    two.good(&[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    one.conflict(&[0; 6], &[]);
    drop(two);
    one.good(&[0; 6], &[]);

    let two = host(&target, "b");
    one.good(&reserve, &[]);
    two.nexus.logical_unit_reset([0; 8]);
    two.settle();
    two.good(&[0; 6], &[]);
    assert_eq!(one.settle(), [(0x29, 0x03)]);

    out(&one, REGISTER, 0, 0, 1);
    one.good(&reserve, &[]);
    two.good(&[0; 6], &[]);
    two.conflict(&reserve, &[]);
}
