//! Disks in and out.

use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use repo::{ImageBase, ImageSpec, PointKind, RepoError, Repository};

use crate::support::{Mode, back_up, fresh_in, noise, read, read_all, workload};

const MIB: usize = 1 << 20;

#[test]
fn what_was_backed_up_reads_back_after_reopening() {
    Mode::each(what_was_backed_up_reads_back_after_reopening_in);
}

fn what_was_backed_up_reads_back_after_reopening_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let data = noise(1, 3 * MIB + 512);
    let size = 100 * MIB as u64;
    let point = back_up(
        &repository,
        size,
        ImageBase::Nothing,
        &[(512, data.clone())],
    );
    assert_eq!(point.name.to_string(), "web@1");
    drop(repository);
    let repository = Repository::open(folder.path(), &mode.options()).unwrap();
    let image = repository
        .image(&repository.latest(&workload()).unwrap(), 0)
        .unwrap();
    assert_eq!(read(&image, 512, data.len()), data);
    assert_eq!(read(&image, 0, 512), vec![0; 512]);
    let extents = image.extents(0, size, 10).unwrap();
    assert_eq!(
        extents.iter().map(|extent| extent.data).collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(
        extents.iter().map(|extent| extent.length).sum::<u64>(),
        size
    );
}

#[test]
fn an_increment_stores_what_changed_and_shares_the_rest() {
    Mode::each(an_increment_stores_what_changed_and_shares_the_rest_in);
}

fn an_increment_stores_what_changed_and_shares_the_rest_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let mut disk = noise(2, 200 * MIB);
    let size = disk.len() as u64;
    back_up(&repository, size, ImageBase::Nothing, &[(0, disk.clone())]);
    let change = noise(3, 4096);
    disk[100 * MIB..][..4096].copy_from_slice(&change);
    let second = back_up(
        &repository,
        size,
        ImageBase::Parent,
        &[(100 * MIB as u64, change)],
    );
    let record = &second.images[0];
    assert_eq!(
        (record.changed_chunks, record.new_chunks, record.sent_bytes),
        (1, 1, 4096)
    );
    // One chunk, one leaf and the root; not the other three leaves.
    assert!(
        record.stored_bytes < 65_536 + 3 * 42_000,
        "{}",
        record.stored_bytes
    );
    let image = repository.image(&second, 0).unwrap();
    assert!(read_all(&image) == disk);
    // Sent whole again: nothing is new, and the root is the same one.
    let third = back_up(&repository, size, ImageBase::Parent, &[(0, disk)]);
    assert_eq!(
        (third.images[0].changed_chunks, third.images[0].stored_bytes),
        (0, 0)
    );
    assert_eq!(third.images[0].root_id, second.images[0].root_id);
    let first = repository
        .image(&repository.point(&"web@1".parse().unwrap()).unwrap(), 0)
        .unwrap();
    let changes = image.changes_since(&first, 0, size, 10).unwrap();
    assert_eq!(
        changes,
        [
            (100 * MIB as u64, false),
            (65_536, true),
            (100 * MIB as u64 - 65_536, false)
        ]
    );
}

#[test]
fn equal_chunks_are_stored_once_however_they_arrive() {
    Mode::each(equal_chunks_are_stored_once_however_they_arrive_in);
}

fn equal_chunks_are_stored_once_however_they_arrive_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let chunk = noise(4, 65_536);
    let disk = chunk.repeat(300);
    let point = back_up(
        &repository,
        disk.len() as u64,
        ImageBase::Nothing,
        &[(0, disk)],
    );
    assert_eq!(
        (point.images[0].new_chunks, point.images[0].changed_chunks),
        (1, 300)
    );
}

#[test]
fn disks_may_grow_and_shrink_between_points() {
    Mode::each(disks_may_grow_and_shrink_between_points_in);
}

