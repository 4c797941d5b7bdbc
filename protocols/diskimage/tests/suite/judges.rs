//! QEMU's programs read the faces.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use diskimage::{FaceError, Format};
use export::{BlockExport, BlockState};

use super::{disk, pattern, places};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Sizes around the units of the formats, and as large as they come.
const SIZES: [u64; 8] = [
    MIB,
    MIB + 512,
    37 * MIB + 1536,
    4 * GIB,
    130 * GIB,
    2040 * GIB,
    2047 * GIB,
    8192 * GIB,
];

#[test]
fn qemu_takes_every_face_for_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for size in SIZES {
        for format in Format::ALL {
            let name = format!("disk.{format}");
            let face = match format.show(disk(size), &name) {
                Ok(face) => face,
                Err(FaceError::TooLarge { limit_bytes, .. }) => {
                    assert!(size > limit_bytes && matches!(format, Format::Vhd | Format::Vmdk));
                    continue;
                }
                Err(error) => panic!("{format} of {size}: {error}"),
            };
            let file = folder.path().join(&name);
            store(&face, &file);
            judge(format, size, &file);
            std::fs::remove_file(&file).unwrap();
        }
    }
}

#[test]
fn a_descriptor_leads_to_a_flat_file_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let size = 130 * GIB;
    let flat = folder.path().join("web-flat.vmdk");
    let disk = disk(size);
    store(&*disk, &flat);
    let text = diskimage::flat_descriptor("web-flat.vmdk", size, &[255; 16]);
    let file = folder.path().join("web.vmdk");
    std::fs::write(&file, text).unwrap();
    judge(Format::Vmdk, size, &file);
}

/// Writes down what an export says that it has, and leaves holes where it has nothing.
fn store(export: &dyn BlockExport, path: &Path) {
    let file = File::create(path).unwrap();
    let size = export.properties().size_bytes;
    file.set_len(size).unwrap();
    let mut offset = 0;
    while offset < size {
        for extent in export.extents(offset, size - offset, 100).unwrap() {
            let end = offset + extent.length;
            while offset < end {
                let step = (end - offset).min(8 * MIB);
                if extent.state == BlockState::Data {
                    let bytes = export.read(offset, u32::try_from(step).unwrap()).unwrap();
                    file.write_all_at(&bytes.to_vec(), offset).unwrap();
                }
                offset += step;
            }
        }
    }
}

fn judge(format: Format, size: u64, file: &Path) {
    let driver = match format {
        Format::Vhd => "vpc",
        other => other.name(),
    };
    let file = file.to_str().unwrap();
    // What a file is shows at its start, but for raw and fixed VHD, which have to be named.
    let mut arguments = vec!["info", "--output=json", file];
    if matches!(format, Format::Raw | Format::Vhd) {
        arguments.extend(["-f", driver]);
    }
    let info = run("qemu-img", &arguments);
    let expected = format!("\"virtual-size\": {size}");
    assert!(info.contains(&expected), "{format} of {size}: {info}");
    let expected = format!("\"format\": \"{driver}\"");
    assert!(info.contains(&expected), "{format} of {size}: {info}");
    if matches!(format, Format::Qcow2 | Format::Vhdx | Format::Vmdk) {
        let check = run("qemu-img", &["check", "-f", driver, file]);
        assert!(check.contains("No errors"), "{format} of {size}: {check}");
    }
    let reads = places(size)
        .into_iter()
        .map(|place| format!("read -P {} {place} 512", pattern(place)))
        .chain([
            "read -P 0 1024 512".to_owned(),
            format!("read -P 0 {} 512", size / 2 + 4096),
        ]);
    let mut arguments = vec!["-r".to_owned(), "-f".to_owned(), driver.to_owned()];
    for read in reads {
        arguments.extend(["-c".to_owned(), read]);
    }
    arguments.push(file.to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let read = run("qemu-io", &arguments);
    assert!(
        !read.contains("Pattern verification failed"),
        "{format} of {size}: {read}"
    );
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{said}"
    );
    text
}
