//! Names: making, finding, moving, removing and listing them.

use std::mem::discriminant;

use super::{Place, ROOT, refused};
use crate::{Caller, CreateMode, ExportError, FileKind, SetAttributes};

pub(super) fn check_names(place: &Place) {
    let longest = [b'n'; 255];
    assert_eq!(
        place.lookup(&longest).map_err(|error| discriminant(&error)),
        { Err(discriminant(&ExportError::NotFound)) }
    );
    let file = place.file(&longest);
    assert_eq!(
        place.lookup(&longest).unwrap(),
        file,
        "a name of 255 bytes is kept"
    );
    let odd = b"\xff\xfe \\:*?\"<>|\n";
    let file = place.file(odd);
    assert_eq!(place.lookup(odd).unwrap(), file, "a name is bytes");
    for name in [&b""[..], b"a/b", b"a\0b"] {
        refused(
            place.create(name, CreateMode::Guarded),
            &ExportError::BadName,
            "a bad name",
        );
    }
    let long = [b'n'; 256];
    refused(
        place.create(&long, CreateMode::Guarded),
        &ExportError::NameTooLong,
        "256 bytes",
    );
    for name in [&b"."[..], b".."] {
        assert!(
            place.create(name, CreateMode::Guarded).is_err(),
            "a dot name is taken"
        );
        assert!(place.remove_directory(name).is_err(), "a dot name stays");
        assert!(
            place.rename(name, place, b"x").is_err(),
            "a dot name does not move"
        );
    }
    let below = place.subfolder(b"below");
    assert_eq!(below.lookup(b".").unwrap(), below.folder);
    assert_eq!(below.lookup(b"..").unwrap(), place.folder);
    let root = place.tree.root();
    assert_eq!(
        place.tree.lookup(root, b"..").unwrap(),
        root,
        "nothing is above the root"
    );
    refused(
        place.tree.lookup(file, b"x"),
        &ExportError::NotDirectory,
        "a name in a file",
    );
}

pub(super) fn check_creation(place: &Place) {
    let caller = Caller {
        uid: 7,
        gid: 8,
        gids: vec![9],
    };
    let wanted = SetAttributes {
        mode: Some(0o640),
        ..SetAttributes::default()
    };
    let made = place
        .tree
        .create(&caller, place.folder, b"f", CreateMode::Unchecked, &wanted)
        .unwrap();
    let attributes = made.attributes;
    assert_eq!(
        (attributes.file, attributes.kind),
        (made.file, FileKind::File)
    );
    assert_eq!(
        (attributes.uid, attributes.mode, attributes.links),
        (7, 0o640, 1)
    );
    assert_eq!(attributes, place.attributes(made.file));
    place.write(made.file, 0, b"content");
    refused(
        place.create(b"f", CreateMode::Guarded),
        &ExportError::Exists,
        "guarded",
    );
    assert_eq!(
        place.create(b"f", CreateMode::Unchecked).unwrap(),
        made.file
    );
    assert_eq!(place.content(made.file), b"content", "what is there stays");
    let cut = SetAttributes {
        size_bytes: Some(3),
        mode: Some(0o777),
        ..SetAttributes::default()
    };
    let again = place
        .tree
        .create(&caller, place.folder, b"f", CreateMode::Unchecked, &cut);
    let again = again.unwrap().attributes;
    assert_eq!(
        (again.size_bytes, again.mode),
        (3, 0o640),
        "cut, but the mode is not for a new file"
    );
    let links = place.attributes(place.folder).links;
    let below = place.subfolder(b"d");
    assert_eq!(place.attributes(below.folder).links, 2);
    assert_eq!(
        place.attributes(place.folder).links,
        links + 1,
        "the folder's .. is a link"
    );
    refused(
        place.create(b"d", CreateMode::Unchecked),
        &ExportError::Exists,
        "over a folder",
    );
    let plain = SetAttributes::default();
    let twice = place
        .tree
        .create_directory(&ROOT, place.folder, b"f", &plain);
    refused(twice, &ExportError::Exists, "a folder over a file");
    let inside = place
        .tree
        .create(&ROOT, made.file, b"x", CreateMode::Guarded, &plain);
    refused(inside, &ExportError::NotDirectory, "a file in a file");
}

