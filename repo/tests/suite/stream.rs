//! Streams in and out.

use std::io::Read as _;

use repo::PointKind;

use crate::support::{Mode, fresh_in, noise, workload};

#[test]
fn a_stream_reads_back_and_an_inserted_page_costs_little() {
    Mode::each(a_stream_reads_back_and_an_inserted_page_costs_little_in);
}

fn a_stream_reads_back_and_an_inserted_page_costs_little_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let mut bytes = noise(1, 30 << 20);
    bytes[5_000_000..9_000_000].fill(0);
    let keep = |bytes: &[u8], step: usize| {
        let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
        let mut writer = backup.stream("piece-1").unwrap();
        for part in bytes.chunks(step) {
            writer.append(part).unwrap();
        }
        backup.finish_stream(writer).unwrap();
        backup.commit().unwrap()
    };
    let first = keep(&bytes, 1_000_003);
    bytes.splice(1_000_000..1_000_000, noise(2, 8192));
    let second = keep(&bytes, 4096);
    assert_eq!(second.streams[0].size_bytes, bytes.len() as u64);
    assert!(second.streams[0].stored_bytes < first.streams[0].stored_bytes / 20);
    let mut back = Vec::new();
    repository
        .stream(&second, "piece-1")
        .unwrap()
        .read_to_end(&mut back)
        .unwrap();
    assert!(back == bytes);
    assert!(repository.stream(&second, "piece-2").is_err());
    let report = repository
        .verify(&repo::VerifyScope::All, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn an_empty_stream_is_a_stream() {
    Mode::each(an_empty_stream_is_a_stream_in);
}

fn an_empty_stream_is_a_stream_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let writer = backup.stream("empty").unwrap();
    backup.finish_stream(writer).unwrap();
    let point = backup.commit().unwrap();
    let mut back = Vec::new();
    repository
        .stream(&point, "empty")
        .unwrap()
        .read_to_end(&mut back)
        .unwrap();
    assert!(back.is_empty());
}
