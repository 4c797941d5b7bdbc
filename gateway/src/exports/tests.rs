//! The adapters over a real repository.

use std::sync::Arc;

use bytes::Bytes;
use export::contract::block;
use export::{BlockExport, Durability};
use repo::clock::{Clock as _, SystemClock};
use repo::disk::{Fault, SimulatedDisk};
use repo::overlay::{MemoryPages, Overlay, OverlayKeys, OverlayRecord, OverlaySettings};
use repo::{
    CreateOptions, ImageBase, ImageSpec, OpenOptions, Point, PointKind, Repository, WorkloadName,
};
use scsi::SenseKey;
use tempfile::TempDir;

use super::{EarlierPoints, Exports, OverlayDisk, PointDisk, ServedSession, ServedTarget};
use crate::config::Peers;

struct Store {
    repository: Repository,
    _folder: TempDir,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("repository");
        Repository::create(&root, &CreateOptions::default()).unwrap();
        let repository = Repository::open(&root, &OpenOptions::default()).unwrap();
        Self {
            repository,
            _folder: folder,
        }
    }

    fn back_up(&self, content: &[u8]) -> Arc<Point> {
        self.back_up_sparse(content.len() as u64, content)
    }

    /// A disk that begins with `content`, and is zero from there on.
    fn back_up_sparse(&self, size_bytes: u64, content: &[u8]) -> Arc<Point> {
        let workload = WorkloadName::parse("test").unwrap();
        let mut backup = self.repository.begin(&workload, PointKind::Full).unwrap();
        let spec = ImageSpec {
            name: "disk-0".to_owned(),
            size_bytes,
            base: ImageBase::Nothing,
        };
        let mut image = backup.image(&spec).unwrap();
        image.write(0, Bytes::copy_from_slice(content)).unwrap();
        backup.finish_image(image).unwrap();
        backup.commit().unwrap()
    }

    fn earlier(&self, point: &Point) -> EarlierPoints {
        EarlierPoints::new(self.repository.clone(), point, 0).unwrap()
    }

    fn point_disk(&self, point: &Point) -> PointDisk {
        let image = self.repository.image(point, 0).unwrap();
        PointDisk::new(image, self.earlier(point), [1; 16])
    }

    fn overlay_disk(&self, point: &Point) -> OverlayDisk {
        let overlay = self.repository.create_overlay(point, 0).unwrap();
        OverlayDisk::new(overlay, self.earlier(point))
    }
}

#[test]
fn a_disk_of_a_point_keeps_the_contract() {
    let store = Store::new();
    let mut content = vec![0; 10 * 65536 + 512];
    for (index, byte) in content.iter_mut().enumerate().skip(70_000).take(200_000) {
        *byte = u8::try_from(index % 251).unwrap();
    }
    let point = store.back_up(&content);
    block::check_read_only(&store.point_disk(&point), &content);
}

#[test]
fn an_overlay_keeps_the_contract() {
    let store = Store::new();
    block::check_over(|content| {
        let point = store.back_up(content);
        Arc::new(store.overlay_disk(&point)) as Arc<dyn BlockExport>
    });
}

#[test]
fn change_maps_show_what_differs_from_earlier_points() {
    const CHUNK: usize = 65536;
    let store = Store::new();
    let mut content = vec![1; 8 * CHUNK];
    let first = store.back_up(&content);
    content[2 * CHUNK] = 2;
    store.back_up(&content);
    content[5 * CHUNK] = 3;
    let third = store.back_up(&content);
    let chunks = |count: u64| count * CHUNK as u64;

    assert!(store.point_disk(&first).change_maps().is_empty());
    let disk = store.point_disk(&third);
    assert_eq!(disk.change_maps(), ["since-2", "since-1"]);
    let all = |disk: &dyn BlockExport, map| disk.changes(map, 0, chunks(8), 99).unwrap();
    let since_second = [(chunks(5), false), (chunks(1), true), (chunks(2), false)];
    assert_eq!(all(&disk, "since-2"), since_second);
    assert_eq!(
        all(&disk, "since-1"),
        [
            (chunks(2), false),
            (chunks(1), true),
            (chunks(2), false),
            (chunks(1), true),
            (chunks(2), false)
        ]
    );
    assert!(disk.changes("since-3", 0, chunks(8), 99).is_err());

    let overlay = store.overlay_disk(&third);
    assert_eq!(overlay.change_maps(), ["written", "since-2", "since-1"]);
    overlay
        .write(
            chunks(4),
            &[Bytes::from_static(&[9; 512])],
            Durability::Unstable,
        )
        .unwrap();
    assert_eq!(
        all(&overlay, "written"),
        [(chunks(4), false), (512, true), (chunks(4) - 512, false)]
    );
    assert_eq!(
        all(&overlay, "since-2"),
        [
            (chunks(4), false),
            (512, true),
            (chunks(1) - 512, false),
            (chunks(1), true),
            (chunks(2), false)
        ]
    );
}

/// A target with these disks, and an initiator that has been told of the power on.
fn target_with(disks: Vec<Arc<dyn BlockExport>>) -> (Arc<scsi::Target>, scsi::Nexus) {
    let target = scsi::Target::new(scsi::TargetIdentity {
        name: "iqn.2026-01.test:a".to_owned(),
        ports: vec![scsi::TargetPort {
            relative_id: 1,
            name: "iqn.2026-01.test:a,t,0x0001".to_owned(),
        }],
    });
    let name = scsi::NexusName {
        initiator_port: "iqn.2026-01.test:b,i,0x000000000001".to_owned(),
        target_port: 1,
    };
    for (lun, disk) in (0..).zip(disks) {
        let options = scsi::UnitOptions::default();
        target.attach(lun, disk, options).unwrap();
    }
    let nexus = target.nexus(name, scsi::LunMask::All);
    for lun in target.luns() {
        send(&nexus, lun, &[0; 6], Vec::new());
    }
    (target, nexus)
}