pub(super) fn check_exclusive_creation(place: &Place) {
    let made = place
        .create(b"f", CreateMode::Exclusive(*b"verifier"))
        .unwrap();
    place.write(made, 0, b"x");
    let again = place
        .create(b"f", CreateMode::Exclusive(*b"verifier"))
        .unwrap();
    assert_eq!(
        made, again,
        "a repeated exclusive create finds its own file"
    );
    let other = place.create(b"f", CreateMode::Exclusive(*b"Verifier"));
    refused(other, &ExportError::Exists, "another verifier");
    place.file(b"g");
    let late = place.create(b"g", CreateMode::Exclusive(*b"verifier"));
    refused(late, &ExportError::Exists, "a file of no verifier");
}

pub(super) fn check_removal(place: &Place) {
    let file = place.file_with(b"f", b"content");
    let below = place.subfolder(b"d");
    let inner = below.file(b"inner");
    refused(
        place.remove(b"none"),
        &ExportError::NotFound,
        "nothing to remove",
    );
    refused(
        place.remove(b"d"),
        &ExportError::IsDirectory,
        "a folder as a file",
    );
    refused(
        place.remove_directory(b"f"),
        &ExportError::NotDirectory,
        "a file as a folder",
    );
    refused(
        place.remove_directory(b"d"),
        &ExportError::NotEmpty,
        "a folder with entries",
    );
    place.remove(b"f").unwrap();
    refused(place.lookup(b"f"), &ExportError::NotFound, "a removed name");
    refused(
        place.tree.attributes(file),
        &ExportError::Stale,
        "a removed file",
    );
    refused(
        place.tree.read(file, 0, 1),
        &ExportError::Stale,
        "a removed file",
    );
    let again = place.file(b"f");
    assert_ne!(again, file, "a FileId is not used again");
    below.remove(b"inner").unwrap();
    place.remove_directory(b"d").unwrap();
    refused(
        place.tree.attributes(below.folder),
        &ExportError::Stale,
        "a removed folder",
    );
    let late = place.tree.create(
        &ROOT,
        below.folder,
        b"late",
        CreateMode::Guarded,
        &SetAttributes::default(),
    );
    assert!(late.is_err(), "nothing is made in a removed folder");
    refused(
        place.tree.attributes(inner),
        &ExportError::Stale,
        "a removed file",
    );
}

pub(super) fn check_rename(place: &Place) {
    let one = place.subfolder(b"one");
    let two = place.subfolder(b"two");
    let file = one.file_with(b"f", b"new");
    let old = two.file_with(b"g", b"old");
    one.rename(b"f", &two, b"g").unwrap();
    assert_eq!(
        two.lookup(b"g").unwrap(),
        file,
        "the moved file is the same file"
    );
    refused(one.lookup(b"f"), &ExportError::NotFound, "the old name");
    refused(
        place.tree.attributes(old),
        &ExportError::Stale,
        "the replaced file",
    );
    assert_eq!(place.content(file), b"new");
    two.rename(b"g", &two, b"g").unwrap();
    assert_eq!(
        two.lookup(b"g").unwrap(),
        file,
        "a rename to itself does nothing"
    );
    refused(
        one.rename(b"none", &two, b"x"),
        &ExportError::NotFound,
        "a missing name",
    );
}

pub(super) fn check_rename_of_folders(place: &Place) {
    let one = place.subfolder(b"one");
    let two = place.subfolder(b"two");
    two.file(b"g");
    refused(
        place.rename(b"one", &one, b"x"),
        &ExportError::Invalid,
        "into itself",
    );
    let deep = two.subfolder(b"deep");
    refused(
        place.rename(b"two", &deep, b"x"),
        &ExportError::Invalid,
        "below itself",
    );
    refused(
        place.rename(b"one", place, b"two"),
        &ExportError::NotEmpty,
        "over a full folder",
    );
    refused(
        place.rename(b"one", &two, b"g"),
        &ExportError::NotDirectory,
        "a folder over a file",
    );
    refused(
        two.rename(b"g", place, b"one"),
        &ExportError::IsDirectory,
        "a file over a folder",
    );
    let links = (
        place.attributes(place.folder).links,
        place.attributes(two.folder).links,
    );
    place.rename(b"one", &two, b"deep").unwrap();
    refused(
        place.tree.attributes(deep.folder),
        &ExportError::Stale,
        "the replaced folder",
    );
    assert_eq!(
        one.lookup(b"..").unwrap(),
        two.folder,
        "a moved folder knows its new parent"
    );
    let moved = (
        place.attributes(place.folder).links,
        place.attributes(two.folder).links,
    );
    assert_eq!(
        moved,
        (links.0 - 1, links.1),
        "one folder left, one came for one that went"
    );
    refused(
        place.rename(b"two", place, b"a/b"),
        &ExportError::BadName,
        "a bad name",
    );
}

