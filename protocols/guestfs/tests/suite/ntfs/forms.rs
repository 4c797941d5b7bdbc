//! What Windows makes and ntfs-3g does not: written through ntfs-3g's way to the bare bytes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use export::{ExportError, FileKind, SpecialFile};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::tempdir;

use super::programs::{Ntfs3g, mkntfs, set, try_set};
use crate::image::{have, tree};

/// A reparse point of a kind.
pub(super) fn point(tag: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&tag.to_le_bytes()[..], &length.to_le_bytes(), &[0, 0], data].concat()
}

/// Paths of a link: the one that it goes and the one that it shows.
fn paths(goes: &str, shows: &str, flags: Option<u32>) -> Vec<u8> {
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let (goes, shows) = (wide(goes), wide(shows));
    let mut data = Vec::new();
    for number in [0, goes.len(), goes.len(), shows.len()] {
        data.extend(u16::try_from(number).unwrap().to_le_bytes());
    }
    data.extend(flags.map(u32::to_le_bytes).into_iter().flatten());
    [data, goes, shows].concat()
}

fn linux_attributes(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, value) in pairs {
        let mut entry = vec![0, u8::try_from(name.len()).unwrap()];
        entry.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        entry.extend(name.as_bytes());
        entry.push(0);
        entry.extend(*value);
        while entry.len() % 4 != 0 {
            entry.push(0);
        }
        // ntfs-3g says of the last one too where it ends.
        let next = entry.len() + 4;
        list.extend(u32::try_from(next).unwrap().to_le_bytes());
        list.extend(entry);
    }
    list
}

fn make_links(root: &Path) {
    let file = |name: &str, tag: u32, data: &[u8]| {
        fs::write(root.join(name), "").unwrap();
        let point = point(tag, data);
        let made = try_set(&root.join(name), "system.ntfs_reparse_data", &point);
        assert!(made.is_ok(), "{name}: {made:?}");
    };
    file(
        "relative",
        0xA000_000C,
        &paths(r"..\over\there", r"..\over\there", Some(1)),
    );
    file(
        "absolute",
        0xA000_000C,
        &paths(r"\??\C:\Users\ä", r"C:\Users\ä", Some(0)),
    );
    file("linux link", 0xA000_001D, b"\x02\0\0\0/usr/b\xC3\xA4r");
    file("nfs link", 0x8000_0014, b"LNK\x01\0\0\0\0a\0/\0b\0");
    file(
        "nfs device",
        0x8000_0014,
        b"BLK\0\0\0\0\0\x08\0\0\0\x11\0\0\0",
    );
    file("deduplicated", 0x8000_0013, &[0; 40]);
    file(
        "in an image",
        0x8000_0017,
        &[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    );
    file("unknown", 0x8000_7777, b"something");
    file("application", 0x8000_001B, b"something");
    file("cloud", 0x9000_601A, b"something");
    fs::create_dir(root.join("junction")).unwrap();
    let data = paths(r"\??\C:\ProgramData", r"C:\ProgramData", None);
    let point = point(0xA000_0003, &data);
    let made = try_set(&root.join("junction"), "system.ntfs_reparse_data", &point);
    assert!(made.is_ok(), "junction: {made:?}");
}

/// What ntfs-3g makes itself in the way of Windows' subsystem for Linux.
fn make_special(root: &Path) {
    let numbered = rustix::fs::makedev(8, 17);
    for (name, kind, device) in [
        ("linux pipe", FileType::Fifo, 0),
        ("linux socket", FileType::Socket, 0),
        ("linux device", FileType::BlockDevice, numbered),
    ] {
        mknodat(CWD, root.join(name), kind, Mode::from(0o644), device).unwrap();
    }
    symlink("made/by ntfs-3g", root.join("other link")).unwrap();
    fs::write(root.join("linux modes"), "content").unwrap();
    let list = linux_attributes(&[
        ("$LXUID", &1000_u32.to_le_bytes()),
        ("$LXGID", &1001_u32.to_le_bytes()),
        ("$LXMOD", &0o100_751_u32.to_le_bytes()),
    ]);
    let made = try_set(&root.join("linux modes"), "system.ntfs_ea", &list);
    assert!(made.is_ok(), "modes: {made:?}");
}

#[test]
fn links_devices_and_stubs_of_windows_are_what_they_are() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkntfs(&image, 8, &["-c", "4096"]);
    let Some(mount) = Ntfs3g::new(&image, "noatime,special_files=wsl") else {
        return;
    };
    make_links(mount.path());
    make_special(mount.path());
    drop(mount);
    let tree = tree(&image);
    let find = |name: &str| tree.lookup(tree.root(), name.as_bytes()).unwrap();
    for (name, target) in [
        ("relative", "../over/there"),
        ("absolute", r"C:\Users\ä"),
        ("junction", r"C:\ProgramData"),
        ("linux link", "/usr/bär"),
        ("nfs link", "a/b"),
        ("other link", "made/by ntfs-3g"),
    ] {
        let link = find(name);
        assert_eq!(
            tree.attributes(link).unwrap().kind,
            FileKind::Symlink,
            "{name}"
        );
        let found = tree.read_symlink(link).unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), target);
        assert_eq!(
            tree.attributes(link).unwrap().size_bytes,
            target.len() as u64
        );
    }
    let special = |name: &str| tree.particulars(find(name)).unwrap().special;
    assert_eq!(special("linux pipe"), Some(SpecialFile::Fifo));
    assert_eq!(special("linux socket"), Some(SpecialFile::Socket));
    let device = SpecialFile::BlockDevice {
        major: 8,
        minor: 17,
    };
    assert_eq!(special("nfs device"), Some(device));
    assert_eq!(special("linux device"), Some(device));
    assert_eq!(tree.attributes(find("linux device")).unwrap().mode, 0o644);
    for name in ["deduplicated", "in an image", "unknown"] {
        let read = tree.read(find(name), 0, 10);
        assert!(
            matches!(read, Err(ExportError::NotSupported)),
            "{name}: {read:?}"
        );
    }
    for name in ["application", "cloud"] {
        assert!(tree.read(find(name), 0, 10).unwrap().end, "{name}");
    }
    let attributes = tree.attributes(find("linux modes")).unwrap();
    assert_eq!(
        (attributes.uid, attributes.gid, attributes.mode),
        (1000, 1001, 0o751)
    );
}

