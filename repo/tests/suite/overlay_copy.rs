//! Overlays with copies, from the repository's side: what a seal makes of them.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use bytes::Bytes;
use repo::{ImageBase, PointKind};

use crate::support::{Mode, back_up, fresh_in, noise, read_all, workload};

const CHUNK: u64 = 65_536;

#[test]
fn a_seal_takes_copies_of_whole_chunks_without_storing_them_again() {
    Mode::each(|mode| {
        let folder = tempfile::tempdir().unwrap();
        let repository = fresh_in(mode, folder.path());
        let size = 40 * CHUNK + 512;
        let mut disk = noise(1, 16 * 65_536);
        disk.resize(size as usize, 0);
        let point = back_up(
            &repository,
            size,
            ImageBase::Nothing,
            &[(0, disk[..16 * 65_536].to_vec())],
        );
        let overlay = repository.create_overlay(&point, 0).unwrap();
        let mut copy = |from: u64, to: u64, length: u64| {
            assert!(overlay.copy(to, from, length, false).unwrap());
            disk.copy_within(from as usize..(from + length) as usize, to as usize);
        };
        // Whole chunks, holes among them; those of a copy; and the odd end of the disk.
        copy(0, 20 * CHUNK, 8 * CHUNK);
        copy(14 * CHUNK, 4 * CHUNK, 4 * CHUNK);
        copy(20 * CHUNK, 36 * CHUNK, 2 * CHUNK);
        copy(3 * CHUNK, 40 * CHUNK, 512);
        // One that lies across two chunks of the point.
        copy(512, 30 * CHUNK, CHUNK);
        let written = noise(2, 65_536);
        overlay
            .write(10 * CHUNK, &[Bytes::from(written.clone())], false)
            .unwrap();
        assert!(overlay.copy(32 * CHUNK, 10 * CHUNK, CHUNK, true).unwrap());
        disk[10 * 65_536..][..65_536].copy_from_slice(&written);
        disk[32 * 65_536..][..65_536].copy_from_slice(&written);
        let id = overlay.id();
        let statistics = overlay.statistics();
        assert_eq!(statistics.written_bytes, CHUNK);
        assert!(statistics.journal_bytes < CHUNK + 8192, "{statistics:?}");
        drop(overlay);
        let overlay = repository.open_overlay(id).unwrap();
        let mut backup = repository.begin(&workload(), PointKind::Sealed).unwrap();
        backup.seal_overlay(&overlay, "disk-0").unwrap();
        let sealed = backup.commit().unwrap();
        let image = repository.image(&sealed, 0).unwrap();
        assert!(read_all(&image) == disk, "{mode:?}");
        // What was written, once; the chunk across two others; and the end of the disk.
        let totals = &sealed.images[0];
        assert_eq!(totals.new_chunks, 3, "{mode:?}");
        assert_eq!(
            totals.sent_bytes,
            3 * CHUNK + 512,
            "the others are not read"
        );
    });
}