fn disks_may_grow_and_shrink_between_points_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let data = noise(5, 70 * MIB);
    back_up(
        &repository,
        data.len() as u64,
        ImageBase::Nothing,
        &[(0, data.clone())],
    );
    let grown = 70_000 * MIB as u64;
    let tail = noise(6, 1000 * 512);
    let point = back_up(
        &repository,
        grown,
        ImageBase::Parent,
        &[(grown - tail.len() as u64, tail.clone())],
    );
    let image = repository.image(&point, 0).unwrap();
    assert!(read(&image, 0, data.len()) == data);
    assert_eq!(read(&image, grown - tail.len() as u64, tail.len()), tail);
    assert_eq!(read(&image, data.len() as u64, MIB), vec![0; MIB]);
    let shrunk = 65 * MIB + 512;
    let point = back_up(&repository, shrunk as u64, ImageBase::Parent, &[]);
    let image = repository.image(&point, 0).unwrap();
    assert!(read_all(&image) == data[..shrunk]);
    let point = back_up(&repository, 2 * shrunk as u64, ImageBase::Parent, &[]);
    let again = read_all(&repository.image(&point, 0).unwrap());
    assert!(again[..shrunk] == data[..shrunk] && again[shrunk..].iter().all(|byte| *byte == 0));
}

#[test]
fn zeroes_replace_what_was_there() {
    Mode::each(zeroes_replace_what_was_there_in);
}

fn zeroes_replace_what_was_there_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let mut disk = noise(7, 3 * MIB);
    let size = disk.len() as u64;
    back_up(&repository, size, ImageBase::Nothing, &[(0, disk.clone())]);
    let mut backup = repository
        .begin(&workload(), PointKind::Incremental)
        .unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: size,
        base: ImageBase::Parent,
    };
    let mut writer = backup.image(&spec).unwrap();
    writer.write_zeroes(512, 2 * MIB as u64).unwrap();
    backup.finish_image(writer).unwrap();
    let point = backup.commit().unwrap();
    disk[512..][..2 * MIB].fill(0);
    assert!(read_all(&repository.image(&point, 0).unwrap()) == disk);
}

#[test]
fn a_file_is_read_with_its_holes_and_restored_with_them() {
    Mode::each(a_file_is_read_with_its_holes_and_restored_with_them_in);
}

fn a_file_is_read_with_its_holes_and_restored_with_them_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, &folder.path().join("repo"));
    let source = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(folder.path().join("a"))
        .unwrap();
    let size = 300 * MIB as u64 + 1536;
    source.set_len(size).unwrap();
    let parts = [
        (0, noise(8, 5000)),
        (40 * MIB as u64 + 20_480, noise(9, 3 * MIB)),
        (size - 1536, noise(10, 1536)),
    ];
    for (offset, bytes) in &parts {
        source.write_all_at(bytes, *offset).unwrap();
    }
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: size,
        base: ImageBase::Parent,
    };
    let mut writer = backup.image(&spec).unwrap();
    let whole = 0..size;
    writer
        .copy_file(&source, std::slice::from_ref(&whole), &[], &mut go_on)
        .unwrap();
    backup.finish_image(writer).unwrap();
    let point = backup.commit().unwrap();
    assert!(point.images[0].sent_bytes < 5 * MIB as u64);
    let target = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(folder.path().join("b"))
        .unwrap();
    repository
        .image(&point, 0)
        .unwrap()
        .restore_to_file(&target)
        .unwrap();
    assert!(
        std::fs::read(folder.path().join("a")).unwrap()
            == std::fs::read(folder.path().join("b")).unwrap()
    );
    let blocks = std::os::unix::fs::MetadataExt::blocks(&target.metadata().unwrap());
    assert!(blocks * 512 < 8 * MIB as u64, "{blocks}");
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_file_that_ends_early_or_a_caller_that_gives_up_ends_the_copy() {
    Mode::each(a_file_that_ends_early_or_a_caller_that_gives_up_ends_the_copy_in);
}