#[test]
fn names_are_found_as_windows_finds_them() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkntfs(&image, 8, &["-c", "4096"]);
    let Some(mount) = Ntfs3g::new(&image, "noatime") else {
        return;
    };
    let root = mount.path();
    fs::write(root.join("A long name of Windows.text"), "long").unwrap();
    set(
        &root.join("A long name of Windows.text"),
        "system.ntfs_dos_name",
        b"ALONGN~1.TEX",
    );
    fs::write(root.join("Größe"), "one").unwrap();
    fs::write(root.join("GRÖßE"), "other").unwrap();
    fs::write(root.join("streams"), "plain").unwrap();
    set(&root.join("streams"), "user.one", b"content of a stream");
    drop(mount);
    let tree = tree(&image);
    let root = tree.root();
    let find = |name: &str| tree.lookup(root, name.as_bytes());
    let names: Vec<_> = tree.list(root, 0, 100).unwrap();
    let shown = |name: &str| names.iter().any(|entry| entry.name == name.as_bytes());
    assert!(shown("A long name of Windows.text") && !shown("ALONGN~1.TEX"));
    let long = find("A long name of Windows.text").unwrap();
    assert_eq!(find("alongn~1.tex").unwrap(), long);
    assert_eq!(tree.attributes(long).unwrap().links, 1);
    let read = |name: &str| tree.read(find(name).unwrap(), 0, 99).unwrap().data.to_vec();
    assert_eq!(read("Größe"), b"one");
    assert_eq!(read("GRÖßE"), b"other");
    assert!(
        ["one", "other"]
            .map(str::as_bytes)
            .contains(&&*read("größe"))
    );
    assert!(find("Größ").is_err() && find("Größen").is_err());
    assert_eq!(read("streams:one"), b"content of a stream");
    assert!(find("streams:two").is_err() && find("nothing:one").is_err());
    let stream = find("streams:one").unwrap();
    assert_eq!(tree.attributes(stream).unwrap().file, stream);
    assert_eq!(tree.attributes(stream).unwrap().size_bytes, 19);
}
