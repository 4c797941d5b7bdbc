use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::{ImageFormat, ImageSource, Piece, SourceError};

const SIZE_BYTES: u64 = 8 << 20;
/// QEMU's names, with options for `qemu-img convert`.
const FORMATS: [(&str, &str); 5] = [
    ("qcow2", ""),
    ("vmdk", ""),
    ("vpc", "force_size=on"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vhdx", ""),
];

/// A sparse raw image with data in two places.
fn raw_image(path: &Path) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(SIZE_BYTES).unwrap()];
    content[1_000_000..1_300_000].fill(7);
    content[6_000_000..6_000_005].fill(9);
    let file = File::create(path).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    file.write_all_at(&content[1_000_000..1_300_000], 1_000_000)
        .unwrap();
    file.write_all_at(&content[6_000_000..6_000_005], 6_000_000)
        .unwrap();
    content
}

/// Everything the source gives, and how many bytes of it came as known zeroes.
fn read_all(source: &mut ImageSource) -> (Vec<u8>, u64) {
    let mut content = Vec::new();
    let mut zeroes = 0;
    source
        .read(0..source.size_bytes(), &mut |offset, piece| {
            assert_eq!(
                offset,
                content.len() as u64,
                "pieces come in order without gaps"
            );
            match piece {
                Piece::Data(data) => content.extend_from_slice(&data),
                Piece::Zero(length) => {
                    zeroes += length;
                    content.resize(content.len() + usize::try_from(length).unwrap(), 0);
                }
            }
            Ok(())
        })
        .unwrap();
    (content, zeroes)
}

fn refused(path: &Path) -> String {
    ImageSource::open(path, None).unwrap_err().to_string()
}

/// Whether qemu-utils are there; CI has them.
fn have_qemu() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    assert!(
        there || std::env::var_os("CI").is_none(),
        "CI has qemu-utils"
    );
    there
}

#[test]
fn a_raw_image_is_read_without_its_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let content = raw_image(&path);
    let mut source = ImageSource::open(&path, None).unwrap();
    assert!(source.file().is_some());
    let (seen, zeroes) = read_all(&mut source);
    assert!(seen == content);
    assert!(zeroes > SIZE_BYTES / 2, "{zeroes} bytes were holes");
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(SIZE_BYTES * 2)
        .unwrap();
    assert!(matches!(
        source.check_unchanged(),
        Err(SourceError::Changed { .. })
    ));
}

#[test]
fn every_format_of_qemu_reads_as_its_disk() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let content = raw_image(&raw);
    for (format, options) in FORMATS {
        let path = folder.path().join(format!(
            "disk-{}.{}",
            options.len(),
            if format == "vpc" { "vhd" } else { format }
        ));
        let mut convert = Command::new("qemu-img");
        convert
            .args(["convert", "-f", "raw", "-O", format])
            .arg(&raw)
            .arg(&path);
        if !options.is_empty() {
            convert.args(["-o", options]);
        }
        assert!(convert.status().unwrap().success(), "{format} {options}");
        let mut source = ImageSource::open(&path, None).unwrap();
        assert!(
            source.file().is_none(),
            "{format} {options} is not read as raw"
        );
        let (seen, _) = read_all(&mut source);
        assert!(seen == content, "{format} {options}");
    }
}

#[test]
fn what_is_no_image_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    assert!(refused(folder.path()).contains("a folder"));
    assert!(refused(&folder.path().join("nowhere")).contains("check the path"));
    assert!(refused(&file("empty", b"")).contains("is empty"));
    assert!(refused(&file("odd", &[1; 513])).contains("no multiple of 512"));
    let mut archive = vec![0; 1024];
    archive[..2].copy_from_slice(b"\x1f\x8b");
    assert!(refused(&file("archive", &archive)).contains("unpack it first"));
    assert!(refused(Path::new("/dev/null")).contains("a character device"));
}

#[test]
fn what_is_called_like_a_format_and_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = "shopping list: bread, milk, tape\n".repeat(128);
    let text = text.as_bytes()[..4096].to_vec();
    for (name, content) in [
        ("list.qcow2", &text),
        ("zeroes.vmdk", &vec![0; 1 << 20]),
        ("zeroes.VHDX", &vec![0; 4096]),
        ("cut.vhd", &vec![7; 4096]),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let reason = refused(&path);
        assert!(reason.contains("--format raw"), "{name}: {reason}");
        let mut source = ImageSource::open(&path, Some(ImageFormat::Raw)).unwrap();
        assert!(read_all(&mut source).0 == *content, "{name}");
    }
}

#[test]
fn an_image_may_not_reach_for_files_elsewhere() {
    if !have_qemu() {
        return;
    }
    let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = elsewhere.path().join("secret.raw");
    let content = raw_image(&secret);
    let make = |path: &Path, backing: &Path| {
        let mut create = Command::new("qemu-img");
        create
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(backing)
            .arg(path);
        assert!(create.status().unwrap().success());
    };
    let bad = home.path().join("bad.qcow2");
    make(&bad, &secret);
    assert!(refused(&bad).contains("not in its folder"));
    fs::copy(&secret, home.path().join("base.raw")).unwrap();
    let good = home.path().join("good.qcow2");
    make(&good, Path::new("base.raw"));
    let (seen, _) = read_all(&mut ImageSource::open(&good, None).unwrap());
    assert!(seen == content);
}

#[test]
fn a_vmdk_that_names_a_file_elsewhere_is_refused() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("images");
    fs::create_dir(&home).unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let descriptor = |extent: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
             RW 2048 FLAT \"{extent}\" 0\nddb.adapterType = \"ide\"\nddb.geometry.cylinders = \"2\"\n\
             ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n"
        )
    };
    let image = home.join("a.vmdk");
    fs::write(&image, descriptor(secret.to_str().unwrap())).unwrap();
    assert!(super::program::check_backing(&image).is_err());
    fs::write(home.join("a-flat.vmdk"), vec![7; 1 << 20]).unwrap();
    fs::write(&image, descriptor("a-flat.vmdk")).unwrap();
    super::program::check_backing(&image).unwrap();
}

#[test]
fn what_a_guest_writes_into_its_raw_disk_does_not_make_it_another_format() {
    if !have_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let mut content = raw_image(&path);
    content[..4].copy_from_slice(b"QFI\xfb");
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(b"QFI\xfb", 0)
        .unwrap();
    let (seen, _) = read_all(&mut ImageSource::open(&path, None).unwrap());
    assert!(seen == content, "a file called .raw is raw");
    let other = folder.path().join("disk");
    fs::copy(&path, &other).unwrap();
    let (seen, _) = read_all(&mut ImageSource::open(&other, Some(ImageFormat::Raw)).unwrap());
    assert!(seen == content, "a file that is said to be raw is raw");
}