pub(super) fn check_listing(place: &Place) {
    let names: Vec<Vec<u8>> = (0..100)
        .map(|number| format!("n{number}").into_bytes())
        .collect();
    for name in &names {
        place.file(name);
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    for page in 0.. {
        let entries = place.tree.list(place.folder, cookie, 7).unwrap();
        for entry in &entries {
            assert!(entry.cookie > 2, "cookies 0 to 2 belong to the server");
            assert_eq!(entry.attributes.file, entry.file);
            assert_eq!(place.lookup(&entry.name).unwrap(), entry.file);
            seen.push(entry.name.clone());
        }
        let Some(last) = entries.last().filter(|_| entries.len() == 7) else {
            break;
        };
        cookie = last.cookie;
        // Every third of the first names goes away, seen or not, and others come.
        if let Some(name) = names.get(page * 3) {
            place.remove(name).unwrap();
        }
        place.file(format!("later{page}").as_bytes());
        assert!(page < 100, "the listing ends");
    }
    for (number, name) in names.iter().enumerate() {
        let count = seen.iter().filter(|other| *other == name).count();
        let stays = place.lookup(name).is_ok();
        assert!(
            if stays { count == 1 } else { count <= 1 },
            "name {number} came {count} times"
        );
    }
    assert!(
        place
            .tree
            .list(place.folder, u64::MAX, 7)
            .unwrap()
            .is_empty(),
        "behind the last cookie"
    );
    let again = place.tree.list(place.folder, 0, 1000).unwrap();
    assert!(
        again
            .iter()
            .all(|entry| !matches!(&entry.name[..], b"." | b"..")),
        "no dots"
    );
    let file = again[0].file;
    refused(
        place.tree.list(file, 0, 1),
        &ExportError::NotDirectory,
        "a file's entries",
    );
}

pub(super) fn check_hard_links(place: &Place) {
    let file = place.file_with(b"f", b"content");
    let below = place.subfolder(b"d");
    match place.tree.link(&ROOT, file, below.folder, b"g") {
        Err(ExportError::NotSupported) => return,
        result => result.unwrap(),
    }
    assert_eq!(below.lookup(b"g").unwrap(), file);
    assert_eq!(place.attributes(file).links, 2);
    refused(
        place.tree.link(&ROOT, file, below.folder, b"g"),
        &ExportError::Exists,
        "a taken name",
    );
    refused(
        place.tree.link(&ROOT, below.folder, place.folder, b"x"),
        &ExportError::IsDirectory,
        "a second name for a folder",
    );
    place.rename(b"f", &below, b"g").unwrap();
    assert_eq!(
        place.lookup(b"f").unwrap(),
        file,
        "renaming to its other name does nothing"
    );
    place.remove(b"f").unwrap();
    assert_eq!(place.attributes(file).links, 1);
    assert_eq!(place.content(file), b"content");
    below.remove(b"g").unwrap();
    refused(
        place.tree.attributes(file),
        &ExportError::Stale,
        "the last name went",
    );
}

pub(super) fn check_symlinks(place: &Place) {
    let plain = SetAttributes::default();
    let target = b"../else/where";
    let made = match place
        .tree
        .create_symlink(&ROOT, place.folder, b"l", target, &plain)
    {
        Err(ExportError::NotSupported) => return,
        result => result.unwrap(),
    };
    assert_eq!(made.attributes.kind, FileKind::Symlink);
    assert_eq!(made.attributes.size_bytes, target.len() as u64);
    assert_eq!(place.tree.read_symlink(made.file).unwrap(), target);
    let again = place
        .tree
        .create_symlink(&ROOT, place.folder, b"l", target, &plain);
    refused(again, &ExportError::Exists, "a taken name");
    let file = place.file(b"f");
    refused(
        place.tree.read_symlink(file),
        &ExportError::Invalid,
        "a file is no link",
    );
    assert!(
        place.tree.read(made.file, 0, 1).is_err(),
        "a link has no bytes to read"
    );
    place.remove(b"l").unwrap();
}
