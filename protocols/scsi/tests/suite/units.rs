//! Units that come and go, what initiators are told, and what they see where nothing is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use export::MemoryDisk;
use scsi::{LunMask, ScsiError, SenseKey, Status, TaskSet, UnitOptions, encode_lun};

use crate::support::{Host, MIB, host, port_name, target, target_with_disk, vpd};

const REPORT: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
const LUNS_CHANGED: (u8, u8) = (0x3f, 0x0e);
const POWER_ON: (u8, u8) = (0x29, 0x00);

fn luns(host: &Host) -> Vec<[u8; 8]> {
    let answer = host.good(&REPORT, &[]);
    answer[8..]
        .chunks_exact(8)
        .map(|field| field.try_into().unwrap())
        .collect()
}

fn disk() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new(MIB))
}

#[test]
fn units_that_come_and_go_are_told() {
    let target = target_with_disk();
    let host = host(&target, "a");
    assert_eq!(luns(&host), [encode_lun(0)]);
    target.attach(700, disk(), UnitOptions::default()).unwrap();
    assert_eq!(host.settle(), [LUNS_CHANGED]);
    assert_eq!(luns(&host), [encode_lun(0), encode_lun(700)]);
    assert_eq!(host.at(700).settle(), [POWER_ON]);
    assert_eq!(host.at(700).read(0, 1), [0; 512]);
    target.thin_threshold_reached(700).unwrap();
    assert_eq!(host.at(700).settle(), [(0x38, 0x07)]);
    target.detach(700).unwrap();
    assert!(target.thin_threshold_reached(700).is_err());
    assert_eq!(luns(&host), [encode_lun(0)]);
    assert!(host.settle().is_empty(), "REPORT LUNS has told it");
    host.at(700)
        .bad(&[0; 6], &[], SenseKey::IllegalRequest, (0x25, 0x00));
    assert!(matches!(
        target.detach(700),
        Err(ScsiError::NoSuchLun { lun: 700 })
    ));
    assert!(matches!(
        target.attach(0, disk(), UnitOptions::default()),
        Err(ScsiError::LunTaken { lun: 0 })
    ));
    assert!(matches!(
        target.attach(0x4000, disk(), UnitOptions::default()),
        Err(ScsiError::LunTooLarge { .. })
    ));
    let options = UnitOptions {
        logical_block_bytes: 1024,
        ..UnitOptions::default()
    };
    assert!(matches!(
        target.attach(1, disk(), options),
        Err(ScsiError::BlockSize { .. })
    ));
}

#[test]
fn a_mask_hides_units_and_news_of_them() {
    let target = target_with_disk();
    target.attach(5, disk(), UnitOptions::default()).unwrap();
    let mask = LunMask::Only(BTreeSet::from([5, 6]));
    let host = Host {
        nexus: Arc::new(target.nexus(port_name("a", 1), mask)),
        lun: 5,
    };
    host.settle();
    assert_eq!(luns(&host), [encode_lun(5)]);
    host.at(0)
        .bad(&[0; 6], &[], SenseKey::IllegalRequest, (0x25, 0x00));
    target.attach(7, disk(), UnitOptions::default()).unwrap();
    assert!(host.settle().is_empty());
    target.attach(6, disk(), UnitOptions::default()).unwrap();
    assert_eq!(host.settle(), [LUNS_CHANGED]);
}

#[test]
fn nothing_at_a_lun_is_told_as_the_standard_says() {
    let host = host(&target(), "a");
    let inquiry = host.good(&[0x12, 0, 0, 0, 96, 0], &[]);
    assert_eq!(inquiry[0], 0x7f, "no device, and none could be");
    let sense = host.good(&[0x03, 0, 0, 0, 18, 0], &[]);
    assert_eq!((sense[2], sense[12]), (5, 0x25));
    assert!(luns(&host).is_empty());
    let well_known = [0xc1, 1, 0, 0, 0, 0, 0, 0];
    let mut all = REPORT;
    all[2] = 2;
    let answer = host.send_to(well_known, &all, &[]);
    assert_eq!(answer.data_in.to_vec()[8..], well_known);
    assert_eq!(host.send_to(well_known, &[0; 6], &[]).status, Status::Good);
    let inquiry = host.send_to(well_known, &vpd(0), &[]);
    assert_eq!(inquiry.data_in.to_vec(), [0x1e, 0, 0, 1, 0]);
    let odd = host.send_to([0x81, 0, 0, 0, 0, 0, 0, 0], &[0; 6], &[]);
    assert_eq!(odd.sense.unwrap().code, (0x25, 0x00));
    host.bad_field(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0], &[], Some(6));
    host.bad_field(&[0xa0, 0, 9, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], Some(2));
}

#[test]
fn attentions_come_first_but_not_before_inquiry() {
    let target = target_with_disk();
    let host = Host {
        nexus: Arc::new(target.nexus(port_name("a", 1), LunMask::All)),
        lun: 0,
    };
    host.good(&[0x12, 0, 0, 0, 96, 0], &[]);
    host.bad(&[0xff; 6], &[], SenseKey::UnitAttention, POWER_ON);
    host.bad(&[0xff; 6], &[], SenseKey::IllegalRequest, (0x20, 0x00));
    host.nexus.logical_unit_reset(encode_lun(0));
    assert_eq!(host.settle(), [(0x29, 0x03)], "who resets is told, too");
    let other = Host {
        nexus: Arc::new(target.nexus(port_name("b", 1), LunMask::All)),
        lun: 0,
    };
    let sense = other.good(&[0x03, 0, 0, 0, 18, 0], &[]);
    assert_eq!((sense[2], sense[12]), (6, 0x29), "REQUEST SENSE takes it");
    assert_eq!(other.good(&[0x03, 1, 0, 0, 18, 0], &[])[..2], [0x72, 0]);
    host.nexus.target_reset();
    assert_eq!(other.settle(), [(0x29, 0x03)]);
    assert!(!host.nexus.logical_unit_reset(encode_lun(9)));
}

/// Notes which units' tasks it was told to abort.
#[derive(Default)]
struct Aborted(Mutex<Vec<u16>>);

impl TaskSet for Aborted {
    fn abort_all(&self, lun: u16) {
        self.0.lock().unwrap().push(lun);
    }
}

#[test]
fn a_reset_aborts_the_tasks_of_others() {
    let target = target_with_disk();
    let (one, two) = (host(&target, "a"), host(&target, "b"));
    let (own, others) = (Arc::new(Aborted::default()), Arc::new(Aborted::default()));
    one.nexus.set_task_set(own.clone());
    two.nexus.set_task_set(others.clone());
    one.nexus.logical_unit_reset(encode_lun(0));
    assert!(own.0.lock().unwrap().is_empty(), "its transport knows");
    assert_eq!(*others.0.lock().unwrap(), [0]);
}
