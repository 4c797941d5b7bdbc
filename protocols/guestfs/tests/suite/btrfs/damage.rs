//! Damaged images.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::programs::{btrfs, mkfs, remount, step, sync};
use crate::image::{Mount, have};
use crate::mutation::{check_damaged, check_damaged_and_mended};

fn small_tree(root: &Path) {
    btrfs("subvolume create", &[&root.join("folder")]);
    fs::create_dir(root.join("folder/inner")).unwrap();
    for number in 0..60 {
        let name = format!("folder/a name of some length {number}");
        fs::write(root.join(name), "x".repeat(number * 50)).unwrap();
    }
    for compression in ["zstd", "lzo", "zlib"] {
        remount(root, &format!("compress-force={compression}"));
        fs::write(root.join(compression), "text ".repeat(20_000)).unwrap();
        sync(root);
    }
    std::os::unix::fs::symlink("t".repeat(80), root.join("link")).unwrap();
    btrfs(
        "subvolume snapshot",
        &[&root.join("folder"), &root.join("snapshot")],
    );
    sync(root);
    // And a log.
    fs::write(root.join("newest"), "in the log").unwrap();
    fs::remove_file(root.join("folder/a name of some length 7")).unwrap();
    for name in ["newest", "folder", "folder/a name of some length 8"] {
        fs::File::open(root.join(name)).unwrap().sync_all().unwrap();
    }
}

/// Makes the checksum right of the node or superblock that has a byte.
fn mend(bytes: &mut [u8], at: usize) {
    let start = at / 4096 * 4096;
    let filesystem = bytes[65536 + 32..65536 + 48].to_vec();
    let block = &mut bytes[start..start + 4096];
    if block[32..48] == filesystem || block[64..72] == *b"_BHRfS_M" {
        let sum = !block[32..]
            .iter()
            .fold(!0, |state, byte| step(state, *byte));
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn damaged_images_do_no_harm() {
    if !have("mkfs.btrfs") {
        return;
    }
    let home = tempdir().unwrap();
    let kind = "-M -n 4096 -m single -d single";
    let image = home.path().join("image");
    mkfs(&image, 24 << 20, kind);
    let Some(mount) = Mount::new(&image, "btrfs", "noatime,commit=300") else {
        return;
    };
    small_tree(mount.path());
    let bytes = fs::read(&image).unwrap();
    drop(mount);
    check_damaged("btrfs", bytes.clone());
    check_damaged_and_mended("btrfs with right checksums", bytes, &mend);
}
