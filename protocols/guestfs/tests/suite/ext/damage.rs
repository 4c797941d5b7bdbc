//! Damaged images of ext2, ext3 and ext4.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::programs::{debugfs, mke2fs};
use crate::image::have;
use crate::mutation::check_damaged;

fn small_tree(folder: &Path) {
    fs::create_dir_all(folder.join("folder/inner")).unwrap();
    for number in 0..120 {
        let name = format!("folder/a name of some length {number}");
        fs::write(folder.join(name), "x".repeat(number * 3)).unwrap();
    }
    fs::write(folder.join("large"), vec![1; 300 << 10]).unwrap();
    std::os::unix::fs::symlink("t".repeat(80), folder.join("slow")).unwrap();
    std::os::unix::fs::symlink("short", folder.join("fast")).unwrap();
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    for step in 0..12_u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", step * 20_000).unwrap();
    }
}

/// Images that end in a journal to be replayed.
fn images(home: &Path) -> Vec<(String, Vec<u8>)> {
    let source = home.join("source");
    small_tree(&source);
    let image = home.join("image");
    let block = home.join("block");
    fs::write(&block, vec![b'j'; 2048]).unwrap();
    let kinds = [
        "-t ext4 -O ^metadata_csum,^64bit",
        "-t ext4 -O metadata_csum,64bit",
        "-t ext4 -O ^metadata_csum,inline_data -I 256",
        "-t ext3",
        "-t ext2",
        "-t ext4 -O ^metadata_csum,bigalloc,^resize_inode -C 4096",
    ];
    let mut images = Vec::new();
    for kind in kinds {
        let mut options: Vec<&str> = kind.split_whitespace().collect();
        options.extend(["-b", "1024", "-N", "512"]);
        mke2fs(&image, "4M", Some(&source), &options);
        debugfs(
            &image,
            &[
                "ea_set /large user.one value",
                "ea_set /fast trusted.two value",
            ],
        );
        if kind != "-t ext2" {
            let open = if kind.contains(" metadata_csum") {
                "jo -c -v 3"
            } else {
                "jo"
            };
            let write = format!("jw -b 2000,2001 {}", block.display());
            debugfs(&image, &[open, &write, "jw -r 2001", "jc"]);
        }
        images.push((kind.to_owned(), fs::read(&image).unwrap()));
        fs::remove_file(&image).unwrap();
    }
    images
}

#[test]
fn damaged_images_do_no_harm() {
    if !have("debugfs") {
        return;
    }
    let home = tempdir().unwrap();
    for (kind, bytes) in images(home.path()) {
        check_damaged(&kind, bytes);
    }
}
