//! Files that Windows' overlay filter compressed. Windows is not here; wimlib compresses as it does, and ntfs-3g writes what
//! came out to where Windows has it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use export::{ExportError, FileExport};
use tempfile::tempdir;

use super::content::mixed;
use super::forms::point;
use super::programs::{Ntfs3g, mkntfs, set};
use crate::image::{have, run, tree};
use crate::mutation::{random, random_byte};

/// What wimlib is asked for, and the filter's number of that.
const FORMATS: [(&str, &str, u32); 4] = [
    ("XPRESS", "4096", 0),
    ("LZX", "32768", 1),
    ("XPRESS", "8192", 2),
    ("XPRESS", "16384", 3),
];

/// Files of many sizes, by their names. One is a program, whose calls LZX tells by where they lead.
fn contents() -> BTreeMap<String, Vec<u8>> {
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut contents = BTreeMap::from([(
        "program".to_owned(),
        program[..program.len().min(3_000_001)].to_vec(),
    )]);
    for size in [
        30_000, 32_768, 32_769, 65_535, 100_000, 262_144, 700_001, 2_000_000,
    ] {
        contents.insert(format!("mixed-{size}"), mixed(size));
    }
    contents.insert("zeroes".to_owned(), vec![0; 500_000]);
    contents.insert("one word".to_owned(), b"again ".repeat(50_000));
    contents
}

/// The compressed form of each file of `contents` that shrank, by its length.
fn resources(home: &Path, compression: &str, chunk: &str) -> BTreeMap<u64, Vec<u8>> {
    let image = home.join("image.wim");
    let mut command = Command::new("wimlib-imagex");
    command
        .arg("capture")
        .arg(home.join("contents"))
        .arg(&image);
    command.arg(format!("--compress={compression}:100"));
    command.arg(format!("--chunk-size={chunk}")).arg("--quiet");
    run(&mut command);
    let bytes = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    // Where a resource lies: 7 bytes of length and flags, then offset and length of what it holds.
    let resource = |at: usize| {
        let (length, flags) = (number(at) & 0x00FF_FFFF_FFFF_FFFF, bytes[at + 7]);
        let start = usize::try_from(number(at + 8)).unwrap();
        let end = start + usize::try_from(length).unwrap();
        (bytes[start..end].to_vec(), flags, number(at + 16))
    };
    let (table, _, length) = resource(0x30);
    assert_eq!(table.len() as u64, length, "the table is not compressed");
    let start = usize::try_from(number(0x38)).unwrap();
    let entries = (0..table.len() / 50).map(|entry| resource(start + entry * 50));
    let compressed = entries.filter(|(_, flags, _)| flags & 4 != 0);
    compressed
        .map(|(bytes, _, length)| (length, bytes))
        .collect()
}

fn write_packed(mount: &Path, name: &str, length: u64, packed: &[u8], format: u32) {
    let path = mount.join(name);
    File::create(&path).unwrap().set_len(length).unwrap();
    let stream = mount.join(format!("{name}:WofCompressedData"));
    File::create(stream).unwrap().write_all(packed).unwrap();
    let data = [1_u32, 2, 1, format].map(u32::to_le_bytes).concat();
    set(
        &path,
        "system.ntfs_reparse_data",
        &point(0x8000_0017, &data),
    );
}

fn read_in_pieces(tree: &dyn FileExport, name: &str, piece: u32) -> Vec<u8> {
    let file = tree.lookup(tree.root(), name.as_bytes()).unwrap();
    let mut content = Vec::new();
    loop {
        let read = tree.read(file, content.len() as u64, piece).unwrap();
        content.extend(read.data.to_vec());
        if read.end {
            return content;
        }
    }
}