fn send(nexus: &scsi::Nexus, lun: u16, cdb: &[u8], data: Vec<u8>) -> scsi::Response {
    nexus.execute(&scsi::Command {
        lun: scsi::encode_lun(lun),
        cdb: scsi::Cdb::new(cdb),
        expected_bytes: Some(u32::try_from(data.len()).unwrap()),
        data_out: vec![Bytes::from(data)],
    })
}

/// EXTENDED COPY of a GiB from the start of the unit `from` to the middle of the unit `to`.
fn clone_gib(nexus: &scsi::Nexus, from: u16, to: u16) -> scsi::Response {
    let cscd = |lun: u16| {
        let page = send(nexus, lun, &[0x12, 1, 0x83, 1, 0, 0], Vec::new());
        let page = page.data_in.to_vec();
        let mut descriptor = vec![0xe4, 0, 0, 0];
        descriptor.extend_from_slice(&page[4..24]);
        descriptor.extend_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0]);
        descriptor
    };
    let mut list = vec![1, 0, 0, 64, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0];
    list.extend(cscd(from));
    list.extend(cscd(to));
    for segment in 0..64_u64 {
        // 16 MiB each.
        list.extend_from_slice(&[2, 0, 0, 0x18, 0, 0, 0, 1, 0, 0, 0x80, 0]);
        list.extend_from_slice(&(segment * 32_768).to_be_bytes());
        list.extend_from_slice(&((2 << 20) + segment * 32_768).to_be_bytes());
    }
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&u32::try_from(list.len()).unwrap().to_be_bytes());
    send(nexus, from, &cdb, list)
}

#[test]
fn extended_copy_within_a_disk_and_between_disks_of_a_point_moves_no_bytes() {
    const GIB: u64 = 1 << 30;
    let store = Store::new();
    let content = [[5; 65536], [6; 65536]].concat();
    let point = store.back_up_sparse(2 * GIB, &content);
    let overlays = [(); 2].map(|()| store.repository.create_overlay(&point, 0).unwrap());
    let disk = |overlay| Arc::new(OverlayDisk::new(overlay, store.earlier(&point)));
    let disks = overlays
        .iter()
        .map(|overlay| disk(Arc::clone(overlay)) as _);
    let (_target, nexus) = target_with(disks.collect());
    let written = [Bytes::from(vec![9; 4096])];
    overlays[0].write(65536 - 512, &written, false).unwrap();
    for (to, written_bytes) in [(0, 0), (1, 4096)] {
        let overlay = &overlays[usize::from(to)];
        let before = overlay.statistics();
        let response = clone_gib(&nexus, 0, to);
        assert_eq!(
            (response.status, response.sense),
            (scsi::Status::Good, None)
        );
        let after = overlay.statistics();
        assert_eq!(after.written_bytes - before.written_bytes, written_bytes);
        let journal = after.journal_bytes - before.journal_bytes - written_bytes;
        assert!(journal < 16 << 10, "{journal} bytes of journal");
        let mut copied = Vec::new();
        overlay.read(GIB, 3 * 65536, &mut copied).unwrap();
        let mut original = Vec::new();
        overlays[0].read(0, 3 * 65536, &mut original).unwrap();
        assert!(copied.concat() == original.concat());
    }
}

#[test]
fn initiators_are_told_that_space_ends_and_that_there_is_none() {
    let store = Store::new();
    let point = store.back_up(&[1; 1 << 20]);
    let disk = SimulatedDisk::new();
    let overlay = Overlay::create(
        Arc::new(disk.clone()),
        &OverlayKeys::none(),
        Arc::new(SystemClock),
        Arc::new(MemoryPages::new()),
        Arc::new(store.repository.image(&point, 0).unwrap()),
        OverlaySettings::default(),
        OverlayRecord {
            id: uuid::Uuid::from_u128(1),
            point: point.name.clone(),
            disk: 0,
            size_bytes: 1 << 20,
            created: SystemClock.now(),
        },
    );
    let export: Arc<dyn BlockExport> = Arc::new(OverlayDisk::new(
        Arc::new(overlay.unwrap()),
        store.earlier(&point),
    ));
    let (target, nexus) = target_with(vec![Arc::clone(&export)]);
    let exports = Exports::new(&Peers::loopback(), iscsi::Authentication::None);
    let mut session = ServedSession::new("lab".into(), 1, "lab".into(), Peers::loopback());
    session.disks = vec![(0, export)];
    session.target = Some(ServedTarget {
        target,
        initiators: Vec::new(),
    });
    exports.show(session);
    let write = || {
        let response = send(
            &nexus,
            0,
            &[0x2a, 0, 0, 0, 0, 0, 0, 0, 64, 0],
            vec![7; 32_768],
        );
        response.sense.map(|sense| (sense.key, sense.code))
    };
    assert_eq!(write(), None);
    exports.storage_fills_up();
    assert_eq!(write(), Some((SenseKey::UnitAttention, (0x38, 0x07))));
    assert_eq!(write(), None, "it is a warning");
    disk.inject(Fault::FullAfter { bytes: 10_000 });
    let no_space = Some((SenseKey::DataProtect, (0x27, 0x07)));
    assert_eq!([write(), write()], [no_space; 2]);
    let read = send(&nexus, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], Vec::new());
    assert_eq!(read.data_in.to_vec(), [7; 512]);
    disk.clear_faults();
    assert_eq!(write(), None, "there is room again");
}