fn a_file_that_ends_early_or_a_caller_that_gives_up_ends_the_copy_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, &folder.path().join("repo"));
    let path = folder.path().join("a");
    std::fs::write(&path, noise(12, 20 * MIB)).unwrap();
    let file = File::open(&path).unwrap();
    let begin = |size_bytes| {
        let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
        let spec = ImageSpec {
            name: "disk-0".to_owned(),
            size_bytes,
            base: ImageBase::Nothing,
        };
        (backup.image(&spec).unwrap(), backup)
    };
    // The missing part is asked for while the units before it are on their way.
    let size = 21 * MIB as u64;
    let (mut writer, _backup) = begin(size);
    let early = writer.copy_file(
        &file,
        &[0..20 * MIB as u64, 20 * MIB as u64..size],
        &[],
        &mut go_on,
    );
    assert!(
        matches!(early, Err(RepoError::Transfer { offset, .. }) if offset == 20 * MIB as u64),
        "{early:?}"
    );
    assert_eq!(writer.position(), 20 * MIB as u64, "all before it is sent");
    let (mut writer, _backup) = begin(20 * MIB as u64);
    let mut seen = Vec::new();
    let whole = 0..20 * MIB as u64;
    let stopped = writer.copy_file(&file, std::slice::from_ref(&whole), &[], &mut |position| {
        seen.push(position);
        match seen.len() {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(stopped, Err(RepoError::Stopped)), "{stopped:?}");
    assert_eq!(seen, [2, 4, 6].map(|number| number * MIB as u64));
}

#[test]
fn changed_extents_of_any_alignment_bring_what_changed() {
    Mode::each(changed_extents_of_any_alignment_bring_what_changed_in);
}

fn changed_extents_of_any_alignment_bring_what_changed_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, &folder.path().join("repo"));
    let path = folder.path().join("a");
    let mut disk = noise(11, 2 * MIB + 512);
    File::create(&path).unwrap().write_all(&disk).unwrap();
    let size = disk.len() as u64;
    let copy = |extents: &[std::ops::Range<u64>]| {
        let mut backup = repository
            .begin(&workload(), PointKind::Incremental)
            .unwrap();
        let spec = ImageSpec {
            name: "disk-0".to_owned(),
            size_bytes: size,
            base: ImageBase::Parent,
        };
        let mut writer = backup.image(&spec).unwrap();
        writer.copy_file(&File::open(&path).unwrap(), extents, &[], &mut go_on)?;
        backup.finish_image(writer)?;
        backup.commit()
    };
    let whole = 0..size;
    copy(std::slice::from_ref(&whole)).unwrap();
    for at in [512, 4096, 131_072, disk.len() - 512] {
        disk[at..at + 512].fill(0xee);
    }
    std::fs::write(&path, &disk).unwrap();
    let point = copy(&[512..1024, 4096..4608, 131_072..131_584, size - 512..size]).unwrap();
    assert_eq!(point.images[0].changed_chunks, 3);
    assert!(read_all(&repository.image(&point, 0).unwrap()) == disk);
    let backwards = copy(&[4096..4608, 512..1024]).unwrap_err();
    assert!(
        matches!(backwards, RepoError::BadRange { .. }),
        "{backwards}"
    );
}

#[test]
fn nothing_is_visible_of_a_backup_that_is_dropped() {
    Mode::each(nothing_is_visible_of_a_backup_that_is_dropped_in);
}

fn nothing_is_visible_of_a_backup_that_is_dropped_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: 1 << 30,
        base: ImageBase::Nothing,
    };
    let mut writer = backup.image(&spec).unwrap();
    writer.write(0, Bytes::from(noise(12, 10 * MIB))).unwrap();
    drop(writer);
    drop(backup);
    assert!(repository.points(None).is_empty());
    let empty = repository
        .begin(&workload(), PointKind::Full)
        .unwrap()
        .commit();
    assert!(matches!(empty, Err(RepoError::Refused(_))));
}

#[test]
fn a_backup_over_a_point_that_is_no_longer_the_newest_is_refused() {
    Mode::each(a_backup_over_a_point_that_is_no_longer_the_newest_is_refused_in);
}

fn a_backup_over_a_point_that_is_no_longer_the_newest_is_refused_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let size = MIB as u64;
    back_up(&repository, size, ImageBase::Nothing, &[]);
    let mut backup = repository
        .begin(&workload(), PointKind::Incremental)
        .unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: size,
        base: ImageBase::Parent,
    };
    let writer = backup.image(&spec).unwrap();
    backup.finish_image(writer).unwrap();
    back_up(&repository, size, ImageBase::Parent, &[(0, noise(1, 512))]);
    assert!(matches!(backup.commit(), Err(RepoError::Overtaken(_))));
}

