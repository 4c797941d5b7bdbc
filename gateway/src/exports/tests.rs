//! The adapters over a real repository.

use std::sync::Arc;

use bytes::Bytes;
use export::contract::block;
use export::{BlockExport, Durability};
use repo::{
    CreateOptions, ImageBase, ImageSpec, OpenOptions, Point, PointKind, Repository, WorkloadName,
};
use tempfile::TempDir;

use super::{EarlierPoints, OverlayDisk, PointDisk};

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
        let workload = WorkloadName::parse("test").unwrap();
        let mut backup = self.repository.begin(&workload, PointKind::Full).unwrap();
        let spec = ImageSpec {
            name: "disk-0".to_owned(),
            size_bytes: content.len() as u64,
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