#[test]
fn files_that_the_overlay_filter_compressed_are_read() {
    if !have("mkntfs") || !have("wimlib-imagex") {
        return;
    }
    let home = tempdir().unwrap();
    let contents = contents();
    fs::create_dir(home.path().join("contents")).unwrap();
    for (name, content) in &contents {
        fs::write(home.path().join("contents").join(name), content).unwrap();
    }
    let image = home.path().join("image");
    mkntfs(&image, 64, &["-c", "4096"]);
    let Some(mount) = Ntfs3g::new(&image, "noatime,streams_interface=windows") else {
        return;
    };
    let mut written = Vec::new();
    for (compression, chunk, format) in FORMATS {
        let resources = resources(home.path(), compression, chunk);
        for (name, content) in &contents {
            let Some(packed) = resources.get(&(content.len() as u64)) else {
                continue;
            };
            let shown = format!("{name} {format}");
            write_packed(mount.path(), &shown, content.len() as u64, packed, format);
            written.push((shown, name, packed.len() as u64));
        }
    }
    // What makes no sense ends in errors.
    let length = contents["program"].len() as u64;
    write_packed(mount.path(), "short", length, &[0; 100], 0);
    write_packed(mount.path(), "nonsense", length, &mixed(2_000_000), 1);
    drop(mount);
    assert!(written.len() > 4 * (contents.len() - 2), "{written:?}");
    let tree = tree(&image);
    for (shown, name, packed_bytes) in written {
        let content = &contents[name];
        let file = tree.lookup(tree.root(), shown.as_bytes()).unwrap();
        let attributes = tree.attributes(file).unwrap();
        assert_eq!(attributes.size_bytes, content.len() as u64);
        assert!(attributes.used_bytes.abs_diff(packed_bytes) <= 4096);
        for piece in [1 << 20, 9_999] {
            let read = read_in_pieces(&*tree, &shown, piece);
            assert!(read == *content, "{shown} in pieces of {piece}");
        }
        let carried = tree.extended_attributes(file).unwrap();
        let names: Vec<_> = carried.iter().map(|one| &one.name[..]).collect();
        assert!(!names.iter().any(|name| name.ends_with(b"reparse_data")));
        assert!(!names.iter().any(|name| name.starts_with(b"user.")));
    }
    for name in ["short", "nonsense"] {
        let file = tree.lookup(tree.root(), name.as_bytes()).unwrap();
        let read = tree.read(file, 0, 1 << 20);
        assert!(
            matches!(read, Err(ExportError::Corrupt { .. })),
            "{name}: {read:?}"
        );
    }
}

/// Whatever stands in the stream, reading ends, without a panic and with no more bytes than the file has.
#[test]
fn hostile_chunks_do_no_harm() {
    if !have("mkntfs") || !have("wimlib-imagex") {
        return;
    }
    let home = tempdir().unwrap();
    let program = contents().remove("program").unwrap();
    let content = [&program[1_000_000..1_120_000], &mixed(80_000)].concat();
    fs::create_dir(home.path().join("contents")).unwrap();
    fs::write(home.path().join("contents/one"), &content).unwrap();
    for (compression, chunk, format) in FORMATS {
        let resources = resources(home.path(), compression, chunk);
        let packed = &resources[&(content.len() as u64)];
        let image = home.path().join("image");
        mkntfs(&image, 8, &["-c", "4096"]);
        let Some(mount) = Ntfs3g::new(&image, "noatime,streams_interface=windows") else {
            return;
        };
        write_packed(mount.path(), "one", content.len() as u64, packed, format);
        drop(mount);
        let bytes = fs::read(&image).unwrap();
        let starts = (0..bytes.len()).step_by(4096);
        let start = starts
            .into_iter()
            .find(|at| bytes[*at..].starts_with(&packed[..4096]));
        let start = start.expect("the stream lies in one piece");
        let file = File::options().write(true).open(&image).unwrap();
        let mut refused = 0;
        for seed in 1..=150_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut hurt = packed.clone();
            for _ in 0..1 + random(&mut state) % 8 {
                let at = random(&mut state) % hurt.len();
                hurt[at] = random_byte(&mut state);
            }
            file.write_all_at(&hurt, start as u64).unwrap();
            let tree = tree(&image);
            let one = tree.lookup(tree.root(), b"one").unwrap();
            for at in (0..content.len()).step_by(65_536) {
                match tree.read(one, at as u64, 65_536) {
                    Ok(read) => assert_eq!(read.data.len(), 65_536.min(content.len() - at)),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 20, "{compression} {chunk}: {refused}");
    }
}
