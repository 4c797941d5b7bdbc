//! Bytes, sizes, attributes and times.

use bytes::Bytes;

use super::{Place, ROOT, refused};
use crate::{Attributes, Durability, ExportError, SetAttributes, TimeChange, Timestamp};

pub(super) fn check_content(place: &Place) {
    let file = place.file(b"f");
    let pieces = [&b"one"[..], b"", b"two"].map(Bytes::from_static);
    let written = place
        .tree
        .write(file, 5, &pieces, Durability::Stable)
        .unwrap();
    assert_eq!(
        written.durability,
        Durability::Stable,
        "a stable write is stable"
    );
    assert_eq!(written.attributes.size_bytes, 11);
    assert_eq!(place.content(file), b"\0\0\0\0\0onetwo");
    let far = 5 * BLOCK + 17;
    place.write(file, far, &[9; 100_000]);
    let all = place.content(file);
    assert_eq!(all.len() as u64, far + 100_000);
    let gap = &all[11..usize::try_from(far).unwrap()];
    assert!(gap.iter().all(|&byte| byte == 0), "a gap reads as zeroes");
    for offset in [all.len() as u64, far * 100, i64::MAX as u64] {
        let read = place.tree.read(file, offset, 10).unwrap();
        assert!(
            read.data.is_empty() && read.end,
            "nothing at or behind the end"
        );
    }
    let read = place.tree.read(file, 0, 0).unwrap();
    assert!(read.data.is_empty() && !read.end, "nothing was asked for");
    assert!(
        place
            .tree
            .write(file, i64::MAX as u64, &pieces, Durability::Unstable)
            .is_err()
    );
    assert_eq!(
        place.attributes(file).size_bytes,
        all.len() as u64,
        "a refused write does nothing"
    );
    if let Some(read) = place.tree.read_cached(file, 0, 11) {
        assert_eq!(read.unwrap().data.to_vec(), all[..11]);
    }
    refused(
        place.tree.read(place.folder, 0, 1),
        &ExportError::IsDirectory,
        "a folder's bytes",
    );
    let folder = place
        .tree
        .write(place.folder, 0, &pieces, Durability::Unstable);
    refused(folder, &ExportError::IsDirectory, "bytes into a folder");
    place.tree.commit(file).unwrap();
}

pub(super) fn check_held_reads(place: &Place) {
    let file = place.file_with(b"f", &[1; 200_000]);
    let held = place.tree.read(file, 0, 200_000).unwrap().data;
    place.write(file, 100, &[2; 150_000]);
    let cut = SetAttributes {
        size_bytes: Some(5),
        ..SetAttributes::default()
    };
    place.tree.set_attributes(&ROOT, file, &cut).unwrap();
    place.remove(b"f").unwrap();
    assert_eq!(
        held.to_vec(),
        [1; 200_000],
        "an answer does not change after it was given"
    );
}

pub(super) fn check_sizes(place: &Place) {
    let file = place.file_with(b"f", &[5; 100_000]);
    let resize = |size| {
        let change = SetAttributes {
            size_bytes: Some(size),
            ..SetAttributes::default()
        };
        place.tree.set_attributes(&ROOT, file, &change)
    };
    resize(70_000).unwrap();
    assert_eq!(place.content(file), [5; 70_000]);
    let attributes = resize(150_000).unwrap();
    assert_eq!(attributes.size_bytes, 150_000);
    let all = place.content(file);
    assert!(
        all[70_000..].iter().all(|&byte| byte == 0),
        "what was cut off does not come back"
    );
    assert_eq!(
        resize(5 << 40).unwrap().size_bytes,
        5 << 40,
        "five terabytes of nothing"
    );
    let read = place.tree.read(file, 4 << 40, 100).unwrap();
    assert_eq!(read.data.to_vec(), [0; 100]);
    assert!(resize(u64::MAX).is_err(), "no file is that long");
    let folder = SetAttributes {
        size_bytes: Some(0),
        ..SetAttributes::default()
    };
    let folder = place.tree.set_attributes(&ROOT, place.folder, &folder);
    refused(
        folder,
        &ExportError::IsDirectory,
        "a folder has no size to set",
    );
}

pub(super) fn check_attributes(place: &Place) {
    let file = place.file(b"f");
    let to = Timestamp {
        seconds: 1_000_000_000,
        nanoseconds: 123_456_789,
    };
    let change = SetAttributes {
        mode: Some(0o4751),
        uid: Some(3),
        gid: Some(4),
        size_bytes: None,
        accessed: Some(TimeChange::To(to)),
        modified: Some(TimeChange::To(to)),
    };
    let before = place.attributes(file);
    let after = place.tree.set_attributes(&ROOT, file, &change).unwrap();
    assert_eq!((after.mode, after.uid, after.gid), (0o4751, 3, 4));
    assert_eq!((after.accessed, after.modified), (to, to));
    assert!(
        after.changed > before.changed,
        "the change time is the tree's own"
    );
    assert_eq!(place.attributes(file), after);
    let now = SetAttributes {
        modified: Some(TimeChange::Now),
        ..SetAttributes::default()
    };
    let touched = place.tree.set_attributes(&ROOT, file, &now).unwrap();
    assert!(touched.modified > to);
    assert_eq!(
        (touched.mode, touched.accessed),
        (0o4751, to),
        "what is not given stays"
    );
}

/// Trees that know nothing of the kind say so, and do not fail.
pub(super) fn check_extended_attributes(place: &Place) {
    let file = place.file(b"file");
    for object in [file, place.subfolder(b"folder").folder, place.tree.root()] {
        let carried = place.tree.extended_attributes(object).unwrap();
        let mut names: Vec<&[u8]> = carried.iter().map(|one| one.name.as_slice()).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, next| one < next), "each name once");
        assert!(
            names
                .iter()
                .all(|name| !name.is_empty() && !name.contains(&0))
        );
        let particulars = place.tree.particulars(object).unwrap();
        assert_eq!(particulars.special, None, "it was made with content");
    }
}

pub(super) fn check_times(place: &Place) {
    let file = place.file(b"f");
    let mut last = place.attributes(file);
    for _ in 0..100 {
        let next = place.write(file, 0, b"x");
        assert!(next.modified > last.modified, "each write moves the times");
        assert!(next.changed > last.changed, "each write moves the times");
        last = next;
    }
    let folder = |what: &str, last: &mut Attributes| {
        let next = place.attributes(place.folder);
        assert!(
            next.modified > last.modified && next.changed > last.changed,
            "{what}"
        );
        *last = next;
    };
    let mut last = place.attributes(place.folder);
    place.file(b"g");
    folder("a new name moves the folder's times", &mut last);
    place.rename(b"g", place, b"h").unwrap();
    folder("a rename moves the folder's times", &mut last);
    place.remove(b"h").unwrap();
    folder("a removal moves the folder's times", &mut last);
}

const BLOCK: u64 = 65_536;
