//! The adapters over a real repository.

use std::sync::Arc;

use bytes::Bytes;
use export::BlockExport;
use export::contract::block;
use repo::{
    CreateOptions, ImageBase, ImageSpec, OpenOptions, Point, PointKind, Repository, WorkloadName,
};
use tempfile::TempDir;

use super::{OverlayDisk, PointDisk};

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
}

#[test]
fn a_disk_of_a_point_keeps_the_contract() {
    let store = Store::new();
    let mut content = vec![0; 10 * 65536 + 512];
    for (index, byte) in content.iter_mut().enumerate().skip(70_000).take(200_000) {
        *byte = u8::try_from(index % 251).unwrap();
    }
    let point = store.back_up(&content);
    let image = store.repository.image(&point, 0).unwrap();
    block::check_read_only(&PointDisk::new(image, [1; 16]), &content);
}

#[test]
fn an_overlay_keeps_the_contract() {
    let store = Store::new();
    block::check_over(|content| {
        let point = store.back_up(content);
        let overlay = store.repository.create_overlay(&point, 0).unwrap();
        Arc::new(OverlayDisk::new(overlay)) as Arc<dyn BlockExport>
    });
}