#[test]
fn ranges_that_do_not_fit_are_refused() {
    Mode::each(ranges_that_do_not_fit_are_refused_in);
}

fn ranges_that_do_not_fit_are_refused_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    for size in [0, 511, (1 << 60) + 512] {
        let spec = ImageSpec {
            name: format!("disk-{size}"),
            size_bytes: size,
            base: ImageBase::Nothing,
        };
        assert!(backup.image(&spec).is_err(), "{size}");
    }
    let spec = ImageSpec {
        name: "disk".to_owned(),
        size_bytes: 1 << 20,
        base: ImageBase::Nothing,
    };
    let mut writer = backup.image(&spec).unwrap();
    writer.write(4096, Bytes::from(vec![1; 512])).unwrap();
    for (offset, length) in [
        (0, 512),
        (4096, 512),
        (8192, 100),
        (8191, 512),
        (1 << 20, 512),
        (u64::MAX - 511, 512),
    ] {
        assert!(
            writer.write(offset, Bytes::from(vec![1; length])).is_err(),
            "{offset} {length}"
        );
    }
    assert!(backup.image(&spec).is_err());
}

#[test]
fn a_second_process_is_refused_and_a_folder_is_not_made_twice() {
    Mode::each(a_second_process_is_refused_and_a_folder_is_not_made_twice_in);
}

fn a_second_process_is_refused_and_a_folder_is_not_made_twice_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    assert!(matches!(
        Repository::open(folder.path(), &mode.options()),
        Err(RepoError::InUse { .. })
    ));
    let again = Repository::create(folder.path(), &mode.create_options());
    assert!(matches!(again, Err(RepoError::AlreadyARepository { .. })));
    drop(repository);
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(
        Repository::open(other.path(), &mode.options()),
        Err(RepoError::NotARepository { .. })
    ));
    std::fs::write(other.path().join("x"), b"x").unwrap();
    let used = Repository::create(other.path(), &mode.create_options());
    assert!(matches!(used, Err(RepoError::NotEmpty { .. })));
}

#[test]
fn numbers_of_expired_points_are_not_given_again() {
    Mode::each(numbers_of_expired_points_are_not_given_again_in);
}

fn numbers_of_expired_points_are_not_given_again_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let first = back_up(&repository, 512, ImageBase::Nothing, &[]);
    let second = back_up(&repository, 512, ImageBase::Nothing, &[]);
    repository.expire(&second.name).unwrap();
    assert!(matches!(
        repository.expire(&second.name),
        Err(RepoError::NoSuchPoint(_))
    ));
    drop(repository);
    let repository = Repository::open(folder.path(), &mode.options()).unwrap();
    assert_eq!(repository.points(None).len(), 1);
    assert_eq!(repository.latest(&workload()).unwrap().name, first.name);
    assert_eq!(
        back_up(&repository, 512, ImageBase::Nothing, &[])
            .name
            .sequence,
        3
    );
}

#[test]
fn disks_are_numbered_as_the_backup_says_not_as_they_end() {
    Mode::each(disks_are_numbered_as_the_backup_says_not_as_they_end_in);
}

fn disks_are_numbered_as_the_backup_says_not_as_they_end_in(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let repository = fresh_in(mode, folder.path());
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let mut writers: Vec<_> = ["disk-0", "disk-1"]
        .map(|name| ImageSpec {
            name: name.to_owned(),
            size_bytes: 512,
            base: ImageBase::Nothing,
        })
        .iter()
        .map(|spec| backup.image(spec).unwrap())
        .collect();
    while let Some(writer) = writers.pop() {
        backup.finish_image(writer).unwrap();
    }
    backup.order_images(&["disk-0", "disk-1"]);
    let point = backup.commit().unwrap();
    let names: Vec<_> = point
        .images
        .iter()
        .map(|image| image.name.as_str())
        .collect();
    assert_eq!(names, ["disk-0", "disk-1"]);
}
